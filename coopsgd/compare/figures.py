"""Figures of a comparison, for print: a column wide, in colours and markers that stay apart in grey, the legend below the axes.

by_AXIS       the metric against steps, samples, bytes, seconds, simulated seconds, rounds, with 95 % bands over seeds
consensus     how far workers are from their mean, against the comparison's axis; METRIC: the same of each further metric
pareto        the metric at the end against bytes sent, and the front: whom nobody beats in both
final         the metric at the end, group by group, with its 95 % interval
against_KEY   the same against a number in which groups differ (tau, optim.lr), where there are three values or more
against_zeta  the same against zeta of the matrices, where they have three or more
at_BUDGET     the metric by a budget, group by group; at_BUDGET_against_KEY; of further metrics METRIC_final, METRIC_against_KEY
time          seconds a run: computing, communicating, evaluating

A scale is logarithmic where what is drawn on it is positive and spans a decade: values of the metric (never a share), ends of
runs on the horizontal axis. A run that diverged is marked where its last finite value is, at the edge where that is beyond it,
and has a thin line of its own where other seeds did not diverge: the mean is over those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from coopsgd.compare import curves, drawing, ends
from coopsgd.compare.comparison import Comparison
from coopsgd.compare.measures import AXES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Drawing(NamedTuple):
    """A figure's name, which its files have, what it shows in a line, and what draws it."""

    name: str
    about: str
    draw: Callable[[], Figure]


def drawings(comparison: Comparison) -> Iterator[Drawing]:
    """All for which there are numbers."""
    words = drawing.words_of(comparison.metric)
    band = "; bands: 95 % interval of the mean over seeds" if len(comparison.groups) <= drawing.MANY else ""
    for axis in AXES:
        if any((comparison.curve(group, axis).x > 0).any() for group in comparison.groups):
            about = f"{words} against {AXES[axis][1]}{band}"
            yield Drawing(f"by_{axis}", about, partial(curves.curves, comparison, axis))
    for metric in dict.fromkeys(("consensus", *comparison.more)):
        other = replace(comparison, metric=metric, target=None)
        if metric != comparison.metric and any(len(other.curve(group).x) for group in comparison.groups):
            about = f"{drawing.words_of(metric)} against {AXES[comparison.axis][1]}{band}"
            yield Drawing(drawing.stem(metric), about, partial(curves.curves, other, comparison.axis))
    rows = comparison.rows()
    for value in ends.values(comparison):
        if ends.there(comparison, value):
            yield from _of(comparison, value)
    if any(row["train_s"] is not None for row in rows):
        yield Drawing("time", "seconds of a run, the mean over seeds", partial(ends.time, comparison))


def _of(comparison: Comparison, value: ends.Value) -> Iterator[Drawing]:
    """All of one value a group."""
    interval = "with its 95 % interval over seeds"
    if not value.name and any(row["bytes"] is not None for row in comparison.rows()):
        about = f"{value.words}, against bytes sent; the line is the Pareto front"
        yield Drawing("pareto", about, partial(ends.pareto, comparison, value))
    yield Drawing(value.called("final"), f"{value.words}, {interval}", partial(ends.final, comparison, value))
    for key in ends.numeric(comparison):
        about = f"{value.words}, against {key}, {interval}"
        yield Drawing(value.called(f"against_{drawing.stem(key)}"), about, partial(ends.against, comparison, key, value))
    if len({round(zeta, 12) for zeta in ends.zetas(comparison).values()}) >= ends.LEAST:
        about = f"{value.words}, against zeta, {interval}"
        yield Drawing(value.called("against_zeta"), about, partial(ends.against_zeta, comparison, value))
