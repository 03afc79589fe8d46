"""What a mixing matrix does to disagreement: eigenvalues, zeta, and whether a period of mixings brings consensus.

Here n = m + v rows; J = ones / n. Rows act: row i of W holds what member i takes. A matrix is taken as it is: up to WHOLE rows
from all of it, beyond that from its modes where they are known in closed form, from the means of classes of interchangeable
rows where those are few, and else by scipy's sparse eigensolver.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache, reduce
from typing import Any, NamedTuple

import numpy as np

from coopsgd.mixing import lanczos
from coopsgd.mixing.matrix import WHOLE, Matrix, Modes, refined
from coopsgd.mixing.recognise import recognise
from coopsgd.mixing.structured import Product

TOLERANCE = 1e-9  # on row sums of what we build
BELOW = 1e-12  # what is nearer to 1 than this may be 1: rounding hides the difference
EXACT = 1e-9  # who leaves less of the disagreement than this averages exactly: the rest is rounding
KEPT = 4  # zetas of large matrices, which take seconds; when full, the oldest is evicted


class Reduced(NamedTuple):
    """Matrices seen on classes of interchangeable rows, in an orthonormal basis: exact, and as small as there are classes.

    each: (c, c) arrays. sizes: (c,) rows in each class. within: (T, c) what each matrix leaves of differences within a class.
    labels: (n,) the class of each row.
    """

    each: list[np.ndarray]
    sizes: np.ndarray
    within: np.ndarray
    labels: np.ndarray

    @property
    def constant(self) -> np.ndarray:
        """(c,) the constant vector, of length 1."""
        return np.asarray(np.sqrt(self.sizes / self.sizes.sum()))


def reduced(Ws: Sequence[Any], apart: np.ndarray | None = None) -> Reduced | None:
    """Of matrices that have few classes in common, or few rows; None of others. apart: (n,) what classes may not mix."""
    Ws = [recognise(W) for W in Ws]
    n = len(Ws[0])
    if n <= WHOLE and apart is None:
        ones = np.ones(n)
        return Reduced([W.dense() for W in Ws], ones, np.zeros((len(Ws), n)), np.arange(n))
    known = {id(W.labels): W.labels for W in Ws}
    if any(labels is None for labels in known.values()):
        return None
    labels = refined([*(labels for labels in known.values() if labels is not None), *([] if apart is None else [apart])])
    if labels.max() >= WHOLE:
        return None
    found = {id(W): W.quotient(labels) for W in Ws}
    Qs, within = zip(*(found[id(W)] for W in Ws), strict=True)
    return Reduced(list(Qs), np.bincount(labels), np.stack(within), labels)


def common_modes(Ws: Sequence[Any]) -> np.ndarray | None:
    """(T, n) eigenvalues of matrices that commute, mode by mode, that of the constant vector first; None where not known."""
    found: list[Modes] = []
    for W in Ws:
        if not isinstance(W, Matrix) or W.modes is None:
            return None
        found.append(W.modes)
    if len({modes.basis for modes in found} - {None}) > 1:
        return None
    return np.stack([modes.values for modes in found])


def product(factors: Sequence[Any], n: int) -> np.ndarray:
    """The matrix that applying the factors in order amounts to: last @ ... @ first; (n, n)."""
    return reduce(lambda done, W: np.asarray(W) @ done, factors, np.eye(n))


def is_row_stochastic(W: Any, tolerance: float = TOLERANCE) -> bool:
    """Do all rows sum to one? Entries may be negative: affine, not convex, combinations are allowed."""
    return recognise(W).is_row_stochastic(tolerance)


def is_doubly_stochastic(W: Any, tolerance: float = TOLERANCE) -> bool:
    """Do all rows and all columns sum to one? Then mixing keeps the mean over all rows."""
    return recognise(W).is_doubly_stochastic(tolerance)


def is_symmetric(W: Any, tolerance: float = TOLERANCE) -> bool:
    """W = W'?"""
    return recognise(W).is_symmetric(tolerance)


def eigenvalues(W: Any) -> np.ndarray:
    """(n,) eigenvalues by falling modulus; real for a symmetric W, else complex. (0,) where they would take too long."""
    W = recognise(W)
    if len(W) > WHOLE:
        few = reduced([W])
        if W.modes is not None:
            values = W.modes.values
        elif few is not None:
            values = np.append(np.linalg.eigvals(few.each[0]), np.repeat(few.within[0], few.sizes - 1))
            values = values.real if W.is_symmetric(TOLERANCE) else values
        else:
            return np.zeros(0)
    else:
        values = np.linalg.eigvalsh(W.dense()) if W.is_symmetric(TOLERANCE) else np.linalg.eigvals(W.dense())
    # of two with one modulus the larger comes first, so that 1 leads -1
    return values[np.lexsort((-values.real, -np.round(np.abs(values), 12)))]


def zeta(W: Any) -> float:
    """How much of the disagreement one W leaves, at worst: 0 is exact averaging, 1 is no consensus.

    Doubly stochastic W: ||W - J||_2, which for symmetric W is the second largest |eigenvalue| (arXiv:1808.07576).
    Otherwise the limit is 1 pi' instead of J and the spectral radius of W - 1 pi' is the rate. One row gives 0.
    """
    W = recognise(W)
    if len(W) == 1:
        return 0.0
    modes = common_modes([W]) if len(W) > WHOLE else None
    few = reduced([W]) if modes is None else None
    if modes is not None:
        found = float(np.abs(modes[0, 1:]).max())
    elif few is not None:
        found = max(_zeta(few.each[0], few.constant, W), float(np.abs(few.within[0][few.sizes > 1]).max(initial=0)))
    else:
        found = _sparse_zeta((W,))
    return found if found >= EXACT else 0.0


