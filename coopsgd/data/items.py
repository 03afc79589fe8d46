"""Items (image, label) of anybody's data set, gone through one by one into arrays: taken as they are, or refused by name.

No number changes on the way in. Bytes stay bytes, other numbers become float32 where that holds each of them exactly and
float64 where it does not; a label is a whole number or it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from coopsgd.setup.exact import LARGEST

NUMBERS_A_CLASS = 10  # labels may go as far as this many numbers for each class that occurs
AGAIN = 16  # items that are asked for twice, to see whether they stay the same


class Odd(ValueError):
    """An item, or a part of it, that cannot be taken; the message says what it is."""


def read(part: Any, path: str, targets: str = "label") -> tuple[np.ndarray, np.ndarray]:
    """All items of a data set as (n, *shape) and what they give, as Images (data/base.py) holds it for `targets`.

    ValueError names the item that cannot be taken, and why.
    """
    target = READERS[targets]
    try:
        n = len(part)
    except TypeError:
        raise ValueError(f"data.path: {path} has no length; a data set needs len() and items (image, label)") from None
    except Exception as error:
        raise ValueError(f"data.path: {path} does not tell its length: {_reason(error)}") from None
    if not n:
        raise ValueError(f"data.path: {path} has no items")
    x, y = np.zeros(0), np.zeros(0)
    for i in range(n):
        try:
            item = part[i]
            if not isinstance(item, tuple | list) or len(item) != 2:
                many = f" of {len(item)}" if isinstance(item, tuple | list) else ""
                raise Odd(f"it is a {type(item).__name__}{many}; data.collate=module:function may make a pair of it")
            array = sample(item[0])
        except Exception as error:
            raise ValueError(f"data.path: item {i} of {path} is no (image, label): {_reason(error)}") from None
        try:
            wanted = np.asarray(target(item[1]))
            if i == 0:
                y = np.zeros((n, *wanted.shape), dtype=wanted.dtype)
            if wanted.shape != y.shape[1:]:
                raise Odd(f"{wanted.size} {targets}, item 0 has {y[0].size}; all must have as many")
            y[i] = wanted
        except Odd as error:
            raise ValueError(f"data.path: item {i} of {path} has {error}") from None
        except Exception as error:
            raise ValueError(f"data.path: item {i} of {path} has label {_few(item[1])}: {_reason(error)}") from None
        if i == 0:
            x = np.zeros((n, *array.shape), dtype=array.dtype)
        if array.shape != x.shape[1:] or (array.dtype == np.uint8) != (x.dtype == np.uint8):
            raise ValueError(
                f"data.path: item {i} of {path} is {array.dtype}{array.shape}, item 0 is {x.dtype}{x.shape[1:]}; "
                f"all must be alike{'; data.resize=32 makes images one size' if array.ndim == x.ndim - 1 == 3 else ''}"
            )
        if array.dtype != np.uint8 and not np.isfinite(array).all():
            at = np.argwhere(~np.isfinite(array))[0]
            where = ", ".join(map(str, at.tolist()))
            raise ValueError(
                f"data.path: item {i} of {path} holds {array[tuple(at)]} at ({where}); take the item out, or put a number there"
            )
        if array.dtype == np.float64 and x.dtype == np.float32:
            x = x.astype(np.float64)
        x[i] = array
    return x, y


def changing(part: Any, x: np.ndarray, y: np.ndarray, targets: str = "label") -> int | None:
    """The first of a few items that is another when it is asked for again, as with random transforms; None: they stay."""
    for i in np.unique(np.linspace(0, len(y) - 1, AGAIN).round().astype(int)).tolist():
        try:
            image, target = part[i]
            if not np.array_equal(sample(image), x[i]) or not np.array_equal(READERS[targets](target), y[i]):
                return int(i)
        except Exception:  # nothing was wrong with it when it was read, and nobody reads it again
            continue
    return None


def label(value: Any) -> int:
    """A class from 0: a whole number in whatever form. Odd, or what its own conversion raises, when it is none."""
    shape = (len(value),) if isinstance(value, list | tuple) else tuple(getattr(value, "shape", ()))
    if shape and math.prod(shape) != 1:
        raise Odd(
            f"label of shape {shape}; a label is one whole number (of one-hot labels take the argmax), several labels or "
            "numbers go by data.targets"
        )
    if np.ma.is_masked(value):
        raise Odd("label masked, which is no number; put one there or take the item out")
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if not isinstance(number, int):
        raise Odd(
            f"label {_few(number)}, which is no whole number; number the classes from 0, or learn numbers by task=regression "
            "data.targets=numbers"
        )
    if number < 0:
        raise Odd(f"label {int(number)}; labels count from 0")
    if number > 2**31:
        raise Odd(f"label {_few(number)}, which is too large for a class; number the classes from 0")
    return int(number)


def labels(value: Any) -> np.ndarray:
    """(classes,) of 0 and 1: which classes a sample is of. Odd when it is something else."""
    array = _vector(value)
    if not np.isin(array, (0, 1)).all():
        odd = array[~np.isin(array, (0, 1))][0]
        raise Odd(
            f"labels with {odd:g} among them; with data.targets=labels they are 0 or 1 for each class (data.collate may make "
            "them of class numbers)"
        )
    return array.astype(np.uint8)


def numbers(value: Any) -> np.ndarray:
    """(outputs,) float64: what a regression should give. Odd when it is none or not finite."""
    array = _vector(value)
    if not np.isfinite(array).all():
        raise Odd(f"target {_few(array.tolist())}, which is not finite; take the item out, or put a number there")
    return array


def _vector(value: Any) -> np.ndarray:
    """One number or a list of them as float64 (n,)."""
    if np.ma.is_masked(value):
        raise Odd("target masked, which is no number; put one there or take the item out")
    array = np.atleast_1d(np.asarray(value))
    if array.dtype.kind not in "uifb" or array.ndim != 1 or not array.size:
        raise Odd(f"target {_few(value)}; it must be a number or a list of numbers")
    return array.astype(np.float64)


READERS: dict[str, Any] = {"label": label, "labels": labels, "numbers": numbers}


def sample(image: Any) -> np.ndarray:
    """Channels first; bytes, float32, or float64 where float32 might not hold the numbers. Odd when it is no image."""
    if getattr(image, "mode", None) in ("P", "PA") and hasattr(image, "getbands"):
        raise Odd(f"a palette image (mode {image.mode}), whose numbers are no colours; convert it to RGB or L")
    if isinstance(image, np.ma.MaskedArray) and np.ma.is_masked(image):
        raise Odd("an array with masked entries; put numbers in their place")
    array = np.asarray(image)
    if hasattr(image, "getbands") and array.ndim == 3:
        array = array.transpose(2, 0, 1)  # a PIL image has its channels last
    if array.dtype.kind not in "uifb" or array.ndim not in (1, 2, 3) or array.itemsize > 8:
        raise Odd(f"an image of {array.dtype} in {array.ndim} dimensions")
    if not array.size:
        raise Odd(f"an image without numbers, of shape {array.shape}")
    array = array[None] if array.ndim == 2 else array
    if array.dtype.kind in "ui" and array.itemsize == 8 and (array.max() > LARGEST or array.min() < -LARGEST):
        raise Odd("a whole number beyond 2^53, which no float holds exactly; subtract an offset or scale it")
    if array.dtype == np.uint8 or array.dtype == np.float32:
        return array
    small = array.itemsize < 4  # bool, bytes with a sign, 16 bits
    return array.astype(np.float32 if small else np.float64)


def as_exact(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The same arrays as float32 where that holds every number of all of them exactly, else as they are."""
    if all(part.dtype != np.float64 for part in parts):
        return list(parts)
    with np.errstate(over="ignore"):
        small = [part.astype(np.float32) for part in parts]
    exact = all(np.array_equal(a, b) for a, b in zip(small, parts, strict=True))
    return small if exact else [part.astype(np.float64, copy=False) for part in parts]


