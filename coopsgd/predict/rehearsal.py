"""A run without its training: the strategy's own step, on models that have a shape and no numbers.

What a run logs as `sim_s` and what `rehearse` returns come from the same verbs, the same periods and the same clock; only
gradients, products and messages are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from coopsgd.fleet.plan import Layout
from coopsgd.predict.clock.clock import Clock
from coopsgd.setup.build import make
from coopsgd.setup.schema import Config
from coopsgd.strategies.base import Strategy, Tick
from coopsgd.strategies.period import Rounds

if TYPE_CHECKING:
    from torch import Tensor


def clock_of(config: Config, strategy: Strategy) -> Clock | None:
    """The clock of a run; None when it names no cluster."""
    if config.cluster is None:
        return None
    return Clock(make(config, "cluster"), config.workers, strategy.num_aux, strategy.served, config.seed)


def rehearse(config: Config, strategy: Strategy, steps: int) -> np.ndarray:
    """(steps,) sim_s after each of steps 1 to `steps`, as a run of this config would log it.

    ValueError when the config names no cluster, or a period that asks for the loss, which only training knows.
    """
    period = make(config, "period")
    if config.cluster is None:
        raise ValueError("cluster: is missing, so there is no clock to rehearse with; name one, as in cluster=ethernet_1g")
    if period.WATCHES:
        raise ValueError(f"period={config.period['name']}: goes by the loss, so only the run tells how long it takes")
    fleet, clock, stats, inner = _stage(config, strategy)
    x = fleet.rows()
    with fleet.measuring():
        s = strategy.init(fleet, x)
    rounds, ticks = Rounds(period, strategy, fleet.m), _Steps(clock, x)
    first = strategy.plain or (strategy.patient and not stats)
    owed, times = None, np.empty(steps)
    for k in range(steps):
        if owed is not None:
            (x, s), owed = strategy.before(fleet, owed, inner, stats, x, s), None
        rounds.begin(k, inner.lr)
        active, due = rounds.active, rounds.due
        clock.begin(k, active)
        if not first:
            clock.compute()
        x, s = strategy.step(fleet, Tick(k, rounds.r, due, inner.lr, cast(Any, ticks), inner, stats), x, s)
        clock.compute()
        inner.advance()
        rounds.end(active)
        if due and strategy.mixes_first:
            owed = rounds.r
        times[k] = clock.now
    return times


def _stage(config: Config, strategy: Strategy) -> tuple[Any, Clock, tuple[Tensor, ...], Any]:
    """A fleet that carries nothing, its clock, running statistics where they are mixed, and the optimiser's outside."""
    import torch

    from coopsgd.fleet.base import Fleet
    from coopsgd.optim import Inner

    task = make(config, "task")
    m, v, dtype = config.workers, strategy.num_aux, getattr(torch, config.dtype)

    def shape(rows: int, width: int) -> Tensor:
        return torch.empty(rows, width, dtype=dtype, device="meta")

    d, b = task.dimension(config), task.statistics(config)

    class Stage(Fleet):
        """Verbs are charged and timed; nobody moves."""

        def rows(self, start: Tensor | None = None) -> Tensor:
            return shape(m + v, d)

        def total(self, values: Tensor) -> Tensor:
            return values

        def gather(self, x: Tensor) -> Tensor | None:
            return x

        def barrier(self) -> None:
            pass

        def _mix(self, lowered: Any, xs: tuple[Tensor, ...]) -> Any:
            return lambda: None

        def _mean(self, x: Tensor) -> Any:
            return lambda: x[:1].clone()

        def _pick(self, x: Tensor, i: int) -> Any:
            return lambda: x[:1].clone()

        def _lowered(self, plan: Any) -> Any:
            return None

    class Outside(Inner):
        """Rates as they move; buffers have a shape, if they are mixed."""

        def together(self, fn: Any) -> None:
            fn(*(shape(m, d) for _ in self._buffers))

        def reset(self) -> None:
            pass

    fleet = Stage(Layout(m, v, 1, served=strategy.served))
    fleet.clock = clock = cast(Clock, clock_of(config, strategy))
    inner = Outside(make(config, "optim"), make(config, "schedule"), torch.zeros(1, 1), 1, config.steps)
    return fleet, clock, (shape(m + v, b),) if b and config.norm_stats == "average" else (), inner


class _Steps:
    """Local steps that take their time and nothing else."""

    def __init__(self, clock: Clock, x: Tensor) -> None:
        self._clock, self._x = clock, x

    @property
    def loss(self) -> Tensor:
        self._clock.compute()
        return self._x[:, :1]

    @property
    def grad(self) -> Tensor:
        self._clock.compute()
        return self._x

    def local(self, x: Tensor, direction: Tensor | None = None) -> Tensor:
        self._clock.compute()
        return x
