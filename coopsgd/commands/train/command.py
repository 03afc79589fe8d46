"""`coopsgd train WORDS`: one run, or the runs of a sweep, through what Hydra's main does; its errors become one line."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from coopsgd import __version__
from coopsgd.commands.train import launching
from coopsgd.commands.train.session import Session
from coopsgd.errors import ConfigError, full_errors
from coopsgd.host.environment import environment
from coopsgd.registry import TRUST
from coopsgd.run import lists, progress, source
from coopsgd.run.folders import folder_key, refuse_nowhere, rehydrated, without_hydra
from coopsgd.run.jobs import FAILED, Job
from coopsgd.run.schema import metric
from coopsgd.run.sweep import table as sweep_table
from coopsgd.setup import build, checks, loading, objective, sweeps
from coopsgd.setup.again import Again, taken_out
from coopsgd.setup.compose import register_schema, search_in, task_words
from coopsgd.setup.flags import Line, sort
from coopsgd.setup.messages import BUGS, MISTAKES, one_line, uncomposed
from coopsgd.setup.schema import Config
from coopsgd.setup.stop import BUDGETS
from coopsgd.setup.words import mended, quoted
from coopsgd.tasks.base import Task

CONF = "pkg://coopsgd.conf"
NO_CHOICES = "pkg://coopsgd.run"  # a package without yamls: the config of a run has no groups to choose from
AGAIN = "again"  # the name by which Hydra finds the config of a run's folder


MANY = 10  # jobs of a sweep whose configs take a while to read
ASIDE = ("--help", "--hydra-help", "--cfg", "--info", "--shell-completion")  # flags that look at a config and run nothing


def train(words: Sequence[str], tell: Callable[[str], None] | None = None) -> int:
    """`coopsgd train WORDS`: Hydra's grammar and flags. Returns the exit code.

    tell: given the run's folder when it is over, by a program that calls for one run: a sweep is refused then.
    """
    try:
        return _train(words, tell)
    except ConfigError as error:
        if full_errors():
            raise
        print(f"coopsgd: {error}", file=sys.stderr)
        return 2


def _train(words: Sequence[str], tell: Callable[[str], None] | None) -> int:
    line = sort(words)
    quietly = line.flags.pop("--quiet", None) is not None
    if "--version" in line.flags:
        print(f"coopsgd, version {__version__}")
        return 0
    if set(line.flags) <= {"--multirun"} and not any(word.startswith("launch=") for word in line.words):
        checks.only_copy()  # before a sweep says it of every job
    refuse_nowhere(words)
    if quietly:
        progress.silence()
    session = Session(words, tell)
    session.words, notes = [], list[str]()
    words = line.words
    if not {"--help", "--hydra-help"} & set(line.flags):  # help is for those whose words are not right yet
        sweeping = "--multirun" in line.flags or any(word.lower() == "hydra.mode=multirun" for word in line.words)
        words, session.again = taken_out(words, sweeping)
        session.words, notes = mended(words, "train", sweeping)
        if sweeping:
            sweeps.refuse(session.words)
    for note in notes:
        progress.say(note)
    return _ended(session, _through_hydra(session, line.flags))


def resume_sweep(folder: Path, trust: bool, changed_source: bool = False) -> int:
    """Go through the jobs of the sweeps in `folder` again: those that came to an end are left alone, others go on or start."""
    found = {file: lists.words_of(file) for file in lists.there(folder)}
    for file, (task, own) in found.items():
        unsafe = [word for word in own if not lists.is_safe(word)]
        if not trust and (odd := unsafe + [word for word in task if ":" in word or "${" in word]):
            raise ConfigError(f"{file}: {odd[0]!r} can have code imported or other files read; {TRUST}")
    codes = []
    for file, (task, own) in found.items():
        if len(found) > 1:
            print(f"\n{file}: {shlex.join(task)}", flush=True)
        codes.append(_resumed([*task, *own, f"hydra.sweep.dir={quoted(str(folder))}"], trust, changed_source))
    return 1 if 1 in codes else max(codes)


def _resumed(words: list[str], trust: bool, changed_source: bool) -> int:
    session = Session(words)
    session.again = Again(resume=True)
    session.trust, session.command = trust, "coopsgd train -m " + shlex.join(words)
    session.changed_source = changed_source
    return _ended(session, _through_hydra(session, {"--multirun": ""}))


def _ended(session: Session, code: int) -> int:
    """The table of a sweep and what failed; the exit code."""
    jobs = session.ended
    if progress.quiet:
        if session.folder is not None:
            print(session.folder.absolute(), flush=True)
    elif len(jobs) > 1 and any(job.kept or job.same_as for job in jobs):
        sweep_table(jobs)
        _print_best(session)
    failed = [job for job in [*jobs, session.failed] if job is not None and job.status == FAILED]
    if code == 0 and failed:
        _print_failures(failed, session.sweeping)
        code = 1 if any(job.code == 1 for job in failed) else 2
    return code


def _print_best(session: Session) -> None:
    """Of a sweep that looks for the best in one number, which it was."""
    if session.maximised is None or len(session.maximised) > 1:
        return
    found = [(job.objective, job) for job in session.ended if isinstance(job.objective, float | int)]
    if found:
        value, job = (max if session.maximised[0] else min)(found, key=lambda pair: pair[0])
        text = metric(BUDGETS.get(session.objective, session.objective)).text(value)
        print(f"best {session.objective}: {text}, job {job.number + 1}, {job.same_as or job.folder}", flush=True)


def _print_failures(failed: Sequence[Job], sweeping: bool) -> None:
    """Name every failure; a single run's is one line."""
    if not sweeping:
        print(f"coopsgd: {failed[0].message}", file=sys.stderr)
        return
    print(f"\ncoopsgd: {len(failed)} of the sweep's jobs failed:", file=sys.stderr)
    for job in failed:
        print(f"  {job.label} ({job.folder}): {job.message.splitlines()[-1]}", file=sys.stderr)


