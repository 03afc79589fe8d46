"""From candidates to a ranking: theory gives each its tau_eq, pilots the loss there, the clock the seconds."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from coopsgd.commands.design.candidates import Candidate
from coopsgd.commands.design.pilots import Pilots
from coopsgd.mixing import spectra
from coopsgd.predict import cost
from coopsgd.predict.setting import Setting
from coopsgd.strategies.base import layers
from coopsgd.tasks.known import Known


@dataclass(frozen=True)
class Drift:
    """How far apart a candidate's workers are, and how fast their mean moves."""

    zeta: float
    noise: float  # C: the exact stationary consensus under noise, no unit
    drift: float  # H: the same under gradients that differ between workers
    progress: float  # of the mean model for each step of plain SGD; m / (m + v) for a symmetric W

    @classmethod
    def of(cls, some: Sequence[Candidate]) -> list[Drift | None]:
        """That of each; None when theory has no stationary state for it. Those of one strategy come together, for speed."""
        return [cls._at(setting, int(one.config.tau)) for one, setting in _settings(some)]

    @classmethod
    def contracted(cls, some: Sequence[tuple[Candidate, Drift]], kept: float) -> list[Drift | None]:
        """Those drifts again, if a local step leaves of a worker's distance to the mean the share `kept`."""
        if kept == 1:
            return [drift for _, drift in some]
        found: list[Drift | None] = []
        for (one, setting), (_, drift) in zip(_settings([one for one, _ in some]), some, strict=True):
            H = setting.drift_at(int(one.config.tau), kept, error=False).value
            found.append(None if H is None else replace(drift, drift=H))
        return found

    @classmethod
    def _at(cls, setting: Setting, tau: int) -> Drift | None:
        if not setting.matrices or setting.zeta is None or setting.few:
            return None
        noise, drift = setting.noise_at(tau, error=False).value, setting.drift_at(tau, error=False).value
        if noise is None or drift is None:
            return None
        return cls(setting.zeta, noise, drift, _progress(setting.matrices, setting.m))


def _settings(some: Sequence[Candidate]) -> Iterator[tuple[Candidate, Setting]]:
    """Each with its setting; the matrices are made once for those of one strategy, whatever is around it."""
    for _, alike in itertools.groupby(some, key=lambda one: id(layers(one.strategy)[-1])):
        first, *more = alike
        setting = Setting(first.parts)
        for one in (first, *more):
            own = copy.copy(setting)
            own.parts = one.parts
            yield one, own


def _progress(matrices: Sequence[np.ndarray], m: int) -> float:
    """The weight that the workers have in what all rows come to agree on: their share of the stationary distribution."""
    whole = spectra.product(matrices, len(matrices[0]))
    for _ in range(60):  # by squaring
        whole = whole @ whole
        whole /= whole.sum(1, keepdims=True)  # else rounding grows
    return float(whole[0, :m].sum())


@dataclass(frozen=True)
class Entry:
    """What is predicted of one candidate."""

    candidate: Candidate
    drift: Drift
    tau_eq: float | None  # the period of plain averaging that drifts as far; None without pilots
    bytes_per_step: float  # sent by a worker, mean
    times: np.ndarray  # (horizon,) seconds on the clock after each step
    errors: np.ndarray  # (horizon,) eval/loss then; without pilots an estimate of the mean squared gradient
    steps: int  # within the budget, or until the target; 0 when not even one
    seconds: float  # when they are over; inf when there are none

    @property
    def error(self) -> float:
        """The error after those steps."""
        return float(self.errors[self.steps - 1]) if self.steps else math.inf

    @property
    def floor(self) -> float:
        """The least it comes to within the horizon."""
        return float(self.errors.min())


@dataclass(frozen=True)
class Goal:
    """What is wanted: the least error within `budget` seconds, or an error of at most `target` as soon as possible."""

    budget: float | None = None
    target: float | None = None

    def reached(self, times: np.ndarray, errors: np.ndarray) -> tuple[int, float]:
        """After how many steps, and seconds, it is reached or over; (0, inf) when never."""
        if self.target is not None:
            (there,) = np.nonzero(errors <= self.target)
            steps = int(there[0]) + 1 if len(there) else 0
        else:
            assert self.budget is not None
            steps = int(np.searchsorted(times, self.budget, side="right"))
        return steps, float(times[steps - 1]) if steps else math.inf

    def order(self, entry: Entry) -> tuple[float, ...]:
        """Sorts entries, the best first. Errors are told apart by three digits; of equals the quicker comes first."""
        if self.target is not None:
            return entry.seconds, entry.floor
        return float(f"{entry.error:.3g}"), float(entry.times[-1])


def predicted(candidate: Candidate, drift: Drift, times: np.ndarray, goal: Goal, pilots: Pilots | None, known: Any) -> Entry:
    """One candidate's entry. pilots: None for what theory alone says, from the constants `known`."""
    steps = np.arange(1, len(times) + 1)
    tau_eq = None if pilots is None else pilots.tau_eq(drift.noise, drift.drift)
    if pilots is not None and tau_eq is not None:
        if candidate.outer:
            losses = pilots.stepped(candidate.outer, int(candidate.config.tau), tau_eq)
        else:
            losses = pilots.losses_at(tau_eq)
        errors = np.interp(steps * drift.progress, pilots.steps, losses)
    else:
        errors = _bound(candidate, drift, steps, known)
    sent = cost.per_step(candidate.parts)["bytes_per_worker_mean"]
    return Entry(candidate, drift, tau_eq, float(sent or 0), times, errors, *goal.reached(times, errors))


def _bound(candidate: Candidate, drift: Drift, steps: np.ndarray, known: Known) -> np.ndarray:
    """What the proof of the bound leaves of the mean of ||grad F||^2 so far, its network term L^2 times the consensus distance.

    An estimate: that distance is the exact one without curvature, and of gradients that differ between workers its order.
    Infinite where eta L > 1, from where on the proof says nothing.
    """
    lr, m = float(candidate.config.optim["lr"]), candidate.config.workers
    eta = lr * drift.progress
    if eta * known.L > 1:
        return np.full(len(steps), math.inf)
    apart = lr**2 * (known.sigma2 * drift.noise + known.kappa2 * drift.drift)
    return 2 * known.gap / (eta * steps) + eta * known.L * known.sigma2 / m + known.L**2 * apart


def pareto(entries: Sequence[Entry]) -> list[Entry]:
    """Those that nobody beats in both seconds and error, the quickest first."""
    front: list[Entry] = []
    for entry in sorted(entries, key=lambda e: (e.times[-1], e.errors[-1])):
        if not front or entry.errors[-1] < front[-1].errors[-1]:
            front.append(entry)
    return front


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b of two rankings, from -1 to 1; nan when one of them is all ties."""
    x, y = (np.greater.outer(v, v) * 1.0 - np.less.outer(v, v) for v in (np.asarray(a), np.asarray(b)))
    ties = math.sqrt(float((x**2).sum()) * float((y**2).sum()))
    return float((x * y).sum()) / ties if ties else math.nan
