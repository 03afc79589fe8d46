"""From a graph to weights, and the other matrices that have a name; rows sum to one.

Sources: Xiao & Boyd 2004; arXiv:1808.07576 for the elastic matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from coopsgd.errors import ConfigError
from coopsgd.mixing import lanczos
from coopsgd.mixing.links import Links, links_of
from coopsgd.mixing.matrix import FOLLOWED, WHOLE, Edges, Matrix, Modes, Outer, Sum, nothing, refined
from coopsgd.mixing.recognise import recognise
from coopsgd.mixing.structured import Average, Groups, Pull


def average(m: int) -> Average:
    """J: everyone takes the mean of everyone."""
    return Average(m)


def weighted(m: int, shares: Sequence[float] | None, groups: Sequence[Sequence[int]] | None = None) -> Matrix:
    """Everyone takes the mean of all, or of its group, in which workers weigh by their shares, (m,); of None alike."""
    if shares is None:
        return Average(m) if groups is None else Groups(m, groups)
    p = np.asarray(shares, dtype=float)
    several = [np.sort(np.asarray(rows, dtype=int)) for rows in ([range(m)] if groups is None else groups)]
    return Sum(m, nothing(m), tuple(Outer(rows, np.ones(len(rows)), p[rows] / p[rows].sum()) for rows in several))


def row_sums(n: int, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(n,) sums of the entries of each row; of a small matrix as numpy adds whole rows, zeros and all: the bits as ever."""
    if n > WHOLE:
        return np.bincount(rows, weights, n)
    whole = np.zeros((n, n))
    whole[rows, columns] = weights
    return np.asarray(whole.sum(1))


def staying(links: Links, weights: np.ndarray) -> Matrix:
    """Weights on the links of a graph as given; each row keeps what is left of one."""
    n, i = links.m, np.arange(links.m)
    stay = 1 - row_sums(n, links.rows, links.columns, weights)
    known = None
    if len(weights) and np.ptp(weights) == 0 and links.eigenvalues is not None:
        known = Modes(links.eigenvalues.basis, 1 - weights[0] * links.eigenvalues.values)  # I - w L
    rows, columns = np.concatenate([links.rows, i]), np.concatenate([links.columns, i])
    return Edges.of(n, rows, columns, np.concatenate([weights, stay]), known, links.labels)


def metropolis(graph: Links | np.ndarray) -> Matrix:
    """Symmetric weights from degrees alone: W_ij = 1 / (1 + max(deg_i, deg_j)) on edges, the rest stays home.

    Doubly stochastic for every undirected graph and for directed graphs of one degree (Xiao, Boyd & Kim 2007).
    """
    links = links_of(graph)
    if links.complete:
        return Average(links.m)
    degree = links.degrees
    return staying(links, 1 / (1 + np.maximum(degree[links.rows], degree[links.columns])))


def uniform(graph: Links | np.ndarray) -> Matrix:
    """One weight on every edge, 1 / (1 + largest degree): W = I - L / (1 + d_max)."""
    links = links_of(graph)
    if links.complete:
        return Average(links.m)
    return staying(links, np.full(len(links.rows), 1 / (1 + links.degrees.max(initial=0))))


def best_constant(graph: Links | np.ndarray) -> Matrix:
    """The one edge weight with the smallest zeta, 2 / (lambda_2 + lambda_max) of the Laplacian. Diagonals may be negative.

    ValueError on a directed graph, whose Laplacian has no such formula.
    """
    links = links_of(graph)
    if links.m == 1 or links.complete:
        return Average(links.m)
    _undirected("best_constant", links)
    smallest, largest = laplacian_ends(links)
    weight, degree = 2 / (smallest + largest), links.degrees
    exact = next((1 / d for d in np.unique(degree) if abs(weight * d - 1) < 1e-12), weight)  # nothing stays: exactly
    return staying(links, np.full(len(links.rows), exact))


def laplacian_ends(links: Links) -> tuple[float, float]:
    """lambda_2 and lambda_max of the Laplacian of an undirected graph."""
    if links.m <= WHOLE:
        values = np.linalg.eigvalsh(laplacian(links.adjacency()))
        return float(values[1]), float(values[-1])
    if links.eigenvalues is not None:
        values = links.eigenvalues.values[1:]
        return float(values.min()), float(values.max())
    largest = 2.0 * float(links.degrees.max())  # no eigenvalue is above it
    top, bottom = lanczos.ends(of_laplacian(links.m, links.pairs, 1 / largest))
    return largest * (1 - top), largest * (1 - bottom)


def laplacian(adjacency: np.ndarray) -> np.ndarray:
    """L = degrees - adjacency, (n, n)."""
    return np.diag(adjacency.sum(1).astype(float)) - adjacency


