"""MNIST, and the IDX files that it and its successors come in."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coopsgd.data.files import Filed, refuse_unreadable
from coopsgd.registry import register

# files, shapes and classes are the same for all of these: the first training labels tell them apart
BEGIN = {"mnist": bytes((5, 0, 4, 1, 9, 2, 1, 3, 1, 4)), "fashion_mnist": bytes((9, 0, 0, 3, 0, 2, 7, 2, 5, 5))}
BROKEN = (EOFError, OSError, ValueError, struct.error, zlib.error)
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class IDX(Filed):
    """28 x 28 grey images of ten classes in four IDX files, plain or .gz."""

    FILES = FILES
    SHAPE = (1, 28, 28)
    CLASSES = 10

    def check_files(self, folder: Path) -> None:
        for name in FILES:
            _check_whole(self._path(folder, name))

    def read(self, folder: Path) -> Mapping[str, np.ndarray]:
        train_x, train_y, test_x, test_y = (read_idx(self._path(folder, name)) for name in FILES)
        for x, y in ((train_x, train_y), (test_x, test_y)):
            if x.shape[1:] != (28, 28) or y.shape != x.shape[:1] or not len(y) or y.max() >= self.CLASSES:
                raise ValueError(
                    f"data: the IDX files in {folder} hold {x.shape} images and {y.shape} labels up to "
                    f"{y.max(initial=0)}, which is not {self.NAME}; get them anew"
                )
        labels = {"train_y": train_y.astype(np.int64), "test_y": test_y.astype(np.int64)}
        return {"train_x": train_x[:, None], "test_x": test_x[:, None], **labels}

    def another(self, folder: Path) -> bool:
        path = self._path(folder, FILES[1])
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                labels = file.read(8 + 10)[8:]
        except (EOFError, OSError, zlib.error):
            return False  # broken, which `check` says
        return labels in [begin for name, begin in BEGIN.items() if name != self.NAME]

    def _path(self, folder: Path, name: str) -> Path:
        path = self.file(folder, name)
        if path is None:
            raise ValueError(f"data: no {name} or {name}.gz in {folder}")
        return path


@register("mnist", "data")
@dataclass(frozen=True)
class MNIST(IDX):
    """Handwritten digits, 28 x 28 grey, 10 classes, 60,000 for training. LeCun, Cortes & Burges."""

    NAME = "mnist"
    BELOW = ("mnist", "MNIST/raw")
    SOURCE = "MNIST"

    def scaling(self) -> dict[str, Any]:
        return {"mean": (0.1307 * 255,), "std": (0.3081 * 255,)}


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes, plain or .gz. ValueError when it is something else or cut short."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        shape = _shape(raw)
        return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except BROKEN as error:
        refuse_unreadable(path, error)
        raise ValueError(f"data: {path} is not a whole IDX file of bytes; get it anew") from None


def _check_whole(path: Path) -> None:
    """Compare the size that the header tells with the size that is there, without reading it all. ValueError if they differ."""
    try:
        zipped = path.suffix == ".gz"
        with gzip.open(path) if zipped else path.open("rb") as file:
            shape = _shape(file.read(16))
        with path.open("rb") as file:
            file.seek(-4 if zipped else 0, os.SEEK_END)  # a .gz ends with the size of what it holds
            size = struct.unpack("<I", file.read(4))[0] if zipped else file.tell()
        whole = size == 4 + 4 * len(shape) + int(np.prod(shape))
    except BROKEN as error:
        refuse_unreadable(path, error)
        whole = False
    if not whole:
        raise ValueError(f"data: {path} is not a whole IDX file of bytes; get it anew")


def _shape(head: bytes) -> tuple[int, ...]:
    zero, kind, rank = struct.unpack(">HBB", head[:4])
    if zero != 0 or kind != 8:
        raise ValueError("not an IDX file of bytes")
    return struct.unpack(f">{rank}I", head[4 : 4 + 4 * rank])
