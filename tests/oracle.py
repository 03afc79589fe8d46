"""The papers' formulas, literally: loops over workers, one vector at a time. Imports nothing of strategies or fleet.

Every function takes a Problem and returns the (m + v, d) models after its K steps, workers first. Equations:
arXiv:1808.07576 (the framework), arXiv:1412.6651 (elastic averaging), arXiv:1705.09056 (decentralised SGD).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coopsgd.streams import stream


@dataclass
class Problem:
    """Noisy quadratics f_i(x) = 1/2 sum_j a_ij (x_j - c_ij)^2 and a run of K steps on them."""

    a: np.ndarray
    c: np.ndarray
    x0: np.ndarray
    sigma: float
    seed: int
    eta: float
    tau: int
    K: int

    @property
    def m(self) -> int:
        return len(self.a)

    def gradient(self, i: int, x: np.ndarray, k: int) -> np.ndarray:
        """Worker i's stochastic gradient at x in iteration k."""
        d = len(x)
        noise = stream(self.seed, "noise", k).standard_normal((self.m, d))[i]
        return self.a[i] * (x - self.c[i]) + self.sigma / np.sqrt(d) * noise


def cooperative(p: Problem, W: list[list[float]], v: int = 0) -> np.ndarray:
    """X <- W (X - eta G) when tau divides k + 1, else X - eta G; auxiliary rows have no gradient."""
    x = [p.x0.copy() for _ in range(p.m + v)]
    for k in range(p.K):
        for i in range(p.m):
            x[i] = x[i] - p.eta * p.gradient(i, x[i], k)
        if (k + 1) % p.tau == 0:
            mixed = []
            for i in range(p.m + v):
                total = np.zeros_like(p.x0)
                for j in range(p.m + v):
                    total = total + W[i][j] * x[j]
                mixed.append(total)
            x = mixed
    return np.array(x)


def fullsync(p: Problem) -> np.ndarray:
    """One model; its gradient is the mean of the workers' gradients."""
    x = p.x0.copy()
    for k in range(p.K):
        total = np.zeros_like(x)
        for i in range(p.m):
            total = total + p.gradient(i, x, k)
        x = x - p.eta * total / p.m
    return np.array([x] * p.m)


def pasgd(p: Problem) -> np.ndarray:
    """Local steps; every tau-th is followed by everyone taking the mean."""
    x = [p.x0.copy() for _ in range(p.m)]
    for k in range(p.K):
        for i in range(p.m):
            x[i] = x[i] - p.eta * p.gradient(i, x[i], k)
        if (k + 1) % p.tau == 0:
            mean = sum(x) / p.m
            x = [mean.copy() for _ in range(p.m)]
    return np.array(x)


def easgd(p: Problem, alpha: float | None = None) -> np.ndarray:
    """x_i <- y_i - alpha (y_i - z), z <- z + alpha sum_i (y_i - z), both from the old z; alpha = 2 / (m + 2)."""
    alpha = 2 / (p.m + 2) if alpha is None else alpha
    x, z = [p.x0.copy() for _ in range(p.m)], p.x0.copy()
    for k in range(p.K):
        for i in range(p.m):
            x[i] = x[i] - p.eta * p.gradient(i, x[i], k)
        if (k + 1) % p.tau == 0:
            pull = [x[i] - z for i in range(p.m)]
            for i in range(p.m):
                x[i] = x[i] - alpha * pull[i]
            z = z + alpha * sum(pull)
    return np.array([*x, z])


def dpsgd(p: Problem) -> np.ndarray:
    """On a ring of at least three: every tau-th step, a third from each side and a third of one's own."""
    x = [p.x0.copy() for _ in range(p.m)]
    for k in range(p.K):
        for i in range(p.m):
            x[i] = x[i] - p.eta * p.gradient(i, x[i], k)
        if (k + 1) % p.tau == 0:
            x = [(x[i - 1] + x[i] + x[(i + 1) % p.m]) / 3 for i in range(p.m)]
    return np.array(x)


# a W for the raw framework that is like none of the named ones: not symmetric, two auxiliary rows, rows sum to one
RAW_V = 2


def raw_matrix(m: int, v: int, seed: int = 0) -> np.ndarray:
    """(m + v, m + v), entries in [0, 1), rows scaled to sum to one."""
    W = np.random.default_rng(seed).random((m + v, m + v))
    return W / W.sum(1, keepdims=True)


ORACLES = {
    "cooperative": lambda p: cooperative(p, raw_matrix(p.m, RAW_V).tolist(), RAW_V),
    "fullsync": fullsync,
    "pasgd": pasgd,
    "easgd": easgd,
    "dpsgd": dpsgd,
}
