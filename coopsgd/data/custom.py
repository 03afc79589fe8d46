"""Any data set that has a length and items (image, label): torchvision's, or your own, by import path."""

from __future__ import annotations

import inspect
import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coopsgd.child import ChildFailed, answer_of
from coopsgd.data import cache
from coopsgd.data.base import DataSet, Images
from coopsgd.registry import imported, is_function, register

_read: tuple[str, Mapping[str, np.ndarray]] | None = None  # the last one read by this process or the one it was forked from


@register("custom", "data")
@dataclass(frozen=True)
class Custom(DataSet):
    """A class named by `path` (module:Class, such as torchvision.datasets:SVHN), made with `arguments`.

    An item is (image, label): a PIL image, or a tensor or array of bytes or floats with channels first; a whole number from 0.
    A class that takes `train` or `split` is made twice, for training and for testing; of any other every tenth item is for
    testing. `root` and `download` are filled in where it takes them. Items are read once, before the workers start (by each
    process where torchrun starts them), into arrays in memory. mean and std, one number a channel: auto is those of the
    training set for bytes, 0 and 1 for floats.
    """

    path: Any = None
    arguments: dict[str, Any] = field(default_factory=dict)
    mean: Any = "auto"
    std: Any = "auto"

    IMPORTS = ("path",)

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not all(self.path.partition(":")):
            raise ValueError(
                f"data.path: must name a class as module:Class, as in torchvision.datasets:SVHN, got {self.path!r}"
            )
        if not isinstance(self.arguments, dict):
            raise ValueError(
                f"data.arguments: must be keys and values, as in data.arguments={{split: train}}, got {self.arguments!r}"
            )
        for name in ("mean", "std"):
            value = getattr(self, name)
            numbers = value if isinstance(value, list) else [value]
            if value != "auto" and not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
                raise ValueError(f"data.{name}: must be auto or a number for each channel, got {value!r}")
            if name == "std" and value != "auto" and not all(x > 0 for x in numbers):
                raise ValueError(f"data.std: must be positive, got {value!r}")

    @property
    def SHAPE(self) -> tuple[int, ...]:
        return self.load().train_x.shape[1:]

    @property
    def CLASSES(self) -> int:
        return int(max(part.max() for part in (self.load().train_y, self.load().test_y))) + 1

    def check(self) -> None:
        self._arrays(apart=True)
        self.load()

    def load(self, seed: int = 0) -> Images:
        held = self._arrays(apart=False)
        x = held["train_x"]
        mean, std = (self._scale(name, x) for name in ("mean", "std"))
        return Images(x, held["train_y"], held["test_x"], held["test_y"], mean=mean, std=std)

    def _scale(self, name: str, x: np.ndarray) -> tuple[float, ...]:
        given, channels = getattr(self, name), x.shape[1] if x.ndim > 2 else 1
        if given == "auto" and x.dtype != np.uint8:
            return (0.0,) if name == "mean" else (1.0,)
        if given == "auto":
            return tuple(float(v) for v in _moments(self._key(), x, channels)[name == "std"])
        values = tuple(float(v) for v in (given if isinstance(given, list) else [given]))
        if len(values) not in (1, channels):
            raise ValueError(f"data.{name}: must hold 1 or {channels} numbers, one a channel, got {len(values)}")
        return values

    def _key(self) -> str:
        return json.dumps([self.path, self.arguments], sort_keys=True, default=str)

    def _arrays(self, apart: bool) -> Mapping[str, np.ndarray]:
        """train_x, train_y, test_x, test_y. apart: read in a process of its own, to keep what it imports out of this one."""
        global _read
        if _read is None or _read[0] != self._key():
            _read = self._key(), _read_apart(self) if apart else self.read()
        return _read[1]

    def read(self) -> Mapping[str, np.ndarray]:
        """Go through all items. ValueError that names what is wrong with which."""
        parts = self._parts()
        if len(parts) == 2:
            (train_x, train_y), (test_x, test_y) = (_items(part, self.path) for part in parts)
            if train_x.shape[1:] != test_x.shape[1:] or train_x.dtype != test_x.dtype:
                raise ValueError(
                    f"data.path: {self.path} has training samples {train_x.dtype}{train_x.shape[1:]} and test samples "
                    f"{test_x.dtype}{test_x.shape[1:]}; they must be alike"
                )
        else:
            x, y = _items(parts[0], self.path)
            held_out = np.arange(len(y)) % 10 == 9
            if not held_out.any():
                raise ValueError(f"data.path: {self.path} has {len(y)} items, too few to keep every tenth for testing")
            train_x, train_y, test_x, test_y = x[~held_out], y[~held_out], x[held_out], y[held_out]
        return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}

    def _parts(self) -> list[Any]:
        """Training and test set, or one for both."""
        try:
            made = imported("data.path", self.path)
        except KeyError as error:
            raise ValueError(error.args[0]) from None
        items = isinstance(made, type) and all(hasattr(made, name) for name in ("__len__", "__getitem__"))
        if not items and not is_function(made):
            what = "a class without a length or items" if isinstance(made, type) else f"a {type(made).__name__}"
            raise ValueError(
                f"data.path: {self.path} is {what}; a data set needs len() and items (image, label): name a class of them, or "
                "a function that returns one"
            )
        try:
            takes = set(inspect.signature(made).parameters)
            arguments = dict(self.arguments)
            defaults = {"root": os.environ.get("COOPSGD_DATA") or str(cache.root()), "download": True}
            arguments = {k: v for k, v in defaults.items() if k in takes} | arguments
            if "train" in takes - set(arguments):
                each: list[dict[str, Any]] = [{"train": True}, {"train": False}]
            elif "split" in takes - set(arguments):
                each = [{"split": "train"}, {"split": "test"}]
            else:
                each = [{}]
            with cache.locked(cache.root() / "download.lock"):  # which it may do first, and many processes may come at once
                return [made(**arguments, **more) for more in each]
        except Exception as error:
            told = (str(error).strip().splitlines() or [""])[0]
            raise ValueError(f"data.arguments: {self.path} cannot be made with them: {type(error).__name__}: {told}") from None


