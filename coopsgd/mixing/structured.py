"""The matrices that have a name: the average of all, of groups, pulls at a centre, products; and arrays that have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import numpy as np

from coopsgd.mixing.matrix import ROUNDING, Edges, Matrix, Modes, Outer, Sum, both, frozen, identity, refined


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

    @cached_property
    def under_average(self) -> Sum | None:
        """The same as a multiple of the average and sparse weights, where one number fills more than half of it."""
        c = float(np.median(self.array))
        off = np.where(np.abs(self.array - c) <= ROUNDING * abs(c), 0, self.array - c)
        if not c or 2 * np.count_nonzero(off) > off.size:
            return None
        return Sum(
            self.n, Dense(off).edges, (Outer(np.arange(self.n), np.full(self.n, c * self.n), np.full(self.n, 1 / self.n)),)
        )

    def block(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return self.array[np.ix_(rows, columns)]

    def local(self, rows: np.ndarray) -> Dense:
        return Dense(self.block(rows, rows))

    def __matmul__(self, X: Any) -> Any:
        return self.array @ X

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
        for W in self.steps:
            X = W @ X
        return np.array(X)

    @property
    def T(self) -> Product:
        return Product(self.n, tuple(W.T for W in reversed(self.steps)))

    @cached_property
    def modes(self) -> Modes | None:  # type: ignore[override]
        return reduce(lambda found, W: both(np.multiply, found, W.modes), self.steps, identity(self.n).modes)

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
        some = np.zeros((self.n, len(columns)))
        some[columns, np.arange(len(columns))] = 1
        return np.asarray((self @ some)[rows])

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


def circulant(n: int, hops: Sequence[int], weights: Sequence[float]) -> Modes:
    """Modes of the matrix whose row i takes weights[k] of i - hops[k], modulo n: sums of roots of unity. Real if symmetric."""
    column = np.zeros(n)
    np.add.at(column, np.asarray(hops) % n, np.asarray(weights, dtype=float))
    values = np.fft.fft(column)
    symmetric = np.array_equal(column[1:], column[:0:-1])
    return Modes(("circulant", n), values.real if symmetric else values)
