"""Hydra's launchers, whatever they are: what a sweep does alike around each of them.

A launcher runs jobs in this process, one after the other (Hydra's own), or in others, several at once (its plugins). What came
of a job is read from its file in the sweep's folder, never from what the launcher brought back.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from omegaconf import read_write

from coopsgd.commands.train.session import Session
from coopsgd.errors import ConfigError, Interrupted
from coopsgd.host import processors, signals
from coopsgd.host.child import descendants
from coopsgd.host.terminal import Drawing
from coopsgd.run import progress
from coopsgd.run.jobs import FAILED, NOWHERE, RUNNING, Job, Jobs

GLANCE = 0.2  # seconds between two looks at what jobs elsewhere have to say


def sweeper(config: Any, context: Any, session: Session) -> Any:
    """The sweeper that the config names, whose launcher is one of ours around the one that it names."""
    plugins: Any = Plugins.instance()
    made = plugins.instantiate_launcher
    # sweepers ask for it while they are set up, and each keeps it in a place of its own
    plugins.instantiate_launcher = lambda *args, **named: Launching(made(*args, **named), session, config)
    try:
        found = plugins.instantiate_sweeper(config=config, hydra_context=context, task_function=session.job)
    finally:
        del plugins.instantiate_launcher
    if type(found).__name__ == "BasicSweeper":  # it would write the words of the sweep over those of another: lists.py
        found.config = copy.deepcopy(config)
        with read_write(found.config.hydra):
            found.config.hydra.sweep.dir = str(session.jobs.folder) if session.jobs is not None else config.hydra.sweep.dir
    if "optuna" in sys.modules:  # else it announces itself on the console
        sys.modules["optuna"].logging.set_verbosity(logging.WARNING)
    return found


class Launching:
    """In the place of a sweeper's launcher."""

    def __init__(self, launcher: Any, session: Session, config: Any) -> None:
        self._launcher, self._session, self._settings = launcher, session, config.hydra.launcher
        self._name = str(config.hydra.runtime.choices.get("hydra/launcher"))
        self._elsewhere = type(launcher).__name__ != "BasicLauncher"  # Hydra loads its plugins as modules of their own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._launcher, name)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs; their objectives."""
        session, numbers = self._session, range(initial_job_idx, initial_job_idx + len(job_overrides))
        words = [list(filter_overrides(one)) for one in job_overrides]
        for number, own in zip(numbers, words, strict=True):
            session.expect(number, own)
        if not self._elsewhere:
            returns = self._launcher.launch(job_overrides, initial_job_idx)
        else:
            session.at_once = at_once(self._settings, len(words))
            with signals.noted() as asked, self._listening(numbers, asked):
                try:
                    returns = self._waited_for(asked, job_overrides, initial_job_idx)
                except Exception as error:
                    if session.full_errors:
                        raise
                    returns = self._broken(numbers, words, error)
            if (first := _ends(asked)) is not None:
                raise Interrupted(first, f"; coopsgd resume {shlex.quote(str(self._jobs.sweep))} goes on with the sweep")
            session.started = session.started or any(self._read(number) for number in numbers)
        for number, back in zip(numbers, returns, strict=True):
            if back.status == JobStatus.COMPLETED:
                job = self._read(number)
                back.return_value = session.worth(None if job is None else job.objective)
        return returns

    def _waited_for(self, asked: signals.Noted, job_overrides: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        """What the launcher brings back; no answer, at once, when the sweep is asked to end a second time."""

        class Left(BaseException):
            """Nobody waits for the launcher any more."""

        def leave() -> None:
            asked.at_second = None
            if _ends(asked) is not None:
                raise Left

        try:
            asked.at_second = leave
            return list(self._launcher.launch(job_overrides, first))
        except Left:
            return []
        finally:
            asked.at_second = None

    def _read(self, number: int) -> Job | None:
        return self._jobs.read(number)

    @property
    def _jobs(self) -> Jobs:
        assert self._session.jobs is not None
        return self._session.jobs

    def _broken(self, numbers: Sequence[int], words: Sequence[Sequence[str]], error: Exception) -> Sequence[JobReturn]:
        """The launcher itself failed: jobs that have no end failed with it. ConfigError when none began."""
        why = f"hydra/launcher={self._name}: {(str(error).splitlines() or [''])[0] or type(error).__name__}"
        if not any(self._read(number) for number in numbers) and not self._jobs.stopped:
            raise ConfigError(why) from error
        while any(job is not None and job.runs for job in map(self._read, numbers)):
            time.sleep(GLANCE)  # some launchers do not wait for the others
        for number, own in zip(numbers, words, strict=True):
            job = self._read(number) or Job(number, " ".join(own) or "defaults", NOWHERE)
            if job.status == RUNNING:
                self._jobs.write(job._replace(status=FAILED, message=f"did not come to its end; {why}", code=1, console=""))
        return [JobReturn(overrides=own, status=JobStatus.COMPLETED) for own in words]

    @contextlib.contextmanager
    def _listening(self, numbers: Sequence[int], asked: signals.Noted) -> Iterator[None]:
        """Inside, what becomes of jobs that have another console is told on this one, and they are told what it is asked."""
        over, watch = threading.Event(), Watch(self._session, numbers)

        def listen() -> None:
            told = 0
            while not over.wait(GLANCE):
                watch.look()
                first = _ends(asked)
                if first is not None and told < 1 + asked.twice:
                    told += 1
                    self._ask_to_end(numbers, first if told == 1 else signal.SIGKILL)
                elif first is not None and asked.at_second is not None and self._deserted(numbers):
                    os.kill(os.getpid(), first)  # some launchers wait long for what jobs that are gone have left

        # the jobs are other processes: nothing that trains is forked here
        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            yield
        finally:
            over.set()
            listener.join()
            if asked.twice:
                self._ask_to_end(numbers, signal.SIGKILL)
            watch.look()
            watch.close()

    def _deserted(self, numbers: Sequence[int]) -> bool:
        """Is none of the jobs here any more, nor on its way?"""
        if sys.platform != "linux" or descendants(os.getpid()):
            return False
        return not any(job is not None and (job.runs or job.elsewhere) for job in map(self._read, numbers))

    def _ask_to_end(self, numbers: Sequence[int], number: int) -> None:
        """Have the jobs that run here save themselves and end, and no other begin; by SIGKILL, end at once."""
        self._jobs.stop()
        if number == signal.SIGKILL:  # also those that are on their way and have not said so
            for pid in descendants(os.getpid()):
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
        for job in map(self._read, numbers):
            # what a terminal sends, it sends to all processes in its foreground
            heard = number == signal.SIGINT and job is not None and job.runs and os.getpgid(job.pid) == os.getpgrp()
            if job is not None and job.runs and not heard:
                with contextlib.suppress(OSError):  # of others submitit makes something else
                    os.kill(job.pid, signal.SIGKILL if number == signal.SIGKILL else signal.SIGINT)


class Watch:
    """Tells on the command's console what becomes of jobs in other processes: each that ended, and how many are left."""

    def __init__(self, session: Session, numbers: Sequence[int]) -> None:
        self._session, self._waiting = session, dict.fromkeys(numbers, "")  # number -> what was told of it
        self._screen = Drawing(None if progress.quiet else sys.stderr)

    def look(self) -> None:
        """Say what is new, and how far the sweep is."""
        session = self._session
        assert session.jobs is not None
        for number, told in list(self._waiting.items()):
            job = session.jobs.read(number)
            if job is None or job.status == told:
                continue
            self._waiting[number] = job.status
            if job.status != RUNNING:
                del self._waiting[number]
                session.over, session.kept = session.over + 1, session.kept + job.kept
                session.failures += job.status == FAILED
                standing = "" if self._screen.live else f" ({', '.join(self._standing())})"
                self._say(f"{session.title(job)}: {job.message or job.status}{standing}")
            elif not self._screen.live:
                self._say(session.title(job))
        if self._waiting:
            running = list(self._waiting.values()).count(RUNNING)
            over, *more = self._standing()
            self._screen.draw(", ".join([over, f"{running} running", *more]))

    def close(self) -> None:
        """Take away what lives on the terminal."""
        self._screen.close()

    def _say(self, text: str) -> None:
        progress.say(progress.stamp(sys.stderr) + text)

    def _standing(self) -> list[str]:
        """How many jobs are over, of how many, how many of them failed, and how long the others take at this pace."""
        session, spent = self._session, time.monotonic() - self._session.began
        of = "" if session.total is None else f" of {session.total}"
        found = [f"{session.over}{of} jobs over"] + ([f"{session.failures} failed"] if session.failures else [])
        if session.total is not None and session.kept and session.over < session.total:
            left = spent / session.kept * (session.total - session.over)  # what was refused took no time
            found.append(f"about {progress.duration(left)} left of the sweep")
        return found


def _ends(asked: signals.Noted) -> int | None:
    """The first signal that asked to end; one of them asks only to save."""
    return next((number for number in asked.numbers if number != getattr(signal, "SIGUSR1", None)), None)


def at_once(settings: Any, jobs: int) -> int:
    """How many of so many jobs a launcher of these settings runs at the same time on one machine."""
    if str(settings.get("_target_")).endswith("LocalLauncher"):  # submitit's starts all of them
        return jobs
    many = settings.get("n_jobs", 1)
    if not isinstance(many, int) or many == 0:
        return 1
    return max(1, min(jobs, many if many > 0 else processors.cores() + 1 + many))
