"""The price list: what a verb costs as if every worker had its own host, whatever the run's placement and the lowering.

An average, or another weighted sum, over g hosts counts 2 (g - 1) messages of one vector, as a ring all-reduce sends; any other
nonzero weight between two hosts one; s clients of a server 2 s. Auxiliary models live wherever that is cheapest, or each on a
host of its own when a server owns them. It is read off the structure of W, in time linear in what W holds. Pure numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from coopsgd.fleet.factors import NOISE, factor
from coopsgd.mixing.matrix import Edges, Matrix, Sum
from coopsgd.mixing.recognise import recognise
from coopsgd.mixing.structured import Dense


class Links(NamedTuple):
    """Single messages, arrays (L,): host src sends host dst so many vectors in one."""

    dst: np.ndarray
    src: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class Price:
    """What a verb costs: messages, and vectors sent by each host; and, for the clock, what they are.

    sums: (hosts, k), k vectors each. sent: (m,), or (m + v,) when a server owns auxiliary rows.
    """

    messages: int
    sent: np.ndarray
    sums: tuple[tuple[np.ndarray, int], ...] = ()
    links: Links = field(default_factory=lambda: Links(*(np.zeros(0, dtype=int) for _ in range(3))))

    @property
    def vectors(self) -> float:
        """Vectors sent by all hosts together."""
        return float(self.sent.sum())


def priced(sums: Any, links: Links, hosts: int) -> Price:
    """Of sums over groups of hosts, (hosts, k) each, and single messages."""
    sent = np.bincount(links.src, links.vectors, hosts).astype(float)
    messages = len(links.src)
    for group, k in sums:
        g = len(group)
        sent[group] += 2 * (g - 1) / g * k
        messages += 2 * (g - 1) * k
    return Price(messages, sent, tuple(sums), links)


def pick_price(hosts: int, at: int, n: int) -> Price:
    """Of sending row `at` of n to so many other hosts."""
    sent = np.zeros(n)
    sent[at] = hosts
    return Price(hosts, sent)


def average_price(m: int) -> Price:
    """Of one average over m workers, known to all."""
    return Price(2 * (m - 1), np.full(m, 2 * (m - 1) / m))


def price(W: Any, m: int, server_owns_aux: bool = False) -> Price:
    """Of mixing by one factor W (m + v, m + v)."""
    W = recognise(W)
    n = len(W)
    if server_owns_aux or n == m:
        return priced(*_carried(W, np.arange(n), n)[:2], n)
    v = n - m
    replicated = _replicated(W, m)
    if replicated.vectors <= 2 * (m - 1) and any(len(o.rows) >= m and o.u.all() and o.v.all() for o in W.outers):
        return replicated  # everyone takes from everyone: nothing is cheaper than a sum
    owned = priced(*_carried(W, np.append(np.arange(m), np.arange(v) * m // v), m)[:2], m)
    return owned if replicated.vectors > owned.vectors else replicated


def _replicated(W: Matrix, m: int) -> Price:
    """With a copy of the auxiliary rows on every host, fed by sums over all of them."""
    n, everyone = len(W), np.arange(m)
    if any((rows >= m).any() for rows, _, _ in W.outers):
        W = Sum(n, Edges.of(n, *Dense(np.array(W)).edges.entries))
    sums, links, whole = _carried(W.local(everyone), everyone, m)
    aux = np.arange(m, n)
    mine = W.edges.rows >= m
    pulls = mine & (W.edges.columns < m)
    if pulls.any():
        alone = np.bincount(W.edges.columns[pulls], minlength=m).max() <= 1  # nobody feeds two: as many sums as are fed
        if alone and whole is None:
            rank = len(np.unique(W.edges.rows[pulls]))
        else:
            pull = W.block(aux, everyone)
            rank = len(factor(pull if whole is None else np.vstack([whole[None], pull]))[1])
        sums = [(group, k) for group, k in sums if len(group) < m or m == 1]
        sums.append((everyone, rank))
    return priced(sums, links, m)


def _carried(W: Matrix, home: np.ndarray, hosts: int) -> tuple[list[tuple[np.ndarray, int]], Links, np.ndarray | None]:
    """The sums and messages by which hosts carry W out, home (n,) the host of each row; and the weights of a sum over all."""
    sums: list[tuple[np.ndarray, int]] = []
    whole = None
    scale = max([np.abs(W.edges.weights).max(initial=0), *(np.abs(u).max() * np.abs(v).max() for _, u, v in W.outers)])
    rows, columns, weights = crossing(W.edges, home, NOISE * scale)
    outers = [outer for outer in W.outers if len(np.unique(home[outer.rows])) > 1]
    part = components(hosts, home[rows], home[columns], [home[outer.rows] for outer in outers])
    with_edges = np.zeros(hosts, dtype=bool)
    with_edges[part[home[rows]]] = True
    terms = np.bincount([part[home[outer.rows[0]]] for outer in outers], minlength=hosts)
    for outer in outers:
        at = part[home[outer.rows[0]]]
        group = np.unique(home[outer.rows])
        lone = not with_edges[at] and terms[at] == 1 and bool(outer.u.all() and outer.v.all())
        if lone and (len(group) > 2 or len(group) == hosts):
            sums.append((group, 1))
            if len(group) == hosts:
                whole = np.zeros(len(home))
                whole[outer.rows] = outer.v
            continue
        expanded = crossing(Sum(W.n, Edges.of(W.n, [], [], []), (outer,)), home, NOISE * scale)
        rows, columns, weights = (np.append(a, b) for a, b in zip((rows, columns, weights), expanded, strict=True))
    if outers and len(rows):
        rows, columns, weights = Edges.of(W.n, rows, columns, weights).entries
    links = linked(rows, columns, weights, home, hosts)
    of, size = part[links.dst], np.bincount(part, minlength=hosts)
    dense = np.bincount(of, minlength=hosts) >= 2 * (size - 1)
    for at in np.flatnonzero(dense & (size > 1) & ((size > 2) | (size == hosts)) & (np.bincount(of, minlength=hosts) > 0)):
        mine = part[home[rows]] == at
        v = rank_one(rows[mine], columns[mine], weights[mine], home)
        if v is not None:
            group = np.flatnonzero(part == at)
            sums.append((group, 1))
            whole = v if len(group) == hosts else whole
            links = Links(*(x[of != at] for x in links))
            of = of[of != at]
    return sums, links, whole


def crossing(W: Matrix, home: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries of W above `least` in size between rows of different hosts; a home of -1 is everywhere."""
    rows, columns, weights = W.edges.entries
    for some, u, v in W.outers:
        k = len(some)
        rows, columns = np.append(rows, np.repeat(some, k)), np.append(columns, np.tile(some, k))
        weights = np.append(weights, np.outer(u, v).ravel())
    there = (
        (home[rows] != home[columns]) & (home[rows] >= 0) & (home[columns] >= 0) & (np.abs(weights) >= least) & (weights != 0)
    )
    return rows[there], columns[there], weights[there]


