"""`coopsgd time RUN... cluster=NAME`: the seconds of finished runs on any cluster, without training.

What a run computes does not depend on the clock, so its communications can be rehearsed on another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from yaml import YAMLError

from coopsgd.commands.runs import expanded
from coopsgd.errors import ConfigError
from coopsgd.predict import cost
from coopsgd.run import simulated, source
from coopsgd.run.console import printer
from coopsgd.run.folders import in_use_by_us
from coopsgd.run.progress import Progress
from coopsgd.run.reader import Run
from coopsgd.setup import build
from coopsgd.setup.compose import composed, register_schema
from coopsgd.setup.messages import MISTAKES, one_line
from coopsgd.setup.parts import Parts
from coopsgd.setup.resolve import read
from coopsgd.setup.schema import Config
from coopsgd.setup.words import mended

EXAMPLE = "coopsgd time outputs/DATE/TIME cluster=wan_100m"
ASKED = ("rounds", "messages", "bytes")  # totals of a line that placement has no part in


class On(NamedTuple):
    """The cluster whose clock it is."""

    name: str  # of its files
    node: dict[str, Any]  # as in a config
    notes: list[str]
    choices: dict[str, str]  # of groups, by name


def facts(words: Sequence[str], config_dir: str | None = None, trust: bool = False) -> dict[str, Any]:
    """cluster: its name; runs: {folder, algo, tau, workers, seed, steps, sim_s, own_sim_s, file}, of which own_sim_s is on the
    run's own cluster, null without one; notes. ConfigError at the first of the runs that were named which cannot be timed;
    those before it are written. Of a sweep it is left out, with a note.
    """
    folders, overrides = _sorted(words)
    on = _cluster(overrides, config_dir)
    runs, notes = expanded(folders, "time", EXAMPLE)
    by_name = {str(Path(folder)) for folder in folders}
    found, reasons = [], []
    progress = Progress("timing runs", len(runs))
    for number, folder in enumerate(runs):
        progress.at(number, folder)
        try:
            with in_use_by_us(Path(folder)):
                run = Run(folder, trust)
                lines = run.metrics()
                with source.noted(notes):
                    timed = _timed(run, lines, on, notes)
                found.append(_written(run, lines, timed, on))
        except (ConfigError, OSError, ValueError, YAMLError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise
            why = f"{folder}: {' '.join((str(error) or type(error).__name__).split())}"
            if folder in by_name:
                raise ConfigError(why) from error
            reasons.append(why)
    progress.close()
    if not found:
        raise ConfigError(reasons[0])
    return {
        "cluster": on.name,
        "runs": found,
        "notes": [*on.notes, *dict.fromkeys(notes), *(f"left out: {why}" for why in reasons)],
    }


def _sorted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Folders of runs, and the words about the cluster. ConfigError for any other word."""
    folders, overrides = list[str](), list[str]()
    for word in words:
        key = word.partition("=")[0].lstrip("+")
        if key == "cluster" or (key.startswith("cluster.") and "=" in word):
            overrides.append(word)
        elif "=" in word and not Path(word).exists():
            raise ConfigError(f"{word[:80]}: is neither a run folder nor about the cluster; what was trained stays as it is")
        else:
            folders.append(word)
    return folders, overrides


def _cluster(words: Sequence[str], config_dir: str | None) -> On:
    """The cluster that these words name. ConfigError when they name none."""
    register_schema()
    words, notes = mended(words, "time")
    try:
        cfg = composed(words, config_dir)
        choices = dict(cfg.hydra.runtime.choices)
        node = read(cfg, choices).cluster
    except MISTAKES as error:
        raise ConfigError(one_line(error)) from None
    if not node or node.get("name") is None:
        raise ConfigError(f"time: names no cluster; add one, as in {EXAMPLE}")
    pairs = [word.lstrip("+").partition("=") for word in words]
    own = {key.removeprefix("cluster."): value.strip("'\"") for key, _, value in pairs if key != "cluster"}
    return On(simulated.name_of(str(choices["cluster"]), own), node, notes, choices)


def _timed(run: Run, lines: Sequence[Mapping[str, Any]], on: On, notes: list[str]) -> list[dict[str, Any]]:
    """The log points of a run, with sim_s on this cluster. ValueError when only training could tell."""
    if not lines:
        raise ValueError("metrics.jsonl has no log points")
    parts = run.parts
    if parts.stop.sim_seconds is not None:
        raise ValueError("stop.sim_seconds: ended it by its own clock, so on another cluster it would take other steps")
    # the words are the user's own, whoever wrote the config of the run
    settings = Config(**{f.name: getattr(parts.config, f.name) for f in fields(Config)} | {"cluster": on.node})
    try:
        cluster = build.make_part(settings, "cluster", parts.of_run)
    except build.UnknownKey as error:
        raise error.of(on.choices) from None
    notes += cluster.check(settings)
    of = type(parts.config)(**vars(settings))
    return list(_rehearsed(parts.but(of, cluster=cluster), lines))


def _rehearsed(parts: Parts, lines: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    from coopsgd.predict.rehearsal import on_stage

    loop = on_stage(parts)
    for line in lines:
        while loop.state.k < line["step"]:
            loop.advance()
        totals = loop.fleet.ledger.totals()
        for name in ASKED:
            if totals[name] != line[name]:
                raise ValueError(
                    f"its communications depend on its training: {name} at step {line['step']} is {line[name]}, by its config "
                    f"alone {totals[name]}; only a run tells how long it takes"
                )
        yield {**line, "sim_s": loop.state.clock.now}


def _written(run: Run, lines: Sequence[Mapping[str, Any]], timed: Sequence[Mapping[str, Any]], on: On) -> dict[str, Any]:
    config = run.config
    return {
        "folder": str(run.folder),
        "algo": config.algo["name"],
        "tau": None if cost.times_itself(run.parts) else config.tau,
        "workers": config.workers,
        "seed": config.seed,
        "steps": timed[-1]["step"],
        "sim_s": timed[-1]["sim_s"],
        "own_sim_s": lines[-1].get("sim_s"),
        "file": str(simulated.write(run.folder, on.name, on.node, timed)),
    }


def show(found: dict[str, Any]) -> None:
    """Print it for a person."""
    console = printer()
    table = Table("run", "steps", f"seconds on {found['cluster']}", "a step", "on its own", box=None, padding=(0, 2, 0, 0))
    for run in found["runs"]:
        own = "-" if run["own_sim_s"] is None else f"{run['own_sim_s']:.6g}"
        each = f"{run['sim_s'] / run['steps']:.4g}" if run["steps"] else "-"
        what = f"{run['folder']}  {run['algo']} tau {run['tau']}"
        table.add_row(what, str(run["steps"]), f"{run['sim_s']:.6g}", each, own)
    console.width = max(console.width, console.measure(table, options=console.options.update(max_width=10_000)).maximum)
    console.print(table)
    for note in found["notes"]:
        console.print(note)
    console.print(f"each run has it in {Path(simulated.FOLDER) / found['cluster']}.jsonl", style="bold")