def _zeta(Q: np.ndarray, constant: np.ndarray, W: Matrix) -> float:
    """zeta of W on its classes."""
    if len(Q) == 1:
        return 0.0
    if W.is_doubly_stochastic(1e-6):
        n = len(Q)
        rest = Q - (np.full((n, n), 1 / n) if np.ptp(constant) == 0 else np.outer(constant, constant))
        return float(np.abs(np.linalg.eigvalsh(rest)).max()) if W.is_symmetric(TOLERANCE) else float(np.linalg.norm(rest, 2))
    return float(np.sort(np.abs(np.linalg.eigvals(Q)))[-2])


@lru_cache(maxsize=KEPT)
def _sparse_zeta(Ws: tuple[Matrix, ...]) -> float:
    """zeta of a product, last @ ... @ first, of large matrices, by its products with vectors."""
    W = Ws[0] if len(Ws) == 1 else Product(Ws[0].n, Ws)
    if not W.is_doubly_stochastic(1e-6):
        from scipy.sparse.linalg import LinearOperator, eigs

        operator = LinearOperator((W.n, W.n), matvec=lambda x: W @ x, dtype=float)
        return float(np.sort(np.abs(eigs(operator, k=2, which="LM", return_eigenvectors=False, v0=lanczos.start(W.n))))[0])
    if not isinstance(W, Product) and W.is_symmetric(TOLERANCE):
        return max(map(abs, lanczos.ends(W)))
    back = W.T
    return math.sqrt(max(0.0, max(lanczos.ends(W, lambda x: back @ (W @ x)))))


def log_zeta(Ws: Iterable[Any]) -> float:
    """log of the zeta of a cycle's product, last @ ... @ first; -inf where it averages exactly.

    What is left is scaled after each matrix, which tells a cycle that averages, where one communication leaves nothing but
    rounding, from many that each leave a share: both products may be as near to J as rounding is. The logarithm has room for
    both.
    """
    Ws = [recognise(W) for W in Ws]
    n = len(Ws[0])
    if n == 1:
        return -math.inf
    if len(Ws) == 1 and len(Ws[0].factors) == 1:
        found = zeta(Ws[0])
        return math.log(found) if found else -math.inf
    modes = common_modes(Ws) if n > WHOLE else None
    if modes is not None:
        sizes = np.abs(modes[:, 1:])
        with np.errstate(divide="ignore"):
            return float(np.log(np.where(sizes < EXACT, 0, sizes)).sum(0).max())
    few = reduced(Ws)
    if few is None:
        found = _sparse_zeta(tuple(Ws))
        return math.log(found) if found > 10 * EXACT else -math.inf
    with np.errstate(divide="ignore"):
        own = np.log(np.abs(few.within[:, few.sizes > 1]))
    inside = float(np.where(own < math.log(EXACT), -np.inf, own).sum(0).max(initial=-np.inf)) if own.size else -math.inf
    return max(inside, _log_zeta(few, Ws))


def _log_zeta(few: Reduced, Ws: list[Matrix]) -> float:
    n = len(few.sizes)
    if len(Ws) == 1 or not all(W.is_doubly_stochastic(1e-6) for W in {id(W): W for W in Ws}.values()):
        whole = product(few.each, n)
        found = zeta(whole) if (few.sizes == 1).all() else _zeta(whole, few.constant, Product(Ws[0].n, tuple(Ws)))
        return math.log(found) if found else -math.inf
    J = np.outer(few.constant, few.constant) if np.ptp(few.constant) else np.full((n, n), 1 / n)
    left, log = np.eye(n) - J, 0.0
    for Q in few.each:
        before, left = float(np.linalg.norm(left)), Q @ left
        left -= left.mean(0) if (few.sizes == 1).all() else J @ left
        # of what all rows share only rounding is there, which would not shrink with the rest
        size = float(np.linalg.norm(left))
        if size < EXACT * before:
            return -math.inf
        left, log = left / size, log + math.log(size)
    return log + math.log(float(np.linalg.norm(left, 2)))


def reaches_consensus(Ws: Any) -> bool:
    """Does repeating these mixings, one period, make all rows equal?

    When all eigenvalues but the one lie inside the unit circle; zeta, a norm where W is not symmetric, may be 1 all the same.
    """
    Ws = [recognise(W) for W in (Ws if isinstance(Ws, list | tuple) else [Ws])]
    n = len(Ws[0])
    if n == 1:
        return True
    modes = common_modes(Ws) if n > WHOLE else None
    few = reduced(Ws) if modes is None else None
    if modes is not None:
        left = np.abs(modes[:, 1:].prod(0)).max()
    elif few is not None:
        values = np.linalg.eigvals(product(few.each, len(few.sizes))) if len(few.sizes) > 1 else np.ones(1)
        inside = np.abs(few.within[:, few.sizes > 1].prod(0)).max(initial=0)
        left = max(np.sort(np.abs(values))[-2] if len(values) > 1 else 0.0, inside)
    else:
        left = math.exp(log_zeta(Ws))
    return below_one(left)


def below_one(zeta: float) -> bool:
    """Does that leave less than all of a disagreement, for sure?"""
    return bool(zeta < 1 - BELOW)
