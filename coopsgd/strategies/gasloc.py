"""GASLoC: DiLoCo's outer step where workers gossip, with momentum that makes them agree sooner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from coopsgd.optim import below_one, positive
from coopsgd.registry import option, register
from coopsgd.strategies.base import Tick
from coopsgd.strategies.cooperative import Cooperative

if TYPE_CHECKING:
    from coopsgd.fleet.base import Fleet, Pending, Rows

WHEN = ("after", "before")


class State(NamedTuple):
    z: Rows  # the models after the last communication, less what it had not mixed
    before: Rows  # Y of the communication before


@register("gasloc")
@dataclass(frozen=True)
class GASLoC(Cooperative):
    """Gossip of outer steps with momentum: Y = z + eta (x - z), z <- W Y + gamma (Y - Y of before). arXiv:2606.11081.

    momentum=before: z <- W (Y + gamma (Y - Y of before)), which is DiLoCo where W = J; the paper's form leaves the workers
    apart even there. The mean of z steps as torch's Nesterov of rate eta and momentum gamma under either and every doubly
    stochastic W. eta=1 gamma=0 mixes models and no more. One message, as of gossip.
    """

    eta: float = option(0.7, "the outer rate: 1 goes all the way to the local model", unit="")
    gamma: float = option(0.6, "weight of how the outer steps have moved since the communication before", unit="share")
    momentum: str = option("after", "is it added after mixing, as the paper has it, or before, and mixed too", words=WHEN)

    def __post_init__(self) -> None:
        positive("algo.eta", self.eta)
        below_one("algo.gamma", self.gamma)
        if self.momentum not in WHEN:
            raise ValueError(f"algo.momentum: must be one of {', '.join(WHEN)}, got {self.momentum!r}")

    def init(self, fleet: Fleet, x: Rows) -> State:
        return State(x.clone(), x.clone())

    def send(self, fleet: Fleet, t: Tick, x: Rows, s: State) -> Pending:
        assert self.schedule is not None
        y = self._stepped(x, s)
        sent = y.add(y - s.before, alpha=self.gamma) if self.momentum == "before" else y
        return fleet.later(fleet.mix, self.schedule.at(fleet.m, t.round), sent)

    def receive(self, fleet: Fleet, t: Tick, x: Rows, heard: Rows, s: State) -> tuple[Rows, State]:
        y = self._stepped(x, s)
        z = heard if self.momentum == "before" else heard.add(y - s.before, alpha=self.gamma)
        return z, State(z.clone(), y)

    def _stepped(self, x: Rows, s: State) -> Rows:
        """Y, written around x: eta=1 gives x to the bit."""
        return x.add(s.z - x, alpha=1 - self.eta)
