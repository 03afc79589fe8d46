"""Files that are made anew: whatever lies at their place is taken away, and a link that lies there is never followed.

A run folder may be one that others can write to. A link that somebody put where a run is about to write would have it
overwrite a file elsewhere, with the rights of who runs it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

FLAGS = os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)


def descriptor(path: Path, flags: int = os.O_WRONLY) -> int:
    """Of a new file at `path`, open for writing. OSError when it cannot be made."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return os.open(path, flags | FLAGS, 0o666)  # somebody who puts one there meanwhile makes this fail


def create(path: Path) -> BinaryIO:
    """The same as a file object."""
    return os.fdopen(descriptor(path), "wb")
