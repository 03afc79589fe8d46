"""Lower a mixing matrix to what has to move: sums over groups of processes, and messages along single edges.

A fleet hands over W and a layout (who holds which row); the answer is the cheapest way found to make every new row
appear where it is held, and depends on nothing else. Pure numpy, so `show` can print it without a fleet.

How. Off the diagonal blocks of W (a process needs no message for what it holds):

* *sums* over groups of processes, and *edges*, messages of one process to another, as `sums.py` finds them;
* auxiliary rows are either *replicated* (each process keeps all of them, and one all-reduce of the workers' pull keeps
  the copies equal bit by bit) or *owned* (aux a lives on process a * processes // v like a worker's row).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from coopsgd.fleet.entries import Entries, beside
from coopsgd.fleet.factors import NOISE, factor
from coopsgd.fleet.sums import Crossing, Links, Sum, cheapest, largest, message
from coopsgd.mixing.matrix import WHOLE, Edges, Matrix
from coopsgd.mixing.matrix import Sum as Terms
from coopsgd.mixing.recognise import recognise
from coopsgd.mixing.structured import Dense

NONE = Links(*(np.zeros(0, dtype=int) for _ in range(3)))
DISTINCT = 64  # matrices of a schedule that are planned to choose a layout; auxiliary rows of a longer one have owners


@dataclass(frozen=True)
class Layout:
    """Which rows each process holds: m workers in equal blocks, v auxiliary rows everywhere or with one owner each."""

    m: int
    v: int
    processes: int
    replicated: bool = True
    server_owns_aux: bool = False  # in the price list auxiliary rows are hosts of their own: a server's, not copies

    def __post_init__(self) -> None:
        if self.m % self.processes:
            raise ValueError(f"workers must be divisible by processes, got {self.m} and {self.processes}")

    @property
    def n(self) -> int:
        """m + v"""
        return self.m + self.v

    def workers(self, q: int) -> range:
        """The global rows of the workers on process q."""
        share = self.m // self.processes
        return range(q * share, (q + 1) * share)

    def aux(self, q: int) -> list[int]:
        """The global rows of the auxiliary models on process q."""
        held = (a for a in range(self.v) if self.replicated or a * self.processes // self.v == q)
        return [self.m + a for a in held]

    def rows(self, q: int) -> list[int]:
        """All global rows on process q, in the order of its tensor: workers, then auxiliaries."""
        return [*self.workers(q), *self.aux(q)]

    def owned(self, q: int) -> list[int]:
        """Those of them that process q hands on where each is wanted once: replicated ones are the first's."""
        return self.rows(q) if q == 0 or not self.replicated else list(self.workers(q))

    @cached_property
    def home(self) -> np.ndarray:
        """(n,) the process a row lives on; -1 for a replicated one."""
        home = np.full(self.n, -1)
        for q in range(self.processes):
            home[self.workers(q)] = q
            if not self.replicated:
                home[self.aux(q)] = q
        return home


@dataclass(frozen=True)
class Edge:
    """One message: src sends V @ x (V (k, n) over its rows), row i of dst adds U[i] @ message."""

    src: int
    dst: int
    U: Entries
    V: Entries


