"""The state of a run between two iterations, as one value: what `Loop.advance` moves on, and what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from coopsgd.loop.blocks import by_row
from coopsgd.loop.saved import ByProcess, ByRow

if TYPE_CHECKING:
    from torch import Tensor

    from coopsgd.fleet.base import Carried, Pending, Rows
    from coopsgd.fleet.ledger import Ledger
    from coopsgd.loop.inner import Inner
    from coopsgd.loop.rounds import Rounds
    from coopsgd.strategies.base import Tick


@dataclass
class Flight:
    """A communication under way: it was sent, and is not due yet. What it was sent of is kept, so that it can be sent again."""

    t: Tick  # when it was sent
    sent: Rows  # (r, d) the rows as they were sent
    s: Any  # the strategy's state, likewise
    companions: Sequence[Rows]  # running statistics and buffers, likewise
    clock: Any  # seconds of each host when it left; None without a cluster
    pending: Pending | tuple[Pending, ...]  # what waits for its verbs
    carried: Carried  # the companions in the same message
    apart: Pending | None = None  # or in one of their own, where the strategy did not mix by its matrix

    def saved(self, mark: Callable[[Any], Any]) -> dict[str, Any]:
        """To send it again; mark: marks the tensors of a strategy's state."""
        companions = [ByRow([x]) for x in self.companions]
        return {"t": self.t, "sent": by_row(self.sent), "s": mark(self.s), "companions": companions, "clock": self.clock}


@dataclass
class State:
    """What the next iterations depend on, beside config and seed. By row (R), or the same in every process (C).

    Batches, clients drawn and dropout are functions of an address (seed, row, step) and are not in it.
    """

    x: Rows  # R (r, d) the models, auxiliary rows last; fused steps may have taken it ahead of k, as far as nobody looks
    stats: Rows | None  # R (r, b) running statistics
    module_buffers: Sequence[Rows]  # R (w, ...) other buffers of modules (num_batches_tracked, masks), never mixed
    s: Any  # R or C, the strategy's own
    inner: Inner  # R buffers and step counts, C the rate
    rounds: Rounds  # C the place in the round and in the period's rule; local steps that each worker has taken
    losses: Losses  # R since the period last asked for them
    ledger: Ledger  # C
    clock: Any  # C seconds of each host; None without a cluster
    k: int = 0  # C iterations done
    flight: Flight | None = None  # R the message under way
    postponed: Tick | None = None  # C the communication that waits for the next step to begin (order=cta)

    def saved(self, mark: Callable[[Any], Any]) -> dict[str, Any]:
        """All of it as a tree (loop/saved.py); nothing is copied. mark: marks the tensors of a strategy's state."""
        return {
            "x": by_row(self.x),
            "stats": None if self.stats is None else ByRow([self.stats]),
            "module_buffers": [ByRow([b]) for b in self.module_buffers],
            "s": mark(self.s),
            "inner": self.inner.saved(),
            "rounds": self.rounds.saved(),
            "losses": self.losses.saved(),
            "ledger": {**self.ledger.saved(), "comm_s": ByProcess(torch.tensor([self.ledger.comm_s], dtype=torch.float64))},
            "clock": None if self.clock is None else self.clock.saved(),
            "k": self.k,
            "flight": None if self.flight is None else self.flight.saved(mark),
            "postponed": self.postponed,
        }


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

    def saved(self) -> dict[str, Any]:
        return {"sum": ByRow([self._sum]) if torch.is_tensor(self._sum) else self._sum, "count": self._count}

    def restore(self, tree: dict[str, Any]) -> None:
        self._sum, self._count = tree["sum"], tree["count"]

    def __call__(self) -> float:
        mean = float(self._fleet.even_mean(self._sum)) * self._fleet.m / self._count
        self._sum, self._count = 0.0, 0
        return mean
