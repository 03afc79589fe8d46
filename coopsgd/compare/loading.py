"""`coopsgd.load(folder)`: runs in a notebook, and one tidy table of their log lines."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from coopsgd.compare import entries as reading
from coopsgd.compare.comparison import Comparison
from coopsgd.compare.entries import BROKEN
from coopsgd.compare.groups import differ, grouped
from coopsgd.run.reader import Run, log_points


class Loaded(NamedTuple):
    """runs: each a `coopsgd.Run`. table: a row a log line, its numbers beside the run's name and the keys in which runs
    differ; a pandas.DataFrame where pandas is installed, else a list of dicts.
    """

    runs: list[Run]
    table: Any

    def compare(
        self,
        by: str = "steps",
        metric: str | Sequence[str] = "eval/loss",
        target: float | None = None,
        tail: float | None = None,
        at: Sequence[str] = (),
        group: Sequence[str] = (),
        best_of: str | None = None,
        cluster: str | None = None,
    ) -> dict[str, Any]:
        """What `coopsgd compare --format json` says of these runs: groups of seeds with means and 95 % intervals, notes.

            coopsgd.load(folder).compare(metric="eval/accuracy", target=0.9, at=["bytes=50MB"], tail=0.1)["groups"]

        Arguments are as on the command line; `metric` may be a list, `at` and `group` are lists, `best_of` a key. ConfigError
        where one means nothing.
        """
        trust, folders = bool(self.runs) and all(run.trust for run in self.runs), [str(run.folder) for run in self.runs]
        found = Comparison.of(folders, by, metric, target, tail, at, (), group, best_of, cluster, trust, along=False)
        return found.facts()


def load(*folders: str | os.PathLike[str], trust: bool = False) -> Loaded:
    """All runs in these folders and below them, and one tidy table of them.

        runs, table = coopsgd.load("multirun/2030-01-31/12-00-00")
        table.groupby(["algo.name", "tau", "step"])["eval/loss"].mean()

    ConfigError where a folder holds none. trust: import what their configs name, when a run's parts are asked for.
    """
    entries = [entry for entry in reading.found(_flat(folders)) if entry.status != BROKEN]
    keys = ["seed", *differ(grouped(entries))]
    if "algo.name" not in keys:
        keys.insert(0, "algo.name")
    rows = []
    for entry in entries:
        about = {"run": entry.name, "status": entry.status} | {key: entry.keys.get(key) for key in keys}
        path = entry.folder / "metrics.jsonl"
        rows += [about | point for point in (log_points(path) if path.is_file() else [])]
    return Loaded([Run(entry.folder, trust) for entry in entries], _tidy(rows))


def _flat(folders: Sequence[Any]) -> list[str]:
    found: list[str] = []
    for folder in folders:
        found += map(os.fspath, folder) if isinstance(folder, list | tuple) else [os.fspath(folder)]
    return found


def _tidy(rows: list[dict[str, Any]]) -> Any:
    if importlib.util.find_spec("pandas") is None:
        return rows
    return importlib.import_module("pandas").DataFrame(rows)
