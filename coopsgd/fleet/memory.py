"""Memory that the processes of one host share, and a place for them to meet.

A memory file (memfd) made before the fork: it has no name, takes room only where it is written to, and is gone with the last
process that has it open, however that ends; /dev/shm, which is small in a container, is not used.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from coopsgd.host import native
from coopsgd.host.processors import SPAN, memory_file

SLOT = 16  # words of 32 bits a process, so that each writes to a cache line of its own
PAGE = mmap.PAGESIZE
FUTEX = {"x86_64": 202, "aarch64": 98}  # number of the system call by machine
WAIT, WAKE = 0, 1
MOMENT = 0.02  # seconds that a process waits before it says for what
NAP = 0.05  # seconds after which a waiting process looks again in any case; where there is no futex, see `_doze`
SHORTEST = 2e-5  # of the sleeps there, which grow


class Memory:
    """Room that several processes see. Each makes the same calls of `room` in the same order, and finds the same bytes."""

    def __init__(self, processes: int, path: str | None = None) -> None:
        """path: of the memory of another process, for one that is no fork of who made it (`path` of its object)."""
        self.processes = processes
        if path is None:
            self._file = memory_file()
        else:
            self._file = os.open(path, os.O_RDWR)
        self._words = SLOT * (processes + 1)  # of a meeting: a slot a process, and one on which all sleep
        self._end = PAGE * (1 + 4 * self._words // PAGE)  # they lie before

    @property
    def path(self) -> str:
        """Where another process of this user can open it."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    def close(self) -> None:
        """This process needs no more of it; what it has mapped stays."""
        os.close(self._file)

    def clear(self) -> None:
        """As it was when it was made. Nobody may be using it."""
        os.ftruncate(self._file, 0)
        os.ftruncate(self._file, SPAN)

    def room(self, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """(rows, columns) zeros that nobody has asked for before."""
        size = rows * columns * dtype.itemsize
        if not size:
            return torch.zeros(rows, columns, dtype=dtype)
        at, self._end = self._end, self._end + -(-size // PAGE) * PAGE
        with torch.inference_mode(False):  # it is used again, wherever it is asked for first
            return torch.frombuffer(mmap.mmap(self._file, size, offset=at), dtype=dtype).view(rows, columns)

    def slots(self) -> memoryview:
        """Words of 32 bits, SLOT a process and as many for all, zero at first."""
        return memoryview(mmap.mmap(self._file, 4 * self._words)).cast("I")


class Meeting:
    """Where processes wait for each other: each says how many events it has come to, and all come to the same in one order.

    `arrive` says that this process has come to the next; `soon` whether all come as far as it has within a moment; `meet` waits
    for that. What a process wrote before it arrived is there for those who have met it.

    Who waits sleeps (futex), and is woken by whom it waits for: with more processes than cores, looking again and again takes
    the time of those who are to come. Where the core is not needed by another it looks for `spins` times first. By the compiled
    library (host/meet.c) all sleep on one word and the last to come wakes all; else each sleeps on the slots of the others in
    turn.
    """

    def __init__(self, memory: Memory, rank: int, spins: int) -> None:
        self._slots, self._rank, self._n, self._spins = memory.slots(), rank, 0, spins
        self._others = [SLOT * q for q in range(memory.processes) if q != rank]
        self._lock = threading.Lock()
        self.look: Callable[[], None] = _nothing  # called now and then by who waits, which it may end by an error
        self._sleep, self._wake = _futex(self._slots) or (_doze, lambda at: None)
        self._library = native.library()
        place = ctypes.addressof(ctypes.c_uint32.from_buffer(self._slots))
        self.known = native.Meeting(place, SLOT, memory.processes, rank, spins, 0)  # as compiled code has it
        self._at = ctypes.addressof(self.known)
        self._here = False  # have all come as far as this process has, when it came?

    def arrive(self) -> None:
        """This process has come to the next event."""
        if self._library is not None:
            self._here = bool(self._library.meeting_arrive(self._at))
            return
        self._n = (self._n + 1) & 0xFFFFFFFF
        self._fence()
        self._slots[SLOT * self._rank] = self._n
        self._wake(SLOT * self._rank)

    def soon(self) -> bool:
        """Are all others here, or in a moment?"""
        if self._library is not None:
            return self._here or self._within(MOMENT)
        for _ in range(1 + self._spins):
            if self._all_here():
                return True
            os.sched_yield()
        return False

    def meet(self) -> None:
        """Return when all have come as far as this process has."""
        if self._library is not None:
            while not self._within(NAP):
                self.look()
            return
        slots, n = self._slots, self._n
        for at in self._others:
            looked = 0
            while _before(seen := slots[at], n):
                self._sleep(at, seen, looked)
                looked += 1
                self.look()
        self._fence()

    def _within(self, seconds: float) -> bool:
        return bool(self._library.meeting_wait(self._at, seconds))

    def _all_here(self) -> bool:
        slots, n = self._slots, self._n
        for at in self._others:
            if _before(slots[at], n):
                return False
        self._fence()
        return True

    def _fence(self) -> None:
        """No reading or writing moves across it, in either direction, whatever the processor."""
        # two in a row: release, then acquire, of one lock
        with self._lock:
            pass
        with self._lock:
            pass


def _nothing() -> None:
    """Nobody looks."""


def _before(seen: int, n: int) -> bool:
    """Is one count, modulo 2^32, before another?"""
    return 0 < (n - seen) & 0xFFFFFFFF < 1 << 31


def _doze(at: int, seen: int, looked: int) -> None:
    """Sleep a little, longer each time."""
    time.sleep(min(SHORTEST * 2 ** min(looked, 6), 1e-3))


def _futex(slots: memoryview) -> tuple[Callable[[int, int, int], None], Callable[[int], None]] | None:
    """sleep(at, seen, looked) until slot `at` no longer holds `seen`, and wake(at); None where this system has no such call."""
    number = FUTEX.get(os.uname().machine)
    if not sys.platform.startswith("linux") or number is None:
        return None
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    base = ctypes.addressof(ctypes.c_uint32.from_buffer(slots))
    words = [ctypes.c_void_p(base + 4 * at) for at in range(len(slots))]
    nap = (ctypes.c_long * 2)(int(NAP), int(NAP % 1 * 1e9))
    number_, wait, wake, everyone, nothing = (ctypes.c_long(x) for x in (number, WAIT, WAKE, 1 << 30, 0))
    timeout: Any = ctypes.byref(nap)

    def sleep(at: int, seen: int, looked: int) -> None:
        call(number_, words[at], wait, ctypes.c_uint32(seen), timeout, nothing, nothing)

    return sleep, lambda at: call(number_, words[at], wake, everyone, nothing, nothing, nothing)
