"""A comparison of runs: groups, an axis, a metric, and what there is to say of them: curves, tables, when a target is reached.

comparison = Comparison.of(["multirun/2030-01-31/12-00-00"], by="bytes", metric="eval/accuracy", target=0.9)
for group in comparison.groups:
    x, mean, low, high, n = comparison.curve(group)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from coopsgd.compare import entries as reading
from coopsgd.compare import measures
from coopsgd.compare.entries import BROKEN, ENDED, Entry
from coopsgd.compare.groups import Group, grouped, half, interval, said
from coopsgd.compare.measures import AXES, Budget
from coopsgd.errors import ConfigError, DamagedFile
from coopsgd.registry import did_you_mean
from coopsgd.run import simulated
from coopsgd.run.schema import METRICS, Metric

TOTALS = ("step", "rounds", "messages", "bytes", "train_s", "comm_s", "wall_s", "sim_s")  # of the last line
ALONG = (
    "eval/loss",
    "eval/accuracy",
    "eval/r2",
    "eval/f1",
    "eval/accuracy_worst",
    "train/loss",
    "consensus",
)  # that curves show besides the metric
THEORY = {"consensus": "theory/consensus", "eval/grad2_mean": "theory/bound"}  # a metric, and what theory says of it
MOST = 1000  # points of a curve over seeds that were looked at in different places


class Curve(NamedTuple):
    """Of so many seeds at each x: their mean and its 95 % interval, which of one seed is the mean itself."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray


class Reached(NamedTuple):
    """How many runs of how many come to the target for good, and the mean of those when they do, by axis."""

    runs: int
    of: int
    at: dict[str, float]


