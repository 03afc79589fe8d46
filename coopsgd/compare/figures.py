"""Figures of a comparison, as wide as a column of a paper: PNG, and SVG and PDF in which text stays text.

Each axis that runs have gives the metric against it, the mean over seeds with its 95 % band; then the workers' distance, the
Pareto front of bytes and metric, and where the seconds went. A run that diverged is marked by a cross where it did.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from coopsgd.compare.comparison import AXES, Comparison
from coopsgd.compare.groups import Group
from coopsgd.run import colours
from coopsgd.run.colours import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, LEGEND = 3.4, 2.5, 1.9  # inches: of a column; of a legend beside it
INSIDE, APART = 5, 16  # groups with a legend inside the axes; from so many on it names algorithms alone
DECADES = 30  # ratio of values from which on an axis is logarithmic
FORMATS = ("png", "svg", "pdf")
LOOK: dict[Any, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "coopsgd",
    "savefig.dpi": 300,
}


def all_of(comparison: Comparison) -> dict[str, Callable[[], Figure]]:
    """The figures that there are numbers for, by the names of their files."""
    found: dict[str, Callable[[], Figure]] = {}
    name = re.sub(r"[^\w.-]+", "-", comparison.metric)
    for axis in AXES:
        if _there(comparison, axis, None):
            found[f"{name}-by-{axis}"] = partial(_curves, comparison, axis, None)
    if comparison.metric != "consensus" and _there(comparison, "steps", "consensus"):
        found["consensus-by-steps"] = lambda: _curves(comparison, "steps", "consensus")
    rows = comparison.rows()
    if any(row["bytes"] and row["final"]["mean"] is not None for row in rows):
        found["pareto"] = lambda: _pareto(comparison, rows)
    if any(row["train_s"] for row in rows):
        found["seconds"] = lambda: _seconds(rows)
    return found


def files_of(comparison: Comparison, forms: Sequence[str] = FORMATS) -> dict[str, bytes]:
    """Each figure in each form, by the name of its file."""
    import matplotlib as mpl

    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    found = {}
    with mpl.rc_context(LOOK):
        for name, draw in all_of(comparison).items():
            figure = draw()
            for form in forms:
                file = io.BytesIO()
                extra = {"png": None, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[form]
                figure.savefig(file, format=form, metadata=extra)
                found[f"{name}.{form}"] = file.getvalue()
    return found


def _there(comparison: Comparison, axis: str, metric: str | None) -> bool:
    """Does some run have this metric over this axis, in more than one place?"""
    entries = [entry for group in comparison.groups for entry in group.counted]
    return any(len(x) > 0 and np.ptp(x) > 0 for x, _ in (comparison.values(entry, axis, metric) for entry in entries))


def _figure(groups: int) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH + (LEGEND if groups > INSIDE else 0), HEIGHT), layout="constrained")
    return figure, figure.subplots()


def _legend(axes: Axes, groups: Sequence[Group], styles: Sequence[Style], marker: bool = False) -> None:
    """What each line is; of many the algorithms alone."""
    from matplotlib.lines import Line2D

    line = (lambda style: {"ls": "", "marker": style.marker}) if marker else (lambda style: {"ls": style.dash})
    if len(groups) < APART:
        lines = [(group.label, style) for group, style in zip(groups, styles, strict=True)]
    else:
        lines = [(algo, colours.of(algo)) for algo in dict.fromkeys(group.algo for group in groups)]
    if len(groups) == 1:
        return
    handles = [Line2D([], [], color=style.colour, label=label, **line(style)) for label, style in lines]
    beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if len(groups) > INSIDE else {"loc": "best"}
    axes.legend(handles=handles, **beside)


def _curves(comparison: Comparison, axis: str, metric: str | None) -> Figure:
    groups = [group for group in comparison.groups if group.counted]
    styles = colours.each([group.algo for group in groups])
    figure, axes = _figure(len(groups))
    ends, low, high = [], np.inf, -np.inf
    for group, style in zip(groups, styles, strict=True):
        x, mean, below, above, _ = comparison.curve(group, axis, metric)
        if not len(x):
            continue
        ends.append(x[-1])
        low, high = min(low, mean.min()), max(high, mean.max())
        axes.plot(x, mean, color=style.colour, ls=style.dash)
        axes.fill_between(x, below, above, color=style.colour, alpha=0.18, lw=0)
        for entry in group.counted:
            own_x, own_y = comparison.values(entry, axis, metric)
            if entry.status == "diverged" and len(own_x):
                axes.plot(own_x[-1:], own_y[-1:], "x", color=style.colour, ms=6, mew=1.5)
    if axis not in ("steps", "samples") and len(ends) > 1 and max(ends) > DECADES * min(ends) > 0:
        axes.set_xscale("log")
    if low > 0 and high > DECADES * low:
        axes.set_yscale("log")
    else:  # a band may leave what the means span, but not by much
        room = 0.15 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - room, high + room)
    if comparison.target is not None and metric is None:
        axes.axhline(comparison.target, color="0.4", lw=0.8, ls=(0, (4, 2)), zorder=0)
    axes.set(xlabel=_axis_label(comparison, axis), ylabel=NAMES.get(metric or comparison.metric, metric or comparison.metric))
    _units(axes, axis)
    _legend(axes, groups, styles)
    return figure


NAMES = {
    "eval/loss": "test loss",
    "eval/accuracy": "test accuracy",
    "eval/r2": "test R²",
    "eval/f1": "test F1",
    "train/loss": "training loss",
    "consensus": "consensus distance",
}


def _axis_label(comparison: Comparison, axis: str) -> str:
    name = AXES[axis][1]
    return f"{name} ({comparison.cluster})" if axis == "sim_seconds" and comparison.cluster else name


def _units(axes: Axes, axis: str) -> None:
    """Bytes as kB, MB, GB; large numbers short."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(5))
    if axis == "bytes":
        axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
        axes.set_xlabel("sent")
    elif axis in ("samples", "rounds", "steps"):
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _pareto(comparison: Comparison, rows: Sequence[dict[str, Any]]) -> Figure:
    """What was sent against what was reached, each group a point, and the front that no other group beats in both."""
    groups = comparison.groups
    styles = colours.each([group.algo for group in groups])
    figure, axes = _figure(len(groups))
    points = []
    for row, style in zip(rows, styles, strict=True):
        if row["bytes"] is None or row["final"]["mean"] is None:
            continue
        x, y = row["bytes"], row["final"]["mean"]
        axes.errorbar([x], [y], yerr=row["final"]["half"], fmt=style.marker, color=style.colour, elinewidth=0.8, capsize=2)
        points.append((x, y))
    front = pareto(points, comparison.known.rises)
    axes.step(*zip(*front, strict=True), where="post", color="0.4", lw=0.8, zorder=0)
    sent = [x for x, _ in points if x > 0]
    if sent and max(sent) > DECADES * min(sent) and len(sent) == len(points):
        axes.set_xscale("log")
    axes.set(ylabel=NAMES.get(comparison.metric, comparison.metric) + ", final")
    _units(axes, "bytes")
    _legend(axes, groups, styles, marker=True)
    return figure


