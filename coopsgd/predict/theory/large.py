"""The same stationary distances where W is too large to be written out: exact by modes or classes, else estimated by traces.

For one mode of a W with orthogonal eigenvectors, eigenvalue lambda, the recursion of `moments` is one of numbers; all modes of
a cycle of commuting matrices go through it at once. Where rows fall into few classes of interchangeable ones (EASGD, trees,
groups), differences within a class are such modes, and the means of the classes a small matrix. Of any other symmetric W,

    C = (m - 1) / m mean(t) + tau / m tr[W^2 (I - W^2)^-1],    H = mean over t of tr[(tau W (I - W)^-1 + t)^2] / (m - 1)

over the modes beside the constant, t the local steps since the mixing. The traces are means of z' f(W) z over random signs z
(Hutchinson), each by conjugate gradients; their scatter gives the standard error.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from coopsgd.host import news
from coopsgd.mixing import spectra
from coopsgd.mixing.matrix import Matrix, identity
from coopsgd.mixing.structured import Average
from coopsgd.predict.theory.moments import summed

PROBES = 24  # random signs of an estimated trace
PATIENCE = 5.0  # seconds that it may take without a word
ITERATIONS = 5000  # of conjugate gradients, before it is said that it takes too long
CONVERGED = 1 - 1e-12


class Split(NamedTuple):
    """What a cycle does to workers, in an orthonormal basis of theirs: modes, and a small matrix for the rest.

    values: (T, J) eigenvalues, each for `many` (J,) modes. each: T arrays (c, c), the classes of workers first, seen from the
    workers' mean; mean: (k,) the constant vector on the classes of workers, of length 1.
    """

    values: np.ndarray
    many: np.ndarray
    each: list[np.ndarray]
    mean: np.ndarray


def split(Ws: Sequence[Matrix], m: int) -> Split | None:
    """None where neither modes nor classes are known."""
    modes = spectra.common_modes(Ws) if len(Ws[0]) == m else None
    if modes is not None:
        values, many = np.unique(np.round(modes[:, 1:], 14), axis=1, return_counts=True)
        return Split(values, many, [], np.zeros(0))
    few = spectra.reduced(Ws, np.arange(len(Ws[0])) >= m)
    if few is None:
        return None
    own = np.unique(few.labels[:m])
    order = np.append(own, np.setdiff1d(np.arange(len(few.sizes)), own))
    several = own[few.sizes[own] > 1]
    root, k = np.sqrt(few.sizes[order]), len(own)
    mean = root[:k] / math.sqrt(m)
    moved = (Q[np.ix_(order, order)] for Q in few.each)
    each = [Q - np.outer(root, mean @ Q[:k] / math.sqrt(m)) for Q in moved]
    return Split(few.within[:, several], few.sizes[several] - 1, each, mean)


def workers_alone(W: Matrix, m: int) -> Matrix | None:
    """(m, m) what W does to workers who are all alike, where no auxiliary row is read; None where that is not so."""
    v = len(W) - m
    if v > 8:
        return None
    aux = np.vstack([np.zeros((m, v)), np.eye(v)])
    if np.abs(W @ aux).max(initial=0) > 0 or W.labels is None or np.ptp(W.labels[:m]):
        return None
    labels = spectra.refined([W.labels, np.arange(len(W)) >= m])
    Q, within = W.quotient(labels)
    k = labels[0]
    return within[k] * identity(m) + (Q[k, k] - within[k]) * Average(m)


def noise(Ws: Sequence[Matrix], m: int, tau: int, order: str, delay: int) -> tuple[float | None, float | None]:
    """C as moments.noise_consensus has it, and its standard error where it is estimated."""
    parts, late, t = split(Ws, m), min(delay, tau), _looks(tau, order)
    if parts is None:
        return _estimated(Ws, m, delay, lambda trace: (m - 1) / m * float(t.mean()) + tau / m * trace[0])
    before = t[t > 0] if order != "cta" else t

    def walk(S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = np.zeros(S.shape)
        for values in np.abs(parts.values) ** 2:
            total += len(before) * S + before.sum()
            S = values * (S + tau - late) + late
            total += S * (order != "cta")
        return S, total

    shrinks = (np.abs(parts.values) ** 2).prod(0)
    if shrinks.max(initial=0) >= CONVERGED:
        return None, None
    b, _ = walk(np.zeros(len(shrinks)))
    C = float(parts.many @ walk(b / (1 - shrinks))[1]) / m
    if parts.each:
        more = _class_noise(parts, m, tau, late, before, order)
        if more is None:
            return None, None
        C += more
    return C / (tau * len(Ws)), None


def drift(Ws: Sequence[Matrix], m: int, tau: int, order: str, delay: int, kept: float) -> tuple[float | None, float | None]:
    """H as moments.drift_consensus has it, and its standard error where it is estimated."""
    parts, late, t = split(Ws, m), min(delay, tau), _looks(tau, order)
    if parts is None:
        if kept != 1:
            return None, None
        mean, square = float(t.mean()), float((t**2.0).mean())
        return _estimated(Ws, m, delay, lambda trace: (tau**2 * trace[2] + 2 * tau * mean * trace[1]) / (m - 1) + square)
    before = t[t > 0] if order != "cta" else t
    old, new = kept**before, summed(kept, before)

    def step(x: Any, times: Callable[[Any], Any], E: Any, own: Any) -> Any:
        """One communication: `times` is what it mixes by."""
        y = _taken(x, kept, tau - late, E, own)
        return times(y) + _taken(y, kept, late, E, own) - y

    def walk(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = np.zeros(x.shape)
        for values in parts.values:
            total += (np.abs(old[:, None] * x + new[:, None]) ** 2).sum(0)
            x = step(x, values.__mul__, 1.0, True)
            total += np.abs(x) ** 2 * (order != "cta")
        return x, total

    zero = np.zeros(parts.values.shape[1], dtype=parts.values.dtype)
    b, _ = walk(zero)
    a = walk(zero + 1)[0] - b
    if np.abs(a).max(initial=0) >= CONVERGED:
        return None, None
    H = float(parts.many @ walk(b / (1 - a))[1])
    if parts.each:
        q, n = parts.mean, len(parts.each[0])
        k = len(q)
        E, own = np.vstack([np.eye(k) - np.outer(q, q), np.zeros((n - k, k))]), (np.arange(n) < k)[:, None]

        def classes(T: np.ndarray, E: np.ndarray) -> tuple[np.ndarray, float]:
            total = 0.0
            for A in parts.each:
                total += sum(_size(s * T[:k] + w * E[:k], q) for s, w in zip(old, new, strict=True))
                T = step(T, A.__matmul__, E, own)
                total += _size(T[:k], q) * (order != "cta")
            return T, total

        left = np.eye(n)
        for A in parts.each:
            left = step(left, A.__matmul__, 0.0, own)
        if np.abs(np.linalg.eigvals(left)).max() >= CONVERGED:
            return None, None
        T = np.linalg.solve(np.eye(n) - left, classes(np.zeros((n, k)), E)[0])
        H += classes(T, E)[1]
    return H / (max(1, m - 1) * tau * len(Ws)), None


def _looks(tau: int, order: str) -> np.ndarray:
    """Local steps since the mixing at the looks of a round."""
    return np.arange(tau) + (order == "cta")


def _taken(x: Any, kept: float, t: int, E: Any, own: Any) -> Any:
    """After t local steps, of those rows that take any."""
    return np.where(own, kept**t, 1) * x + float(summed(kept, t)) * E


def _size(X: np.ndarray, q: np.ndarray) -> float:
    """The squares of workers' distances to their mean, of gradients that have sum zero."""
    off = X - np.outer(q, q @ X)
    off = off - np.outer(off @ q, q)
    return float((off**2).sum())