def components(hosts: int, a: np.ndarray, b: np.ndarray, groups: list[np.ndarray]) -> np.ndarray:
    """(hosts,) the smallest host that each is connected with, by links a - b and by groups."""
    a, b = np.concatenate([a, *groups]), np.concatenate([b, *(np.full(len(group), group[0]) for group in groups)])
    part = np.arange(hosts)
    while True:
        before = part.copy()
        least = np.minimum(part[a], part[b])
        np.minimum.at(part, part[a], least)
        np.minimum.at(part, part[b], least)
        while not np.array_equal(part, part[part]):
            part = part[part]
        if np.array_equal(part, before):
            return part


def linked(rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, home: np.ndarray, hosts: int) -> Links:
    """One message between two hosts for all entries between them, of as many vectors as these have rank."""
    pair = home[rows] * hosts + home[columns]
    pairs, at = np.unique(pair, return_inverse=True)
    n = len(home)
    taken = np.bincount(np.unique(at * n + columns) // n, minlength=len(pairs))
    takers = np.bincount(np.unique(at * n + rows) // n, minlength=len(pairs))
    vectors = np.minimum(taken, takers)
    for k in np.flatnonzero((vectors > 1) & (taken * takers <= RANKED)):
        mine = at == k
        (i, row), (j, column) = (np.unique(x[mine], return_inverse=True) for x in (rows, columns))
        block = np.zeros((len(i), len(j)))
        block[row, column] = weights[mine]
        vectors[k] = len(factor(block)[1])
    return Links(pairs // hosts, pairs % hosts, vectors)


RANKED = 1 << 12  # entries of a block between two hosts up to which its rank is found; rows are sent of a larger one


def rank_one(rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, home: np.ndarray) -> np.ndarray | None:
    """v (n,) if there is u with W[i, j] = u_i v_j wherever i and j have different hosts, given all nonzero entries there.

    One entry far off the diagonal fixes u and v outside its own two hosts; a second one fixes the rest.
    """
    n = len(home)
    A, B = np.unique(rows), np.unique(columns)
    per = (np.bincount(home[x], minlength=int(home.max()) + 1) for x in (A, B))
    if len(rows) != len(A) * len(B) - int(np.dot(*per)):
        return None
    top = int(np.abs(weights).argmax())
    i, j = rows[top], columns[top]
    u, v = np.zeros(n), np.zeros(n)
    v[columns[rows == i]] = weights[rows == i]
    u[rows[columns == j]] = weights[columns == j] / weights[top]
    far = np.abs(np.where((home != home[i]) & (home != home[j]), v, 0)).argmax()
    if v[far] and home[far] not in (home[i], home[j]):
        mine = (columns == far) & (home[rows] == home[j])
        u[rows[mine]] = weights[mine] / v[far]
        mine = (rows == far) & (home[columns] == home[i])
        if u[far]:
            v[columns[mine]] = weights[mine] / u[far]
    elif np.isin(home[np.append(A, B)], (home[i], home[j])).all():
        mine = (home[rows] == home[j]) & (home[columns] == home[i])
        if mine.any():  # two hosts: either block may be scaled alone
            k = np.flatnonzero(mine)[np.abs(weights[mine]).argmax()]
            down, across = mine & (columns == columns[k]), mine & (rows == rows[k])
            u[rows[down]] = weights[down] / weights[k]
            v[columns[across]] = weights[across]
    off = np.abs(weights - u[rows] * v[columns]).max()
    return v if off <= NOISE * np.abs(weights).max() else None
