"""What one `coopsgd train` remembers: the runs of its words, the folders it made, what failed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from coopsgd.commands import compose
from coopsgd.commands.resume import go_on_as
from coopsgd.commands.train.done import Done
from coopsgd.errors import ConfigError, Diverged, Interrupted, RunFailed, full_errors
from coopsgd.host import signals
from coopsgd.host.environment import working_in
from coopsgd.run import engine, lists, memory_format, naming, progress, source
from coopsgd.run.folders import Made, fresh, in_use_by_us, torchrun, write_config
from coopsgd.run.jobs import DONE, FAILED, INTERRUPTED, STOP, Job, Jobs, Objective
from coopsgd.run.naming import folder_name
from coopsgd.run.objective import objective
from coopsgd.run.start import reached, start, summed_up
from coopsgd.setup import checks, sweeps
from coopsgd.setup.again import Again
from coopsgd.setup.compose import task_words
from coopsgd.setup.identity import identity, placement
from coopsgd.setup.identity import memory_format as formatted
from coopsgd.setup.messages import MISTAKES, one_line
from coopsgd.setup.resolve import Checked, given


class Session:
    """One `coopsgd train`: a run, or the runs of a sweep."""

    def __init__(self, words: Sequence[str], tell: Callable[[str], None] | None = None) -> None:
        self.tell = tell  # of a program that called for one run: given its folder
        self.words, self.again = list(words), Again()  # overrides, as Hydra reads them; what becomes of runs that are there
        self.command = "coopsgd train " + shlex.join(words)  # as they were typed
        self.sweeping, self.started = False, False
        self.objective = ""  # of a sweep, as it was given
        self.maximised: list[bool] | None = None  # of each objective: does the sweeper look for the largest?
        self.full_errors = full_errors()  # the user asks for tracebacks
        self.failed: Job | None = None  # the only run, when it did
        self.jobs: Jobs | None = None  # those of a sweep, on disk: each may run in a process of its own, on a copy of this
        self.at_once = 1  # how many of them run at the same time
        self.unwritable: dict[int, str] = {}  # job number -> why its folder cannot be made
        self.beside: Path | None = None  # where the config is from, when not from this package
        self.trust = False  # of whoever wrote that config
        self.changed_source = False  # may a run that is there go on with other code of the user's?
        self.checked: Checked | None = None  # of a single run, which is checked before its folder is made
        self.total: int | None = None  # jobs of the sweep, where that is known beforehand
        self.failures, self.trained = 0, (0, 0.0)  # jobs that failed; those that trained, and the seconds they took
        self.over = self.kept = 0  # of jobs elsewhere: those that came to an end, and those that left a run
        self.began = time.monotonic()
        self.folder: Path | None = None  # where there is something, of the run or the sweep
        self.quiet = progress.quiet
        self.steps: int | None = None  # of the run under way
        self.done = Done(Path())  # of a sweep
        self.made = Made()
        self._list: Path | None = None  # of a sweep's words, if this command has made it
        self.ended: list[Job] = []  # what came of the jobs of a sweep, when it is over
        self._kept = False  # does the folder of the job at hand hold a run of ours?
        self._pid, self.console = os.getpid(), console()
        self._names: dict[str, int] = {}  # of folders of jobs, in the command's own process
        self._twice: set[int] = set()  # jobs whose folder must not have the name that their words make

    def __getstate__(self) -> dict[str, Any]:
        """For a job in another process: without what grows with the sweep."""
        return self.__dict__ | {"_names": {}}

    def job(self, cfg: Any) -> Objective:
        """Hydra's task function: one run. Returns its objective."""
        hydra_config, self.started = HydraConfig.get(), True
        self.sweeping = hydra_config.mode == RunMode.MULTIRUN
        folder = Path(hydra_config.runtime.output_dir)
        label = " ".join(task_words(hydra_config)) or "defaults"
        self._kept = False
        job = Job(hydra_config.job.num if self.sweeping else 0, label, str(folder))
        job = job._replace(console=console(), host=socket.gethostname(), pid=os.getpid())
        if not self._here:
            signals.raising()
            progress.quiet = self.quiet or self._heard(job)
            if self.jobs is not None and self.jobs.stopped:
                self.made.tidy()
                return None
        if self.sweeping:
            progress.sweep = progress.Sweep(job.number + 1, self.total, self.failures, self.trained) if self._here else None
            if not progress.quiet:
                known = progress.sweep.words() if progress.sweep is not None else ""
                print(f"\n{progress.stamp(sys.stdout)}{self.title(job)}{known}", flush=True)
            self._note(job)
        self.made.below(folder)
        try:
            if job.number in self.unwritable:
                raise ConfigError(self.unwritable[job.number])
            with working_in(hydra_config.runtime.cwd):  # hydra.job.chdir=true has left it: names of files are of this one
                return self._run(cfg, job, hydra_config)
        except Interrupted as stopped:
            stopped.note = stopped.note or self._where(job)
            if self._here:
                raise
            self._note(job._replace(status=INTERRUPTED, message=f"interrupted{stopped.note}", kept=self._kept))
            if not self._heard(job):
                progress.warn(f"{self.title(job)}: interrupted{stopped.note}")
            return None  # what it raised would have launchers kill the others, which are saving themselves
        except Exception as error:
            self.made.tidy()
            mistake = isinstance(error, (OSError, *MISTAKES))
            self._note(job._replace(status=FAILED, message=one_line(error), code=2 if mistake else 1, kept=self._kept))
            if self.full_errors:
                raise
            if not mistake and not isinstance(error, RunFailed):
                traceback.print_exc()
            self.failures += 1
            if self.sweeping and not self._heard(job):
                progress.say(one_line(error) if self._here else f"{self.title(job)}: {one_line(error)}")
            return None

    @property
    def _here(self) -> bool:
        """Is this the command's own process, and not that of a job?"""
        return os.getpid() == self._pid

    def _heard(self, job: Job) -> bool:
        """Does the command tell of this job, which runs elsewhere but on its console?"""
        return not self._here and job.console == self.console

    def worth(self, found: Objective) -> Objective:
        """An objective as a sweeper is told it: the worst there is for a run that has none."""
        worst = [float("-inf" if largest else "inf") for largest in self.maximised or [False]]
        return found if found is not None else worst if len(worst) > 1 else worst[0]

    def title(self, job: Job) -> str:
        """Which job it is, for a line of its own."""
        return f"job {job.number + 1}{f' of {self.total}' if self.total is not None else ''}: {job.label}"

    def _note(self, job: Job) -> None:
        """Remember how far a job has come."""
        self._kept = job.kept
        if self.jobs is not None:
            self.jobs.write(job)
        elif job.status == FAILED:
            self.failed = job

    def _where(self, job: Job) -> str:
        """How far a run came, and what can be done with it; nothing when it did not begin."""
        of = f" of {self.total}" if self.total else ""
        return reached(Path(job.folder), self.steps, f"job {job.number + 1}{of}, " if self.sweeping else "")

    def check(self, cfg: Any) -> None:
        """Refuse a single run that cannot work, before anything is written."""
        try:
            self.checked = self._check(cfg, cfg.hydra)
        except OSError as error:  # of a file that words name, not of a folder to write to
            raise ConfigError(one_line(error)) from error

    def _check(self, cfg: Any, hydra_config: Any) -> Checked:
        words, choices = task_words(hydra_config), dict(hydra_config.runtime.choices)
        return compose.check(cfg, words, choices, self.beside, self.trust, at_once=self.at_once)

    def expect(self, number: int, words: Sequence[str]) -> None:
        """A job of these words is about to be launched: two must not have one folder."""
        if self._names.setdefault(self._named(number, words), number) != number:
            self._twice.add(number)

    def _named(self, number: int, words: Sequence[str]) -> str:
        return folder_name(self._own(words), number)

    def _own(self, words: Sequence[str]) -> list[str]:
        """Of the words of a job those that not all jobs of the sweep have."""
        given, swept = {word.split("=", 1)[0] for word in self.words}, sweeps.swept_keys(self.words)
        # a key that the command line does not name is swept over by an experiment's yaml
        keys = ((word, word.split("=", 1)[0]) for word in words)
        return [word for word, key in keys if key in swept or key not in given]

    def subdir(self, number: int, overrides: Any, root: str, *, _root_: Any) -> str:
        """The folder of a sweep's job below `root`, named by its algorithm and the swept keys; if it cannot be made, that job
        alone fails. A job that has a folder of an earlier version's name, without the algorithm, keeps it.
        """
        own, before = self._own(overrides), self._named(number, overrides)
        name = naming.of_job(own, number, algo_of(_root_))
        if number in self._twice:
            name, before = (folder_name([one, str(number)], number) for one in (name, before))
        if (Path(root) / before / "config.yaml").is_file():
            name = before
        self.made.will(Path(root) / name)
        try:
            (Path(root) / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.unwritable[number] = f"{Path(root) / name} cannot be made a folder ({error.strerror})"
            self.made.will(Path(root) / f".failed-{number}")
            return f".failed-{number}"
        return name

    def algo(self, *, _root_: Any) -> str:
        """-NAME of the algorithm, for the name of a folder; nothing for a sweep over algorithms: its jobs are named by them."""
        params = OmegaConf.select(_root_, "hydra.sweeper.params") or {}
        if {"algo", "experiment"} & {*sweeps.swept_keys(self.words), *map(str, params)}:
            return ""
        name = algo_of(_root_)
        return f"-{name}" if name else ""

    def fresh(self, folder: str) -> str:
        """folders.fresh, remembered."""
        self.made.will(Path(folder))
        found = fresh(folder)
        if found != folder and Path(found).is_dir():
            self.made.will(Path(found), there=True)
        return found

    def sweep_into(self, folder: Path) -> None:
        """The folder of a sweep."""
        self.done = Done(folder)
        self.folder = folder
        self.made.will(folder)
        self.jobs = Jobs(folder)

    def begin(self, cfg: Any) -> None:
        """Make room for the jobs of the sweep, and leave its words beside them. OSError."""
        assert self.jobs is not None
        self.jobs.begin()
        file, made = lists.claimed(self.jobs.sweep, cfg)
        self._list = file if made else None

    def tidy(self) -> None:
        """Take away what this command made and nothing was put into; a sweep's list of words when no job left anything."""
        progress.sweep = None
        goes_on = False
        if self.jobs is not None:
            self.ended, goes_on = self.jobs.all(), (self.jobs.folder / STOP).exists()
            self.jobs.remove()
        if self._list is not None and not goes_on and not any(job.kept for job in self.ended):
            with contextlib.suppress(OSError):
                self._list.unlink()
        self.made.tidy()

    def _run(self, cfg: Any, job: Job, hydra_config: Any) -> Objective:
        checked = self.checked or self._check(cfg, hydra_config)
        for note in checked.notes:
            progress.say(note)
        settings = checked.config
        if settings.launch:
            checks.only_copy()
        named = given(task_words(hydra_config))
        if self.jobs is None:
            found = self._train(checked, job, named, task_words(hydra_config))
            self.folder = Path(job.folder) if settings.launch else None
            if self.tell is not None and settings.launch:
                self.tell(job.folder)
            return found
        # one that is asked to run elsewhere, or to keep something else, is wanted for that
        wanted = placement(settings) | {"memory_format": formatted(settings)}
        key = identity(checked.parts) + json.dumps(wanted, sort_keys=True)
        with self.jobs.alone(key) as once:
            if (first := once.first) is not None:
                self.made.tidy()
                progress.tell(f"the same run as job {first.number + 1}, {first.label} ({first.folder}), so it is not run again")
                self._note(job._replace(status=DONE, objective=first.objective, same_as=first.folder))
                return first.objective
            if self.again.skip_done and (done := self.done.like(checked, task_words(hydra_config))) is not None:
                self.made.tidy()
                other = f" (not as it was: {', '.join(some)})" if (some := source.changed(done)) else ""
                progress.tell(f"done already in {done}{other}, so it is not run again")
                found = objective(done, checked.parts)
                self._note(job._replace(status=DONE, objective=found, same_as=str(done.absolute())))
                return found
            try:
                with self._timed():
                    found = self._train(checked, job, named, self._own(task_words(hydra_config)))
                self._note(job._replace(status=DONE, objective=found, kept=True))
                once.trained(job.number)
            except Diverged:  # as it would again; other failures may have been the machine's
                once.trained(job.number)
                raise
            return found

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Inside, a job trains."""
        began = time.monotonic()
        try:
            yield
        finally:
            many, seconds = self.trained
            self.trained = many + 1, seconds + time.monotonic() - began

    def _train(self, checked: Checked, job: Job, named: Sequence[str], own: Sequence[str]) -> Objective:
        """Train in the job's folder, or go on there; `named` are the keys that words name, `own` words that others have not."""
        folder, settings = Path(job.folder), checked.config
        if self.again.resume and (folder / "config.yaml").is_file():
            self.steps = settings.steps
            self._note(job._replace(kept=True))
            go_on_as(folder, checked, named, self.changed_source)
            return objective(folder, checked.parts)
        with in_use_by_us(folder, make=True):
            return self._begin(checked, job, own)

    def _begin(self, checked: Checked, job: Job, own: Sequence[str]) -> Objective:
        """Freeze the run in the job's folder and train it."""
        folder, parts = Path(job.folder), checked.parts
        if not (folder / "config.yaml").exists():  # else it is refused
            for measured in (memory_format, engine):
                parts, note = measured.settled(parts)
                if note is not None:
                    progress.say(note)
        settings = parts.config
        write_config(settings, folder, self.command, self.sweeping, "add resume=auto to go on with it, ", own)
        self.steps = settings.steps
        self._note(job._replace(kept=True))
        if not settings.launch:
            print(torchrun(settings, folder, "coopsgd.worker", elastic=True))
            return None
        with summed_up(folder, parts):
            start(folder, parts)
            return objective(folder, parts)


def console() -> str:
    """Which file or terminal this process's stderr is."""
    try:
        found = os.fstat(2)
        return f"{found.st_dev}:{found.st_ino}"
    except OSError:
        return ""


def algo_of(root: Any) -> str:
    """The name of a config's algorithm, as a folder can have it; empty where there is none."""
    name = OmegaConf.select(root, "algo.name") or OmegaConf.select(root, "hydra.runtime.choices.algo")
    return re.sub(r"[^A-Za-z0-9_]", "_", str(name)) if name else ""
