"""A matrix by its entries: what is sent between two of a few processes that hold thousands of rows is mostly zeros."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Entries:
    """Of shape (a, b): weights[e] at (rows[e], columns[e]), none twice, in any order."""

    shape: tuple[int, int]
    rows: np.ndarray
    columns: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, M: np.ndarray) -> Entries:
        """Of an array, by row."""
        rows, columns = np.nonzero(M)
        return cls((M.shape[0], M.shape[1]), rows, columns, M[rows, columns])

    def dense(self) -> np.ndarray:
        """As an array."""
        M = np.zeros(self.shape)
        M[self.rows, self.columns] = self.weights
        return M

    @property
    def T(self) -> Entries:
        """Transposed."""
        return Entries((self.shape[1], self.shape[0]), self.columns, self.rows, self.weights)

    def only(self, rows: np.ndarray) -> Entries:
        """Its rows at these places, which none has twice, in this order."""
        place = np.full(self.shape[0], -1)
        place[rows] = np.arange(len(rows))
        kept = place[self.rows] >= 0
        return Entries((len(rows), self.shape[1]), place[self.rows[kept]], self.columns[kept], self.weights[kept])


def beside(parts: list[Entries], rows: int) -> Entries:
    """One beside the other, all of so many rows."""
    at = np.cumsum([0, *(part.shape[1] for part in parts)])
    columns = [part.columns + start for part, start in zip(parts, at, strict=False)]
    none = np.zeros(0, dtype=int)
    return Entries(
        (rows, int(at[-1])),
        np.concatenate([none, *(part.rows for part in parts)]),
        np.concatenate([none, *columns]),
        np.concatenate([np.zeros(0), *(part.weights for part in parts)]),
    )
