"""Compose once, refuse what cannot work, freeze config.yaml, hand the folder to the launcher, tell how it ended.

Hydra runs here and only here, in the parent; a worker reads the frozen file. Nothing here imports torch before a run is
known to be sound.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import run_job
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from coopsgd import __version__
from coopsgd.blame import blame
from coopsgd.errors import ConfigError, Diverged, Interrupted, RunFailed
from coopsgd.host import child, files, signals, sizes
from coopsgd.predict import foresight
from coopsgd.run.folders import Made, folder_key, fresh, refuse_nowhere, rehydrated, torchrun, without_hydra, write_config
from coopsgd.run.naming import folder_name
from coopsgd.run.progress import say
from coopsgd.run.reader import Run, log_points
from coopsgd.run.summary import of_what_there_is
from coopsgd.run.sweep import readable_summary
from coopsgd.run.sweep import table as sweep_table
from coopsgd.setup import catalogue, checks, schema, sources, sweeps
from coopsgd.setup.flags import Line, refuse_flags, sort
from coopsgd.setup.identity import identity, placement
from coopsgd.setup.messages import BUGS, MISTAKES, one_line, uncomposed
from coopsgd.setup.parts import Parts
from coopsgd.setup.resolve import Checked, given, placed, resolve
from coopsgd.setup.schema import Config
from coopsgd.setup.words import mended, quoted

CONF = "pkg://coopsgd.conf"
NO_CHOICES = "pkg://coopsgd.run"  # a package without yamls: the config of a run has no groups to choose from
AGAIN = "again"  # the name by which Hydra finds the config of a run's folder


@dataclass
class Failure:
    """One failed job of a sweep (or the only run)."""

    label: str
    folder: str
    told: str
    code: int  # 2 for a user's mistake, 1 for what went wrong while running


class Trained(NamedTuple):
    """A run of a sweep that has come to an end, or was frozen for others to start."""

    label: str
    folder: Path
    objective: float | None


class Session:
    """One `coopsgd train`: a run, or the runs of a sweep."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)  # overrides, as Hydra reads them
        self.command = "coopsgd train " + shlex.join(words)  # as they were typed
        self.sweeping, self.started = False, False
        self.full_errors = os.environ.get("HYDRA_FULL_ERROR") == "1"  # the user asks for tracebacks
        self.failures: list[Failure] = []
        self.unwritable: dict[int, str] = {}  # job number -> why its folder cannot be made
        self.beside: Path | None = None  # where the config is from, when not from this package
        self.trust = False  # of whoever wrote that config
        self.checked: Checked | None = None  # of a single run, which is checked before its folder is made
        self.jobs: list[tuple[str, str]] = []  # of a sweep: label and folder of each job that was begun
        self.total: int | None = None  # jobs of the sweep, where that is known beforehand
        self.steps: int | None = None  # of the run under way
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
        label = " ".join(task_words(hydra_config)) or "defaults"
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
            failure = Failure(label, str(folder), one_line(error), 1 if isinstance(error, RunFailed) else 2)
            if not isinstance(error, (RunFailed, OSError, *MISTAKES)):
                traceback.print_exc()
                failure.code = 1
            self.failures.append(failure)
            if self.sweeping:
                print(failure.told, file=sys.stderr, flush=True)
            return float("nan")

    def _where(self, folder: Path) -> str:
        """How far the run in `folder` came, and where what there is of it lies; nothing when it did not begin."""
        if (summary := readable_summary(folder)) is None:
            return ""
        of = f" of {self.steps}" if self.steps is not None else ""
        job = f"job {len(self.jobs)}" + (f" of {self.total}" if self.total else "") + ", " if self.sweeping else ""
        return f" at {job}step {summary.get('steps')}{of}; what there is lies in {folder}"

    def check(self, cfg: Any) -> None:
        """Refuse a single run that cannot work, before anything is written."""
        hydra_config = cfg.hydra
        try:
            words, choices = task_words(hydra_config), dict(hydra_config.runtime.choices)
            self.checked = check(cfg, words, choices, self.beside, self.trust)
        except OSError as error:  # of a file that words name, not of a folder to write to
            raise ConfigError(one_line(error)) from error

    def subdir(self, number: int, overrides: Any, root: str) -> str:
        """The folder of a sweep's job below `root`, named by the swept keys; if it cannot be made, that job alone fails."""
        given, swept = {word.split("=", 1)[0] for word in self.words}, _swept(self.words)
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
        words, choices = task_words(hydra_config), dict(hydra_config.runtime.choices)
        checked = self.checked or check(cfg, words, choices, self.beside, self.trust)
        for note in checked.notes:
            print(note, file=sys.stderr, flush=True)
        settings = checked.config
        if settings.launch:
            checks.only_copy()
        # one that is asked to run elsewhere, or to keep something else, is wanted for that
        key = identity(checked.parts) + json.dumps(placement(settings), sort_keys=True)
        if (first := self.trained.get(key)) is not None:
            self.made.tidy()
            print(f"the same run as {first.label} ({first.folder}), so it is not run again", flush=True)
            return first.objective
        write_config(settings, folder, self.command, self.sweeping)
        self.frozen, self.steps = self.frozen + 1, settings.steps
        if not settings.launch:
            print(torchrun(settings, folder, "coopsgd.run.worker"))
            self.trained[key] = Trained(label, folder, None)
            return None
        rows = settings.workers // settings.processes
        with _summed_up(folder, checked.parts):
            print(
                f"{settings.algo['name']} tau={settings.tau}: {settings.workers} workers in {settings.processes} "
                f"process{'es' * (settings.processes > 1)} ({rows} each), {settings.threads} "
                f"thread{'s' * (settings.threads > 1)} a process, {settings.device}",
                flush=True,
            )
            try:
                objective = start(folder, checked.parts)
            except Diverged:  # as it would again; other failures may have been the machine's
                self.trained[key] = Trained(label, folder, float("nan"))
                raise
            self.trained[key] = Trained(label, folder, objective)
            return objective


