"""Fully synchronous SGD by averaging gradients, as data-parallel training does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from coopsgd.host import sizes
from coopsgd.mixing.matrices import average
from coopsgd.registry import register
from coopsgd.strategies.base import Strategy, Tick

if TYPE_CHECKING:
    from coopsgd.fleet.base import Fleet, Rows


@register("fullsync")
@dataclass(frozen=True)
class FullSync(Strategy):
    """x <- x - eta mean(g), every step: large-batch SGD, equal to DDP under every optimiser. A(1, J, 0), arXiv:1808.07576.

    It averages gradients, not models, so that one optimiser state serves all workers (Adam included); `pasgd tau=1`
    averages models and is the same only for optimisers linear in the gradient.
    """

    fixed_tau: ClassVar[int | None] = 1
    averages: ClassVar[int | None] = 1
    always_equal: ClassVar[bool] = True

    def as_matrices(self, m: int, r: int) -> tuple[np.ndarray, ...]:
        sizes.refuse_square(m, m, copies=2)
        return (average(m),)

    def zeta(self, m: int) -> float:
        return 0.0

    def step(self, fleet: Fleet, tick: Tick, x: Rows, s: Any) -> tuple[Rows, Any]:
        if not tick.stats:
            return tick.local(x, fleet.mean(tick.grad)), s
        direction, *means = fleet.mean(tick.grad, *tick.stats)
        for stats, mean in zip(tick.stats, means, strict=True):
            stats.copy_(mean)
        return tick.local(x, direction), s
