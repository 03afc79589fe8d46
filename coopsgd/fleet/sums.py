"""What crosses between hosts: sums over groups of them, and single messages. Read off the structure of W.

A host needs no message for what it holds. Of the rest,

* a term of rank one, u_i v_j among some rows, is one sum of v_j x_j over the hosts that hold them: 2 (g - 1) vectors for g;
* so are sparse weights that are u_i v_j wherever they cross (the lazy average of a complete graph, groups in a user's array);
* dense weights of rank k as they stand are k sums in one all-reduce;
* all else goes along edges, as many vectors from one host to another as the block between them has rank: rows as they are, or
  added up before they are sent.

Sums over some of the hosts need a group of processes, a resource that is never given back: they are for matrices that recur.
The price list (price.py) reads W in the same way, one worker a host. Pure numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from coopsgd.fleet.entries import Entries
from coopsgd.fleet.factors import GROWTH, NOISE, Pair, factor, rank_one, spanning, through
from coopsgd.mixing.matrix import SPARSE, Edges, Matrix, Outer
from coopsgd.mixing.matrix import Sum as Terms

RANKED = 1 << 12  # entries of a sparse block between two hosts up to which its rank is found; rows are sent of a larger one


class Links(NamedTuple):
    """Single messages, arrays (L,): host src sends host dst so many vectors in one."""

    dst: np.ndarray
    src: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class Sum:
    """All-reduce of V @ x over a group: row i then adds U[i] @ result. V (k, n), U (n, k) over global rows."""

    group: tuple[int, ...]
    U: np.ndarray
    V: np.ndarray


class Crossing(NamedTuple):
    """How hosts carry W out: terms that are each a sum over some hosts, links, and what the sums leave of W.

    beside: is a sum among them that edges or other sums stand beside, which edges alone might do for less?
    """

    terms: list[tuple[np.ndarray, Outer]]
    links: Links
    rest: Matrix
    beside: bool = False

    @property
    def vectors(self) -> int:
        """Sent by all hosts together."""
        return int(self.links.vectors.sum()) + sum(2 * (len(group) - 1) for group, _ in self.terms)


def cheapest(*forms: Matrix, home: np.ndarray, hosts: int, recurring: bool) -> Crossing:
    """That with the fewest vectors, of one matrix in as many forms as are known of it."""
    found = []
    for W in forms:
        found.append(carried(W, home, hosts, recurring))
        if found[-1].beside:
            found.append(carried(W, home, hosts, recurring, together=False))
    return min(found, key=lambda way: way.vectors)


def carried(
    W: Matrix, home: np.ndarray, hosts: int, recurring: bool = True, together: bool = True, wire: bool = True
) -> Crossing:
    """How W crosses between hosts. home: (n,) the host of each row, -1 where a row hears of others by other means.

    recurring: may sums be over some of the hosts? together: may they stand beside edges and other sums? wire: else it is for
    the price list, which knows averages and messages: no sum beside others, and no more than one between the same hosts.
    """
    e, scale = W.edges, largest(W)
    rows, columns, weights = crossing(e, home, NOISE * scale)
    outers = [(outer, group) for outer in W.outers if len(group := np.unique(home[outer.rows])) > 1]
    if outers:
        part = components(hosts, home[rows], home[columns], [group for _, group in outers])
        with_edges, several = np.zeros(hosts, dtype=bool), np.bincount([part[group[0]] for _, group in outers], minlength=hosts)
        with_edges[part[home[rows]]] = True
    terms, left, beside = list[tuple[np.ndarray, Outer]](), list[Outer](), False
    for outer, group in outers:
        at = part[group[0]]
        lone = not with_edges[at] and several[at] == 1 and bool(outer.u.all() and outer.v.all())
        if (len(group) == hosts or (len(group) > 2 and recurring)) and (lone or (wire and together)):
            terms.append((group, outer))
            beside |= not lone
        else:
            left.append(outer)
    if left and not wire:
        expanded = crossing(Terms(W.n, Edges.of(W.n, [], [], []), tuple(left)), home, NOISE * scale)
        rows, columns, weights = (np.append(a, b) for a, b in zip((rows, columns, weights), expanded, strict=True))
        rows, columns, weights = Edges.of(W.n, rows, columns, weights).entries
    links = linked(rows, columns, weights, home, hosts)
    part = components(hosts, links.dst, links.src, [])
    of, size, gone, own = part[links.dst], np.bincount(part, minlength=hosts), np.zeros(len(rows), dtype=bool), list[Outer]()
    many = np.bincount(of, minlength=hosts)
    least = 2 * (size - 1) + (wire & (size < hosts))
    may = (many > 0) & ((size == hosts) | ((size > 2) & recurring))
    for at in np.flatnonzero(may & (many >= least)):
        mine, group = part[home[rows]] == at, np.flatnonzero(part == at)
        found = rank_one(rows[mine], columns[mine], weights[mine], home)
        if found is not None and not (wire and grown(found[0][:, None], found[1][None], scale)):
            pairs = [found]
        elif wire:
            pairs = _low_rank(e, home, group, (int(links.vectors[of == at].sum()) - 1) // (2 * (size[at] - 1)), scale)
        else:
            pairs = []
        if pairs:
            inside = np.flatnonzero(np.isin(home, group))
            terms += [(group, Outer(inside, u[inside], v[inside])) for u, v in pairs]
            if wire:  # what they do within a host is undone there
                own += [Outer(i, -u[i], v[i]) for u, v in pairs for i in (np.flatnonzero(home == q) for q in group)]
            gone |= mine
            links = Links(*(x[of != at] for x in links))
            of = of[of != at]
    if not wire:
        return Crossing(terms, links, W)
    spans = {id(outer) for outer, _ in outers}
    inner = [outer for outer in W.outers if id(outer) not in spans]
    here = ~apart(e, home)
    rows, columns, weights = (np.append(a[here], b[~gone]) for a, b in zip(e.entries, (rows, columns, weights), strict=True))
    order = np.lexsort((columns, rows))
    rest = Terms(W.n, Edges(W.n, rows[order], columns[order], weights[order]), (*inner, *left, *own))
    return Crossing(terms, _with_terms(links, left, home, hosts), rest, beside)


def _low_rank(e: Edges, home: np.ndarray, group: np.ndarray, most: int, scale: float) -> list[Pair]:
    """Up to `most` u, v whose products add up to the dense weights between and within these hosts; none if they do not."""
    inside = np.flatnonzero(np.isin(home, group))
    if not most or np.count_nonzero(np.isin(e.rows, inside) & np.isin(e.columns, inside)) <= SPARSE * len(inside) ** 2:
        return []
    block = e.block(inside, inside)
    spans = spanning(block, most)
    if spans is None:
        return []
    u, v = through(block, *spans)
    if grown(u, v, scale):
        return []
    U, V = np.zeros((len(v), e.n)), np.zeros((len(v), e.n))
    U[:, inside], V[:, inside] = u.T, v
    return list(zip(U, V, strict=True))


def grown(u: np.ndarray, v: np.ndarray, scale: float) -> bool:
    """Are numbers added up on the way that are much larger than those of W?"""
    most = np.abs(u).max() * np.abs(v).max() if len(v) == 1 else (np.abs(u) @ np.abs(v)).max()
    return bool(most > GROWTH * scale)


def largest(W: Matrix) -> float:
    """No weight of W is much larger."""
    return float(max([np.abs(W.edges.weights).max(initial=0), *(np.abs(u).max() * np.abs(v).max() for _, u, v in W.outers)]))


def apart(e: Edges, home: np.ndarray) -> np.ndarray:
    """Which entries are between rows of different hosts; a home of -1 is everywhere."""
    return np.asarray((home[e.rows] != home[e.columns]) & (home[e.rows] >= 0) & (home[e.columns] >= 0))


def crossing(W: Matrix, home: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries of W above `least` in size between rows of different hosts."""
    rows, columns, weights = W.edges.entries
    for some, u, v in W.outers:
        k = len(some)
        rows, columns = np.append(rows, np.repeat(some, k)), np.append(columns, np.tile(some, k))
        weights = np.append(weights, np.outer(u, v).ravel())
    there = apart(Edges(W.n, rows, columns, weights), home) & (np.abs(weights) >= least) & (weights != 0)
    return rows[there], columns[there], weights[there]


