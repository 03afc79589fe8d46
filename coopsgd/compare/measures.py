"""What is taken of one run: its end, its best, when it comes to a target for good, what it has when a budget is used up.

A budget is an amount on an axis, as `bytes=50MB` or `sim_seconds=10min`. What a run has by then is what was measured by then:
its last evaluation within the budget. Nothing is interpolated between two evaluations, as nothing is where a target is reached.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np

from coopsgd.compare.entries import Entry
from coopsgd.errors import ConfigError
from coopsgd.host.sizes import human_bytes
from coopsgd.registry import did_you_mean

AXES = {  # --by -> the column, and what an axis of it is called
    "steps": ("step", "steps"),
    "samples": ("samples", "samples"),
    "bytes": ("bytes", "bytes sent"),
    "seconds": ("train_s", "seconds of training"),
    "sim_seconds": ("sim_s", "seconds on the cluster"),
    "rounds": ("rounds", "communications"),
}
SIZES = {"": 1.0, "B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
TIMES = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}
NONE = np.zeros(0)


def amount(axis: str, value: float) -> str:
    """A number on an axis, in its unit."""
    if axis == "bytes":
        return human_bytes(value)
    if axis in ("seconds", "sim_seconds"):
        return f"{value:.3g} s" if value < 1000 else f"{value:.0f} s"
    return f"{value:.0f}" if float(value).is_integer() or value >= 1000 else f"{value:.1f}"


class Budget(NamedTuple):
    """So much of an axis of AXES."""

    axis: str
    most: float

    @property
    def words(self) -> str:
        """As in `50 MB`, `200 steps`, `30 s on the cluster`."""
        after = {"bytes": "", "seconds": "", "sim_seconds": " on the cluster"}.get(self.axis, f" {AXES[self.axis][1]}")
        return f"{amount(self.axis, self.most)}{after}"

    @property
    def stem(self) -> str:
        """In the name of a file, as in bytes_50MB."""
        return f"{self.axis}_{re.sub('[^A-Za-z0-9.]', '', amount(self.axis, self.most))}"

    @staticmethod
    def of(text: str) -> Budget:
        """That of AXIS=AMOUNT. ConfigError where it is none."""
        axis, _, much = text.partition("=")
        axis = axis.strip()
        if axis not in AXES:
            known = ", ".join(AXES)
            raise ConfigError(f"--at: {text!r} names no axis; give AXIS=AMOUNT, of {known}{did_you_mean(axis, list(AXES))}")
        units = SIZES if axis == "bytes" else TIMES if axis in ("seconds", "sim_seconds") else {"": 1.0}
        found = re.fullmatch(r"\s*([0-9.]+(?:[eE]\+?[0-9]+)?)\s*([A-Za-z]*)\s*", much)
        try:
            most = float(found[1]) * units[found[2]] if found else math.nan
        except (ValueError, KeyError):
            most = math.nan
        if not (math.isfinite(most) and most > 0):
            like = {"bytes": "50MB or 2e6", "seconds": "90, 90s or 10min", "sim_seconds": "90, 90s or 10min"}.get(axis, "500")
            raise ConfigError(f"--at {axis}: must be a positive amount, as {like}, got {much!r}")
        return Budget(axis, most)


class Within(NamedTuple):
    """What a run has within a budget: the metric, and the step it was measured at. nan: it was not evaluated by then."""

    value: float
    step: float


def end(entry: Entry, metric: str, tail: float | None = None) -> float:
    """The last value or, with `tail`, the mean of those over the last such share of its steps; of a run that diverged none."""
    if entry.status == "diverged":
        return math.nan
    if tail is None:
        return entry.last(metric)
    y = entry.columns.get(metric, NONE)
    there = ~np.isnan(y)
    late = there & (entry.columns.get("step", NONE) > (1 - tail) * entry.steps)
    return float(y[late].mean()) if late.any() else entry.last(metric)


def best(entry: Entry, metric: str, rises: bool) -> float:
    """The best value on the way."""
    y = entry.columns.get(metric, NONE)
    y = y[~np.isnan(y)]
    return float(y.max() if rises else y.min()) if len(y) else math.nan


def reached(entry: Entry, metric: str, target: float | None, rises: bool) -> dict[str, float] | None:
    """By axis, where a run comes to the target for good: from there on it stays at or beyond it to the end. None: never."""
    y = entry.columns.get(metric, NONE)
    there = np.flatnonzero(~np.isnan(y))
    if target is None or not len(there) or entry.status == "diverged":
        return None
    short = y[there] < target if rises else y[there] > target
    first = int(np.flatnonzero(short)[-1]) + 1 if short.any() else 0
    if first == len(there):
        return None
    line = there[first]
    return {axis: float(entry.columns[column][line]) for axis, (column, _) in AXES.items() if column in entry.columns}


def within(entry: Entry, metric: str, budget: Budget) -> Within:
    """What a run has when the budget is used up: its last evaluation within it, the one before the first step left out.

    Of a run that ends within the budget that is its last; of one that diverges within it there is none.
    """
    x, y = entry.columns.get(AXES[budget.axis][0], NONE), entry.columns.get(metric, NONE)
    step = entry.columns.get("step", NONE)
    if not len(x) or not len(y) or (entry.status == "diverged" and ended_within(entry, budget)):
        return Within(math.nan, math.nan)
    there = np.flatnonzero(~np.isnan(y) & (x <= budget.most) & (step > 0))
    return Within(float(y[there[-1]]), float(step[there[-1]])) if len(there) else Within(math.nan, math.nan)


def ended_within(entry: Entry, budget: Budget) -> bool:
    """Did the run end with some of the budget left?"""
    return entry.last(AXES[budget.axis][0]) < budget.most
