"""Push-sum: gossip on directed graphs, where nobody needs to know more than to how many it sends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from coopsgd.mixing.base import Mixing
from coopsgd.mixing.push import Push, PushOnGraph
from coopsgd.registry import register
from coopsgd.strategies.base import Tick
from coopsgd.strategies.cooperative import Cooperative

if TYPE_CHECKING:
    from coopsgd.fleet.base import Common, Fleet, Pending, Rows


class State(NamedTuple):
    start: Rows  # the models after the last communication, less what it had not mixed
    weight: Rows  # (r, 1) of how many models each is made


@register("push_sum")
@dataclass(frozen=True)
class PushSum(Cooperative):
    """Stochastic gradient push: mass <- P (mass + u), w <- P w, model = mass / w, columns of P sum to one. arXiv:1811.10792.

    u: what the local steps of a round do to the model, by whatever inner optimiser. Weights that cannot change, where rows of
    all P sum to one as well, are neither kept nor sent: it is then gossip with W = P, to the bit. With a delay the steps taken
    since a message left are part of the next u, so no mass is lost. Ships sum mass / sum w, which mixing keeps; the mean
    of the models would count workers that hear from many for more.
    """

    mixing: Mixing = field(default_factory=PushOnGraph)

    def __post_init__(self) -> None:
        if not isinstance(self.mixing, Push):
            raise ValueError(
                "algo.mixing: push_sum shares models out by columns that sum to one, and "
                f"{type(self.mixing).__name__} is a W by whose rows they are taken; use push or push_by_book, or "
                "algo=dpsgd for such a W"
            )

    def _steady(self, fleet: Fleet) -> bool:
        return cast(Push, self.schedule).steady(fleet.m)

    def init(self, fleet: Fleet, x: Rows) -> State | tuple[()]:
        return () if self._steady(fleet) else State(x.clone(), x.new_ones(len(x), 1))

    def send(self, fleet: Fleet, t: Tick, x: Rows, s: Any) -> Pending | tuple[Pending, ...]:
        if self._steady(fleet):
            return super().send(fleet, t, x, s)
        return fleet.later(fleet.mix, cast(Push, self.schedule).shares(fleet.m, t.round), _mass(x, s), exact=(s.weight,))

    def receive(self, fleet: Fleet, t: Tick, x: Rows, heard: Any, s: Any) -> tuple[Rows, Any]:
        if self._steady(fleet):
            return heard, s
        mass, weight = heard
        start = mass / weight
        return start, State(start, weight)

    def answer(self, fleet: Fleet, x: Rows, s: Any) -> Common:
        return fleet.mean(x if self._steady(fleet) else _mass(x, s))


def _mass(x: Rows, s: State) -> Rows:
    """What a worker has to share out: its weight of what the round began with, and its steps since."""
    return s.weight * s.start + (x - s.start)
