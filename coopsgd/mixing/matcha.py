"""MATCHA: spend a communication budget on the matchings that connect the graph best. Wang et al., arXiv:1905.09435.

The graph is decomposed into matchings; matching j takes part in a communication with probability p_j, all at random. The
probabilities make the expected graph as well connected as the budget allows, the weight alpha makes the mean square contraction
rho = ||E[W'W] - J|| least. Both problems are convex and small: a semidefinite program, whose interior point method is written
out here, and a function of one number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np

from coopsgd.errors import ConfigError
from coopsgd.mixing.base import Mixing, auto_or_number, is_number, negative_weight
from coopsgd.mixing.expectation import Expectation
from coopsgd.mixing.graphs import Graph, Ring
from coopsgd.mixing.lanczos import top
from coopsgd.mixing.links import Links, links_of
from coopsgd.mixing.matrices import of_laplacian, of_weighted
from coopsgd.mixing.matrix import FOLLOWED, ROUNDING, WHOLE, Edges, Matrix, identity
from coopsgd.mixing.recognise import recognise
from coopsgd.registry import of_run, option, register
from coopsgd.streams import stream

GAP = 1e-8  # of lambda_2 of the expected graph to its optimum, at most
SNAP = 1e-7  # a probability so near 0 or 1 is 0 or 1
NEWTON = 50  # Newton steps between two values of k, at most
WORK = 4e10  # multiplications, of all steps of the interior point method; of larger graphs planes are cut
NEAR = 1e-4  # of lambda_2 to its optimum, relative, at which no more planes are cut
NARROW = 3e-3  # how far from the best probabilities so far better ones are looked for at last
PARABOLAS = 100  # of which alpha is found, at most
LINES = 200_000  # edges of the largest line graph that is made
DSATUR = 2000  # its nodes up to which they are also coloured by saturation, whose time grows with their square
MOST = 500_000  # edges of the largest graph that is taken


def decompose(graph: Links | np.ndarray) -> list[list[tuple[int, int]]]:
    """Disjoint matchings that make up the graph: an edge colouring, rarely of more colours than largest degree + 1.

    The best of three greedy colourings of the line graph; of a graph whose line graph is too large, first fit, edge by edge.
    """
    links = links_of(graph)
    if links.count > 2 * MOST:
        raise ConfigError(
            f"topology: has {links.count // 2} edges among {links.m} workers, and matcha chooses matchings of at most {MOST}; "
            "choose a sparser one, or algo=matching"
        )
    edges = links.pairs.tolist()
    degree = np.bincount(links.pairs.ravel(), minlength=links.m)
    colours = _first_fit(edges) if (degree * (degree - 1) // 2).sum() > LINES else _coloured(edges)
    matchings: list[list[tuple[int, int]]] = [[] for _ in range(max(colours.values(), default=-1) + 1)]
    for (i, j), colour in sorted(colours.items()):
        matchings[colour].append((min(i, j), max(i, j)))
    return matchings


def _coloured(edges: list[Any]) -> dict[tuple[int, int], int]:
    import networkx

    line = networkx.line_graph(networkx.Graph([tuple(edge) for edge in edges]))
    orders = ("largest_first", "smallest_last") if len(edges) > DSATUR else ("DSATUR", "largest_first", "smallest_last")
    return min((networkx.greedy_color(line, strategy=order) for order in orders), key=lambda c: max(c.values(), default=-1))


def _first_fit(edges: list[Any]) -> dict[tuple[int, int], int]:
    taken: dict[int, int] = {}  # worker -> its edges' colours, as bits
    colours = {}
    for i, j in edges:
        both = taken.get(i, 0) | taken.get(j, 0)
        bit = ~both & (both + 1)  # the lowest that neither has
        taken[i], taken[j] = taken.get(i, 0) | bit, taken.get(j, 0) | bit
        colours[i, j] = bit.bit_length() - 1
    return colours


class Matchings:
    """A graph of m workers as disjoint matchings; L_j, the Laplacian of matching j, obeys L_j^2 = 2 L_j."""

    def __init__(self, matchings: list[list[tuple[int, int]]], m: int) -> None:
        self.m, self.count = m, len(matchings)
        edges = np.array([edge for matching in matchings for edge in matching], dtype=int).reshape(-1, 2)
        self._a, self._b = edges.T
        self._of = np.repeat(np.arange(self.count), [len(matching) for matching in matchings])

    def laplacian(self, weights: np.ndarray) -> np.ndarray:
        """(m, m) sum_j weights_j L_j, weights (count,)."""
        w = np.asarray(weights, dtype=float)[self._of]
        L = np.zeros((self.m, self.m))
        L[self._a, self._b] = L[self._b, self._a] = -w
        np.fill_diagonal(L, np.bincount(self._a, w, self.m) + np.bincount(self._b, w, self.m))
        return L

    def expected(self, weights: np.ndarray) -> Edges:
        """I - sum_j weights_j L_j, sparse."""
        return of_weighted(self.m, np.stack([self._a, self._b], axis=1), np.asarray(weights, dtype=float)[self._of])

    def mixed(self, drawn: np.ndarray, alpha: float) -> Matrix:
        """I - alpha sum of the L_j that are drawn, drawn (count,) bool."""
        mine = drawn[self._of]
        return of_laplacian(self.m, np.stack([self._a[mine], self._b[mine]], axis=1), alpha)

    def conjugated(self, S: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(m, m) sum_j weights_j L_j S L_j for symmetric S."""
        found = np.zeros_like(S)
        for j in np.flatnonzero(weights):
            a, b = self._a[self._of == j], self._b[self._of == j]
            rows = S[a] - S[b]
            off = weights[j] * (rows[:, a] - rows[:, b])
            found[np.ix_(a, a)] += off
            found[np.ix_(b, b)] += off
            found[np.ix_(a, b)] -= off
            found[np.ix_(b, a)] -= off
        return found

    def stretched(self, x: np.ndarray) -> np.ndarray:
        """(count,) x' L_j x = sum over the edges of matching j of (x_a - x_b)^2."""
        return np.bincount(self._of, (x[self._a] - x[self._b]) ** 2, self.count)


