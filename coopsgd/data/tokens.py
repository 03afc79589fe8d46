"""Files of tokens: whole numbers of 16 bits, little-endian, one after the other, as tokenisers leave them (.bin)."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache

import numpy as np

SUFFIX = ".bin"


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
    return _read(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=2)
def _read(path: str, size: int, changed: int) -> np.ndarray:
    return np.fromfile(path, dtype="<u2").astype(np.int32)


def digest(arrays: list[np.ndarray]) -> str:
    """SHA-256 of the files that these tokens are from, one after the other."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(array.astype("<u2").tobytes())
    return found.hexdigest()
