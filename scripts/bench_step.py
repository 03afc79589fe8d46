"""Step time beside the bare PyTorch loop, DDP and PeriodicModelAverager, as ratios of medians within one run.

Remake: python scripts/bench_step.py [--repeats 7]    (needs fashion_mnist; about a quarter of an hour on 2 cores)

Every way runs in forks of one warm process, one thread a process, batch 32 a worker, SGD; the ways take turns in an order
drawn anew for every repeat. Ratios are of medians; the spread is the ratio's smallest and largest over the repeats.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable

from peers import coopsgd_step, peer_step

SIZES = {"mlp": (600, 100), "cnn": (80, 20)}  # timed steps, steps before


def ways(model: str) -> dict[str, Callable[[], float]]:
    """What is timed, by name."""
    size = (model, *SIZES[model])
    return {
        "bare loop, 1": lambda: peer_step("bare", *size, 1),
        "coopsgd, 1": lambda: coopsgd_step(*size, "algo=pasgd", "tau=16", "workers=1"),
        "bare, momentum, 1": lambda: peer_step("bare", *size, 1, momentum=0.9),
        "coopsgd, momentum, 1": lambda: coopsgd_step(*size, "algo=pasgd", "tau=16", "workers=1", "optim.momentum=0.9"),
        "ddp, 4": lambda: peer_step("ddp", *size, 4),
        "coopsgd fullsync, 4": lambda: coopsgd_step(*size, "algo=fullsync", "workers=4", "processes=4"),
        "averager tau 16, 4": lambda: peer_step("averager", *size, 4),
        "coopsgd pasgd tau 16, 4": lambda: coopsgd_step(*size, "algo=pasgd", "tau=16", "workers=4", "processes=4"),
    }


PAIRS = [  # name, over, at most
    ("coopsgd, 1", "bare loop, 1", {"mlp": 1.05, "cnn": 1.05}),
    ("coopsgd, momentum, 1", "bare, momentum, 1", {"mlp": 0.75, "cnn": 1.05}),
    ("coopsgd fullsync, 4", "ddp, 4", {"mlp": 1.2, "cnn": 1.1}),
    ("coopsgd pasgd tau 16, 4", "averager tau 16, 4", {}),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--models", nargs="*", default=list(SIZES))
    parser.add_argument("--only", default="", choices=["", "1", "4"], help="the ways with so many workers")
    arguments = parser.parse_args()
    for model in arguments.models:
        chosen = {name: way for name, way in ways(model).items() if name.endswith(arguments.only)}
        times: dict[str, list[float]] = {name: [] for name in chosen}
        for repeat in range(arguments.repeats):
            order = list(chosen)
            random.Random(repeat).shuffle(order)
            for name in order:
                times[name].append(chosen[name]())
        print(f"\n{model}: milliseconds a step, median of {arguments.repeats} (smallest, largest)")
        for name, values in times.items():
            low, middle, high = (1e3 * value for value in (min(values), statistics.median(values), max(values)))
            print(f"  {name:26} {middle:8.3f}  ({low:.3f}, {high:.3f})")
        for name, over, most in (pair for pair in PAIRS if pair[0] in chosen):
            ratio = statistics.median(times[name]) / statistics.median(times[over])
            each = [a / b for a, b in zip(times[name], times[over], strict=True)]
            goal = f", to reach at most {most[model]}" if model in most else ""
            print(f"  {name} / {over}: {ratio:.3f}  ({min(each):.3f}, {max(each):.3f}){goal}")


if __name__ == "__main__":
    main()
