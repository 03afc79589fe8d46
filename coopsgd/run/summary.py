"""summary.json, however a run ended: one writer. schema.SUMMARY says what its keys are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coopsgd.predict import foresight
from coopsgd.run import final
from coopsgd.run.attempt import restarts_of
from coopsgd.run.provenance import provenance
from coopsgd.run.reader import log_points
from coopsgd.run.schema import SUMMARY, evaluated
from coopsgd.setup.formats import FORMAT
from coopsgd.setup.parts import Parts
from coopsgd.setup.resolve import on_what_it_reads

TOTALS = ("rounds", "messages", "bytes", "wire_bytes", "comm_s")  # of a log point, for the ledger


def known_beforehand(parts: Parts) -> list[str]:
    """Lines for the summary that were told before the run: what its files were taken for, and what it will not reach."""
    return [*on_what_it_reads(parts), *foresight.notes(parts)]


def summary(
    folder: Path,
    parts: Parts,
    status: str,
    lines: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    ledger: Mapping[str, Any] | None = None,
    **ended: Any,
) -> dict[str, Any]:
    """What to write of a run in `folder`, in the order of schema.SUMMARY.

    lines: its log points, the last one at least; ledger: what is known beyond their totals; ended: what only a run knows that
    came to its end, and facts of its task.
    """
    config, schedule = parts.config, parts.strategy.schedule
    last, looked = (lines[-1] if lines else {}), (evaluated(lines) or [{}])[-1]
    known = {
        "format": FORMAT,
        "status": status,
        "steps": last.get("step", 0),
        "workers": config.workers,
        "aux": schedule.num_aux if schedule else 0,
        "processes": config.processes,
        "algo": config.algo["name"],
        "tau": None if schedule and schedule.times_itself else config.tau,
        "period": (config.period or {}).get("name", "constant"),
        "ledger": {name: last.get(name, 0) for name in TOTALS} | dict(ledger or {}),
        "eval": {name: value for name, value in looked.items() if name.startswith("eval/")},
        **{name: looked.get(name) for name in ("consensus", "consensus_after")},
        **{name: last.get(name, 0) for name in ("phase", "train_s", "wall_s")},
        **(
            {"sim_s": last.get("sim_s", 0.0), "cluster": {**config.cluster, "about": parts.cluster.describe()}}
            if config.cluster
            else {}
        ),
        "seed": config.seed,
        "name": config.name,
        "notes": list(notes),
        **provenance(parts),
        "command": final.command(folder),
    }
    found = {"saved": "none"} | ended | known
    return {name: found[name] for name in SUMMARY if name in found} | {k: v for k, v in found.items() if k not in SUMMARY}


def of_what_there_is(folder: Path, parts: Parts, status: str, notes: Sequence[str]) -> dict[str, Any]:
    """The same of a run that did not come to its end, from the log points it left."""
    file = folder / "metrics.jsonl"
    return summary(folder, parts, status, log_points(file) if file.exists() else [], notes, **restarts_of(folder))
