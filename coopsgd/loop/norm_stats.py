"""Running statistics (BatchNorm's mean and variance) are a policy, never an accident.

They are a second tensor of Rows, (r, b), beside the models x (r, d). `average` mixes them by the same W in the same message,
charged like the rest; `local` leaves each worker its own; `recalibrate` leaves them too, and estimates the averaged model's
anew before it is evaluated or shipped. The averaged model otherwise has the workers' mean statistics, single workers their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from coopsgd.fleet.base import Common, Fleet, Rows
    from coopsgd.strategies.base import Strategy
    from coopsgd.tasks.base import Problem

POLICIES = ("average", "local", "recalibrate")
BATCHES = 32  # training batches of batch_size that recalibrate looks at, drawn from all training data, the same every time


class Statistics:
    """Those of the members held here; `rows` is None for a model that keeps none."""

    def __init__(self, policy: str, fleet: Fleet, problem: Problem) -> None:
        start = problem.statistics()
        self._policy, self._fleet, self._problem = policy, fleet, problem
        self.rows: Rows | None = None if start is None else fleet.rows(start)

    @property
    def mixed(self) -> tuple[Rows, ...]:
        """What travels with the models whenever they are mixed: the rows under `average`, else nothing."""
        return (self.rows,) if self.rows is not None and self._policy == "average" else ()

    def of(self, answer: Common, strategy: Strategy) -> Tensor | None:
        """(1, b) statistics of the averaged model; under `recalibrate` on rank 0 only. An exchange: call it while measuring."""
        if self.rows is None:
            return None
        if self._policy == "average":
            return strategy.shipped(self._fleet, self.rows)
        mean = self._fleet.mean(self.rows)
        if self._policy == "local":
            return mean
        return self._problem.recalibrated(answer, mean, BATCHES) if self._fleet.rank == 0 else None


def check(policy: str, strategy: Strategy, m: int, count: int) -> None:
    """ValueError when `count` statistics cannot be treated so. Before any process starts."""
    if policy not in POLICIES:
        raise ValueError(f"norm_stats: must be one of {', '.join(POLICIES)}, got {policy!r}")
    if count and policy == "average" and (weight := strategy.negative(m)) is not None:
        raise ValueError(
            f"norm_stats=average: {weight}, which can make a running variance negative; use norm_stats=recalibrate, "
            "norm_stats=local, or weights that are not negative"
        )
