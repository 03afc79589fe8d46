"""Any data set that has a length and items (image, label), or (x, target): torchvision's, or your own, by import path."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coopsgd.data import cache, items, parts, views
from coopsgd.data.base import TARGETS, DataSet, Images
from coopsgd.host.child import ChildFailed, answer_of
from coopsgd.registry import option, register

MOST = 20  # classes whose counts are listed one by one


@dataclass(frozen=True)
class Loaded:
    """What reading has found: train_x, train_y, test_x, test_y; facts for the summary; lines for the user."""

    arrays: Mapping[str, np.ndarray]
    about: dict[str, Any]
    notes: tuple[str, ...]
    _moments: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, compare=False, repr=False)

    def moments(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel; 1 where it has none, which would blow up whatever else comes."""
        if channels not in self._moments:
            flat = self.arrays["train_x"].reshape(len(self.arrays["train_x"]), channels, -1)
            mean = flat.mean((0, 2), dtype=np.float64)
            square = np.mean([np.square(part, dtype=np.float64).mean(1) for part in flat], axis=0)
            variance = square - mean**2
            self._moments[channels] = mean, np.sqrt(np.where(variance < 1e-9, 1, variance))
        return self._moments[channels]


# the last one read by this process or the one it was forked from, or why it could not be read
_read: tuple[str, Loaded | ValueError] | None = None


