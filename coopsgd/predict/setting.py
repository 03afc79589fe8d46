"""What of a config the theorem is about, and which of its assumptions hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from coopsgd.mixing import spectra
from coopsgd.predict import theory
from coopsgd.predict.mixed import Mixed
from coopsgd.predict.theory import large
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import Config
from coopsgd.tasks.known import Known

SMALL = 1e-6  # what a matrix read from a file may be off


@dataclass(frozen=True)
class Assumption:
    """One thing the theorem asks for. When it holds, `why` says what is used in its place, if anything."""

    name: str
    holds: bool
    why: str = ""


def moves(config: Config) -> str:
    """What moves the learning rate; empty when it stays."""
    schedule = config.schedule or {}
    name, warmup = schedule.get("name", "constant"), schedule.get("warmup", 0)
    return "" if name == "constant" and not warmup else f"schedule={name}" + " with a warm-up" * bool(warmup)


class Setting(Mixed):
    """(tau, W, v) of a config as theory sees it; `known` are the constants of its task, where there are any."""

    def __init__(self, parts: Parts, known: Known | None = None) -> None:
        super().__init__(parts)
        self.known = known

    @property
    def eta_eff(self) -> float:
        """lr m / (m + v)"""
        return self.lr * self.m / (self.m + self.v)

    @property
    def steady(self) -> bool:
        """Does the rate stay what it is?"""
        return not moves(self.config)

    @cached_property
    def assumptions(self) -> list[Assumption]:
        """What the bound asks for, in order; the constants' own last."""
        return list(self._assumed())

    def _assumed(self) -> Iterator[Assumption]:
        Ws, algo = self.matrices, self.config.algo["name"]
        yield Assumption("matrices", bool(Ws), "" if Ws else f"{algo}: matrices do not tell all it does to the models")
        if Ws:
            doubly = all(spectra.is_doubly_stochastic(W, SMALL) for W in Ws)
            why = "" if doubly else "the rows of W sum to 1 but its columns do not: mixing moves the mean of the models"
            yield Assumption("doubly stochastic", doubly, why)
            symmetric = not doubly or all(spectra.is_symmetric(W, SMALL) for W in Ws)
            yield Assumption("symmetric", True, "" if symmetric else "not symmetric: zeta is ||W - J||_2 instead (derived)")
            if self.cycle is None and self.zeta is not None:
                yield Assumption("one W", True, "drawn at random: zeta^2 is ||E[W'W] - J|| (derived)")
            elif self.cycle is not None and self.cycle > 1:
                shrinks = all(spectra.zeta(W) <= 1 + SMALL for W in Ws)
                why = f"a cycle of {self.cycle}: the network term and a step condition are computed from its matrices (derived)"
                yield Assumption("one W", shrinks, why if shrinks else "one of the matrices enlarges disagreement")
        if self.outer is not None:
            yield Assumption("no outer step", False, f"outer={self.config.outer['name']}: the theorem is about W alone")
        fine = self.zeta is not None and spectra.below_one(self.zeta)
        why = "zeta is unknown: no formula for this schedule" if self.zeta is None else f"zeta = {self.zeta:.6g}: no bound"
        yield Assumption("zeta < 1", fine, "" if fine else why)
        yield Assumption("plain SGD", not self.plain, self.plain)
        schedule = moves(self.config)
        yield Assumption("constant rate", self.steady, f"{schedule} moves the rate" if schedule else "")
        everyone = self.counts is None
        yield Assumption("everyone works", everyone, "" if everyone else f"{algo}: some workers sit out or take fewer steps")
        yield self._about_tau()
        note = "cta has the models of atc, logged before their mixing" if self.order == "cta" else ""
        late = f"delay={self.config.delay}: the last gradients of a round are not mixed; the theorem is about delay=0"
        yield Assumption("order", not self.delay, late if self.delay else note)
        if self.known is not None:
            differ = f"the workers' f_i differ, kappa2 = {self.known.kappa2:.6g}: the bound has a drift term (derived)"
            yield Assumption("one f", True, differ if self.differ else "")

    def _about_tau(self) -> Assumption:
        name = (self.config.period or {}).get("name", "constant")
        if self.parts.period.largest is None:
            return Assumption("tau", False, f"period={name}: only the run can tell tau; shown for tau = {self.tau}")
        if name != "constant" or isinstance(self.config.tau, list):
            if self.differ and (self.cycle or 1) > 1:
                return Assumption(
                    "tau", False, f"tau moves over a cycle of {self.cycle}: not derived where the workers' f_i differ"
                )
            return Assumption("tau", True, f"tau moves: shown for its largest, {self.tau}")
        cut = (self.config.steps or 0) % self.tau
        return Assumption("tau", True, f"the last round is cut at {cut} of {self.tau} steps" if cut else "")

    def holds(self, *names: str) -> bool:
        """Do these assumptions hold, or all of them when none is named?"""
        return all(a.holds for a in self.assumptions if not names or a.name in names)

    @property
    def alone(self) -> bool:
        """One worker and nobody else: SGD, whatever tau is."""
        return self.m == 1 and self.v == 0

    @property
    def mixes(self) -> bool:
        """Does the theorem have anything to say about (tau, W, v) themselves, whatever optimiser and task?"""
        return self.holds("matrices", "doubly stochastic", "one W", "zeta < 1", "everyone works", "order")

    @property
    def differ(self) -> bool:
        """Have the workers f_i that differ, as far as is known? The bound then is that of theory/drift.py."""
        return self.known is not None and self.known.differ

    @cached_property
    def A(self) -> float | None:
        """The network factor; None when this is nothing the theorem is about.

        For a cycle of several matrices: twice the exact sum that the proof bounds by zeta.
        """
        if not self.holds() or self.zeta is None:
            return None
        if self.alone:
            return 0.0
        if self.cycle is None or self.cycle == 1:
            return theory.network_factor(self.tau, self.zeta, self.m, self.v)
        if self.whole:
            exact = theory.noise_consensus(self.matrices, self.m, self.tau, everyone=True)
        else:  # of the workers alone, who are everyone where there is nobody else
            exact = None if self.v else large.noise(self.matrices, self.m, self.tau, "atc", 0)[0]
        return None if exact is None else (1 + self.v / self.m) ** 2 * 2 * exact

    @cached_property
    def largest_steps(self) -> dict[str, float] | None:
        """The largest eta_eff L by condition; None when this is nothing the theorem is about.

        Of f_i that differ there is one condition, "drift", which holds below it.
        """
        if not self.holds() or self.zeta is None:
            return None
        if self.alone:
            return {"sgd": 1.0}
        if self.known is not None and self.differ:
            return {"drift": theory.largest_drift_step(self.m, self.v, self._window_sum(self.zeta), self.known.beta)}
        return theory.largest_steps(self.tau * (self.cycle or 1), self.zeta, self.m, self.v, self._windows)

    @cached_property
    def _windows(self) -> float | None:
        """c' of a cycle of several matrices; None where there is none."""
        if self.zeta is None or self.cycle is None or self.cycle == 1:
            return None
        return theory.window_constant(self.matrices, self.m, self.tau, self.zeta)

    def _window_sum(self, zeta: float) -> float:
        """Q of the drift term."""
        if self._windows is None:
            return theory.window_sum(self.tau, zeta)
        return self._windows / 2 / (1 + self.v / self.m) ** 2

    @cached_property
    def condition(self) -> str | None:
        """The name of the first condition, published before derived, that the rate meets; None when it meets none."""
        if self.known is None or self.largest_steps is None:
            return None
        x = self.eta_eff * self.known.L
        if "drift" in self.largest_steps:
            return "drift" if self.bound(1) is not None else None
        return next((name for name, most in self.largest_steps.items() if x <= most * (1 + 1e-12)), None)

    def bound(self, steps: int) -> theory.Bound | None:
        """The terms after so many steps; None when an assumption fails or the rate is too large."""
        if steps < 1 or self.known is None or not self.holds() or self.A is None or self.zeta is None:
            return None
        if self.differ and not self.alone:
            whole = self.tau * (self.cycle or 1)  # A is a mean over a cycle, of which the last may be cut where it is large
            A = self.A if whole == self.tau else self.A * -(-steps // whole) * whole / steps
            return theory.drift_terms(self.known, self.eta_eff, steps, self.m, self.v, A, self._window_sum(self.zeta))
        return None if self.condition is None else theory.terms(self.known, self.eta_eff, steps, self.m, self.A)
