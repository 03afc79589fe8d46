"""The end of a sweep: a line a job, and where it is."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from coopsgd.errors import ConfigError, DamagedFile
from coopsgd.host.terminal import can_draw, size
from coopsgd.run.console import EVALS, printer
from coopsgd.run.jobs import FAILED, Job
from coopsgd.run.reader import summary_of
from coopsgd.run.schema import label, metric

TOTALS = ("rounds", "bytes")
COLUMNS = ("job", "status", *map(label, (*EVALS, *TOTALS, "train_s")), "folder")
FIRST_OUT = ("folder", *map(label, ("train_s", *TOTALS)))  # where there is no room


def readable_summary(folder: str | Path) -> dict[str, Any] | None:
    """summary.json of a run; None when there is none that can be read."""
    with contextlib.suppress(OSError, DamagedFile, ConfigError):
        return summary_of(Path(folder))
    return None


def rows(jobs: Sequence[Job]) -> list[tuple[str, ...]]:
    """COLUMNS of each job, in order, without words that all share."""
    found = []
    shared = set.intersection(*(set(job.label.split(" ")) for job in jobs))
    for job in jobs:
        name = " ".join(word for word in job.label.split(" ") if word not in shared) or job.label
        folder = job.same_as or job.folder  # where the numbers are that it has
        summary = readable_summary(folder)
        if summary is None:
            status = ("refused" if job.code == 2 else "failed") if job.status == FAILED else "not trained"
            found.append((name, status, *["-"] * (len(COLUMNS) - 3), "-"))
            continue
        last, ledger = summary.get("eval") or {}, summary.get("ledger") or {}
        found.append(
            (
                name,
                str(summary.get("status")),
                *(metric(key).text(last.get(key)) for key in EVALS),
                *(metric(key).text(ledger.get(key)) for key in TOTALS),
                metric("train_s").text(summary.get("train_s")),
                folder,
            )
        )
    return found


def table(jobs: Sequence[Job]) -> None:
    """Print them, with the folder that all share once: all of it but on a terminal, where only columns that have room are.

    A console that cannot be written is no reason to end.
    """
    found = rows(jobs)
    root = str(Path(jobs[0].folder).parent)
    found = [(*row[:-1], row[-1].removeprefix(root + "/")) for row in found]
    wide = [max(len(row[column]) for row in [*found, COLUMNS]) + 2 for column in range(len(COLUMNS))]
    shown = list(range(len(COLUMNS)))
    room = size(sys.stdout)[0] if can_draw(sys.stdout) else math.inf
    for name in FIRST_OUT:
        if sum(wide[column] for column in shown) > room:
            shown.remove(COLUMNS.index(name))
    grid = Table(*(COLUMNS[column] for column in shown), box=None, padding=(0, 2, 0, 0))
    for row in found:
        grid.add_row(*(row[column] for column in shown))
    try:
        console = printer(sys.stdout, width=sum(wide))  # no cell is cut
        console.print()
        console.print(grid)
        console.print(root, style="bold")
    except (OSError, ValueError):
        return
