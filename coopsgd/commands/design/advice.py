"""What `design` says to somebody who has never seen it: take this, it is so much better than what everybody does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from coopsgd.commands.design.ranking import Entry
from coopsgd.commands.design.study import Study
from coopsgd.run.schema import label

BASELINES = {"fullsync": "all-reduce of every gradient (fullsync)", "pasgd": "periodic averaging (pasgd)"}
TIE = 0.01  # of the first choice's seconds or error: so near, the prediction tells no difference
COLUMNS = {  # of the table, each explained once below it
    "rank": "the best first; those marked = are tied",
    "algorithm": "words for `coopsgd train`",
    "zeta": "how slowly workers agree, 0: at once, 1: never",
    "tau_eq": "the period at which plain averaging lets workers drift as far apart",
    "sent a step": "by a worker, the mean over steps",
    "time a step": "on the cluster's clock, the mean over all steps",
    "steps": "as many as the budget has room for, or as the target needs",
    "seconds": "on the cluster's clock until these steps are over",
    label("eval/loss"): "predicted after these steps",
    "gradient²": "mean squared gradient over these steps, estimated",
    "floor": "the least that it comes to within all steps that were looked at",
    "long run": "of a step, by the maximum cycle mean of rounds without barriers",
}


def baselines(entries: Sequence[Entry]) -> dict[str, int]:
    """Of each of BASELINES that was searched its best place in the ranking, from 1."""
    found: dict[str, int] = {}
    for rank, entry in enumerate(entries, 1):
        name = entry.candidate.config.algo["name"]
        if name in BASELINES and entry.candidate.plain is None:
            found.setdefault(name, rank)
    return found


def ties(study: Study) -> int:
    """How many at the head of the ranking are within TIE of the first, itself included."""
    values = [_value(study, entry) for entry in study.entries]
    if not values or not math.isfinite(values[0]):
        return 0
    return sum(value <= (1 + TIE) * values[0] for value in values)


def taken(study: Study) -> Entry:
    """Of those that are tied with the first the one that sends least, of equals one without an outer step, then the better."""
    return min(study.entries[: max(1, ties(study))], key=lambda entry: (entry.bytes_per_step, bool(entry.candidate.outer)))


def wanted(study: Study, seconds: Any) -> str:
    """What it is ranked by, and where that is from."""
    if study.goal.target is not None:
        return f"the seconds until the {label('eval/loss')} is at most {study.goal.target:g} (--target-loss)"
    budget = f"the {_measure(study)} after a budget of {seconds(study.goal.budget)}"
    if study.quickest is None:
        return f"{budget} (--budget-seconds)"
    steps = len(study.entries[0].times)
    return (
        f"{budget}, which is what the quickest, {study.quickest}, takes for all {steps} steps (--budget-seconds sets another)"
    )


def _value(study: Study, entry: Entry) -> float:
    """What it is ranked by."""
    return entry.error if study.goal.target is None else entry.seconds


def _measure(study: Study) -> str:
    """What is predicted, in words."""
    return "mean squared gradient" if study.pilots is None else label("eval/loss")


def sentence(study: Study, seconds: Any) -> str:
    """What to take, what it sends and when it is there, beside an all-reduce of every gradient; and what else is as good."""
    first, tied = taken(study), ties(study)
    among = f" {tied} are tied; of these it sends least." if tied > 1 else ""
    return _sentence(study, first, seconds) + among


def _sentence(study: Study, first: Entry, seconds: Any) -> str:
    name, measure = first.candidate.label.removeprefix("algo="), _measure(study)
    full = baselines(study.entries).get("fullsync")
    other = None if full is None else study.entries[full - 1]
    if study.goal.target is not None:
        goal = f"a {label('eval/loss')} of {study.goal.target:g}"
        if not math.isfinite(first.seconds):
            return f"None of them is predicted to reach {goal} within {len(first.times)} steps: raise steps or the target."
        what = f"reaches {goal} in {seconds(first.seconds)}"
        than = None if other is None else f"in {seconds(other.seconds)}" if math.isfinite(other.seconds) else ""
    else:
        what = f"is at a {measure} of {first.error:.4g} after {seconds(study.goal.budget)}"
        than = None if other is None else f"{other.error:.4g}" if math.isfinite(other.error) else ""
    if other is None:
        return f"Take {name}: it {what}."
    if other is first:
        return f"Take {name}: nothing that sends less is better here; it {what}."
    less = other.bytes_per_step / first.bytes_per_step if first.bytes_per_step else math.inf
    full_name = BASELINES["fullsync"]
    if less >= 1.05:
        sends = f"sends {less:.3g} times less than {full_name}"
    else:
        sends = f"sends as much as {full_name}" if 1 / less < 1.05 else f"sends {1 / less:.3g} times what {full_name} does"
    if study.goal.target is not None:
        never = f"all-reduce does not get there within {len(other.times)} steps"
    else:
        never = "all-reduce diverges" if other.steps else "all-reduce has not taken a step by then"
    rest = f"instead of {than}" if than else f"({never})"
    return f"Take {name}: it {sends} and {what} {rest}."