def task_words(hydra_config: Any) -> list[str]:
    """The overrides as they were given: an interpolation in one is not looked up."""
    found: Any = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    return [str(word) for word in found]


def check(
    cfg: Any,
    overrides: Sequence[str],
    choices: dict[str, Any],
    beside: Path | None = None,
    trust: bool = False,
    look: bool = False,
) -> Checked:
    """Refuse what cannot work, resolve what depends on this machine. Arguments as in resolve.resolve."""
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        checked = _read(cfg, overrides, choices, beside, trust=trust or beside is None, look=look)
    notes = (*checked.notes, *(f"warning: {w.message}" for w in raised if issubclass(w.category, UserWarning)))
    gpus = gpu_count() if checked.config.device in ("auto", "cuda") else 0
    return placed(replace(checked, notes=notes), gpus, look)


def _read(cfg: Any, overrides: Sequence[str], *arguments: Any, **more: Any) -> Checked:
    """What they resolve to, and what such a run will not reach; an exception in a user's code is a ConfigError that names the
    file and line.
    """
    try:
        checked = resolve(cfg, overrides, *arguments, **more)
        if checked.refused:  # what lies ahead of a run that would not begin is nobody's question
            return checked
        return replace(checked, notes=(*checked.notes, *foresight.notes(checked.parts, given(overrides))))
    except Exception as error:
        line = None if isinstance(error, ConfigError | RunFailed) else blame(error)
        if line is None:
            raise
        raise ConfigError(line) from error


def gpu_count() -> int:
    """GPUs torch sees, counted in a child: a process that has touched CUDA cannot fork workers that use it."""
    if sys.platform == "linux" and not any(Path("/dev").glob("nvidia[0-9]*")):
        return 0
    import torch

    with contextlib.suppress(child.ChildFailed, ValueError):
        return int(child.answer_of(torch.cuda.device_count))
    return 0


def start(folder: Path, parts: Parts) -> float | None:
    """Fork the workers, wait for them, tell how they ended; the final eval/loss. RunFailed unless they completed."""
    with _summed_up(folder, parts):
        from coopsgd.run.console import table

        _launched(folder, parts.config)
        summary = Run(folder).summary
        table(summary, folder)
        if summary["status"] == "diverged":
            raise Diverged(f"diverged: the loss of step {summary['diverged_at']} is not finite; lower optim.lr or tau")
        return summary["eval"].get("eval/loss")


def train_silently(settings: Config, folder: Path, command: str) -> list[dict[str, Any]]:
    """Train a checked config in `folder` without a word; its metrics. RunFailed when a process failed."""
    write_config(settings, folder, command)
    with _summed_up(folder, Parts(settings)):
        _launched(folder, settings, silent=True)
    return log_points(folder / "metrics.jsonl")