def _through_hydra(session: Session, flags: dict[str, str]) -> int:
    """Let Hydra compose and run what the words say; its errors become one line and exit code 2."""
    if (own := flags.get("--config-dir")) and not Path(own).is_dir():
        raise ConfigError(f"--config-dir {own}: is no folder; name one with yamls of your own, as in {own}/algo/NAME.yaml")
    for flag in ("--package", "--resolve"):
        if flag in flags and not {"--cfg", "--help"} & set(flags):
            raise ConfigError(f"{flag}: is about what --cfg shows; add --cfg job")
    flags = _from_a_folder(session, flags)
    register_schema()
    OmegaConf.register_new_resolver("coopsgd.subdir", session.subdir, replace=True)
    OmegaConf.register_new_resolver("coopsgd.algo", session.algo, replace=True)
    OmegaConf.register_new_resolver("coopsgd.fresh", session.fresh, replace=True, use_cache=True)
    usage = io.StringIO()
    try:
        # Hydra then raises what it would print; argparse prints a page, of which the last line says it all
        with environment(HYDRA_FULL_ERROR="1"), contextlib.redirect_stderr(_WithoutUsage(usage)):
            if set(ASIDE) & set(flags):
                _look(session, flags)
            else:
                _compose_and_run(session, flags)
                if session.sweeping and not session.started:
                    raise ConfigError("the sweep has no job: a key of its yaml sweeps over nothing; give it values")
        return 0
    except SystemExit as error:
        if error.code == 2 and usage.getvalue():
            print(f"coopsgd: {usage.getvalue().strip().splitlines()[-1]}", file=sys.stderr)
        return error.code if isinstance(error.code, int) else 1 if error.code else 0
    except (OSError, *MISTAKES) as error:
        if session.full_errors:
            raise
        line = one_line(error)
        if isinstance(error, OSError) and error.filename:
            line = f"{error.filename} cannot be written ({error.strerror}); choose another {folder_key(session.sweeping)}"
        none = "" if session.started or not session.sweeping else "; no job of the sweep was started"
        print(f"coopsgd: {line}{none}", file=sys.stderr)
        return 2
    finally:
        session.tidy()


def _look(session: Session, flags: dict[str, str]) -> None:
    """Hydra's own main, for flags that run nothing."""
    argv, sys.argv = sys.argv, ["coopsgd train", *Line(flags, session.words).argv]
    try:
        with loading.quickened():
            hydra.main(version_base="1.3", config_path=CONF, config_name="config")(session.job)()
    finally:
        sys.argv = argv


def _from_a_folder(session: Session, flags: dict[str, str]) -> dict[str, str]:
    """The flags as Hydra may have them when they name a config outside this package. ConfigError when it may not be used.

    Of a run's folder Hydra sees what `folders.rehydrated` makes of it; of one that is not trusted, what `without_hydra` leaves.
    """
    named = "--trust" in flags
    session.trust = session.trust or named
    session.changed_source = session.changed_source or source.CHANGED in flags
    if source.CHANGED in flags and not session.again.resume:
        raise ConfigError(f"{source.CHANGED}: is about a run that goes on, by resume=auto; leave it out")
    flags = {flag: value for flag, value in flags.items() if flag not in ("--trust", source.CHANGED)}
    at = flags.get("--config-path", CONF)
    if at.startswith("pkg://"):
        if named:
            raise ConfigError("--trust: is for --config-path FOLDER, whose config somebody else may have written; leave it out")
        return flags
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


