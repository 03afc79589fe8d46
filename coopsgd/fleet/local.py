"""What is done with the rows of one process: a small matrix times a tall pile of numbers, in place, a slice at a time.

Measured on one thread (float32, ms for one pass): an averaging product of 1024 rows x 5000 columns 118 to 143 dense; by
gathered rows 4 with 3 nonzeros a row, 14 with 48, 24 with 96. Gathering wins from 16 rows on when at most a fifth of
the matrix is nonzero (at 64 rows 0.64 of the dense time there, 0.96 at 0.375), and loses on 8 rows. Where a compiled kernel
does it in one pass (compiled.py), that does it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from coopsgd.fleet import compiled, factors
from coopsgd.fleet.entries import Entries
from coopsgd.host.transfer import brought
from coopsgd.mixing.matrix import SPARSE, Matrix, Outer

HALVES = (torch.bfloat16, torch.float16)  # which round weights far: 1/3 by 0.2 % in the one and 0.02 % in the other
ADDED = 16  # what a row is the sum of, up to which it is added up one by one where messages are among it
CHUNK = 1 << 16  # numbers handled at a time, so that a slice of the rows and what is made of it stay in cache
GPU_CHUNK = 1 << 26  # on a GPU, where every slice costs the launch of some kernels


@dataclass
class Local:
    """x <- S x + M_1 e_1 + M_2 e_2 ... in place, for an (r, r) S, an array or a matrix with structure, and a few extra vectors.

    S as a diagonal plus u v' (averages, elastic pulls) costs two passes over x; any other S a product of the rows that
    change with the rows they take from. Rows of 16 bits are mixed in float32 and rounded once.
    """

    S: np.ndarray | Matrix
    extras: Sequence[Entries] = ()  # M_i, (r, k_i)
    _ready: dict[Any, _Split | _Sums | _Product] = field(default_factory=dict)

    def __call__(self, x: Tensor, *extras: Tensor) -> None:
        if x.dtype in HALVES:
            step = _step(len(x) + sum(map(len, extras)), x)
            for part, *others in zip(*(each.split(step, 1) for each in (x, *extras)), strict=True):
                mixed = part.float()
                self(mixed, *(other.float() for other in others))
                part.copy_(mixed)
            return
        self._for(x)(x, extras)

    def kernel(self, x: Tensor) -> compiled.Kernel | None:
        """What does all of it to x in one compiled pass; None where nothing does."""
        if x.dtype in HALVES or any(M.shape[1] for M in self.extras):
            return None
        return getattr(self._for(x), "kernel", None)

    def _for(self, x: Tensor) -> _Split | _Sums | _Product:
        key = (x.dtype, x.device)
        if key not in self._ready:
            self._ready[key] = self._made(x)
        return self._ready[key]

    def _made(self, like: Tensor) -> _Split | _Sums | _Product:
        S, r = self.S, len(self.S)
        outers = S.outers if isinstance(S, Matrix) else ()
        rows, columns, weights = S.edges.entries if isinstance(S, Matrix) else _entries(S)
        diagonal = np.zeros(r)
        diagonal[rows[rows == columns]] = weights[rows == columns]
        widths = np.cumsum([r, *(M.shape[1] for M in self.extras)])
        rows = np.concatenate([rows, *(M.rows for M in self.extras)])
        columns = np.concatenate([columns, *(M.columns + at for M, at in zip(self.extras, widths, strict=False))])
        weights = np.concatenate([weights, *(M.weights for M in self.extras)])
        stays = np.bincount(rows, minlength=r) == 1
        stays[stays] = diagonal[stays] == 1
        for outer in outers:
            stays[outer.rows[outer.u != 0]] = False
        changed = np.flatnonzero(~stays)
        whole = len(changed) == r == widths[-1]
        # a few whole rows are mixed in registers as they are
        few = whole and isinstance(S, np.ndarray) and compiled.few(S, changed, like) is not None
        if (2 * len(changed) > r or r == 1) and not few:
            split = _structured_split(S, diagonal) if isinstance(S, Matrix) else _split(S)
            if split is not None:
                return _Split(*split, self.extras, like)
        if not (np.diff(rows * widths[-1] + columns) > 0).all():
            order = np.lexsort((columns, rows))
            rows, columns, weights = rows[order], columns[order], weights[order]
        if widths[-1] > r and not outers and _apart(rows, columns, changed):
            return _Sums(rows, columns, weights, widths, changed, like)
        return _Product(rows, columns, weights, (r, int(widths[-1])), changed, outers, like)


def _apart(rows: np.ndarray, columns: np.ndarray, changed: np.ndarray) -> bool:
    """Are the rows that change sums of a few, and taken from by none but themselves?"""
    of_changed = np.isin(rows, changed)
    taken = np.isin(columns, changed) & of_changed
    return bool((rows == columns)[taken].all()) and bool((np.bincount(rows[of_changed]) <= ADDED).all())


def _extra(M: Entries, like: Tensor) -> Tensor | _Gathered:
    """What multiplies an extra."""
    if not _sparse(*M.shape, len(M.rows)):
        return _made(M.dense(), like)
    order = np.lexsort((M.columns, M.rows))
    return _Gathered(M.rows[order], M.columns[order], M.weights[order], M.shape[0], like)


def _entries(M: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, columns = np.nonzero(M)
    return rows, columns, M[rows, columns]


def _structured_split(S: Matrix, diagonal: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """diagonal, u, v of a matrix that says it is that."""
    if (S.edges.rows != S.edges.columns).any() or len(S.outers) > 1:
        return None
    u, v = np.zeros((2, len(S)))
    for outer in S.outers:
        u[outer.rows], v[outer.rows] = outer.u, outer.v
    return diagonal, u, v


class _Split:
    """S = diagonal + u v'."""

    def __init__(self, diagonal: np.ndarray, u: np.ndarray, v: np.ndarray, extras: Sequence[Entries], like: Tensor) -> None:
        self.step = _step(len(u), like)
        self.extras = [_extra(M, like) for M in extras]
        self.diagonal = None if np.all(diagonal == 1) else _made(diagonal[:, None], like)
        self.empty = not diagonal.any()  # then nothing of x itself stays
        pulls = np.any(u) and np.any(v)
        self.u = _made(u[:, None], like) if pulls else None
        self.v = _made(v[None], like) if pulls else None
        alone = not any(M.shape[1] for M in extras)
        moves = self.diagonal is not None or self.u is not None
        self.kernel = compiled.pulling(diagonal, u, v, like) if alone and moves else None

    def __call__(self, x: Tensor, extras: tuple[Tensor, ...]) -> None:
        if self.diagonal is None and self.u is None and not any(map(len, extras)):
            return
        if self.kernel is not None and self.kernel(x):
            return
        for start in range(0, x.shape[1], self.step):
            part = x[:, start : start + self.step]
            pulled = None if self.v is None else self.v @ part  # before x changes
            if self.empty and pulled is not None and self.u is not None:
                torch.mul(self.u, pulled, out=part)
            else:
                if self.diagonal is not None:
                    part.mul_(self.diagonal)
                if pulled is not None and self.u is not None:
                    part.addcmul_(self.u, pulled)
            for M, extra in zip(self.extras, extras, strict=True):
                if isinstance(M, _Gathered):
                    part.add_(M(extra[:, start : start + self.step]))
                elif len(extra) == 1:
                    part.addcmul_(M, extra[:, start : start + self.step])
                elif len(extra):
                    part.addmm_(M, extra[:, start : start + self.step])


