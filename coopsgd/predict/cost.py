"""What an algorithm is and what a communication costs: the numbers that `show` and `analyze` both tell."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import numpy as np

from coopsgd.fleet import plan as plans
from coopsgd.setup.build import make
from coopsgd.setup.schema import SIZES, Config
from coopsgd.strategies.base import Strategy
from coopsgd.strategies.period import ends

REHEARSED = 1000  # steps whose mean stands for a step of a longer run, if all its rounds are alike: whole cycles of them
LONGEST = 20_000  # steps that are rehearsed at most
STRETCH = 256  # communications whose mean stands for a schedule that never repeats
COSTS = ("messages", "vectors", "bytes_per_worker_mean", "bytes_per_worker_max")


def identity(config: Config, strategy: Strategy) -> dict[str, Any]:
    """Which (tau, W, v) it is."""
    return {
        "algo": config.algo["name"],
        "tau": None if strategy.times_itself else config.tau,
        "period": (config.period or {}).get("name", "constant"),
        "order": getattr(strategy, "order", None),
        "workers": config.workers,
        "aux": strategy.num_aux,
        "processes": int(config.processes),
        "about": (type(strategy).__doc__ or "").strip().split("\n")[0],
    }


def width(config: Config, strategy: Strategy) -> int:
    """Bytes that a message of one vector carries: a model, and what is mixed with it, optimiser buffers and statistics."""
    task = make(config, "task")
    bytes_ = task.dimension(config) * SIZES[config.dtype]
    if getattr(strategy, "buffers", None) == "average":
        bytes_ *= 1 + len(make(config, "optim").buffers)
    if config.norm_stats == "average":
        bytes_ += task.statistics(config) * SIZES[config.dtype]
    return bytes_


def of_round(config: Config, strategy: Strategy, r: int, width: int) -> dict[str, Any]:
    """Messages, vectors and bytes a worker of communication r, as the ledger charges them; None when its code alone knows."""
    return _of_rounds(config, strategy, range(r, r + 1), width)


def _of_rounds(config: Config, strategy: Strategy, rounds: range, width: int) -> dict[str, Any]:
    """The mean of several communications; bytes_per_worker_max is of the worker that sends most in all of them together."""
    m, messages = config.workers, 0
    sent = np.zeros(m + strategy.num_aux)
    for r in rounds:
        prices = [plans.price(W, m, strategy.served) for W in strategy.factors(m, r)]
        prices += [plans.average_price(m)] * (strategy.averages or 0)
        if not prices:
            return dict.fromkeys(COSTS)
        for price in prices:
            messages += price.messages
            sent[: len(price.sent)] += price.sent
    sent /= len(rounds)
    return {
        "messages": messages if len(rounds) == 1 else messages / len(rounds),
        "vectors": float(np.sum(sent)),
        "bytes_per_worker_mean": float(np.mean(sent[:m])) * width,
        "bytes_per_worker_max": float(np.max(sent[:m])) * width,
    }


def per_step(config: Config, strategy: Strategy) -> dict[str, float | None]:
    """The same a step, from the mean over a cycle, or over a stretch of a schedule by lot; None when only the run can tell."""
    often = _communications(config, strategy)
    if often is None:
        return dict.fromkeys(COSTS)
    rounds = range(strategy.cycle(config.workers) or STRETCH)
    found = _of_rounds(config, strategy, rounds, width(config, strategy))
    return {key: None if value is None else value * often for key, value in found.items()}


def _communications(config: Config, strategy: Strategy) -> float | None:
    """How many a step: 1 / tau, or where it moves as many as the planned steps have; None where only the run can tell."""
    period, steps = make(config, "period"), config.steps or 0
    if _even(config, strategy):
        return 1 / config.tau
    if not period.foreseen or not steps:
        return None
    return sum(1 for _ in takewhile(lambda k: k <= steps, ends(period, strategy, config.workers))) / steps


def _even(config: Config, strategy: Strategy) -> bool:
    """Has every round as many steps, tau?"""
    name = (config.period or {}).get("name", "constant")
    return name == "constant" and not isinstance(config.tau, list) and not strategy.times_itself


def seconds(config: Config, strategy: Strategy) -> float | None:
    """Of a step on the configured cluster; None without one, or when only the run can tell: the period goes by the loss, or
    what would have to be rehearsed is too long.
    """
    steps = config.steps or 0
    if config.cluster is None or not steps or make(config, "period").WATCHES:
        return None
    from coopsgd.predict.clock import rehearse

    if _even(config, strategy):
        cycle = config.tau * (strategy.cycle(config.workers) or 1)
        steps = min(steps, max(1, REHEARSED // cycle) * cycle)
    if steps > LONGEST:
        return None
    return float(rehearse(config, strategy, steps)[-1]) / steps
