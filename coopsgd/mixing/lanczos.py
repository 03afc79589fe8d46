"""The ends of the spectrum of a large symmetric W, beside the one of the constant vector, by products with vectors.

Lanczos' method finds them soon where they stand apart from the next, and after a while where they do not, if what they say of
the graph is that it mixes well. Where the largest lies next to 1 that would take too long; the sparse W - 1 is factorised
there, which such graphs (chains, grids, maps) allow and others do not: the factor of a random graph is nearly full.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from coopsgd.host import news
from coopsgd.mixing.matrix import Matrix
from coopsgd.mixing.structured import Product

RESTARTS = 20  # of the solver, before it is looked how near to 1 the largest lies
PATIENT = 300  # restarts where it is not near
NEAR = 1e-3  # to 1, where a graph hardly mixes
ROUGH, FINE = 1e-4, 1e-10  # tolerances of vectors; values are off by their squares
BASIS = 60  # vectors that the solver keeps, of which each restart drops half
PATIENCE = 5.0  # seconds that it may take without a word
FLOPS = 1e9  # of a factorisation, a second

Times = Callable[[np.ndarray], np.ndarray]


def start(n: int) -> np.ndarray:
    """(n,) where iterations begin: the same for everyone."""
    return np.random.default_rng(0).standard_normal(n)


def ends(W: Matrix, times: Times | None = None) -> tuple[float, float]:
    """The second largest and the smallest eigenvalue of a symmetric W whose rows sum to one. times: of what W stands for."""
    most, what = top(W, times)[0], "smallest"
    for tolerance, restarts in ((FINE if times is None else 1e-3, RESTARTS), (ROUGH, PATIENT)):
        value, _, seen = _asked(W, times, what, tolerance, restarts)
        if value is not None:
            return most, value
    return most, min(seen, default=-abs(most))


def top(W: Matrix, times: Times | None = None) -> tuple[float, np.ndarray]:
    """The second largest eigenvalue of such a W, and an eigenvector (n,) of length 1 without a mean.

    ValueError where it takes too long.
    """
    what = "second largest"
    value, vector, _ = _asked(W, times, what, FINE, RESTARTS)
    if value is not None:
        return value, vector
    value, rough, _ = _asked(W, times, what, ROUGH, RESTARTS)
    if value is not None and value < 1 - NEAR:
        value, vector, _ = _asked(W, times, what, FINE, PATIENT)
        if value is not None:
            return value, vector
    if times is not None or W.outers:
        raise ValueError(f"zeta: takes too long to compute for {W.n} members on this topology; choose another")
    # if W lets a disagreement grow, what lies next to 1 is not the largest
    found = [_next_to_one(W), *([] if rough is None else [rough])]
    return max(((float(x @ (W @ x)), x) for x in found), key=lambda pair: pair[0])


def _asked(W: Matrix, times: Times | None, what: str, tolerance: float, restarts: int) -> tuple[float | None, Any, np.ndarray]:
    """An eigenvalue and its vector, None and None where so many restarts are too few; and what was found all the same."""
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    which, n = {"second largest": "LA", "smallest": "SA"}[what], W.n
    basis = min(n, BASIS)
    most = basis + restarts * basis // 2
    seen = _seen_from_the_mean(W, times, f"the {what} eigenvalue of the matrix of {n} members", most)
    try:
        value, vector = eigsh(seen, k=1, which=which, v0=start(n), ncv=basis, maxiter=restarts, tol=tolerance)
    except ArpackNoConvergence as error:
        return None, None, error.eigenvalues
    return float(value[0]), vector[:, 0], value


def _seen_from_the_mean(W: Matrix, times: Times | None, what: str, most: int) -> Any:
    """x -> (I - J) W (I - J) x, for scipy, which asks for it up to `most` times; if these take long, a line says so."""
    from scipy.sparse.linalg import LinearOperator

    product = products(W) if times is None else times
    began, asked = time.monotonic(), 0

    def away(x: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += 1
        if asked == BASIS:
            left = (time.monotonic() - began) * (most / BASIS - 1)
            if left > PATIENCE:
                news.tell(f"spectrum: {what}, at most about {news.duration(left)} more")
        y = product(x.ravel() - x.mean())
        return np.asarray(y - y.mean())

    return LinearOperator((W.n, W.n), matvec=away, dtype=float)


def products(W: Matrix) -> Times:
    """x -> W x for an x (n,), for who asks for hundreds: by scipy."""
    if isinstance(W, Product):
        return lambda x: np.asarray(W @ x)
    csr, outers = W.edges.csr, W.outers

    def product(x: np.ndarray) -> np.ndarray:
        y = np.asarray(csr @ x)
        for rows, u, v in outers:
            y[rows] += u * (v @ x[rows])
        return y

    return product


def _next_to_one(W: Matrix) -> np.ndarray:
    """(n,) the eigenvector next to 1 beside the constant one, by a factorisation of the sparse W - 1."""
    from scipy.sparse.linalg import eigsh

    csr = W.edges.csr
    if (left := _width(csr) ** 2 * float(W.n) / FLOPS) > PATIENCE:
        most = news.duration(left)
        news.tell(f"spectrum: {W.n} members hardly mix; their matrix is factorised, which may take up to about {most}")
    values, near = eigsh(csr, k=12, sigma=1 + 1e-9, which="LM", v0=start(W.n))
    some = near[:, np.argsort(values)[-2:]]
    # of the two largest one may be the constant, or a part of it
    return np.asarray(np.linalg.svd(some - some.mean(0), full_matrices=False)[0][:, 0])


def _width(csr: Any) -> int:
    """How far from the diagonal weights lie when rows are well ordered: a factor is no wider."""
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    place = np.empty(csr.shape[0], dtype=int)
    place[reverse_cuthill_mckee(csr, symmetric_mode=True)] = np.arange(csr.shape[0])
    rows, columns = csr.nonzero()
    return int(np.abs(place[rows] - place[columns]).max(initial=0))
