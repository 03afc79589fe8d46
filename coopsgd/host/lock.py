"""A lock on a folder, which the processes of a command hold together: it is free when the last of them has ended."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

DYING = 10.0  # seconds in which the processes of a command that is no more have ended
GLANCE = 0.02  # seconds between two looks


def take(file: int, shared: bool = False) -> None:
    """Lock an open file. BlockingIOError where somebody has it: at once, but while those that a killed command left end.

    ImportError, OSError where the system or the file system knows no locks.
    """
    import fcntl

    end = time.monotonic() + DYING
    while True:
        try:
            return fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end or not _left_by_the_dead(file):
                raise
        time.sleep(GLANCE)


def _left_by_the_dead(file: int) -> bool:
    """Has the command ended that took the lock, so that only processes it had forked keep it? False where nobody can tell.

    The kernel knows who took it, and leaves those out that are no more, where it cannot name them.
    """
    inode = os.fstat(file).st_ino
    try:
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        taken = [int(words[4]) for words in lines if words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode)]
    except (OSError, ValueError, IndexError):
        return False
    return not any(map(_lives, taken))


def _lives(pid: int) -> bool:
    """Is it there, and no zombie?"""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[0] not in (b"Z", b"X")
    return False
