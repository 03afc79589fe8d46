"""Items of somebody's data set as (image, label) of one size: through a function of the user's, and resized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from coopsgd.data.items import Odd
from coopsgd.registry import imported


def refuse_size(size: Any) -> None:
    """ValueError unless it is None, a number of pixels or [height, width]."""
    both = size if isinstance(size, list) else [size]
    whole = all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 1 << 14 for n in both)
    if size is not None and not (whole and len(both) in (1, 2)):
        raise ValueError(f"data.resize: must be a number of pixels or [height, width], from 1 to 16384, got {size!r}")


class View:
    """A data set whose items went through `collate`, as a DataLoader's collate_fn of a list of one, and were resized."""

    def __init__(self, data: Any, collate: str | None, size: Any) -> None:
        self._data, self._collate = data, None
        if collate is not None:
            try:
                self._collate = imported("collate", collate, "data.collate")
            except KeyError as error:
                raise ValueError(f"data.collate: {error.args[0]}") from None
        self._size = None if size is None else tuple(size) * (3 - len(size)) if isinstance(size, list) else (size, size)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, i: int) -> Any:
        item = self._data[i]
        if self._collate is not None:
            item = _single(self._collate, item)
        if self._size is not None and isinstance(item, tuple | list) and len(item) == 2:
            item = resized(item[0], self._size), item[1]
        return item


def _single(collate: Callable[[list[Any]], Any], item: Any) -> tuple[Any, Any]:
    """(image, label) of one item."""
    found = collate([item])
    name = getattr(collate, "__name__", type(collate).__name__)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Odd(f"what data.collate={name} made of it: a {type(found).__name__}, not (images, labels)")
    for what, part in zip(("images", "labels"), found, strict=True):
        if not hasattr(part, "__len__") or not hasattr(part, "__getitem__") or len(part) != 1:
            many = f"{len(part)} of them" if hasattr(part, "__len__") else f"a {type(part).__name__}"
            raise Odd(f"what data.collate={name} made of it: {what} must be a batch of one for a list of one item, got {many}")
    return found[0][0], found[1][0]


def resized(image: Any, size: tuple[int, int]) -> Any:
    """An image (PIL's, or an array with channels first) of this height and width: bilinear, smoothed where it shrinks."""
    if hasattr(image, "getbands"):
        from PIL.Image import Resampling

        return image.resize((size[1], size[0]), Resampling.BILINEAR)
    array = np.asarray(image)
    if array.ndim not in (2, 3) or array.dtype.kind not in "uifb":
        raise Odd(f"an array of {array.dtype} of shape {array.shape}, no image that data.resize could make another size")
    if array.ndim == 3 and array.shape[2] in (1, 3, 4) and array.shape[0] > 4:
        raise Odd(
            f"an array of shape {array.shape}, whose channels seem to come last; give them first, or leave out data.resize"
        )
    import torch

    planes = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64).reshape(-1, 1, *array.shape[-2:]))
    made = torch.nn.functional.interpolate(planes, size=size, mode="bilinear", antialias=True).numpy()
    made = made.reshape(*array.shape[:-2], *size)
    return np.rint(made).astype(array.dtype) if array.dtype.kind in "ui" else made.astype(np.float32)