def _class_noise(parts: Split, m: int, tau: int, late: int, before: np.ndarray, order: str) -> float | None:
    """The same of the means of classes, summed over the looks of a cycle."""
    q, n = parts.mean, len(parts.each[0])
    k = len(q)
    M, D = np.zeros((n, n)), np.diag((np.arange(n) < k).astype(float))
    M[:k, :k] = (np.eye(k) - np.outer(q, q)) / m

    def walk(S: np.ndarray) -> tuple[np.ndarray, float]:
        total = 0.0
        for A in parts.each:
            total += len(before) * float((M * S).sum()) + float(before.sum()) * float((M * D).sum())
            S = A @ (S + (tau - late) * D) @ A.T + late * D
            total += float((M * S).sum()) * (order != "cta")
        return S, total

    return _mean_over(walk, walk(np.zeros((n, n)))[0], spectra.product(parts.each, n))


def _mean_over(walk: Callable[[np.ndarray], tuple[np.ndarray, float]], S: np.ndarray, A: np.ndarray) -> float | None:
    """The looks of a cycle from the stationary state, the sum over all cycles before, by doubling; None when it has no end."""
    for _ in range(60):
        with np.errstate(over="ignore", invalid="ignore"):
            more = A @ S @ A.T
            S, A = S + more, A @ A
        if not np.isfinite(S).all():
            return None
        if np.abs(more).max() <= 1e-13 * max(1.0, np.abs(S).max()):
            return walk(S)[1]
    return None


def _estimated(Ws: Sequence[Matrix], m: int, delay: int, f: Callable[[np.ndarray], float]) -> tuple[float | None, float | None]:
    """f of (tr W^2 (I - W^2)^-1, tr W (I - W)^-1, tr of the square of that), and its standard error; for one symmetric W."""
    W = Ws[0]
    if len(Ws) > 1 or len(W) > m or delay or not W.is_symmetric(spectra.TOLERANCE):
        return None, None
    from scipy.sparse.linalg import LinearOperator, cg

    found, draw, began = [], np.random.default_rng(0), time.monotonic()
    for number in range(PROBES):
        left = (time.monotonic() - began) * (PROBES - 1)
        if number == 1 and left > PATIENCE:
            more = news.duration(left)
            news.tell(f"theory: a trace of the matrix of {m} workers is estimated from {PROBES} draws, about {more} more")
        z = draw.choice([-1.0, 1.0], m)
        z -= z.mean()
        solved = []
        for sign in (-1, 1):
            operator = LinearOperator((m, m), matvec=lambda x, sign=sign: _away(x + sign * _away(W @ _away(x))), dtype=float)
            y, missed = cg(operator, z, rtol=1e-9, maxiter=ITERATIONS)
            if missed:
                return None, None
            solved.append(y)
        ahead, back = solved
        # a probe without its mean has m - 1 in expectation, as there are modes
        traces = (z @ ahead + z @ back) / 2 - z @ z, z @ ahead - z @ z, (ahead - z) @ (ahead - z)
        found.append(f(np.array(traces)))
    return float(np.mean(found)), float(np.std(found, ddof=1) / math.sqrt(PROBES))


def _away(x: np.ndarray) -> np.ndarray:
    return np.asarray(x - x.mean())
