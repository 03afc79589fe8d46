"""Quasi-global momentum: a worker's momentum follows how its model moves, mixing and all, not its own gradients alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from coopsgd.optim import below_one
from coopsgd.registry import option, register
from coopsgd.strategies.base import Tick
from coopsgd.strategies.cooperative import Cooperative

if TYPE_CHECKING:
    from coopsgd.fleet.base import Common, Fleet, Rows


class State(NamedTuple):
    momentum: Rows  # the quasi-global one, in units of a gradient
    start: Rows  # the models when this round began
    rates: float  # step sizes of this round so far, added up
    round: int  # which it is


@register("qg_dsgdm")
@dataclass(frozen=True)
class QGDSGDm(Cooperative):
    """Momentum of how the models move: x <- W (x - lr (g + beta m)), m <- mu m + (1 - mu) (x before - x after) / lr.

    arXiv:2102.04761. With local steps the displacement is that of a round, over the sum of its rates; where that is 0, m stays.
    nesterov: along g + beta (beta m + g). That is handed to the inner optimiser, which is meant to be SGD without momentum and
    adds its weight decay to it. beta=0 is the algorithm without momentum, to the bit.
    """

    beta: float = option(0.9, "weight of the quasi-global momentum in a step", unit="share")
    mu: float = option(0.9, "share of it that stays from round to round", unit="share")
    nesterov: bool = option(False, "look ahead: step along g + beta (beta m + g)")

    def __post_init__(self) -> None:
        below_one("algo.beta", self.beta)
        below_one("algo.mu", self.mu)

    def init(self, fleet: Fleet, x: Rows) -> State:
        return State(x.new_zeros(x.shape), x.clone(), 0.0, 0)

    def direction(self, fleet: Fleet, t: Tick, grad: Rows, x: Rows, s: State) -> tuple[Rows | Common, State]:
        if t.round != s.round:  # here, where the models hold all of the round, whatever order and delay are
            m = s.momentum
            if s.rates:
                m = ((s.start - x) / s.rates).lerp(m, self.mu)
            s = State(m, x.clone(), 0.0, t.round)
        s = s._replace(rates=s.rates + t.lr)
        if not self.beta:
            return grad, s
        along = grad.add(s.momentum, alpha=self.beta)
        return (grad.add(along, alpha=self.beta) if self.nesterov else along), s
