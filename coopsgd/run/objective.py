"""What a run came to, in one number: what a sweep that looks for the best is told of it."""

from __future__ import annotations

from pathlib import Path

from coopsgd.run.jobs import Objective
from coopsgd.run.sweep import readable_summary


def objective(folder: Path) -> Objective:
    """Of the run in `folder`, by its files; None when it has not come to its end."""
    summary = readable_summary(folder) or {}
    return (summary.get("eval") or {}).get("eval/loss") if summary.get("status") == "completed" else None
