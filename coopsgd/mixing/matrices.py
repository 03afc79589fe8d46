"""From a graph to weights: W as (n, n) float64 numpy arrays, rows summing to one.

`adjacency` is (m, m) bool, [i, j] = i takes from j (mixing/graphs.py). Sources: Xiao & Boyd 2004; arXiv:1808.07576 for
the elastic matrix.
"""

from __future__ import annotations

import numpy as np


def average(m: int) -> np.ndarray:
    """J: everyone takes the mean of everyone."""
    return np.full((m, m), 1 / m)


def _stay(off: np.ndarray) -> np.ndarray:
    """Off-diagonal weights as given; each row keeps what is left of one."""
    W = off.copy()
    np.fill_diagonal(W, 0)
    np.fill_diagonal(W, 1 - W.sum(1))
    return W


def metropolis(adjacency: np.ndarray) -> np.ndarray:
    """Symmetric weights from degrees alone: W_ij = 1 / (1 + max(deg_i, deg_j)) on edges, the rest stays home.

    Doubly stochastic for every undirected graph and for directed graphs of one degree (Xiao, Boyd & Kim 2007).
    """
    degree = adjacency.sum(1)
    return _stay(adjacency / (1 + np.maximum(degree[:, None], degree[None, :])))


def uniform(adjacency: np.ndarray) -> np.ndarray:
    """One weight on every edge, 1 / (1 + largest degree): W = I - L / (1 + d_max)."""
    return _stay(adjacency / (1 + adjacency.sum(1).max()))


def best_constant(adjacency: np.ndarray) -> np.ndarray:
    """The one edge weight with the smallest zeta, 2 / (lambda_2 + lambda_max) of the Laplacian. Diagonals may be negative.

    ValueError on a directed graph, whose Laplacian has no such formula.
    """
    if not np.array_equal(adjacency, adjacency.T):
        raise ValueError("best_constant: needs an undirected graph; use weights metropolis or uniform with this topology")
    if len(adjacency) == 1:
        return np.ones((1, 1))
    values, degree = np.linalg.eigvalsh(laplacian(adjacency)), adjacency.sum(1)
    weight = 2 / (values[1] + values[-1])
    return _stay(adjacency * next((1 / d for d in degree if abs(weight * d - 1) < 1e-12), weight))  # nothing stays: exactly


def laplacian(adjacency: np.ndarray) -> np.ndarray:
    """L = degrees - adjacency, (n, n)."""
    return np.diag(adjacency.sum(1).astype(float)) - adjacency


def fdla(adjacency: np.ndarray) -> np.ndarray:
    """The symmetric weights with the smallest zeta that the graph allows, an edge each; some may be negative.

    Fastest distributed linear averaging (Xiao & Boyd 2004): convex in the weights. mixing/fastest.py solves it.
    ValueError on a directed graph.
    """
    if not np.array_equal(adjacency, adjacency.T):
        raise ValueError("fdla: needs an undirected graph; use weights metropolis or uniform with this topology")
    from coopsgd.mixing.fastest import fastest

    return fastest(adjacency, best_constant(adjacency))


WEIGHTS = {"metropolis": metropolis, "uniform": uniform, "best_constant": best_constant, "fdla": fdla}


def elastic(m: int, alpha: float) -> np.ndarray:
    """W_alpha: each worker moves by alpha to the centre z, z by alpha to each worker; workers first, z last.

    (m + 1, m + 1), symmetric, doubly stochastic. Eigenvalues 1, 1 - alpha (m - 1 times), 1 - (m + 1) alpha, so
    zeta < 1 for 0 < alpha < 2 / (m + 1) and is least, m / (m + 2), at alpha = 2 / (m + 2).
    """
    W = np.eye(m + 1) * (1 - alpha)
    W[:m, m] = W[m, :m] = alpha
    W[m, m] = 1 - m * alpha
    return W


def anchored(W: np.ndarray, alpha: float) -> np.ndarray:
    """W of the workers with an anchor on top: [[(1 - alpha) W, alpha 1], [alpha 1', 1 - m alpha]]; anchor last.

    Doubly stochastic if W is. Eigenvalues (1 - alpha) lambda_i(W) for i >= 2, 1 and 1 - (m + 1) alpha.
    """
    m = len(W)
    return np.block([[(1 - alpha) * W, np.full((m, 1), alpha)], [np.full((1, m), alpha), np.array([[1 - m * alpha]])]])


def upload(weights: np.ndarray) -> np.ndarray:
    """The server takes sum_i weights_i x_i, (m,) weights that sum to one; workers keep what they have; server last."""
    W = np.eye(len(weights) + 1)
    W[-1] = [*weights, 0.0]
    return W


def download(who: np.ndarray) -> np.ndarray:
    """The workers that `who` (m,) bool names take the server's model; server last."""
    W = np.eye(len(who) + 1)
    W[:-1][who] = 0
    W[:-1, -1] = who
    return W
