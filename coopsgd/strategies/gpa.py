"""Generalised primal averaging: gradients are taken between an optimiser's models and their running average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from coopsgd.optim import below_one
from coopsgd.registry import option, register
from coopsgd.strategies.base import Tick
from coopsgd.strategies.fullsync import FullSync

if TYPE_CHECKING:
    from coopsgd.fleet.base import Common, Fleet, Rows


class State(NamedTuple):
    z: Rows  # what the inner optimiser moves
    average: Rows  # of z, what is evaluated


@register("gpa")
@dataclass(frozen=True)
class GPA(FullSync):
    """y = mu_y a + (1 - mu_y) z; z <- z + u; a <- mu_x a + (1 - mu_x) z. arXiv:2512.17131. The models are y.

    u: the inner optimiser's step along the mean gradient at y; its weight decay is of y too, where the paper decays z.
    mu_x=0 is fullsync; with mu_y=1 SGD of rate lr is heavy ball of momentum mu_x and rate (1 - mu_x) lr.
    """

    mu_x: float = option(0.9, "share of the average that stays in a step; 0: it is what the optimiser moves", unit="share")
    mu_y: float = option(0.8, "share of the average in where gradients are taken", unit="share")

    def __post_init__(self) -> None:
        below_one("algo.mu_x", self.mu_x)
        if not 0 <= self.mu_y <= 1:
            raise ValueError(f"algo.mu_y: must lie in [0, 1], got {self.mu_y}")

    def init(self, fleet: Fleet, x: Rows) -> State:
        return State(x.clone(), x.clone())

    def shift(self, fleet: Fleet, t: Tick, x: Rows, s: State) -> tuple[Rows, State]:
        z = s.z + (x - s.z.lerp(s.average, self.mu_y))
        average = z.lerp(s.average, self.mu_x)
        return z.lerp(average, self.mu_y) - x, State(z, average)

    def answer(self, fleet: Fleet, x: Rows, s: State) -> Common:
        return fleet.mean(s.average)
