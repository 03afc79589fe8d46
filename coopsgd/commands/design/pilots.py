"""A few runs of periodic averaging in one process: how far workers drift on this task, and what loss that costs.

Whatever moves the loss besides drift (curvature, noise, momentum, a schedule) is in these runs as it is in a real one. So any
A(tau, W, v) is read off them: at its tau_eq, after as many steps as it moves the mean model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
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
        at = float(np.interp(math.log(tau_eq), np.log(self.taus), np.arange(len(self.taus))))
        low, share = int(at), at - int(at)
        if not share:
            return self.losses[low]
        return (1 - share) * self.losses[low] + share * self.losses[low + 1]


def averaged(tau: float, kept: float) -> float:
    """H of periodic averaging, for a real tau: the mean over phases t = 0 .. tau - 1 of (1 + kept + ... + kept^(t - 1))^2."""
    if kept == 1:
        return (tau - 1) * (2 * tau - 1) / 6
    once, twice = theory.summed(kept, tau), theory.summed(kept**2, tau)
    return (tau - 2 * once + twice) / ((1 - kept) ** 2 * tau)


def pilot(base: Config, tau: int) -> Config:
    """Periodic averaging by tau on base's task, looked at often and seen by no clock."""
    every = max(1, math.ceil(base.steps / (LOOKS - 1)))
    algo = {"name": "pasgd", "strategy": "cooperative", "mixing": "average"}
    plain = replace(base, algo=algo, tau=tau, **timing.DEFAULTS, period={"name": "constant"}, topology=None, cluster=None)
    return replace(in_one_process(plain, every), name=f"pilot tau={tau}")


def in_one_process(settings: Config, every: int) -> Config:
    """The same run with all workers in one process, evaluated every so many steps, of which nothing but numbers is kept."""
    here = replace(settings, processes=1, threads=processors.cores(), launch=True, save="none")
    return replace(here, log_every=every, eval_every=every, eval_samples=1)


def periods(base: Config) -> list[int]:
    """tau of each pilot: all that leave two rounds in a run."""
    return [tau for tau in TAUS if tau == 1 or tau <= base.steps // 2]


def fly(base: Config, folder: Path, run: Callable[[Config, Path], list[dict[str, Any]]]) -> Pilots:
    """Run the pilots; `run` trains a config in a folder and returns its metrics."""
    m = base.workers
    taus = periods(base)
    found = [evaluated(run(pilot(base, tau), folder / f"pilot-{tau}")) for tau in taus]
    steps = np.array([line["step"] for line in max(found, key=len)])
    losses = np.full((len(taus), len(steps)), math.inf)
    for row, lines in zip(losses, found, strict=True):
        values = [line["eval/loss"] for line in lines]
        row[: len(values)] = [math.inf if value is None else value for value in values]
    return Pilots(m, np.array(taus), steps, losses, *_seen(m, taus, found))


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
