"""Columns of a long metrics.jsonl, kept beside it in a form that is read at once: they hold for its size and time alone."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from coopsgd.errors import ConfigError
from coopsgd.host import files

NAME = ".columns.npz"
LONG = 1 << 21  # bytes of metrics.jsonl from which on it is worth it
OF = "of"  # the entry that says of which file: size and time


def read(path: Path, names: Sequence[str], of: Sequence[str]) -> dict[str, np.ndarray] | None:
    """The columns of metrics.jsonl at `path`, of lines that have one of `of`; None where they are not kept, or are of another
    state of the file.
    """
    kept = _kept(path)
    wanted = {name: _called(name, of) for name in names}
    return {name: kept[key] for name, key in wanted.items()} if all(key in kept for key in wanted.values()) else None


def write(path: Path, columns: Mapping[str, np.ndarray], of: Sequence[str], size: int) -> None:
    """Keep them if the file is long and still has that size, besides those that were kept of the same state. A folder that
    cannot be written goes without.
    """
    with suppress(OSError, ConfigError):
        state = _state(path)
        if size < LONG or state[0] != size:
            return
        kept = _kept(path) | {_called(name, of): column for name, column in columns.items()} | {OF: np.array(state)}
        files.atomically(path.parent / NAME, lambda file: np.savez(file, **kept))  # type: ignore[arg-type]


def _kept(path: Path) -> dict[str, np.ndarray]:
    """All that is kept of the state in which the file is."""
    with ExitStack() as stack:
        stack.enter_context(suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile))
        file = stack.enter_context((path.parent / NAME).open("rb"))  # np.load leaves open what is no zip file
        kept = stack.enter_context(np.load(file))
        return dict(kept) if kept[OF].tolist() == _state(path) else {}
    return {}


def _called(name: str, of: Sequence[str]) -> str:
    return f"{','.join(of) or 'all'}>{name}".replace("/", ":")


def _state(path: Path) -> list[int]:
    about = os.stat(path)
    return [about.st_size, about.st_mtime_ns]
