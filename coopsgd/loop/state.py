"""The state of a run between two iterations, as one value: what `Loop.advance` moves on, and what a checkpoint must hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from coopsgd.fleet.base import Carried, Pending, Rows
    from coopsgd.fleet.ledger import Ledger
    from coopsgd.loop.inner import Inner
    from coopsgd.loop.rounds import Rounds
    from coopsgd.strategies.base import Tick


@dataclass
class Flight:
    """A communication under way: it was sent, and is not due yet."""

    pending: Pending | tuple[Pending, ...]  # what waits for its verbs
    sent: Rows  # (r, d) the rows as they were sent
    carried: Carried  # running statistics and buffers in the same message
    apart: Pending | None = None  # or in one of their own, where the strategy did not mix by its matrix


@dataclass
class State:
    """What the next iterations depend on, beside config and seed. By row (R), or the same in every process (C).

    Other buffers of a module than running statistics (num_batches_tracked, masks) are kept by the problem, and are not in it.

    Batches, clients drawn and dropout are functions of an address (seed, row, step) and are not in it.
    """

    x: Rows  # R (r, d) the models, auxiliary rows last; fused steps may have taken it ahead of k, as far as nobody looks
    stats: Rows | None  # R (r, b) running statistics
    s: Any  # R or C, the strategy's own
    inner: Inner  # R buffers and step counts, C the rate
    rounds: Rounds  # C the place in the round and in the period's rule; local steps that each worker has taken
    losses: Losses  # R since the period last asked for them
    ledger: Ledger  # C
    clock: Any  # C seconds of each host; None without a cluster
    k: int = 0  # C iterations done
    flight: Flight | None = None  # R the message under way
    postponed: Tick | None = None  # C the communication that waits for the next step to begin (order=cta)


class Losses:
    """The loss that a period may ask for: the mean over workers and steps since it was last asked. Asking is charged."""

    def __init__(self, fleet: Any, wanted: bool) -> None:
        self._fleet, self._wanted = fleet, wanted
        self._sum: Tensor | float = 0.0  # (r, 1)
        self._count = 0  # worker-steps of the whole fleet

    def add(self, loss: Tensor, active: Any) -> None:
        """The losses (r, 1) of one step, 0 where idle."""
        if self._wanted:
            self._sum = self._sum + loss.double()
            self._count += self._fleet.m if active is None else int(active.sum())

    def __call__(self) -> float:
        mean = float(self._fleet.mean(self._sum)) * self._fleet.m / self._count
        self._sum, self._count = 0.0, 0
        return mean
