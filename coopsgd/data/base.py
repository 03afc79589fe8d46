"""What a data set is: arrays in memory, settings that find them, batches drawn by (row, own step)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from coopsgd.errors import TooFewSamples
from coopsgd.setup.values import steps_of_pass
from coopsgd.streams import stream

TARGETS = ("label", "labels", "numbers")  # what a sample may give: a class, several, or numbers
KINDS = {
    (np.dtype(np.int64), 1): "label",
    (np.dtype(np.uint8), 2): "labels",
    (np.dtype(np.float32), 2): "numbers",
    (np.dtype(np.float64), 2): "numbers",
}


@dataclass(frozen=True)
class Images:
    """Inputs (n, *shape), bytes, float32 or float64, and what they should give, train and test.

    That is int64 labels (n,), or several labels, uint8 (n, classes) of 0 and 1, or numbers, float32 or float64 (n, outputs).
    (x - mean) / std is what a model sees: one number a channel (the first axis of a sample), in the units of x.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 0  # pixels a training image may be shifted by; images are then flipped, too (coopsgd/data/augment.py)

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            x, y = getattr(self, f"{part}_x"), getattr(self, f"{part}_y")
            if x.dtype not in (np.uint8, np.float32, np.float64) or (y.dtype, y.ndim) not in KINDS:
                raise ValueError(
                    f"data: {part} is {x.dtype} with labels {y.dtype}{list(y.shape)}; it takes uint8 or floats with int64 [n] "
                    "(a label each), uint8 [n, classes] (several labels) or floats [n, outputs] (numbers)"
                )
            if len(y) != len(x) or not len(y) or x.shape[1:] != self.train_x.shape[1:]:
                raise ValueError(f"data: {part} has samples {x.shape} and labels {y.shape}, which do not belong together")
        if self.targets != KINDS[self.test_y.dtype, self.test_y.ndim] or self.train_y.shape[1:] != self.test_y.shape[1:]:
            raise ValueError(
                f"data: training has labels {self.train_y.dtype}{self.train_y.shape} and test {self.test_y.dtype}"
                f"{self.test_y.shape}; they must be alike"
            )

    @property
    def targets(self) -> str:
        """What a sample should give: one of TARGETS."""
        return KINDS[self.train_y.dtype, self.train_y.ndim]


class DataSet:
    """Settings of a data set; a frozen dataclass that imports no torch."""

    INPUT: ClassVar[str] = "numbers"  # what a model must read to learn from it: numbers, or the tokens of a text
    TEST: ClassVar[str] = "its own"  # what the test set is, in words

    @property
    def SHAPE(self) -> tuple[int, ...]:
        """Of one sample: (channels, height, width), or (dim,)."""
        raise NotImplementedError

    @property
    def CLASSES(self) -> int:
        """How many labels there are, 0 to CLASSES - 1; of numbers how many a sample gives. As many outputs has a model."""
        raise NotImplementedError

    def check(self) -> None:
        """Make sure that it can be read. ValueError, telling how to get it, when it cannot."""

    def load(self, seed: int = 0) -> Any:
        """Read it (or draw it from the seed): `Images`, unless INPUT says otherwise. A second call is cheap."""
        raise NotImplementedError

    def about(self, seed: int = 0) -> dict[str, Any]:
        """Facts of its own for `show` and the summary."""
        return {}

    def notes(self) -> tuple[str, ...]:
        """Lines that a user should read before a run starts: what was taken for what. After `check`."""
        return ()


def refuse_short(sizes: Sequence[int], batch_size: int, partition: str, floor: bool = False) -> None:
    """TooFewSamples when a worker holds less than one batch: the one that holds least, with the ways out.

    floor: does the partition have a min_size?
    """
    least = int(np.argmin(sizes))
    if sizes[least] < batch_size:
        raise TooFewSamples(
            f"batch_size: {batch_size} is more than the {sizes[least]} samples of worker {least} (partition {partition}, "
            f"{sum(sizes)} samples among {len(sizes)} workers); lower batch_size or workers, "
            f"{'raise partition.min_size' if floor else 'choose another partition'}, or let it train on what it has by "
            "partition.small=train"
        )


class Batches:
    """Minibatches of each row as a function of (seed, row, own step).

    A pass of a row over its share is its own: every pass deals the share anew, ragged end dropped, and a row with fewer
    samples simply starts its next pass sooner. A row with fewer than a batch takes all of them in every step. With `again`, a
    pass e is over the row's share of the deal again(e) instead (the same sizes): reshuffled over all workers.
    """

    def __init__(
        self,
        shares: Sequence[np.ndarray],
        rows: range,
        batch_size: int,
        seed: int,
        again: Callable[[int], Sequence[np.ndarray]] | None = None,
    ) -> None:
        self._seed, self._rows, self._share = seed, rows, lambda epoch: shares
        if again is not None:
            self._share = lru_cache(maxsize=2)(again)
        self._lengths = np.array([len(shares[i]) for i in rows])
        self.per_epoch = steps_of_pass(self._lengths, batch_size)  # (len(rows),) steps of a pass
        self.sizes = np.minimum(self._lengths, batch_size)  # (len(rows),) samples in a step
        # all orders end to end: shares may differ much in length
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._orders = np.zeros(self._lengths.sum() + batch_size, dtype=np.int64)  # what follows a short row is cut off
        self._epochs = np.full(len(rows), -1)
        self._within, self._size = np.arange(batch_size), batch_size
        self._steps_of_first = int(self.per_epoch[0]) if len(rows) else 0

    def at(self, own: np.ndarray) -> np.ndarray:
        """(len(rows), batch_size) sample numbers, a row's own `sizes` in front; own: (len(rows),) steps each row has made."""
        if len(self._rows) == 1:  # a call of numpy costs microseconds where all else that a process does is new to its cache
            epoch, within = divmod(int(own[0]), self._steps_of_first)
            if epoch != self._epochs[0]:
                self._deal(np.zeros(1, dtype=np.int64), np.array([epoch]))
            at = within * self._size
            return self._orders[None, at : at + self._size].copy()  # the next pass is dealt in the same place
        epochs, step = np.divmod(own, self.per_epoch)
        stale = (epochs != self._epochs).nonzero()[0]
        if len(stale):
            self._deal(stale, epochs)
        return self._orders[(self._starts + step * self._size)[:, None] + self._within]

    def of(self, chosen: np.ndarray, a: int, b: int) -> np.ndarray:
        """The batches of rows [a, b), which are as large as each other, without what is no part of them; or of steps."""
        return chosen[..., a:b, : self.sizes[a]]

    def _deal(self, stale: np.ndarray, epochs: np.ndarray) -> None:
        for i in stale[np.argsort(epochs[stale], kind="stable")]:  # rows of one epoch together: they share a deal
            epoch, row, start = int(epochs[i]), self._rows[i], self._starts[i]
            order = stream(self._seed, "batch", row, epoch).permutation(self._share(epoch)[row])
            self._orders[start : start + self._lengths[i]] = order
            self._epochs[i] = epoch
