"""The whole of `coopsgd design`: search, fly the pilots, predict, rank, and check the ranking by running it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from coopsgd.commands.design import ranking
from coopsgd.commands.design.candidates import Candidate, candidates
from coopsgd.commands.design.pilots import LOOKS, Pilots, fly, in_one_process, periods, stepping
from coopsgd.commands.design.ranking import Drift, Entry, Goal
from coopsgd.errors import ConfigError
from coopsgd.predict.mixed import not_plain
from coopsgd.predict.rehearsal import rehearse
from coopsgd.predict.setting import moves
from coopsgd.run.progress import Progress
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import Config
from coopsgd.tasks.known import Known

LEAST = 8  # steps: a pilot of more than one local step a round has two rounds
Run = Callable[[Config, Path], list[dict[str, Any]]]  # trains a config in a folder; its metrics
Timed = tuple[Candidate, Drift, np.ndarray]  # with its seconds after each step


@dataclass(frozen=True)
class Checked:
    """One candidate run for real."""

    entry: Entry
    rank: int  # predicted, from 1
    times: np.ndarray  # sim_s at each look
    losses: np.ndarray  # eval/loss there
    value: float  # the loss at the end of the budget, or the seconds to the target (inf: not reached)


@dataclass(frozen=True)
class Verdict:
    """How the predicted ranking did among the candidates that were run."""

    runs: list[Checked]
    tau: float  # Kendall's, of predicted and measured order
    best: Checked
    regret_s: float  # seconds lost by taking the first choice instead of the best; inf: it never gets there; nan: nobody does
    regret: float  # as a share of the best one's seconds to the target, or of the first one's whole run


@dataclass(frozen=True)
class Study:
    """What came of it."""

    goal: Goal
    pilots: Pilots | None
    entries: list[Entry]  # the best first
    searched: int
    beyond: int  # how many drift further than any pilot, or without pilots have too large a rate, of which nothing can be said
    verdict: Verdict | None = None
    quickest: str | None = None  # whose seconds for all steps are the budget; None where one was given, or a target
    untold: tuple[Untold, ...] = ()  # outer steps of which pilots cannot say that they do anything; they are not ranked


class Untold(NamedTuple):
    """An outer step that pilots cannot tell from another, or from none, at these taus."""

    outer: str
    other: str
    taus: tuple[int, ...]


def study(
    parts: Parts,
    words: Sequence[str],
    folder: Path,
    run: Run,
    *,
    budget: float | None = None,
    target: float | None = None,
    known: Known | None = None,
    alone: bool = False,
    config_dir: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Study:
    """Rank the candidates for a base's task, workers and cluster within its steps; `parts` are the base's.

    alone: by theory alone, from `known`; no pilots. Without budget and target the budget is what the quickest candidate takes
    for all its steps. ConfigError when there is nothing to rank or no candidate reaches the goal.
    """
    base = parts.config
    _refuse(parts, budget, target, known, alone)
    say(f"searching for {base.workers} workers, task {base.task['name']}, {base.steps} steps; what is run goes to {folder}")
    found = candidates(parts, words, config_dir)
    if alone:
        found = [one for one in found if not one.outer]
    drifting = [(c, drift) for c, drift in zip(found, Drift.of(found), strict=True) if drift is not None]
    progress, timed, clocked = Progress("on the cluster's clock", len(drifting)), list[Timed](), dict[int, np.ndarray]()
    for number, (c, drift) in enumerate(drifting):
        progress.at(number, c.label)
        if id(c.plain) not in clocked:  # an outer step takes no time and sends nothing
            clocked[id(c)] = rehearse(c.parts, base.steps)
        timed.append((c, drift, clocked[id(c.plain if id(c.plain) in clocked else c)]))
    progress.close()
    if not timed:
        raise ConfigError(
            f"algo: none with {' '.join(words) or 'these words'} has a theory to rank it by: that takes a schedule that is "
            "known and reaches consensus; name another, or fix fewer keys"
        )
    say(f"{len(timed)} algorithms for {base.workers} workers")
    quickest = None
    if budget is None and target is None:
        budget, quickest = min((float(times[-1]), c.label) for c, _, times in timed)
    goal = Goal(budget, target)
    if budget is not None:
        _affordable(budget, [(c, times) for c, _, times in timed])
    pilots, untold = None, tuple[Untold, ...]()
    if not alone:
        outers = _outers([c for c, _, _ in timed])
        number = len(periods(base)) + sum(len(stepping(base, taus)) for _, taus in outers.values())
        say(f"{number} pilots of periodic averaging are flown" + ", with outer steps and without" * bool(outers))
        pilots = fly(base, folder, run, outers)
        timed, untold = _told(timed, pilots)
    drifts = Drift.contracted([(c, drift) for c, drift, _ in timed], pilots.kept if pilots else 1.0)
    entries = [
        ranking.predicted(c, drift, times, goal, pilots, known)
        for (c, _, times), drift in zip(timed, drifts, strict=True)
        if drift is not None
    ]
    if pilots is not None:
        entries = [e for e in entries if e.tau_eq is not None and e.tau_eq <= pilots.taus[-1] * (1 + 1e-9)]
    elif budget is not None:
        entries = [e for e in entries if math.isfinite(e.floor)]
    if not entries:
        raise ConfigError(_nobody(len(timed), pilots))
    over = sum(budget is not None and float(times[-1]) < budget for _, _, times in timed)
    if over:
        say(f"{over} of them have taken all {base.steps} steps before {budget:g} s are over; more steps would let them go on")
    if target is not None and (floor := min(e.floor for e in entries)) > target:
        best = min(entries, key=lambda e: e.floor)
        raise ConfigError(
            f"target loss {target}: below the predicted floor {floor:.4g}, which {best.candidate.label} comes to in "
            f"{base.steps} steps; more steps, another optim.lr or a larger batch_size would lower it"
        )
    ranked = sorted(entries, key=goal.order)
    return Study(goal, pilots, ranked, len(timed), len(timed) - len(entries), quickest=quickest, untold=untold)


def _outers(some: Sequence[Candidate]) -> dict[str, tuple[Any, set[int]]]:
    """The outer steps among them: what each means, and with which taus it is tried."""
    found: dict[str, tuple[Any, set[int]]] = {}
    for one in some:
        if one.outer:
            found.setdefault(one.outer, (one.config.outer, set()))[1].add(int(one.config.tau))
    return found


def _told(timed: list[Timed], pilots: Pilots) -> tuple[list[Timed], tuple[Untold, ...]]:
    """Those of which the pilots say something of their own, and the outer steps they cannot tell from simpler ones."""
    like: dict[tuple[str, int], str | None] = {}
    kept = []
    for c, drift, times in timed:
        tau = int(c.config.tau)
        if c.outer and tau > pilots.longest(c.outer):
            continue
        if c.outer and c.plain is not None:
            if (c.outer, tau) not in like:
                like[c.outer, tau] = pilots.like(c.outer, tau)
            if like[c.outer, tau] is not None:
                continue
        kept.append((c, drift, times))
    untold: dict[tuple[str, str], list[int]] = {}
    for (outer, tau), other in like.items():
        if other is not None:
            untold.setdefault((outer, other), []).append(tau)
    return kept, tuple(Untold(*pair, tuple(sorted(taus))) for pair, taus in untold.items())


def _nobody(searched: int, pilots: Pilots | None) -> str:
    """Why nothing is left to rank."""
    if pilots is None:
        return f"--theory: optim.lr is above 1 / L, at which theory says nothing of {searched} algorithms; lower it"
    return (
        f"algo: {searched} algorithms searched, and all drift further apart than periodic averaging with "
        f"tau={pilots.taus[-1]}, the longest pilot; lower tau, or give more steps"
    )


def _refuse(parts: Parts, budget: float | None, target: float | None, known: Known | None, alone: bool) -> None:
    base = parts.config
    if base.workers < 2:
        raise ConfigError("workers: one has nobody to communicate with; design chooses for two or more")
    if base.cluster is None:
        raise ConfigError("cluster: is missing, so nothing is known of the network; name one, as in cluster=ethernet_1g")
    if budget is not None and target is not None:
        raise ConfigError("--budget-seconds and --target-loss: give one of the two")
    if budget is not None and not 0 < budget < math.inf:
        raise ConfigError(f"--budget-seconds: must be a positive number of seconds, got {budget}")
    if target is not None and not math.isfinite(target):
        raise ConfigError(f"--target-loss: must be a finite number, got {target}")
    if isinstance(base.tau, list):
        raise ConfigError(f"tau: design chooses among constant periods, got {base.tau}; give one number or none")
    if (base.period or {}).get("name", "constant") != "constant":
        raise ConfigError(f"period: design chooses among constant periods, got {base.period['name']}; use period=constant")
    if base.steps < LEAST:
        raise ConfigError(f"steps: {base.steps} are too few to choose by; give at least {LEAST}")
    if what := moves(base):
        raise ConfigError(f"schedule: design tells of runs of any length from pilots of one, so the rate must stay, got {what}")
    if alone and target is not None:
        raise ConfigError("--target-loss: the bound is about gradients, not losses; leave out --theory, or give a budget")
    if alone and (why := not_plain(parts)):
        raise ConfigError(f"--theory: {why}; leave it out")
    if alone and base.outer:
        raise ConfigError(f"--theory: outer={base.outer['name']}: the bound is about W alone; leave out one of the two")
    if alone and known is None:
        raise ConfigError(
            f"--theory: task {base.task['name']} does not know L, sigma2 and the gap; measure them by `coopsgd probe` and give "
            "--probe FILE, or leave out --theory"
        )


def _affordable(budget: float, timed: list[tuple[Candidate, np.ndarray]]) -> None:
    """ConfigError when not even one communication of any candidate fits."""
    first = [(float(times[min(int(c.config.tau), len(times)) - 1]), c) for c, times in timed]
    least, quickest = min(first, key=lambda pair: pair[0])
    if least > budget:
        raise ConfigError(
            f"--budget-seconds: {budget:g} s are {least - budget:.3g} s too few: the quickest, {quickest.label}, has mixed its "
            f"models once after {least:.4g} s; give more time, or a faster cluster"
        )


def check(study: Study, base: Config, some: Sequence[int], folder: Path, run: Run) -> Study:
    """Run the entries at these places (from 0) for real, on the clock, and hold the ranking against what came of it."""
    runs = []
    for place in some:
        entry = study.entries[place]
        steps = base.steps if study.goal.budget is None else max(1, entry.steps)
        every = max(1, steps // (LOOKS - 1))
        settings = replace(in_one_process(entry.candidate.config, every), steps=steps)
        lines = [line for line in run(settings, folder / f"rank-{place + 1}") if "eval/loss" in line]
        times = np.array([line["sim_s"] for line in lines])
        losses = np.array([math.inf if line["eval/loss"] is None else line["eval/loss"] for line in lines])
        runs.append(Checked(entry, place + 1, times, losses, _value(study.goal, times, losses)))
    best = min(runs, key=lambda one: one.value)
    first = min(runs, key=lambda one: one.rank)
    agreement = ranking.kendall([one.rank for one in runs], [one.value for one in runs])
    if study.goal.budget is None:
        lost, of = first.value - best.value if math.isfinite(best.value) else math.nan, best.value
    else:  # how much sooner the best came, for good, to where the first choice ended
        of = float(first.times[-1])
        (worse,) = np.nonzero(best.losses > first.value)
        there = float(best.times[worse[-1] + 1]) if len(worse) and first.value > best.value else 0.0
        lost = max(0.0, of - there) if first.value > best.value else 0.0
    return replace(study, verdict=Verdict(runs, agreement, best, lost, lost / of if of else math.nan))


def _value(goal: Goal, times: np.ndarray, losses: np.ndarray) -> float:
    if goal.target is not None:
        return _seconds_to(goal.target, times, losses)
    return float(losses[-1])


def _seconds_to(target: float, times: np.ndarray, losses: np.ndarray) -> float:
    """When a measured curve first comes to `target`, linear between looks; inf when never."""
    (there,) = np.nonzero(losses <= target)
    if not len(there):
        return math.inf
    e = int(there[0])
    if e == 0:
        return float(times[0])
    share = (losses[e - 1] - target) / (losses[e - 1] - losses[e])
    return float(times[e - 1] + share * (times[e] - times[e - 1]))


def places(entries: int, first: int, losers: int = 3) -> list[int]:
    """The first so many, and a few from the rest, evenly down to the last."""
    chosen = list(range(min(first, entries)))
    rest = np.linspace(first, entries - 1, losers + 1)[1:].round() if entries > first else np.array([])
    return sorted({*chosen, *(int(place) for place in rest)})
