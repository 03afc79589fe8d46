"""Figures of a comparison against an axis: a line a group, its band, where runs diverge, the target, budgets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from coopsgd.compare import drawing
from coopsgd.compare.comparison import Comparison, Curve
from coopsgd.compare.drawing import BUDGET, FLOOR, HEIGHT, MANY, TARGET, below, listed, scale, short
from coopsgd.compare.groups import Group
from coopsgd.run import styles
from coopsgd.run.styles import Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW = 5  # points of a curve


def curves(comparison: Comparison, axis: str) -> Figure:
    """The metric against an axis, a line a group."""
    from matplotlib.lines import Line2D

    looks, names = drawing.styles_of(comparison.groups), short(comparison.groups)
    found = {group: curve_of(comparison, group, axis) for group in comparison.groups}
    shown = {group: curve for group, curve in found.items() if len(curve.x)}
    rises = comparison.known.unit == "share"
    lasting = [curve for group, curve in shown.items() if any(e.status != "diverged" for e in group.counted)]
    ends = [curve.x[-1] for curve in shown.values() if curve.x[-1] > 0]
    log_x = drawing.spans(ends)
    at_zero = [names[group] for group, curve in shown.items() if not (curve.x > 0).any()] if log_x else []
    shown = {group: curve for group, curve in shown.items() if names[group] not in at_zero}
    lasting = [curve for curve in lasting if any(curve is one for one in shown.values())]
    drawn = lasting or list(shown.values())
    if log_x or max(len(curve.x) for curve in drawn) > FEW:  # the untrained model, at 0, stretches no axis
        drawn = [Curve(*(part[curve.x > 0] for part in curve)) for curve in drawn]
    inner = np.concatenate([curve.mean for curve in drawn])
    inner = inner[np.isfinite(inner)]
    positive = inner[inner > FLOOR * inner.max()] if comparison.metric.startswith("consensus") and len(inner) else inner
    log = not rises and drawing.spans(positive)
    low, high = _vertical(drawn, positive if log else inner, log, comparison.target)
    title, unit = drawing.unit_of(axis, max(ends, default=0.0))
    entries = drawing.legend({group: names[group] for group in shown}, looks)
    lost = [(group, *end) for group in shown for end in diverged(comparison, group, axis)]
    if lost:
        cross = Line2D([], [], color=styles.BLACK, marker="x", linestyle="", markersize=5, markeredgewidth=1.2)
        entries.append((cross, "a run diverges"))
    if comparison.target is not None:
        entries.append((Line2D([], [], **TARGET), f"target {comparison.target:g}"))
    budgets = [budget for budget in comparison.budgets if budget.axis == axis]
    if budgets:
        entries.append((Line2D([], [], **BUDGET), ", ".join(budget.words for budget in budgets)))
    figure, axes = drawing.figure_of(HEIGHT, entries)
    nothing = []
    for number, (group, curve) in enumerate(shown.items()):
        there = (curve.x > 0) if log_x else np.ones(len(curve.x), dtype=bool)
        if log and not (curve.mean[there] >= low).any():
            nothing.append(names[group])
        _line(axes, Curve(*(part[there] for part in curve)), looks[group], unit, len(shown), number, log_x)
    for group, x, y in lost:
        if apart(group):
            for entry in group.counted:
                if entry.status == "diverged":
                    own_x, own_y = comparison.values(entry, axis)
                    axes.plot(own_x / unit, own_y, **looks[group].line(marker="", linewidth=0.6), zorder=2)
        if x > 0 or not log_x:
            at = min(max(y, low), high)
            axes.plot(
                [x / unit], [at], "x", color=looks[group].colour, markersize=5, markeredgewidth=1.2, clip_on=False, zorder=5
            )
    if comparison.target is not None:
        axes.axhline(comparison.target, **TARGET, zorder=1)
    for budget in budgets:
        axes.axvline(budget.most / unit, **BUDGET, zorder=1)
    axes.set_ylim(low, high)
    if log_x:
        first = min(curve.x[curve.x > 0][0] for curve in shown.values() if (curve.x > 0).any())
        axes.set_xlim(*drawing.limits(first / unit, max(ends) / unit, True))
    else:
        axes.set_xlim(0, max(ends, default=1.0) / unit * 1.02)
    scale(axes.xaxis, "log" if log_x else "linear")
    scale(axes.yaxis, "log" if log else "linear")
    missing = [names[group] for group, curve in found.items() if not len(curve.x)]
    notes = (
        drawing.shading(list(shown)),
        f"0 all along, so not on this scale: {listed(at_zero)}" if at_zero else "",
        f"without such numbers: {listed(missing)}" if missing else "",
        f"zero, or below the axis: {listed(nothing)}" if nothing else "",
    )
    axes.set_xlabel(below(title, *notes))
    axes.set_ylabel(drawing.words_of(comparison.metric))
    return figure


def apart(group: Group) -> bool:
    """Are its runs that diverged drawn by themselves? Where others did not, whose mean they would spoil."""
    return len({entry.status == "diverged" for entry in group.counted}) == 2


def curve_of(comparison: Comparison, group: Group, axis: str) -> Curve:
    """Over the runs that have not diverged; where all have, over all."""
    if apart(group):
        group = replace(group, entries=[entry for entry in group.counted if entry.status != "diverged"])
    curve = comparison.curve(group, axis)
    if axis not in ("seconds", "sim_seconds"):
        return curve
    whole = curve.n == curve.n.max(initial=0)  # seeds end at other seconds: beyond the first end the mean would jump
    return Curve(*(part[whole] for part in curve))


def _line(axes: Any, curve: Curve, style: Style, unit: float, many: int, number: int, log_x: bool) -> None:
    """The mean with its band; a curve of one point is a marker."""
    crowded = many > MANY
    x = curve.x / unit
    every = _marked(np.log(x) if log_x else x, number, 2 if crowded else 5)
    axes.plot(x, curve.mean, **style.line(markevery=every, linewidth=0.7 if crowded else 1.1, zorder=3))
    if not crowded and (curve.n > 1).any():
        axes.fill_between(x, curve.low, curve.high, color=style.colour, alpha=0.16, linewidth=0, zorder=2)


def _marked(x: np.ndarray, number: int, many: int) -> list[int]:
    """Indices of so many markers along a line, spread over the axis; those of different lines stand in different places."""
    if len(x) < 2:
        return list(range(len(x)))
    places = x[0] + (x[-1] - x[0]) * (np.arange(many) + 0.1 + 0.8 * (number * 0.382 % 1)) / many
    return sorted({int(np.abs(x - place).argmin()) for place in places})


def _vertical(curves: Sequence[Curve], inner: np.ndarray, log: bool, target: float | None) -> tuple[float, float]:
    """Limits: all means, bands as far as they reach beyond them by a quarter at most, and the target."""
    if not len(inner):
        return (0.1, 1.0) if log else (0.0, 1.0)
    wanted = [float(inner.min()), float(inner.max())]
    if target is not None and (target > 0 or not log):
        wanted.append(target)
    low, high = min(wanted), max(wanted)
    if not log:
        room = 0.25 * (high - low)
        bands = np.concatenate([part for curve in curves for part in (curve.low, curve.high)])
        bands = bands[np.isfinite(bands)]
        least = 0.0 if low >= 0 else -np.inf  # a band below 0 is of the interval's making
        low, high = max(low - room, min(low, float(bands.min())), least), min(high + room, max(high, float(bands.max())))
    return drawing.limits(low, high, log)


def diverged(comparison: Comparison, group: Group, axis: str) -> Iterator[tuple[float, float]]:
    """Where runs that diverged have their last finite value."""
    for entry in group.counted:
        if entry.status == "diverged":
            x, y = comparison.values(entry, axis)
            there = np.isfinite(y)
            if there.any():
                yield float(x[there][-1]), float(y[there][-1])