def components(hosts: int, a: np.ndarray, b: np.ndarray, groups: list[np.ndarray]) -> np.ndarray:
    """(hosts,) the smallest host that each is connected with, by links a - b and by groups."""
    a, b = np.concatenate([a, *groups]), np.concatenate([b, *(np.full(len(group), group[0]) for group in groups)])
    part = np.arange(hosts)
    while len(a):
        before = part.copy()
        least = np.minimum(part[a], part[b])
        np.minimum.at(part, part[a], least)
        np.minimum.at(part, part[b], least)
        while not np.array_equal(part, part[part]):
            part = part[part]
        if np.array_equal(part, before):
            break
        open_ = part[a] != part[b]
        a, b = a[open_], b[open_]
    return part


def linked(rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, home: np.ndarray, hosts: int) -> Links:
    """One message between two hosts for all entries between them, of as many vectors as `message` makes of these."""
    n, pair = len(home), home[rows] * hosts + home[columns]
    if (np.diff(pair) > 0).all():  # one entry each, in order
        return Links(home[rows], home[columns], np.ones(len(pair), dtype=int))
    pairs, at, many = np.unique(pair, return_inverse=True, return_counts=True)
    several = many[at] > 1  # one entry is one vector, and there may be millions of them

    def distinct(x: np.ndarray) -> np.ndarray:
        found = np.bincount(np.unique(at[several] * n + x[several]) // n, minlength=len(pairs))
        return np.where(many > 1, found, 1)

    taken, takers = distinct(columns), distinct(rows)
    vectors = np.minimum(taken, takers)
    order, ends = np.argsort(at, kind="stable"), np.cumsum(many)
    for k in np.flatnonzero((vectors > 1) & _ranked(taken * takers, many)):
        mine = order[ends[k] - many[k] : ends[k]]
        (i, row), (j, column) = (np.unique(x[mine], return_inverse=True) for x in (rows, columns))
        block = np.zeros((len(i), len(j)))
        block[row, column] = weights[mine]
        vectors[k] = len(factor(block)[1])
    return Links(pairs // hosts, pairs % hosts, vectors)


def message(block: Entries) -> tuple[Entries, Entries]:
    """u (a, k), v (k, b) with u @ v = block: few rows v that are sent. Rows as they are, or added up for whoever takes them."""
    a, b = block.shape
    (takers, row), (taken, column) = (np.unique(x, return_inverse=True) for x in (block.rows, block.columns))
    if _ranked(len(takers) * len(taken), len(block.weights)):
        few = Entries((len(takers), len(taken)), row, column, block.weights)
        u, v = (Entries.of(part) for part in factor(few.dense()))
        k = u.shape[1]
        return Entries((a, k), takers[u.rows], u.columns, u.weights), Entries((k, b), v.rows, taken[v.columns], v.weights)
    if len(taken) <= len(takers):
        k = len(taken)
        return Entries((a, k), block.rows, column, block.weights), Entries((k, b), np.arange(k), taken, np.ones(k))
    k = len(takers)
    return Entries((a, k), takers, np.arange(k), np.ones(k)), Entries((k, b), row, block.columns, block.weights)


def _ranked(size: Any, nonzeros: Any) -> Any:
    """Is it small or dense enough for its rank to be looked for?"""
    return (size <= RANKED) | (nonzeros > SPARSE * size)


def _with_terms(links: Links, terms: list[Outer], home: np.ndarray, hosts: int) -> Links:
    """The same with a vector more from each host that a term reads to each that it feeds."""
    if not terms:
        return links
    keys, vectors = [links.dst * hosts + links.src], [links.vectors]
    for outer in terms:
        takes, gives = (np.unique(home[outer.rows[part != 0]]) for part in (outer.u, outer.v))
        pair = np.add.outer(takes * hosts, gives)[takes[:, None] != gives]
        keys.append(pair)
        vectors.append(np.ones(len(pair), dtype=int))
    pairs, at = np.unique(np.concatenate(keys), return_inverse=True)
    return Links(pairs // hosts, pairs % hosts, np.bincount(at, np.concatenate(vectors)).astype(int))
