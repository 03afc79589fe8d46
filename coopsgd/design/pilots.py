"""A few runs of periodic averaging in one process: what loss a drift of the workers costs on this task.

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

from coopsgd import config, theory
from coopsgd.config import Config
from coopsgd.errors import ConfigError

TAUS = (1, 4, 16, 64)
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

    def tau_eq(self, noise: float, drift: float) -> float:
        """The period of plain averaging whose workers are as far apart as under coefficients C and H; real, at least 1.

        For J, C = (m - 1)(tau - 1) / (2 m) and H = (tau - 1)(2 tau - 1) / 6: a quadratic equation in tau - 1.
        """
        distance = self.noise * noise + self.drift * drift
        square, line = self.drift / 3, self.drift / 6 + self.noise * (self.m - 1) / (2 * self.m)
        if distance <= 0:
            return 1.0
        return 1 + 2 * distance / (line + math.sqrt(line**2 + 4 * square * distance))

    def losses_at(self, tau_eq: float) -> np.ndarray:
        """(E,) the loss expected at each of `steps`, linear in log tau between pilots; beyond the last as the last."""
        at = float(np.interp(math.log(tau_eq), np.log(self.taus), np.arange(len(self.taus))))
        low, share = int(at), at - int(at)
        if not share:
            return self.losses[low]
        return (1 - share) * self.losses[low] + share * self.losses[low + 1]


def pilot(base: Config, tau: int) -> Config:
    """Periodic averaging by tau on base's task, looked at often and seen by no clock."""
    every = max(1, math.ceil(base.steps / (LOOKS - 1)))
    every += every > 1 and every % 2 == 0  # odd: the looks then fall on every phase of a round
    algo = {"name": "pasgd", "strategy": "cooperative", "mixing": "average"}
    plain = replace(base, algo=algo, tau=tau, period={"name": "constant"}, topology=None, cluster=None)
    return replace(in_one_process(plain, every), name=f"pilot tau={tau}")


def in_one_process(settings: Config, every: int) -> Config:
    """The same run with all workers in one process, evaluated every so many steps, of which nothing but numbers is kept."""
    here = replace(settings, processes=1, threads=config.cores(), launch=True, save="none")
    return replace(here, log_every=every, eval_every=every, eval_samples=1)


def fly(base: Config, folder: Path, run: Callable[[Config, Path], list[dict[str, Any]]]) -> Pilots:
    """Run the pilots; `run` trains a config in a folder and returns its metrics."""
    m = base.workers
    taus = [tau for tau in TAUS if tau == 1 or tau <= base.steps // 2]
    found = [[line for line in run(pilot(base, tau), folder / f"pilot-{tau}") if "eval/loss" in line] for tau in taus]
    steps = np.array([line["step"] for line in max(found, key=len)])
    losses = np.full((len(taus), len(steps)), math.inf)
    for row, lines in zip(losses, found, strict=True):
        values = [line["eval/loss"] for line in lines]
        row[: len(values)] = [math.inf if value is None else value for value in values]
    return Pilots(m, np.array(taus), steps, losses, *_seen(m, taus, found))


def _seen(m: int, taus: list[int], found: list[list[dict[str, Any]]]) -> tuple[float, float]:
    """The noise and the drift that fit the mean consensus distances of the pilots best, relative to each; not negative."""
    from scipy.optimize import nnls

    rows, sound, J = [], False, [np.full((m, m), 1 / m)]
    for tau, lines in zip(taus, found, strict=True):
        seen = [line["consensus"] for line in lines[1:]]
        if tau == 1 or None in seen or lines[-1]["eval/loss"] is None:
            continue
        sound = True
        if (distance := float(np.mean(seen))) > 0:
            rows.append(
                [(theory.noise_consensus(J, m, tau) or 0) / distance, (theory.drift_consensus(J, m, tau) or 0) / distance]
            )
    if not sound:
        raise ConfigError("optim.lr: every pilot with more than one local step a round diverged; lower it")
    if not rows:  # workers that never differ
        return 0.0, 0.0
    noise, drift = nnls(np.array(rows), np.ones(len(rows)))[0]
    return float(noise), float(drift)
