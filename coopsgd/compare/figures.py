"""Figures of a comparison, for print: a column wide, in colours and markers that stay apart in grey, the legend below the axes.

by_AXIS      the metric against steps, samples, bytes, seconds, simulated seconds, rounds, with 95 % bands over seeds
consensus    how far workers are from their mean, against the comparison's axis
pareto       the metric at the end against bytes sent, and the front: whom nobody beats in both
final        the metric at the end, group by group, with its 95 % interval
against_KEY  the same against a number in which groups differ (tau, optim.lr), where there are three values or more
time         seconds a run: computing, communicating, evaluating

A scale is logarithmic where what is drawn on it is positive and spans a decade: values of the metric (never a share), ends of
runs on the horizontal axis. A run that diverged is marked where its last finite value is, at the edge where that is beyond it,
and has a thin line of its own where other seeds did not diverge: the mean is over those.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from coopsgd.compare import drawing
from coopsgd.compare.comparison import AXES, Comparison, Curve
from coopsgd.compare.drawing import FLOOR, MANY, below, listed, scale, short
from coopsgd.compare.groups import Group
from coopsgd.run import styles
from coopsgd.run.styles import Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = (("computing", styles.BLUE, ""), ("communicating", styles.ORANGE, "////"), ("evaluating", "#BBBBBB", "...."))
TARGET: dict[str, Any] = {"color": styles.GREY, "linestyle": (0, (6, 2)), "linewidth": 0.9}
HEIGHT = 2.05  # inches of the axes of a curve
LEAST = 3  # values of a key, from which on something is drawn against it


class Drawing(NamedTuple):
    """A figure's name, which its files have, what it shows in a line, and what draws it."""

    name: str
    about: str
    draw: Callable[[], Figure]


def drawings(comparison: Comparison) -> Iterator[Drawing]:
    """All for which there are numbers."""
    words = drawing.metric_words(comparison)
    band = "; bands: 95 % interval of the mean over seeds" if len(comparison.groups) <= MANY else ""
    for axis in AXES:
        if any(len(comparison.curve(group, axis).x) and comparison.curve(group, axis).x[-1] > 0 for group in comparison.groups):
            yield Drawing(f"by_{axis}", f"{words} against {AXES[axis][1]}{band}", partial(curves, comparison, axis))
    consensus = replace(comparison, metric="consensus", target=None)
    if any(len(consensus.curve(group).x) for group in comparison.groups):
        about = f"consensus distance against {AXES[comparison.axis][1]}{band}"
        yield Drawing("consensus", about, lambda: curves(consensus, comparison.axis))
    rows = comparison.rows()
    if any(row["final"]["mean"] is not None for row in rows):
        if any(row["bytes"] is not None for row in rows):
            about = f"{words} at the end against bytes sent; the line is the Pareto front"
            yield Drawing("pareto", about, lambda: pareto(comparison))
        yield Drawing("final", f"{words} at the end, with its 95 % interval over seeds", lambda: final(comparison))
        for key in numeric(comparison):
            about = f"{words} at the end against {key}, with its 95 % interval over seeds"
            yield Drawing(f"against_{re.sub(r'[^A-Za-z0-9]+', '_', key)}", about, partial(against, comparison, key))
    if any(row["train_s"] is not None for row in rows):
        yield Drawing("time", "seconds of a run, the mean over seeds", lambda: time(comparison))


