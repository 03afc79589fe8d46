"""A few runs of periodic averaging in one process: how far workers drift on this task, what loss that costs, what steps bring.

Whatever moves the loss besides drift (curvature, noise, momentum, a schedule) is in these runs as it is in a real one. So any
A(tau, W, v) is read off them: at its tau_eq, after as many steps as it moves the mean model. What an outer step makes of the
mean model it makes of it under every W that keeps the mean: its own pilots show that, at a tau of their own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from coopsgd.errors import ConfigError
from coopsgd.host import processors
from coopsgd.predict import theory
from coopsgd.run.schema import evaluated
from coopsgd.setup import timing
from coopsgd.setup.schema import Config

TAUS = (1, 2, 4, 16, 64)
STEPPING = (1, 4, 16, 64)  # of those with an outer step
ALIKE = 0.01  # of a loss: pilots that are nearer are not told apart
PARTS = 4  # of a run, in each of which they must be as near
KEPT = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)  # what a local step may leave of a distance
LONG = 1e9  # a period
LOOKS = 61  # evaluations of one pilot, so many at most


@dataclass(frozen=True)
class Pilots:
    """What the pilots showed, and how to read other algorithms off it."""

    m: int
    taus: np.ndarray  # (T,) periods, rising
    steps: np.ndarray  # (E,) of each evaluation, 0 first
    losses: np.ndarray  # (T, E) eval/loss; inf from where a run diverged
    noise: float  # eta^2 sigma^2 as seen: consensus distance for each unit of C, see theory.noise_consensus
    drift: float  # eta^2 kappa^2 as seen, for each unit of H, see theory.drift_consensus
    kept: float  # what a local step leaves of a worker's distance to the mean, as seen
    stepping: dict[str, Curves] = field(default_factory=dict)  # with outer steps, by their words

    def tau_eq(self, noise: float, drift: float) -> float:
        """The period of plain averaging whose workers are as far apart as under coefficients C and H; real, at least 1.

        Infinite when no period of it lets them drift so far.
        """
        from scipy.optimize import brentq

        distance = self.noise * noise + self.drift * drift

        def beyond(tau: float) -> float:
            return self.noise * (self.m - 1) * (tau - 1) / (2 * self.m) + self.drift * averaged(tau, self.kept) - distance

        if distance <= 0:
            return 1.0
        return float(brentq(beyond, 1, LONG, xtol=1e-12)) if beyond(LONG) > 0 else math.inf

    def losses_at(self, tau_eq: float) -> np.ndarray:
        """(E,) the loss expected at each of `steps`, linear in log tau between pilots; beyond the last as the last."""
        return Curves(self.taus, self.losses).at(tau_eq)

    def stepped(self, outer: str, tau: int, tau_eq: float) -> np.ndarray:
        """(E,) the loss expected with an outer step every tau local steps, of workers as far apart as under tau_eq.

        That of its pilots, which average, and what the distance beyond theirs costs without an outer step.
        """
        with np.errstate(invalid="ignore"):  # of what diverged
            found = self.stepping[outer].at(tau) + (self.losses_at(tau_eq) - self.losses_at(tau))
        return np.where(np.isfinite(found), found, math.inf)

    def longest(self, outer: str) -> float:
        """The longest period that was flown with this outer step."""
        return float(self.stepping[outer].taus[-1])

    def like(self, outer: str, tau: int) -> str | None:
        """The first of none and the outer steps before this that pilots cannot tell it from at this tau, if there is one."""
        mine = self.stepping[outer].at(tau)
        others = {"none": self.losses_at(tau)} | {name: c.at(tau) for name, c in self.stepping.items()}
        before = itertools.takewhile(lambda name: name != outer, others)
        return next((name for name in before if alike(mine, others[name])), None)


@dataclass(frozen=True)
class Curves:
    """Losses of runs that differ by tau."""

    taus: np.ndarray  # (T,) rising
    losses: np.ndarray  # (T, E)

    def at(self, tau: float) -> np.ndarray:
        """(E,) those of a run by tau, linear in log tau between these; beyond the last as the last."""
        at = float(np.interp(math.log(tau), np.log(self.taus), np.arange(len(self.taus))))
        low, share = int(at), at - int(at)
        if not share:
            return self.losses[low]
        return (1 - share) * self.losses[low] + share * self.losses[low + 1]


def alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Are two curves (E,) one, as far as can be told: in every part of the run?

    Their mean difference is below ALIKE of the loss, or below two standard errors, by how neighbours in time scatter.
    """
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return False
    there = np.isfinite(a)
    a, b = a[there], b[there]
    apart = a - b
    rough = apart[1:-1] - (apart[:-2] + apart[2:]) / 2
    scatter = math.sqrt(float(np.mean(rough**2)) / 1.5) if len(rough) else 0.0
    for some, level in zip(np.array_split(apart[1:], PARTS), np.array_split(b[1:], PARTS), strict=True):  # 0: both begin there
        if len(some) and abs(some.mean()) > max(ALIKE * abs(level.mean()), 2 * scatter / math.sqrt(len(some))):
            return False
    return True