@dataclass(frozen=True)
class Plan:
    """How a fleet of this layout carries out W.

    rest: what the sums leave of W, whose blocks between processes go along edges.
    """

    W: Matrix
    layout: Layout
    sums: tuple[Sum, ...]
    links: Links  # the messages between processes
    rest: Matrix

    @cached_property
    def sent(self) -> np.ndarray:
        """(P,) vectors each process sends: a ring all-reduce of k vectors over g is 2 (g - 1) / g * k each."""
        sent = np.bincount(self.links.src, self.links.vectors, self.layout.processes).astype(float)
        for item in self.sums:
            g = len(item.group)
            sent[list(item.group)] += 2 * (g - 1) / g * len(item.V)
        return sent

    @cached_property
    def vectors(self) -> int:
        """Vectors sent by all processes together."""
        return int(self.links.vectors.sum()) + sum(2 * (len(item.group) - 1) * len(item.V) for item in self.sums)

    @property
    def messages(self) -> int:
        """Messages sent by all processes together; an all-reduce of k vectors over g counts 2 (g - 1) k, as it is priced."""
        return len(self.links.src) + sum(2 * (len(item.group) - 1) * len(item.V) for item in self.sums)

    def edges(self, q: int) -> tuple[list[Edge], list[Edge]]:
        """The messages process q sends and those it receives, by rank of the other side."""
        dst, src, _ = self.links
        out = [self._edge(q, int(p)) for p in np.sort(dst[src == q])]
        into = [self._edge(int(p), q) for p in np.sort(src[dst == q])]
        return out, into

    def _edge(self, src: int, dst: int) -> Edge:
        home, n, e = self.layout.home, self.layout.n, self.rest.edges
        mine = (home[e.rows] == dst) & (home[e.columns] == src)
        u, v = message(Entries((n, n), e.rows[mine], e.columns[mine], e.weights[mine]))
        us, vs = [u], [v.T]
        for outer in self.rest.outers:
            takes, gives = (
                Entries((n, 1), outer.rows[own], np.zeros(own.sum(), dtype=int), part[own])
                for part, at in ((outer.u, dst), (outer.v, src))
                for own in ((part != 0) & (home[outer.rows] == at),)
            )
            if len(takes.rows) and len(gives.rows):
                us, vs = [*us, takes], [*vs, gives]
        return Edge(src, dst, beside(us, n), beside(vs, n).T)

    def stay(self, q: int) -> np.ndarray | Matrix:
        """(r, r): what process q's rows take from its own rows, without what comes back in a sum; an array if it is small.

        Replicated auxiliary rows hear of the workers by sums alone: the same bits on every process.
        """
        rows, share, replicated = np.array(self.layout.rows(q)), len(self.layout.workers(q)), self.layout.replicated
        inside = self.rest.local(rows)
        if len(rows) <= WHOLE or isinstance(inside, Dense):
            block = inside.dense().copy()
            block[np.abs(block) < NOISE * largest(self.W)] = 0
            block[share:, :share] *= not replicated
            return block
        e = inside.edges
        kept = (e.rows < share) | (e.columns >= share) | (not replicated)
        return Terms(len(rows), Edges(len(rows), e.rows[kept], e.columns[kept], e.weights[kept]), inside.outers)

    def describe(self) -> list[str]:
        """The plan in words, one line an action."""
        if self.layout.processes == 1:
            return ["one process holds every row, nothing is sent"]
        lines = []
        for item in self.sums:
            k, g = len(item.V), len(item.group)
            what = "the average" if k == 1 and _is_average(item, self.layout) else f"{k} weighted sum{'s' * (k > 1)}"
            lines.append(f"all-reduce of {what} over {g} processes: {2 * (g - 1) * k} vectors")
        if len(self.links.src):
            lines.append(f"{len(self.links.src)} messages along edges: {int(self.links.vectors.sum())} vectors")
        if self.layout.v:
            lines.append(
                "every process keeps a copy of the auxiliary rows"
                if self.layout.replicated
                else "each auxiliary row lives on one process"
            )
        return lines or ["each process mixes its own rows, nothing is sent"]


def _is_average(item: Sum, layout: Layout) -> bool:
    workers = np.flatnonzero(np.isin(layout.home, item.group))
    return bool(np.ptp(item.V[0, workers]) == 0 and np.all(item.U[workers, 0] == item.U[workers[0], 0]))


