"""DecentLaM: heavy ball in gossip without the bias that it adds where workers' data differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from coopsgd.optim import below_one
from coopsgd.registry import option, register
from coopsgd.strategies.base import Tick
from coopsgd.strategies.cooperative import Cooperative

if TYPE_CHECKING:
    from coopsgd.fleet.base import Fleet, Rows


class State(NamedTuple):
    start: Rows  # the models after the last communication, less what it had not mixed
    momentum: Rows  # in units of a gradient


@register("decentlam")
@dataclass(frozen=True)
class DecentLaM(Cooperative):
    """Momentum of x - W (x - lr g): h = W (x - lr g), b <- beta b + (x - h) / lr, x <- x - lr b. arXiv:2104.11981.

    With local steps x is what the models were when the round began, and lr the rate of its last step. Where that is 0 models
    are mixed and b only decays. beta=0 is the algorithm without momentum, to the bit, for x - lr b = h - lr beta b.
    """

    beta: float = option(0.9, "share of the momentum that stays from round to round", unit="share")

    def __post_init__(self) -> None:
        below_one("algo.beta", self.beta)

    def init(self, fleet: Fleet, x: Rows) -> State:
        return State(x.clone(), x.new_zeros(x.shape))

    def receive(self, fleet: Fleet, t: Tick, x: Rows, heard: Rows, s: State) -> tuple[Rows, State]:
        new = heard.sub(s.momentum, alpha=t.lr * self.beta) if self.beta else heard
        b = self.beta * s.momentum
        if t.lr:
            b.add_(s.start - heard, alpha=1 / t.lr)
        return new, State(new.clone(), b)