@dataclass(eq=False)
class Comparison:
    """Groups of runs, compared by one metric.

    differing: the keys in which groups differ, the algorithm's name first. axis: one of AXES. metric: a name of metrics.jsonl.
    target: of the metric, None for none. more: other metrics, of which only the end is shown. tail: the end is the mean over
    the last such share of a run's steps; None: the last value. budgets: amounts on axes, at each of which the metric is shown.
    columns: of the table, which show; all by default. cluster: whose clock sim_seconds is, where it is not the runs' own.
    notes: what a reader of the table should know.
    """

    groups: list[Group]
    differing: list[str]
    axis: str
    metric: str
    target: float | None = None
    more: Sequence[str] = ()
    tail: float | None = None
    budgets: Sequence[Budget] = ()
    columns: Sequence[str] = ()
    cluster: str | None = None
    notes: list[str] = field(default_factory=list)

    @staticmethod
    def of(
        folders: Sequence[str],
        by: str = "steps",
        metric: str | Sequence[str] = "eval/loss",
        target: float | None = None,
        tail: float | None = None,
        at: Sequence[str] = (),
        column: Sequence[str] = (),
        group: Sequence[str] = (),
        best_of: str | None = None,
        cluster: str | None = None,
        trust: bool = False,
        progress: Callable[[str], None] | None = None,
        along: bool = True,
    ) -> Comparison:
        """The comparison of all runs in these folders and below them. ConfigError names what cannot be.

        metric: of several the first is what is compared, the others are `more`. at: budgets, as `bytes=50MB`. along: read what
        figures show besides the metric, ALONG; a table does without.
        """
        if by not in AXES:
            raise ConfigError(f"--by: must be one of {', '.join(AXES)}, got {by!r}{did_you_mean(by, list(AXES))}")
        if target is not None and not math.isfinite(target):
            raise ConfigError(f"--target: must be a finite number, got {target}")
        if tail is not None and not 0 < tail <= 1:
            raise ConfigError(f"--tail: must be a share of a run, above 0 and at most 1, as 0.1 for the last tenth, got {tail}")
        budgets = list(dict.fromkeys(map(Budget.of, at)))
        metric, *more = dict.fromkeys([metric] if isinstance(metric, str) else metric)
        entries = reading.found(folders)
        if progress is not None:
            progress(f"reading {len(entries)} runs")
        ends_alone = not (along or budgets or tail or cluster or target is not None or by == "sim_seconds")
        names = [
            metric,
            *more,
            *TOTALS,
            *(column for column, _ in AXES.values() if not ends_alone),
            *((*ALONG, *THEORY.values()) if along else ()),
        ]
        reading.read(entries, names, of=[metric, *more], ends=TOTALS if ends_alone else ())
        for one in (metric, *more):
            _refuse_metric(one, entries)
        notes = [f"{entry.name} cannot be read ({entry.why})" for entry in entries if entry.status == BROKEN]
        cluster, about = _clock(entries, cluster, {by, *(budget.axis for budget in budgets)})
        groups = grouped(entries, group, trust)
        differing, notes = list(groups[0].values), [*notes, *about]
        found = Comparison(groups, differing, by, metric, target, more, tail, budgets, column, cluster, notes)
        if best_of is not None:
            found = found._best_of(best_of)
        found.notes += found._warnings()
        return found

    @property
    def known(self) -> Metric:
        """What the schema says of the metric; of one that a task of the user's own adds, that less is better."""
        return METRICS.get(self.metric) or Metric(self.metric, "", "", "of a task of the user's own")

    # numbers of a run

    def values(self, entry: Entry, axis: str | None = None, metric: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(points,) of the axis and of the metric, or of another one of ALONG, where both are there."""
        names = AXES[axis or self.axis][0], metric or self.metric
        x, y = (entry.columns.get(name, np.zeros(0)) for name in names)
        there = ~(np.isnan(x) | np.isnan(y))
        return x[there], y[there]

    def reached(self, entry: Entry) -> dict[str, float] | None:
        """By axis, where a run comes to the target for good. None: never."""
        return measures.reached(entry, self.metric, self.target, self.known.rises)

    # numbers of a group

    def curve(self, group: Group, axis: str | None = None, metric: str | None = None) -> Curve:
        """The metric (or another one of ALONG) against the axis, over the group's seeds.

        Where seeds were looked at in other places (at other seconds, say), each is interpolated between what was measured of
        it, and counts in no place beyond that: n says how many do.
        """
        each = [(x, y) for entry in group.counted if len((pair := self.values(entry, axis, metric))[0]) for x, y in [pair]]
        if not each:
            return Curve(*(np.zeros(0) for _ in range(5)))
        x = np.unique(np.concatenate([one for one, _ in each]))
        if len(x) > MOST and len(each) > 1:
            x = np.quantile(x, np.linspace(0, 1, MOST))
        table = np.array([np.interp(x, *pair, left=math.nan, right=math.nan) for pair in map(_rising, each)])
        n = (~np.isnan(table)).sum(0)
        there = n > 0
        x, table, n = x[there], table[:, there], n[there]
        mean = np.nanmean(table, axis=0)
        wide = np.zeros(len(x))
        for many in np.unique(n[n > 1]):
            where = n == many
            wide[where] = [half(d, int(many)) for d in np.nanstd(table[:, where], axis=0, ddof=1)]
        return Curve(x, mean, mean - wide, mean + wide, n)

    def reached_by(self, group: Group) -> Reached:
        """The same of a group: how many of its runs, and the mean over them."""
        each = [at for entry in group.counted if (at := self.reached(entry)) is not None]
        at = {axis: float(np.mean([one[axis] for one in each])) for axis in AXES if each and all(axis in one for one in each)}
        return Reached(len(each), len(group.counted), at)

    def row(self, group: Group) -> dict[str, Any]:
        """A line of the table: label, status, runs, keys that differ, zeta, final and best metric, what budgets buy, totals,
        the way to the target.

        final, best, each of more and of at are {mean, half, n}: the mean over seeds, half of its 95 % interval (null of one
        seed), and of how many. Null is what there is not.
        """
        counted = group.counted
        found: dict[str, Any] = {
            "label": group.label,
            "algo": group.algo,
            "keys": {key: group.keys.get(key, said(None)) for key in group.values},
            "status": group.status(),
            "runs": len(counted),
            "folders": [str(entry.folder) for entry in group.entries],
        }
        found["zeta"] = _mean(entry.summary.get("zeta") for entry in counted)
        found["final"] = _spread(measures.end(entry, self.metric, self.tail) for entry in counted)
        found["best"] = _spread(measures.best(entry, self.metric, self.known.rises) for entry in counted)
        found["more"] = {name: _spread(measures.end(entry, name, self.tail) for entry in counted) for name in self.more}
        found["at"] = [self._at(counted, budget) for budget in self.budgets]
        for name in TOTALS:
            found[name] = _mean(entry.last(name) for entry in counted)
        if self.target is not None:
            runs, of, at = self.reached_by(group)
            found["reached"] = {"runs": runs, "of": of, **{axis: _finite(at.get(axis, math.nan)) for axis in AXES}}
        return found

    def _at(self, counted: Sequence[Entry], budget: Budget) -> dict[str, Any]:
        """What these runs have within a budget, and the step at which they have it."""
        each = [measures.within(entry, self.metric, budget) for entry in counted]
        spread = _spread(one.value for one in each)
        return {"axis": budget.axis, "amount": budget.most, **spread, "step": _mean(one.step for one in each)}

    def rows(self) -> list[dict[str, Any]]:
        """One a group."""
        return self._rows

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return [self.row(group) for group in self.groups]

    def facts(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "metric": self.metric,
            "better": "more" if self.known.rises else "less",
            "by": self.axis,
            "target": self.target,
            "tail": self.tail,
            "cluster": self.cluster,
            "differing": self.differing,
            "groups": self.rows(),
            "notes": self.notes,
        }

    # within

    def _best_of(self, key: str) -> Comparison:
        """The same, of groups that differ in this key alone the best one."""
        known = {name for group in self.groups for name in group.keys}
        if key not in known:
            raise ConfigError(f"--best-of: no run has a key {key!r}{did_you_mean(key, sorted(known))}")
        alike: dict[tuple[Any, ...], list[Group]] = {}
        for group in self.groups:
            alike.setdefault(tuple(v for k, v in group.values.items() if k != key), []).append(group)
        kept, notes = [], []
        for some in alike.values():
            ranked = sorted(some, key=self._rank)
            kept.append(ranked[0])
            tried = sorted((group.keys.get(key) for group in some), key=lambda value: (str(type(value)), value))
            if len(tried) > 2 and ranked[0].keys.get(key) in (tried[0], tried[-1]):
                at = "smallest" if ranked[0].keys.get(key) == tried[0] else "largest"
                notes.append(f"{ranked[0].label}: {key} is the {at} that was tried; a better one may lie beyond")
        if all(len(some) == 1 for some in alike.values()):
            notes.append(f"--best-of {key}: no two groups differ in it alone, so there was nothing to choose")
        return replace(self, groups=kept, notes=[*self.notes, *notes])

    def _rank(self, group: Group) -> tuple[bool, float]:
        row = self.row(group)
        mean = (row["at"][0] if self.budgets else row["final"])["mean"]
        return mean is None, math.inf if mean is None else -mean if self.known.rises else mean

    def _warnings(self) -> list[str]:
        notes = []
        for group in self.groups:
            seeds = [entry.seed for entry in group.entries if entry.status in ENDED]
            if copies := len(seeds) - len(set(seeds)):
                notes.append(f"{group.label}: {copies} of {len(seeds)} runs have a seed of another; each seed counts once")
            others = [entry for entry in group.entries if entry.status not in (*ENDED, BROKEN)]
            counted = group.counted
            if left := [entry for entry in others if entry not in counted]:
                names = ", ".join(f"{entry.name} ({entry.status})" for entry in left)
                notes.append(f"{group.label}: not counted, for they have not come to their end: {names}")
            if diverged := [entry for entry in counted if entry.status == "diverged"]:
                rest = "the final mean is over the others" if len(diverged) < len(counted) else "there is no final value"
                notes.append(f"{group.label}: {len(diverged)} of {len(counted)} runs diverged; {rest}")
        notes += [note for budget in self.budgets for note in self._of_budget(budget)]
        algos = {group.algo for group in self.groups}
        rates = {said(group.keys.get("optim.lr")) for group in self.groups if "optim.lr" in group.keys}
        if len(algos) > 1 and len(rates) == 1 and "optim.lr" not in self.differing:
            notes.append(
                f"all algorithms ran at optim.lr={rates.pop()}, which may suit one better than another; sweep optim.lr and add "
                "--best-of optim.lr for a fair comparison"
            )
        if self.target is not None and self.metric not in METRICS:
            notes.append(f"--target: {self.metric} is of a task of the user's own; reached is at most {self.target:g}")
        return notes

    def _of_budget(self, budget: Budget) -> list[str]:
        """Which groups end before it is used up, and which were not evaluated by then."""
        short, never = [], []
        for group in self.groups:
            each = [entry for entry in group.counted if entry.status != "diverged" or not measures.ended_within(entry, budget)]
            if lacking := [entry for entry in each if math.isnan(measures.within(entry, self.metric, budget).value)]:
                never.append(_some(group, lacking))
            if ending := [entry for entry in each if entry not in lacking and measures.ended_within(entry, budget)]:
                short.append(_some(group, ending))
        notes = [f"by {budget.words}, ended before it, so their last value: {', '.join(short)}"] if short else []
        if never:
            notes.append(f"by {budget.words}, not evaluated after the start (eval_every= says how often): {', '.join(never)}")
        return notes


def _some(group: Group, entries: Sequence[Entry]) -> str:
    """A group, and how many of its runs, where not all."""
    of = len(group.counted)
    return group.label if len(entries) == of else f"{group.label} ({len(entries)} of {of} runs)"


def _spread(values: Iterable[float]) -> dict[str, Any]:
    """Mean, half of its 95 % interval and number of those that are there."""
    there = [value for value in values if not math.isnan(value)]
    mean, wide = interval(there)
    return {"mean": _finite(mean), "half": _finite(wide), "n": len(there)}


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there."""
    there = [float(value) for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(there)) if there else None


def _rising(pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Points of increasing x; of several at one x the last."""
    x, y = pair
    _, last = np.unique(x[::-1], return_index=True)
    keep = len(x) - 1 - last
    return x[keep], y[keep]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _refuse_metric(metric: str, entries: Sequence[Entry]) -> None:
    """ConfigError where no run has this metric."""
    readable = [entry for entry in entries if entry.status != BROKEN]
    if not readable or any((~np.isnan(entry.columns.get(metric, np.zeros(0)))).any() for entry in readable):
        return
    if metric in METRICS:
        raise ConfigError(f"--metric: no run has a value of {metric}, which is on {METRICS[metric].when}; use eval/loss")
    own: set[str] = set()
    for entry in readable[:20]:
        with suppress(OSError):
            own |= {name for point in reading.log_points(entry.folder / "metrics.jsonl")[-20:] for name in point}
    names = sorted({*METRICS, *own})
    raise ConfigError(f"--metric: no metric named {metric!r}{did_you_mean(metric, names)}; known: {', '.join(names)}")


def _clock(entries: Sequence[Entry], cluster: str | None, axes: Collection[str]) -> tuple[str | None, list[str]]:
    """Give runs the seconds of another cluster, as `coopsgd time` left them: of the one that is named; where sim_seconds are
    asked for and no run has its own, of the only one there is.
    """
    own = [entry for entry in entries if not np.isnan(entry.columns.get("sim_s", np.zeros(0))).all()]
    if cluster is None and ("sim_seconds" not in axes or own):
        clocks = {
            said(entry.summary["cluster"].get("about")) for entry in own if isinstance(entry.summary.get("cluster"), dict)
        }
        several = f"sim_seconds are of {len(clocks)} different clusters; --cluster takes one that `coopsgd time` left"
        return None, [several] if len(clocks) > 1 and "sim_seconds" in axes else []
    if cluster is None:
        names = [{path.stem for path in (entry.folder / simulated.FOLDER).glob("*.jsonl")} for entry in entries]
        common = set.intersection(*names) if names else set()
        if len(common) != 1:
            there = f"; all were timed on {', '.join(sorted(common))}: choose one by --cluster" if common else ""
            raise ConfigError(
                f"sim_seconds: no run has a clock{there}; train with cluster=NAME, or coopsgd time RUN... cluster=NAME"
            )
        (cluster,) = common
    for entry in entries:
        if entry.status == BROKEN:
            continue
        try:
            points = simulated.read(entry.folder, cluster)
        except (LookupError, DamagedFile) as error:
            raise ConfigError(f"--cluster {cluster}: {error.args[0]}") from None
        at = {point["step"]: float(point["sim_s"]) for point in points}
        entry.columns["sim_s"] = np.array([at.get(int(step), math.nan) for step in entry.columns["step"]])
    return cluster, []
