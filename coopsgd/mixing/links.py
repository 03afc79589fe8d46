"""Who takes from whom, as a sorted list of links, and what is seen from it: degrees, pairs, parts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from coopsgd.host import sizes
from coopsgd.mixing.matrix import Modes


@dataclass(frozen=True, eq=False)
class Links:
    """Who takes from whom among m workers: rows[e] takes from columns[e]; sorted, none twice, nobody from itself.

    eigenvalues: of the Laplacian, in closed form. labels: workers with one label may change places and nothing changes.
    alike: is every edge to every other as any is, by a symmetry of the graph?
    """

    m: int
    rows: np.ndarray
    columns: np.ndarray
    eigenvalues: Modes | None = None
    labels: np.ndarray | None = None
    alike: bool = False

    @property
    def count(self) -> int:
        """How many there are; an undirected edge is two."""
        return len(self.rows)

    @property
    def complete(self) -> bool:
        """Does everyone take from everyone?"""
        return self.m > 1 and self.count == self.m * (self.m - 1)

    @cached_property
    def degrees(self) -> np.ndarray:
        """(m,) from how many each takes."""
        return np.bincount(self.rows, minlength=self.m)

    @cached_property
    def undirected(self) -> bool:
        """Does everyone take from whoever takes from it?"""
        back = np.lexsort((self.rows, self.columns))
        return np.array_equal(self.rows[back], self.columns) and np.array_equal(self.columns[back], self.rows)

    @cached_property
    def pairs(self) -> np.ndarray:
        """(E, 2) undirected edges, each once, the smaller end first."""
        low, high = np.minimum(self.rows, self.columns), np.maximum(self.rows, self.columns)
        key = np.unique(low * self.m + high)
        return np.stack([key // self.m, key % self.m], axis=1)

    def parts(self) -> list[list[int]]:
        """The workers that hang together, whichever way messages go, in groups that do not."""
        part = np.arange(self.m)
        while True:
            least = part.copy()
            np.minimum.at(least, self.rows, part[self.columns])
            np.minimum.at(least, self.columns, part[self.rows])
            least = least[least]
            if (least == part).all():
                return [np.flatnonzero(part == one).tolist() for one in np.unique(part)]
            part = least

    def adjacency(self) -> np.ndarray:
        """(m, m) bool"""
        sizes.refuse("workers", 1.0 * self.m**2, f"the adjacency of {self.m} workers", "lower it")
        taken = np.zeros((self.m, self.m), dtype=bool)
        taken[self.rows, self.columns] = True
        return taken


class AllToAll(Links):
    """Everyone takes from everyone; the list is made when it is asked for, and an average asks for none."""

    def __init__(self, m: int) -> None:
        object.__setattr__(self, "m", m)

    @property
    def count(self) -> int:
        return self.m * (self.m - 1)

    @cached_property
    def rows(self) -> np.ndarray:
        sizes.refuse("workers", 16.0 * self.count, f"the edges of {self.m} workers, all to all", "lower it")
        return np.repeat(np.arange(self.m), self.m - 1)

    @cached_property
    def columns(self) -> np.ndarray:
        others = np.tile(np.arange(self.m - 1), self.m)
        return others + (others >= self.rows)


def links_of(graph: Links | np.ndarray) -> Links:
    """From an (m, m) bool adjacency, [i, j] = i takes from j."""
    if isinstance(graph, Links):
        return graph
    rows, columns = np.nonzero(graph)
    return Links(len(graph), rows, columns)


def directed(m: int, rows: Any, columns: Any) -> Links:
    """Links from a list in any order; self-loops and repetitions are dropped."""
    rows, columns = np.asarray(rows, dtype=int), np.asarray(columns, dtype=int)
    key = np.unique((rows * m + columns)[rows != columns])
    return Links(m, key // m, key % m)


def undirected(m: int, a: Any, b: Any) -> Links:
    """Links both ways between a[e] and b[e]; self-loops and repetitions are dropped."""
    return directed(m, np.append(a, b), np.append(b, a))


def links_of_pairs(m: int, edges: Any) -> Links:
    """From undirected edges, each named once."""
    a, b = np.array(list(edges), dtype=int).reshape(-1, 2).T
    return undirected(m, a, b)