def lower(W: Any, layout: Layout, recurring: bool | None = None) -> Plan:
    """The cheapest plan found for one factor W (n, n) on this layout.

    recurring: does it come again? Only then may sums be over some of the processes. None: what a matrix says; yes, of an array.
    """
    if recurring is None:
        recurring = W.recurring if isinstance(W, Matrix) else True
    W = recognise(W)
    if layout.v and layout.replicated and any((outer.rows >= layout.m).any() for outer in W.outers):
        W = Dense(W.dense())  # what is everywhere hears of the workers by sums of its own
    found, sums = Crossing([], NONE, W), list[Sum]()
    if layout.processes > 1:
        forms = (W, *([W.under_average] if isinstance(W, Dense) and not layout.v and W.under_average is not None else []))
        found = cheapest(*forms, home=layout.home, hosts=layout.processes, recurring=recurring)
    for group, outer in found.terms:
        U, V = np.zeros((layout.n, 1)), np.zeros((1, layout.n))
        U[outer.rows, 0], V[0, outer.rows] = outer.u, outer.v
        sums = _joined(sums, Sum(tuple(group.tolist()), U, V))
    if layout.v and layout.replicated:
        pull = W.block(np.arange(layout.m, layout.n), np.arange(layout.m))
        if pull.any():
            _feed_replicas(pull, layout, sums)
    return Plan(W, layout, tuple(sums), found.links, found.rest)


def _joined(sums: list[Sum], more: Sum) -> list[Sum]:
    """One all-reduce a group, however many vectors."""
    for at, item in enumerate(sums):
        if item.group == more.group:
            return [*sums[:at], Sum(item.group, np.hstack([item.U, more.U]), np.vstack([item.V, more.V])), *sums[at + 1 :]]
    return [*sums, more]


def _feed_replicas(pull: np.ndarray, layout: Layout, sums: list[Sum]) -> None:
    """Tell every process what the workers add to replicated auxiliary rows, pull (v, m), in the sum already there if any is."""
    m, n = layout.m, layout.n
    everyone = tuple(range(layout.processes))
    whole = next((item for item in sums if item.group == everyone), None)
    stacked = pull if whole is None else np.vstack([whole.V[:, :m], pull])
    u, v = factor(stacked)
    if whole is not None:
        if len(v) == len(whole.V) + len(factor(pull)[1]):  # nothing shared: two sums in one message cost the same
            u, v = _block_diagonal(whole.V[:, :m], pull)
        sums.remove(whole)
    U, V = np.zeros((n, len(v))), np.zeros((len(v), n))
    V[:, :m] = v
    U[m:] = u[-layout.v :]
    if whole is not None:
        U[:m] = whole.U[:m] @ u[: len(whole.V)]
    sums.append(Sum(everyone, U, V))


def _block_diagonal(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """u, v with u @ v = the two stacked, the first kept as it is and the second factored."""
    u, v = factor(second)
    k = len(first)
    return np.block([[np.eye(k), np.zeros((k, len(v)))], [np.zeros((len(second), k)), u]]), np.vstack([first, v])


def choose_layout(factors: Iterable[Any] | None, m: int, v: int, processes: int, server_owns_aux: bool = False) -> Layout:
    """Replicated auxiliary rows if no matrix of the schedule costs more on them, else each with its owner.

    With owners no plan is dearer than all-reduce, all-gather or edge by edge; with replicas one can be. factors: those of all
    communications, or None when they never repeat. server_owns_aux: auxiliary rows have one owner each, whatever it costs.
    """
    replicated = Layout(m, v, processes, server_owns_aux=server_owns_aux)
    if v == 0 or processes == 1:
        return replicated
    owned = Layout(m, v, processes, replicated=False, server_owns_aux=server_owns_aux)
    if server_owns_aux or factors is None:
        return owned
    seen: dict[int, Any] = {}
    for W in factors:
        if id(W) in seen:
            continue
        seen[id(W)] = W
        if len(seen) > DISTINCT or lower(W, replicated).vectors > lower(W, owned).vectors:
            return owned
    return replicated


def layout_of(schedule: Any, m: int, processes: int) -> Layout:
    """Which rows each process holds: auxiliary ones as suits every communication of a schedule, a Mixing or None."""
    if schedule is None:
        return Layout(m, 0, processes)
    cycle = schedule.cycle(m)
    factors = None if cycle is None else (W for r in range(cycle) for W in schedule.factors(m, r))
    return choose_layout(factors, m, schedule.num_aux, processes, schedule.server_owns_aux)
