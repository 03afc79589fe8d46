"""Lower a mixing matrix to what has to move: sums over groups of processes, and messages along single edges.

A fleet hands over W and a layout (who holds which row); the answer is the cheapest way found to make every new row
appear where it is held. Pure numpy, so `show` can print it without a fleet. The price list of the ledger is here too
and nowhere else: what a matrix costs *logically* is its plan with one worker a process, wherever the run really put
the rows.

How. Off the diagonal blocks of W (a process needs no message for what it holds):

* *sums*: if those entries are u_i v_j, one all-reduce of sum_j v_j x_j serves everybody: 2 (g - 1) vectors for a group
  of g processes, as a ring all-reduce sends. Averages, lazy averages and group averages are of this kind; k such terms
  need k vectors. A sum may do most of the work and leave the rest to edges. `sums.py` chooses them.
* *edges*: process Q sends to P what the block W[P, Q] needs, rank(block) vectors: no row twice, sums pre-added.
* auxiliary rows are either *replicated* (each process keeps all of them, and one all-reduce of the workers' pull keeps
  the copies equal bit by bit) or *owned* (aux a lives on process a * processes // v like a worker's row).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from coopsgd.fleet.factors import GROWTH, NOISE, factor, low_rank
from coopsgd.fleet.sums import Search, Sum, block_ranks, choose

DISTINCT = 64  # matrices of a schedule that are planned to choose a layout; auxiliary rows of a longer one have owners


@dataclass(frozen=True)
class Layout:
    """Which rows each process holds: m workers in equal blocks, v auxiliary rows everywhere or with one owner each."""

    m: int
    v: int
    processes: int
    replicated: bool = True
    served: bool = False  # in the price list auxiliary rows are hosts of their own: a server's, not copies

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
    U: np.ndarray
    V: np.ndarray


@dataclass(frozen=True)
class Plan:
    """How a fleet of this layout carries out W."""

    W: np.ndarray
    layout: Layout
    sums: tuple[Sum, ...]
    counts: np.ndarray  # (P, P) vectors process column sends to process row along an edge; 0 where none
    rest: np.ndarray  # (n, n) what the sums leave of W: its blocks between processes go along edges

    @cached_property
    def sent(self) -> np.ndarray:
        """(P,) vectors each process sends: a ring all-reduce of k vectors over g is 2 (g - 1) / g * k each."""
        sent = self.counts.sum(0).astype(float)
        for item in self.sums:
            g = len(item.group)
            sent[list(item.group)] += 2 * (g - 1) / g * len(item.V)
        return sent

    @cached_property
    def vectors(self) -> int:
        """Vectors sent by all processes together."""
        return int(self.counts.sum()) + sum(2 * (len(item.group) - 1) * len(item.V) for item in self.sums)

    @property
    def messages(self) -> int:
        """Messages sent by all processes together; an all-reduce of k vectors over g counts 2 (g - 1) k, as it is priced."""
        return int(np.count_nonzero(self.counts)) + sum(2 * (len(item.group) - 1) * len(item.V) for item in self.sums)

    def edges(self, q: int) -> tuple[list[Edge], list[Edge]]:
        """The messages process q sends and those it receives, by rank of the other side."""
        out = [self._edge(q, int(p)) for p in np.flatnonzero(self.counts[:, q])]
        into = [self._edge(int(p), q) for p in np.flatnonzero(self.counts[q])]
        return out, into

    def _edge(self, src: int, dst: int) -> Edge:
        home, n = self.layout.home, self.layout.n
        rows, columns = np.flatnonzero(home == dst), np.flatnonzero(home == src)
        u, v = factor(self.rest[np.ix_(rows, columns)])
        U, V = np.zeros((n, len(v))), np.zeros((len(v), n))
        U[rows], V[:, columns] = u, v
        return Edge(src, dst, U, V)

    def stay(self, q: int) -> np.ndarray:
        """(r, r): what process q's rows take from its own rows, without what comes back in a sum.

        Replicated auxiliary rows hear of the workers by sums alone: the same bits on every process.
        """
        rows = self.layout.rows(q)
        block = self.W[np.ix_(rows, rows)].copy()
        for item in self.sums:
            if q in item.group:
                block -= item.U[rows] @ item.V[:, rows]
        block[np.abs(block) < NOISE * np.abs(self.W).max()] = 0
        if self.layout.replicated:
            share = len(self.layout.workers(q))
            block[share:, :share] = 0
        return block

    def describe(self) -> list[str]:
        """The plan in words, one line an action."""
        if self.layout.processes == 1:
            return ["one process holds every row, nothing is sent"]
        lines = []
        for item in self.sums:
            k, g = len(item.V), len(item.group)
            what = "the average" if k == 1 and _is_average(item, self.layout) else f"{k} weighted sum{'s' * (k > 1)}"
            lines.append(f"all-reduce of {what} over {g} processes: {2 * (g - 1) * k} vectors")
        if self.counts.any():
            lines.append(f"{np.count_nonzero(self.counts)} messages along edges: {int(self.counts.sum())} vectors")
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


def lower(W: Any, layout: Layout, simple: bool = False, groups: Container[tuple[int, ...]] | None = None) -> Plan:
    """The cheapest plan found for W (n, n) on this layout.

    simple: the price list's, see `sums.Search`. groups: the only ones that sums may be over; the group of all is always one.
    """
    W = _clean(np.asarray(W))
    m = layout.m
    alone: tuple[list[Sum], np.ndarray, np.ndarray] = ([], np.zeros((1, 1), dtype=int), W)
    sums, counts, rest = alone if layout.processes == 1 else choose(W, layout.home, Search(layout.processes, simple, groups))
    fed = layout.v and layout.replicated and W[m:, :m].any()
    if fed:
        _feed_replicas(W, layout, sums)
    plan = Plan(W, layout, tuple(sums), counts, rest)
    if fed and not simple and layout.processes > 1:
        plan = min((plan, *_fed_by_one_sum(W, layout, plan.vectors)), key=lambda found: found.vectors)
    return plan


def _fed_by_one_sum(W: np.ndarray, layout: Layout, budget: int) -> Iterator[Plan]:
    """Plans in which the same few sums tell the workers and the replicated auxiliary rows of the workers."""
    m, n, everyone = layout.m, layout.n, np.arange(layout.processes)
    reader = np.append(layout.home[:m], np.full(layout.v, layout.processes))  # the auxiliary rows, as a process of their own
    scale = np.abs(W).max()
    for u, v in low_rank(W[:, :m], reader, layout.home[:m], (budget - 1) // (2 * (layout.processes - 1))):
        rest = W.copy()
        rest[:, :m] -= u @ v
        rest[np.abs(rest) <= NOISE * scale] = 0
        if not rest[m:, :m].any() and (np.abs(u) @ np.abs(v)).max() <= GROWTH * scale:
            whole = Sum(tuple(everyone.tolist()), u, np.hstack([v, np.zeros((len(v), n - m))]))
            yield Plan(W, layout, (whole,), block_ranks(rest, layout.home, everyone), rest)


def _feed_replicas(W: np.ndarray, layout: Layout, sums: list[Sum]) -> None:
    """Tell every process what the workers add to replicated auxiliary rows, in the sum already there if there is one."""
    m, n = layout.m, layout.n
    everyone = tuple(range(layout.processes))
    pull = W[m:, :m]  # (v, m)
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


def choose_layout(
    factors: Iterable[Any] | None, m: int, v: int, processes: int, served: bool = False, simple: bool = False
) -> Layout:
    """Replicated auxiliary rows if no matrix of the schedule costs more on them, else each with its owner.

    With owners no plan is dearer than all-reduce, all-gather or edge by edge; with replicas one can be. factors: those of all
    communications, or None when they never repeat. served: auxiliary rows have one owner each, whatever it costs. simple: as
    the price list lowers.
    """
    replicated = Layout(m, v, processes, served=served)
    if v == 0 or processes == 1:
        return replicated
    owned = Layout(m, v, processes, replicated=False, served=served)
    if served or factors is None:
        return owned
    seen: set[bytes] = set()
    for W in factors:
        if (key := np.asarray(W).tobytes()) in seen:
            continue
        seen.add(key)
        if len(seen) > DISTINCT or lower(W, replicated, simple).vectors > lower(W, owned, simple).vectors:
            return owned
    return replicated


def layout_of(schedule: Any, m: int, processes: int) -> Layout:
    """Which rows each process holds: auxiliary ones as suits every communication of a schedule, a Mixing or None."""
    if schedule is None:
        return Layout(m, 0, processes)
    cycle = schedule.cycle(m)
    factors = None if cycle is None else (W for r in range(cycle) for W in schedule.factors(m, r))
    return choose_layout(factors, m, schedule.num_aux, processes, schedule.served)


@dataclass(frozen=True)
class Price:
    """What a verb costs as if every worker had its own host: messages, and vectors sent by each worker."""

    messages: int
    sent: np.ndarray  # (m,), or (m + v,) when auxiliary rows are served


def logical(W: Any, m: int, served: bool = False) -> Plan:
    """What mixing by W is in the price list: its plan when every worker has its own host.

    Auxiliary rows live wherever that is cheapest, or each on a host of its own when they are served; it does not depend on
    where the run put its rows. Nor on how clever the lowering is: sums of several vectors, or sums completed by edges, save
    bytes on the wire and nothing here.
    """
    n = len(W)
    return lower(W, Layout(n, 0, n) if served else choose_layout([W], m, n - m, m, simple=True), simple=True)


def price(W: Any, m: int, served: bool = False) -> Price:
    """The logical price of mixing by W: an average over g is 2 (g - 1) messages, any other off-diagonal nonzero one."""
    plan = logical(W, m, served)
    return Price(plan.messages, plan.sent)


def pick_price(hosts: int, at: int, n: int) -> Price:
    """The logical price of telling row `at` of n to so many other hosts."""
    sent = np.zeros(n)
    sent[at] = hosts
    return Price(hosts, sent)


def average_price(m: int) -> Price:
    """The logical price of one average over m workers, known to all."""
    return Price(2 * (m - 1), np.full(m, 2 * (m - 1) / m))


def _clean(W: np.ndarray) -> np.ndarray:
    size = np.abs(W)
    return np.where(size < NOISE * size.max(), 0.0, W)
