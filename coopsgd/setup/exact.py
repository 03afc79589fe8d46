"""A user's numbers as float64, none changed on the way: what cannot be taken as it is is refused by its place."""

from __future__ import annotations

from typing import Any

import numpy as np

LARGEST = 2**53  # whole numbers up to this are exact in float64


def as_float64(name: str, value: Any, when: str = "") -> np.ndarray:
    """The same real numbers in float64. ValueError, beginning with `name`, for what it would lose, and for nan and inf.

    Complex numbers would lose their imaginary part, words and dates become numbers, whole numbers beyond 2^53 others. Floats of
    more digits are rounded, which is what float64 means.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        kinds = {"c": "complex numbers", "U": "words", "S": "words", "O": "no numbers", "M": "dates", "m": "times"}
        raise ValueError(f"{name}: holds {kinds.get(array.dtype.kind, array.dtype)}, not real numbers{when}")
    if array.dtype.kind in "iu" and array.size and (array.max() > LARGEST or array.min() < -LARGEST):
        raise ValueError(f"{name}: holds a whole number beyond 2^53, which float64 does not hold exactly{when}")
    with np.errstate(over="ignore"):
        found = array.astype(np.float64)
    if not np.isfinite(found).all():
        at = tuple(np.argwhere(~np.isfinite(found))[0].tolist())
        raise ValueError(f"{name}: holds an entry that is not a finite number, {array[at]} at {list(at)}{when}")
    return found
