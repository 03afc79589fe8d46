"""`coopsgd export --to mlflow|wandb FOLDER`: runs, from what their folders hold, in another tracker's own store."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from coopsgd.compare import entries as reading
from coopsgd.compare.entries import BROKEN, RUNNING, Entry
from coopsgd.errors import ConfigError
from coopsgd.run.reader import log_points

STORES = {"mlflow": "mlruns", "wandb": "wandb"}  # a tracker -> the folder where its store is by default
LONGEST = 500  # characters of a parameter that MLflow takes
AT_ONCE = 1000  # metrics of a batch that MLflow takes


def export(folders: Sequence[str], to: str, output: str | None, progress: Callable[[int, int, str], None]) -> tuple[int, Path]:
    """Write all runs in these folders and below them; how many, and where. ConfigError without the tracker's package.

    A run that was exported before is written anew, in its place.
    """
    entries = [entry for entry in reading.found(folders) if entry.status != BROKEN]
    try:
        tracker: Any = importlib.import_module(to)
    except ImportError:
        raise ConfigError(f"--to {to}: the package is not installed; pip install 'coopsgd[export]'") from None
    at = Path(output or STORES[to]).absolute()
    write = {"mlflow": _to_mlflow, "wandb": _to_wandb}[to](tracker, at)
    for number, entry in enumerate(entries):
        progress(number, len(entries), entry.name)
        write(entry)
    return len(entries), at


def _lines(entry: Entry) -> Iterator[tuple[int, dict[str, float]]]:
    """Step and numbers of each log line."""
    path = entry.folder / "metrics.jsonl"
    for point in log_points(path) if path.is_file() else ():
        yield point["step"], {key: value for key, value in point.items() if isinstance(value, int | float) and key != "step"}


def _id(entry: Entry) -> str:
    """The same for a folder whenever it is exported."""
    return hashlib.sha256(str(entry.folder.resolve()).encode()).hexdigest()[:16]


def _began(entry: Entry) -> float:
    """When its config was written, in seconds since 1970."""
    return (entry.folder / "config.yaml").stat().st_mtime


def _to_mlflow(mlflow: Any, at: Path) -> Callable[[Entry], None]:
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3.10 and later ask for it
    parts = importlib.import_module("mlflow.entities")
    client = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=at.as_uri())
    ends = {"completed": "FINISHED", "interrupted": "KILLED", "killed": "KILLED"}

    def write(entry: Entry) -> None:
        name = entry.folder.resolve().parent.name
        found = client.get_experiment_by_name(name)
        where = found.experiment_id if found is not None else client.create_experiment(name)
        for old in client.search_runs([where], f"tags.coopsgd_id = '{_id(entry)}'"):
            client.delete_run(old.info.run_id)
        began = int(1000 * _began(entry))
        tags = {"coopsgd_id": _id(entry), "coopsgd_folder": str(entry.folder.resolve()), "coopsgd_status": entry.status}
        run = client.create_run(where, start_time=began, run_name=entry.name, tags=tags).info.run_id
        params = [parts.Param(key, _text(value)) for key, value in entry.keys.items()]
        for a in range(0, len(params), 100):
            client.log_batch(run, params=params[a : a + 100])
        metrics, last = [], began
        for step, numbers in _lines(entry):
            last = began + int(1000 * numbers.get("wall_s", 0))
            metrics += [parts.Metric(key, value, last, step) for key, value in numbers.items()]
        for a in range(0, len(metrics), AT_ONCE):
            client.log_batch(run, metrics=metrics[a : a + AT_ONCE])
        if entry.status != RUNNING:
            client.set_terminated(run, ends.get(entry.status, "FAILED"), end_time=last)

    return write


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _to_wandb(wandb: Any, at: Path) -> Callable[[Entry], None]:
    at.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)

    def write(entry: Entry) -> None:
        run = wandb.init(
            mode="offline",
            dir=str(at),
            project=entry.folder.resolve().parent.name[:128],
            name=entry.name,
            id=_id(entry),
            config=entry.keys,
            tags=[entry.algo[:64], entry.status],
            settings=settings,
        )
        for step, numbers in _lines(entry):
            run.log(numbers, step=step)
        run.finish(exit_code=0 if entry.status in ("completed", RUNNING) else 1)

    return write