class _Sums:
    """x[changed] <- W[changed] @ (x, then the extras), added up where they lie: no row that changes is in the sum of another.

    Messages lie apart from the rows, and a product would have to copy them together: 16 ms for 80, a mean of one row and three
    messages of 1e7 numbers.
    """

    def __init__(
        self, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, widths: np.ndarray, changed: np.ndarray, like: Tensor
    ) -> None:
        self.step = _step(1, like)
        # a row, and what it is the sum of: x or which of the extras, the row there, its weight
        self.sums: list[tuple[int, list[tuple[int, int, float]]]] = []
        for i in changed.tolist():
            own = rows == i
            first = np.argsort(columns[own] != i, kind="stable")  # what stays of itself, before it changes
            parts = np.searchsorted(widths, columns[own], side="right")
            places = columns[own] - np.append(0, widths)[parts]
            terms = [(int(parts[k]), int(places[k]), float(weights[own][k])) for k in first]
            self.sums.append((i, terms))

    def __call__(self, x: Tensor, extras: tuple[Tensor, ...]) -> None:
        every = (x, *extras)
        for start in range(0, x.shape[1], self.step):
            for i, terms in self.sums:
                row = x[i, start : start + self.step]
                if not terms:
                    row.zero_()
                for n, (part, at, weight) in enumerate(terms):
                    source = every[part][at, start : start + self.step]
                    if n:
                        row.add_(source, alpha=weight)
                    else:
                        torch.mul(source, weight, out=row)


