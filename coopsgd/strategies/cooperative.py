"""A(tau, W, v), the framework itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from coopsgd.mixing import spectra
from coopsgd.mixing.schedules import Average, Factors, Mixing
from coopsgd.registry import register
from coopsgd.strategies.base import Strategy, Tick

if TYPE_CHECKING:
    from coopsgd.fleet.base import Fleet, Rows

BUFFERS = ("keep", "average", "reset")


@register("cooperative")
@dataclass(frozen=True)
class Cooperative(Strategy):
    """A(tau, W, v): x <- W (x - eta g), where W = I unless a communication is due. arXiv:1808.07576.

    buffers: what a communication does to the inner optimiser's buffers. keep leaves them, average mixes them by the same
    W in the same message, reset empties them.
    """

    plain: ClassVar[bool] = True

    mixing: Mixing = field(default_factory=Average)
    buffers: str = "keep"

    def __post_init__(self) -> None:
        if self.buffers not in BUFFERS:
            raise ValueError(f"buffers: must be one of {', '.join(BUFFERS)}, got {self.buffers!r}")
        if self.buffers == "average" and self.num_aux:
            raise ValueError("buffers=average: an auxiliary model has no buffers to mix with; use keep or reset")

    @property
    def num_aux(self) -> int:
        return self.mixing.num_aux

    def factors(self, m: int, r: int) -> Factors:
        return self.mixing.factors(m, r)

    def check(self, m: int) -> None:
        self.mixing.check(m)

    def zeta(self, m: int) -> float:
        return spectra.zeta(spectra.product(self.factors(m, 0), m + self.num_aux))

    def active(self, m: int, round: int) -> np.ndarray | None:
        return self.mixing.active(m, round)

    def step(self, fleet: Fleet, tick: Tick, x: Rows, s: Any) -> tuple[Rows, Any]:
        x = tick.local(x)
        if tick.due:
            for W in self.factors(fleet.m, tick.round):
                if self.buffers == "average":
                    tick.inner.together(partial(fleet.mix, W, x))  # in place, in one message
                else:
                    x = fleet.mix(W, x)
            if self.buffers == "reset":
                tick.inner.reset()
        return x, s
