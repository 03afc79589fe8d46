"""Figures of a comparison with one value a group: the metric at the end, or what a budget buys, and where the seconds went."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from coopsgd.compare import drawing, measures
from coopsgd.compare.comparison import THEORY, Comparison
from coopsgd.compare.drawing import HEIGHT, MANY, TARGET, below, listed, scale, short
from coopsgd.compare.formats import of_more
from coopsgd.compare.groups import Group
from coopsgd.run import styles
from coopsgd.run.schema import METRICS
from coopsgd.run.styles import Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = (("computing", styles.BLUE, ""), ("communicating", styles.ORANGE, "////"), ("evaluating", "#BBBBBB", "...."))
LEAST = 3  # values of a key, from which on something is drawn against it


@dataclass(frozen=True)
class Value:
    """What is drawn of each group: of which metric, at the end or by a budget.

    name: what its files begin with; empty for the metric at the end. of: from a row of the table {mean, half, n}.
    """

    name: str
    metric: str
    words: str
    of: Callable[[dict[str, Any]], dict[str, Any]]
    target: float | None = None
    theory: str | None = None

    @property
    def share(self) -> bool:
        """Is it one, which no logarithmic scale is for?"""
        return self.metric in METRICS and METRICS[self.metric].unit == "share"

    def called(self, what: str) -> str:
        """The name of a figure of it."""
        if self.name.startswith("at_") and what == "final":
            return self.name
        return f"{self.name}_{what}" if self.name else what


def values(comparison: Comparison) -> Iterator[Value]:
    """The metric at the end, what each budget buys, and other metrics at the end."""
    metric, target = comparison.metric, comparison.target
    words = drawing.words_of(metric)
    after = "at the end" if comparison.tail is None else f"over the last {100 * comparison.tail:g} %"
    yield Value("", metric, f"{words} {after}", itemgetter("final"), target, THEORY.get(metric))
    for number, budget in enumerate(comparison.budgets):
        name = f"at_{budget.stem}"
        yield Value(name, metric, f"{words} by {budget.words}", partial(_of_budget, number), target)
    for name in comparison.more:
        words = f"{drawing.words_of(name)} {after}"
        yield Value(drawing.stem(name), name, words, partial(of_more, name), None, THEORY.get(name))


def _of_budget(number: int, row: dict[str, Any]) -> dict[str, Any]:
    return dict(row["at"][number])


def _ends(comparison: Comparison, value: Value) -> tuple[dict[Group, dict[str, Any]], list[str]]:
    """{mean, half, n} of those groups that have it, and the names of the others."""
    names = short(comparison.groups)
    each = {group: value.of(row) for group, row in zip(comparison.groups, comparison.rows(), strict=True)}
    missing = [names[group] for group, one in each.items() if one["mean"] is None]
    return {group: one for group, one in each.items() if one["mean"] is not None}, missing


def there(comparison: Comparison, value: Value) -> bool:
    """Has any group it?"""
    return any(value.of(row)["mean"] is not None for row in comparison.rows())


def _half(one: dict[str, Any]) -> float:
    """Of its interval; 0 of one seed."""
    return float(one["half"] or 0.0)


def _logarithmic(value: Value, ends: Iterable[dict[str, Any]], more: Iterable[float] = ()) -> bool:
    return not value.share and drawing.spans([*(one["mean"] for one in ends), *more])


def _room(ends: Sequence[dict[str, Any]], log: bool, more: Sequence[float] = ()) -> tuple[float, float]:
    """Limits: all values, their intervals as far as they reach beyond them by half or by what half of the intervals take, and
    what else is drawn: neither one wide interval squeezes the values, nor do differences within noise fill the picture.
    """
    means = [one["mean"] for one in ends]
    wanted = [*means, *(other for other in more if other > 0 or not log)]
    low, high = min(wanted), max(wanted)
    if not log:
        room = max(0.5 * (high - low), 1.1 * statistics.median(map(_half, ends))) or math.inf
        low = max(low - room, min(low, *(one["mean"] - _half(one) for one in ends)))
        high = min(high + room, max(high, *(one["mean"] + _half(one) for one in ends)))
    return drawing.limits(low, high, log)


def _target(value: Value) -> list[float]:
    return [] if value.target is None else [value.target]


def pareto(comparison: Comparison, value: Value) -> Figure:
    """The metric at the end against bytes sent."""
    from matplotlib.lines import Line2D

    ends, missing = _ends(comparison, value)
    totals = {group: row["bytes"] for group, row in zip(comparison.groups, comparison.rows(), strict=True)}
    ends = {group: one for group, one in ends.items() if totals[group] is not None}
    looks, names = drawing.styles_of(comparison.groups), short(comparison.groups)
    sent = [totals[group] for group in ends]
    means = [one["mean"] for one in ends.values()]
    title, unit = drawing.unit_of("bytes", max(sent))
    log = _logarithmic(value, ends.values())
    positive = [x for x in sent if x > 0]
    log_x = drawing.spans(positive)
    zero = min(positive, default=1.0) / 2 / unit  # where those that send nothing stand on a logarithmic scale
    entries = drawing.legend({group: names[group] for group in ends}, looks, linestyle="")
    entries.append((Line2D([], [], color=styles.GREY, linewidth=0.9), "Pareto front"))
    if value.target is not None:
        entries.append((Line2D([], [], **TARGET), f"target {value.target:g}"))
    figure, axes = drawing.figure_of(HEIGHT, entries)
    places = [x / unit if x > 0 or not log_x else zero for x in sent]
    for x, (group, one) in zip(places, ends.items(), strict=True):
        _point(axes, x, one, looks[group], len(ends) <= MANY)
    best = front(sent, means, comparison.known.rises)
    steps = [(places[i], means[i]) for i in best]
    axes.step(*zip(*steps, strict=True), where="post", color=styles.GREY, linewidth=0.9, zorder=2)
    if value.target is not None:
        axes.axhline(value.target, **TARGET, zorder=1)
    axes.set_xlim(*drawing.limits(min(places) if log_x else 0, max(places), log_x))
    axes.set_ylim(*_room(list(ends.values()), log, _target(value)))
    scale(axes.xaxis, "log" if log_x else "linear")
    scale(axes.yaxis, "log" if log else "linear")
    none = [names[group] for group in ends if totals[group] == 0] if log_x else []
    axes.set_xlabel(
        below(
            title,
            drawing.shading(list(ends)),
            f"at the left edge, for it sends nothing: {listed(none)}" if none else "",
            f"no such value: {listed(missing)}" if missing else "",
        )
    )
    axes.set_ylabel(drawing.upright(value.words))
    return figure


def _point(axes: Any, x: float, one: dict[str, Any], look: Style, bar: bool) -> None:
    """A marker with its interval."""
    half = _half(one) if bar else None
    mark: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 4}
    axes.errorbar(x, one["mean"], half, **mark, elinewidth=0.7, capsize=1.5, zorder=3)


def front(sent: Sequence[float], values: Sequence[float], rises: bool) -> list[int]:
    """Indices of those whom nobody beats: of fewer or equal bytes none is better; by bytes."""
    found: list[int] = []
    for i in sorted(range(len(sent)), key=lambda i: (sent[i], -values[i] if rises else values[i])):
        if not found or (values[i] > values[found[-1]] if rises else values[i] < values[found[-1]]):
            found.append(i)
    return found


def _labels(axes: Any, names: Sequence[str]) -> list[float]:
    """Names of groups along the vertical axis, the first on top, each with the room that its lines take; where they stand."""
    heights = list(map(_lines_of, names))
    places = [sum(heights[:number]) + high / 2 for number, high in enumerate(heights)]
    axes.set_yticks(places, list(map(_folded, names)), fontsize=6)
    axes.set_ylim(sum(heights) + 0.03, -0.03)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    return places


def _folded(text: str) -> str:
    return textwrap.fill(text, 30)


def _lines_of(text: str) -> float:
    """Inches."""
    return 0.07 + 0.09 * (1 + _folded(text).count("\n"))


def _height(names: Sequence[str]) -> float:
    return 0.55 + sum(map(_lines_of, names))


def final(comparison: Comparison, value: Value) -> Figure:
    """A value, a line a group."""
    ends, missing = _ends(comparison, value)
    looks, all_names = drawing.styles_of(comparison.groups), short(comparison.groups)
    names = [all_names[group] for group in ends]
    figure, axes = drawing.figure_of(_height(names), [])
    for place, (group, one) in zip(_labels(axes, names), ends.items(), strict=True):
        mark: dict[str, Any] = {"color": looks[group].colour, "marker": looks[group].marker, "markersize": 4}
        axes.errorbar(one["mean"], place, xerr=_half(one), **mark, elinewidth=0.8, capsize=1.5)
    if value.target is not None:
        axes.axvline(value.target, **TARGET, zorder=1)
    log = _logarithmic(value, ends.values())
    axes.set_xlim(*_room(list(ends.values()), log, _target(value)))
    scale(axes.xaxis, "log" if log else "linear")
    target = f"dashed: target {value.target:g}" if value.target is not None else ""
    none = f"no such value: {listed(missing)}" if missing else ""
    axes.set_xlabel(below(value.words, target, none, width=40))
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


def _lines(groups: Sequence[Group], key: str) -> dict[Group, list[Group]]:
    """Groups that differ in this key alone, by its value, below a group of their own: the first of them, without the key."""
    lines: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        lines.setdefault(tuple(value for one, value in group.values.items() if one != key), []).append(group)
    found = {}
    for some in lines.values():
        rest = {one: value for one, value in some[0].values.items() if one != key}
        head = replace(some[0], entries=some[0].counted, values=rest, named=some[0].named - {key})
        found[head] = sorted(some, key=lambda group: group.keys[key])
    return found


def against(comparison: Comparison, key: str, value: Value) -> Figure:
    """A value against a key, a line for groups that differ in it alone; rings: what theory says of it, where runs log that."""
    from matplotlib.lines import Line2D

    ends, missing = _ends(comparison, value)
    names = short(comparison.groups)
    missing += [names[group] for group in ends if not _number(group.keys.get(key))]
    lines = _lines([group for group in ends if _number(group.keys.get(key))], key)
    shown = [group for some in lines.values() for group in some]
    told = {group: _theory(comparison, group, value) for group in shown}
    theory = {group: one for group, one in told.items() if one is not None}
    looks = drawing.styles_of(list(lines))
    xs = [float(group.keys[key]) for group in shown]
    log, log_x = _logarithmic(value, [ends[group] for group in shown]), drawing.spans(xs) or drawing.doubles(xs)
    entries = drawing.legend({head: head.label for head in lines}, looks)
    ring: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 6, "markerfacecolor": "none", "markeredgewidth": 0.7}
    if theory:
        entries.append((Line2D([], [], color=styles.GREY, **ring), "theory"))
    if value.target is not None:
        entries.append((Line2D([], [], **TARGET), f"target {value.target:g}"))
    figure, axes = drawing.figure_of(HEIGHT, entries)
    for head, some in lines.items():
        x, y = [float(group.keys[key]) for group in some], [ends[group]["mean"] for group in some]
        line = looks[head].line(elinewidth=0.7, capsize=1.5, markersize=3.5)
        axes.errorbar(x, y, [_half(ends[group]) for group in some], **line)
        for group in some:
            if group in theory:
                axes.plot([group.keys[key]], [theory[group]], color=looks[head].colour, **ring, zorder=4)
    if value.target is not None:
        axes.axhline(value.target, **TARGET, zorder=1)
    axes.set_xlim(*drawing.limits(min(xs), max(xs), log_x))
    axes.set_ylim(*_room([ends[group] for group in shown], log, [*_target(value), *theory.values()]))
    scale(axes.xaxis, "log" if log_x else "linear")
    drawing.ticks(axes.xaxis, xs, log_x)
    scale(axes.yaxis, "log" if log else "linear")
    none = f"no such value, or no {key}: {listed(missing)}" if missing else ""
    axes.set_xlabel(below(drawing.words_of(key), drawing.shading(list(lines)), none))
    axes.set_ylabel(drawing.upright(value.words))
    return figure


def _theory(comparison: Comparison, group: Group, value: Value) -> float | None:
    """The same end of what theory says of it, the mean over seeds."""
    if value.theory is None:
        return None
    each = [measures.end(entry, value.theory, comparison.tail) for entry in group.counted]
    each = [one for one in each if math.isfinite(one)]
    return sum(each) / len(each) if each else None


def zetas(comparison: Comparison) -> dict[Group, float]:
    """Of groups whose matrices have one."""
    rows = zip(comparison.groups, comparison.rows(), strict=True)
    return {group: row["zeta"] for group, row in rows if row["zeta"] is not None}


def against_zeta(comparison: Comparison, value: Value) -> Figure:
    """A value against zeta of the matrices. Where groups of an algorithm differ in one number alone, that number stands at its
    points, and a thin line joins them in its order.
    """
    ends, missing = _ends(comparison, value)
    zeta, names = zetas(comparison), short(comparison.groups)
    missing += [names[group] for group in ends if group not in zeta]
    shown = {group: one for group, one in ends.items() if group in zeta}
    looks = drawing.styles_of(comparison.groups)
    figure, axes = drawing.figure_of(HEIGHT, drawing.legend({group: names[group] for group in shown}, looks, linestyle=""))
    for group, one in shown.items():
        _point(axes, zeta[group], one, looks[group], len(shown) <= MANY)
    keys = numeric(comparison)
    if len(keys) == 1 and len(shown) <= MANY:
        for some in _lines([group for group in shown if _number(group.keys.get(keys[0]))], keys[0]).values():
            x, y = [zeta[group] for group in some], [shown[group]["mean"] for group in some]
            axes.plot(x, y, color=looks[some[0]].colour, linewidth=0.6, zorder=2)
            for number, group in enumerate(some):  # neighbours on either side
                at, side = (zeta[group], shown[group]["mean"]), -1 if number % 2 else 1
                place: dict[str, Any] = {"xytext": (4 * side, 3), "ha": "left" if side > 0 else "right"}
                said = f"{group.keys[keys[0]]:g}"
                axes.annotate(said, at, textcoords="offset points", fontsize=6, zorder=4, **place)
    log = _logarithmic(value, shown.values())
    axes.set_xlim(*drawing.limits(min(zeta[group] for group in shown), max(zeta[group] for group in shown), False))
    axes.set_ylim(*_room(list(shown.values()), log, _target(value)))
    scale(axes.xaxis, "linear")
    scale(axes.yaxis, "log" if log else "linear")
    none = f"no such value, or no zeta: {listed(missing)}" if missing else ""
    axes.set_xlabel(below("ζ of W", drawing.shading(list(shown)), none))
    axes.set_ylabel(drawing.upright(value.words))
    return figure


def time(comparison: Comparison) -> Figure:
    """Where the seconds went, a bar a group."""
    from matplotlib.patches import Patch

    rows = {g: row for g, row in zip(comparison.groups, comparison.rows(), strict=True) if row["train_s"] is not None}
    entries = [(Patch(facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0), words) for words, colour, hatch in PARTS]
    names = [text for group, text in short(comparison.groups).items() if group in rows]
    figure, axes = drawing.figure_of(_height(names), entries)
    for place, row in zip(_labels(axes, names), rows.values(), strict=True):
        train, comm, wall = row["train_s"], row["comm_s"] or 0.0, row["wall_s"] or row["train_s"]
        start = 0.0
        for (_, colour, hatch), long in zip(PARTS, (max(train - comm, 0.0), comm, max(wall - train, 0.0)), strict=True):
            axes.barh(place, long, 0.11, left=start, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
            start += long
    scale(axes.xaxis, "linear")
    axes.set_xlabel("seconds of a run on this machine")
    return figure