def too_fine_for_float32(x: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> str | None:
    """What of float64 samples (n, *shape) float32 would lose after (x - mean) / std; None when it keeps 8 bits of each feature.

    A feature far from 0 and nearly constant, such as a time stamp, would become a few steps, or one number.
    """
    if x.dtype != np.float64:
        return None
    low, high = x.min(axis=0), x.max(axis=0)
    shape = (-1, *[1] * (x.ndim - 2))
    middle, scale = (np.asarray(value, dtype=np.float64).reshape(shape) for value in (mean, std))
    low, high = (low - middle) / scale, (high - middle) / scale
    largest = np.maximum(np.abs(low), np.abs(high))
    with np.errstate(over="ignore"):
        step = np.spacing(largest.astype(np.float32)).astype(np.float64)
    lost = (high > low) & ~(step * 256 <= high - low)
    if not lost.any():
        return None
    at = np.argwhere(lost)[0]
    where = ", ".join(map(str, at.tolist()))
    return f"feature ({where}) lies between {low[tuple(at)]:.17g} and {high[tuple(at)]:.17g}, which is too fine for float32"


def check_labels(train: np.ndarray, test: np.ndarray, path: str) -> None:
    """ValueError when labels cannot number classes: one class, a great gap, training and test with none in common."""
    if train.min() == train.max():
        raise ValueError(f"data.path: all {len(train)} training samples of {path} have label {train[0]}; it takes two classes")
    known, found = np.unique(train), np.unique(np.concatenate([train, test]))
    if found[-1] >= NUMBERS_A_CLASS * len(found):
        part, y = ("training", train) if train.max() == found[-1] else ("test", test)
        raise ValueError(
            f"data.path: {path} has {len(found)} different labels, but sample {int(y.argmax())} of the {part} set has label "
            f"{found[-1]}; labels may go up to {NUMBERS_A_CLASS * len(found) - 1} then, so number the classes from 0"
        )
    if not np.isin(test, known).any():
        raise ValueError(
            f"data.path: the test samples of {path} have labels {listed(np.unique(test))}, none of which occurs in training "
            f"({listed(known)})"
        )


def held_out(y: np.ndarray, seed: int) -> np.ndarray:
    """(n,) which samples are for testing: at random a tenth of each class, rounded, at least one; none of a class of one."""
    from coopsgd.streams import stream

    chosen = np.zeros(len(y), dtype=bool)
    classes, counts = np.unique(y, return_counts=True)
    for c, here in zip(classes, np.split(np.argsort(y, kind="stable"), np.cumsum(counts)[:-1]), strict=True):
        if len(here) > 1:
            chosen[stream(seed, "held out", int(c)).permutation(here)[: max(1, (len(here) + 5) // 10)]] = True
    return chosen


def repeated(train: np.ndarray, test: np.ndarray) -> int:
    """How many test samples are in the training set, too."""
    seen = {hash(x.tobytes()) for x in train}
    return sum(hash(x.tobytes()) in seen for x in test)


def listed(numbers: Any, most: int = 10) -> str:
    """'0, 1, 2', or the first of many and how many there are."""
    words = [str(int(n)) for n in numbers]
    return ", ".join(words) if len(words) <= most else f"{', '.join(words[:most])}, ... ({len(words)} in all)"


def _reason(error: Exception) -> str:
    """A refusal of our own in its own words; of somebody else's error its kind, too."""
    text = " ".join(str(error).split())
    return text if isinstance(error, Odd) else f"{type(error).__name__}: {text}"


def _few(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
