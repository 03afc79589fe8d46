"""FedNova: what a worker's local steps moved counts by step, so that one with more steps has no larger say.

The mean of models that took different numbers of steps minimises an objective that nobody chose, in which whoever stepped more
weighs more. Here each movement is divided by how many steps it is worth and multiplied by what they are worth on average.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from coopsgd.host.transfer import brought
from coopsgd.mixing.static import takes_mean
from coopsgd.strategies.base import Around, Tick

if TYPE_CHECKING:
    from coopsgd.fleet.base import Common, Fleet, Pending, Rows


@cache
def worth(steps: int, momentum: float, nesterov: bool) -> float:
    """|a_i|_1: how far so many steps of rate 1 along gradients of 1 go, momentum beginning at 0.

    (tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho) for heavy ball rho.
    """
    velocity = total = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1
        total += 1 + momentum * velocity if nesterov else velocity
    return total


class Begun(NamedTuple):
    """Where each row was after the last communication."""

    own: Any  # the state of what is inside
    z: Rows


@dataclass(frozen=True)
class Normalised(Around):
    """A worker sends z + tau_eff (x - z) / |a_i|_1, tau_eff = sum w_i |a_i|_1 over those in the mean, w_i their weights."""

    momentum: tuple[float, bool] = (0.0, False)

    CHANGES, DELAYS = ("send", "receive"), False

    def init(self, fleet: Fleet, x: Rows) -> Begun:
        return Begun(self.algorithm.init(fleet, x), x.clone())

    def send(self, fleet: Fleet, t: Tick, x: Rows, s: Any) -> Pending | tuple[Pending, ...]:
        return super().send(fleet, t, self._sent(fleet, t, x, s), s)

    def receive(self, fleet: Fleet, t: Tick, x: Rows, heard: Any, s: Any) -> tuple[Rows | Common, Any]:
        y, s = super().receive(fleet, t, self._sent(fleet, t, x, s), heard, s)
        assert self.schedule is not None
        y, stays = y.expand_as(x), self.schedule.work(fleet.m, t.round + 1, t.tau)
        if stays is not None and not takes_mean(self.schedule):  # who sits the next round out keeps what it had
            y = x.where(column((stays == 0).astype(float), fleet, x) > 0, y)
        s.z.copy_(y)
        return y, s

    def _sent(self, fleet: Fleet, t: Tick, x: Rows, s: Any) -> Rows:
        return s.z + column(self._factors(fleet.m, t), fleet, x) * (x - s.z)

    def _factors(self, m: int, t: Tick) -> np.ndarray:
        """(m,) tau_eff / |a_i|_1; 1 of whoever took no step."""
        assert self.schedule is not None
        work = self.schedule.work(m, t.round, t.tau)
        steps = np.full(m, t.tau) if work is None else np.asarray(work)
        norms = np.array([worth(int(k), *self.momentum) for k in steps])
        weights = self.schedule.worker_shares(m)
        if not takes_mean(self.schedule):
            weights = self.schedule.factors(m, t.round)[0].row(m)[:m]
        return np.divide(weights @ norms, norms, out=np.ones(m), where=norms > 0)


def column(values: np.ndarray, fleet: Fleet, x: Rows) -> Rows:
    """(r, 1) a number of each worker beside its row, 0 beside auxiliary rows."""
    mine = x.new_zeros(len(x), 1)
    if not x.is_meta:
        mine[: len(fleet.workers), 0] = brought(
            np.array(values[fleet.workers.start : fleet.workers.stop], dtype=float), x.device, x.dtype
        )
    return mine
