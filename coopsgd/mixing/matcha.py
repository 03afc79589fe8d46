"""MATCHA: spend a communication budget on the matchings that connect the graph best. Wang et al., arXiv:1905.09435.

The graph is decomposed into matchings; matching j takes part in a communication with probability p_j, all by lot. The
probabilities make the expected graph as well connected as the budget allows, the weight alpha makes the mean square contraction
rho = ||E[W'W] - J|| least. Both problems are convex and small, and need no semidefinite solver.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coopsgd.mixing import matrices
from coopsgd.mixing.base import Factors, Mixing, auto_or_number
from coopsgd.mixing.graphs import Graph, Ring
from coopsgd.mixing.varying import edges_of
from coopsgd.registry import register
from coopsgd.streams import stream

ITERATIONS = 2000  # of the supergradient ascent, at most; the best iterate is kept
PATIENCE = 300  # iterations without a gain of a millionth after which it ends


def decompose(adjacency: np.ndarray) -> list[list[tuple[int, int]]]:
    """Disjoint matchings that make up the graph: an edge colouring, rarely of more colours than largest degree + 1."""
    import networkx

    graph = networkx.Graph([tuple(edge) for edge in edges_of(adjacency).tolist()])
    line = networkx.line_graph(graph)
    best: dict[tuple[int, int], int] | None = None
    for strategy in ("DSATUR", "largest_first", "smallest_last"):
        colours = networkx.greedy_color(line, strategy=strategy)
        if best is None or max(colours.values(), default=-1) < max(best.values(), default=-1):
            best = colours
    matchings: list[list[tuple[int, int]]] = [[] for _ in range(max((best or {}).values(), default=-1) + 1)]
    for (i, j), colour in sorted((best or {}).items()):
        matchings[colour].append((min(i, j), max(i, j)))
    return matchings


def laplacians(matchings: list[list[tuple[int, int]]], m: int) -> np.ndarray:
    """(M, m, m), one Laplacian a matching; L_j^2 = 2 L_j."""
    found = np.zeros((len(matchings), m, m), dtype=bool)
    for j, matching in enumerate(matchings):
        for a, b in matching:
            found[j, a, b] = found[j, b, a] = True
    return np.stack([matrices.laplacian(adjacency) for adjacency in found]) if matchings else np.zeros((0, m, m))


def probabilities(L: np.ndarray, budget: float) -> np.ndarray:
    """(M,) p maximising lambda_2(sum_j p_j L_j) with 0 <= p <= 1 and sum p <= budget M.

    Concave: projected supergradient, component j being v' L_j v for v the eigenvector of lambda_2.
    """
    count = len(L)
    if budget == 1 or not count:
        return np.ones(count)
    best = p = np.full(count, budget)
    reached, mark, since = -1.0, -1.0, 0
    for t in range(ITERATIONS):
        values, vectors = np.linalg.eigh(np.tensordot(p, L, 1))
        if values[1] > reached:
            best, reached = p, values[1]
        if reached > mark * (1 + 1e-6) + 1e-12:
            mark, since = reached, t
        if t - since > PATIENCE:
            break
        v = vectors[:, 1]
        slope = L @ v @ v
        p = _project(p + slope / (np.linalg.norm(slope) + 1e-12) / (1 + t) ** 0.5 / 2, budget * count)
    return best


def _project(p: np.ndarray, most: float) -> np.ndarray:
    """The nearest point with 0 <= p <= 1 and sum p <= most: clip(p - c), c by bisection."""
    if np.clip(p, 0, 1).sum() <= most:
        return np.clip(p, 0, 1)
    low, high = p.min() - 1, p.max()
    for _ in range(60):
        c = (low + high) / 2
        low, high = (c, high) if np.clip(p - c, 0, 1).sum() > most else (low, c)
    return np.clip(p - high, 0, 1)


def second_moment(L: np.ndarray, p: np.ndarray, alpha: float) -> np.ndarray:
    """E[W'W] = I - 2 alpha Lbar + alpha^2 (Lbar^2 + 2 Ltilde), Lbar = sum p_j L_j, Ltilde = sum p_j (1 - p_j) L_j."""
    bar, tilde = np.tensordot(p, L, 1), np.tensordot(p * (1 - p), L, 1)
    return np.eye(len(bar)) - 2 * alpha * bar + alpha**2 * (bar @ bar + 2 * tilde)


def rho(L: np.ndarray, p: np.ndarray, alpha: float) -> float:
    """||E[W'W] - J||_2"""
    m = L.shape[-1]
    return float(np.abs(np.linalg.eigvalsh(second_moment(L, p, alpha) - np.full((m, m), 1 / m))).max())


def best_alpha(L: np.ndarray, p: np.ndarray) -> float:
    """The weight with the least rho; rho is convex in it, so golden section finds it."""
    from scipy.optimize import minimize_scalar

    top = np.linalg.eigvalsh(L.sum(0))[-1]
    return float(minimize_scalar(lambda a: rho(L, p, a), bounds=(0, 4 / top), method="bounded", options={"xatol": 1e-10}).x)


@register("matcha", "mixing")
@dataclass(frozen=True)
class Matcha(Mixing):
    """W_r = I - alpha sum_j B_j L_j with B_j ~ Bernoulli(p_j): matchings by lot, within a budget. arXiv:1905.09435.

    budget: the expected share of matchings in a communication, in (0, 1]; 1 is the whole graph every time. alpha: auto has
    the least mean square contraction.
    """

    budget: float = 0.5
    alpha: Any = "auto"
    topology: Graph = field(default_factory=Ring)
    seed: int = 0
    _designed: dict[int, tuple[np.ndarray, np.ndarray, float]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 1:
            raise ValueError(f"algo.budget: must lie in (0, 1], got {self.budget}")
        auto_or_number("algo.alpha", self.alpha)

    def cycle(self, m: int) -> None:
        return None

    def design(self, m: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Laplacians (M, m, m) of the matchings, their probabilities (M,), and alpha."""
        if m not in self._designed:
            L = laplacians(decompose(self.topology.adjacency(m, self.seed)), m)
            p = probabilities(L, self.budget)
            alpha = float(self.alpha) if self.alpha != "auto" else best_alpha(L, p) if len(L) else 0.0
            self._designed[m] = L, p, alpha
        return self._designed[m]

    def best_alpha(self, m: int) -> float | None:
        L, p, _ = self.design(m)
        return best_alpha(L, p) if len(L) else None

    def matrices(self, m: int, r: int) -> Factors:
        L, p, alpha = self.design(m)
        drawn = stream(self.seed, "matcha", r).random(len(p)) < p
        return (np.eye(m) - alpha * L[drawn].sum(0),)

    def zeta(self, m: int) -> float:
        L, p, alpha = self.design(m)
        return rho(L, p, alpha) ** 0.5 if len(L) else 0.0
