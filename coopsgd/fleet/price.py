"""The price list: what a verb costs as if every worker had its own host, whatever the run's placement and the lowering.

An average, or another weighted sum, over g hosts counts 2 (g - 1) messages of one vector, as a ring all-reduce sends; any other
nonzero weight between two hosts one; s clients of a server 2 s. Auxiliary models live wherever that is cheapest, or each on a
host of its own when a server owns them. It is read off the structure of W, in time linear in what W holds. Pure numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coopsgd.fleet.factors import NOISE, factor, whole_rank_one
from coopsgd.fleet.sums import Links, carried, largest
from coopsgd.mixing.matrix import Edges, Matrix, Sum
from coopsgd.mixing.recognise import recognise
from coopsgd.mixing.structured import Dense


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
        e = W.edges
        if isinstance(W, Dense) and n > 2 and len(e.rows) >= n * (n - 1):
            off = e.rows != e.columns
            if off.sum() == n * (n - 1) and np.abs(e.weights[off]).min() >= NOISE * largest(W):  # everyone hears of everyone
                if whole_rank_one(W.array) is not None:
                    return priced([(np.arange(n), 1)], Price(0, np.zeros(n)).links, n)
                return priced([], Links(e.rows[off], e.columns[off], np.ones(n * (n - 1), dtype=int)), n)
        return _priced(W, np.arange(n), n)
    v = n - m
    replicated = _replicated(W, m)
    if replicated.vectors <= 2 * (m - 1) and any(len(o.rows) >= m and o.u.all() and o.v.all() for o in W.outers):
        return replicated  # everyone takes from everyone: nothing is cheaper than a sum
    owned = _priced(W, np.append(np.arange(m), np.arange(v) * m // v), m)
    return owned if replicated.vectors > owned.vectors else replicated


def _replicated(W: Matrix, m: int) -> Price:
    """With a copy of the auxiliary rows on every host, fed by sums over all of them."""
    n, everyone = len(W), np.arange(m)
    if any((rows >= m).any() for rows, _, _ in W.outers):
        W = Sum(n, Edges.of(n, *Dense(np.array(W)).edges.entries))
    found = carried(W.local(everyone), everyone, m, wire=False)
    sums = [(group, 1) for group, _ in found.terms]
    whole = next((outer.v for group, outer in found.terms if len(group) == m), None)
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
    return priced(sums, found.links, m)


def _priced(W: Matrix, home: np.ndarray, hosts: int) -> Price:
    """By hosts of one row, or of a worker and the auxiliary rows beside it."""
    found = carried(W, home, hosts, wire=False)
    return priced([(group, 1) for group, _ in found.terms], found.links, hosts)
