"""Arrays read once a machine: decompressed into one file of the cache folder, which every process maps.

A mapping costs no copy and its pages are shared by all processes of the machine, under `coopsgd train` and under torchrun
alike. The first process to come reads the sources and writes the file, atomically and under a lock; the others wait for it. An
entry belongs to its sources' paths and is made anew when one's size or time of change differs. Where the cache cannot be
written each process reads for itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from coopsgd.checkpoint import atomically

Arrays = Mapping[str, np.ndarray]
ALIGN = 4096  # an array starts on a page
FORMAT = 1

_last: tuple[str, Arrays] | None = None  # what this process, or the one it was forked from, holds already


def root() -> Path:
    """Where downloads and decompressed arrays are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coopsgd"


def shared(name: str, sources: Sequence[Path], read: Callable[[], Arrays]) -> Arrays:
    """The arrays that `read` makes of the sources, mapped from the cache where it can be written. Nobody may write to them."""
    global _last
    paths = [str(source.resolve()) for source in sources]
    stats = [source.stat() for source in sources]
    key = json.dumps([FORMAT, name, *([p, s.st_size, s.st_mtime_ns] for p, s in zip(paths, stats, strict=True))])
    if _last is None or _last[0] != key:
        place = root() / "arrays" / f"{name}-{hashlib.blake2b(json.dumps(paths).encode(), digest_size=8).hexdigest()}"
        _last = key, _open(place, key) or _fill(place, key, read)
    return _last[1]


def _fill(place: Path, key: str, read: Callable[[], Arrays]) -> Arrays:
    with locked(place.with_name(place.name + ".lock")):
        found = _open(place, key)  # another process was first
        if found is not None:
            return found
        arrays = read()
        with contextlib.suppress(OSError):  # no right to write, or no room
            atomically(place, lambda file: write(file, key, arrays))
    return _open(place, key) or arrays


def write(file: BinaryIO, key: str, arrays: Arrays) -> None:
    """One line of JSON that says what follows, then the arrays, each on a page of its own."""
    head = json.dumps({"key": key, "arrays": {n: [a.dtype.str, a.shape] for n, a in arrays.items()}}).encode() + b"\n"
    file.write(head)
    for array in arrays.values():
        file.write(b"\0" * (-file.tell() % ALIGN))
        file.write(np.ascontiguousarray(array).view(np.uint8).data)


def _open(place: Path, key: str) -> Arrays | None:
    """The arrays of a whole file with this key, or None."""
    try:
        with place.open("rb") as file:
            head = json.loads(file.readline())
            return mapped(file, head["arrays"]) if head["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def mapped(file: BinaryIO, kinds: Mapping[str, tuple[str, list[int]]]) -> Arrays:
    """Map what `write` wrote, from the end of its first line on. ValueError when the file is too short."""
    at, arrays = file.tell(), {}
    for name, (kind, shape) in kinds.items():
        at += -at % ALIGN
        # "c": pages are shared until somebody writes, which nobody does; torch complains of arrays that cannot be written
        mapping = np.memmap(file, dtype=np.dtype(kind), mode="c", offset=at, shape=tuple(shape))
        arrays[name] = np.asarray(mapping)
        at += mapping.nbytes
    return arrays


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process of this machine at a time inside, where the file system knows locks; its folder is made."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            file = stack.enter_context(path.open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