def probabilities(L: Matchings, budget: float) -> np.ndarray:
    """(M,) p maximising lambda_2(sum_j p_j L_j) with 0 <= p <= 1 and sum p <= budget M.

    Within GAP of the optimum, by an interior point method; of larger graphs by cutting planes, about NEAR of it.
    """
    count = L.count
    if budget == 1 or not count:
        return np.ones(count)
    if NEWTON * count * L.m**2 * max(count, L.m) > WORK:
        return _cut(L, budget)
    return _interior(L, budget)


def _interior(L: Matchings, budget: float) -> np.ndarray:
    """The semidefinite program: max t with Z = sum_j p_j L_j + J - t (I - J) positive semidefinite and p as above.

    Newton's method on -k t - log det Z - log of every other slack; where its gradient is 0, t is within (number of slacks) / k
    of the optimum. k rises until that is GAP.
    """
    m, count, most = L.m, L.count, budget * L.count
    away = np.eye(m) - 1 / m
    each = np.stack([L.laplacian(row) for row in np.eye(count)])
    p = np.full(count, 0.9 * budget)
    reached = np.linalg.eigvalsh(L.laplacian(p))[min(1, m - 1)]
    if reached < 1e-12:
        return np.full(count, budget)  # a graph that is not connected: nothing connects it better
    x = np.append(p, reached / 2)  # p and t
    slacks = m + 2 * count + 1

    def factored(x: np.ndarray) -> np.ndarray | None:
        """The Cholesky factor of Z; None where x is not inside."""
        p, t = x[:-1], x[-1]
        if p.min() <= 0 or p.max() >= 1 or p.sum() >= most:
            return None
        try:
            return np.linalg.cholesky(L.laplacian(p) + 1 / m - t * away)
        except np.linalg.LinAlgError:
            return None

    def value(x: np.ndarray, k: float) -> float:
        R = factored(x)
        if R is None:
            return np.inf
        rest = np.concatenate([x[:-1], 1 - x[:-1], [most - x[:-1].sum()]])
        return float(-k * x[-1] - 2 * np.log(np.diag(R)).sum() - np.log(rest).sum())

    k = slacks / reached
    while True:
        for _ in range(NEWTON):
            p, t = x[:-1], x[-1]
            Z = np.linalg.inv(L.laplacian(p) + 1 / m - t * away)
            moved = np.concatenate([each, -away[None]]) @ Z  # (count + 1, m, m)
            slope = -np.einsum("jaa->j", moved)
            curve = moved.reshape(count + 1, -1) @ moved.transpose(0, 2, 1).reshape(count + 1, -1).T
            left = most - p.sum()
            slope[:-1] += 1 / (1 - p) - 1 / p + 1 / left
            slope[-1] -= k
            curve[:-1, :-1] += np.diag(1 / p**2 + 1 / (1 - p) ** 2) + 1 / left**2
            scale = 1 / np.sqrt(np.diag(curve))  # p near 0 and 1 have second derivatives of 1e20
            step = -scale * np.linalg.solve(curve * np.outer(scale, scale), scale * slope)
            decrement = float(-slope @ step)
            if not decrement > 1e-9:
                break
            size, now = 1.0, value(x, k)
            while value(x + size * step, k) > now - 0.1 * size * decrement and size > 1e-10:
                size /= 2
            if size <= 1e-10:
                break
            x = x + size * step
        if slacks / k <= GAP / 10:
            return _filled(x[:-1], most)
        k *= 8