def averaged(tau: float, kept: float) -> float:
    """H of periodic averaging, for a real tau: the mean over phases t = 0 .. tau - 1 of (1 + kept + ... + kept^(t - 1))^2."""
    if kept == 1:
        return (tau - 1) * (2 * tau - 1) / 6
    once, twice = theory.summed(kept, tau), theory.summed(kept**2, tau)
    return (tau - 2 * once + twice) / ((1 - kept) ** 2 * tau)


def pilot(base: Config, tau: int, outer: Any = None) -> Config:
    """Periodic averaging by tau on base's task, with an outer step or none, looked at often and seen by no clock."""
    every = max(1, math.ceil(base.steps / (LOOKS - 1)))
    algo = {"name": "pasgd", "strategy": "cooperative", "mixing": "average"}
    plain = replace(base, algo=algo, outer=outer, tau=tau, **timing.DEFAULTS, period={"name": "constant"}, topology=None)
    name = f"pilot tau={tau}" + (f" outer={outer['name']}" if outer else "")
    return replace(in_one_process(replace(plain, cluster=None), every), name=name)


def in_one_process(settings: Config, every: int) -> Config:
    """The same run with all workers in one process, evaluated every so many steps, of which nothing but numbers is kept."""
    here = replace(settings, processes=1, threads=processors.cores(), launch=True, save="none")
    return replace(here, log_every=every, eval_every=every, eval_samples=1)


def periods(base: Config) -> list[int]:
    """tau of each pilot: all that leave two rounds in a run."""
    return [tau for tau in TAUS if tau == 1 or tau <= base.steps // 2]


def stepping(base: Config, taus: Collection[int]) -> list[int]:
    """tau of each pilot with an outer step: those on either side of the candidates' taus."""
    flown = [tau for tau in STEPPING if tau in periods(base)]
    needed = {max(t for t in flown if t <= tau) for tau in taus} | {
        min(t for t in (*flown, math.inf) if t >= tau) for tau in taus
    }
    return [tau for tau in flown if tau in needed]


def fly(
    base: Config,
    folder: Path,
    run: Callable[[Config, Path], list[dict[str, Any]]],
    outers: Mapping[str, tuple[Any, Collection[int]]] | None = None,
) -> Pilots:
    """Run the pilots; `run` trains a config in a folder and returns its metrics.

    outers: words of outer steps; what they mean, and with which taus there are candidates.
    """
    m = base.workers
    taus = periods(base)
    found = [evaluated(run(pilot(base, tau), folder / f"pilot-{tau}")) for tau in taus]
    steps = np.array([line["step"] for line in max(found, key=len)])
    more: dict[str, Curves] = {}
    for number, (name, (outer, wanted)) in enumerate((outers or {}).items(), 1):
        some = stepping(base, wanted)
        lines = [evaluated(run(pilot(base, tau, outer), folder / f"outer-{number}-{tau}")) for tau in some]
        more[name] = Curves(np.array(some), _losses(lines, len(steps)))
    return Pilots(m, np.array(taus), steps, _losses(found, len(steps)), *_seen(m, taus, found), more)


def _losses(found: list[list[dict[str, Any]]], looks: int) -> np.ndarray:
    """(T, E) eval/loss; inf from where a run diverged."""
    losses = np.full((len(found), looks), math.inf)
    for row, lines in zip(losses, found, strict=True):
        values = [line["eval/loss"] for line in lines]
        row[: len(values)] = [math.inf if value is None else value for value in values]
    return losses


def _seen(m: int, taus: list[int], found: list[list[dict[str, Any]]]) -> tuple[float, float, float]:
    """The noise, the drift and what is kept that fit the mean consensus distances of the pilots best, relative to each.

    A run logs them before each averaging, when tau steps have driven the workers apart: noise to (m - 1) / m tau, drift to
    (1 + kept + ... + kept^(tau - 1))^2.
    Differences between workers that persist add up over local steps until curvature stops them, which is what tells them from
    noise. That noise is held back too is left out: pilots were fitted worse with it.
    """
    from scipy.optimize import nnls

    distances, sound = dict[int, float](), False
    for tau, lines in zip(taus, found, strict=True):
        seen = [line["consensus"] for line in lines if line["step"] >= tau]  # before that no round is whole
        if tau == 1 or None in seen or lines[-1]["eval/loss"] is None:
            continue
        sound = True
        if (distance := float(np.mean(seen))) > 0:
            distances[tau] = distance
    if not sound:
        raise ConfigError("optim.lr: every pilot with more than one local step a round diverged; lower it")
    if not distances:  # workers that never differ
        return 0.0, 0.0, 1.0
    fits = []
    for kept in KEPT if len(distances) > 3 else KEPT[:1]:  # three numbers from three would fit anything
        rows = [[(m - 1) * t / (m * d), theory.summed(kept, t) ** 2 / d] for t, d in distances.items()]
        (noise, drift), off = nnls(np.array(rows), np.ones(len(rows)))
        fits.append((float(off), float(noise), float(drift), kept))
    return min(fits, key=lambda fit: fit[0])[1:]
