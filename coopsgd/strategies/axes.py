"""An algorithm together with its axes: what of its models is sent, and what is made of the answer.

`with_axes` puts them around the strategy that an algo names. An axis that is absent is not there: the strategy is what it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from coopsgd.mixing.base import Mixing
from coopsgd.mixing.static import Average
from coopsgd.strategies.base import Around, Strategy, Tick, overrides
from coopsgd.strategies.correction import Correction
from coopsgd.strategies.outer import Outer

if TYPE_CHECKING:
    from coopsgd.fleet.base import Common, Fleet, Pending, Rows


def with_axes(strategy: Strategy, outer: Outer | None = None, correction: Correction | None = None) -> Strategy:
    """The strategy with these axes around it; itself where there is none."""
    strategy = strategy if outer is None else Slow(strategy, outer)
    return strategy if correction is None else correction.around(strategy)


class RowsHeld(NamedTuple):
    """What `Slow` remembers where the slow models differ."""

    own: Any  # the state of the algorithm
    z: Rows
    memory: tuple[Rows, ...]


class CommonHeld(NamedTuple):
    """The same where every communication leaves one model to all."""

    own: Any
    z: Common
    memory: tuple[Common, ...]


@dataclass(frozen=True)
class Slow(Around):
    """An algorithm whose models take an outer step: from z, what they were after the last communication, towards what it mixes.

    Each row has its z; where W = J they are one. Of an algorithm with a server that hands its model out, the server's row alone
    takes the step, between what it hears and what it says.
    """

    outer: Outer

    CHANGES = ("send", "receive")

    @property
    def _one(self) -> bool:
        """Is there one slow model for all, because every communication is an average?"""
        return isinstance(self.schedule, Average) and not overrides(self.algorithm, "send")

    def init(self, fleet: Fleet, x: Rows) -> RowsHeld | CommonHeld:
        own = self.algorithm.init(fleet, x)
        if self._one:
            z = _wide(fleet.mean(x))
            return CommonHeld(own, z, self.outer.begin(z))
        served = len(fleet.workers) if serves(self.schedule) else 0
        z = _wide(x[served:])
        return RowsHeld(own, _below(served, z), tuple(_below(served, one) for one in self.outer.begin(z)))

    def direction(self, fleet: Fleet, t: Tick, grad: Rows, x: Rows, s: Any) -> tuple[Rows | Common, Any]:
        found, own = self.algorithm.direction(fleet, t, grad, x, s.own)
        return found, s._replace(own=own)

    def send(self, fleet: Fleet, t: Tick, x: Rows, s: Any) -> Pending | tuple[Pending, ...]:
        if overrides(self.algorithm, "send"):
            return self.algorithm.send(fleet, t, x, s.own)
        if self._one:
            return fleet.later(fleet.mean, x)
        assert self.schedule is not None  # an algorithm without one sends by itself
        W = self.schedule.at(fleet.m, t.round)
        return fleet.later(fleet.mix, W.factors[0] if serves(self.schedule) else W, x)

    def receive(self, fleet: Fleet, t: Tick, x: Rows, heard: Any, s: Any) -> tuple[Rows | Common, Any]:
        y, own = self.algorithm.receive(fleet, t, x, heard, s.own)
        if isinstance(s, CommonHeld):
            self.outer.step(s.z, y, s.memory, t.lr)
            return s.z, s._replace(own=own)
        if not serves(self.schedule):
            self.outer.step(s.z, y, s.memory, t.lr)
            return s.z, s._replace(own=own)
        assert self.schedule is not None
        w = len(fleet.workers)
        self.outer.step(s.z[w:], y[w:], tuple(one[w:] for one in s.memory), t.lr)
        y[w:] = s.z[w:]
        return fleet.mix(self.schedule.factors(fleet.m, t.round)[1], y), s._replace(own=own)

    def answer(self, fleet: Fleet, x: Rows, s: Any) -> Common:
        return self.algorithm.answer(fleet, x, s.own)


def serves(schedule: Mixing | None) -> bool:
    """Does a communication take the models up to a server of its own, and then hand its model down?"""
    return schedule is not None and schedule.server_owns_aux


def _wide(x: Rows) -> Rows:
    """A copy in at least 32 bits: an outer step is small beside the model."""
    return x.float() if x.element_size() < 4 else x.clone()


def _below(n: int, rows: Rows) -> Rows:
    """The rows below n empty ones, which take memory only if they are written to."""
    if not n:
        return rows
    found = rows.new_zeros(n + len(rows), rows.shape[1])
    found[n:] = rows
    return found