@contextlib.contextmanager
def _summed_up(folder: Path, parts: Parts) -> Iterator[None]:
    """However the run that was frozen in this folder ends, there is a summary."""
    try:
        yield
    except (RunFailed, Interrupted) as error:
        if not error.summed_up:  # blocks lie in one another
            error.summed_up = True
            with signals.noted():
                _brief(folder, parts, error)
        raise


def _launched(folder: Path, settings: Config, silent: bool = False) -> None:
    """Fork the workers and wait for them. RunFailed or Interrupted unless they completed."""
    from coopsgd.run import launch  # imports torch, once for all runs of a sweep

    with signals.noted() as asked:
        launch.run(folder, settings, silent=silent)
    if asked.first is not None:
        raise Interrupted(asked.first, f"; the run was complete and is saved in {folder}")


def _brief(folder: Path, parts: Parts, error: RunFailed | Interrupted) -> None:
    """The summary of a run that did not come to its own."""
    if sys.stdout is not None and sys.stdout.isatty():
        print("\x1b[?25h", end="", flush=True)  # the worker that drew the live line had no time to show the cursor again
    if (folder / "summary.json").exists():
        return
    status = "failed" if isinstance(error, RunFailed) else "interrupted"
    notes = foresight.notes(parts) if error.notes is None else error.notes
    try:
        files.write_json(folder / "summary.json", of_what_there_is(folder, parts, status, notes))
    except OSError as full:
        print(f"{full.filename} cannot be written ({full.strerror})", file=sys.stderr, flush=True)


def train(words: Sequence[str]) -> int:
    """`coopsgd train WORDS`: Hydra's grammar and flags. Returns the exit code."""
    try:
        return _train(words)
    except ConfigError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"coopsgd: {error}", file=sys.stderr)
        return 2


def _train(words: Sequence[str]) -> int:
    line = sort(words)
    if "--version" in line.flags:
        print(f"coopsgd, version {__version__}")
        return 0
    if set(line.flags) <= {"--multirun"} and not any(word.startswith("launch=") for word in line.words):
        checks.only_copy()  # before a sweep says it of every job
    session = prepare(words)
    session.words, notes = [], list[str]()
    if not {"--help", "--hydra-help"} & set(line.flags):  # help is for those whose words are not right yet
        sweeping = "--multirun" in line.flags or any(word.lower() == "hydra.mode=multirun" for word in line.words)
        session.words, notes = mended(line.words, "train", sweeping)
        if sweeping:
            sweeps.refuse(session.words)
    for note in notes:
        print(note, file=sys.stderr, flush=True)
    code = _through_hydra(session, line.flags)
    if session.frozen and len(session.jobs) > 1:
        sweep_table(session.jobs, {failure.folder: failure.told for failure in session.failures})
    if code == 0 and session.failures:
        _tell(session)
        code = 1 if any(failure.code == 1 for failure in session.failures) else 2
    return code


def compose_config(words: Sequence[str], config_dir: str | None = None, verb: str = "show", look: bool = False) -> Checked:
    """The checked config of these overrides, without a run folder, for `verb`. ConfigError when it cannot work.

    look: it will not be run, so what only a run needs is a note.
    """
    prepare(words)
    refuse_flags(words, verb)
    words, notes = mended(words, verb)
    try:
        try:
            with hydra.initialize_config_module("coopsgd.conf", version_base="1.3"):
                more = [f"hydra.searchpath=[{quoted(f'file://{Path(config_dir).resolve()}')}]"] if config_dir else []
                cfg = hydra.compose("config", [*words, *more], return_hydra_config=True)
        except BUGS as error:
            raise ConfigError(uncomposed(words, error)) from None
        m = cfg.get("workers")
        if isinstance(m, int) and m > LARGE and 8 * m * m < sizes.available():  # a larger one is about to be refused
            say(f"{verb}: the matrices of {m} workers take a while")
        checked = check(cfg, task_words(cfg.hydra), dict(cfg.hydra.runtime.choices), look=look)
        named = any(word.lstrip("+").startswith("hydra.run.dir=") for word in words)
        folder = str(cfg.hydra.run.dir) if named else None
        return replace(checked, notes=(*notes, *checked.notes), folder=folder)
    except MISTAKES as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise ConfigError(one_line(error)) from None


