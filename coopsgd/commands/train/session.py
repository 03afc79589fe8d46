"""What one `coopsgd train` remembers: the runs of its words, the folders it made, what failed."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from coopsgd.commands import compose
from coopsgd.commands.resume import go_on_as
from coopsgd.commands.train.done import Done
from coopsgd.errors import ConfigError, Diverged, Interrupted, RunFailed, full_errors
from coopsgd.run import pictures
from coopsgd.run.folders import Made, fresh, in_use_by_us, torchrun, write_config
from coopsgd.run.naming import folder_name
from coopsgd.run.start import reached, start, summed_up
from coopsgd.run.sweep import objective_of
from coopsgd.setup import checks, sweeps
from coopsgd.setup.again import Again
from coopsgd.setup.identity import identity, placement
from coopsgd.setup.messages import MISTAKES, one_line
from coopsgd.setup.resolve import Checked, given


class Failure(NamedTuple):
    """One failed job of a sweep (or the only run)."""

    label: str
    folder: str
    message: str
    code: int  # 2 for a user's mistake, 1 for what went wrong while running


class Trained(NamedTuple):
    """A run of a sweep that has come to an end, or was frozen for others to start."""

    label: str
    folder: Path
    objective: float | None


class Session:
    """One `coopsgd train`: a run, or the runs of a sweep."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words, self.again = list(words), Again()  # overrides, as Hydra reads them; what becomes of runs that are there
        self.command = "coopsgd train " + shlex.join(words)  # as they were typed
        self.sweeping, self.started = False, False
        self.full_errors = full_errors()  # the user asks for tracebacks
        self.failures: list[Failure] = []
        self.unwritable: dict[int, str] = {}  # job number -> why its folder cannot be made
        self.beside: Path | None = None  # where the config is from, when not from this package
        self.trust = False  # of whoever wrote that config
        self.checked: Checked | None = None  # of a single run, which is checked before its folder is made
        self.jobs: list[tuple[str, str]] = []  # of a sweep: label and folder of each job that was begun
        self.total: int | None = None  # jobs of the sweep, where that is known beforehand
        self.steps: int | None = None  # of the run under way
        self.done = Done(Path())  # of a sweep
        self.frozen = 0  # runs that have a config.yaml: from then on something is worth keeping
        self.trained: dict[str, Trained] = {}  # by what they are
        self.made = Made()
        self._list: Path | None = None  # of a sweep's words, which Hydra writes, and what it held before
        self._list_before: bytes | None = None
        self._names: dict[str, int] = {}

    def job(self, cfg: Any) -> float | None:
        """Hydra's task function: one run. Returns the final eval/loss, for sweepers that optimise it."""
        hydra_config, self.started = HydraConfig.get(), True
        self.sweeping = hydra_config.mode == RunMode.MULTIRUN
        folder = Path(hydra_config.runtime.output_dir)
        label = " ".join(compose.task_words(hydra_config)) or "defaults"
        number = hydra_config.job.num if self.sweeping else 0
        if self.sweeping:
            of = f" of {self.total}" if self.total is not None else ""
            print(f"\njob {len(self.jobs) + 1}{of}: {label}", flush=True)
            self.jobs.append((label, str(folder)))
        self.made.below(folder)
        try:
            if number in self.unwritable:
                raise ConfigError(self.unwritable[number])
            return self._run(cfg, folder, hydra_config, f"job {len(self.jobs)}, {label}")
        except Interrupted as stopped:
            stopped.note = stopped.note or self._where(folder)
            raise
        except Exception as error:
            self.made.tidy()
            if self.full_errors:
                raise
            mistake = isinstance(error, (OSError, *MISTAKES))
            if not mistake and not isinstance(error, RunFailed):
                traceback.print_exc()
            self.failures.append(Failure(label, str(folder), one_line(error), 2 if mistake else 1))
            if self.sweeping:
                print(self.failures[-1].message, file=sys.stderr, flush=True)
            return float("nan")

    def _where(self, folder: Path) -> str:
        """How far the run in `folder` came, and what can be done with it; nothing when it did not begin."""
        job = f"job {len(self.jobs)}" + (f" of {self.total}" if self.total else "") + ", " if self.sweeping else ""
        return reached(folder, self.steps, job)

    def check(self, cfg: Any) -> None:
        """Refuse a single run that cannot work, before anything is written."""
        try:
            self.checked = self._check(cfg, cfg.hydra)
        except OSError as error:  # of a file that words name, not of a folder to write to
            raise ConfigError(one_line(error)) from error

    def _check(self, cfg: Any, hydra_config: Any) -> Checked:
        words, choices = compose.task_words(hydra_config), dict(hydra_config.runtime.choices)
        return compose.check(cfg, words, choices, self.beside, self.trust)

    def subdir(self, number: int, overrides: Any, root: str) -> str:
        """The folder of a sweep's job below `root`, named by the swept keys; if it cannot be made, that job alone fails."""
        given, swept = {word.split("=", 1)[0] for word in self.words}, sweeps.swept(self.words)
        # a key that the command line does not name is swept over by an experiment's yaml
        keys = ((word, word.split("=", 1)[0]) for word in overrides)
        name = folder_name([word for word, key in keys if key in swept or key not in given], number)
        if self._names.setdefault(name, number) != number:
            name = folder_name([name, str(number)], number)
        self.made.will(Path(root) / name)
        try:
            (Path(root) / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.unwritable[number] = f"{Path(root) / name} cannot be made a folder ({error.strerror})"
            self.made.will(Path(root) / f".failed-{number}")
            return f".failed-{number}"
        return name

    def fresh(self, folder: str) -> str:
        """folders.fresh, remembered."""
        self.made.will(Path(folder))
        found = fresh(folder)
        if found != folder and Path(found).is_dir():
            self.made.will(Path(found), there=True)
        return found

    def sweep_into(self, folder: Path) -> None:
        """Remember what the folder of a sweep is like before Hydra writes the sweep's words into it."""
        self.done = Done(folder)
        self.made.will(folder)
        with contextlib.suppress(OSError):
            self._list = folder / "multirun.yaml"
            self._list_before = self._list.read_bytes()

    def tidy(self) -> None:
        """Take away what this command made and nothing was put into; a sweep's list of words when no job left anything."""
        if not self.frozen and self._list is not None:
            with contextlib.suppress(OSError):
                if self._list_before is None:
                    self._list.unlink()
                else:
                    self._list.write_bytes(self._list_before)
        self.made.tidy()

    def _run(self, cfg: Any, folder: Path, hydra_config: Any, label: str) -> float | None:
        checked = self.checked or self._check(cfg, hydra_config)
        for note in checked.notes:
            print(note, file=sys.stderr, flush=True)
        settings = checked.config
        if settings.launch:
            checks.only_copy()
        # one that is asked to run elsewhere, or to keep something else, is wanted for that
        named = given(compose.task_words(hydra_config))
        key = identity(checked.parts) + json.dumps(placement(settings), sort_keys=True)
        if (first := self.trained.get(key)) is not None:
            self.made.tidy()
            print(f"the same run as {first.label} ({first.folder}), so it is not run again", flush=True)
            return first.objective
        if self.again.skip_done and (done := self.done.like(checked, named)) is not None:
            self.made.tidy()
            self.trained[key] = Trained(label, done, objective_of(done))
            print(f"done already in {done}, so it is not run again", flush=True)
            return self.trained[key].objective
        if self.again.resume and (folder / "config.yaml").is_file():
            self.frozen, self.steps = self.frozen + 1, settings.steps
            go_on_as(folder, checked, named)
            self.trained[key] = Trained(label, folder, objective_of(folder))
            return self.trained[key].objective
        with in_use_by_us(folder, make=True):
            return self._begin(checked, folder, key, label)

    def _begin(self, checked: Checked, folder: Path, key: str, label: str) -> float | None:
        """Freeze the run in `folder` and train it."""
        settings = checked.config
        write_config(settings, folder, self.command, self.sweeping, "add resume=auto to go on with it, ")
        self.frozen, self.steps = self.frozen + 1, settings.steps
        if not settings.launch:
            print(torchrun(settings, folder, "coopsgd.run.worker"))
            self.trained[key] = Trained(label, folder, None)
            return None
        if len(self.jobs) > 1 and "data" in checked.parts.task.USES:
            pictures.get_ready()
        with summed_up(folder, checked.parts):
            try:
                objective = start(folder, checked.parts)
            except Diverged:  # as it would again; other failures may have been the machine's
                self.trained[key] = Trained(label, folder, float("nan"))
                raise
            self.trained[key] = Trained(label, folder, objective)
            return objective
