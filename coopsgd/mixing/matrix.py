"""A matrix as an object with structure: its maker says what it knows, and plans, prices, spectra and products read it.

Every matrix here is sparse weights plus terms of rank one, W = E + sum_g u_g v_g', so that an average of 100,000 workers is
200,000 numbers and a ring three times as many; row i is what member i takes. A `Product` is several of them, applied in order.
Nothing here is (n, n) unless `dense` is asked for. Pure numpy; scipy's sparse matrices are made when a product is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from coopsgd.host import sizes

ROUNDING = 1e-12  # a weight below it is what rounding left of a zero
SPARSE = 0.2  # at most this share of nonzeros: an array is taken for edges
LARGE = 2048  # rows from which on an array is looked at for structure; smaller ones are searched whole when they are planned


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
        """W X for an array X, (n,) or (n, k); of two matrices their product, dense."""
        if isinstance(X, Matrix):
            return recognise(self @ X.dense())
        y = self.edges.csr @ X
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

    def __add__(self, other: Any) -> Sum:
        """The sum of two matrices; of a matrix and an array too."""
        other = recognise(other)
        a, b = self.edges, other.edges
        rows, columns, weights = (np.concatenate(pair) for pair in zip(a.entries, b.entries, strict=True))
        edges = Edges.of(self.n, rows, columns, weights)
        labels = None if self.labels is None or other.labels is None else refined([self.labels, other.labels])
        return Sum(self.n, edges, self.outers + other.outers, _both(np.add, self.modes, other.modes), labels)

    __radd__ = __add__

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
            return bool(np.abs(self.dense() - self.dense().T).max() <= tolerance)
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
        W = self.dense()
        i, j = np.unravel_index(W.argmin(), W.shape)
        return int(i), int(j), float(W[i, j])

    @property
    def is_identity(self) -> bool:
        """Does everyone keep what it has?"""
        e, i = self.edges, np.arange(self.n)
        return not self.outers and np.array_equal(e.rows, i) and np.array_equal(e.columns, i) and bool((e.weights == 1).all())

    @cached_property
    def content(self) -> bytes:
        """The same for equal matrices, to nine digits (of large ones, if they have the same structure)."""
        if self.n <= LARGE:
            return self.dense().round(9).tobytes()
        parts = [*self.edges.entries, *(part for outer in self.outers for part in outer)]
        return b"".join(np.round(part, 9).tobytes() for part in parts)

    @property
    def nonzeros(self) -> int:
        """How many weights are not zero (of several terms at one place each is counted)."""
        return len(self.edges.weights) + sum(int(np.count_nonzero(u)) * int(np.count_nonzero(v)) for _, u, v in self.outers)

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
        return csr_array((self.weights, self.columns, starts), shape=(self.n, self.n))


def nothing(n: int) -> Edges:
    """No weight at all."""
    return Edges(n, np.zeros(0, dtype=int), np.zeros(0, dtype=int), np.zeros(0))


def identity(n: int) -> Edges:
    """I: everyone keeps what it has; an identity is edges from everyone to itself."""
    i = np.arange(n)
    return Edges(n, i, i, np.ones(n), Modes(None, np.ones(n)), np.zeros(n, dtype=int))


@dataclass(frozen=True, eq=False)
class Average(Matrix):
    """J: everyone takes the mean of everyone."""

    n: int

    @cached_property
    def outers(self) -> tuple[Outer, ...]:  # type: ignore[override]
        return (Outer(np.arange(self.n), np.ones(self.n), np.full(self.n, 1 / self.n)),)

    @property
    def modes(self) -> Modes:  # type: ignore[override]
        values = np.zeros(self.n)
        values[0] = 1
        return Modes(None, values)

    @property
    def labels(self) -> np.ndarray:  # type: ignore[override]
        return np.zeros(self.n, dtype=int)


@dataclass(frozen=True, eq=False)
class Groups(Matrix):
    """Everyone takes the mean of its group. members: of each group, which together are all n."""

    n: int
    members: Sequence[Sequence[int]]

    @cached_property
    def outers(self) -> tuple[Outer, ...]:  # type: ignore[override]
        several = (np.asarray(rows, dtype=int) for rows in self.members if len(rows) > 1)
        return tuple(Outer(np.sort(rows), np.ones(len(rows)), np.full(len(rows), 1 / len(rows))) for rows in several)

    @cached_property
    def edges(self) -> Edges:
        alone = [rows[0] for rows in self.members if len(rows) == 1]
        return Edges.of(self.n, alone, alone, np.ones(len(alone)))

    @cached_property
    def labels(self) -> np.ndarray:  # type: ignore[override]
        found = np.zeros(self.n, dtype=int)
        for g, rows in enumerate(self.members):
            found[list(rows)] = g
        return found


@dataclass(frozen=True, eq=False)
class Pull(Matrix):
    """Workers and one centre pull at each other by alpha: [[W, alpha 1], [alpha 1', 1 - m alpha]], the centre last.

    workers: (m, m) W of the workers among themselves, which keeps 1 - alpha of each.
    """

    workers: Matrix
    alpha: float

    @property
    def n(self) -> int:  # type: ignore[override]
        return self.workers.n + 1

    @property
    def outers(self) -> tuple[Outer, ...]:  # type: ignore[override]
        return self.workers.outers

    @cached_property
    def edges(self) -> Edges:
        e, m = self.workers.edges, self.workers.n
        i, z, pull = np.arange(m), np.full(m, m), np.full(m, self.alpha)
        rows, columns = np.concatenate([e.rows, i, z, [m]]), np.concatenate([e.columns, z, i, [m]])
        return Edges.of(m + 1, rows, columns, np.concatenate([e.weights, pull, pull, [1 - m * self.alpha]]))

    @cached_property
    def labels(self) -> np.ndarray | None:  # type: ignore[override]
        mine = self.workers.labels
        return None if mine is None else np.append(mine, mine.max() + 1)


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


@dataclass(frozen=True, eq=False)
class Dense(Matrix):
    """An array of which no structure is known."""

    array: np.ndarray

    @property
    def n(self) -> int:  # type: ignore[override]
        return len(self.array)

    @cached_property
    def _dense(self) -> np.ndarray:
        return frozen(self.array)

    @cached_property
    def edges(self) -> Edges:
        rows, columns = np.nonzero(self.array)
        return Edges(self.n, rows, columns, self.array[rows, columns].astype(float))

    def __matmul__(self, X: Any) -> Any:
        return super().__matmul__(X) if isinstance(X, Matrix) else self.array @ X

    @property
    def T(self) -> Dense:
        return Dense(self.array.T)


@dataclass(frozen=True, eq=False)
class Product(Matrix):
    """Several matrices applied in order, the first first: each is a communication of its own, with its own price."""

    n: int
    steps: tuple[Matrix, ...] = field(default=())

    @property
    def factors(self) -> tuple[Matrix, ...]:
        return self.steps

    @cached_property
    def _dense(self) -> np.ndarray:
        done = np.eye(self.n)
        for W in self.steps:
            done = W.dense() @ done
        return frozen(done)

    @cached_property
    def edges(self) -> Edges:
        return Dense(self.dense()).edges

    def __matmul__(self, X: Any) -> Any:
        if isinstance(X, Matrix):
            return super().__matmul__(X)
        for W in self.steps:
            X = W @ X
        return np.array(X)

    @property
    def T(self) -> Product:
        return Product(self.n, tuple(W.T for W in reversed(self.steps)))

    @cached_property
    def modes(self) -> Modes | None:  # type: ignore[override]
        return _folded(self.steps, identity(self.n).modes, lambda a, b: _both(np.multiply, a, b.modes))

    @cached_property
    def labels(self) -> np.ndarray | None:  # type: ignore[override]
        known = [W.labels for W in self.steps if W.labels is not None]
        return refined([np.zeros(self.n, dtype=int), *known]) if len(known) == len(self.steps) else None

    def quotient(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        c = int(labels.max()) + 1
        Q, within = np.eye(c), np.ones(c)
        for W in self.steps:
            each, own = W.quotient(labels)
            Q, within = each @ Q, own * within
        return Q, within

    def row(self, i: int) -> np.ndarray:
        one = np.zeros(self.n)
        one[i] = 1
        return np.asarray(self.T @ one)

    def block(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return np.asarray((self @ np.eye(self.n)[:, columns])[rows])

    def local(self, rows: np.ndarray) -> Matrix:
        return Dense(self.block(rows, rows))

    def is_symmetric(self, tolerance: float) -> bool:
        if self.modes is not None:
            return not np.iscomplexobj(self.modes.values)
        if self.labels is not None:
            Q = self.quotient(self.labels)[0]
            return bool(np.abs(Q - Q.T).max() <= tolerance)
        return Dense(self.dense()).is_symmetric(tolerance)

    @property
    def least(self) -> tuple[int, int, float]:
        return min((W.least for W in self.steps), key=lambda found: found[2], default=(0, 0, 0.0))


def _folded(steps: Sequence[Matrix], start: Any, join: Callable[[Any, Matrix], Any]) -> Any:
    for W in steps:
        start = join(start, W)
    return start


def _both(combine: Callable[..., Any], a: Modes | None, b: Modes | None) -> Modes | None:
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


def recognise(W: Any) -> Matrix:
    """What kind of matrix an array is: the average of all, edges where it is large and sparse, else no more than an array."""
    if isinstance(W, Matrix):
        return W
    W = frozen(W)
    n = len(W)
    if n > 1 and W[0, 0] == 1 / n and (1 / n == W).all():
        return Average(n)
    found = Dense(W)
    if n > LARGE and np.count_nonzero(W) <= SPARSE * n * n:
        return Edges(n, *found.edges.entries)
    return found


def circulant(n: int, hops: Sequence[int], weights: Sequence[float]) -> Modes:
    """Modes of the matrix whose row i takes weights[k] of i - hops[k], modulo n: sums of roots of unity. Real if symmetric."""
    column = np.zeros(n)
    np.add.at(column, np.asarray(hops) % n, np.asarray(weights, dtype=float))
    values = np.fft.fft(column)
    symmetric = np.array_equal(column[1:], column[:0:-1])
    return Modes(("circulant", n), values.real if symmetric else values)
