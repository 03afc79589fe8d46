"""Files of tokens: whole numbers of 16 bits, little-endian, one after the other, as tokenisers leave them (.bin)."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache

import numpy as np

SUFFIX = ".bin"
HEADER = 512  # tokens in whose place the files of llm.c have a header, which begins so:
MAGIC = [20240520 % 65536, 20240520 // 65536]


def are(path: str | None) -> bool:
    """Does this name say that it is a file of tokens?"""
    return path is not None and path.lower().endswith(SUFFIX)


def read(key: str, path: str) -> np.ndarray:
    """(n,) int32 of a file. ValueError, beginning with `key`, when it holds none; OSError."""
    found = os.stat(path)
    if found.st_size % 2 or not found.st_size:
        what = "is empty" if not found.st_size else f"has {found.st_size} bytes, an odd number"
        raise ValueError(
            f"{key}: {path} {what}; tokens are whole numbers of 2 bytes each (uint16), as numpy's tofile writes them"
        )
    return _read(key, path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=2)
def _read(key: str, path: str, size: int, changed: int) -> np.ndarray:
    array = np.fromfile(path, dtype="<u2").astype(np.int32)
    if len(array) > HEADER and array[:2].tolist() == MAGIC:
        raise ValueError(f"{key}: {path} begins with a header of {2 * HEADER} bytes, as llm.c writes it; leave it out")
    even, odd = array[::2], array[1::2]
    if len(array) >= 64 and odd.max() <= 2 < even.max() and even.min() < even.max():
        raise ValueError(
            f"{key}: {path} seems to hold whole numbers of 4 bytes or more, for every second of 2 bytes is at most "
            f"{odd.max()}; write tokens as uint16"
        )
    return array


def digest(arrays: list[np.ndarray]) -> str:
    """SHA-256 of the files that these tokens are from, one after the other."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(array.astype("<u2").tobytes())
    return found.hexdigest()
