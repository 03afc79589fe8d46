"""Fastest distributed linear averaging (FDLA): the weights on a graph's edges with the smallest zeta. Xiao & Boyd 2004.

Minimise ||I - B diag(w) B' - J||_2 over edge weights w: convex, not smooth where eigenvalues meet, and at the optimum they
always do. The largest modulus is therefore smoothed, (1 / p) log sum_i (e^(p lambda_i) + e^(-p lambda_i)) <= zeta + log(2 n)
/ p, whose gradient is a softmax over eigenvectors, and p is raised in steps from where the last one ended (L-BFGS).
"""

from __future__ import annotations

import numpy as np

from coopsgd.host import sizes
from coopsgd.mixing.matrix import WHOLE

COARSE = (300, 3e3)
SHARPNESS = (30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5)  # p; the last is within log(2 n) / p = 5e-5 of zeta for 64 workers


def fastest(adjacency: np.ndarray, start: np.ndarray) -> np.ndarray:
    """(n, n) symmetric W with the smallest zeta found on the undirected `adjacency` (n, n) bool; never worse than `start`."""
    from scipy.optimize import minimize

    n = len(adjacency)
    i, j = np.nonzero(np.triu(adjacency, 1))
    if n == 1 or not len(i):
        return start
    sizes.refuse("algo.weights", 16.0 * len(i) * n, f"fdla's gradients by {len(i)} edges", "use metropolis or best_constant")
    J = np.full((n, n), 1 / n)

    def matrix(w: np.ndarray) -> np.ndarray:
        W = np.zeros((n, n))
        W[i, j] = W[j, i] = w
        W[np.arange(n), np.arange(n)] = 1 - W.sum(1)
        return W

    def smoothed(w: np.ndarray, p: float) -> tuple[float, np.ndarray]:
        values, vectors = np.linalg.eigh(matrix(w) - J)
        top = np.abs(values).max()
        up, down = np.exp(p * (values - top)), np.exp(p * (-values - top))
        total = up.sum() + down.sum()
        # d lambda / d w_ij = -(v_i - v_j)^2
        slope = -(((vectors[i] - vectors[j]) ** 2) @ ((up - down) / total))
        return float(top + np.log(total) / p), slope

    def zeta(w: np.ndarray) -> float:
        return float(np.abs(np.linalg.eigvalsh(matrix(w) - J)).max())

    best = w = start[i, j]
    steps = (
        150 if n <= WHOLE else 15
    )  # each is a spectrum: of a thousand members seconds, so that few are taken, and coarse ones
    for p in SHARPNESS if n <= WHOLE else COARSE:
        w = minimize(smoothed, w, args=(p,), jac=True, method="L-BFGS-B", options={"maxiter": steps}).x
        if zeta(w) < zeta(best):
            best = w
    return matrix(best)
