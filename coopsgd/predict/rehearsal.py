"""A run without its training: the loop on models that have a shape and no numbers.

What a run logs as `sim_s` and what `rehearse` returns come from the same loop, the same verbs, the same periods and the same
clock; only gradients, products and messages are left out. What a communication costs is the ledger of one that is rehearsed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from coopsgd.fleet.plan import Layout
from coopsgd.predict.clock.clock import Clock
from coopsgd.setup.parts import Parts

if TYPE_CHECKING:
    from torch import Tensor

    from coopsgd.fleet.block import Block
    from coopsgd.loop.loop import Loop
    from coopsgd.loop.observer import Observer


def clock_of(parts: Parts) -> Clock | None:
    """The clock of a run; None when it names no cluster."""
    if parts.config.cluster is None:
        return None
    schedule = parts.strategy.schedule
    v, server_owns_aux = (0, False) if schedule is None else (schedule.num_aux, schedule.server_owns_aux)
    return Clock(parts.cluster, parts.config.workers, v, server_owns_aux, parts.config.seed)


def rehearse(parts: Parts, steps: int) -> np.ndarray:
    """(steps,) sim_s after each of steps 1 to `steps`, as a run of this config would log it. ValueError as for `on_stage`."""
    loop = on_stage(parts)
    times = np.empty(steps)
    for k in range(steps):
        loop.advance()
        times[k] = loop.state.clock.now
    return times


def on_stage(parts: Parts) -> Loop:
    """The loop of a run, on its clock and without its training.

    ValueError when the config names no cluster, or a period that asks for the loss, which only training knows.
    """
    config = parts.config
    if config.cluster is None:
        raise ValueError("cluster: is missing, so there is no clock to rehearse with; name one, as in cluster=ethernet_1g")
    if parts.only_training_tells:
        by = "the loss" if parts.period.WATCHES else f"the rate, which goes by the loss (schedule={config.schedule['name']})"
        raise ValueError(f"period={config.period['name']}: goes by {by}, so only the run tells how long it takes")
    return stage(parts, clock_of(parts))


def following(forecast: Any) -> Observer:
    """Looks at a loop as the exact expectation of its consensus does."""
    from coopsgd.loop.observer import Observer

    class Follower(Observer):
        """Passes on what it hears of the loop."""

        def moved(self, loop: Loop, t: Any, active: Any, due: bool) -> None:
            forecast.moved(t.lr, active, due)

        def sends(self, loop: Loop, done: int) -> None:
            forecast.sends()

        def received(self, loop: Loop, late: int) -> None:
            forecast.received(loop.state.rounds.r)

    return Follower()


def stage(parts: Parts, clock: Clock | None = None, observer: Observer | None = None) -> Loop:
    """A loop on a fleet that carries nothing: verbs are charged and timed, nobody computes and nobody moves."""
    import torch

    from coopsgd.fleet.base import Fleet
    from coopsgd.loop.inner import Inner
    from coopsgd.loop.loop import Loop

    config, schedule = parts.config, parts.strategy.schedule
    m, v, dtype = config.workers, 0 if schedule is None else schedule.num_aux, getattr(torch, config.dtype)
    d, b = parts.task.dimension(config), parts.task.statistics(config)

    def shape(rows: int, width: int) -> Tensor:
        return torch.empty(rows, width, dtype=dtype, device="meta")

    class Stage(Fleet):
        """Rows have a shape and no numbers."""

        def rows(self, start: Tensor) -> Tensor:
            return shape(m + v, start.shape[1])

        def zeros_like(self, x: Tensor) -> Tensor:
            return shape(*x.shape)  # zeros_like would import sympy, a quarter of a second

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

        def _spread(self, routes: Any, packed: Tensor) -> Any:
            return lambda: packed

        def _lowered(self, plan: Any) -> Any:
            return None

    class Outside(Inner):
        """Rates as they move; buffers have a shape."""

        def __init__(self, settings: Any, schedule: Any, x: Tensor, workers: int, steps: int, blocks: Any = tuple) -> None:
            super().__init__(settings, schedule, torch.zeros(1, 1), 1, steps, blocks)
            self._x = x

        def step(self, x: Tensor, direction: Tensor, active: np.ndarray | None = None) -> Tensor:
            return x

        def stacked(self, some: Any = None) -> list[Tensor]:
            widths = list(self.widths.values())
            return [shape(m, widths[at]) for at in (range(self.count) if some is None else some)]

        def put(self, stacked: Any, some: Any = None) -> None:
            pass

        def reset(self) -> None:
            pass

    class Idle:
        """A problem that computes nothing."""

        def start(self) -> Tensor:
            return shape(1, d)

        def blocks(self) -> tuple[Block, ...]:
            return parts.task.blocks(config)

        def statistics(self) -> Tensor | None:
            return shape(1, b) if b else None

        def module_buffers(self) -> tuple[()]:
            return ()

        def bind(self, *_: Any) -> None:
            pass

        def gradients(self, *_: Any) -> Tensor:
            return shape(m + v, 1)

    fleet = Stage(Layout(m, v, 1, server_owns_aux=schedule is not None and schedule.server_owns_aux))
    fleet.clock = clock
    return Loop(parts, fleet, Idle(), inner=Outside, observer=observer)  # type: ignore[arg-type]