def _tell(session: Session) -> None:
    """Name every failure; a single run's is one line."""
    if not session.sweeping:
        print(f"coopsgd: {session.failures[0].told}", file=sys.stderr)
        return
    print(f"\ncoopsgd: {len(session.failures)} of the sweep's jobs failed:", file=sys.stderr)
    for failure in session.failures:
        print(f"  {failure.label} ({failure.folder}): {failure.told.splitlines()[-1]}", file=sys.stderr)


def prepare(words: Sequence[str]) -> Session:
    """Tell Hydra the schema and the words that conf/config.yaml interpolates."""
    refuse_nowhere(words)
    session = Session(words)
    sources.watch()
    node = OmegaConf.structured(Config)
    for name in schema.GROUPS:  # open: a group's keys are checked against the class it chooses
        node[name] = OmegaConf.create({}, flags={"struct": False})
    ConfigStore.instance().store(name="schema", node=node)
    OmegaConf.register_new_resolver("coopsgd.help", catalogue.help_text, replace=True)
    OmegaConf.register_new_resolver("coopsgd.subdir", session.subdir, replace=True)
    OmegaConf.register_new_resolver("coopsgd.fresh", session.fresh, replace=True, use_cache=True)
    return session


def _swept(words: Sequence[str]) -> set[str]:
    """The keys that the command line sweeps over."""
    plain = [word for word in words if "=" in word and not word.startswith("-")]
    try:
        parsed = OverridesParser.create().parse_overrides(plain)
    except HydraException:
        return set()
    return {override.get_key_element() for override in parsed if override.is_sweep_override()}


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


LARGE = 1000  # workers beyond whom spectra take seconds
MANY = 10  # jobs of a sweep whose configs take a while to read
ASIDE = ("--help", "--hydra-help", "--cfg", "--info", "--shell-completion")  # flags that look at a config and run nothing


def _through_hydra(session: Session, flags: dict[str, str]) -> int:
    """Let Hydra compose and run what the words say; its errors become one line and exit code 2."""
    if (own := flags.get("--config-dir")) and not Path(own).is_dir():
        raise ConfigError(f"--config-dir {own}: is no folder; name one with yamls of your own, as in {own}/algo/NAME.yaml")
    for flag in ("--package", "--resolve"):
        if flag in flags and not {"--cfg", "--help"} & set(flags):
            raise ConfigError(f"{flag}: is about what --cfg shows; add --cfg job")
    flags = _from_a_folder(session, flags)
    complaint = io.StringIO()
    try:
        # Hydra then raises what it would print; argparse prints a page, of which the last line says it all
        with _environment(HYDRA_FULL_ERROR="1"), contextlib.redirect_stderr(_Kept(complaint)):
            if set(ASIDE) & set(flags):
                _look(session, flags)
            else:
                _compose_and_run(session, flags)
                if session.sweeping and not session.started:
                    raise ConfigError("the sweep has no job: a key of its yaml sweeps over nothing; give it values")
        return 0
    except SystemExit as error:
        if error.code == 2 and complaint.getvalue():
            print(f"coopsgd: {complaint.getvalue().strip().splitlines()[-1]}", file=sys.stderr)
        return error.code if isinstance(error.code, int) else 1 if error.code else 0
    except (OSError, *MISTAKES) as error:
        if session.full_errors:
            raise
        told = one_line(error)
        if isinstance(error, OSError) and error.filename:
            told = f"{error.filename} cannot be written ({error.strerror}); choose another {folder_key(session.sweeping)}"
        none = "" if session.started or not session.sweeping else "; no job of the sweep was started"
        print(f"coopsgd: {told}{none}", file=sys.stderr)
        return 2
    finally:
        session.tidy()


def _look(session: Session, flags: dict[str, str]) -> None:
    """Hydra's own main, for flags that run nothing."""
    argv, sys.argv = sys.argv, ["coopsgd train", *Line(flags, session.words).argv]
    try:
        hydra.main(version_base="1.3", config_path=CONF, config_name="config")(session.job)()
    finally:
        sys.argv = argv


