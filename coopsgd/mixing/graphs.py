"""Named graphs: who may talk to whom. Each answers `adjacency(m)`, an (m, m) bool array, [i, j] = i takes from j.

Undirected graphs are symmetric; no worker is its own neighbour. networkx builds what is more than a line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from coopsgd.host import sizes
from coopsgd.registry import register
from coopsgd.streams import seed_of

ATTEMPTS = 1000  # draws of a random graph before giving up on a connected one


@dataclass(frozen=True)
class Graph:
    """A family of graphs; `adjacency(m, seed)` is its member on m workers."""

    def adjacency(self, m: int, seed: int = 0) -> np.ndarray:
        """(m, m) bool, [i, j] = worker i takes from worker j. ValueError when the family has no member of size m."""
        raise NotImplementedError


def _undirected(m: int, edges: Any) -> np.ndarray:
    taken = np.zeros((m, m), dtype=bool)
    for i, j in edges:
        if i != j:
            taken[i, j] = taken[j, i] = True
    return taken


@register("ring", "graph")
@dataclass(frozen=True)
class Ring(Graph):
    """Every worker talks to the two beside it, the last to the first."""

    def adjacency(self, m: int, seed: int = 0) -> np.ndarray:
        return _undirected(m, ((i, (i + 1) % m) for i in range(m)))


@register("chain", "graph")
@dataclass(frozen=True)
class Chain(Graph):
    """A ring cut open: the two ends have one neighbour."""

    def adjacency(self, m: int, seed: int = 0) -> np.ndarray:
        return _undirected(m, ((i, i + 1) for i in range(m - 1)))


@register("star", "graph")
@dataclass(frozen=True)
class Star(Graph):
    """Worker 0 talks to everyone, the others only to it."""

    def adjacency(self, m: int, seed: int = 0) -> np.ndarray:
        return _undirected(m, ((0, i) for i in range(1, m)))


@register("complete", "graph")
@dataclass(frozen=True)
class Complete(Graph):
    """Everyone talks to everyone."""

    def adjacency(self, m: int, seed: int = 0) -> np.ndarray:
        return ~np.eye(m, dtype=bool)


def _sides(name: str, m: int, rows: Any) -> tuple[int, int]:
    """rows * cols = m, as square as m allows when rows is auto."""
    if rows == "auto":
        rows = next((r for r in range(math.isqrt(m), 1, -1) if m % r == 0), 1)
        if rows == 1:
            raise ValueError(f"{name}: needs workers = rows * cols, both at least 2, got {m}; ring or chain take any number")
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 2:
        raise ValueError(f"{name}: rows must be auto or a whole number of at least 2, got {rows!r}")
    if m % rows or m // rows < 2:
        raise ValueError(f"{name}: {m} workers do not fill {rows} rows of at least 2; choose rows dividing workers")
    return rows, m // rows


@register("grid", "graph")
@dataclass(frozen=True)
class Grid(Graph):
    """Rows by columns, neighbours up, down, left and right; the border ends."""

    rows: Any = "auto"

    def adjacency(self, m: int, seed: int = 0) -> np.ndarray:
        return self._adjacency("grid", m, periodic=False)

    def _adjacency(self, name: str, m: int, periodic: bool) -> np.ndarray:
        import networkx

        rows, cols = _sides(name, m, self.rows)
        # a simple graph: a torus with two rows has one edge up-down, not two
        graph = networkx.grid_2d_graph(rows, cols, periodic=periodic)
        return _undirected(m, ((a * cols + b, c * cols + d) for (a, b), (c, d) in graph.edges))


@register("torus", "graph")
@dataclass(frozen=True)
class Torus(Grid):
    """A grid whose border wraps around, two-dimensional."""

    def adjacency(self, m: int, seed: int = 0) -> np.ndarray:
        return self._adjacency("torus", m, periodic=True)


@register("hypercube", "graph")
@dataclass(frozen=True)
class Hypercube(Graph):
    """Workers whose numbers differ in one bit are neighbours; a power of two of them."""

    def adjacency(self, m: int, seed: int = 0) -> np.ndarray:
        if m & (m - 1):
            raise ValueError(f"hypercube: needs a power of two workers, got {m}; ring or exponential take any number")
        return _undirected(m, ((i, i ^ (1 << b)) for i in range(m) for b in range(m.bit_length() - 1)))


@register("exponential", "graph")
@dataclass(frozen=True)
class Exponential(Graph):
    """Static exponential graph, directed: worker i takes from i - 1, i - 2, i - 4, ... (Ying et al., arXiv:2110.13363)."""

    def adjacency(self, m: int, seed: int = 0) -> np.ndarray:
        taken = np.zeros((m, m), dtype=bool)
        rows = np.arange(m)
        for power in range(max(m - 1, 0).bit_length()):  # ceil(log2 m) hops
            taken[rows, (rows - (1 << power)) % m] = True
        return taken & ~np.eye(m, dtype=bool)


def _room(name: str, edges: float, out: str) -> None:
    """ConfigError when networkx would take too much memory for so many edges: each is a dictionary in two others."""
    sizes.refuse("topology", 2 * sizes.OBJECT * edges, f"the {edges:.3g} edges of {name}", out)


def _connected(graph: Any) -> bool:
    import networkx

    return networkx.is_connected(graph)


@register("random_regular", "graph")
@dataclass(frozen=True)
class RandomRegular(Graph):
    """A connected graph drawn among those in which everyone has `degree` neighbours; the seed is the run's."""

    degree: int = 3

    def adjacency(self, m: int, seed: int = 0) -> np.ndarray:
        import networkx

        if not 0 < self.degree < m:
            raise ValueError(f"random_regular: degree must lie in 1 .. workers - 1 = {m - 1}, got {self.degree}")
        if m * self.degree % 2:
            raise ValueError(f"random_regular: workers * degree must be even, got {m} * {self.degree}; change either by one")
        _room("random_regular", m * self.degree / 2, "lower topology.degree or workers")
        for attempt in range(ATTEMPTS):
            graph = networkx.random_regular_graph(self.degree, m, seed=seed_of(seed, "topology", attempt))
            if _connected(graph):
                return _undirected(m, graph.edges)
        raise ValueError(f"random_regular: no connected graph of degree {self.degree} on {m} workers; raise the degree")


@register("erdos_renyi", "graph")
@dataclass(frozen=True)
class ErdosRenyi(Graph):
    """Each pair is an edge with probability p, redrawn until connected; auto is 2 ln(m) / m, rarely redrawn."""

    p: Any = "auto"

    def __post_init__(self) -> None:
        if self.p != "auto" and not (isinstance(self.p, int | float) and 0 < self.p <= 1):
            raise ValueError(f"erdos_renyi: p must be auto or lie in (0, 1], got {self.p!r}")

    def adjacency(self, m: int, seed: int = 0) -> np.ndarray:
        import networkx

        p = min(1.0, 2 * math.log(max(m, 2)) / m) if self.p == "auto" else float(self.p)
        _room("erdos_renyi", p * m * m / 2, "lower topology.p or workers")
        for attempt in range(ATTEMPTS):
            graph = networkx.fast_gnp_random_graph(m, p, seed=seed_of(seed, "topology", attempt))
            if _connected(graph):
                return _undirected(m, graph.edges)
        raise ValueError(f"erdos_renyi: no connected graph in {ATTEMPTS} draws with p = {p:.4g} on {m} workers; raise p")