def _compose_and_run(session: Session, flags: dict[str, str]) -> None:
    """What Hydra's main does with words to run; but a single run is checked before a folder is made for it."""
    words, name = list(session.words), flags.get("--config-name", "config")
    if "--config-dir" in flags:
        words.append(search_in(flags["--config-dir"]))
    at = flags.get("--config-path", CONF)
    module = at.startswith("pkg://")
    found: Any = hydra.initialize_config_module if module else hydra.initialize_config_dir
    with found(at.removeprefix("pkg://"), version_base="1.3"):
        loading.quicken()
        engine: Any = GlobalHydra.instance().hydra
        session.sweeping, cfg = False, None if "--multirun" in flags else _as_one_run(engine, name, words)
        if cfg is None:
            mode = RunMode.MULTIRUN if "--multirun" in flags else engine.get_mode(name, words) or RunMode.RUN
            if mode == RunMode.MULTIRUN and session.tell is not None:
                raise ConfigError("words: are those of a sweep; call train in a loop, or `coopsgd train -m` on a command line")
            session.sweeping = mode == RunMode.MULTIRUN
            try:
                words.append(f"hydra.mode={mode.name}")
                cfg = engine.compose_config(name, words, run_mode=mode, with_log_configuration=True)
            except BUGS as error:
                raise ConfigError(uncomposed(session.words, error)) from None
        callbacks = Callbacks(cfg)
        context = HydraContext(config_loader=engine.config_loader, callbacks=callbacks)
        HydraConfig.instance().set_config(cfg)
        if session.sweeping:
            session.sweep_into(Path(str(OmegaConf.select(cfg, "hydra.sweep.dir"))))
            callbacks.on_multirun_start(config=cfg, config_name=name)
            _check_objective(session, cfg)
            session.begin(cfg)
            sweeper = launching.sweeper(cfg, context, session)
            session.total = _jobs(sweeper, task_words(cfg.hydra))
            if session.total is not None and session.total >= MANY:
                progress.say(f"a sweep of {session.total} jobs: their configs are read first")
            sweeper.sweep(arguments=task_words(cfg.hydra))
            callbacks.on_multirun_end(config=cfg, config_name=name)
            return
        session.check(cfg)
        session.made.will(Path(str(OmegaConf.select(cfg, "hydra.run.dir"))))
        callbacks.on_run_start(config=cfg, config_name=name)
        done = run_job(session.job, cfg, "hydra.run.dir", None, context)
        callbacks.on_run_end(config=cfg, config_name=name, job_return=done)
        _ = done.return_value  # raises what the job raised


def _check_objective(session: Session, cfg: Any) -> None:
    """ConfigError when no job of the sweep can have the objective that it is to be told by."""
    session.maximised = objective.directions(OmegaConf.to_container(cfg.hydra.sweeper))
    swept = sweeps.swept(session.words)
    if "objective" in swept:
        raise ConfigError(
            "objective: is one for the whole sweep, which is told by it; give one, or a list, as in [eval/loss,bytes]"
        )
    wanted = OmegaConf.select(cfg, "objective")
    wanted = OmegaConf.to_container(wanted) if OmegaConf.is_config(wanted) else wanted
    session.objective = str(wanted)
    varies = {*swept, *(OmegaConf.select(cfg, "hydra.sweeper.params") or {})}
    target = "stop.target" in varies or OmegaConf.select(cfg, "stop.target") is not None
    objective.refuse(wanted, target)
    task, cluster = OmegaConf.select(cfg, "task.name"), OmegaConf.select(cfg, "cluster")
    if not {"task", "cluster"} & varies and isinstance(task, str) and ":" not in task:
        kind = build.class_of("task", "task", task)
        base = Config(objective=wanted, task={"name": task}, cluster=cluster)
        objective.refuse_for(base, target, kind.SCORES, kind.known is not Task.known)
    for note in objective.against(wanted, session.maximised):
        progress.say(note)


def _as_one_run(engine: Any, name: str, words: Sequence[str]) -> Any:
    """The config of a single run; None where a yaml says that it is a sweep, or nothing can be composed.

    Composing takes a tenth of a second. Hydra's main does it once more, to ask for the mode first.
    """
    try:
        cfg = engine.compose_config(name, list(words), run_mode=RunMode.RUN, with_log_configuration=True)
    except Exception:  # among others: words of a sweep
        return None
    if cfg.hydra.mode == RunMode.MULTIRUN:
        return None
    cfg.hydra.mode = RunMode.RUN
    return cfg


def _jobs(sweeper: Any, words: Sequence[str]) -> int | None:
    """How many jobs Hydra's own sweeper will make of the words; None where another decides as it goes, or they are wrong."""
    if type(sweeper).__name__ != "BasicSweeper":  # Hydra loads its plugins as modules of their own: not the class we can import
        return None
    params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    sweeps.refuse([*params, *words])  # before they are written out, one by one
    try:
        return sum(len(batch) for batch in sweeper.split_arguments(sweeps.parsed([*params, *words]), None))
    except (HydraException, ValueError):
        return None


class _WithoutUsage(io.TextIOBase):
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

    def isatty(self) -> bool:
        return self._stderr.isatty()