def _items(part: Any, path: str) -> tuple[np.ndarray, np.ndarray]:
    """All items as (n, *shape) and (n,)."""
    try:
        n = len(part)
    except TypeError:
        raise ValueError(f"data.path: {path} has no length; a data set needs len() and items (image, label)") from None
    if not n:
        raise ValueError(f"data.path: {path} has no items")
    x, y = np.zeros(0), np.zeros(n, dtype=np.int64)
    for i in range(n):
        try:
            image, label = part[i]
            sample = _sample(image)
            y[i] = int(label)
        except Exception as error:
            raise ValueError(f"data.path: item {i} of {path} is no (image, label): {type(error).__name__}: {error}") from None
        if i == 0:
            x = np.zeros((n, *sample.shape), dtype=sample.dtype)
        if sample.shape != x.shape[1:] or sample.dtype != x.dtype:
            raise ValueError(
                f"data.path: item {i} of {path} is {sample.dtype}{sample.shape}, item 0 is {x.dtype}{x.shape[1:]}; "
                "all must be alike"
            )
        if y[i] < 0:
            raise ValueError(f"data.path: item {i} of {path} has label {y[i]}; labels count from 0")
        x[i] = sample
    return x, y


def _sample(image: Any) -> np.ndarray:
    """Channels first; bytes, or float32."""
    array = np.asarray(image)
    if hasattr(image, "getbands") and array.ndim == 3:
        array = array.transpose(2, 0, 1)  # a PIL image has its channels last
    if array.dtype.kind not in "uifb" or array.ndim not in (1, 2, 3):
        raise TypeError(f"an image of {array.dtype} in {array.ndim} dimensions")
    array = array[None] if array.ndim == 2 else array
    return array if array.dtype == np.uint8 else array.astype(np.float32)


_scales: dict[str, tuple[np.ndarray, np.ndarray]] = {}


def _moments(key: str, x: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel."""
    if key not in _scales:
        flat = x.reshape(len(x), channels, -1)
        mean = flat.mean((0, 2), dtype=np.float64)
        square = np.mean([np.square(part, dtype=np.float64).mean(1) for part in flat], axis=0)
        _scales.clear()
        _scales[key] = mean, np.sqrt(np.maximum(square - mean**2, 1e-12))
    return _scales[key]


def _read_apart(data: Custom) -> Mapping[str, np.ndarray]:
    """data.read() of a child, its arrays mapped: this process imports nothing and shares the pages with those it forks."""
    with tempfile.TemporaryFile() as file:

        def read() -> None:
            cache.write(file, "", data.read())
            file.flush()

        try:
            answer_of(read)
        except ChildFailed as error:
            raise ValueError(f"data.path: {data.path} could not be read: {error}") from None
        file.seek(0)
        head = json.loads(file.readline())
        return cache.mapped(file, head["arrays"])
