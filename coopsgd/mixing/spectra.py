"""What a mixing matrix does to disagreement: eigenvalues, zeta, and whether a period of mixings brings consensus.

Here n = m + v rows; J = ones / n. Rows act: row i of W holds what member i takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np

TOLERANCE = 1e-9  # on row sums of what we build, and on "below 1"
EXACT = 1e-9  # who leaves less of the disagreement than this averages exactly: the rest is rounding


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
        found = float(np.abs(np.linalg.eigvalsh(rest)).max()) if is_symmetric(W) else float(np.linalg.norm(rest, 2))
    else:
        found = float(np.sort(np.abs(np.linalg.eigvals(W)))[-2])
    return found if found >= EXACT else 0.0


def log_zeta(Ws: Iterable[np.ndarray]) -> float:
    """log of the zeta of a cycle's product, last @ ... @ first; -inf where it averages exactly.

    What is left is scaled after each matrix, which tells a cycle that averages, where one communication leaves nothing but
    rounding, from many that each leave a share: both products may be as near to J as rounding is. The logarithm has room for
    both.
    """
    Ws = list(Ws)
    n = len(Ws[0])
    if len(Ws) == 1 or n == 1 or not all(is_doubly_stochastic(W, 1e-6) for W in {id(W): W for W in Ws}.values()):
        found = zeta(product(Ws, n))
        return math.log(found) if found else -math.inf
    left, log = np.eye(n) - 1 / n, 0.0
    for W in Ws:
        before, left = float(np.linalg.norm(left)), W @ left
        left -= left.mean(0)  # of what all rows share only rounding is there, which would not shrink with the rest
        size = float(np.linalg.norm(left))
        if size < EXACT * before:
            return -math.inf
        left, log = left / size, log + math.log(size)
    return log + math.log(float(np.linalg.norm(left, 2)))


def reaches_consensus(period: np.ndarray) -> bool:
    """Does repeating this product of one period's mixings make all rows equal?

    When all eigenvalues but the one lie inside the unit circle; zeta, a norm where W is not symmetric, may be 1 all the same.
    """
    return len(period) == 1 or bool(np.abs(eigenvalues(period)[1]) < 1 - TOLERANCE)
