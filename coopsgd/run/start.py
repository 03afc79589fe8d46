"""Start the run whose config a folder holds, in processes of this machine, and see that it leaves a summary."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coopsgd import usercode
from coopsgd.errors import ConfigError, Diverged, Interrupted, RunFailed
from coopsgd.host import files, signals
from coopsgd.host.terminal import CLEAR, can_draw, wrapped
from coopsgd.registry import guarded
from coopsgd.run import progress, provenance, source
from coopsgd.run.folders import diverged, steps_saved, write_config
from coopsgd.run.reader import Run, log_points
from coopsgd.run.summary import known_beforehand, of_what_there_is
from coopsgd.run.sweep import readable_summary
from coopsgd.setup import schema
from coopsgd.setup.parts import Parts
from coopsgd.setup.resolve import Checked
from coopsgd.setup.schema import Config


def start(folder: Path, parts: Parts) -> float | None:
    """Fork the workers, wait for them, print how they ended; the final eval/loss. RunFailed unless they completed."""
    from coopsgd.run.console import table

    if not progress.quiet:
        print(wrapped(header(parts), sys.stdout), flush=True)
    _launched(folder, parts)
    summary = Run(folder).summary
    if not progress.quiet:
        table(summary, folder)
    if summary["status"] == "diverged":
        raise Diverged(diverged(folder, summary["diverged_at"], summary["diverged_workers"]))
    return summary["eval"].get("eval/loss")


def header(parts: Parts) -> str:
    """What runs, and where, for a person."""
    settings, schedule = parts.config, parts.strategy.schedule
    tau = "" if schedule is not None and schedule.times_itself else f" tau={settings.tau}"
    return f"{settings.algo['name']}{tau}: {placement_line(settings)}"


def placement_line(config: Config) -> str:
    """Where the workers of a run are, for a person."""
    processes, threads = config.processes, config.threads
    return (
        f"{config.workers} workers in {processes} process{'es' * (processes > 1)} ({config.workers // processes} each), "
        f"{threads} thread{'s' * (threads > 1)} a process, {config.device}"
    )


def train_silently(settings: Config, folder: Path, command: str) -> list[dict[str, Any]]:
    """Train a checked config in `folder`, printing nothing; its metrics. RunFailed when a process failed."""
    write_config(settings, folder, command)
    parts = Parts(settings)
    with summed_up(folder, parts):
        _launched(folder, parts, silent=True)
    return log_points(folder / "metrics.jsonl")


@contextlib.contextmanager
def summed_up(folder: Path, parts: Parts) -> Iterator[None]:
    """However the run whose config is in this folder ends within the block, there is a summary."""
    try:
        yield
    except (RunFailed, Interrupted) as error:
        with signals.noted():
            _summarise(folder, parts, error)
        raise


def reached(folder: Path, steps: int | None, job: str = "") -> str:
    """How far an interrupted run came, of so many steps, and how it can go on; nothing when it did not begin."""
    if (summary := readable_summary(folder)) is None:
        return ""
    of = "" if steps is None else f" of {steps}"
    found = steps_saved(folder)
    rest = f"what there is lies in {folder}"
    if found:
        trust = "" if _is_ours(folder) else "--trust "
        rest = f"coopsgd resume {trust}{shlex.quote(str(folder))} goes on from step {found[0]}"
    return f" at {job}step {max([summary.get('steps') or 0, *found[:1]])}{of}; {rest}"


def _is_ours(folder: Path) -> bool:
    """Would `coopsgd resume` go on there without being told to trust the folder?"""
    try:
        as_it_was(folder, trust=False)
    except ConfigError:
        return False
    return True


def as_it_was(folder: Path, trust: bool) -> Checked:
    """The frozen config, which was checked when it was frozen. ConfigError where it names code that nobody vouches for."""
    with source.found_again(folder, trust), contextlib.nullcontext() if trust else guarded(folder=folder):
        parts = Parts(schema.load(folder / "config.yaml", trust))
        parts.task.check(parts.config)
        _ = parts.strategy, parts.period, parts.optim, parts.schedule
        if gone := usercode.missing(vars(parts.config)):  # functions are imported when they are asked for
            raise ConfigError(f"{gone[0]}: there is no such module here; go to the folder that it is in")
    return Checked(parts, ())


def _launched(folder: Path, parts: Parts, silent: bool = False) -> None:
    """Fork the workers and wait for them. RunFailed or Interrupted unless they completed."""
    provenance.prepare(parts)
    from coopsgd.run import launch  # imports torch, once for all runs of a sweep

    with signals.noted() as asked:
        launch.run(folder, parts.config, silent=silent)
    if asked.first is not None:
        raise Interrupted(asked.first, f"; the run was complete and is saved in {folder}")


def _summarise(folder: Path, parts: Parts, error: RunFailed | Interrupted) -> None:
    """Write the summary of a run that ended before it wrote one."""
    if can_draw(sys.stdout):
        print(CLEAR, end="", flush=True)  # the worker that drew had no time to take its lines away
    if (folder / "summary.json").exists():
        return
    status = "failed" if isinstance(error, RunFailed) else "interrupted"
    notes = known_beforehand(parts) if error.notes is None else error.notes
    try:
        files.write_json(folder / "summary.json", of_what_there_is(folder, parts, status, notes))
        from coopsgd.run import events  # TensorBoard's writer takes 0.3 s, unless it is there already

        events.end(folder, status)
    except OSError as full:
        name = full.filename if "summary.json" not in str(full.filename) else folder / "summary.json"  # not a half of it
        if f"{name} cannot be written" not in str(error):  # which is told anyway
            print(f"{name} cannot be written ({full.strerror})", file=sys.stderr, flush=True)