def fdla(graph: Links | np.ndarray) -> Matrix:
    """The symmetric weights with the smallest zeta that the graph allows, an edge each; some may be negative.

    Fastest distributed linear averaging (Xiao & Boyd 2004): convex in the weights. mixing/fastest.py solves it.
    ValueError on a directed graph.
    """
    links = links_of(graph)
    if links.complete:
        return Average(links.m)
    _undirected("fdla", links)
    if links.alike and links.m > WHOLE:
        return best_constant(links)  # zeta is convex in the weights: their mean over all symmetries of the graph is as good
    if links.m > FOLLOWED:
        raise ConfigError(
            f"algo.weights=fdla: is solved for up to {FOLLOWED} members, or where all edges are alike (ring, hypercube, star, "
            f"square torus), got {links.m}; use best_constant or metropolis"
        )
    from coopsgd.mixing.fastest import fastest

    W = fastest(links.adjacency(), best_constant(links).dense())
    i, j = np.nonzero(W)
    return Edges.of(links.m, i, j, W[i, j])


def _undirected(name: str, links: Links) -> None:
    if not links.undirected:
        raise ValueError(f"{name}: needs an undirected graph; use weights metropolis or uniform with this topology")


WEIGHTS = {"metropolis": metropolis, "uniform": uniform, "best_constant": best_constant, "fdla": fdla}


def elastic(m: int, alpha: float) -> Pull:
    """W_alpha: each worker moves by alpha to the centre z, z by alpha to each worker; workers first, z last.

    (m + 1, m + 1), symmetric, doubly stochastic. Eigenvalues 1, 1 - alpha (m - 1 times), 1 - (m + 1) alpha, so
    zeta < 1 for 0 < alpha < 2 / (m + 1) and is least, m / (m + 2), at alpha = 2 / (m + 2).
    """
    i = np.arange(m)
    return Pull(Edges.of(m, i, i, np.full(m, 1 - alpha), labels=np.zeros(m, dtype=int)), alpha)


def anchored(W: Matrix | np.ndarray, alpha: float) -> Pull:
    """W of the workers with an anchor on top: [[(1 - alpha) W, alpha 1], [alpha 1', 1 - m alpha]]; anchor last.

    Doubly stochastic if W is. Eigenvalues (1 - alpha) lambda_i(W) for i >= 2, 1 and 1 - (m + 1) alpha.
    """
    return Pull((1 - alpha) * recognise(W), alpha)


def upload(weights: np.ndarray) -> Edges:
    """The server takes sum_i weights_i x_i, (m,) weights that sum to one; workers keep what they have; server last."""
    m = len(weights)
    i, server = np.arange(m), np.full(m, m)
    labels = np.append(np.zeros(m, dtype=int), 1) if np.ptp(weights) == 0 else None
    return Edges.of(m + 1, np.append(i, server), np.append(i, i), np.append(np.ones(m), weights), labels=labels)


def download(who: np.ndarray) -> Edges:
    """The workers that `who` (m,) bool names take the server's model; server last."""
    m = len(who)
    columns = np.append(np.where(who, m, np.arange(m)), m)
    return Edges.of(m + 1, np.arange(m + 1), columns, np.ones(m + 1), labels=refined([np.append(who.astype(int), 2)]))


def pairs(m: int, some: Iterable[Sequence[int]] | np.ndarray) -> Edges:
    """Both of each pair take their mean; an orthogonal projection. some: pairs of workers, no worker in two."""
    a, b = np.array(list(some), dtype=int).reshape(-1, 2).T
    alone = np.setdiff1d(np.arange(m), np.append(a, b))
    rows, columns = np.concatenate([a, b, a, b, alone]), np.concatenate([a, b, b, a, alone])
    return Edges.of(m, rows, columns, np.append(np.full(4 * len(a), 0.5), np.ones(len(alone))))


def of_laplacian(m: int, some: np.ndarray, weight: float, labels: np.ndarray | None = None) -> Edges:
    """I - weight * L, L the Laplacian of some (E, 2) undirected edges."""
    a, b = some.T
    i = np.arange(m)
    stay = 1 - weight * (np.bincount(a, minlength=m) + np.bincount(b, minlength=m))
    rows, columns = np.concatenate([a, b, i]), np.concatenate([b, a, i])
    return Edges.of(m, rows, columns, np.append(np.full(2 * len(a), float(weight)), stay), labels=labels)


def of_weighted(m: int, some: np.ndarray, weights: np.ndarray) -> Edges:
    """I less the Laplacian of some (E, 2) undirected edges with a weight each."""
    a, b = some.T
    i = np.arange(m)
    stay = 1 - np.bincount(a, weights, m) - np.bincount(b, weights, m)
    return Edges.of(m, np.concatenate([a, b, i]), np.concatenate([b, a, i]), np.concatenate([weights, weights, stay]))
