"""Small files in the formats of MNIST and CIFAR."""

from __future__ import annotations

import pickle
import struct

import numpy as np

from coopsgd.data.mnist import FILES


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_folder(folder):
    """150 and 20 images in the format of MNIST."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, shape in zip(FILES, ((150, 28, 28), (150,), (20, 28, 28), (20,)), strict=True):
        (folder / name).write_bytes(idx(rng.integers(0, 10, shape, dtype=np.uint8)))
    return folder


def cifar_folder(folder, source, train=30, test=10):
    """Small files in the format of the real ones: pickles of protocol 2, as Python 2 wrote them."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    for name in source.FILES:
        n = test if name == source.TEST else train // len(source.TRAIN)
        x, y = rng.integers(0, 256, (n, 3072), dtype=np.uint8), rng.integers(0, source.CLASSES, n)
        y[0] = source.CLASSES - 1
        (folder / name).write_bytes(pickle.dumps({"data": x, source.LABELS: y.tolist(), "filenames": ["a"] * n}, protocol=2))
        np.savez(folder / f"{name}.npz", x=x, y=y)
    return folder
