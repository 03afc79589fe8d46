"""One communication among 4 processes of a host beside gloo's all-reduce of as many numbers, as ratios of medians.

Remake: python scripts/bench_round.py [--repeats 7] [--sizes 1e5 1e6 1e7 3e7]    (a few minutes on 2 cores)

In forks of one process, one thread each; the ways take turns. A ratio that is more than 15 % above what it is to reach makes
the script end with exit code 1. "shared": rows in one memory (fleet=shared). "gloo": rows in each process (fleet=processes).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from peers import FORK

from coopsgd.fleet.memory import Memory
from coopsgd.fleet.plan import layout_of
from coopsgd.fleet.processes import Processes
from coopsgd.fleet.shared import Shared
from coopsgd.mixing.graphs import Ring
from coopsgd.mixing.static import Average, Elastic, Gossip
from coopsgd.run.group import keep_freed_memory

P = 4
SECONDS = 0.5  # about as long does one way take in one turn
GOALS = {  # to reach, by numbers in a row
    "shared average": {1e5: 0.25, 1e6: 0.40, 1e7: 0.28, 3e7: 0.28},
    "shared easgd": {1e6: 0.45, 1e7: 0.32},
}
SLACK = 1.15


def by_hand(rank: int, numbers: torch.Tensor) -> None:
    """A round on a ring as one writes it: both neighbours' numbers, then the mean of three."""
    neighbours = [(rank - 1) % P, (rank + 1) % P]
    came = [torch.empty_like(numbers) for _ in neighbours]
    under_way = [dist.irecv(buffer, other) for buffer, other in zip(came, neighbours, strict=True)]
    under_way += [dist.isend(numbers, other) for other in neighbours]
    for one in under_way:
        one.wait()
    torch.add(came[0], came[1]).add_(numbers).div_(3)


def ways(rank: int, memory: Memory, d: int) -> dict[str, Any]:
    """What is timed, by name, each a function to call in all processes."""
    numbers = torch.randn(1, d)
    found: dict[str, Any] = {"all-reduce": lambda: dist.all_reduce(numbers), "ring by hand": lambda: by_hand(rank, numbers)}
    schedules = {"average": Average(), "ring": Gossip(topology=Ring()), "easgd": Elastic(alpha=0.9 / P)}
    for name, schedule in schedules.items():
        layout = layout_of(schedule, P, P)
        for kind, fleet in (("shared", Shared(layout, rank, memory)), ("gloo", Processes(layout, rank))):
            x, W = fleet.rows(numbers), schedule.at(P, 0)
            found[f"{kind} {name}"] = lambda fleet=fleet, W=W, x=x: fleet.mix(W, x)
            if name == "average":
                found[f"{kind} mean"] = lambda fleet=fleet, x=x: fleet.mean(x)
    return found


def member(rank: int, memory: Memory, folder: str, sizes: list[int], repeats: int, only: tuple[str, ...], answers: Any) -> None:
    """One of the processes: how long each way took, by numbers in a row."""
    torch.set_num_threads(1)
    keep_freed_memory()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(f"{folder}/store", P)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=P, timeout=timedelta(seconds=300))

    def once(call: Any, calls: int) -> float:
        dist.barrier()
        begun = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - begun) / calls

    found = {}
    for d in sizes:
        chosen = {name: way for name, way in ways(rank, memory, d).items() if not only or name in only}
        first = torch.tensor([[once(call, 2)] for call in chosen.values()])  # memory is taken here, and plans are made
        first = torch.tensor([[once(call, 2)] for call in chosen.values()])
        dist.broadcast(first, 0)
        calls = [max(1, round(SECONDS / seconds)) for (seconds,) in first.tolist()]
        times: dict[str, list[float]] = {name: [] for name in chosen}
        for _ in range(repeats):
            for (name, call), many in zip(chosen.items(), calls, strict=True):
                times[name].append(once(call, many))
        found[d] = times
    if rank == 0:
        answers.put(found)
    dist.barrier()


def measured(sizes: list[int], repeats: int, only: tuple[str, ...] = ()) -> dict[int, dict[str, list[float]]]:
    """Seconds of each way, or of some only, by numbers in a row."""
    memory, answers = Memory(P), FORK.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        job = (memory, folder, sizes, repeats, only, answers)
        members = [FORK.Process(target=member, args=(rank, *job)) for rank in range(P)]
        for one in members:
            one.start()
        found = answers.get()
        for one in members:
            one.join()
    return dict(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--sizes", nargs="*", type=float, default=[1e5, 1e6, 1e7, 3e7])
    arguments = parser.parse_args()
    code = 0
    found = measured([int(size) for size in arguments.sizes], arguments.repeats)
    for d, times in found.items():
        base = statistics.median(times["all-reduce"])
        print(f"\n{d} numbers, {P} processes: gloo's all-reduce {1e3 * base:.3f} ms, median of {arguments.repeats}; over it")
        for name, values in times.items():
            ratio, goal = statistics.median(values) / base, GOALS.get(name, {}).get(d)
            missed = goal is not None and ratio > SLACK * goal
            code = max(code, int(missed))
            wanted = "" if goal is None else f", to reach {goal}" + ", MISSED" * missed
            print(f"  {name:16} {ratio:6.3f}  ({min(values) / base:.3f}, {max(values) / base:.3f}){wanted}")
    return code


if __name__ == "__main__":
    sys.exit(main())
