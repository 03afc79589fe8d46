"""A matrix as an object with structure: its maker says what it knows, and plans, prices, spectra and products read it.

Every matrix here is sparse weights plus terms of rank one, W = E + sum_g u_g v_g', so that an average of 100,000 workers is
200,000 numbers and a ring three times as many; row i is what member i takes. A `Product` is several of them, applied in order.
Nothing here is (n, n) unless `dense` is asked for. Pure numpy; scipy's sparse matrices are made when a product is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from coopsgd.host import sizes

ROUNDING = 1e-12  # a weight below it is what rounding left of a zero
WHOLE = 512  # rows up to which a matrix is also handled as an (n, n) array, where that is simplest: spectra, products
FOLLOWED = 1024  # rows up to which theory multiplies (n, n) arrays, many times: second moments, fastest weights
SPARSE = 0.2  # share of nonzeros up to which entries are handled one by one, and not as an array
STRIP = 1 << 20  # numbers of a larger matrix that are written out at a time


class Outer(NamedTuple):
    """u v' among some of the rows: each of `rows` (k,) adds u_i times the sum of v_j x_j over them."""

    rows: np.ndarray
    u: np.ndarray
    v: np.ndarray


class Modes(NamedTuple):
    """Eigenvalues (n,), that of the constant vector first, in the order of a known basis of orthogonal eigenvectors.

    Matrices of one basis commute, mode by mode. basis None: any orthogonal basis that begins with the constant vector will do.
    """

    basis: Hashable
    values: np.ndarray


