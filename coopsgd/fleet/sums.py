"""Choose what goes through all-reduces: weighted sums over groups of processes that leave the least for single edges.

Candidates, each judged by vectors sent, 2 (g - 1) k for k sums over g processes plus the ranks of the blocks it leaves:

* everything that crosses is u_i v_j: one sum (averages, lazy averages, group averages);
* W has rank k as it stands: k sums in one all-reduce, never dearer than the all-reduce of a factor of W;
* most of it is u_i v_j, perhaps among some of the processes only: one sum, and edges for the rest, which is searched again.

Sending everything along edges is the plan to beat. What is chosen is a function of W and of who holds which row. Sums over some
of the processes need a group of them, a resource that is never given back: they are for matrices that recur.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from coopsgd.fleet.factors import GROWTH, NOISE, even, factor, full_rank, majorities, rank_one, spanning, through


@dataclass(frozen=True)
class Sum:
    """All-reduce of V @ x over a group: row i then adds U[i] @ result. V (k, n), U (n, k) over global rows."""

    group: tuple[int, ...]
    U: np.ndarray
    V: np.ndarray


def choose(W: np.ndarray, home: np.ndarray, processes: int, recurring: bool) -> tuple[list[Sum], np.ndarray, np.ndarray]:
    """The sums; the (P, P) vectors left for edges; the (n, n) rest of W, whose blocks between processes are those edges.

    home: (n,) the process of each row, -1 where it has no edges (a replicated row). recurring: may sums be over some of the
    processes, not only over all?
    """
    rest, sums = W.copy(), dict[tuple[int, ...], Sum]()
    counts = np.zeros((processes, processes), dtype=int)
    scale = float(np.abs(W).max())
    todo = components(touching(W, home, np.arange(processes)))
    row = np.argsort(home)[np.count_nonzero(home < 0) :]
    while todo:
        hosts = todo.pop()
        if len(hosts) == 2 < processes == len(row):  # two rows, two messages: a matching has hundreds of these
            for p, q in (hosts, hosts[::-1]):
                counts[p, q] = rest[row[p], row[q]] != 0
            continue
        rows = np.flatnonzero(np.isin(home, hosts))
        inside = np.ix_(rows, rows) if len(rows) < len(W) else ...
        found = _best(rest[inside], home[rows], hosts, scale, len(hosts) == processes, recurring)
        if isinstance(found, np.ndarray):
            counts[np.ix_(hosts, hosts)] = found
            continue
        group, u, v, left = found
        U, V = np.zeros((len(W), u.shape[1])), np.zeros((v.shape[0], len(W)))
        U[rows], V[:, rows] = u, v
        before = sums.get(group)
        if before is not None:  # one all-reduce a group, however many vectors
            U, V = np.hstack([before.U, U]), np.vstack([before.V, V])
        sums[group] = Sum(group, U, V)
        rest[inside] = left
        todo += [hosts[part] for part in components(touching(left, home[rows], hosts))]
    return list(sums.values()), counts, rest


Found = tuple[tuple[int, ...], np.ndarray, np.ndarray, np.ndarray]  # group, u (a, k), v (k, a), the (a, a) rest


def _best(
    W: np.ndarray, home: np.ndarray, hosts: np.ndarray, scale: float, everyone: bool, recurring: bool
) -> Found | np.ndarray:
    """The best next sum for the rows of these connected hosts; the (g, g) vectors of their edges when those are as good."""
    g, hot = len(hosts), touching(W, home, hosts)
    once, allowed = 2 * (g - 1), everyone or recurring
    if g == 2 and not everyone:  # two messages do what a sum of two does, and need no group
        return block_ranks(W, home, hosts)
    if allowed and hot.sum() >= once + (not everyone):
        found = rank_one(W, home)
        if found is not None and _growth(*_columns(found)) <= GROWTH * scale:
            return tuple(hosts.tolist()), *_columns(found), np.zeros_like(W)
    W, own = np.where(home[:, None] == home, 0, W), W
    rows = int(rows_to_send(W, home, hosts).sum())
    if g == 2 or rows <= once:
        return block_ranks(W, home, hosts)

    def whole(most: int) -> list[Partial]:
        spans = spanning(own, most) if allowed else None
        if spans is None:
            return []
        u, v = through(own, *spans)
        return [(np.arange(g), u, v, _left(W, home, hosts, u, v, scale))] if _growth(u, v) <= GROWTH * scale else []

    first = min((rows - 1) // once, 32)  # a low rank is seen before all the ranks of edges are known
    found_whole = whole(first)
    for _, u, v, left in found_whole:
        if once * len(v) <= hot.sum() and not left.any():
            return tuple(hosts.tolist()), u, v, left  # edges cannot be cheaper: each that is there carries a vector
    ranks = block_ranks(W, home, hosts)
    least, best = int(ranks.sum()), None
    if (least - 1) // once > first:
        found_whole = whole((least - 1) // once)
    for some, u, v, left in (*found_whole, *_partial(W, home, hosts, scale)):
        cost = 2 * (len(some) - 1) * len(v) + int(block_ranks(left, home, hosts).sum())
        if cost < least and (recurring or (everyone and len(some) == g)):
            mine = np.isin(home, hosts[some])
            least, best = cost, (tuple(hosts[some].tolist()), u * mine[:, None], v * mine, left)
    return ranks if best is None else best


Partial = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # which of the hosts, u (a, k), v (k, a), the (a, a) rest


def _partial(W: np.ndarray, home: np.ndarray, hosts: np.ndarray, scale: float) -> Iterator[Partial]:
    """Sums of rank one that leave something to edges."""
    before = rows_to_send(W, home, hosts)
    for pair in majorities(W, home):
        u, v = _columns(pair)
        reads, feeds = (np.isin(hosts, home[np.flatnonzero(w)]) for w in pair)
        at_best = np.where(before > 0, 1, -1) * np.outer(reads, feeds)  # it may end edges, and makes those that were not there
        np.fill_diagonal(at_best, 0)
        if _growth(u, v) > GROWTH * scale or _densest(at_best) is None:
            continue
        after = rows_to_send(_left(W, home, hosts, u, v, scale), home, hosts)
        some = _densest(np.sign(before - after))  # of what goes along an edge, one sum takes one vector at most
        if some is not None:
            mine = np.isin(home, hosts[some])
            u[mine, 0], v[0, mine] = even(u[mine, 0], v[0, mine])
            yield some, u, v, _left(W, home, hosts[some], u, v, scale)


def _columns(pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return pair[0][:, None], pair[1][None]


def _growth(u: np.ndarray, v: np.ndarray) -> float:
    """The largest number that is added up on the way."""
    if len(v) == 1:
        return float(np.abs(u).max() * np.abs(v).max())
    return float((np.abs(u) @ np.abs(v)).max())


def _left(W: np.ndarray, home: np.ndarray, hosts: np.ndarray, u: np.ndarray, v: np.ndarray, scale: float) -> np.ndarray:
    """W without what the sum u v among the hosts does; 0 where that is rounding."""
    mine = np.isin(home, hosts)
    left = (u * mine[:, None]) @ (v * mine)
    np.subtract(W, left, out=left)
    left *= (np.abs(left) > NOISE * scale) & (home[:, None] != home)
    return left


def _densest(gain: np.ndarray) -> np.ndarray | None:
    """The hosts among which a sum saves most: gain[p, q] vectors on each edge, less 2 (g - 1). None when nothing is saved.

    Hosts are dropped one at a time, the least useful first; the best stage counts.
    """
    keep, best, least = np.arange(len(gain)), None, 0
    while len(keep) > 2:
        inside = gain[np.ix_(keep, keep)]
        saved = int(inside.sum()) - 2 * (len(keep) - 1)
        if saved > least:
            best, least = keep, saved
        keep = np.delete(keep, (inside.sum(0) + inside.sum(1)).argmin())
    return best


def touching(W: np.ndarray, home: np.ndarray, hosts: np.ndarray) -> np.ndarray:
    """(g, g) bool: does a row of host p take anything from host q's? False on the diagonal."""
    hot, order, starts = _by_host(W != 0, home, hosts)
    if len(order) > len(hosts):
        hot = np.logical_or.reduceat(np.logical_or.reduceat(hot, starts, axis=0), starts, axis=1)
    np.fill_diagonal(hot, False)
    return hot


