"""A data set in memory and how it is dealt out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coopsgd.streams import stream


@dataclass(frozen=True)
class Images:
    """uint8 images (n, channels, height, width) and int64 labels (n,), train and test; pixel / scale - shift is the input."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    scale: float
    shift: float


class DataSet:
    """Settings of a data set; a frozen dataclass that imports no torch."""

    TRAIN: ClassVar[int]  # number of training samples
    SHAPE: ClassVar[tuple[int, ...]]  # channels, height, width
    CLASSES: ClassVar[int]

    def check(self) -> None:
        """Make sure that it can be read. ValueError, telling how to get it, when it cannot."""

    def load(self) -> Images:
        """Read it."""
        raise NotImplementedError


def shares(n: int, workers: int, seed: int) -> np.ndarray:
    """(workers, n // workers) sample numbers, drawn without replacement: an even deal, at most workers - 1 left over."""
    return stream(seed, "partition").permutation(n)[: n // workers * workers].reshape(workers, -1)


class Batches:
    """Minibatches of each row as a function of (seed, row, k): every epoch deals the row's share anew, ragged end dropped."""

    def __init__(self, shares: np.ndarray, rows: range, batch_size: int, seed: int) -> None:
        self._shares, self._rows, self._size, self._seed = shares, rows, batch_size, seed
        self.per_epoch = shares.shape[1] // batch_size
        self._epoch, self._orders = -1, np.zeros((0, 0), dtype=np.int64)

    def at(self, k: int) -> np.ndarray:
        """(len(rows), batch_size) sample numbers of iteration k."""
        epoch, b = divmod(k, self.per_epoch)
        if epoch != self._epoch:
            self._orders = np.stack([stream(self._seed, "batch", i, epoch).permutation(self._shares[i]) for i in self._rows])
            self._epoch = epoch
        return self._orders[:, b * self._size : (b + 1) * self._size]
