"""Named graphs: who may talk to whom, as a list of links, with the spectrum of the Laplacian where it is known.

Undirected graphs are symmetric; no worker is its own neighbour. networkx draws the random ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from coopsgd.host import news, sizes
from coopsgd.mixing import graphfiles
from coopsgd.mixing.links import AllToAll, Links, directed, links_of, links_of_pairs, undirected
from coopsgd.mixing.matrix import Modes
from coopsgd.mixing.structured import circulant
from coopsgd.registry import option, register
from coopsgd.streams import seed_of

ATTEMPTS = 1000  # draws of a random graph before giving up on a connected one
FEW = 2e5  # edges that take a second or two to draw
SAMPLED = 10_000  # of a graph that is drawn to see how long a larger one takes
LARGER = 1.5  # what an edge of a graph larger than the caches takes, of what it takes there
PATIENCE = 5.0  # seconds that it may take without a word


def _cyclic(links: Links) -> Links:
    """The same, where worker i stands to i - h as 0 stands to -h: its eigenvalues are sums of roots of unity."""
    hops = -links.columns[links.rows == 0]
    return replace(links, eigenvalues=circulant(links.m, [0, *hops], [len(hops), *[-1.0] * len(hops)]))


@dataclass(frozen=True)
class Graph:
    """A family of graphs. One of your own says `adjacency(m, seed)`, or `links(m, seed)`: the family's member on m workers."""

    def adjacency(self, m: int, seed: int = 0) -> np.ndarray:
        """(m, m) bool, [i, j] = worker i takes from worker j. ValueError when the family has no member of size m."""
        own = type(self).links is not Graph.links
        return (self.links if own else self._links)(m, seed).adjacency()

    def links(self, m: int, seed: int = 0) -> Links:
        """The same as a list, which needs no (m, m) array where the family is one of these."""
        own = type(self).adjacency is not Graph.adjacency
        return links_of(self.adjacency(m, seed)) if own else self._links(m, seed)

    @property
    def names(self) -> tuple[str, ...] | None:
        """(m,) what each worker is called; None where they have no names."""
        return None

    def notes(self, m: int) -> tuple[str, ...]:
        """Lines that a user should read before a run on m workers starts."""
        return ()

    def _links(self, m: int, seed: int) -> Links:
        raise NotImplementedError


@register("ring", "graph")
@dataclass(frozen=True)
class Ring(Graph):
    """Every worker talks to the two beside it, the last to the first."""

    def _links(self, m: int, seed: int) -> Links:
        i = np.arange(m)
        return replace(_cyclic(undirected(m, i, (i + 1) % m)), alike=True)


@register("chain", "graph")
@dataclass(frozen=True)
class Chain(Graph):
    """A ring cut open: the two ends have one neighbour."""

    def _links(self, m: int, seed: int) -> Links:
        i = np.arange(m - 1)
        return replace(undirected(m, i, i + 1), eigenvalues=Modes(("chain", m), _of_a_chain(m)))


def _of_a_chain(m: int) -> np.ndarray:
    """(m,) eigenvalues of the Laplacian of m in a row."""
    return np.asarray(2 - 2 * np.cos(np.pi * np.arange(m) / m))


@register("star", "graph")
@dataclass(frozen=True)
class Star(Graph):
    """Worker 0 talks to everyone, the others only to it."""

    def _links(self, m: int, seed: int) -> Links:
        values = np.ones(m)
        values[:1], values[1:][-1:] = 0, m
        others = np.minimum(np.arange(m), 1)
        found = undirected(m, np.zeros(m, dtype=int), np.arange(m))
        return replace(found, eigenvalues=Modes(("star", m), values), labels=others, alike=True)


