"""How a config mixes: its matrices, how fast they bring workers together, and how far apart local steps keep them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from coopsgd.mixing import spectra
from coopsgd.mixing.base import Mixing
from coopsgd.mixing.expectation import Expectation
from coopsgd.mixing.matrix import FOLLOWED
from coopsgd.mixing.static import takes_mean
from coopsgd.predict import theory
from coopsgd.predict.theory import large
from coopsgd.setup.external import is_external
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import AXES, Config
from coopsgd.strategies.axes import serves
from coopsgd.strategies.base import Strategy, layers, overrides
from coopsgd.strategies.outer import Momentum, Outer

WINDOW = 512  # communications at random that stand for a schedule that never repeats; doubled until they do
ROOM = 1 << 24  # numbers in their matrices, at most
FORGETS = 0.5  # share of the disagreement that a window may leave, to stand for its schedule when it is repeated
LOOKED_AT = 16  # communications at random that are looked at where their expectation is known


def not_plain(parts: Parts) -> str:
    """Why a local step is not x - lr * gradient; empty when it is."""
    config, optim = parts.config, parts.optim
    if not hasattr(optim, "plain"):
        return f"optim={config.optim['name']} is not SGD: no guarantee"
    if not optim.plain:
        words = [f"{key}={value}" for key in ("momentum", "weight_decay") if (value := getattr(optim, key))]
        return f"optim.{', optim.'.join(words) or 'dampening'}: a step is not lr times the gradient, no guarantee"
    return "" if config.clip is None else f"clip={config.clip}: a clipped gradient is biased"


class Stationary(NamedTuple):
    """A coefficient of the stationary consensus, and its standard error where it comes of a sample."""

    value: float | None = None
    error: float | None = None


class Mixed:
    """(tau, W, v) of a config, whatever it is that is learned.

    m workers and v auxiliary rows that somebody reads: a server that only hands on an average counts for nothing. tau is the
    largest there will be where that is known.
    """

    def __init__(self, parts: Parts) -> None:
        config, strategy = parts.config, parts.strategy
        self.parts = parts
        m = self.m = config.workers
        schedule = self._schedule = strategy.schedule
        self.cycle, self.zeta = (1, None) if schedule is None else (schedule.cycle(m), schedule.zeta(m))
        num_aux = 0 if schedule is None else schedule.num_aux
        self.order = config.order
        self.tau = int(parts.period.largest or config.tau)
        self.law = schedule.law(m) if schedule and self.cycle is None else None  # of one at random, if it is known
        self.matrices: list[Any] = []  # of a cycle, or of a window of a random schedule; arrays where they are `whole`
        self.whole = m + num_aux <= FOLLOWED
        self.counts: list[np.ndarray] | None = None  # local steps of each worker, when they differ
        axes = {name for name in AXES if getattr(config, name)}
        told = schedule is not None and config.merge == "kept" and axes <= {"outer"}
        told = told and (parts.sample_shares is None or strategy.send is not None)  # weighted gradients are of another F
        self._shares: dict[Any, float | None] = {}  # of linear outer steps, see noise_at
        if schedule is not None and told and follows_from_matrices(layers(strategy)[-1]):
            if self.whole:
                self.matrices = list(_window(schedule, m, m + num_aux, None if self.law is None else LOOKED_AT))
            else:
                self.matrices = [schedule.at(m, r) for r in range(self.cycle or LOOKED_AT)]
            works = [schedule.work(m, r, self.tau) for r in range(len(self.matrices))]
            if any(work is not None for work in works):
                self.counts = [np.full(m, self.tau) if work is None else work for work in works]
                self.tau = max(int(max(count.max() for count in self.counts)), 1)
        if self.whole and theory.unread(self.matrices, m):
            self.matrices = [W[:m, :m] for W in self.matrices]
        elif not self.whole and num_aux:
            alone = [found for W in self.matrices if (found := large.workers_alone(W, m)) is not None]
            self.matrices = alone if len(alone) == len(self.matrices) else self.matrices
        self.v = len(self.matrices[0]) - m if self.matrices else num_aux

    @property
    def outer(self) -> Outer | None:
        """The outer step, where it is the only axis and has anything to do with how far apart workers are.

        Where every communication averages, the slow models are one, whatever step they take.
        """
        config = self.config
        if [name for name in AXES if getattr(config, name)] != ["outer"] or takes_mean(self._schedule):
            return None
        return self.parts.outer

    @property
    def delay(self) -> int:
        """How many of the last local steps of a round are not mixed."""
        return self._late(self.tau)

    @property
    def config(self) -> Config:
        """Of its parts."""
        return self.parts.config

    @property
    def lr(self) -> float:
        """Of the optimiser: the rate, or its peak when it moves."""
        return float(self.parts.optim.lr)

    @property
    def plain(self) -> str:
        """Why a local step is not x - lr * gradient; empty when it is."""
        return not_plain(self.parts)

    @property
    def rate(self) -> dict[str, float] | None:
        """What one communication, and one step, leave of the disagreement at worst, in the mean over a cycle."""
        if self.zeta is None:
            return None
        each = self.zeta
        if self.cycle is not None and self.matrices:
            each = math.exp(spectra.log_zeta(self.matrices) / self.cycle)
        return {"communication": each, "step": each ** (1 / self.tau)}

    @cached_property
    def zeta_error(self) -> float | None:
        """The standard error of zeta where it comes of a sample; None where it is exact."""
        return None if self.law is None else self.law.zeta_error

    @cached_property
    def few(self) -> str:
        """Why the window of a random schedule does not stand for it; empty when it does, or need not."""
        if self.cycle is not None or self.law is not None or not self.matrices:
            return ""
        if not self.whole:
            return f"{self.m} workers: random communications are not followed for so many; how far they drift is not known"
        if spectra.zeta(spectra.product(self.matrices, self.m + self.v)) < FORGETS:
            return ""
        return f"{len(self.matrices)} communications at random are too few to tell how far {self.m} workers drift apart"

    @cached_property
    def consensus(self) -> tuple[Stationary, Stationary]:
        """C and H of the stationary consensus; no value when there is none, it is unknown, or the step is not plain."""
        C = Stationary() if self.plain else self.noise_at(self.tau)
        return C, Stationary() if C.value is None or self.counts is not None else self.drift_at(self.tau)

    @property
    def slow(self) -> str:
        """Why the stationary consensus is not computed although there is one; empty when it is, or there is none."""
        known = self.noise is not None or self.few or not self.matrices or (self.whole and self.law is None)
        if known or self.plain or self.zeta is None or not spectra.below_one(self.zeta):
            return ""
        return f"{self.m} workers on this topology: how far they drift apart takes too long to compute"

    @property
    def noise(self) -> float | None:
        """C of the stationary consensus under noise."""
        return self.consensus[0].value

    @property
    def drift(self) -> float | None:
        """H of the stationary consensus under constant gradients that differ."""
        return self.consensus[1].value

    def noise_at(self, tau: int, error: bool = True) -> Stationary:
        """C for another tau, the workers' own numbers of steps left as they are. error: is that of a sample wanted too?"""
        m, order, delay, law = self.m, self.order, self._late(tau), self._law(error)
        if not self.matrices or self.few:
            return Stationary()
        if self.outer is not None:
            linear = self._followed_outer
            if linear is None:
                return Stationary()
            if linear not in self._shares:  # the same for every tau and delay
                self._shares[linear] = theory.outer_share(self.matrices, m, *linear)
            return Stationary(theory.outer_noise(self._shares[linear], m, len(self.matrices[0]), tau, order, delay))
        if law is not None:
            return Stationary(*law.measure(lambda law: theory.expected_noise(law, m, tau, order, delay)))
        if not self.whole:
            return Stationary() if self.counts else Stationary(*large.noise(self.matrices, m, tau, order, delay))
        if self.cycle is not None:
            return Stationary(theory.noise_consensus(self.matrices, m, tau, order, delay, self.counts))
        outcomes = self._schedule.outcomes(m, tau) if self._schedule and order == "atc" and not delay else None
        if outcomes is not None:
            return Stationary(theory.outcome_noise(outcomes, m))
        return Stationary(*theory.sampled_consensus(self.matrices, m, tau, order, delay, self.counts))

    def drift_at(self, tau: int, kept: float = 1.0, error: bool = True) -> Stationary:
        """H for another tau, and for steps that leave of a worker's distance to the mean the share `kept`."""
        m, order, delay, law = self.m, self.order, self._late(tau), self._law(error)
        if not self.matrices or self.few:
            return Stationary()
        if self.outer is not None:
            linear = self._followed_outer
            return Stationary(linear and theory.outer_drift(self.matrices, m, tau, order, delay, *linear, kept))
        if law is not None:
            return Stationary(*law.measure(lambda law: theory.expected_drift(law, m, tau, order, delay, kept)))
        if not self.whole:
            return Stationary(*large.drift(self.matrices, m, tau, order, delay, kept))
        if self.cycle is not None:
            return Stationary(theory.drift_consensus(self.matrices, m, tau, order, delay, kept))
        return Stationary(*theory.sampled_consensus(self.matrices, m, tau, order, delay, None, kept))

    @property
    def linear_outer(self) -> tuple[float, float, bool] | None:
        """lr, momentum of the outer step, and whether that is Nesterov's; None where it is not linear, or a server's."""
        outer, schedule = self.outer, self._schedule
        if not isinstance(outer, Momentum) or is_external(outer) or serves(schedule):
            return None
        return outer.lr, outer.momentum, outer.NESTEROV

    @property
    def _followed_outer(self) -> tuple[float, float, bool] | None:
        """The same where the second moment with it is followed: of a cycle of small matrices by which everybody works."""
        return self.linear_outer if self.whole and self.cycle is not None and self.counts is None else None

    @property
    def outer_zeta(self) -> float | None:
        """What a cycle leaves of a disagreement between slow models, with the outer step's own memory; None: not known.

        Of W = J there is nothing to tell: the slow models are one.
        """
        linear = self.linear_outer
        if linear is None or self.cycle is None or not self.matrices or takes_mean(self._schedule):
            return None
        if self.whole:
            return theory.cycle_radius([np.asarray(W) for W in self.matrices], *linear)
        values = spectra.eigenvalues(self.matrices[0]) if self.cycle == 1 else ()
        return theory.mode_radius(np.asarray(values[1:]), *linear) if len(values) else None

    def _late(self, tau: int) -> int:
        """The delay in rounds of so many steps."""
        return tau if self.config.delay == "tau" else min(self.config.delay, tau)

    @cached_property
    def largest_delayed_step(self) -> float | None:
        """The largest lr times curvature at which every mode still contracts under this delay.

        None: no delay, not one W, or steps that are not lr times the gradient, or that an outer step is made of.
        """
        if not self.delay or self.cycle != 1 or self.counts is not None or not self.matrices:
            return None
        if self.outer is not None or self.plain:
            return None
        values = spectra.eigenvalues(self.matrices[0])
        if not len(values):
            return None
        return theory.largest_step(values[1:], self.tau, self.delay)

    def _law(self, error: bool) -> Expectation | None:
        return self.law if error or self.law is None else replace(self.law, parts=())

    def forecast(self, most: int | None = None) -> theory.Forecast | None:
        """What follows a run step by step; None when matrices and a plain step do not tell all of it.

        most: rows beyond which it is None too, unless W is one symmetric matrix, which costs next to nothing.
        """
        if not self.matrices or self.plain or not self.whole or self.outer is not None:
            return None
        forecast = theory.Forecast(self._schedule, self.m, self.order, equal=self.parts.strategy.send is None)
        return forecast if forecast.light or most is None or self.m + self._schedule.num_aux <= most else None  # type: ignore


def follows_from_matrices(strategy: Strategy) -> bool:
    """Do the matrices of its schedule say all that a communication does to the models of plain SGD?"""
    if overrides(strategy, "receive") or overrides(strategy, "shift"):
        return False
    if overrides(strategy, "send"):
        return strategy.send is None and not is_external(strategy)
    return not overrides(strategy, "direction")


def _window(schedule: Mixing, m: int, rows: int, some: int | None = None) -> Iterator[np.ndarray]:
    """The product of each communication of a cycle; without one of `some`, or of as many as it takes to forget the first."""
    cycle, most = schedule.cycle(m) or some, max(16, ROOM // rows**2)
    whole, length = np.eye(rows), cycle or min(WINDOW, most)
    for r in itertools.count():
        if r == length:
            if cycle or length == most or spectra.zeta(whole) < FORGETS:
                return
            length = min(2 * length, most)
        W = spectra.product(schedule.factors(m, r), rows)
        whole = W @ whole
        yield W
