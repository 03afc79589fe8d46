"""What an algorithm is and what a communication costs: the numbers that `show` and `analyze` both tell."""

from __future__ import annotations

import math
import time
from itertools import takewhile
from typing import Any

import numpy as np

from coopsgd.fleet.ledger import Ledger
from coopsgd.fleet.price import average_price, price
from coopsgd.host import news
from coopsgd.mixing.matrix import Matrix
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import AXES, SIZES
from coopsgd.strategies.base import Strategy, layers
from coopsgd.strategies.period import ends

REHEARSED = 1000  # steps whose mean stands for a step of a longer run, if all its rounds are alike: whole cycles of them
LONGEST = 20_000  # steps that are rehearsed at most
WINDOW = 256  # communications whose mean stands for a schedule that never repeats
FIRST = 8  # communications by which it is told how long the others take
FEW_PAIRS = 1e7  # of hosts, that the clock is done with in a second
PASSES = 40  # over all pairs of hosts, that the clock makes
PATIENCE = 5.0  # seconds that it may take without a word
COSTS = ("messages", "vectors", "bytes_per_worker_mean", "bytes_per_worker_max")


def identity(parts: Parts) -> dict[str, Any]:
    """Which (tau, W, v) it is."""
    config, strategy, schedule = parts.config, parts.strategy, parts.strategy.schedule
    return {
        "algo": config.algo["name"],
        "tau": None if times_itself(parts) else config.tau,
        "period": (config.period or {}).get("name", "constant"),
        "order": config.order,
        "delay": config.delay,
        "workers": config.workers,
        "aux": schedule.num_aux if schedule else 0,
        "processes": int(config.processes),
        "axes": {name: dict(node) for name in AXES if (node := getattr(config, name))},
        "about": (type(layers(strategy)[-1]).__doc__ or "").strip().split("\n")[0],
    }


def of_round(parts: Parts, r: int) -> dict[str, Any]:
    """Messages, vectors and bytes a worker of communication r, as the ledger charges them."""
    return _of_rounds(parts, range(r, r + 1))


def _of_rounds(parts: Parts, rounds: range) -> dict[str, Any]:
    """The mean of several communications; bytes_per_worker_max is of the worker that sends most in all of them together."""
    m, many = parts.config.workers, len(rounds)
    ledger = _charged(parts, rounds) or _rehearsed(parts, rounds)
    width = parts.task.dimension(parts.config) * SIZES[parts.config.dtype]
    return {
        "messages": ledger.messages if many == 1 else ledger.messages / many,
        "vectors": float(ledger.sent.sum()) / width / many,
        "bytes_per_worker_mean": float(np.mean(ledger.sent[:m])) / many,
        "bytes_per_worker_max": float(np.max(ledger.sent[:m])) / many,
    }


def _rehearsed(parts: Parts, rounds: range) -> Ledger:
    """What a run's own loop is charged for these communications."""
    from coopsgd.predict.rehearsal import stage  # imports torch, for tensors that have a shape alone

    loop = stage(parts)
    for r in rounds:
        loop.communicate(r)
    return loop.state.ledger


def _charged(parts: Parts, rounds: range) -> Ledger | None:
    """The same by the price list alone, where one verb on the models is all that is sent; None where there may be more."""
    config, strategy, schedule = parts.config, parts.strategy, parts.strategy.schedule
    averaged = parts.task.statistics(config) and config.norm_stats == "average"
    if averaged or config.buffers == "average":
        return None
    if any(getattr(config, name) for name in AXES if name != "outer"):  # an outer step sends what the algorithm sends
        return None
    cls, m, v = type(layers(strategy)[-1]), config.workers, 0 if schedule is None else schedule.num_aux
    ledger, nothing = Ledger(m, v, 1), np.zeros(1)
    width = parts.task.dimension(config) * SIZES[config.dtype]
    if cls.send is None:
        from coopsgd.strategies.fullsync import FullSync

        if cls is not FullSync:
            return None
        for _ in rounds:
            ledger.charge(average_price(m), width, nothing, 0)
        return ledger
    if schedule is None or (cls.send, cls.receive, cls.init) != (Strategy.send, Strategy.receive, Strategy.init):
        return None
    began = time.monotonic()
    for r in rounds:
        if r == rounds[0] + FIRST and (left := (time.monotonic() - began) / FIRST * (len(rounds) - FIRST)) > PATIENCE:
            news.tell(f"cost: {len(rounds)} communications of {m} workers are priced, about {news.duration(left)} more")
        W = schedule.at(m, r)
        if not isinstance(W, Matrix) or W.shape != (m + v, m + v):
            return None
        for factor in W.factors:
            ledger.charge(price(factor, m, schedule.server_owns_aux), width, nothing, 0)
    return ledger


def per_step(parts: Parts) -> dict[str, float | None]:
    """The same a step, from the mean over a cycle, or over a window of a random schedule; None when only the run can tell."""
    often = _communications(parts)
    if often is None:
        return dict.fromkeys(COSTS)
    schedule = parts.strategy.schedule
    pieces = parts.fragments.count if parts.fragments else 1
    cycle = 1 if schedule is None else schedule.cycle(parts.config.workers)
    if parts.config.buffers == "average":
        every = parts.config.buffers_every
        pieces *= math.lcm(*(every if isinstance(every, list) else [every]))
    found = _of_rounds(parts, range(pieces * cycle if cycle else WINDOW))
    return {key: None if value is None else value * often for key, value in found.items()}


def times_itself(parts: Parts) -> bool:
    """Does its schedule say how long a round is, whatever tau is?"""
    return parts.strategy.schedule is not None and parts.strategy.schedule.times_itself


def _communications(parts: Parts) -> float | None:
    """How many a step: 1 / tau, or where it moves as many as the planned steps have; None where only the run can tell."""
    config, steps = parts.config, parts.config.steps or 0
    if _even(parts):
        return (parts.fragments.count if parts.fragments else 1) / config.tau
    if not parts.period.foreseen or not steps:
        return None
    found = ends(parts.period, parts.strategy.schedule, config.workers)
    return sum(1 for _ in takewhile(lambda k: k <= steps, found)) / steps


def _even(parts: Parts) -> bool:
    """Has every round as many steps, tau?"""
    config = parts.config
    return (config.period or {}).get("name", "constant") == "constant" and not (
        isinstance(config.tau, list) or times_itself(parts)
    )


def seconds(parts: Parts) -> float | None:
    """Of a step on the configured cluster; None without one, or when only the run can tell: the period goes by the loss, or
    what would have to be rehearsed is too long.
    """
    config, steps = parts.config, parts.config.steps or 0
    if config.cluster is None or not steps or parts.only_training_tells:
        return None
    from coopsgd.predict.rehearsal import rehearse

    if _even(parts):
        schedule = parts.strategy.schedule
        cycle = config.tau * ((schedule.cycle(config.workers) if schedule else 1) or 1)
        steps = min(steps, max(1, REHEARSED // cycle) * cycle)
    if steps > LONGEST:
        return None
    _foretell_pairs(config.workers)
    return float(rehearse(parts, steps)[-1]) / steps


def _foretell_pairs(m: int) -> None:
    """Say how long the clock takes where pairs of hosts are many: a few dozen passes over an (m, m) array."""
    if m**2 < FEW_PAIRS:
        return
    some, began = np.zeros((1000, 1000)), time.monotonic()
    some[some > 0] = 1
    left = (time.monotonic() - began) / some.size * m**2 * PASSES
    if left > PATIENCE:
        news.tell(f"clock: it looks at all pairs of {m} hosts, about {news.duration(left)}")
