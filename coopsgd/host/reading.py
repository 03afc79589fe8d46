"""A user's files: whatever a user names to be read comes through here, so that nothing is read without end or need.

A file is read when it is a regular one, of a size that makes sense, and may be read; of an array the head is read first.
Each refusal is a ConfigError in one line, beginning with the key.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from coopsgd.errors import ConfigError
from coopsgd.host import sizes

ARRAY = "give a .npy, .npz, .mat, .csv or .txt file, or a list"
OBJECTS = "holds Python objects, which are not read; save numbers, or words as .astype(str) makes them"
SMALL = 1 << 24  # bytes of a text that a person or `coopsgd probe` wrote: 16 MB
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def unreadable(error: OSError) -> str:
    """Why, as in "Permission denied"."""
    return error.strerror or str(error)


@contextlib.contextmanager
def opened(where: str, path: str | Path, out: str, most: float = math.inf) -> Iterator[BinaryIO]:
    """A regular file of at most so many bytes, else ConfigError. `where`: the key that names it; `out`: the way out."""
    try:
        if not stat.S_ISREG(mode := os.stat(path).st_mode):
            what = KINDS.get(stat.S_IFMT(mode), "no regular file")
            raise ConfigError(f"{where}: {str(path)!r} is {what}, not a file; {out}")
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            if (size := os.fstat(file.fileno()).st_size) > most:
                why = f"has {sizes.human_bytes(size)}, more than the {sizes.human_bytes(most)} that are read"
                raise ConfigError(f"{where}: {str(path)!r} {why}; {out}")
            yield file
    except OSError as error:
        raise ConfigError(f"{where}: cannot read {str(path)!r} ({unreadable(error)}); {out}") from None


def text(where: str, path: str | Path, out: str, most: float = SMALL) -> str:
    """A text in UTF-8."""
    with opened(where, path, out, most) as file:
        raw = file.read()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{where}: {str(path)!r} is not UTF-8 (byte {error.start}, line {line}); convert it, for instance with iconv"
        ) from None


def array(where: str, path: str, fits: Callable[[tuple[int, ...]], None] | None = None) -> np.ndarray:
    """The array of a .npy file; `fits` is shown its shape before it is read and raises when it will not do."""
    with opened(where, path, ARRAY) as file:
        try:
            version = np.lib.format.read_magic(file)
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, kind = readers[version](file)
            numbers = math.prod(shape)
            if min(shape, default=0) < 0:
                raise ValueError
        except (ValueError, TypeError, KeyError, EOFError, SyntaxError, RecursionError, MemoryError):
            raise ConfigError(f"{where}: {path[:60]!r} holds no array of numbers; {ARRAY} of rows") from None
        if kind.hasobject:
            raise ConfigError(f"{where}: {path[:60]!r} {OBJECTS}")
        if fits is not None:
            fits(shape)
        if file.tell() + numbers * kind.itemsize > os.fstat(file.fileno()).st_size:
            raise ConfigError(f"{where}: {path[:60]!r} ends before the array of shape {shape} that it begins; write it anew")
        sizes.refuse(where, numbers * (8.0 + kind.itemsize), f"an array of shape {shape} and its copy", "give a smaller one")
        file.seek(0)
        return np.load(file, allow_pickle=False)


def parsed(where: str, path: str | Path, out: str, parse: Callable[[str], Any], what: str, most: float = SMALL) -> Any:
    """What `parse` makes of a small text; `what` it should be, when it is not."""
    try:
        return parse(text(where, path, out, most))
    except ConfigError:
        raise
    except (ValueError, RecursionError):
        raise ConfigError(f"{where}: {str(path)!r} is not {what}; {out}") from None
