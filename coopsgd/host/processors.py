"""How many processors this process may keep busy: those it may run on, and the share of them that its container is given."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SPAN = 1 << 44  # bytes that can be addressed in shared memory
ROOT = Path("/")  # where /proc and the mounted cgroups are; tests lay out their own


def cores() -> int:
    """Processors that processes and threads are counted by: affinity and quota, not what the machine has.

    A quota of 2.5 is 2: who uses it up early in a period of the scheduler stands still for the rest of it, and the others wait.
    """
    may = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = quota(ROOT)
    return may if given is None else max(1, min(may, int(given)))


def memory_file() -> int:
    """A file in memory without a name, SPAN bytes long, none of which is taken before it is written to; OSError if there can
    be none: the system has no such files, or limits their size.
    """
    if not hasattr(os, "memfd_create"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), "memfd")
    file = os.memfd_create("coopsgd")
    try:
        os.ftruncate(file, SPAN)
    except OSError:
        os.close(file)
        raise
    return file


def no_shared_memory() -> str | None:
    """Why processes cannot share memory by such a file; None if they can."""
    try:
        os.close(memory_file())
    except OSError as error:
        return error.strerror
    return None


def quota(root: Path) -> float | None:
    """Processors' worth of time that the control groups of this process allow, the least of them all; None: no limit.

    A limit may be set on any group above ours, as far as it can be seen from here. What cannot be read limits nothing.
    """
    found = [one for folder in _groups(root) if (one := _quota_of(folder)) is not None]
    return min(found, default=None)


def _quota_of(group: Path) -> float | None:
    """Of one group: cpu.max of version 2, as in `150000 100000` or `max 100000`, or the two files of version 1."""
    with contextlib.suppress(OSError, ValueError):
        if (group / "cpu.max").exists():
            words = (group / "cpu.max").read_text().split()
            time, period = words[0], words[1] if len(words) > 1 else "100000"
        else:
            time, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if time != "max" and int(time) > 0 and int(period) > 0:
            return int(time) / int(period)
    return None


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the groups that this process is in, of both versions, and of those above."""
    with contextlib.suppress(OSError, ValueError):
        of_line = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
        ours = {name: path for _, names, path in of_line for name in names.split(",")}  # the name of version 2 is empty
        for line in (root / "proc/self/mountinfo").read_text().splitlines():
            place, _, kind = line.partition(" - ")
            within, at = (_unescaped(word) for word in place.split()[3:5])
            system, _, options = kind.split(maxsplit=2)
            name = "" if system == "cgroup2" else "cpu"
            if system not in ("cgroup", "cgroup2") or name not in ours or (name and name not in options.split(",")):
                continue
            top, path = root / at.lstrip("/"), PurePosixPath(ours[name])
            # seen from within a container the group may lie outside what is mounted
            below = path.relative_to(within) if path.is_relative_to(within) and ".." not in path.parts else PurePosixPath()
            yield from (top / one for one in (below, *below.parents))


def _unescaped(word: str) -> str:
    """A path as mountinfo writes it: a space is \\040."""
    return re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), word)