class Matrix:
    """A real (n, n) matrix. Made by a mixing, read by whoever plans, prices, mixes or foretells."""

    __array_ufunc__ = None  # numpy's numbers and arrays leave * and + to the matrix
    n: int
    recurring: bool = False  # does it come again and again? Then a fleet may keep groups of processes for it
    outers: tuple[Outer, ...] = ()
    modes: Modes | None = None  # where they are known in closed form
    labels: np.ndarray | None = None  # (n,) rows with one label are interchangeable: any permutation of them leaves W as it is

    @property
    def edges(self) -> Edges:
        """What is sparse of it: all that no term of rank one says."""
        return nothing(self.n)

    @property
    def factors(self) -> tuple[Matrix, ...]:
        """The matrices that are applied one after the other; itself alone unless it is a product."""
        return (self,)

    def dense(self) -> np.ndarray:
        """(n, n) float64, read-only. ConfigError where that would not fit."""
        sizes.refuse("workers", 8.0 * self.n**2, f"a dense matrix over {self.n} members", "lower it")
        return self._dense

    @cached_property
    def _dense(self) -> np.ndarray:
        W = np.zeros((self.n, self.n))
        W[self.edges.rows, self.edges.columns] = self.edges.weights
        for rows, u, v in self.outers:
            W[np.ix_(rows, rows)] += np.outer(u, v)
        W.setflags(write=False)
        return W

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.dense() if dtype is None else self.dense().astype(dtype)

    def __len__(self) -> int:
        return self.n

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)"""
        return self.n, self.n

    def __matmul__(self, X: Any) -> Any:
        """W X for an array X, (n,) or (n, k)."""
        e, X = self.edges, np.asarray(X, dtype=float)
        y = _flat(e, X) if X.ndim == 1 else e.csr @ X
        for rows, u, v in self.outers:
            y[rows] += np.multiply.outer(u, v @ X[rows])
        return y

    @property
    def T(self) -> Matrix:
        """W'"""
        return Sum(self.n, self.edges.T, tuple(Outer(rows, v, u) for rows, u, v in self.outers))

    def __rmul__(self, c: float) -> Sum:
        """c W"""
        e = self.edges
        kept = None if self.modes is None else Modes(self.modes.basis, c * self.modes.values)
        scaled = Edges(e.n, e.rows, e.columns, c * e.weights)
        return Sum(self.n, scaled, tuple(Outer(rows, c * u, v) for rows, u, v in self.outers), kept, self.labels)

    def __add__(self, other: Matrix) -> Sum:
        """The sum of two matrices."""
        a, b = self.edges, other.edges
        rows, columns, weights = (np.concatenate(pair) for pair in zip(a.entries, b.entries, strict=True))
        edges = Edges.of(self.n, rows, columns, weights)
        labels = None if self.labels is None or other.labels is None else refined([self.labels, other.labels])
        return Sum(self.n, edges, self.outers + other.outers, both(np.add, self.modes, other.modes), labels)

    @cached_property
    def row_sums(self) -> np.ndarray:
        """(n,) what each row takes, all together."""
        return np.asarray(self @ np.ones(self.n))

    @cached_property
    def column_sums(self) -> np.ndarray:
        """(n,) what is taken of each row, all together."""
        return self.T.row_sums

    def is_row_stochastic(self, tolerance: float) -> bool:
        """Do all rows sum to one? Weights may be negative."""
        return bool(np.abs(self.row_sums - 1).max() <= tolerance)

    def is_doubly_stochastic(self, tolerance: float) -> bool:
        """Do all rows and all columns sum to one? Then mixing keeps the mean over all rows."""
        return self.is_row_stochastic(tolerance) and bool(np.abs(self.column_sums - 1).max() <= tolerance)

    def is_symmetric(self, tolerance: float) -> bool:
        """W = W'?"""
        e = self.edges
        if any(np.abs(u * v[(k := np.abs(u).argmax())] - v * u[k]).max() > tolerance for _, u, v in self.outers):
            both = zip(self.strips, self.T.strips, strict=True)
            return all(np.abs(strip - back).max() <= tolerance for (_, strip), (_, back) in both)
        back = np.lexsort((e.rows, e.columns))  # the same entries by column
        alike = np.array_equal(e.rows[back], e.columns) and np.array_equal(e.columns[back], e.rows)
        if alike:
            return bool(np.abs(e.weights[back] - e.weights).max(initial=0) <= tolerance)
        return bool(abs(e.csr - e.csr.T).max() <= tolerance)

    @cached_property
    def least(self) -> tuple[int, int, float]:
        """i, j and the smallest weight W[i, j]; 0 where no weight is below it and some are not there."""
        e = self.edges
        if not self.outers:
            if len(e.weights) and (e.weights.min() < 0 or len(e.weights) == self.n**2):
                at = int(e.weights.argmin())
                return int(e.rows[at]), int(e.columns[at]), float(e.weights[at])
            return 0, 0, 0.0
        if min(min(u.min(), v.min()) for _, u, v in self.outers) >= 0 and e.weights.min(initial=0) >= 0:
            return 0, 0, 0.0
        found = []
        for start, strip in self.strips:
            i, j = np.unravel_index(strip.argmin(), strip.shape)
            found.append((start + int(i), int(j), float(strip[i, j])))
        return min(found, key=lambda weight: weight[2])

    @property
    def strips(self) -> Iterator[tuple[int, np.ndarray]]:
        """The whole matrix, some rows (k, n) at a time, and the number of the first."""
        step = max(1, STRIP // self.n)
        for start in range(0, self.n, step):
            yield start, self.block(np.arange(start, min(start + step, self.n)), np.arange(self.n))

    @property
    def is_identity(self) -> bool:
        """Does everyone keep what it has?"""
        e, i = self.edges, np.arange(self.n)
        return not self.outers and np.array_equal(e.rows, i) and np.array_equal(e.columns, i) and bool((e.weights == 1).all())

    @cached_property
    def content(self) -> bytes:
        """The same for equal matrices, to nine digits (of large ones, if they have the same structure)."""
        if self.n <= WHOLE:
            return self.dense().round(9).tobytes()
        parts = [*self.edges.entries, *(part for outer in self.outers for part in outer)]
        return b"".join(np.round(part, 9).tobytes() for part in parts)

    @property
    def nonzeros(self) -> int:
        """How many weights are not zero (of several terms at one place each is counted)."""
        return len(self.edges.weights) + sum(int(np.count_nonzero(u)) * int(np.count_nonzero(v)) for _, u, v in self.outers)

    @cached_property
    def entries_by_row(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """rows, columns, weights of all that is not 0, row by row. Of a product by way of its array."""
        if len(self.factors) != 1:
            W = self.dense()
            rows, columns = np.nonzero(W)
            return rows, columns, W[rows, columns]
        e = self.edges
        at, by = [e.rows.astype(np.int64) * self.n + e.columns], [e.weights]
        for rows, u, v in self.outers:
            at.append((rows.astype(np.int64)[:, None] * self.n + rows).ravel())
            by.append(np.outer(u, v).ravel())
        key, place = np.unique(np.concatenate(at), return_inverse=True)
        weights = np.bincount(place, np.concatenate(by), len(key))
        key, weights = key[weights != 0], weights[weights != 0]
        return key // self.n, key % self.n, weights

    def row(self, i: int) -> np.ndarray:
        """(n,) what row i takes of each."""
        found, e = np.zeros(self.n), self.edges
        mine = slice(*np.searchsorted(e.rows, (i, i + 1)))
        found[e.columns[mine]] = e.weights[mine]
        for rows, u, v in self.outers:
            found[rows] += float(u[rows == i].sum()) * v
        return found

    def block(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(a, b) dense, what these rows take of those columns."""
        e = self.edges
        place, at = (np.full(self.n, -1) for _ in range(2))
        place[rows], at[columns] = np.arange(len(rows)), np.arange(len(columns))
        mine = (place[e.rows] >= 0) & (at[e.columns] >= 0)
        found = np.zeros((len(rows), len(columns)))
        found[place[e.rows[mine]], at[e.columns[mine]]] = e.weights[mine]
        for some, u, v in self.outers:
            taking, giving = place[some] >= 0, at[some] >= 0
            found[np.ix_(place[some[taking]], at[some[giving]])] += np.outer(u[taking], v[giving])
        return found

    def local(self, rows: np.ndarray) -> Matrix:
        """(r, r) what these rows (r,) take of each other: the product of the process that holds them."""
        e, place = self.edges, np.full(self.n, -1)
        place[rows] = np.arange(len(rows))
        mine = (place[e.rows] >= 0) & (place[e.columns] >= 0)
        inside = Edges.of(len(rows), place[e.rows[mine]], place[e.columns[mine]], e.weights[mine])
        kept = ((place[some] >= 0, Outer(place[some], u, v)) for some, u, v in self.outers)
        return Sum(len(rows), inside, tuple(Outer(*(part[there] for part in outer)) for there, outer in kept if there.any()))

    def quotient(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(c, c) what W does to the means of c classes of interchangeable rows, and (c,) to differences within each.

        In the orthonormal basis that has, for each class, its indicator over the root of its size: symmetric if W is.
        """
        c = int(labels.max()) + 1
        count = np.bincount(labels, minlength=c)
        Q, within = np.zeros((c, c)), np.zeros(c)
        order = np.argsort(labels, kind="stable")
        starts = np.concatenate([[0], np.cumsum(count)])
        for k in range(c):
            i = int(order[starts[k]])
            row = self.row(i)
            Q[k] = np.bincount(labels, row, c)
            within[k] = row[i] - row[order[starts[k] + 1]] if count[k] > 1 else 0
        root = np.sqrt(count)
        return Q * root[:, None] / root[None, :], within


@dataclass(frozen=True, eq=False)
class Edges(Matrix):
    """Sparse weights: member rows[e] takes weights[e] of columns[e]. Sorted by row, then column; none twice.

    modes, labels: as of every matrix, where the maker knows them.
    """

    n: int
    rows: np.ndarray
    columns: np.ndarray
    weights: np.ndarray
    modes: Modes | None = None
    labels: np.ndarray | None = None

    @classmethod
    def of(cls, n: int, rows: Any, columns: Any, weights: Any, modes: Modes | None = None, labels: Any = None) -> Edges:
        """From entries in any order: those at one place are added up, and what rounding left of zeros is left out."""
        rows, columns, weights = np.asarray(rows, dtype=int), np.asarray(columns, dtype=int), np.asarray(weights, dtype=float)
        key = rows * n + columns
        if len(key) > 1 and not (np.diff(key) > 0).all():
            key, at = np.unique(key, return_inverse=True)
            rows, columns, weights = key // n, key % n, np.bincount(at.reshape(-1), weights, len(key))
        kept = np.abs(weights) >= ROUNDING
        if not kept.all():
            rows, columns, weights = rows[kept], columns[kept], weights[kept]
        return cls(n, rows, columns, weights, modes, labels)

    @classmethod
    def of_sparse(cls, W: Any) -> Edges:
        """From a sparse array of scipy's."""
        rows, columns = (W := W.tocoo()).coords
        return cls.of(W.shape[0], rows, columns, W.data)

    @property
    def edges(self) -> Edges:
        return self

    @property
    def entries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """rows, columns, weights"""
        return self.rows, self.columns, self.weights

    @property
    def T(self) -> Edges:
        order = np.lexsort((self.rows, self.columns))
        return Edges(self.n, self.columns[order], self.rows[order], self.weights[order])

    @cached_property
    def csr(self) -> Any:
        """The same for scipy."""
        from scipy.sparse import csr_array

        starts = np.searchsorted(self.rows, np.arange(self.n + 1))
        weights, columns = np.ascontiguousarray(self.weights), np.ascontiguousarray(self.columns)
        return csr_array((weights, columns, starts), shape=(self.n, self.n))


def _flat(e: Edges, x: np.ndarray) -> np.ndarray:
    """W x for an x (n,), without scipy, which takes long to import."""
    return np.bincount(e.rows, e.weights * x[e.columns], e.n).astype(float, copy=False)  # integers where there are no entries


def nothing(n: int) -> Edges:
    """No weight at all."""
    return Edges(n, np.zeros(0, dtype=int), np.zeros(0, dtype=int), np.zeros(0))


def identity(n: int) -> Edges:
    """I: everyone keeps what it has; an identity is edges from everyone to itself."""
    i = np.arange(n)
    return Edges(n, i, i, np.ones(n), Modes(None, np.ones(n)), np.zeros(n, dtype=int))


@dataclass(frozen=True, eq=False)
class Sum(Matrix):
    """Sparse weights and terms of rank one, added up."""

    n: int
    sparse: Edges
    terms: tuple[Outer, ...] = ()
    modes: Modes | None = None
    labels: np.ndarray | None = None

    @property
    def edges(self) -> Edges:
        return self.sparse

    @property
    def outers(self) -> tuple[Outer, ...]:  # type: ignore[override]
        return self.terms


def both(combine: Callable[..., Any], a: Modes | None, b: Modes | None) -> Modes | None:
    """Of two matrices with a common basis, mode by mode; None when none is known."""
    if a is None or b is None or (a.basis is not None and b.basis is not None and a.basis != b.basis):
        return None
    return Modes(a.basis if b.basis is None else b.basis, combine(a.values, b.values))


def refined(labels: Sequence[np.ndarray]) -> np.ndarray:
    """(n,) the coarsest labels that tell apart whatever any of these does."""
    return np.unique(np.stack(labels), axis=1, return_inverse=True)[1].reshape(-1)


def frozen(W: Any) -> np.ndarray:
    """Read-only float64; the same array if it is so already."""
    if isinstance(W, np.ndarray) and W.dtype == np.float64 and not W.flags.writeable:
        return W
    W = np.array(W, dtype=np.float64)
    W.setflags(write=False)
    return W
