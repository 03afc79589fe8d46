"""Who sees what: how the training samples are dealt to the workers.

A partition is a pure function of (labels, workers, seed): every process deals alike, without a message. Nobody gets a
sample that another has; `left_over` names those that nobody has. Labels are those of the training set. A text has one class.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from coopsgd.data import heldout, splits
from coopsgd.data.dealing import by_class, divided, enough, one_each, shards_of, shuffled
from coopsgd.registry import of_run, option, register
from coopsgd.streams import stream


def _small(default: str) -> Any:
    return option(
        default,
        "of workers that hold less than a batch: train on what they have; refuse the run",
        kw_only=True,
        words=("train", "refuse"),
    )


@dataclass(frozen=True)
class Partition:
    """A way of dealing.

    small: what becomes of a worker that holds less than a batch. train: all it has is its batch, as of a loader without
    drop_last; refuse: the run is refused.

    test: shared, all workers are tested on the test set; local, besides, each on test_share of its own samples, which are then
    not trained on.
    """

    BY_CLASS: ClassVar[bool] = False  # does it look at labels?

    small: str = _small("refuse")
    test: str = option(
        "shared",
        "what workers are tested on: the shared test set; local: besides, each on its own",
        kw_only=True,
        words=heldout.TESTS,
    )
    test_share: float = option(0.1, "of its samples, that a worker holds out where test=local", unit="share", kw_only=True)

    def deal(self, labels: np.ndarray, workers: int, seed: int, epoch: int = 0) -> Sequence[np.ndarray]:
        """Sample numbers of each worker. Only where `moves` does the epoch matter, and then never the sizes."""
        raise NotImplementedError

    def notes(self, samples: int, shares: Sequence[np.ndarray]) -> tuple[str, ...]:
        """Lines that a user should read before a run with these shares of so many training samples starts."""
        return ()

    @property
    def tests_locally(self) -> bool:
        """Does each worker hold out some of its samples? ValueError where that is not said well."""
        return heldout.wanted(self.test, self.test_share, self.moves)

    def one_batch(self, batch_size: int) -> int:
        """Samples that a worker must be dealt to train on batches of that size."""
        return heldout.enough(batch_size, self.test_share) if self.tests_locally else batch_size

    @property
    def moves(self) -> bool:
        """Are the samples dealt anew every epoch?"""
        return bool(getattr(self, "reshuffle", False))


@register("iid", "partition")
@dataclass(frozen=True)
class IID(Partition):
    """An even deal of the shuffled samples, labels ignored; at most workers - 1 are left over.

    reshuffle: dealt anew every epoch.
    """

    reshuffle: bool = option(False, "anew every epoch")

    def deal(self, labels: np.ndarray, workers: int, seed: int, epoch: int = 0) -> Sequence[np.ndarray]:
        n = len(labels)
        enough("iid", n, workers, 1)
        return list(shuffled(n, seed, epoch)[: n // workers * workers].reshape(workers, -1))


@register("quantity", "partition")
@dataclass(frozen=True)
class Quantity(Partition):
    """Unequal amounts, labels ignored: min_size each, the rest divided by one draw of Dirichlet(alpha) over workers.

    Quantity skew of arXiv:2102.02079, with a floor instead of drawing again. min_size=auto: one batch, where there are so many
    samples, else one sample. reshuffle: amounts stay, samples are dealt anew every epoch.
    """

    alpha: float = option(0.5, "small: some hold far more than others", unit="")
    min_size: Any = option(
        "auto", "that everyone holds; auto: one batch, where there are so many", unit="samples", type="int or auto"
    )
    reshuffle: bool = option(False, "the same amounts, dealt anew every epoch")
    small: str = _small("train")
    batch_size: int = of_run("batch_size", 1)

    def __post_init__(self) -> None:
        _positive(self.alpha)
        _at_least_one("min_size", self.min_size)

    def deal(self, labels: np.ndarray, workers: int, seed: int, epoch: int = 0) -> Sequence[np.ndarray]:
        n = len(labels)
        floor = self.min_size
        if floor == "auto":
            floor = self.one_batch(self.batch_size)
            floor = floor if n >= workers * floor else 1
        enough("quantity", n, workers, floor)
        shares = stream(seed, "partition sizes").dirichlet(np.full(workers, self.alpha))
        sizes = floor + divided(shares[None], np.array([n - workers * floor]))[0]
        return np.split(shuffled(n, seed, epoch), np.cumsum(sizes)[:-1])


@register("shards", "partition")
@dataclass(frozen=True)
class Shards(Partition):
    """Every worker holds exactly `classes` classes: classes are cut into contiguous shards, a worker takes one of each.

    The samples are sorted by label and cut into workers x classes shards, about equal ones; nothing is left over. After
    arXiv:1602.05629, whose shards may straddle two classes; here they do not. auto: 2, or as many as it takes for every
    class to be held by someone.
    """

    BY_CLASS = True

    classes: Any = option(
        "auto", "of each worker; auto: 2, or as many as it takes for every class to be held", unit="classes", type="int or auto"
    )

    def __post_init__(self) -> None:
        _at_least_one("classes", self.classes)

    def deal(self, labels: np.ndarray, workers: int, seed: int, epoch: int = 0) -> Sequence[np.ndarray]:
        order, counts = by_class(np.arange(len(labels)), labels)
        enough("shards", len(labels), workers, 1)
        needed = -(-len(counts) // workers)  # classes a worker so that each class is held
        k = max(min(2, len(counts)), needed) if self.classes == "auto" else self.classes
        if k > len(counts):
            raise ValueError(f"partition.classes: {k} is more than the {len(counts)} classes that the training labels have")
        if k < needed:
            raise ValueError(
                f"partition.classes: {workers} workers of {k} classes hold {workers * k} of {len(counts)}, the others nobody; "
                f"set it to at least {needed}, or to auto"
            )
        if (room := int(np.minimum(counts, workers).sum())) < workers * k:
            raise ValueError(
                f"partition.classes: {workers} workers of {k} classes are {workers * k} shards, more than the {room} that "
                f"the samples of {len(counts)} classes allow; lower workers or partition.classes"
            )
        holders = self._assign(shards_of(counts, workers * k, workers), workers, k, stream(seed, "partition"))
        ends = np.cumsum(counts)
        mine: list[list[np.ndarray]] = [[] for _ in range(workers)]
        for c, here in enumerate(holders):
            for worker, shard in zip(here, np.array_split(order[ends[c] - counts[c] : ends[c]], len(here)), strict=True):
                mine[worker].append(shard)
        return [np.concatenate(shards) for shards in mine]

    def _assign(self, shards: np.ndarray, workers: int, k: int, draw: np.random.Generator) -> list[list[int]]:
        """Who takes the shards of each class: k distinct classes a worker, at random.

        A class with as many shards left as there are workers left must be taken now; the others are drawn in proportion to
        what they have left. Then no class ever has more shards left than workers, and it always comes out even.
        """
        left, holders = shards.copy(), [[] for _ in shards]  # type: tuple[np.ndarray, list[list[int]]]
        for done, worker in enumerate(draw.permutation(workers)):
            with np.errstate(divide="ignore"):
                # k smallest of exponential / weight: drawn without replacement, in proportion to the weights
                rank = draw.exponential(size=len(left)) / left
            rank[left == workers - done] = -1
            for c in np.argsort(rank, kind="stable")[:k]:
                holders[c].append(int(worker))
                left[c] -= 1
        return holders


@register("dirichlet", "partition")
@dataclass(frozen=True)
class Dirichlet(Partition):
    """Label skew: each class is divided over the workers by a draw of Dirichlet(alpha), until all hold min_size samples.

    arXiv:1905.12022. A small alpha gives a class to few. With many workers and a small alpha no draw gives everyone enough:
    min_size=auto asks for one batch each (what that is depends on batch_size: give a number to compare several), and where no
    draw gives it takes the first as it is; whoever that leaves without any is given one sample of whoever holds most.
    equal=true instead gives each worker the same number of samples and a mix of classes of its own from Dirichlet(alpha),
    renormalised where a class is used up (arXiv:1909.06335); min_size and attempts then play no part.
    """

    BY_CLASS = True

    alpha: float = option(0.1, "small: a class belongs to few", unit="")
    min_size: Any = option(
        "auto",
        "that everyone must hold, or it is drawn again; auto: one batch where a draw gives it",
        unit="samples",
        type="int or auto",
    )
    attempts: int = option(1000, "draws before it is given up that everyone holds min_size", unit="draws")
    equal: bool = option(False, "as many samples each, a mix of classes each; min_size and attempts then play no part")
    small: str = _small("train")
    batch_size: int = of_run("batch_size", 1)

    def __post_init__(self) -> None:
        _positive(self.alpha)
        _at_least_one("min_size", self.min_size)
        if not 1 <= self.attempts <= 1_000_000:
            raise ValueError(f"partition.attempts: must be at least 1 and at most a million, got {self.attempts}")

    def deal(self, labels: np.ndarray, workers: int, seed: int, epoch: int = 0) -> Sequence[np.ndarray]:
        draw = stream(seed, "partition")
        order, counts = by_class(draw.permutation(len(labels)), labels)
        enough("dirichlet", len(labels), workers, 1 if self.equal or self.min_size == "auto" else self.min_size)
        table = self._mixes(counts, workers, draw) if self.equal else self._divisions(counts, workers, draw)
        owner = np.repeat(np.tile(np.arange(workers + 1), len(counts)), np.c_[table, counts - table.sum(1)].ravel())
        grouped = order[np.argsort(owner, kind="stable")]
        return np.split(grouped, np.cumsum(table.sum(0)))[:-1]  # the last piece belongs to nobody

    def _divisions(self, counts: np.ndarray, workers: int, draw: np.random.Generator) -> np.ndarray:
        """(classes, workers) samples: every class divided on its own."""
        best, first, auto = 0, None, self.min_size == "auto"
        floor = self.one_batch(self.batch_size) if auto else self.min_size
        for _ in range(self.attempts):
            table = divided(draw.dirichlet(np.full(workers, self.alpha), size=len(counts)), counts)
            least = int(table.sum(0).min())
            if least >= floor:
                return table
            first = table if first is None else first
            best = max(best, least)
            if auto and counts.sum() < workers * floor:
                break
        if auto and first is not None:
            return one_each(first)
        raise ValueError(
            f"partition: dirichlet with alpha={self.alpha:g} gave some worker of {workers} fewer than "
            f"min_size={self.min_size} samples in each of {self.attempts} draws (at best {best}); raise partition.alpha, "
            "lower workers or partition.min_size, or set partition.equal=true"
        )

    def notes(self, samples: int, shares: Sequence[np.ndarray]) -> tuple[str, ...]:
        if self.equal or self.min_size != "auto" or min(map(len, shares)) >= self.one_batch(self.batch_size):
            return ()
        return (
            f"partition.min_size=auto: no draw gives each of {len(shares)} workers one batch, {self.batch_size} samples; the "
            "first is taken, and whoever it leaves without any is given one",
        )

    def _mixes(self, counts: np.ndarray, workers: int, draw: np.random.Generator) -> np.ndarray:
        """(classes, workers) samples: every worker as many, in a mix of its own."""
        table, left = np.zeros((len(counts), workers), dtype=np.int64), counts.copy()
        mixes = draw.dirichlet(np.full(len(counts), self.alpha), size=workers)
        for worker in draw.permutation(workers):  # the last find little choice: let chance say who they are
            need = int(counts.sum()) // workers
            while need:  # each turn ends it or uses up a class
                weights = mixes[worker] * (left > 0)
                weights = weights if weights.sum() > 0 else left.astype(float)
                took = np.minimum(draw.multinomial(need, weights / weights.sum()), left)
                table[:, worker] += took
                left -= took
                need -= int(took.sum())
        return table


USERS = ("auto", "dealt", "one")


@register("file", "partition")
@dataclass(frozen=True)
class File(Partition):
    """The split of a file: lists of sample numbers, one a worker, or whose each sample is (data/splits.py says how).

    Users are natural clients, each with all of its samples. users=dealt: all of them are dealt to the workers, whole and at
    random, as many each as can be; one: each worker is one of them, drawn at random if there are more; auto: one where there
    are as many as workers, else dealt. Lists are the workers' own, one each in their order, unless users= says to take them for
    users.
    """

    file: str = option("", ".json, .npz or .npy: lists of sample numbers, or a user for each sample")
    users: str = option(
        "auto", "dealt: whole users to workers; one: a user each; auto: one if there are as many, else dealt", words=USERS
    )
    small: str = _small("train")

    FILES: ClassVar[tuple[str, ...]] = ("file",)

    def __post_init__(self) -> None:
        if not self.file:
            raise ValueError("partition.file: is missing; name the file of a split, as in partition.file=split.json")
        if self.users not in USERS:
            raise ValueError(f"partition.users: must be one of {', '.join(USERS)}, got {self.users!r}")

    def deal(self, labels: np.ndarray, workers: int, seed: int, epoch: int = 0) -> Sequence[np.ndarray]:
        split = splits.read(self.file, len(labels))
        n, what = len(split.shares), "users" if split.users else "lists"
        if not split.users and self.users == "auto" and n != workers:
            raise ValueError(
                f"partition.file: {self.file!r} holds {n} lists, but workers={workers}; set workers={n}, or "
                "partition.users=dealt to deal them to the workers"
            )
        if n < workers:
            raise ValueError(
                f"partition.file: {self.file!r} holds {n} {what}, but workers={workers}; set workers to {n} or less"
            )
        if n == workers:
            return split.shares
        order = stream(seed, "partition").permutation(n)
        if self.users == "one":
            return [split.shares[user] for user in order[:workers]]
        return [np.concatenate([split.shares[user] for user in some]) for some in np.array_split(order, workers)]

    def notes(self, samples: int, shares: Sequence[np.ndarray]) -> tuple[str, ...]:
        left, workers = samples - sum(map(len, shares)), len(shares)
        split, told = splits.read(self.file, samples), list[str]()
        n, what = len(split.shares), "users" if split.users else "lists"
        if n > workers and self.users != "one":
            each = f"{n // workers}{f' to {n // workers + 1}' if n % workers else ''} each"
            told.append(f"{n} {what} are dealt to {workers} workers, {each}")
        elif n > workers or split.users:
            told.append(f"each worker is one of {n} {what}{', drawn at random' if n > workers else ''}")
        told += [f"{left} of {samples} training samples are nobody's"] if left else []
        return tuple(f"partition.file: {line}" for line in told)


_last: tuple[Any, list[np.ndarray]] | None = None  # of this process, or of the one it was forked from


def dealt(partition: Partition, labels: np.ndarray, workers: int, seed: int) -> list[np.ndarray]:
    """partition.deal at epoch 0. A second call with the same arguments is cheap."""
    global _last
    key = repr(partition), _stamps(partition), len(labels), zlib.crc32(labels.tobytes()), workers, seed
    if _last is None or _last[0] != key:
        _last = key, [np.asarray(share) for share in partition.deal(labels, workers, seed)]
    return _last[1]


def _stamps(partition: Partition) -> list[tuple[int, int]]:
    """Of the files that it reads: when they were changed, and how long they are."""
    names = (getattr(partition, name, None) for name in getattr(partition, "FILES", ()))
    found = (os.stat(name) for name in names if isinstance(name, str) and os.path.exists(name))
    return [(one.st_mtime_ns, one.st_size) for one in found]


def left_over(n: int, shares: Sequence[np.ndarray]) -> np.ndarray:
    """The samples of 0 ... n - 1 that nobody was dealt."""
    free = np.ones(n, dtype=bool)
    free[np.concatenate(list(shares)).astype(np.int64)] = False
    return np.flatnonzero(free)  # np.setdiff1d imports numpy.ma


def _positive(alpha: float) -> None:
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"partition.alpha: must be a positive number, got {alpha}")


def _at_least_one(key: str, value: Any) -> None:
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"partition.{key}: must be auto or a whole number of at least 1, got {value!r}")
