"""Whatever a test starts dies with it, however it ends.

All that a session of pytest executes carries the session's mark in its environment, and a fork keeps what its parent was
executed with; so /proc tells what is the session's, in whatever process group or session it is and whoever its parent became.
At the end of each test what is marked and not meant to stay is killed. If pytest itself is killed, a guard does it. What pytest
forks by itself has no mark: it dies with pytest by a signal of the kernel, or as its child at the end of the test. Linux only.

Run as a script, with a process and its mark, this file is the guard.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Collection, Iterator

MARK = "COOPSGD_TEST"  # holds a list, separated by colons: a test may run pytest in turn
HERE = sys.platform == "linux"


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]
    return []


def state(pid: int) -> str:
    """R, S, T, Z, ...; X when it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0]
    return "X"


def alive(pid: int) -> bool:
    return state(pid) not in "ZX"


def marked(mark: str) -> list[int]:
    """The living processes that carry it, but for this one."""
    found, wanted = [], mark.encode()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if wanted in file.read():
                    found.append(int(name))
    return found


def end(pids: Collection[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Owner:
    """This process as the owner of what it starts. staying: those that outlive a test, as the fork server does."""

    def __init__(self) -> None:
        self.mark, self.staying = uuid.uuid4().hex, set[int]()
        self._before = os.environ.get(MARK)

    def left(self) -> list[int]:
        """What it started and what came of that, as far as it lives and is not to stay."""
        own = [pid for pid in children(os.getpid()) if alive(pid)]
        return [pid for pid in {*own, *marked(self.mark)} if pid not in self.staying]

    def end_all(self) -> None:
        """Nothing of it is alive any more when this returns."""
        until, killed = time.monotonic() + 300, set[int]()
        while HERE and ((pids := self.left()) or any(map(alive, killed))):  # one that is ending has no environment any more
            assert time.monotonic() < until, f"cannot be killed: {[*pids, *killed]}"
            end(pids)
            killed.update(pids)
            time.sleep(0.005)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """All that is started meanwhile is marked, and looked after should this process be killed."""
        if not HERE:
            yield
            return
        words = [sys.executable, "-I", "-S", __file__, str(os.getpid()), self.mark]
        none = subprocess.DEVNULL
        guard = subprocess.Popen(words, stdin=none, stdout=none, stderr=none, cwd="/", start_new_session=True)
        self.staying.add(guard.pid)
        os.environ[MARK] = f"{self._before}:{self.mark}" if self._before else self.mark
        _forks_die_with(os.getpid())
        try:
            yield
        finally:
            self.end_all()
            guard.kill()
            guard.wait()


def _forks_die_with(owner: int) -> None:
    """Its own forks are killed when it ends. Not those of a thread: the kernel means the thread by the parent that ends."""
    prctl, by_main = ctypes.CDLL(None).prctl, [False]

    def before() -> None:
        by_main[0] = os.getpid() == owner and threading.current_thread() is threading.main_thread()

    def after() -> None:
        if by_main[0]:
            by_main[0] = False
            prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            if os.getppid() != owner:  # it ended before
                os._exit(1)

    os.register_at_fork(before=before, after_in_child=after)


def _guard(owner: int, mark: str) -> None:
    """Waits for the owner's end, then for that of all it started; what was about to start is waited for too."""
    with contextlib.suppress(ProcessLookupError):
        select.select([os.pidfd_open(owner)], [], [])
    quiet = 0
    while quiet < 10:
        pids = marked(mark)
        end(pids)
        quiet = 0 if pids else quiet + 1
        time.sleep(0.02)


if __name__ == "__main__":
    _guard(int(sys.argv[1]), sys.argv[2])
