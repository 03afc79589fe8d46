"""`coopsgd runs [FOLDER]`: which runs there are, how far they are, what they came to."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from coopsgd.compare import entries as reading
from coopsgd.compare.entries import Entry
from coopsgd.errors import ConfigError
from coopsgd.host.terminal import can_draw
from coopsgd.run.progress import stamp
from coopsgd.run.schema import METRICS, label

LATEST = ("train/loss", "eval/loss", "eval/accuracy", "eval/r2", "bytes")
EVERY = 2.0  # seconds between two looks
PLACES = ("outputs", "multirun")


def places(folders: Sequence[str]) -> list[str]:
    """The folders that were named, else those that runs are in by default. ConfigError where there are none."""
    if folders:
        return list(folders)
    there = [name for name in PLACES if Path(name).is_dir()]
    if not there:
        raise ConfigError("runs: there is no outputs/ or multirun/ here; name a folder that holds runs")
    return there


def facts(folders: Sequence[str]) -> list[dict[str, Any]]:
    """name, folder, algo, seed, status, steps, planned, age (seconds since its last line), and the latest of LATEST."""
    entries = reading.found(places(folders))
    reading.read(entries, LATEST)
    return [_fact(entry) for entry in entries]


def _fact(entry: Entry) -> dict[str, Any]:
    last = {name: None if math.isnan(value := entry.last(name)) else value for name in LATEST}
    age = None
    for name in ("metrics.jsonl", "config.yaml"):
        with suppress(OSError):
            age = age or max(0.0, time.time() - (entry.folder / name).stat().st_mtime)
    found = {"name": entry.name, "folder": str(entry.folder), "algo": entry.algo, "seed": entry.seed, "status": entry.status}
    found |= {"steps": entry.steps, "planned": entry.planned, "age": age, **last}
    return found | {"why": entry.why} if entry.why else found


def runs(folders: Sequence[str], as_json: bool, watch: bool) -> None:
    """Print them once, or until Ctrl-C."""
    if as_json and watch:
        raise ConfigError("--watch: is for a person at a terminal; leave out --json, or call it again")
    if as_json:
        print(json.dumps(facts(folders), indent=2, default=str))
        return
    console = Console(highlight=False, markup=False, emoji=False)
    if not watch:
        _whole(console, grid(facts(folders)))
        return
    if not can_draw(sys.stdout):  # in a pipe, a file: the whole of it, whenever something has changed
        seen: Any = None
        while True:
            found = facts(folders)
            if (now := [one | {"age": None} for one in found]) != seen:
                console.print(f"{stamp(sys.stdout)}{len(found)} runs")
                _whole(console, grid(found))
                sys.stdout.flush()
                seen = now
            time.sleep(EVERY)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(grid(facts(folders)), refresh=True)
            time.sleep(EVERY)


def _whole(console: Console, table: Table) -> None:
    """Print it so that no cell is cut."""
    console.width = max(console.width, console.measure(table).maximum)
    console.print(table)


def grid(found: Sequence[dict[str, Any]]) -> Table:
    """As a person reads it."""
    shown = [name for name in LATEST if any(one[name] is not None for one in found)]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("run", "status", "steps", "age", *map(label, shown)):
        table.add_column(head, no_wrap=True)
    for one in found:
        steps = f"{one['steps']}" + (f"/{one['planned']}" if one["planned"] else "")
        values = [METRICS[name].text(one[name]) for name in shown]
        table.add_row(one["name"], one["status"], steps, ago(one["age"]), *values)
    return table


def ago(seconds: float | None) -> str:
    """As in 3 min."""
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