@register("custom", "data")
@dataclass(frozen=True)
class Custom(DataSet):
    """A class named by `path` (module:Class, such as torchvision.datasets:SVHN), made with `arguments`.

    An item is (image, label): a PIL image, or a tensor or array of bytes or floats with channels first; a whole number from 0.
    targets=labels: instead of a label it has several, 0 or 1 for each class; numbers: a number or a list of them, as
    task=regression learns.
    `train` and `test` are more arguments, each of one part. Without them a class that takes `train` (true, false) or `split`
    (train, test) is made twice; of any other a tenth of each class is held out for testing, drawn from `split_seed`, whatever
    the run's seed. Items of another kind, dictionaries or triples, go through `collate`; images of unequal sizes are made one
    by `resize`. A line always says what was taken for what. `root` and `download` are filled in where it takes them. Items
    are read once, before the workers start (by each process where torchrun starts them), into arrays in memory. mean and std,
    one number a channel: auto is those of the training set for bytes, 0 and 1 for floats.
    """

    path: Any = option(None, "of the data set, a class or a function", type="module:Class")
    arguments: Any = option({}, "of both parts, as in {root: a}", type="dict")
    train: Any = option(None, "arguments of the training set alone, as in {root: a}", type="dict or null")
    test: Any = option(
        None,
        "of the test set; without them and without train or split, a tenth of each class is held out",
        type="dict or null",
    )
    split_seed: int = option(0, "which tenth; the run's seed does not move it", unit="")
    mean: Any = option(
        "auto", "a channel's; auto: of the training set for bytes, 0 for floats", unit="", type="float, list or auto"
    )
    std: Any = option(
        "auto", "a channel's; auto: of the training set for bytes, 1 for floats", unit="", type="float, list or auto"
    )

    collate: Any = option(
        None, "makes (images, labels) of a list of one item, as a DataLoader's collate_fn", type="module:function or null"
    )
    resize: Any = option(None, "of images: to a square of so many, or [height, width]", unit="pixels", type="int, list or null")

    targets: str = option(
        "label", "what an item gives: label; labels, 0 or 1 for each class; numbers, for task=regression", words=TARGETS
    )

    IMPORTS = ("path", "collate")

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not all(self.path.partition(":")):
            raise ValueError(
                f"data.path: must name a class as module:Class, as in torchvision.datasets:SVHN, got {self.path!r}"
            )
        for name in ("arguments", "train", "test"):
            value = getattr(self, name)
            if value is None and name != "arguments":
                continue
            if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
                raise ValueError(f"data.{name}: must be keys and values, as in data.{name}={{split: train}}, got {value!r}")
        if (self.train is None) != (self.test is None):
            one, other = ("test", "train") if self.train is None else ("train", "test")
            raise ValueError(
                f"data.{other}: is missing beside data.{one}; give the arguments of both parts ({{}} for none of its own), or "
                "put what they share into data.arguments"
            )
        if self.collate is not None and not (isinstance(self.collate, str) and all(self.collate.partition(":"))):
            raise ValueError(f"data.collate: must name a function as module:function, got {self.collate!r}")
        views.refuse_size(self.resize)
        if self.targets not in TARGETS:
            raise ValueError(f"data.targets: must be one of {', '.join(TARGETS)}, got {self.targets!r}")
        if self.split_seed < 0:
            raise ValueError(f"data.split_seed: must be a whole number of at least 0, got {self.split_seed}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            numbers = value if isinstance(value, list) else [value]
            if value != "auto" and not all(_fits_float32(x) for x in numbers):
                raise ValueError(f"data.{name}: must be auto or a number for each channel, got {value!r}")
            if name == "std" and value != "auto" and not all(x > 1e-30 for x in numbers):
                raise ValueError(f"data.std: must be positive, got {value!r}")

    @property
    def SHAPE(self) -> tuple[int, ...]:
        return self.load().train_x.shape[1:]

    @property
    def CLASSES(self) -> int:
        arrays = self._loaded().arrays
        y = arrays["train_y"]
        return int(max(y.max(), arrays["test_y"].max())) + 1 if y.ndim == 1 else y.shape[1]

    def check(self) -> None:
        self._loaded(apart=True)
        self.load()

    def load(self, seed: int = 0) -> Images:
        arrays = self._loaded().arrays
        x = arrays["train_x"]
        mean, std = (self._scale(name, x) for name in ("mean", "std"))
        return Images(x, arrays["train_y"], arrays["test_x"], arrays["test_y"], mean=mean, std=std)

    def about(self, seed: int = 0) -> dict[str, Any]:
        return self._loaded().about

    def notes(self) -> tuple[str, ...]:
        return self._loaded().notes

    def _scale(self, name: str, x: np.ndarray) -> tuple[float, ...]:
        given, channels = getattr(self, name), x.shape[1] if x.ndim > 2 else 1
        if given == "auto" and x.dtype != np.uint8:
            return (0.0,) if name == "mean" else (1.0,)
        if given == "auto":
            return tuple(float(v) for v in self._loaded().moments(channels)[name == "std"])
        values = tuple(float(v) for v in (given if isinstance(given, list) else [given]))
        if len(values) not in (1, channels):
            raise ValueError(f"data.{name}: must hold 1 or {channels} numbers, one a channel, got {len(values)}")
        return values

    def _key(self) -> str:
        return json.dumps(
            [self.path, self.arguments, self.train, self.test, self.split_seed, self.collate, self.resize, self.targets],
            sort_keys=True,
            default=str,
        )

    def _loaded(self, apart: bool = False) -> Loaded:
        """What there is. apart: read in a process of its own, to keep what it imports out of this one.

        What could not be read is not tried again: the next time that might be in this process, which the user's code can end.
        """
        global _read
        if _read is None or _read[0] != self._key():
            try:
                _read = self._key(), _read_apart(self) if apart else self.read()
            except ValueError as error:
                _read = self._key(), error
        found = _read[1]
        if isinstance(found, ValueError):
            raise ValueError(str(found))
        return found

    def read(self) -> Loaded:
        """Make the data set and go through all items. ValueError that names what is wrong with which."""
        found = parts.find(self.path, self.arguments, self.train, self.test)
        data = [views.View(part.data, self.collate, self.resize) for part in found.parts]
        read = [items.read(part, self.path, self.targets) for part in data]
        if len(read) == 2:
            (train_x, train_y), (test_x, test_y) = read
            if train_x.shape[1:] != test_x.shape[1:] or (train_x.dtype == np.uint8) != (test_x.dtype == np.uint8):
                raise ValueError(
                    f"data.path: {self.path} has training samples {train_x.dtype}{train_x.shape[1:]} and test samples "
                    f"{test_x.dtype}{test_x.shape[1:]}; they must be alike"
                )
            if train_y.shape[1:] != test_y.shape[1:]:
                raise ValueError(
                    f"data.path: {self.path} has {train_y.shape[1]} {self.targets} a training sample and {test_y.shape[1]} a "
                    "test sample; they must be as many"
                )
            if np.array_equal(train_y, test_y) and np.array_equal(train_x, test_x):
                own = " and ".join(part.own for part in found.parts)
                raise ValueError(
                    f"data.path: {self.path} gives the same {len(train_y)} items with {own}, so training samples would be "
                    "tested on; name what tells its parts apart in data.train and data.test"
                )
        else:
            ((x, y),) = read
            chosen = items.held_out(y if y.ndim == 1 else np.zeros(len(y), dtype=np.int64), self.split_seed)
            if not chosen.any():
                raise ValueError(
                    f"data.path: {self.path} has {len(y)} items and no class of two, so none can be held out for testing; give "
                    "it more, or a test set by data.train and data.test"
                )
            train_x, train_y, test_x, test_y = x[~chosen], y[~chosen], x[chosen], y[chosen]
        again = [items.changing(part, *both, self.targets) for part, both in zip(data, read, strict=True)]
        if self.targets == "label":
            items.check_labels(train_y, test_y, self.path)
        train_x, test_x = items.as_exact([train_x, test_x])
        arrays = {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}
        about, notes = self._summary(found, arrays)
        if (changed := next((i for i in again if i is not None), None)) is not None:
            notes += (
                f"data: item {changed} of {self.path} is another each time it is asked for (random transforms?); items are "
                "read once, before the run, and stay what they were then",
            )
        return Loaded(arrays, about, notes)

    def _summary(self, found: parts.Found, arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """What was taken for what: for the summary, and for the user."""
        x, train_y, test_y = arrays["train_x"], arrays["train_y"], arrays["test_y"]
        n, k = len(train_y), len(test_y)
        if alone := len(found.parts) == 1:
            train = f"{n} of {n + k} samples"
            tenth = "a tenth of each class" if self.targets == "label" else "a tenth"
            test = f"{k} of {n + k} samples, {tenth} at random (data.split_seed={self.split_seed}), held out"
        else:
            train, test = (
                f"its own {many} samples{f' ({part.own})' if part.own else ''}"
                for many, part in zip((n, k), found.parts, strict=True)
            )
        about = {"path": self.path, "train": train, "test": test, "held_out": alone}
        about |= {"split_seed": self.split_seed} if alone else {}
        each, facts, odd = _of_targets(self.targets, train_y, test_y)
        about |= facts
        roots = " and ".join(dict.fromkeys(part.root for part in found.parts if part.root))
        place = f" from {roots}" if roots else ""
        notes = [f"data: {self.path}{place}: training: {train}; test: {test}{f', for {found.why}' if found.why else ''}"]
        if alone:
            notes += [f"data: {each}"] if each else []
            notes += [f"data: {found.hint}"] if found.hint else []
        if 2 * (again := items.repeated(x, arrays["test_x"])) >= k:
            notes.append(f"data: {again} of the {k} test samples are in the training set, too")
        if self.split_seed and not alone:
            notes.append(f"data.split_seed: {self.path} has a test set of its own; ignored")
        return about, (*notes, *(f"data: {note}" for note in [*odd, *_turned(x)]))


def _of_each_class(train: np.ndarray, test: np.ndarray) -> str:
    """How many are held out of which class."""
    if len(train) <= MOST:
        return "training + test of each class: " + ", ".join(
            f"{c}: {a} + {b}" for c, (a, b) in enumerate(zip(train, test, strict=True))
        )
    there = np.flatnonzero(train + test)
    least, most = (there[pick((train + test)[there])] for pick in (np.argmin, np.argmax))
    return (
        f"training + test of each class: from {train[least]} + {test[least]} (class {least}) to {train[most]} + {test[most]} "
        f"(class {most}); summary.json has all"
    )


def _of_targets(targets: str, train_y: np.ndarray, test_y: np.ndarray) -> tuple[str, dict[str, Any], list[str]]:
    """What there is to know of labels or numbers: a line on how they are divided, facts for the summary, what is unusual."""
    if targets == "numbers":
        with np.errstate(over="ignore", invalid="ignore"):
            facts = {"outputs": train_y.shape[1], "train_mean": train_y.mean(0).tolist(), "train_std": train_y.std(0).tolist()}
        odd = [
            f"all training samples have {train_y[0, i]:g} as number {i} of their target; there is nothing to learn of it"
            for i in np.flatnonzero(np.ptp(train_y, axis=0) == 0)
        ]
        if (train_y == np.floor(train_y)).all() and train_y.min() >= 0 and len(np.unique(train_y)) <= MOST:
            odd.append(
                f"the targets are whole numbers, {items.listed(np.unique(train_y))}; if they are classes, use "
                "data.targets=label and task=classification"
            )
        return "", facts, odd
    if targets == "labels":
        each = [y.sum(0, dtype=np.int64) for y in (train_y, test_y)]
        odd = [f"no training sample has label {items.listed(np.flatnonzero(each[0] == 0))}"] if (each[0] == 0).any() else []
        if (every := np.flatnonzero(each[0] == len(train_y))).size:
            odd.append(f"every training sample has label {items.listed(every)}")
    else:
        classes = max(train_y.max(), test_y.max()) + 1
        each = [np.bincount(y, minlength=classes) for y in (train_y, test_y)]
        odd = _of_classes(*each)
    facts = {"train_of_each_class": each[0].tolist(), "test_of_each_class": each[1].tolist()}
    return _of_each_class(*each), facts, odd


def _of_classes(train: np.ndarray, test: np.ndarray) -> list[str]:
    """What is unusual about the classes."""
    notes = []
    if len(nobody := np.flatnonzero(train + test == 0)):
        there = len(train) - len(nobody)
        notes.append(f"no sample has label {items.listed(nobody)}: the model gives {len(train)} logits for {there} classes")
    if len(unseen := np.flatnonzero((train == 0) & (test > 0))):
        notes.append(f"label {items.listed(unseen)} is in the test set and not in training, where it cannot be learned")
    if len(untested := np.flatnonzero((train > 0) & (test == 0))):
        notes.append(f"label {items.listed(untested)} has no test sample")
    return notes


def _turned(x: np.ndarray) -> list[str]:
    """Do the channels seem to come last?"""
    if not (x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] > 4):
        return []
    turned = (x.shape[3], x.shape[1], x.shape[2])
    return [
        f"samples are taken as {x.shape[1]} channels of {x.shape[2]} x {x.shape[3]}; if channels come last, give them "
        f"first, as {turned}"
    ]


def _fits_float32(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and abs(x) <= 3e38 and math.isfinite(x)


def _read_apart(data: Custom) -> Loaded:
    """data.read() of a child, its arrays mapped: this process imports nothing and shares the pages with those it forks."""
    with tempfile.TemporaryFile() as file:

        def read() -> list[Any]:
            loaded = data.read()
            cache.write(file, "", loaded.arrays)
            file.flush()
            return [loaded.about, loaded.notes]

        try:
            about, notes = answer_of(read)
        except ChildFailed as error:
            raise ValueError(f"data.path: {data.path} could not be read: {error}") from None
        file.seek(0)
        head = json.loads(file.readline())
        return Loaded(cache.mapped(file, head["arrays"]), about, tuple(notes))
