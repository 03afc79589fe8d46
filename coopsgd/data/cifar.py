"""CIFAR-10 and CIFAR-100 from their Python files, without running what a pickle may ask for."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from coopsgd.data.files import Filed, refuse_unreadable, there
from coopsgd.registry import option, register

PAD = 4  # pixels of the usual random crop (arXiv:1512.03385, section 4.2)


class CIFAR(Filed):
    """32 x 32 colour images, 50,000 for training and 10,000 for testing."""

    SHAPE = (3, 32, 32)
    TRAIN: ClassVar[tuple[str, ...]]
    TEST: ClassVar[str]
    LABELS: ClassVar[str]  # the key of the labels
    MEAN: ClassVar[tuple[float, ...]]  # of the training set, of a pixel in [0, 1]
    STD: ClassVar[tuple[float, ...]]

    augment: bool

    def file(self, folder: Path, name: str) -> Path | None:
        return folder / name if there(folder / name) else None

    def read(self, folder: Path) -> Mapping[str, np.ndarray]:
        parts = [self._batch(folder / name) for name in self.TRAIN]
        test_x, test_y = self._batch(folder / self.TEST)
        return {
            "train_x": np.concatenate([x for x, _ in parts]),
            "train_y": np.concatenate([y for _, y in parts]),
            "test_x": test_x,
            "test_y": test_y,
        }

    def _batch(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        try:
            content = Numbers(io.BytesIO(path.read_bytes()), encoding="latin1").load()
            x = np.asarray(content["data"])
            y = np.asarray(content[self.LABELS])
            if (
                x.dtype != np.uint8
                or x.shape[1:] != (math.prod(self.SHAPE),)
                or y.dtype.kind not in "iu"
                or y.shape != x.shape[:1]
                or not 0 <= y.min() <= y.max() < self.CLASSES
            ):
                raise ValueError("other types, lengths or labels")
            return x.reshape(-1, *self.SHAPE), y.astype(np.int64)
        except Exception as error:  # a broken pickle can raise almost anything
            refuse_unreadable(path, error)
            raise ValueError(f"data: {path} is not a whole Python file of {self.NAME}; get it anew") from None

    def scaling(self) -> dict[str, Any]:
        mean, std = (tuple(255 * part for part in parts) for parts in (self.MEAN, self.STD))
        return {"mean": mean, "std": std, "pad": PAD if self.augment else 0}


@register("cifar10", "data")
@dataclass(frozen=True)
class CIFAR10(CIFAR):
    """Photographs, 32 x 32 colour, 10 classes. Krizhevsky 2009. augment: random crop (padded by 4) and flip, training only."""

    augment: bool = option(False, "random crop and flip, of training images")

    NAME = "cifar10"
    CLASSES = 10
    TRAIN = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
    TEST, LABELS = "test_batch", "labels"
    FILES = (*TRAIN, TEST)
    BELOW = ("cifar-10-batches-py",)
    SOURCE = "CIFAR10"
    MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@register("cifar100", "data")
@dataclass(frozen=True)
class CIFAR100(CIFAR):
    """Photographs, 32 x 32 colour, 100 classes. Krizhevsky 2009. augment: random crop (padded by 4) and flip, training only."""

    augment: bool = option(False, "random crop and flip, of training images")

    NAME = "cifar100"
    CLASSES = 100
    TRAIN, TEST, LABELS = ("train",), "test", "fine_labels"
    FILES = (*TRAIN, TEST)
    BELOW = ("cifar-100-python",)
    SOURCE = "CIFAR100"
    MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


class Numbers(pickle.Unpickler):
    """An unpickler of plain containers and numpy arrays: any other name in the file is refused, so nothing is run."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for older readers
            import codecs

            return codecs.encode
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a data set")
