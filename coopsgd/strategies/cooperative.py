"""A(tau, W, v), the framework itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from coopsgd.errors import RunFailed
from coopsgd.mixing.base import Factors, Mixing, first_negative
from coopsgd.mixing.expectation import Expectation, Outcomes
from coopsgd.mixing.static import Average
from coopsgd.registry import register
from coopsgd.strategies.base import Strategy, Tick

if TYPE_CHECKING:
    from coopsgd.fleet.base import Fleet, Rows
    from coopsgd.optim import Inner

BUFFERS = ("keep", "average", "reset")
ORDERS = ("atc", "cta", "overlap")


@register("cooperative")
@dataclass(frozen=True)
class Cooperative(Strategy):
    """A(tau, W, v): x <- W (x - eta g), where W = I unless a communication is due. arXiv:1808.07576.

    order: atc (adapt, then combine) is that. cta (combine, then adapt) mixes before the gradient, x <- p - eta g(p) with p =
    W x: the same models half a step later. overlap mixes what was there before the step, x <- W x - eta g(x), and the network
    carries it while the gradient is computed; it is what D-PSGD and EASGD first were (arXiv:1705.09056, arXiv:1412.6651).
    Only the first factor is hidden, and nothing when running statistics are mixed too or buffers=average.

    buffers: what a communication does to the inner optimiser's buffers. keep leaves them, average mixes them by the same
    W in the same message, reset empties them.
    """

    mixing: Mixing = field(default_factory=Average)
    buffers: str = "keep"
    order: str = "atc"

    def __post_init__(self) -> None:
        if self.buffers not in BUFFERS:
            raise ValueError(f"buffers: must be one of {', '.join(BUFFERS)}, got {self.buffers!r}")
        if self.buffers == "average" and self.num_aux:
            raise ValueError("buffers=average: an auxiliary model has no buffers to mix with; use keep or reset")
        if self.order not in ORDERS:
            raise ValueError(f"algo.order: must be one of {', '.join(ORDERS)}, got {self.order!r}")

    @property
    def num_aux(self) -> int:
        return self.mixing.num_aux

    @property
    def served(self) -> bool:
        return self.mixing.served

    @property
    def plain(self) -> bool:
        return self.order != "overlap"  # which asks for the models before the step

    @property
    def patient(self) -> bool:
        return self.order == "overlap" and self.buffers != "average"  # buffers are mixed before the step that uses them

    @property
    def times_itself(self) -> bool:
        return self.mixing.times_itself

    @property
    def mixes_first(self) -> bool:
        return self.order == "cta"

    def factors(self, m: int, r: int) -> Factors:
        return self.mixing.factors(m, r)

    def as_matrices(self, m: int, r: int) -> Factors:
        return self.factors(m, r)

    def cycle(self, m: int) -> int | None:
        return self.mixing.cycle(m)

    def check(self, m: int) -> None:
        self.mixing.refuse_size(m)
        self.mixing.check(m)
        if self.order == "overlap" and (self.times_itself or self.work(m, 0, 1) is not None):
            raise ValueError(
                "algo.order: overlap loses the last step of a worker that sits the next round out; use atc with this mixing"
            )

    def negative(self, m: int) -> str | None:
        return super().negative(m) if type(self).factors is not Cooperative.factors else self.mixing.negative(m)

    def settled(self, m: int) -> dict[str, Any]:
        return self.mixing.settled(m)

    def zeta(self, m: int) -> float | None:
        return self.mixing.zeta(m)

    def expectation(self, m: int) -> Expectation | None:
        return self.mixing.expectation(m)

    def outcomes(self, m: int, tau: int) -> Outcomes | None:
        return self.mixing.outcomes(m, tau)

    def work(self, m: int, round: int, tau: int) -> np.ndarray | None:
        return self.mixing.work(m, round, tau)

    def before(self, fleet: Fleet, round: int, inner: Inner, stats: tuple[Rows, ...], x: Rows, s: Any) -> tuple[Rows, Any]:
        return self._communicate(fleet, round, inner, stats, x), s

    def step(self, fleet: Fleet, tick: Tick, x: Rows, s: Any) -> tuple[Rows, Any]:
        if not tick.due or self.order == "cta":
            return tick.local(x), s
        if self.order == "atc":
            return self._communicate(fleet, tick.round, tick.inner, tick.stats, tick.local(x)), s
        mixed = self._start(fleet, tick.round, tick.inner, tick.stats, x)
        before = x.clone()
        x = tick.local(x)
        return x.add_(mixed().sub_(before)), s

    def _communicate(self, fleet: Fleet, round: int, inner: Inner, stats: tuple[Rows, ...], x: Rows) -> Rows:
        """W x, in place, and what becomes of the optimiser's buffers and of running statistics."""
        factors = self.factors(fleet.m, round)
        if (stats or self.buffers == "average") and (weight := first_negative([factors])) is not None:
            raise RunFailed(
                f"communication {round}: {weight}, which can make a running variance or an optimiser's mean square "
                "negative; use norm_stats=recalibrate, algo.buffers=keep, or weights that are not negative"
            )
        for W in factors:
            if self.buffers == "average":
                inner.together(partial(fleet.mix, W, x, *stats))  # in place, in one message
            else:
                fleet.mix(W, x, *stats)
        if self.buffers == "reset":
            inner.reset()
        return x

    def _start(self, fleet: Fleet, round: int, inner: Inner, stats: tuple[Rows, ...], x: Rows) -> Callable[[], Rows]:
        """The same, W x a new tensor, told when it is asked for; x may change meanwhile."""
        factors = self.factors(fleet.m, round)
        if stats or self.buffers == "average" or not factors:
            mixed = self._communicate(fleet, round, inner, stats, x.clone())
            return lambda: mixed
        if self.buffers == "reset":
            inner.reset()
        first = fleet.later(fleet.mix, factors[0], x)

        def finish() -> Rows:
            mixed = first.wait()
            for W in factors[1:]:
                fleet.mix(W, mixed)
            return mixed

        return finish
