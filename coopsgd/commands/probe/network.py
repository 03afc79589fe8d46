"""How long messages take between the processes of a run: an all-reduce over all of them, messages between neighbours."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coopsgd.fleet import plan as plans
from coopsgd.fleet.base import Fleet
from coopsgd.mixing import matrices
from coopsgd.mixing.graphs import Ring
from coopsgd.predict.estimates import Estimate, Line, line, median

SMALLEST, LARGEST = 1 << 10, 1 << 26  # bytes: no line is fitted to less, or beyond
SIZES = 8
ROUNDS = 8  # all sizes in turn, so often: what else the machines do then tells on all of them, and shows in the error bars
SECONDS = 0.3  # spent on one size, all rounds together
MOST = 64  # times each
LEAST = 1e-7  # seconds that a message takes, where it was lost in those of the step
SLOW = 0.5  # seconds: no larger message is tried after one that took so long

Call = Callable[[], Any]


def measure(fleet: Fleet, row: int, kind: Tensor, draw: np.random.Generator, step: Callable[[int], float]) -> dict[str, Any]:
    """Both lines, fitted to messages from a sixteenth of a row of `row` bytes to two rows. Every process calls it.

    A network is no straight line from one packet to many: the fit is good where a run's messages are.

    Everything is measured as a run has it: by the fleet's own verbs, the mean of all workers and gossip, on rows like `kind`.
    Between two of them everybody takes a local step, `step(1)`, so that they come to the next one neither together nor
    idle; what a step and a verb take beyond the step of the slowest process is the verb's.
    """
    P, size = fleet.layout.processes, kind.element_size()
    least, most = max(SMALLEST // 16, row // 16), min(LARGEST, max(SMALLEST, 2 * row))
    lengths = np.unique(np.geomspace(min(least, most // 16), most, SIZES).astype(int) // size)
    Ws = gossip(fleet.layout)
    carried = float(np.mean([plans.lower(W, fleet.layout).sent.max() for W in Ws]))  # vectors sent along edges at a time
    clock = _Stopwatch(fleet, step)
    calls: list[list[tuple[Call, int]]] = []  # by size: the all-reduce, the exchange, and how often in a round
    with fleet.measuring():
        for length in lengths:
            x = kind.new_zeros(fleet.local_rows, length)
            verbs: tuple[Call, ...] = (partial(fleet.mean, x), partial(_each, fleet, Ws, x))
            once = [float(clock(call, 1)[0]) for call in verbs]
            calls.append(
                [(call, int(np.clip(SECONDS / ROUNDS / s, 1, MOST // ROUNDS))) for call, s in zip(verbs, once, strict=True)]
            )
            if max(once) > SLOW + clock.step:
                break
        rounds = [[[clock(*verbs) for verbs in of] for of in calls] for _ in range(ROUNDS)]
    slowest = clock.step
    reduced, sent = (
        [np.maximum(np.stack([taken[at][which] for taken in rounds]) - slowest, LEAST) / times for at in range(len(calls))]
        for which, times in ((0, 1), (1, len(Ws)))
    )
    return {
        "processes": P,
        "all_reduce": _line_of(lengths * size, reduced, draw),
        "edge": _line_of(carried * lengths * size, sent, draw),
    }


def gossip(layout: plans.Layout) -> list[Any]:
    """Matrices that this layout carries out along edges alone, to be applied one after the other: a ring, if it is one.

    A ring of two or three workers, one a process, is J, an all-reduce. Three take from one side only. Of two, each takes from
    the other in turn, as in a game of table tennis: half of both is one message.
    """
    m = layout.m
    there, back = np.eye(m), np.eye(m)
    there[-1, [0, -1]] = back[0, [0, -1]] = 0.5
    ring, shift = matrices.metropolis(Ring().adjacency(m)), (np.eye(m) + np.roll(np.eye(m), 1, axis=0)) / 2
    kinds: tuple[list[Any], ...] = ([ring], [shift], [there, back])
    return next(Ws for Ws in kinds if not any(plans.lower(W, layout).sums for W in Ws))


def _each(fleet: Fleet, Ws: list[Any], x: Tensor) -> None:
    for W in Ws:
        fleet.mix(W, x)


class _Stopwatch:
    """Times calls with a local step before each."""

    def __init__(self, fleet: Fleet, step: Callable[[int], float]) -> None:
        self._fleet, self._step = fleet, step
        self._steps: list[float] = []  # of this process

    def __call__(self, call: Call, count: int) -> np.ndarray:
        """(count,) seconds of a step and the call, the mean over the processes; the same array on every one.

        One more goes before: after a pause, or another size, a connection has to find its pace again.
        """
        mine = torch.zeros(count + 1, dtype=torch.float64)
        self._fleet.barrier()
        for n in range(count + 1):
            began = time.perf_counter()
            self._steps.append(self._step(1))
            call()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            mine[n] = time.perf_counter() - began
        return self._fleet.total(mine).numpy()[1:] / self._fleet.layout.processes

    @property
    def step(self) -> float:
        """The median of the steps so far on the process whose steps take longest."""
        medians = torch.zeros(self._fleet.layout.processes, dtype=torch.float64)
        medians[self._fleet.rank] = float(np.median(self._steps))
        return float(self._fleet.total(medians).max())


def _line_of(sizes: np.ndarray, times: list[np.ndarray], draw: np.random.Generator) -> dict[str, Any]:
    tried = sizes[: len(times)]
    if len(tried) == 1:  # half a second and more for the smallest message: all of it latency, as far as anybody waited
        found = Line(median(times[0].T, draw), Estimate(0.0, 0.0, 0.0))
    else:
        found = line(tried.astype(float), times, draw)
    return {
        "a": found.a.value,
        "b": found.b.value,
        "low": {"a": found.a.low, "b": found.b.low},
        "high": {"a": found.a.high, "b": found.b.high},
        "bytes": tried.tolist(),
        "seconds": [float(np.median(part)) for part in times],
    }