def curves(comparison: Comparison, axis: str) -> Figure:
    """The metric against an axis, a line a group."""
    from matplotlib.lines import Line2D

    looks, names = drawing.styles_of(comparison.groups), short(comparison.groups)
    found = {group: curve_of(comparison, group, axis) for group in comparison.groups}
    shown = {group: curve for group, curve in found.items() if len(curve.x)}
    rises = comparison.known.unit == "share"
    lasting = [curve for group, curve in shown.items() if any(e.status != "diverged" for e in group.counted)]
    inner = np.concatenate([curve.mean for curve in lasting or list(shown.values())])
    inner = inner[np.isfinite(inner)]
    positive = inner[inner > FLOOR * inner.max()] if comparison.metric.startswith("consensus") and len(inner) else inner
    log = not rises and drawing.spans(positive)
    low, high = _vertical(lasting or list(shown.values()), positive if log else inner, log, comparison.target)
    ends = [curve.x[-1] for curve in shown.values() if curve.x[-1] > 0]
    log_x = drawing.spans(ends)
    title, unit = drawing.unit_of(axis, max(ends, default=0.0))
    entries = drawing.legend({group: names[group] for group in shown}, looks)
    lost = [(group, *end) for group in shown for end in diverged(comparison, group, axis)]
    if lost:
        cross = Line2D([], [], color=styles.BLACK, marker="x", linestyle="", markersize=5, markeredgewidth=1.2)
        entries.append((cross, "a run diverges"))
    if comparison.target is not None:
        entries.append((Line2D([], [], **TARGET), f"target {comparison.target:g}"))
    figure, axes = drawing.figure_of(HEIGHT, entries)
    nothing = []
    for number, (group, curve) in enumerate(shown.items()):
        there = (curve.x > 0) if log_x else np.ones(len(curve.x), dtype=bool)
        if log and not (curve.mean[there] >= low).any():
            nothing.append(names[group])
        _line(axes, Curve(*(part[there] for part in curve)), looks[group], unit, len(shown), number)
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
        f"without such numbers: {listed(missing)}" if missing else "",
        f"zero, or below the axis: {listed(nothing)}" if nothing else "",
    )
    axes.set_xlabel(below(title, *notes))
    axes.set_ylabel(drawing.metric_words(comparison))
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


def _line(axes: Any, curve: Curve, style: Style, unit: float, many: int, number: int) -> None:
    """The mean with its band; a curve of one point is a marker."""
    crowded = many > MANY
    x = curve.x / unit
    every = (0.03 + 0.21 * (number * 0.382 % 1), 0.21 if not crowded else 0.5)  # of the diagonal: markers of lines part
    axes.plot(x, curve.mean, **style.line(markevery=every if len(x) > 1 else 1, linewidth=0.7 if crowded else 1.1, zorder=3))
    if not crowded and (curve.n > 1).any():
        axes.fill_between(x, curve.low, curve.high, color=style.colour, alpha=0.16, linewidth=0, zorder=2)


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
        low, high = max(low - room, min(low, float(bands.min()))), min(high + room, max(high, float(bands.max())))
    return drawing.limits(low, high, log)


def diverged(comparison: Comparison, group: Group, axis: str) -> Iterator[tuple[float, float]]:
    """Where runs that diverged have their last finite value."""
    for entry in group.counted:
        if entry.status == "diverged":
            x, y = comparison.values(entry, axis)
            there = np.isfinite(y)
            if there.any():
                yield float(x[there][-1]), float(y[there][-1])


# one value a group


def _ends(comparison: Comparison) -> tuple[dict[Group, dict[str, Any]], list[str]]:
    """Rows of those groups that have a metric at the end, and the names of the others."""
    rows, names = {group: comparison.row(group) for group in comparison.groups}, short(comparison.groups)
    missing = [names[group] for group, row in rows.items() if row["final"]["mean"] is None]
    return {group: row for group, row in rows.items() if row["final"]["mean"] is not None}, missing


