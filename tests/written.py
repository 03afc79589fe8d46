"""Algorithms written as docs/new_algorithm.md tells: a file and a few lines each. The battery runs them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from coopsgd import Common, Mixing, Pending, Rows, Strategy
from coopsgd.mixing.static import Average


class Slow(NamedTuple):
    anchor: Common  # where the round began
    velocity: Common  # slow momentum, in units of a gradient


@dataclass(frozen=True)
class SlowMo(Strategy):
    """Momentum over rounds. arXiv:1910.00643, Algorithm 1."""

    beta: float = 0.7

    def init(self, fleet, x):
        anchor = fleet.mean(x)
        return Slow(anchor, torch.zeros_like(anchor))

    def send(self, fleet, t, x, s):
        return fleet.later(fleet.mean, x)

    def receive(self, fleet, t, x, mean, s):
        velocity = self.beta * s.velocity + (s.anchor - mean) / t.lr
        anchor = s.anchor - t.lr * velocity
        return anchor.expand_as(x), Slow(anchor, velocity)


@dataclass(frozen=True)
class StreamingDiLoCo(Strategy):
    """Nesterov over rounds, one fragment of the columns a round. arXiv:2501.18512; one fragment: DiLoCo, arXiv:2311.08105."""

    fragments: int = 3
    outer_lr: float = 0.7
    mu: float = 0.9

    def _columns(self, t, x):
        return slice(t.round % self.fragments, None, self.fragments)

    def init(self, fleet, x):
        return Slow(fleet.mean(x), torch.zeros_like(x[:1]))

    def send(self, fleet, t, x, s):
        return fleet.later(fleet.mean, x[:, self._columns(t, x)])

    def receive(self, fleet, t, x, mean, s):
        at, new, z, b = self._columns(t, x), x.clone(), s.anchor.clone(), s.velocity.clone()
        delta = z[:, at] - mean
        b[:, at] = self.mu * b[:, at] + delta
        z[:, at] -= self.outer_lr * (delta + self.mu * b[:, at])
        new[:, at] = z[:, at]
        return new, Slow(z, b)


@dataclass(frozen=True)
class PushSum(Strategy):
    """Stochastic gradient push on a directed graph: models and their weights are mixed by columns. arXiv:1811.10792."""

    def _push(self, m):
        sends = np.eye(m) + np.eye(m, k=-1) + np.eye(m, k=m - 1)  # j to itself and to j + 1,
        sends[m // 2, 0] = 1  # the first to one more: no weights make rows and columns of this graph sum to one
        return sends / sends.sum(0)

    def init(self, fleet, x) -> Rows:
        return torch.ones_like(x[:, :1])

    def direction(self, fleet, t, grad, x, s):
        return grad / s, s  # the step is one of the mass x s

    def send(self, fleet, t, x, s):
        return fleet.later(fleet.mix, self._push(fleet.m), x * s, s)

    def receive(self, fleet, t, x, heard, s):
        mass, weight = heard
        return mass / weight, weight


class Tracked(NamedTuple):
    tracker: Rows  # estimate of the mean gradient
    last: Rows  # the gradient before


@dataclass(frozen=True)
class GradientTracking(Strategy):
    """Steps along a tracker of the mean gradient, mixed beside the models. x <- W (x - eta y), y <- W y + g - g before."""

    mixing: Mixing = field(default_factory=Average)
    schedule = property(lambda self: self.mixing)

    def init(self, fleet, x):
        return Tracked(torch.zeros_like(x), torch.zeros_like(x))

    def direction(self, fleet, t, grad, x, s):
        tracker = s.tracker + grad - s.last
        return tracker, Tracked(tracker, grad.clone())

    def send(self, fleet, t, x, s):
        sent = Pending(lambda: s.tracker)  # of a delay the tracker keeps what it gained since, as the models do
        return fleet.later(fleet.mix, self.schedule.at(fleet.m, t.round), x, s.tracker), sent

    def receive(self, fleet, t, x, heard, s):
        (x, mixed), sent = heard
        return x, s._replace(tracker=mixed + (s.tracker - sent))