def _filled(p: np.ndarray, most: float) -> np.ndarray:
    """p with what is 0 or 1 but for SNAP made so, and what is left of the budget given to the others.

    What lies so near an end costs next to nothing there: p_j times what a unit of it is worse than the others is 1 / k.
    """
    p = np.where(p < SNAP, 0.0, np.where(p > 1 - SNAP, 1.0, p))
    free = (p > 0) & (p < 1)
    if free.any():
        p = p + free * (most - p.sum()) / free.sum()
    return np.clip(p, 0, 1)


def _cut(L: Matchings, budget: float) -> np.ndarray:
    """The same by cutting planes: lambda_2(p) is at most p . s, s_j = x' L_j x, whatever x of length 1 without a mean is.

    A linear program gives the p near the best so far with the highest of all bounds; the eigenvector there, a new one.
    """
    from scipy.optimize import linprog

    count, planes, radius = L.count, list[np.ndarray](), 0.1
    best = p = np.full(count, budget)
    reached, over = -1.0, 2.0 * count  # no eigenvalue of a matching's Laplacian is above 2
    while radius > NARROW:
        planes.append(L.stretched(top(L.expected(p / over))[1]))
        here = float(planes[-1] @ p)
        best, reached, radius = (p, here, radius) if here > reached else (best, reached, 0.7 * radius)
        below = np.column_stack([-np.array(planes), np.ones(len(planes))])  # t - p . s <= 0
        limits, most = np.vstack([below, np.append(np.ones(count), 0)]), np.append(np.zeros(len(planes)), budget * count)
        near = [(max(0, q - radius), min(1, q + radius)) for q in best]
        boxes = [*[(0, 1)] * count, (0, None)], [*near, (0, None)]
        highest, found = (linprog(np.append(np.zeros(count), -1), limits, most, bounds=box) for box in boxes)
        if -highest.fun - reached <= NEAR * reached:
            break
        p = found.x[:-1]
    return best


def second_moment(L: Matchings, p: np.ndarray, alpha: float) -> np.ndarray:
    """E[W'W] = I - 2 alpha Lbar + alpha^2 (Lbar^2 + 2 Ltilde), Lbar = sum p_j L_j, Ltilde = sum p_j (1 - p_j) L_j."""
    bar, tilde = L.laplacian(p), L.laplacian(p * (1 - p))
    return np.eye(len(bar)) - 2 * alpha * bar + alpha**2 * (bar @ bar + 2 * tilde)


def bernoulli(L: Matchings, p: np.ndarray, alpha: float) -> Expectation:
    """Of W = I - alpha sum_j B_j L_j: E[W S W'] = E[W] S E[W]' + alpha^2 sum_j p_j (1 - p_j) L_j S L_j."""
    if L.m > FOLLOWED:
        return Expectation(L.expected(alpha * p), None, sparse_moment(L, p, alpha))
    mean = np.eye(L.m) - alpha * L.laplacian(p)
    variance = alpha**2 * p * (1 - p)

    def second(S: np.ndarray) -> np.ndarray:
        return np.asarray(mean @ S @ mean + L.conjugated(S, variance))

    return Expectation(recognise(mean), second)


def sparse_moment(L: Matchings, p: np.ndarray, alpha: float) -> Edges:
    """E[W'W], as second_moment has it: E[W]^2 less the Laplacian of the spread."""
    mean, spread = L.expected(alpha * p).edges.csr, L.expected(2 * alpha**2 * p * (1 - p)).edges.csr
    return Edges.of_sparse(mean @ mean - spread + identity(L.m).csr)


def rho(L: Matchings, p: np.ndarray, alpha: float) -> float:
    """||E[W'W] - J||_2"""
    return float(np.abs(np.linalg.eigvalsh(second_moment(L, p, alpha) - 1 / L.m)).max())