def _errors(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Half widths; 0 of one seed."""
    return [row["final"]["half"] or 0.0 for row in rows]


def pareto(comparison: Comparison) -> Figure:
    """The metric at the end against bytes sent."""
    from matplotlib.lines import Line2D

    rows, missing = _ends(comparison)
    rows = {group: row for group, row in rows.items() if row["bytes"] is not None}
    looks, names = drawing.styles_of(comparison.groups), short(comparison.groups)
    sent = [row["bytes"] for row in rows.values()]
    means = [row["final"]["mean"] for row in rows.values()]
    title, unit = drawing.unit_of("bytes", max(sent))
    log = comparison.known.unit != "share" and drawing.spans(means)
    positive = [x for x in sent if x > 0]
    log_x = drawing.spans(positive)
    zero = min(positive, default=1.0) / 2 / unit  # where those that send nothing stand on a logarithmic scale
    entries = drawing.legend({group: names[group] for group in rows}, looks, linestyle="")
    entries.append((Line2D([], [], color=styles.GREY, linewidth=0.9), "Pareto front"))
    if comparison.target is not None:
        entries.append((Line2D([], [], **TARGET), f"target {comparison.target:g}"))
    figure, axes = drawing.figure_of(HEIGHT, entries)
    places = [x / unit if x > 0 or not log_x else zero for x in sent]
    for x, (group, row) in zip(places, rows.items(), strict=True):
        axes.errorbar(
            x,
            row["final"]["mean"],
            _errors([row])[0] if len(rows) <= MANY else None,
            color=looks[group].colour,
            marker=looks[group].marker,
            markersize=4,
            elinewidth=0.7,
            capsize=1.5,
            zorder=3,
        )
    best = front(sent, means, comparison.known.rises)
    steps = [(places[i], means[i]) for i in best]
    axes.step(*zip(*steps, strict=True), where="post", color=styles.GREY, linewidth=0.9, zorder=2)
    if comparison.target is not None:
        axes.axhline(comparison.target, **TARGET, zorder=1)
    if log_x:
        axes.set_xlim(*drawing.limits(min(places), max(places), True))
    else:
        axes.set_xlim(*drawing.limits(0, max(places), False))
    axes.set_ylim(*_room(list(rows.values()), log, comparison.target))
    scale(axes.xaxis, "log" if log_x else "linear")
    scale(axes.yaxis, "log" if log else "linear")
    none = [names[group] for (group, row) in rows.items() if row["bytes"] == 0] if log_x else []
    axes.set_xlabel(
        below(
            title,
            drawing.shading(list(rows)),
            f"at the left edge, for it sends nothing: {listed(none)}" if none else "",
            f"no value at the end: {listed(missing)}" if missing else "",
        )
    )
    axes.set_ylabel(f"{drawing.metric_words(comparison)} at the end")
    return figure


def front(sent: Sequence[float], values: Sequence[float], rises: bool) -> list[int]:
    """Indices of those whom nobody beats: of fewer or equal bytes none is better; by bytes."""
    found: list[int] = []
    for i in sorted(range(len(sent)), key=lambda i: (sent[i], -values[i] if rises else values[i])):
        if not found or (values[i] > values[found[-1]] if rises else values[i] < values[found[-1]]):
            found.append(i)
    return found


def _room(rows: Sequence[dict[str, Any]], log: bool, target: float | None) -> tuple[float, float]:
    """Limits: all values, their intervals as far as they reach beyond them by half at most, and the target."""
    means = [row["final"]["mean"] for row in rows]
    wanted = [*means, *([] if target is None or (log and target <= 0) else [target])]
    low, high = min(wanted), max(wanted)
    if not log:
        room, errors = 0.5 * (high - low) or math.inf, _errors(rows)
        low = max(low - room, min(low, *(mean - error for mean, error in zip(means, errors, strict=True)), low))
        high = min(high + room, max(high, *(mean + error for mean, error in zip(means, errors, strict=True)), high))
    return drawing.limits(low, high, log)


def _labels(axes: Any, names: Sequence[str]) -> None:
    """Names of groups along the vertical axis, the first on top."""
    axes.set_yticks(range(len(names)), list(map(_folded, names)), fontsize=6)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _folded(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 30)


def _height(names: Sequence[str]) -> float:
    return 0.55 + sum(0.07 + 0.09 * (1 + _folded(text).count("\n")) for text in names)


def final(comparison: Comparison) -> Figure:
    """The metric at the end, a line a group."""
    rows, missing = _ends(comparison)
    looks, all_names = drawing.styles_of(comparison.groups), short(comparison.groups)
    names = [all_names[group] for group in rows]
    figure, axes = drawing.figure_of(_height(names), [])
    for number, (group, row) in enumerate(rows.items()):
        axes.errorbar(
            row["final"]["mean"],
            number,
            xerr=_errors([row])[0],
            color=looks[group].colour,
            marker=looks[group].marker,
            markersize=4,
            elinewidth=0.8,
            capsize=1.5,
        )
    if comparison.target is not None:
        axes.axvline(comparison.target, **TARGET, zorder=1)
    means = [row["final"]["mean"] for row in rows.values()]
    log = comparison.known.unit != "share" and drawing.spans(means)
    axes.set_xlim(*_room(list(rows.values()), log, comparison.target))
    scale(axes.xaxis, "log" if log else "linear")
    _labels(axes, names)
    target = f"dashed: target {comparison.target:g}" if comparison.target is not None else ""
    none = f"no value at the end: {listed(missing)}" if missing else ""
    axes.set_xlabel(below(f"{drawing.metric_words(comparison)} at the end", target, none, width=40))
    return figure


def numeric(comparison: Comparison) -> list[str]:
    """Keys in which groups differ by a number, of three values or more."""
    found = []
    for key in comparison.differing:
        values = {group.keys.get(key) for group in comparison.groups if _number(group.keys.get(key))}
        if len(values) >= LEAST:
            found.append(key)
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def against(comparison: Comparison, key: str) -> Figure:
    """The metric at the end against a key, a line for groups that differ in it alone."""
    rows, missing = _ends(comparison)
    names = short(comparison.groups)
    missing += [names[group] for group in rows if not _number(group.keys.get(key))]
    lines: dict[tuple[str, ...], list[Group]] = {}
    for group in rows:
        if _number(group.keys.get(key)):
            lines.setdefault(tuple(value for one, value in group.values.items() if one != key), []).append(group)
    # a line is a group of its own: its first, without the key
    heads = [
        replace(
            some[0],
            entries=some[0].counted,
            values={one: value for one, value in some[0].values.items() if one != key},
            named=some[0].named - {key},
        )
        for some in lines.values()
    ]
    looks = drawing.styles_of(heads)
    values = [float(group.keys[key]) for some in lines.values() for group in some]
    means = [rows[group]["final"]["mean"] for some in lines.values() for group in some]
    log, log_x = comparison.known.unit != "share" and drawing.spans(means), drawing.spans(values)
    figure, axes = drawing.figure_of(HEIGHT, drawing.legend({head: head.label for head in heads}, looks))
    for head, some in zip(heads, lines.values(), strict=True):
        some = sorted(some, key=lambda group: group.keys[key])
        x, y = [float(group.keys[key]) for group in some], [rows[group]["final"]["mean"] for group in some]
        axes.errorbar(
            x, y, _errors([rows[group] for group in some]), **looks[head].line(elinewidth=0.7, capsize=1.5, markersize=3.5)
        )
    if comparison.target is not None:
        axes.axhline(comparison.target, **TARGET, zorder=1)
    axes.set_xlim(*drawing.limits(min(values), max(values), log_x))
    axes.set_ylim(*_room([rows[group] for some in lines.values() for group in some], log, comparison.target))
    scale(axes.xaxis, "log" if log_x else "linear")
    scale(axes.yaxis, "log" if log else "linear")
    axes.set_xlabel(
        below(key, drawing.shading(heads), f"no value at the end, or no {key}: {listed(missing)}" if missing else "")
    )
    axes.set_ylabel(f"{drawing.metric_words(comparison)} at the end")
    return figure


def time(comparison: Comparison) -> Figure:
    """Where the seconds went, a bar a group."""
    from matplotlib.patches import Patch

    rows = {g: row for g in comparison.groups if (row := comparison.row(g))["train_s"] is not None}
    entries = [(Patch(facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0), words) for words, colour, hatch in PARTS]
    names = [text for group, text in short(comparison.groups).items() if group in rows]
    figure, axes = drawing.figure_of(_height(names), entries)
    for number, row in enumerate(rows.values()):
        train, comm, wall = row["train_s"], row["comm_s"] or 0.0, row["wall_s"] or row["train_s"]
        start = 0.0
        for (_, colour, hatch), long in zip(PARTS, (max(train - comm, 0.0), comm, max(wall - train, 0.0)), strict=True):
            axes.barh(number, long, 0.7, left=start, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
            start += long
    scale(axes.xaxis, "linear")
    _labels(axes, names)
    axes.set_xlabel("seconds of a run on this machine")
    return figure
