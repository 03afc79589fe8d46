"""Plain SGD with any order and delay, from loops over steps and workers: what the loop of a run is held against."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coopsgd.fleet.plan import layout_of
from coopsgd.fleet.stacked import Stacked
from coopsgd.loop.loop import waited
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import Config
from coopsgd.strategies.base import Strategy, Tick


def by_hand(config: Config) -> Iterator[Tensor]:
    """The rows after each step of plain SGD, from loops over steps and workers and all models of the round."""
    parts = Parts(config)
    strategy, schedule = parts.strategy, parts.strategy.schedule
    fleet = Stacked(layout_of(schedule, config.workers, 1))
    problem = parts.task.build(config, fleet.workers, torch.device("cpu"))
    fleet.describe(problem.blocks())
    x, lr, m = fleet.rows(problem.start()), parts.optim.lr, config.workers
    grad, s = torch.zeros_like(x), strategy.init(fleet, x.clone())
    mixes = type(strategy).send is Strategy.send and type(strategy).receive is Strategy.receive

    def sent(t: Tick, x: Tensor) -> Any:
        """What will be heard of rows that leave now."""
        if not mixes:
            return waited(strategy.send(fleet, t, x.clone(), s))
        assert schedule is not None
        for W in schedule.factors(m, t.round):
            dense = np.asarray(W)
            x = torch.stack([sum((dense[i, j] * x[j] for j in range(len(x))), torch.zeros_like(x[0])) for i in range(len(x))])
        return x

    def received(t: Tick, x: Tensor, heard: Any) -> tuple[Tensor, Any]:
        if mixes:
            return heard, s
        y, new = strategy.receive(fleet, t, x.clone(), heard, s)
        return y.expand_as(x).clone(), new

    at = x.clone()
    problem.bind(at, grad, None)
    own, state, waits, k, r = np.zeros(m, dtype=np.int64), None, None, 0, 0
    while k < (config.steps or 0):
        tau, state = parts.period.next(state, k, lr, lambda: 0.0, lambda: 0.0)
        work = None if schedule is None else schedule.work(m, r, tau)
        tau = tau if work is None else max(1, int(work.max()))
        delay = min(tau, tau if config.delay == "tau" else config.delay)
        old = heard = None
        for step in range(tau):
            if k == (config.steps or 0):
                return
            t = Tick(k, r, lr, tau)
            if waits is not None:
                y, s = received(waits, x, sent(waits, x))
                x = y if config.merge == "kept" else (1 - config.merge) * y + config.merge * x
                waits = None
            if strategy.send is not None and delay and step == tau - delay:
                old, heard = x.clone(), sent(t, x)
            active = np.full(m, True) if work is None else work > step
            at.copy_(x)
            grad.zero_()
            problem.gradients(k, None if active.all() else active, own)
            direction, s = strategy.direction(fleet, t, grad, x.clone(), s)
            direction = direction.expand(m, -1) if len(direction) == 1 else direction
            x = torch.stack([x[i] - lr * direction[i] if i < m and active[i] else x[i] for i in range(len(x))])
            by, s = strategy.shift(fleet, t, x.clone(), s)
            x = (
                x
                if by is None
                else torch.stack([x[i] + by.expand_as(x)[i] if i < m and active[i] else x[i] for i in range(len(x))])
            )
            if step == tau - 1 and strategy.send is not None:
                if config.order == "cta":
                    waits = t
                else:
                    if not delay:
                        old, heard = x.clone(), sent(t, x)
                    assert old is not None
                    y, s = received(t, old, heard)
                    x = y + (x - old) if config.merge == "kept" else (1 - config.merge) * y + config.merge * x
            own += active
            k += 1
            yield x
        r += 1