def rows_to_send(W: np.ndarray, home: np.ndarray, hosts: np.ndarray) -> np.ndarray:
    """(g, g) rows of host q that host p takes something from, or rows of p that do if those are fewer; 0 on the diagonal."""
    ordered, order, starts = _by_host(W != 0, home, hosts)
    if len(order) == len(hosts):
        counts = ordered.astype(int)
    else:
        taken = np.add.reduceat(np.logical_or.reduceat(ordered, starts, axis=0), starts, axis=1, dtype=int)
        takers = np.add.reduceat(np.logical_or.reduceat(ordered, starts, axis=1), starts, axis=0, dtype=int)
        counts = np.minimum(taken, takers)
    np.fill_diagonal(counts, 0)
    return counts


def block_ranks(W: np.ndarray, home: np.ndarray, hosts: np.ndarray) -> np.ndarray:
    """(g, g) vectors that host q must send to host p when everything goes along edges; 0 on the diagonal."""
    counts = rows_to_send(W, home, hosts)
    if counts.max(initial=0) > 1:
        ordered, order, starts = _by_host(W, home, hosts)
        ends = [*starts[1:], len(order)]
        for p, q in np.argwhere(counts > 1):
            block = ordered[starts[p] : ends[p], starts[q] : ends[q]]
            square = counts[p, q] == len(block) == block.shape[1] and full_rank(block)
            counts[p, q] = len(block) if square else len(factor(block)[1])
    return counts


def _by_host(W: np.ndarray, home: np.ndarray, hosts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W with the rows of each host together, the order they then have, and where each host starts."""
    order = np.argsort(home, kind="stable")
    order = order[np.isin(home[order], hosts)]
    whole = len(order) == len(W) and np.all(np.diff(order) == 1)
    starts = np.searchsorted(home[order], hosts)
    return W if whole else W[np.ix_(order, order)], order, starts


def components(taken: np.ndarray) -> list[np.ndarray]:
    """Groups of at least two hosts that a chain of messages, in either direction, connects."""
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
