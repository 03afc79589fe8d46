"""How long messages take between the processes of a run: an all-reduce over all of them, messages between neighbours."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from coopsgd.fleet.base import Fleet
from coopsgd.probe.estimates import Estimate, Line, line, median

SMALLEST, LARGEST = 1 << 10, 1 << 26  # bytes
SIZES = 8
ROUNDS = 8  # all sizes in turn, so often: what else the machines do then tells on all of them, and shows in the error bars
SECONDS = 0.1  # spent on one size, all rounds together
MOST = 64  # times each
SLOW = 0.5  # seconds: no larger message is tried after one that took so long

Call = Callable[[], Any]


def measure(fleet: Fleet, row: int, device: torch.device, draw: np.random.Generator) -> dict[str, Any]:
    """Both lines, fitted to messages from 1 KiB to the larger of 1 MiB and two rows of `row` bytes. Every process calls it.

    A message along an edge is measured as gossip sends it: everybody to and from its neighbours on a ring at once. One message
    alone, there and back, tells of a link and a processor that nothing else uses.
    """
    P, top = fleet.layout.processes, min(LARGEST, max(1 << 20, 2 * row))
    sizes = np.unique(np.geomspace(SMALLEST, top, SIZES).astype(int) // 4 * 4)
    sides = sorted({(fleet.rank - 1) % P, (fleet.rank + 1) % P})
    calls: list[list[tuple[Call, int]]] = []  # by size: the all-reduce, the exchange, and how often in a round
    for size in sizes:
        part = torch.zeros(size // 4, dtype=torch.float32, device=device)
        asked = (_reduce(part), _exchange(sides, part))
        once = [float(_times(fleet, call, 2)[1]) for call in asked]  # the first opens connections
        calls.append(
            [(call, int(np.clip(SECONDS / ROUNDS / s, 1, MOST // ROUNDS))) for call, s in zip(asked, once, strict=True)]
        )
        if max(once) > SLOW:
            break
    rounds = [[[_times(fleet, *asked) for asked in of] for of in calls] for _ in range(ROUNDS)]
    reduced, sent = ([np.stack([taken[at][which] for taken in rounds]) for at in range(len(calls))] for which in (0, 1))
    told = {"all_reduce": _told(sizes, reduced, draw), "edge": _told(len(sides) * sizes, sent, draw)}
    return {"processes": P, "backend": dist.get_backend(), **told}


def _reduce(part: torch.Tensor) -> Call:
    return lambda: dist.all_reduce(part)


def _exchange(sides: list[int], part: torch.Tensor) -> Call:
    """To and from these processes at once; what a host sends is so many times `part`."""
    heard = [torch.empty_like(part) for _ in sides]

    def act() -> None:
        works: list[Any] = [dist.irecv(into, side) for into, side in zip(heard, sides, strict=True)]
        for work in [*works, *(dist.isend(part, side) for side in sides)]:
            work.wait()

    return act


def _times(fleet: Fleet, call: Call, count: int) -> np.ndarray:
    """(count,) seconds of a call, the mean over the processes; the same array on every one."""
    mine = torch.zeros(count, dtype=torch.float64)
    for n in range(count):
        fleet.barrier()
        began = time.perf_counter()
        call()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        mine[n] = time.perf_counter() - began
    return fleet.total(mine).numpy() / fleet.layout.processes


def _told(sizes: np.ndarray, times: list[np.ndarray], draw: np.random.Generator) -> dict[str, Any]:
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
