"""The end of a sweep: a line a job, and where it is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from coopsgd.errors import ConfigError, DamagedFile
from coopsgd.run.console import EVALS
from coopsgd.run.reader import summary_of
from coopsgd.run.schema import metric

COLUMNS = ("job", "status", "loss", "accuracy", "rounds", "sent", "time", "folder")


def readable_summary(folder: str | Path) -> dict[str, Any] | None:
    """summary.json of a run; None when there is none that can be read."""
    with contextlib.suppress(OSError, DamagedFile, ConfigError):
        return summary_of(Path(folder))
    return None


def objective_of(folder: Path) -> float | None:
    """What a sweep that optimises is told of a run that was over before: its final eval/loss."""
    found = ((readable_summary(folder) or {}).get("eval") or {}).get("eval/loss")
    return None if found is None else float(found)


def rows(jobs: Sequence[tuple[str, str]], refused: Mapping[str, str]) -> list[tuple[str, ...]]:
    """COLUMNS of each job, its words and folder, in order, without words that all share; `refused`: why, of folders."""
    found = []
    shared = set.intersection(*(set(label.split(" ")) for label, _ in jobs))
    for words, folder in jobs:
        label = " ".join(word for word in words.split(" ") if word not in shared) or words
        summary = readable_summary(folder)
        if summary is None:
            status = "refused" if folder in refused else "not trained"
            found.append((label, status, *["-"] * (len(COLUMNS) - 3), "-"))
            continue
        last, ledger = summary.get("eval") or {}, summary.get("ledger") or {}
        found.append(
            (
                label,
                str(summary.get("status")),
                *(metric(name).text(last.get(name)) for _, name in EVALS),
                *(metric(name).text(ledger.get(name)) for name in ("rounds", "bytes")),
                metric("train_s").text(summary.get("train_s")),
                folder,
            )
        )
    return found


def table(jobs: Sequence[tuple[str, str]], refused: Mapping[str, str]) -> None:
    """Print them, with the folder that all share once. A console that cannot be written is no reason to end."""
    found = rows(jobs, refused)
    root = str(Path(jobs[0][1]).parent)
    grid = Table(*COLUMNS, box=None, padding=(0, 2, 0, 0))
    for row in found:
        grid.add_row(*row[:-1], row[-1].removeprefix(root + "/"))
    try:
        width = sum(max(len(row[column]) for row in [*found, COLUMNS]) + 2 for column in range(len(COLUMNS)))
        console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=width)  # no cell is cut
        console.print()
        console.print(grid)
        console.print(root, style="bold")
    except (OSError, ValueError):
        return
