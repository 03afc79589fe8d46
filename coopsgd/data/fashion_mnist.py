"""Fashion-MNIST: 70,000 images of clothes, 28 x 28. Zalando Research, arXiv:1708.07747."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coopsgd.data.base import DataSet, Images
from coopsgd.registry import register

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist


@register("fashion_mnist", "data")
@dataclass(frozen=True)
class FashionMNIST(DataSet):
    """Clothes, 28 x 28 grey, 10 classes, 60,000 for training. arXiv:1708.07747."""

    TRAIN = 60000
    SHAPE = (1, 28, 28)
    CLASSES = 10

    def places(self) -> list[Path]:
        """Folders that may hold the four IDX files, .gz or plain, in the order they are tried."""
        own = os.environ.get("COOPSGD_DATA")
        roots = [Path(own)] if own else []
        nested = [root / below for root in [*roots, _cache()] for below in ("", "fashion-mnist", "FashionMNIST/raw")]
        return [*nested, DEBIAN]

    def find(self) -> Path | None:
        """The first folder with all four files."""
        return next((p for p in self.places() if all(_file(p, name) for name in FILES)), None)

    def check(self) -> None:
        folder = self.find()
        if folder is not None:
            for name in FILES:
                _check_whole(folder, name)
            return
        try:
            from torchvision.datasets import FashionMNIST as Source

            with contextlib.redirect_stdout(io.StringIO()):  # it tells of every mirror it tries
                Source(str(_cache()), download=True)
        except Exception as error:
            raise ValueError(
                f"data: fashion_mnist was not found and could not be downloaded ({_first_line(error)}); put its four IDX "
                "files into a folder and set COOPSGD_DATA to it, or apt-get install dataset-fashion-mnist"
            ) from None

    def load(self) -> Images:
        folder = self.find()
        if folder is None:
            raise ValueError("data: fashion_mnist is gone since the run was checked; set COOPSGD_DATA to its folder")
        train_x, train_y, test_x, test_y = (read_idx(folder, name) for name in FILES)
        labels = [y.astype(np.int64) for y in (train_y, test_y)]
        return Images(train_x[:, None], labels[0], test_x[:, None], labels[1], scale=255.0, shift=0.286)


def read_idx(folder: Path, name: str) -> np.ndarray:
    """An IDX file of unsigned bytes, plain or .gz. ValueError when it is something else or cut short."""
    path = _file(folder, name)
    if path is None:
        raise ValueError(f"data: no {name} or {name}.gz in {folder}")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        shape = _shape(raw)
        return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (EOFError, OSError, ValueError, struct.error, zlib.error):
        raise ValueError(f"data: {path} is not a whole IDX file of bytes; get it anew") from None


def _check_whole(folder: Path, name: str) -> None:
    """Compare the size that the header tells with the size that is there, without reading it all. ValueError if they differ."""
    path = _file(folder, name)
    assert path is not None
    try:
        zipped = path.suffix == ".gz"
        with gzip.open(path) if zipped else path.open("rb") as file:
            shape = _shape(file.read(16))
        with path.open("rb") as file:
            file.seek(-4 if zipped else 0, os.SEEK_END)  # a .gz ends with the size of what it holds
            size = struct.unpack("<I", file.read(4))[0] if zipped else file.tell()
        whole = size == 4 + 4 * len(shape) + int(np.prod(shape))
    except (EOFError, OSError, ValueError, struct.error, zlib.error):
        whole = False
    if not whole:
        raise ValueError(f"data: {path} is not a whole IDX file of bytes; get it anew")


def _shape(head: bytes) -> tuple[int, ...]:
    zero, kind, rank = struct.unpack(">HBB", head[:4])
    if zero != 0 or kind != 8:
        raise ValueError("not an IDX file of bytes")
    return struct.unpack(f">{rank}I", head[4 : 4 + 4 * rank])


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coopsgd"


def _file(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
