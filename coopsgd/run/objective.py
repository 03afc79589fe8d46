"""What a run came to, as its files have it: what a sweep that looks for the best is told of it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coopsgd.run.jobs import Objective
from coopsgd.run.reader import log_points
from coopsgd.run.sweep import readable_summary
from coopsgd.setup.objective import named
from coopsgd.setup.parts import Parts
from coopsgd.setup.stop import BUDGETS, Stop


def objective(folder: Path, parts: Parts) -> Objective:
    """Of the run in `folder`; None when it did not come to its end, or not to its target."""
    if (readable_summary(folder) or {}).get("status") != "completed":
        return None
    lines: Sequence[Mapping[str, Any]] = []
    with contextlib.suppress(OSError):
        lines = log_points(folder / "metrics.jsonl")
    found = [_value(name, lines, parts.stop) for name in named(parts.config.objective)]
    values = [float(value) for value in found if value is not None and math.isfinite(value)]
    if len(values) < len(found):
        return None
    return values if len(values) > 1 else values[0]


def _value(name: str, lines: Sequence[Mapping[str, Any]], stop: Stop) -> float | None:
    if name in BUDGETS and stop.metric is not None:
        return next((line.get(BUDGETS[name]) for line in lines if stop.reached(line)), None)
    return next((line[name] for line in reversed(lines) if line.get(name) is not None), None)
