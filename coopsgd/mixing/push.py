"""Directed graphs on which each sender shares out what it has, equally: columns sum to one, rows need not (push-sum).

A worker needs to know to how many it sends, and nothing of anybody else. Weights travel beside the models and say of how much a
sum is made: model = mass / weight. Where all send to as many as they hear from, weights stay one, and are not sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np

from coopsgd.mixing import matrices
from coopsgd.mixing.base import Mixing
from coopsgd.mixing.graphs import Graph, Ring
from coopsgd.mixing.links import Links, directed
from coopsgd.mixing.matrix import ROUNDING, Edges, Matrix, Modes, identity
from coopsgd.mixing.structured import circulant
from coopsgd.registry import of_run, option, register

BOOKS = ("exponential", "n_peer")


class Push(Mixing):
    """What sender j keeps and what each of its peers gets of it: 1 / (peers + 1)."""

    structured: ClassVar[bool] = True

    def book(self, m: int) -> int:
        """After how many communications the peers are the same again."""
        return 1

    def peers(self, m: int, r: int) -> Links:
        """Who takes from whom in communication r of the book."""
        raise NotImplementedError

    def shares(self, m: int, r: int) -> Matrix:
        """(m, m) P of communication r, columns sum to one: row i adds up P[i, j] of what each j has."""
        r %= self.book(m)
        return cast(Matrix, self.once(("shares", m, r), lambda: self._shared_out(m, r)))

    def _shared_out(self, m: int, r: int, known: Modes | None = None) -> Matrix:
        links = self.peers(m, r)
        if links.complete:
            return matrices.average(m)
        out, i = np.bincount(links.columns, minlength=m) + 1, np.arange(m)
        rows, columns = np.append(links.rows, i), np.append(links.columns, i)
        found = Edges.of(m, rows, columns, 1 / out[columns], known)
        object.__setattr__(found, "recurring", True)
        return found

    def steady(self, m: int) -> bool:
        """Do all weights stay one, because rows sum to one, too?"""
        every = range(self.book(m))
        return bool(self.once(("steady", m), lambda: all(self.shares(m, r).is_doubly_stochastic(ROUNDING) for r in every)))

    def weights(self, m: int, r: int) -> np.ndarray:
        """(m,) before communication r: P_(r-1) ... P_0 1. Those of the last r asked for are kept."""
        found: list[Any] = self.once(("weights", m), lambda: [0, np.ones(m)])
        if r < found[0]:
            found[:] = [0, np.ones(m)]
        while found[0] < r:
            new = self.shares(m, found[0]) @ found[1]
            stays = self.book(m) == 1 and np.abs(new - found[1]).max() <= 1e-15 * m
            found[:] = [r if stays else found[0] + 1, new]
        return cast(np.ndarray, found[1])

    def cycle(self, m: int) -> int | None:
        return self.book(m) if self.steady(m) else None

    def matrices(self, m: int, r: int) -> tuple[Matrix, ...]:
        """What it does to mass / weight: row i takes P[i, j] w_j / (P w)_i of each j. P itself where weights stay one."""
        P = self.shares(m, r)
        if self.steady(m):
            return (P,)
        e, w = P.edges, self.weights(m, r)
        return (Edges.of(m, e.rows, e.columns, e.weights * w[e.columns] / (P @ w)[e.rows]),)

    def negative(self, m: int) -> None:
        """Shares have none."""
        return None

    def check(self, m: int) -> None:
        """ValueError unless messages lead from everyone to everyone."""
        every = [self.peers(m, r) for r in range(self.book(m))]
        if self.allow_disconnected or any(links.complete for links in every):
            return
        takes, gives = (np.concatenate([getattr(links, side) for links in every]) for side in ("rows", "columns"))
        for at, to, way in ((gives, takes, "from worker 0 to worker {}"), (takes, gives, "from worker {} to worker 0")):
            reached = np.arange(m) == 0
            while (new := np.setdiff1d(to[reached[at]], np.flatnonzero(reached))).size:
                reached[new] = True
            if not reached.all():
                raise ValueError(
                    f"topology: no messages lead {way.format(int((~reached).argmax()))}, however many pass them on, so the "
                    "workers never agree; choose one with a way from everyone to everyone, or set algo.allow_disconnected=true"
                )


@register("push", "mixing")
@dataclass(frozen=True)
class PushOnGraph(Push):
    """Everyone sends to all its neighbours on the topology, of any directed graph, and keeps as much as each of them gets."""

    structured: ClassVar[bool] = True

    topology: Graph = field(default_factory=Ring)
    seed: int = of_run("seed", 0)

    def peers(self, m: int, r: int) -> Links:
        return cast(Links, self.once(("links", m), lambda: self.topology.links(m, self.seed)))


@register("push_by_book", "mixing")
@dataclass(frozen=True)
class PushByBook(Push):
    """One peer a communication, or a few, by a book that everybody turns the pages of together: arXiv:1811.10792 and its code.

    exponential: 1, -1, 2, -2, 4, -4, ... places on, each place once; 2^T workers agree exactly after 2 T - 1 communications.
    n_peer: `peers` at a time, j (peers + 1)^i places on, j = 1 .. peers, i = 0, 1, ... in turn.
    """

    structured: ClassVar[bool] = True

    book_of: str = option("exponential", "places that peers are at: exponential, 1, -1, 2, -2, ...; n_peer", words=BOOKS)
    peers_at_once: int = option(1, "of n_peer: to how many each sends in a communication", unit="workers")

    CYCLE = "algo.book_of"

    def __post_init__(self) -> None:
        if self.book_of not in BOOKS:
            raise ValueError(f"algo.book_of: must be one of {', '.join(BOOKS)}, got {self.book_of!r}")
        if self.peers_at_once < 1:
            raise ValueError(f"algo.peers_at_once: must be at least 1, got {self.peers_at_once}")
        if self.book_of == "exponential" and self.peers_at_once != 1:
            raise ValueError(
                f"algo.peers_at_once: the exponential book names one a communication, got {self.peers_at_once}; use "
                "algo.book_of=n_peer"
            )

    def pages(self, m: int) -> list[list[int]]:
        """Of each communication, how many places on its peers are."""
        p = self.peers_at_once
        if p >= max(m, 2):
            raise ValueError(f"algo.peers_at_once: {p} peers of each need more than {p} workers, got {m}; lower it")
        found: list[list[int]] = []
        hop = 1
        while hop < m:
            if self.book_of == "exponential":
                found += [[h] for h in dict.fromkeys((hop, m - hop)) if [h] not in found]
            else:
                found.append(sorted({j * hop % m for j in range(1, p + 1)} - {0}))
            hop *= p + 1
        return found or [[]]

    def book(self, m: int) -> int:
        return len(self.pages(m))

    def peers(self, m: int, r: int) -> Links:
        i, hops = np.arange(m), np.array(self.pages(m)[r], dtype=int)
        return directed(m, np.tile(i, len(hops)), ((i - hops[:, None]) % m).ravel())

    def _shared_out(self, m: int, r: int, known: Modes | None = None) -> Matrix:
        hops = [0, *self.pages(m)[r]]
        return identity(m) if m == 1 else super()._shared_out(m, r, circulant(m, hops, [1 / len(hops)] * len(hops)))
