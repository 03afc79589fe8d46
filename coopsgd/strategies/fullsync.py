"""Fully synchronous SGD by averaging gradients, as data-parallel training does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coopsgd.mixing.static import Average
from coopsgd.registry import register
from coopsgd.strategies.base import Strategy, Tick, averaging

if TYPE_CHECKING:
    from coopsgd.fleet.base import Common, Fleet, Rows


@register("fullsync")
@dataclass(frozen=True)
class FullSync(Strategy):
    """x <- x - eta mean(g), every step: large-batch SGD, equal to DDP under every optimiser. A(1, J, 0), arXiv:1808.07576.

    It averages gradients, not models, so that one optimiser state serves all workers (Adam included); `pasgd tau=1`
    averages models and is the same only for optimisers linear in the gradient.
    """

    schedule = Average()  # what happens to the models of plain SGD
    send = None  # type: ignore[assignment]

    @averaging
    def direction(self, fleet: Fleet, t: Tick, grad: Rows, x: Rows, s: Any) -> tuple[Common, Any]:
        return fleet.mean(grad), s
