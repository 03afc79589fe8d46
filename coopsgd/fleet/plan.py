"""Lower a mixing matrix to what has to move: sums over groups of processes, and messages along single edges.

A fleet hands over W and a layout (who holds which row); the answer is the cheapest way found to make every new row
appear where it is held. Pure numpy, so `show` can print it without a fleet. The price list of the ledger is here too
and nowhere else: what a matrix costs *logically* is its plan with one worker a process, wherever the run really put
the rows.

How. Off the diagonal blocks of W (a process needs no message for what it holds):

* *sum*: if those entries are u_i v_j, one all-reduce of sum_j v_j x_j serves everybody: 2 (g - 1) vectors for a group
  of g processes, as a ring all-reduce sends. Averages, lazy averages and group averages are of this kind.
* *edges*: process Q sends to P what the block W[P, Q] needs, rank(block) vectors: no row twice, sums pre-added.
* auxiliary rows are either *replicated* (each process keeps all of them, and one all-reduce of the workers' pull keeps
  the copies equal bit by bit) or *owned* (aux a lives on process a * processes // v like a worker's row).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

NOISE = 1e-14  # relative to the largest entry: below this an entry is rounding, not a wish to communicate


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
class Sum:
    """All-reduce of V @ x over a group: row i then adds U[i] @ result. V (k, n), U (n, k) over global rows."""

    group: tuple[int, ...]
    U: np.ndarray
    V: np.ndarray


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
        u, v = _factor(self.W[np.ix_(rows, columns)])
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


def lower(W: np.ndarray, layout: Layout) -> Plan:
    """The cheapest plan found for W (n, n) on this layout."""
    W = _clean(W)
    m, n = layout.m, layout.n
    counts = _block_ranks(W, layout.home, layout.processes)
    sums: list[Sum] = []
    for group in _components(counts > 0):
        rows = np.flatnonzero(np.isin(layout.home, group))
        cost = 2 * (len(group) - 1)
        inside = np.ix_(group, group)
        if counts[inside].sum() < cost:
            continue
        found = rank_one(W[np.ix_(rows, rows)], layout.home[rows])
        if found is not None:
            U, V = np.zeros((n, 1)), np.zeros((1, n))
            U[rows, 0], V[0, rows] = found
            sums.append(Sum(tuple(group), U, V))
            counts[inside] = 0
    if layout.v and layout.replicated and W[m:, :m].any():
        _feed_replicas(W, layout, sums)
    return Plan(W, layout, tuple(sums), counts)


def _feed_replicas(W: np.ndarray, layout: Layout, sums: list[Sum]) -> None:
    """Tell every process what the workers add to replicated auxiliary rows, in the sum already there if there is one."""
    m, n = layout.m, layout.n
    everyone = tuple(range(layout.processes))
    pull = W[m:, :m]  # (v, m)
    whole = next((item for item in sums if item.group == everyone), None)
    stacked = pull if whole is None else np.vstack([whole.V[:, :m], pull])
    u, v = _factor(stacked)
    if whole is not None:
        if len(v) == 1 + len(_factor(pull)[1]):  # nothing shared: two sums in one message cost the same
            u, v = _block_diagonal(whole.V[:, :m], pull)
        sums.remove(whole)
    U, V = np.zeros((n, len(v))), np.zeros((len(v), n))
    V[:, :m] = v
    U[m:] = u[-layout.v :]
    if whole is not None:
        U[:m] = whole.U[:m] @ u[:1]
    sums.append(Sum(everyone, U, V))


def _block_diagonal(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """u, v with u @ v = the two stacked, the first kept as it is and the second factored."""
    u, v = _factor(second)
    top = np.zeros((1, 1 + len(v)))
    top[0, 0] = 1
    return np.vstack([top, np.hstack([np.zeros((len(second), 1)), u])]), np.vstack([first, v])


def choose_layout(factors: Iterable[np.ndarray], m: int, v: int, processes: int, served: bool = False) -> Layout:
    """The layout on which these matrices cost least; replicated auxiliary rows when it makes no difference.

    served: the auxiliary rows have one owner each, whatever it costs.
    """
    replicated = Layout(m, v, processes, served=served)
    if v == 0 or processes == 1:
        return replicated
    owned = Layout(m, v, processes, replicated=False, served=served)
    if served:
        return owned
    factors = list(factors)
    cost = [sum(lower(W, layout).vectors for W in factors) for layout in (replicated, owned)]
    return replicated if cost[0] <= cost[1] else owned


@dataclass(frozen=True)
class Price:
    """What a verb costs as if every worker had its own host: messages, and vectors sent by each worker."""

    messages: int
    sent: np.ndarray  # (m,), or (m + v,) when auxiliary rows are served


def price(W: np.ndarray, m: int, served: bool = False) -> Price:
    """The logical price of mixing by W: an average over g is 2 (g - 1) messages, any other off-diagonal nonzero one.

    Auxiliary rows live wherever that is cheapest, or each on a host of its own when they are served; it does not depend on
    where the run put its rows.
    """
    n = len(W)
    plan = lower(W, Layout(n, 0, n) if served else choose_layout([W], m, n - m, m))
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
    W = np.array(W, dtype=np.float64)
    W[np.abs(W) < NOISE * np.abs(W).max()] = 0
    return W


def _block_ranks(W: np.ndarray, home: np.ndarray, processes: int) -> np.ndarray:
    """(P, P) vectors that process column must send to process row if everything goes along edges."""
    member = (home[:, None] == np.arange(processes)).astype(float)  # (n, P); a replicated row is nobody's
    counts = (member.T @ (W != 0) @ member > 0).astype(int)  # one vector serves a block of one row or one column
    many = np.flatnonzero(member.sum(0) > 1)
    for p, q in ((p, q) for p in many for q in many if counts[p, q] and p != q):
        counts[p, q] = len(_factor(W[np.ix_(home == p, home == q)])[1])
    np.fill_diagonal(counts, 0)
    return counts


def _components(taken: np.ndarray) -> list[np.ndarray]:
    """Groups of at least two processes that a chain of messages, in either direction, connects."""
    linked, left, groups = taken | taken.T, np.ones(len(taken), dtype=bool), []
    for start in range(len(taken)):
        if not left[start]:
            continue
        group = np.zeros(len(taken), dtype=bool)
        frontier = group.copy()
        frontier[start] = True
        while frontier.any():
            group |= frontier
            frontier = linked[frontier].any(0) & ~group
        left &= ~group
        if group.sum() > 1:
            groups.append(np.flatnonzero(group))
    return groups


def rank_one(W: np.ndarray, home: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """u, v with W[i, j] = u_i v_j wherever i and j live on different processes, or None.

    Blocks on one process are free. One entry far off the diagonal fixes u and v outside its own two blocks; a second one
    fixes the rest.
    """
    apart = home[:, None] != home[None, :]
    masked = np.where(apart, np.abs(W), 0)
    i, j = np.unravel_index(masked.argmax(), masked.shape)
    if masked[i, j] == 0:
        return None
    u, v = np.zeros(len(W)), np.zeros(len(W))
    v[apart[i]] = W[i, apart[i]]
    u[apart[j]] = W[apart[j], j] / W[i, j]
    # rows that live with j are seen through another column, columns that live with i through another row
    rows, columns = home == home[j], home == home[i]
    far = np.where(apart[j] & apart[i], np.abs(v), 0).argmax()
    if apart[i, far] and apart[j, far] and v[far]:
        u[rows] = W[rows, far] / v[far]
        v[columns] = W[far, columns] / u[far] if u[far] else 0
    elif np.all(rows | columns):  # two processes: either block may be scaled alone, so let equal weights stay equal
        back = _outer(W[np.ix_(rows, columns)])
        if back is None:
            return None
        mean, other = back[1].mean(), v[rows].mean()
        scale = other / mean if mean and other else 1.0
        u[rows], v[columns] = back[0] / scale, back[1] * scale
    if np.abs(np.where(apart, W - np.outer(u, v), 0)).max() > NOISE * np.abs(W).max():
        return None
    if np.ptp(v) <= NOISE * np.abs(v).max():  # equal weights: an average, kept exactly equal
        u, v = u * (v[0] * len(v)), np.full(len(v), 1 / len(v))
        if np.ptp(u) <= NOISE * np.abs(u).max():
            u = np.full(len(u), 1.0 if abs(u.mean() - 1) <= NOISE else u.mean())
    return u, v


def _outer(block: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """u, v with u_i v_j = block, or None; v is the block's own heaviest row, so no entry is rounded."""
    i, j = np.unravel_index(np.abs(block).argmax(), block.shape)
    if block[i, j] == 0:
        return np.zeros(len(block)), np.zeros(block.shape[1])
    u, v = block[:, j] / block[i, j], block[i]
    return (u, v) if np.abs(block - np.outer(u, v)).max() <= NOISE * np.abs(block).max() else None


def _factor(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """u (a, k), v (k, b), k = rank of the block, u @ v = block. Rows as they are, or rows pre-added, before anything else."""
    rows, columns = np.flatnonzero(block.any(1)), np.flatnonzero(block.any(0))
    few = min(len(rows), len(columns))
    single = _outer(block) if few > 1 else None
    if single is not None:
        return single[0][:, None], single[1][None]
    rank = few if few <= 1 else int(np.linalg.matrix_rank(block, tol=NOISE * 100 * np.abs(block).max()))
    if rank == len(columns):  # send the rows themselves
        return block[:, columns], np.eye(block.shape[1])[columns]
    if rank == len(rows):  # send what each receiving row wants, already summed
        return np.eye(block.shape[0])[:, rows], block[rows]
    left, size, right = np.linalg.svd(block, full_matrices=False)
    return left[:, :rank] * size[:rank], right[:rank]