def pareto(points: Sequence[tuple[float, float]], rises: bool) -> list[tuple[float, float]]:
    """Those points to which no other is at least as good in both, less sent and a better value, by what is sent."""
    found: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1] if rises else point[1])):
        if not found or (y > found[-1][1] if rises else y < found[-1][1]):
            found.append((x, y))
    return found


def _seconds(rows: Sequence[dict[str, Any]]) -> Figure:
    """Where the seconds went, a bar a group: computing, communicating, measuring."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["train_s"] is not None]
    figure = Figure(figsize=(WIDTH, 0.9 + 0.22 * len(rows)), layout="constrained")
    axes = figure.subplots()
    comm = np.array([row["comm_s"] or 0.0 for row in rows])
    train = np.array([row["train_s"] for row in rows])
    wall = np.array([row["wall_s"] if row["wall_s"] is not None else row["train_s"] for row in rows])
    parts = (("computing", train - comm), ("communication", comm), ("evaluation", np.maximum(wall - train, 0)))
    left, places = np.zeros(len(rows)), np.arange(len(rows))
    for (name, values), colour, hatch in zip(parts, ("#0072B2", "#E69F00", "#BBBBBB"), ("", "///", "..."), strict=True):
        axes.barh(places, values, left=left, color=colour, label=name, hatch=hatch, edgecolor="white", lw=0.3)
        left += values
    axes.set_yticks(places, [row["label"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("seconds of a run, mean")
    figure.legend(loc="outside upper center", ncols=3)
    return figure
