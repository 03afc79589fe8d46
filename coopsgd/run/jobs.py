"""What has become of the jobs of a sweep: a small file a job in the sweep's folder, whatever launcher runs it, in whatever
process. The command reads there what failed, and what to tell whoever optimises.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from coopsgd.host import files

RUNNING, DONE, FAILED, INTERRUPTED = "running", "done", "failed", "interrupted"
STOP = "stop"  # a file that is there when the sweep was asked to end
NOWHERE = "-"  # the folder of a job that never began
Objective = float | list[float] | None  # None: there is none, the run failed, diverged or did not reach what it should


class Job(NamedTuple):
    """One job, as far as it has come."""

    number: int  # from 0, as Hydra counts
    label: str  # its words
    folder: str
    status: str = RUNNING
    objective: Objective = None
    message: str = ""  # why it failed
    code: int = 0  # 2 for a user's mistake, 1 for what went wrong while running
    kept: bool = False  # is there a run in the folder?
    same_as: str = ""  # the folder of the run that it would have repeated
    console: str = ""  # where it printed: the console of the command, or another
    host: str = ""
    pid: int = 0  # of the process that runs it

    @property
    def elsewhere(self) -> bool:
        """Does it say that it runs, on another machine?"""
        return self.status == RUNNING and self.host not in ("", socket.gethostname())

    @property
    def runs(self) -> bool:
        """Is it under way, as far as can be seen from here?"""
        if self.status != RUNNING or self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except OSError:
            return False
        return True


class Jobs:
    """The jobs of one command, in `sweep`; made by the command, and used by its jobs, which may be in other processes."""

    def __init__(self, sweep: Path) -> None:
        self.sweep = sweep.absolute()
        self.folder = self.sweep / f".jobs.{os.getpid()}.part"  # of this command, while it lives
        self._unwritten: dict[int, Job] = {}  # what the disk did not take

    def begin(self) -> None:
        """Make room for them; what dead commands left goes. OSError."""
        try:
            files.clear_halves(self.sweep, ".jobs")
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            error.filename = str(self.sweep)  # ours is none of the user's business
            raise

    def write(self, job: Job) -> None:
        """How far a job has come."""
        self._unwritten.pop(job.number, None)
        try:
            files.write_json(self.folder / f"{job.number}.json", job._asdict())
        except OSError:
            self._unwritten[job.number] = job

    def read(self, number: int) -> Job | None:
        """How far it has come; None when it has not begun."""
        if number in self._unwritten:
            return self._unwritten[number]
        with contextlib.suppress(OSError, ValueError, TypeError):
            return Job(**json.loads((self.folder / f"{number}.json").read_text()))
        return None

    def all(self) -> list[Job]:
        """Those that have begun, in order."""
        numbers = {int(path.stem) for path in self.folder.glob("*.json") if path.stem.isdecimal()} | set(self._unwritten)
        return [job for number in sorted(numbers) if (job := self.read(number)) is not None]

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[Once]:
        """Inside, no other job of the sweep trains what `key` says; it waits for one that does."""
        path = self.folder / hashlib.sha256(key.encode()).hexdigest()[:32]
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:  # a full disk
            yield Once(None)
            return
        try:
            _lock(file, "LOCK_EX")
            found = os.read(file, 20)
            yield Once(file, self.read(int(found)) if found.isdigit() else None)
        finally:
            _lock(file, "LOCK_UN")  # the processes of a run, which have it too, may live a moment longer
            os.close(file)

    def stop(self) -> None:
        """No job begins from here on."""
        with contextlib.suppress(OSError):
            (self.folder / STOP).touch()

    @property
    def stopped(self) -> bool:
        """Was the sweep asked to end? Or is it over: a job may have been on its way when the command ended."""
        return (self.folder / STOP).exists() or not self.folder.is_dir()

    def remove(self) -> None:
        """The sweep is over, and told of."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Once:
    """Whether what a job is about to train has been trained already."""

    def __init__(self, file: int | None, first: Job | None = None) -> None:
        self._file, self.first = file, first  # first: the job that did

    def trained(self, number: int) -> None:
        """It has now, by this job; others need not."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._file, f"{number}".encode(), 0)


def _lock(file: int, how: str) -> None:
    """Where the system and its file system know locks."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, getattr(fcntl, how))
