"""Processes that no command of ours watches, as under torchrun, watch each other: who does not come to a verb is named.

Each has a thread that says over the store of the group what its process waits for, once that lasts, and reads what the others
say. It has a connection of its own: a store that does not answer keeps nobody waiting.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist

from coopsgd.errors import ConfigError, RunFailed
from coopsgd.fleet.waits import Waits

BEAT = 0.5  # seconds between two looks of the thread
STALE = 3.0  # seconds after which a process that said that it waits, and says nothing more, waits no longer: it is stopped
ANSWER = 2.0  # seconds that the store gets to answer at the end


class StoreLost(RunFailed):
    """The store that torchrun keeps on another machine does not answer."""


class Member(NamedTuple):
    """A process of the group: where it is, as far as others can tell."""

    host: str
    machine: str  # what processes that see each other in /proc have in common
    pid: int

    @classmethod
    def this(cls) -> Member:
        """The process that asks."""
        machine = ""
        with contextlib.suppress(OSError):  # not Linux
            machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
        return cls(socket.gethostname(), machine, os.getpid())


class Lookout:
    """What a process knows of the others of its group.

    store: of the group; waits: those of this process; timeout: seconds after which torch waits no longer in any case; keeper:
    the process that keeps the store, where torchrun does not.

    One store may outlive workers that are started again (torchrun's own does), with what they have said: a process is known by
    its pid, and who it is now is read again where somebody is to be named.
    """

    def __init__(self, rank: int, processes: int, store: dist.Store, waits: Waits, timeout: float, keeper: int = 0) -> None:
        self.rank, self.processes, self._waits, self._timeout = rank, processes, waits, timeout
        self._keeper = keeper
        self._store = dist.PrefixStore("coopsgd/lookout", store)
        clone = getattr(store, "clone", None)  # torch 2.9 has none: then a thread may have to wait for another
        self._mine = dist.PrefixStore("coopsgd/lookout", clone()) if clone is not None else self._store
        self._members: list[Member] = []
        self._said: dict[int, tuple[bytes, float]] = {}  # rank -> what it said last, and when that was new
        self._answered = time.monotonic()  # when the store did last
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="lookout")
        self.stuck = False  # is a thread left that waits for the store?

    @property
    def others(self) -> list[int]:
        """The other processes."""
        return [q for q in range(self.processes) if q != self.rank]

    def meet(self, trouble: str = "") -> None:
        """Return when all processes have come; from here on they watch each other. RunFailed names those that do not come.

        trouble: why this one cannot take part; then it is a ConfigError in all of them.
        """
        me = Member.this()
        self._store.set(f"at/{self.rank}", "-")
        self._store.set(f"trouble/{self.rank}", trouble)
        self._store.set(f"here/{self.rank}", "\n".join(map(str, me)))
        end = time.monotonic() + self._timeout
        keys, pause = [f"here/{q}" for q in range(self.processes)], 0.001
        while not self._store.check(keys):
            if time.monotonic() > end:
                missing = [str(q) for q in self.others if not self._store.check([keys[q]])]
                raise RunFailed(
                    f"worker process{'es' * (len(missing) > 1)} {', '.join(missing)} of {self.processes} did not come to the "
                    f"start of the run, where others waited {self._timeout:.3g} s (timeout)"
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
        self._refuse(trouble)
        self._read_members()
        self._thread.start()

    def _refuse(self, mine: str) -> None:
        """ConfigError where a process, this or another, is in trouble. One a machine tells it."""
        found = [bytes(said).decode() for said in self._store.multi_get([f"trouble/{q}" for q in range(self.processes)])]
        if not any(found):
            return
        self._store.set(f"knows/{self.rank}", "")
        end = time.monotonic() + ANSWER
        while self.rank == self._keeper and time.monotonic() < end:  # it leaves last
            if self._store.check([f"knows/{q}" for q in range(self.processes)]):
                break
            time.sleep(0.01)
        told = mine or next(said for said in found if said)
        raise ConfigError(told if os.environ.get("LOCAL_RANK", "0") == "0" else "")

    def _read_members(self) -> bool:
        """Who the processes are: of one that has not come yet since workers were started again, who it was."""
        found = [said.decode().split("\n") for said in self._store.multi_get([f"here/{q}" for q in range(self.processes)])]
        self._members = [Member(host, machine, int(pid)) for host, machine, pid in found]
        return True

    def close(self) -> None:
        """Nobody is watched any more."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(ANSWER)
        self.stuck |= self._thread.is_alive()

    def _watch(self) -> None:
        last, told, beat = None, False, 0
        while not self._over.wait(BEAT):
            wait = self._waits.now
            try:
                if wait is not None and wait is last:
                    beat += 1
                    self._mine.set(f"at/{self.rank}", f"{beat} {wait}")
                    told = True
                    self._read(self._mine)
                elif told:
                    self._mine.set(f"at/{self.rank}", "-")
                    told = False
            except RuntimeError:  # whoever kept the store has gone
                return
            last = wait

    def _read(self, store: dist.Store) -> bool:
        found = store.multi_get([f"at/{q}" for q in range(self.processes)])
        self._answered = now = time.monotonic()
        for q, said in enumerate(found):
            if self._said.get(q, (b"", 0.0))[0] != said:
                self._said[q] = said, now
        return True

    def _silent(self) -> bool:
        """Does the store not answer any more?"""
        return time.monotonic() - self._answered > STALE and not self._asked(lambda: self._read(self._store))

    def _missing(self) -> list[int]:
        """Those that do not say that they wait; nobody where whoever keeps the store is the one who is silent."""
        if self._silent():  # a torchrun keeps it, or else a process
            ours = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
            return [self._keeper] if ours and self.rank != self._keeper else []
        now = time.monotonic()
        silent = {q: self._said.get(q, (b"-", now)) for q in self.others}
        return [q for q, (said, since) in silent.items() if said == b"-" or now - since > STALE]

    def failure(self, began: float, error: BaseException) -> RunFailed:
        """What to raise where torch has said `error` at the present wait, which `began` then (time.monotonic()).

        One process a machine tells it: the RunFailed of the others has no text.
        """
        wait, stopped, lost = self._waits.now, list[int](), False
        assert wait is not None
        self._asked(self._read_members)
        limit = min(wait.limit, self._timeout)
        if time.monotonic() - began < 0.9 * limit:
            said = self._of_those_that_ended(str(wait), error)
        else:
            here = f"{limit:.3g} s (timeout)"
            end = time.monotonic() + 2 * STALE
            while not (missing := self._missing()) and time.monotonic() < end and not self._over.wait(BEAT):
                self._asked(lambda: self._read(self._store))
            stopped = [q for q in missing if self._state(q) == "T"]
            how = "" if missing and len(stopped) == len(missing) else "; it hangs, or the network to it is down"
            if missing:
                names = ", ".join(self._name(q) for q in missing)
                said = f"{names} did not come to {wait}, where others waited {here}{how}"
            elif self._silent():
                said = (
                    f"worker process {self.rank} waited {here} at {wait}, and torchrun, at {_address()}, over which others say "
                    f"what they wait for, does not answer{how}"
                )
                lost = True
            else:
                said = f"workers waited {here} for each other at {wait}"
        if not self._first_to_tell():
            return RunFailed("")
        for q in stopped:  # it hears of its end then; torchrun would wait 30 s for it
            with contextlib.suppress(OSError):
                os.kill(self._members[q].pid, signal.SIGCONT)
        return (StoreLost if lost else RunFailed)(f"{said}, so the run was ended")

    def gone(self) -> bool:
        """Has another process of this machine ended?"""
        return any(self._state(q) in ("", "X", "Z") for q in self.others)

    def leave(self, error: BaseException) -> None:
        """This process ends by an error of its own, which it tells itself; the others hear of it."""
        text = f"{type(error).__name__}: {error}".strip().splitlines()[0][:500]

        def told() -> bool:
            self._read_members()
            self._store.set(f"ended/{self.rank}", f"{self._members[self.rank].pid} {text}")
            return bool(self._store.add(self._told(), 1))

        self._asked(told)

    def _of_those_that_ended(self, wait: str, error: BaseException) -> str:
        found: dict[int, str] = {}

        def look() -> bool:
            for q in self.others:
                if self._store.check([f"ended/{q}"]):
                    pid, _, why = self._store.get(f"ended/{q}").decode().partition(" ")
                    if int(pid) == self._members[q].pid:
                        found[q] = f" ({why})"
            return True

        self._asked(look)
        found |= {q: "" for q in self.others if q not in found and self._state(q) in ("", "X", "Z")}
        if found:
            return " and ".join(f"{self._name(q)} has ended{why}" for q, why in found.items()) + f", before {wait}"
        why = str(error).strip().partition("\n")[0]
        return f"worker process {self.rank} lost the connection to another at {wait} (torch: {why})"

    def _first_to_tell(self) -> bool:
        """On this machine; where the store does not answer, each is."""
        return self._asked(lambda: self._store.add(self._told(), 1)) in (None, 1)

    def _asked(self, call: Callable[[], Any]) -> Any:
        """What it returns; None when the store does not answer in time or has gone."""
        if self.stuck:
            return None
        answer: list[Any] = []

        def ask() -> None:
            try:
                answer.append(call())
            except RuntimeError:
                answer.append(None)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(ANSWER)
        self.stuck |= thread.is_alive()
        return answer[0] if answer else None

    def _told(self) -> str:
        """Where processes of this machine count who tells what went wrong, of those that were started together."""
        me = self._members[self.rank]
        return f"told/{me.host} {me.machine} {min(self._members[q].pid for q in range(self.processes) if self._beside(q))}"

    def _beside(self, q: int) -> bool:
        return self._members[self.rank][:2] == self._members[q][:2]

    def _here(self, q: int) -> bool:
        return bool(self._members[q].machine) and self._beside(q)

    def _state(self, q: int) -> str | None:
        """R, S, T, ... of a process on this machine; "" when it is not there; None where nobody can tell."""
        if not self._here(q):
            return None
        try:
            return Path(f"/proc/{self._members[q].pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (OSError, IndexError):
            return ""

    def _name(self, q: int) -> str:
        other = self._members[q]
        where = f"pid {other.pid}" if self._here(q) else f"pid {other.pid} on {other.host}"
        return f"worker process {q} ({where}){' is stopped, and' if self._state(q) == 'T' else ''}"


def _address() -> str:
    """Of the store, for a person."""
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