@register("tree", "graph")
@dataclass(frozen=True)
class Tree(Graph):
    """Worker 0 is the root; i hangs below (i - 1) // children."""

    children: int = option(2, "of each, at most: 2 is a binary tree, 1 a chain", unit="workers")

    def __post_init__(self) -> None:
        if self.children < 1:
            raise ValueError(f"topology.children: must be at least 1, got {self.children}")

    def _links(self, m: int, seed: int) -> Links:
        i = np.arange(1, m)
        return undirected(m, i, (i - 1) // self.children)


@register("complete", "graph")
@dataclass(frozen=True)
class Complete(Graph):
    """Everyone talks to everyone."""

    def _links(self, m: int, seed: int) -> Links:
        return AllToAll(m)


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

    rows: Any = option("auto", "of the grid; auto: as square as it gets", unit="rows", type="int or auto")

    def _links(self, m: int, seed: int) -> Links:
        rows, cols = _sides("grid", m, self.rows)
        at = np.arange(m).reshape(rows, cols)
        a, b = (np.concatenate([right.ravel(), down.ravel()]) for right, down in ((at[:, :-1], at[:-1]), (at[:, 1:], at[1:])))
        values = np.add.outer(_of_a_chain(rows), _of_a_chain(cols)).ravel()
        return replace(undirected(m, a, b), eigenvalues=Modes(("grid", rows, cols), values))


@register("torus", "graph")
@dataclass(frozen=True)
class Torus(Grid):
    """A grid whose border wraps around, two-dimensional."""

    def _links(self, m: int, seed: int) -> Links:
        rows, cols = _sides("torus", m, self.rows)
        at = np.arange(m).reshape(rows, cols)
        # a simple graph: a torus with two rows has one edge up-down, not two
        found = undirected(m, np.append(at, at), np.append(np.roll(at, -1, axis=1), np.roll(at, -1, axis=0)))
        first = np.zeros(m)
        first[found.columns[found.rows == 0]] = -1
        first[0] = -first.sum()
        values = np.fft.fft2(first.reshape(rows, cols)).real.ravel()
        return replace(found, eigenvalues=Modes(("torus", rows, cols), values), alike=rows == cols)


@register("hypercube", "graph")
@dataclass(frozen=True)
class Hypercube(Graph):
    """Workers whose numbers differ in one bit are neighbours; a power of two of them."""

    def _links(self, m: int, seed: int) -> Links:
        if m & (m - 1):
            raise ValueError(f"hypercube: needs a power of two workers, got {m}; ring or exponential take any number")
        i, bits = np.arange(m), m.bit_length() - 1
        found = undirected(m, np.tile(i, bits), (i ^ (1 << np.arange(bits))[:, None]).ravel())
        ones = sum((i >> b & 1 for b in range(bits)), np.zeros(m))
        return replace(found, eigenvalues=Modes(("walsh", m), 2 * ones), alike=True)


@register("exponential", "graph")
@dataclass(frozen=True)
class Exponential(Graph):
    """Static exponential graph, directed: worker i takes from i - 1, i - 2, i - 4, ... (Ying et al., arXiv:2110.13363)."""

    def _links(self, m: int, seed: int) -> Links:
        i, hops = np.arange(m), 1 << np.arange(max(m - 1, 0).bit_length())  # ceil(log2 m) of them
        return _cyclic(directed(m, np.tile(i, len(hops)), ((i - hops[:, None]) % m).ravel()))


def _room(name: str, edges: float, out: str) -> None:
    """ConfigError when networkx would take too much memory for so many edges: each is a dictionary in two others."""
    sizes.refuse("topology", 2 * sizes.OBJECT * edges, f"the {edges:.3g} edges of {name}", out)


def _foretell(name: str, m: int, edges: float, draw: Callable[[int], Any], few: int) -> None:
    """Say how long it takes to draw so many edges, if it takes long, by a draw of `few` workers of the same kind."""
    if edges < FEW:
        return
    began = time.monotonic()
    graph = draw(few)
    links_of_pairs(few, graph.edges)
    left = (time.monotonic() - began) * LARGER * edges / max(1, graph.number_of_edges())
    if left > PATIENCE:
        news.tell(f"topology: {name} of {m} workers is drawn, about {news.duration(left)} unless it falls into parts")


@register("random_regular", "graph")
@dataclass(frozen=True)
class RandomRegular(Graph):
    """A connected graph drawn among those in which everyone has `degree` neighbours; the seed is the run's."""

    degree: int = option(3, "neighbours of each", unit="workers")

    def _links(self, m: int, seed: int) -> Links:
        import networkx

        if not 0 < self.degree < m:
            raise ValueError(f"random_regular: degree must lie in 1 .. workers - 1 = {m - 1}, got {self.degree}")
        if m * self.degree % 2:
            raise ValueError(f"random_regular: workers * degree must be even, got {m} * {self.degree}; change either by one")
        _room("random_regular", m * self.degree / 2, "lower topology.degree or workers")

        def draw(n: int, seed: int) -> Any:
            return networkx.random_regular_graph(self.degree, n, seed=seed)

        k = self.degree
        _foretell("random_regular", m, m * k / 2, lambda n: draw(n, 0), 2 * max(SAMPLED // k, k))
        for attempt in range(ATTEMPTS):
            graph = draw(m, seed_of(seed, "topology", attempt))
            if networkx.is_connected(graph):
                return links_of_pairs(m, graph.edges)
        raise ValueError(f"random_regular: no connected graph of degree {self.degree} on {m} workers; raise the degree")


@register("erdos_renyi", "graph")
@dataclass(frozen=True)
class ErdosRenyi(Graph):
    """Each pair is an edge with probability p, redrawn until connected; auto is 2 ln(m) / m, rarely redrawn."""

    p: Any = option("auto", "probability of a pair; auto: 2 ln(m) / m", unit="share", type="float or auto")

    def __post_init__(self) -> None:
        if self.p != "auto" and not (isinstance(self.p, int | float) and 0 < self.p <= 1):
            raise ValueError(f"erdos_renyi: p must be auto or lie in (0, 1], got {self.p!r}")

    def _links(self, m: int, seed: int) -> Links:
        import networkx

        p = min(1.0, 2 * math.log(max(m, 2)) / m) if self.p == "auto" else float(self.p)
        _room("erdos_renyi", p * m * m / 2, "lower topology.p or workers")

        def draw(n: int, seed: int) -> Any:
            return networkx.fast_gnp_random_graph(n, p, seed=seed)

        _foretell("erdos_renyi", m, p * m * m / 2, lambda n: draw(n, 0), int(math.sqrt(2 * SAMPLED / p)))
        for attempt in range(ATTEMPTS):
            graph = draw(m, seed_of(seed, "topology", attempt))
            if networkx.is_connected(graph):
                return links_of_pairs(m, graph.edges)
        raise ValueError(f"erdos_renyi: no connected graph in {ATTEMPTS} draws with p = {p:.4g} on {m} workers; raise p")


@register("file", "graph")
@dataclass(frozen=True)
class File(Graph):
    """The graph of a file: edge list, adjacency list, GML, GraphML or adjacency matrix (mixing/graphfiles.py); a node a worker.

    Edges of lists go both ways unless directed=true: then an edge from a to b is a message that b takes from a. GML, GraphML
    and matrices say it themselves (auto). Self-loops are dropped, an edge named twice counts once, weights are not read: lines
    before the run say so.
    """

    file: str = option("", "edge list, adjacency list, GML, GraphML, or adjacency matrix, [i, j] = i takes from j")
    format: str = option(
        "auto",
        "edges, adjacency, gml, graphml, matrix; auto: by the end of the file's name",
        words=("auto", *graphfiles.FORMATS),
    )
    directed: Any = option(
        "auto",
        "true: an edge goes one way, from the first to the second; auto: as the file says, else false",
        type="bool or auto",
    )

    FILES: ClassVar[tuple[str, ...]] = ("file",)

    def __post_init__(self) -> None:
        if not self.file:
            raise ValueError("topology.file: is missing; name the file of a graph, as in topology.file=graph.gml")
        if self.format not in ("auto", *graphfiles.FORMATS):
            raise ValueError(f"topology.format: must be auto or one of {', '.join(graphfiles.FORMATS)}, got {self.format!r}")
        if self.directed not in ("auto", True, False):
            raise ValueError(f"topology.directed: must be auto, true or false, got {self.directed!r}")

    @cached_property
    def _found(self) -> graphfiles.Read:
        """What the file holds, read once."""
        return graphfiles.read("topology.file", self.file, self.format)

    @property
    def names(self) -> tuple[str, ...]:
        return self._found.names

    def _links(self, m: int, seed: int) -> Links:
        n, (a, b) = len(self._found.names), self._found.edges.T
        if n != m:
            lacks = sorted({*map(str, range(m))} - {*self._found.names}, key=int) if n < m else []
            more = f" (no edge names {', '.join(lacks[:5])})" if len(lacks) == m - n else ""
            raise ValueError(f"topology.file: {self.file!r} has {n} nodes, but workers={m}{more}; set workers={n}")
        one_way = self._found.directed if self.directed == "auto" else self.directed
        return directed(m, b, a) if one_way else undirected(m, a, b)

    def notes(self, m: int) -> tuple[str, ...]:
        links, notes = self.links(m), list(self._found.notes)
        if self.directed == "auto" and not self._found.directed:
            one_way = {(a, b) for a, b in self._found.edges.tolist() if a != b}
            alone = sum((b, a) not in one_way for a, b in one_way)
            if 0 < alone < len(one_way):
                notes.append(
                    f"topology.file: some edges are named both ways, {alone} are named one way alone; all are taken to go both "
                    "ways, topology.directed=true takes each as it is named"
                )
        heard = np.bincount(links.columns, minlength=m)
        if not links.undirected and len({*links.degrees.tolist(), *heard.tolist()}) > 1:
            notes.append(
                "topology.file: messages go one way and not by as many to and from each worker, so metropolis and uniform "
                "weights move their mean"
            )
        return tuple(notes)
