"""Standard streams that cannot harm a run: what a console does not take is dropped, and the work goes on.

A pipe whose reader has left, a terminal that was closed, a full disk behind a file, a stream that was closed from the start:
each would end the process that prints next. Here the lowest layer of sys.stdout and sys.stderr swallows such an error, so
that click, rich, warnings, print and Python's own flush at exit need not know.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from pathlib import Path
from typing import TextIO

from coopsgd.host import newfile

PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # there may be room again; of other errors a stream does not recover
WAIT = 5.0  # seconds for a reader that does not block us to catch up

failed: dict[int, OSError] = {}  # descriptor -> the first error of writing to it


class Forgiving(io.FileIO):
    """A file descriptor to write to, whose errors are noted in `failed` and not raised. It stays open when this is closed."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)

    def write(self, data: object) -> int:
        """All of it, as far as the caller can tell."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]  # what a buffer hands down
        try:
            written = super().write(view)
            if written is None:  # a pipe that does not block, and is full
                select.select([], [self], [], WAIT)
                written = super().write(view)
        except OSError as error:
            failed.setdefault(self.fileno(), error)
            if error.errno not in PASSING:
                _nowhere(self.fileno())
            return len(view)
        return len(view) if written is None else written


def stream(number: int, like: TextIO | None = None) -> TextIO:
    """A text stream onto a descriptor that never raises; encoding as `like` has it. What it cannot say is spelt out."""
    raw = Forgiving(number)
    encoding = getattr(like, "encoding", None) or "utf-8"
    lines = raw.isatty() or number == 2
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=lines)


def guard() -> None:
    """Make this process's standard streams forgiving. A closed one becomes /dev/null, before a file takes its place."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            _nowhere(number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        now = getattr(sys, name)
        if now is not None:
            try:
                if now.fileno() != number:
                    continue  # somebody's own stream, such as a test's
                now.flush()
            except (OSError, ValueError):  # io.UnsupportedOperation is both
                continue
        setattr(sys, name, stream(number, now))
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  for good


def redirect(number: int, path: Path, more: bool = False) -> None:
    """From here on what is written to this descriptor goes to `path`, or nowhere when it cannot be made.

    more: behind what is in it.
    """
    try:
        file = _behind(path) if more else None
        file = newfile.descriptor(path, os.O_WRONLY | os.O_APPEND) if file is None else file
    except OSError:
        _nowhere(number)
        return
    os.dup2(file, number)
    os.close(file)


def _behind(path: Path) -> int | None:
    """A descriptor of the file that is there; None when there is none."""
    with contextlib.suppress(OSError):
        return os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0))
    return None


def unwritten() -> OSError | None:
    """Why standard output did not get all that was printed, if somebody would want to know: not when its reader has left."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        return None
    error = failed.get(1)
    return error if error is not None and error.errno in PASSING else None


def _nowhere(number: int) -> None:
    """Let the descriptor lead to /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
