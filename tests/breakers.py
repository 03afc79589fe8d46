"""Strategies that break a promise of the contract, each its own; `coopsgd.testing` tells which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from unittest import mock

import torch

from coopsgd import Rows, Strategy
from coopsgd.loop.rounds import Rounds
from coopsgd.mixing.static import Average
from coopsgd.strategies.cooperative import Cooperative

COUNTED: list[int] = []


class Memory(NamedTuple):
    rows: Rows


@dataclass(frozen=True)
class Receives(Cooperative):
    """An average in plain torch."""

    def receive(self, fleet, t, x, heard, s):
        return heard + 0.1 * (x - x.mean(0)), s


@dataclass(frozen=True)
class Hears(Cooperative):
    """Looks at what another row heard."""

    def receive(self, fleet, t, x, heard, s):
        return heard + 0 * heard[:1] if t.round % 2 else heard, s


@dataclass(frozen=True)
class Directs(Cooperative):
    """Clips by the norm of everybody's gradient."""

    def direction(self, fleet, t, grad, x, s):
        return grad / grad.norm().clamp(min=1), s


@dataclass(frozen=True)
class Sends(Cooperative):
    """Centres before it sends."""

    def send(self, fleet, t, x, s):
        return fleet.later(fleet.mix, self.schedule.at(fleet.m, t.round), x - x.max(0).values)


@dataclass(frozen=True)
class Answers(Cooperative):
    """An average of the rows that happen to be here."""

    def answer(self, fleet, x, s):
        return x.mean(0, keepdim=True)


@dataclass(frozen=True)
class Remembers(Cooperative):
    """Adds up the state of all rows."""

    def init(self, fleet, x):
        return Memory(torch.zeros_like(x))

    def receive(self, fleet, t, x, heard, s):
        return heard, Memory(s.rows + x - s.rows.sum(0, keepdim=True))


@dataclass(frozen=True)
class Hides(Strategy):
    """Counts its rounds in itself."""

    schedule = Average()

    def receive(self, fleet, t, x, heard, s):
        object.__setattr__(self, "_rounds", getattr(self, "_rounds", 0) + 1)
        return heard * (1 + 1e-3 * self._rounds), s


@dataclass(frozen=True)
class Global(Strategy):
    """Counts its rounds in its module."""

    schedule = Average()

    def receive(self, fleet, t, x, heard, s):
        COUNTED.append(t.round)
        return heard * (1 + 1e-6 * len(COUNTED)), s


@dataclass(frozen=True)
class Places(Cooperative):
    """Treats the first row of every process as if it were the first of all."""

    def receive(self, fleet, t, x, heard, s):
        new = heard.clone()
        new[0] += 1
        return new, s


def with_idling_confused(rank, function, *arguments):
    """function(rank, ...) where all processes but the first take who works for who does not."""
    active = Rounds.active.fget

    def inverted(self):
        found = active(self)
        return found if found is None or not rank else ~found

    with mock.patch.object(Rounds, "active", property(inverted)):
        return function(rank, *arguments)