class _Product:
    """x[changed] <- W[changed] @ (x, then the extras), W (r, r + k) by its entries; rows that stay are not touched.

    outers: sums among some of the rows, made first and then taken like extras.
    """

    def __init__(
        self,
        rows: np.ndarray,
        columns: np.ndarray,
        weights: np.ndarray,
        shape: tuple[int, int],
        changed: np.ndarray,
        outers: Sequence[Outer],
        like: Tensor,
    ) -> None:
        r = shape[0]
        place = np.full(r, -1)
        place[changed] = np.arange(len(changed))
        mine = place[rows] >= 0
        rows, columns, weights = place[rows[mine]], columns[mine], weights[mine]
        self.means: _Gathered | None = None
        if outers:
            at = np.repeat(np.arange(len(outers)), [len(outer.rows) for outer in outers])
            several, u, v = (np.concatenate(part) for part in zip(*outers, strict=True))
            self.means = _Gathered(at, several, v, len(outers), like)
            taking = place[several] >= 0
            rows, columns = np.append(rows, place[several[taking]]), np.append(columns, shape[1] + at[taking])
            order = np.lexsort((columns, rows))
            rows, columns, weights = rows[order], columns[order], np.append(weights, u[taking])[order]
        used = np.flatnonzero(np.bincount(columns))
        place = np.zeros(int(used.max(initial=0)) + 1, dtype=int)
        place[used] = np.arange(len(used))
        columns = place[columns]
        self.changed = None if len(changed) == r else _index(changed, like)
        self.used = [_index(used[used < r], like), _index(used[used >= r] - r, like)]
        self.whole = len(used) == r and bool((used < r).all())  # then x itself is what is multiplied
        self.gathered: _Gathered | None = None
        alone = not outers and bool((used < r).all())
        self.kernel = compiled.product(rows, columns, weights, changed, used, like) if alone else None
        if _sparse(len(changed), len(used), len(rows)):
            self.gathered = _Gathered(rows, columns, weights, len(changed), like)
            self.step = _step(len(changed) + len(used), like, least=256)
        else:
            few = np.zeros((len(changed), len(used)), order="F")  # which product is taken depends on it, and its last bits
            few[rows, columns] = weights
            self.dense = _made(few, like)
            self.step = _step(r, like)

    def __call__(self, x: Tensor, extras: tuple[Tensor, ...]) -> None:
        if self.changed is not None and not len(self.changed):
            return
        if self.kernel is not None and self.kernel(x):
            return
        rows, others = self.used
        for start in range(0, x.shape[1], self.step):
            part = x[:, start : start + self.step]
            if self.whole:
                source = part
            else:
                below = [extra[:, start : start + self.step] for extra in extras]
                if self.means is not None:
                    below.append(self.means(part))
                source = part.index_select(0, rows)
                if len(others):
                    source = torch.cat([source, torch.cat(below).index_select(0, others)])
            new = self._product(source)
            if self.changed is None:
                part.copy_(new)
            else:
                part.index_copy_(0, self.changed, new)

    def _product(self, source: Tensor) -> Tensor:
        return self.dense @ source if self.gathered is None else self.gathered(source)


