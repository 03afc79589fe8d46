"""Trees along which models are relayed (strategies/relay.py), and what rides along with them is gossiped."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np

from coopsgd.mixing import matrices
from coopsgd.mixing.base import Mixing
from coopsgd.mixing.graphs import Graph, Ring
from coopsgd.mixing.links import Links
from coopsgd.mixing.matrix import Edges, Matrix
from coopsgd.registry import of_run, option, register


@register("relays", "mixing")
@dataclass(frozen=True)
class Relays(Mixing):
    """A tree, or two: the topology's, and the same with the workers in the opposite order for the second half of the columns.

    The matrix of the first communication is what relaying then is: a worker counts each neighbour and itself for 1 / m, and
    itself for all it has not heard of. Later ones are no product of matrices for the models; running statistics and buffers
    are then gossiped along the topology by Metropolis weights.
    """

    structured: ClassVar[bool] = True

    trees: int = option(1, "2: the second half of the columns by the topology with workers in the opposite order", unit="trees")
    topology: Graph = field(default_factory=Ring)
    seed: int = of_run("seed", 0)

    def __post_init__(self) -> None:
        if self.trees not in (1, 2):
            raise ValueError(f"algo.trees: must be 1 or 2, got {self.trees}")

    def cycle(self, m: int) -> None:
        return None

    def links(self, m: int) -> Links:
        """Of the first tree."""
        return cast(Links, self.once(("links", m), lambda: self.topology.links(m, self.seed)))

    def neighbours(self, m: int, tree: int = 0) -> Edges:
        """(m, m) adjacency of a tree, which adds up what the neighbours have."""

        def made() -> Edges:
            links = self.links(m)
            rows, columns = (m - 1 - links.rows, m - 1 - links.columns) if tree else (links.rows, links.columns)
            found = Edges.of(m, rows, columns, np.ones(len(rows)))
            object.__setattr__(found, "recurring", True)
            return found

        return cast(Edges, self.once(("neighbours", m, tree), made))

    def matrices(self, m: int, r: int) -> tuple[Matrix, ...]:
        name = ("gossip", m, r > 0)
        links = self.links(m)
        if r:
            return (self.once(name, lambda: matrices.metropolis(links)),)
        return (self.once(name, lambda: matrices.staying(links, np.full(links.count, 1 / m))),)

    def zeta(self, m: int) -> None:
        """No matrix tells."""
        return None

    def negative(self, m: int) -> None:
        """Neither has one."""
        return None

    def check(self, m: int) -> None:
        """ValueError unless the topology is a tree."""
        links = self.links(m)
        edges = len(links.pairs)
        why: Any = None
        if not links.undirected:
            why = "has edges that go one way"
        elif len(parts := links.parts()) > 1:
            why = f"has {len(parts)} parts that no edge joins"
        elif edges >= m and m > 1:
            why = f"has cycles, {edges} edges of {m} workers, round which a model would be counted again and again"
        if why:
            raise ValueError(f"topology: relays go along a tree, and this one {why}; use topology=chain, star or tree")
