"""Arrays read once a machine: decompressed into one file of the cache folder, which every process maps.

A mapping costs no copy and its pages are shared by all processes of the machine, under `coopsgd train` and under torchrun
alike. The first process to come reads the sources and writes the file, atomically and under a lock; the others wait for it. An
entry belongs to its sources' paths and is made anew when one's size or time of change differs. Its checksum is verified by
each process that opens it, once (workers inherit what the command opened), and a damaged entry is made anew with a warning.
Where the cache cannot be written each process reads for itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from coopsgd.host import news
from coopsgd.host.files import atomically
from coopsgd.host.sizes import human_bytes

Arrays = Mapping[str, np.ndarray]
ALIGN = 4096  # an array starts on a page
FORMAT = 2
LARGE = 50e6  # bytes of files that are read for seconds, and of which somebody is told
HEAD = 1 << 16  # bytes of the first line, at most
KINDS = ("|u1", "<i4", "<i8", "<f4", "<f8")  # no others are mapped: an object of a file's choosing least of all

_last: tuple[str, Arrays] | None = None  # what this process, or the one it was forked from, holds already


def root() -> Path:
    """Where downloads and decompressed arrays are kept."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coopsgd"
    except RuntimeError:  # no HOME, and a user without a name: nothing is kept
        return Path(os.devnull) / "coopsgd"


class Damaged(Exception):
    """An entry is not what was written; the message says in which way."""


def shared(name: str, sources: Sequence[Path], read: Callable[[], Arrays], fits: Callable[[Arrays], bool]) -> Arrays:
    """The arrays that `read` makes of the sources, mapped from the cache where it can be written. Nobody may write to them.

    fits: are these arrays, in names, types, shapes and ranges, such as `read` may answer with? A check of what the cache holds.
    """
    global _last
    paths = [str(source.resolve()) for source in sources]
    stats = [source.stat() for source in sources]
    key = json.dumps([FORMAT, name, *([p, s.st_size, s.st_mtime_ns] for p, s in zip(paths, stats, strict=True))])
    if _last is None or _last[0] != key:
        place = root() / "arrays" / f"{name}-{hashlib.blake2b(json.dumps(paths).encode(), digest_size=8).hexdigest()}"
        found = None
        with contextlib.suppress(Damaged):  # whoever makes it anew warns of it
            found = _open(place, key, fits)
        _last = key, found or _fill(name, place, key, read, fits, sum(stat.st_size for stat in stats))
    return _last[1]


def _fill(name: str, place: Path, key: str, read: Callable[[], Arrays], fits: Callable[[Arrays], bool], size: int) -> Arrays:
    with locked(place.with_name(place.name + ".lock")):
        try:
            found = _open(place, key, fits)
            if found is not None:  # another process was first
                return found
        except Damaged as damage:
            warnings.warn(f"{place} is damaged ({damage}); it is made anew from its sources", stacklevel=4)
        if size >= LARGE:
            news.tell(f"data: {name} is read from {human_bytes(size)} of files, once: then it lies in {place.parent}")
        arrays = read()
        with contextlib.suppress(OSError):  # no right to write, or no room
            atomically(place, lambda file: write(file, key, arrays))
    with contextlib.suppress(Damaged):  # by a disk that does not keep what it is given
        return _open(place, key, fits) or arrays
    return arrays


def write(file: BinaryIO, key: str, arrays: Arrays) -> None:
    """One line of JSON that says what follows, then the arrays, each on a page of its own."""
    kinds = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    head = {"key": key, "arrays": kinds, "sha256": _digest(key, kinds, arrays)}
    file.write(json.dumps(head).encode() + b"\n")
    for array in arrays.values():
        file.write(b"\0" * (-file.tell() % ALIGN))
        file.write(_bytes(array))


def _open(place: Path, key: str, fits: Callable[[Arrays], bool]) -> Arrays | None:
    """The arrays of a whole file with this key; None: there is none, or one of other sources. Damaged: it is not whole."""
    if not place.is_file():
        return None
    try:
        with place.open("rb") as file:
            line = file.readline(HEAD)
            head = json.loads(line) if line.endswith(b"\n") else None
            if not isinstance(head, dict) or not isinstance(head.get("key"), str):
                raise Damaged("its first line is none of ours")
            if head["key"] != key:
                return None
            arrays = mapped(file, head.get("arrays"))
    except OSError:
        return None
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise Damaged("its first line does not say what it holds") from None
    if head.get("sha256") != _digest(key, head["arrays"], arrays):
        raise Damaged("its checksum is another")
    try:
        fit = fits(arrays)
    except (KeyError, ValueError, IndexError):
        fit = False
    if not fit:
        raise Damaged("it holds something else")
    return arrays


def mapped(file: BinaryIO, kinds: Any) -> Arrays:
    """Map what `write` wrote, from the end of its first line on. ValueError unless the file is exactly what `kinds` says."""
    at, size, arrays = file.tell(), os.fstat(file.fileno()).st_size, {}
    if not isinstance(kinds, dict):
        raise ValueError("no arrays are named")
    for name, (kind, shape) in kinds.items():
        if kind not in KINDS or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"{name} is no array that would be written")
        at += -at % ALIGN
        many = math.prod(shape)
        if at + many * np.dtype(kind).itemsize > size:
            raise ValueError("it is cut short")
        # "c": pages are shared until somebody writes, which nobody does; torch complains of arrays that cannot be written
        array = np.memmap(file, np.dtype(kind), "c", at, tuple(shape)) if many else np.zeros(shape, kind)
        arrays[name] = np.asarray(array)
        at += array.nbytes
    if at != size:
        raise ValueError("more follows than it says")
    return arrays


def _digest(key: str, kinds: Any, arrays: Arrays) -> str:
    """Of an entry: what it says of itself, and every number."""
    digest = hashlib.sha256(json.dumps([key, kinds]).encode())
    for array in arrays.values():
        digest.update(_bytes(array))
    return digest.hexdigest()


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process of this machine at a time inside, where the file system knows locks; its folder is made."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            stack.callback(os.close, file)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
