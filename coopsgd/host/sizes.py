"""Sizes are foreseen: what the numbers of a config would take is computed, and refused, before any of it is taken.

An estimate counts only what is certain to be held (models, gradients, matrices), so that nothing which would fit is refused.
Imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from coopsgd.errors import ConfigError

LONGEST_CYCLE = 100_000  # communications of a schedule that repeats: each is looked at before a run starts
MEMBERS = 1_000_000  # rows of a sparse matrix: its spectrum takes minutes
OPERATIONS = 1e13  # of its products, at most: some twenty minutes of one core
PROCESS = 30e6  # bytes that a forked worker takes for itself, whatever it holds
OBJECT = 300  # bytes of a small Python object that holds others, an edge of a graph for instance


def available() -> float:
    """Bytes of memory that can still be had: of this machine or, where it is less, of the container (cgroup) it is in."""
    return min(_of_the_machine(), *_of_groups(), float("inf"))


def refuse(where: str, needed: float, what: str, out: str) -> None:
    """ConfigError when `what`, which takes about `needed` bytes, does not fit. `where`: the key; `out`: the way out."""
    if needed > 1e6 and needed > (there := available()):  # what is small is not looked up
        limit = f"more than the {human_bytes(there)} of memory to be had here"
        raise ConfigError(f"{where}: {what} take about {human_bytes(needed)}, {limit}; {out}")


def refuse_square(n: int, m: int, key: str = "algo.v", copies: int = 4) -> None:
    """The same for matrices over n = m + v members, of which checks hold some at a time. `key`: what says how large v is."""
    what = f"{copies} matrices over workers + v = {n} members" if n > m else f"{copies} matrices over {n} workers"
    where = "workers" if m >= n - m else key
    refuse(where, 8.0 * copies * n * n, what, f"lower {where}")


def refuse_members(n: int, m: int, key: str = "algo.v") -> None:
    """ConfigError for more members than sparse matrices are made for. Auxiliary models count as if they were written out."""
    where = "workers" if m >= n - m else key
    if n >= MEMBERS:
        raise ConfigError(f"{where}: matrices over {n} members; fewer than {MEMBERS} are taken, lower {where}")
    refuse_square(n - m, 0, key)


def refuse_cycle(cycle: int, n: int, where: str) -> None:
    """ConfigError when a schedule of n x n matrices repeats too late for all of them to be looked at."""
    most = max(1, min(LONGEST_CYCLE, int(OPERATIONS / n**3), int(available() / 2 / (8 * n * n))))
    if cycle > most:
        raise ConfigError(
            f"{where}: the schedule repeats after {_count(cycle)} communications, and of {n} members at most {most} can be "
            "looked at before a run; lower it"
        )


def human_bytes(count: float) -> str:
    """1234567 -> '1.23 MB'; powers of ten, as networks count."""
    for unit, size in (("EB", 1e18), ("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def _count(n: int) -> str:
    return str(n) if n < 10**9 else f"{n:.3g}"


def _of_the_machine() -> float:
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        found = {words[0].rstrip(":"): 1024.0 * int(words[1]) for words in lines if len(words) > 2}
        return found["MemAvailable"] + found.get("SwapFree", 0.0)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    return float("inf")


def _of_groups() -> Iterator[float]:
    """What each limit on memory that this process is under leaves of itself; its cached files can be given up."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, name = line.split(":", 2)
            if kinds == "" or "memory" in kinds.split(","):
                root = Path("/sys/fs/cgroup" if kinds == "" else "/sys/fs/cgroup/memory")
                at = root / name.lstrip("/")
                # inside a container the name may be the host's: the root of what is mounted is then ours
                for folder in {at, *(p for p in at.parents if p == root or root in p.parents)}:
                    yield from _left(folder)


def _left(folder: Path) -> Iterator[float]:
    for most, used, cached in (
        ("memory.max", "memory.current", "file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
    ):
        with contextlib.suppress(OSError, ValueError):
            limit, taken = (int((folder / name).read_text()) for name in (most, used))  # "max" is no limit, and no number
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            yield float(limit - max(0, taken - int(stat.get(cached, 0))))
