"""Packed rows on their way: who needs whose, what that costs, and which process sends which rows to which.

A packed row cannot be added to another on the way, so there are no sums: each is sent as it is to every host that takes from
it. An average of packed rows is an all-gather. Pure numpy.
"""

from __future__ import annotations

import numpy as np

from coopsgd.fleet.plan import Layout
from coopsgd.fleet.price import Price, priced
from coopsgd.fleet.sums import Links

EVERYONE = np.broadcast_to(0.0, (0, 0))  # stands for no matrix, where every worker takes from every other

Routes = list[tuple[int, int, list[int]]]  # process src sends process dst these global rows in one message
Takes = tuple[np.ndarray, np.ndarray]  # (rows, columns): row i takes from row j, none twice


def everyone(m: int) -> Takes:
    """Every worker takes from every worker."""
    return np.repeat(np.arange(m), m), np.tile(np.arange(m), m)


def spread_price(takes: Takes, m: int, n: int, server_owns_aux: bool) -> Price:
    """As if every worker had its own host. n: rows, auxiliary ones included.

    Auxiliary rows live where that is cheapest, copies on every host or each on one, or each on a host of its own when a server
    owns them.
    """
    rows, columns = takes
    v = n - m
    if server_owns_aux or not v:
        return _priced(rows, columns, n)
    workers = columns < m
    fed = np.unique(columns[workers & (rows >= m)])  # by whom copies are: every host works out what they become
    among = workers & (rows < m)
    all_, feeding = np.repeat(np.arange(m), len(fed)), np.tile(fed, m)
    copies = _priced(np.append(rows[among], all_), np.append(columns[among], feeding), m)
    home = np.append(np.arange(m), np.arange(v) * m // v)
    dst, row = _once(home[rows], columns, n)  # host, row
    away = dst != home[row]
    owned = priced([], Links(dst[away], home[row[away]], np.ones(away.sum(), dtype=int)), m)
    return copies if copies.vectors <= owned.vectors else owned


def _once(a: np.ndarray, b: np.ndarray, n: int) -> Takes:
    """These pairs, each once, the second below n."""
    found = np.unique(a.astype(np.int64) * n + b)
    return found // n, found % n


def _priced(dst: np.ndarray, src: np.ndarray, hosts: int) -> Price:
    dst, src = _once(dst, src, hosts)
    apart = dst != src
    return priced([], Links(dst[apart], src[apart], np.ones(apart.sum(), dtype=int)), hosts)


def routes(takes: Takes, layout: Layout) -> Routes:
    """What processes send each other, each row once."""
    owner = np.zeros(layout.n, dtype=int)
    for q in reversed(range(layout.processes)):
        owner[layout.rows(q)] = q
    found: Routes = []
    for q in range(layout.processes):
        here = np.zeros(layout.n, dtype=bool)
        here[layout.rows(q)] = True
        wanted = np.unique(takes[1][here[takes[0]]])
        wanted = wanted[~here[wanted]]
        found += [(int(src), q, wanted[owner[wanted] == src].tolist()) for src in np.unique(owner[wanted])]
    return sorted(found)


def sent_by(found: Routes, processes: int) -> np.ndarray:
    """(processes,) rows that each sends."""
    sent = np.zeros(processes)
    for src, _, rows in found:
        sent[src] += len(rows)
    return sent