def _from_a_folder(session: Session, flags: dict[str, str]) -> dict[str, str]:
    """The flags as Hydra may have them when they name a config outside this package. ConfigError when it may not be used.

    Of a run's folder Hydra sees what `folders.rehydrated` makes of it; of one that is not trusted, what `unhydrated` leaves.
    """
    session.trust = "--trust" in flags
    flags = {flag: value for flag, value in flags.items() if flag != "--trust"}
    at = flags.get("--config-path", CONF)
    if not at.startswith("pkg://"):
        path, name = at.removeprefix("file://"), flags.get("--config-name", "config")
        session.beside = Path(path).resolve()
        if not session.beside.is_dir():
            raise ConfigError(f"--config-path {path}: is no folder; name one that holds config.yaml")
        file = session.beside / f"{name.removesuffix('.yaml')}.yaml"
        node = rehydrated(file) if session.trust else without_hydra(file)
        if node is None:
            return flags | {"--config-path": str(session.beside)}  # Hydra would look for it inside this package
        ConfigStore.instance().store(name=AGAIN, node=node)
        return flags | {"--config-path": NO_CHOICES, "--config-name": AGAIN}
    if session.trust:
        raise ConfigError("--trust: is for --config-path FOLDER, whose config somebody else may have written; leave it out")
    return flags


def _compose_and_run(session: Session, flags: dict[str, str]) -> None:
    """What Hydra's main does with words to run; but a single run is checked before a folder is made for it."""
    words, name = list(session.words), flags.get("--config-name", "config")
    if "--config-dir" in flags:
        words.append(f"hydra.searchpath=[{quoted('file://' + str(Path(flags['--config-dir']).resolve()))}]")
    at = flags.get("--config-path", CONF)
    module = at.startswith("pkg://")
    found: Any = hydra.initialize_config_module if module else hydra.initialize_config_dir
    with found(at.removeprefix("pkg://"), version_base="1.3"):
        engine: Any = GlobalHydra.instance().hydra
        mode = RunMode.MULTIRUN if "--multirun" in flags else engine.get_mode(name, words) or RunMode.RUN
        session.sweeping = mode == RunMode.MULTIRUN
        words.append(f"hydra.mode={mode.name}")
        try:
            cfg = engine.compose_config(name, words, run_mode=mode, with_log_configuration=True)
        except BUGS as error:
            raise ConfigError(uncomposed(session.words, error)) from None
        callbacks = Callbacks(cfg)
        context = HydraContext(config_loader=engine.config_loader, callbacks=callbacks)
        HydraConfig.instance().set_config(cfg)
        if session.sweeping:
            session.sweep_into(Path(str(OmegaConf.select(cfg, "hydra.sweep.dir"))))
            callbacks.on_multirun_start(config=cfg, config_name=name)
            sweeper = Plugins.instance().instantiate_sweeper(config=cfg, hydra_context=context, task_function=session.job)
            session.total = _jobs(sweeper, task_words(cfg.hydra))
            if session.total is not None and session.total >= MANY:
                say(f"a sweep of {session.total} jobs: their configs are read first")
            sweeper.sweep(arguments=task_words(cfg.hydra))
            callbacks.on_multirun_end(config=cfg, config_name=name)
            return
        session.check(cfg)
        session.made.will(Path(str(OmegaConf.select(cfg, "hydra.run.dir"))))
        callbacks.on_run_start(config=cfg, config_name=name)
        done = run_job(session.job, cfg, "hydra.run.dir", None, context)
        callbacks.on_run_end(config=cfg, config_name=name, job_return=done)
        _ = done.return_value  # raises what the job raised


def _jobs(sweeper: Any, words: Sequence[str]) -> int | None:
    """How many jobs Hydra's own sweeper will make of the words; None where another decides as it goes, or they are wrong."""
    if type(sweeper).__name__ != "BasicSweeper":  # Hydra loads its plugins as modules of their own: not the class we can import
        return None
    params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    sweeps.refuse([*params, *words])  # before they are written out, one by one
    try:
        parsed = OverridesParser.create().parse_overrides([*params, *words])
        return sum(len(batch) for batch in sweeper.split_arguments(parsed, None))
    except (HydraException, ValueError):
        return None


class _Kept(io.TextIOBase):
    """stderr, but argparse's usage page goes to a buffer."""

    def __init__(self, buffer: io.StringIO) -> None:
        self._buffer, self._stderr = buffer, sys.stderr

    def write(self, text: str) -> int:
        if text.startswith("usage:") or self._buffer.getvalue():
            return self._buffer.write(text)
        return self._stderr.write(text)

    def flush(self) -> None:
        self._stderr.flush()

    def fileno(self) -> int:
        return self._stderr.fileno()
