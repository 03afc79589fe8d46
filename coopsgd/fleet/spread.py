"""Packed rows on their way: who needs whose, what that costs, and which process sends which rows to which.

A packed row cannot be added to another on the way, so there are no sums: each is sent as it is to every host that takes from
it. An average of packed rows is an all-gather. Pure numpy.
"""

from __future__ import annotations

import numpy as np

from coopsgd.fleet.plan import Layout
from coopsgd.fleet.price import Price, priced
from coopsgd.fleet.sums import Links

Routes = list[tuple[int, int, list[int]]]  # process src sends process dst these global rows in one message


def everyone(m: int, v: int) -> np.ndarray:
    """(n, n) bool: every worker takes from every worker."""
    takes = np.zeros((m + v, m + v), dtype=bool)
    takes[:m, :m] = True
    return takes


def spread_price(takes: np.ndarray, m: int, server_owns_aux: bool) -> Price:
    """As if every worker had its own host. takes: (n, n) bool, row i takes from row j.

    Auxiliary rows live where that is cheapest, copies on every host or each on one, or each on a host of its own when a server
    owns them.
    """
    n = len(takes)
    v = n - m
    if server_owns_aux or not v:
        return _priced(takes, n)
    copies = _priced(takes[:m, :m] | takes[m:, :m].any(0), m)  # every host works out what the copies become
    home = np.append(np.arange(m), np.arange(v) * m // v)
    wants = np.zeros((m, n), dtype=bool)  # host, row
    np.logical_or.at(wants, home, takes)
    wants[home, np.arange(n)] = False
    dst, row = np.nonzero(wants)
    owned = priced([], Links(dst, home[row], np.ones(len(dst), dtype=int)), m)
    return copies if copies.vectors <= owned.vectors else owned


def _priced(takes: np.ndarray, hosts: int) -> Price:
    dst, src = np.nonzero(takes & ~np.eye(len(takes), dtype=bool))
    return priced([], Links(dst, src, np.ones(len(dst), dtype=int)), hosts)


def routes(takes: np.ndarray, layout: Layout) -> Routes:
    """What processes send each other, each row once."""
    owner = {row: q for q in reversed(range(layout.processes)) for row in layout.rows(q)}
    found: dict[tuple[int, int], list[int]] = {}
    for q in range(layout.processes):
        here = layout.rows(q)
        for j in np.setdiff1d(np.flatnonzero(takes[here].any(0)), here):
            found.setdefault((owner[int(j)], q), []).append(int(j))
    return [(src, dst, rows) for (src, dst), rows in sorted(found.items())]


def sent_by(found: Routes, processes: int) -> np.ndarray:
    """(processes,) rows that each sends."""
    sent = np.zeros(processes)
    for src, _, rows in found:
        sent[src] += len(rows)
    return sent
