"""How long messages take between the processes of a run: an all-reduce over all of them, a message from one to another."""

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
PAIRS = 6  # neighbours whose edge is measured, at most

Call = tuple[Callable[[], Any], tuple[int, ...]]  # and the processes that take part in it


def measure(fleet: Fleet, row: int, device: torch.device, draw: np.random.Generator) -> dict[str, Any]:
    """Both lines, fitted to messages from 1 KiB to the larger of 1 MiB and two rows of `row` bytes. Every process calls it."""
    P, top = fleet.layout.processes, min(LARGEST, max(1 << 20, 2 * row))
    sizes = np.unique(np.geomspace(SMALLEST, top, SIZES).astype(int) // 4 * 4)
    starts = np.unique(np.linspace(0, P - 1 if P > 2 else 0, min(P, PAIRS)).astype(int))
    pairs = [(int(q), (int(q) + 1) % P) for q in starts]
    calls: list[list[tuple[Call, int]]] = []  # by size: the all-reduce, then the pairs, and how often in a round
    for size in sizes:
        part = torch.zeros(size // 4, dtype=torch.float32, device=device)
        asked: list[Call] = [(_reduce(part), tuple(range(P))), *((_trip(fleet.rank, pair, part), pair) for pair in pairs)]
        once = [float(_times(fleet, call, 2)[1]) for call in asked]  # the first opens connections
        calls.append(
            [(call, int(np.clip(SECONDS / ROUNDS / s, 1, MOST // ROUNDS))) for call, s in zip(asked, once, strict=True)]
        )
        if max(once[0], max(once[1:]) / 2) > SLOW:
            break
    rounds = [[[_times(fleet, *asked) for asked in of] for of in calls] for _ in range(ROUNDS)]
    reduced = [np.stack([taken[at][0] for taken in rounds]) for at in range(len(calls))]
    sent = [np.stack([np.concatenate(taken[at][1:]) / 2 for taken in rounds]) for at in range(len(calls))]
    told = {"all_reduce": _told(sizes, reduced, draw), "edge": _told(sizes, sent, draw)}
    return {"processes": P, "backend": dist.get_backend(), **told}


def _reduce(part: torch.Tensor) -> Callable[[], Any]:
    return lambda: dist.all_reduce(part)


def _trip(rank: int, pair: tuple[int, int], part: torch.Tensor) -> Callable[[], Any]:
    """There and back again: nobody else's clock is needed to know how long a message takes."""
    a, b = pair

    def there() -> None:
        dist.send(part, b)
        dist.recv(part, b)

    def back() -> None:
        dist.recv(part, a)
        dist.send(part, a)

    return there if rank == a else back


def _times(fleet: Fleet, call: Call, count: int) -> np.ndarray:
    """(count,) seconds of a call, the mean over the processes that take part; the same array on every one."""
    act, who = call
    mine = torch.zeros(count, dtype=torch.float64)
    fleet.barrier()
    for n in range(count if fleet.rank in who else 0):
        began = time.perf_counter()
        act()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        mine[n] = time.perf_counter() - began
    return fleet.total(mine).numpy() / len(who)


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