def best_alpha(L: Matchings, p: np.ndarray) -> float:
    """The weight with the least rho, in (0, 1); rho is convex in it, so golden section finds it."""
    from scipy.optimize import minimize_scalar

    def least(of: Callable[[float], float]) -> float:
        return float(minimize_scalar(of, bounds=(0, 1), method="bounded", options={"xatol": 1e-10}).x)

    if L.m <= WHOLE:
        return least(lambda alpha: rho(L, p, alpha))
    # of many: rho is the largest of parabolas, E |W x|^2 for each x without a mean; the next is of where these are least
    found, alpha = list[np.ndarray](), 0.5
    for _ in range(PARABOLAS):
        x = top(sparse_moment(L, p, alpha))[1]
        moved = x - L.expected(p).csr @ x
        found.append(np.array([1, -2 * x @ moved, moved @ moved + 2 * L.stretched(x) @ (p * (1 - p))]))
        before, alpha = alpha, least(lambda a: float((np.array(found) @ (1, a, a * a)).max()))
        if abs(alpha - before) < 1e-9:
            break
    return alpha


@register("matcha", "mixing")
@dataclass(frozen=True)
class Matcha(Mixing):
    """W_r = I - alpha sum_j B_j L_j with B_j ~ Bernoulli(p_j): matchings at random, within a budget. arXiv:1905.09435.

    budget: the expected share of matchings in a communication, in (0, 1]; 1 is the whole graph every time. alpha: auto has the
    least mean square contraction. probabilities: auto connects the expected graph best; a run keeps them in its config, because
    hosts that round differently could find others that are as good, and would then draw other matchings.
    """

    structured: ClassVar[bool] = True
    in_pairs: ClassVar[bool] = True

    budget: float = option(0.5, "expected share of the matchings in a communication", unit="share")
    alpha: Any = option(
        "auto", "the weight of a link; auto: that of the least mean square contraction", unit="", type="float or auto"
    )
    probabilities: Any = option(
        "auto",
        "of each matching, to be drawn in a communication; auto: the best within the budget",
        unit="share",
        type="list or auto",
    )
    topology: Graph = field(default_factory=Ring)
    seed: int = of_run("seed", 0)

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 1:
            raise ValueError(f"algo.budget: must lie in (0, 1], got {self.budget}")
        auto_or_number("algo.alpha", self.alpha)
        p = self.probabilities
        if p != "auto" and not (isinstance(p, list) and all(is_number(x) and 0 <= x <= 1 for x in p)):
            raise ValueError(f"algo.probabilities: must be auto or list a number in [0, 1] for each matching, got {p!r}")

    def cycle(self, m: int) -> None:
        return None

    def _design(self, m: int) -> tuple[Matchings, np.ndarray, float]:
        """The matchings, their probabilities (M,), and alpha."""
        return self.once(("design", m), lambda: self._designed(m))

    def _designed(self, m: int) -> tuple[Matchings, np.ndarray, float]:
        L = Matchings(decompose(self.topology.links(m, self.seed)), m)
        if self.probabilities != "auto" and len(self.probabilities) != L.count:
            raise ValueError(
                f"algo.probabilities: are of {len(self.probabilities)} matchings, but {m} workers on this topology have "
                f"{L.count}; set algo.probabilities=auto"
            )
        if self.probabilities != "auto" and abs((spent := sum(self.probabilities)) - self.budget * L.count) > 1e-6 * L.count:
            raise ValueError(
                f"algo.probabilities: add up to {spent:.6g} of {L.count} matchings, and algo.budget={self.budget:g} to "
                f"{self.budget * L.count:.6g}; set algo.probabilities=auto, or the budget that they have"
            )
        p = probabilities(L, self.budget) if self.probabilities == "auto" else np.array(self.probabilities, dtype=float)
        return L, p, float(self.alpha) if self.alpha != "auto" else best_alpha(L, p) if L.count else 0.0

    def computed_settings(self, m: int) -> dict[str, Any]:
        return {"probabilities": self._design(m)[1].tolist()}

    def best_alpha(self, m: int) -> float | None:
        L, p, _ = self._design(m)
        return best_alpha(L, p) if L.count else None

    def matrices(self, m: int, r: int) -> tuple[Matrix, ...]:
        L, p, alpha = self._design(m)
        return (L.mixed(stream(self.seed, "matcha", r).random(len(p)) < p, alpha),)

    def negative(self, m: int) -> str | None:
        """In the worst case: all matchings that can be drawn, together. alpha times as many as a worker is in leave its row."""
        L, p, alpha = self._design(m)
        whole: Matrix = L.mixed(p > 0, alpha)
        i, j, weight = (self._lazily((whole,))[0] if self.lazy else whole).least
        return negative_weight(i, j, weight) if weight < -ROUNDING else None

    def expectation(self, m: int) -> Expectation:
        return cast(Expectation, self.once(("expectation", m), lambda: bernoulli(*self._design(m))))