class _Gathered:
    """A product with a sparse matrix of r rows, by its entries sorted by row."""

    def __init__(self, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, r: int, like: Tensor) -> None:
        offsets = np.cumsum([0, *np.bincount(rows, minlength=r)[:-1]])
        self.columns, self.offsets, self.weights = _index(columns, like), _index(offsets, like), _made(weights, like)

    def __call__(self, source: Tensor) -> Tensor:
        return embedding_bag(self.columns, source.contiguous(), self.offsets, mode="sum", per_sample_weights=self.weights)


def _split(S: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """diagonal, u, v with S = diag + u v', or None when S is no such matrix."""
    if not (S - np.diag(np.diag(S))).any():
        return np.diag(S), np.zeros(len(S)), np.zeros(len(S))
    rows, columns, weights = _entries(S)
    off = rows != columns
    if len(S) > 2 and off.sum() == len(S) * (len(S) - 1):
        found = factors.whole_rank_one(S)
    else:
        found = factors.rank_one(rows[off], columns[off], weights[off], np.arange(len(S)))
    if found is None:
        return None
    u, v = found
    diagonal = np.diag(S) - u * v
    diagonal[np.abs(diagonal) < factors.NOISE * np.abs(S).max()] = 0
    return diagonal, u, v


@dataclass
class Combined:
    """V @ x for a (k, r) V: what this process adds up before it is sent."""

    V: Entries
    _ready: dict[Any, Callable[[Tensor, Tensor], Tensor]] = field(default_factory=dict)

    @property
    def k(self) -> int:
        """How many vectors it makes."""
        return self.V.shape[0]

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """out (k, d), filled."""
        if x.dtype in HALVES:
            step = _step(len(x) + len(out), x)
            for part, into in zip(x.split(step, 1), out.split(step, 1), strict=True):
                into.copy_(self(part.float(), torch.empty_like(into, dtype=torch.float32)))
            return out
        key = (x.dtype, x.device)
        if key not in self._ready:
            self._ready[key] = self._made(x)
        return self._ready[key](x, out)

    def message(self, x: Tensor) -> Tensor:
        """The same; the row itself, not a copy, when V picks one as it is."""
        if self.k == 1 and self.V.weights.tolist() == [1.0]:
            at = int(self.V.columns[0])
            return x[at : at + 1]
        return self(x, x.new_empty(self.k, x.shape[1]))

    def _made(self, like: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        V = self.V
        if V.shape == (1, 1):
            weight = _made(V.dense(), like)
            return lambda x, out: torch.mul(x, weight, out=out)
        order = np.lexsort((V.columns, V.rows))
        rows, weights = V.rows[order], V.weights[order]
        used, columns = np.unique(V.columns[order], return_inverse=True)
        index = _index(used, like)
        if len(used) == self.k and all(np.array_equal(x, np.arange(self.k)) for x in (rows, columns)) and np.all(weights == 1):
            return lambda x, out: torch.index_select(x, 0, index, out=out)  # rows as they are
        product: Callable[[Tensor], Tensor]
        if _sparse(self.k, len(used), len(rows)):
            product = _Gathered(rows, columns, weights, self.k, like)
        else:
            product = partial(torch.matmul, _made(Entries((self.k, len(used)), rows, columns, weights).dense(), like))
        whole, step = len(used) == V.shape[1], _step(len(used), like)

        def make(x: Tensor, out: Tensor) -> Tensor:
            for start in range(0, x.shape[1], step):
                part = x[:, start : start + step]
                out[:, start : start + step] = product(part if whole else part.index_select(0, index))
            return out

        return make


def _sparse(rows: int, columns: int, entries: int) -> bool:
    """Is a product by entries quicker?"""
    return rows * columns >= 256 and entries <= SPARSE * rows * columns


def _made(array: np.ndarray, like: Tensor) -> Tensor:
    return brought(np.array(array), like.device, like.dtype)


def _index(rows: np.ndarray, like: Tensor) -> Tensor:
    return brought(np.array(rows, dtype=np.int64), like.device)


def _step(rows: int, like: Tensor, least: int = 2048) -> int:
    """How many columns of so many rows are handled at a time."""
    return max(least, (CHUNK if like.device.type == "cpu" else GPU_CHUNK) // max(rows, 1))
