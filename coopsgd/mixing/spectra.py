"""What a mixing matrix does to disagreement: eigenvalues, zeta, and whether a period of mixings brings consensus.

Here n = m + v rows; J = ones / n. Rows act: row i of W holds what member i takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

TOLERANCE = 1e-9  # on row sums of what we build, and on "below 1"


def product(factors: Sequence[np.ndarray], n: int) -> np.ndarray:
    """The matrix that applying the factors in order amounts to: last @ ... @ first; (n, n)."""
    return reduce(lambda done, W: W @ done, factors, np.eye(n))


def is_row_stochastic(W: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    """Do all rows sum to one? Entries may be negative: affine, not convex, combinations are allowed."""
    return bool(np.abs(W.sum(1) - 1).max() <= tolerance)


def is_doubly_stochastic(W: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    """Do all rows and all columns sum to one? Then mixing keeps the mean over all rows."""
    return is_row_stochastic(W, tolerance) and bool(np.abs(W.sum(0) - 1).max() <= tolerance)


def is_symmetric(W: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    """W = W'?"""
    return bool(np.abs(W - W.T).max() <= tolerance)


def eigenvalues(W: np.ndarray) -> np.ndarray:
    """(n,) eigenvalues by falling modulus; real for a symmetric W, else complex."""
    values = np.linalg.eigvalsh(W) if is_symmetric(W) else np.linalg.eigvals(W)
    # of two with one modulus the larger comes first, so that 1 leads -1
    return values[np.lexsort((-values.real, -np.round(np.abs(values), 12)))]


def zeta(W: np.ndarray) -> float:
    """How much of the disagreement one W leaves, at worst: 0 is exact averaging, 1 is no consensus.

    Doubly stochastic W: ||W - J||_2, which for symmetric W is the second largest |eigenvalue| (arXiv:1808.07576).
    Otherwise the limit is 1 pi' instead of J and the spectral radius of W - 1 pi' is the rate. One row gives 0.
    """
    n = len(W)
    if n == 1:
        return 0.0
    if is_doubly_stochastic(W, 1e-6):
        rest = W - np.full((n, n), 1 / n)
        if is_symmetric(W):
            return float(np.abs(np.linalg.eigvalsh(rest)).max())
        return float(np.linalg.norm(rest, 2))
    moduli = np.sort(np.abs(np.linalg.eigvals(W)))[::-1]
    return float(moduli[1])


def reaches_consensus(period: np.ndarray) -> bool:
    """Does repeating this product of one period's mixings make all rows equal?

    When all eigenvalues but the one lie inside the unit circle; zeta, a norm where W is not symmetric, may be 1 all the same.
    """
    return len(period) == 1 or bool(np.abs(eigenvalues(period)[1]) < 1 - TOLERANCE)
