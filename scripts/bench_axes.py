"""What an axis costs: a step of a run with it over a step of the same run without it, communications and all.

Remake: python scripts/bench_axes.py [--turns 15]    (a minute or two)

8 workers in one process, one thread, mlp on digits, tau = 16. The ways take turns, in an order drawn anew for every turn, of
160 steps each; processor time, which other users of the machine change less; ratios are of medians. The inner rate is small,
and numbers below the normal range are taken for 0: processors are slow with them, and how many there are depends on the loss.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import torch

from coopsgd.commands import compose
from coopsgd.run.group import keep_freed_memory
from coopsgd.testing.runs import make_loop

BASE = (
    "data=digits",
    "model=mlp",
    "model.hidden=[256]",
    "workers=8",
    "processes=1",
    "tau=16",
    "log_every=100000",
    "eval_every=0",
)
STEPS = 160
WAYS = {
    "pasgd": {
        "outer=nesterov": ("outer=nesterov",),
        "outer=momentum": ("outer=momentum",),
        "outer=adam": ("outer=adam", "outer.lr=0.0001"),
    },
    "dpsgd": {
        "outer=nesterov": ("outer=nesterov",),
        "outer=nesterov delay=tau": ("outer=nesterov", "delay=tau"),
        "delay=tau": ("delay=tau",),
    },
}


def measured(algo: str, turns: int) -> dict[str, tuple[float, float]]:
    """Of each way the ratio of medians to the algorithm alone, and half of the middle half of its times over their median."""
    ways = {"": (), **WAYS[algo]}
    loops = {
        name: make_loop(compose.compose_config([*BASE, f"algo={algo}", "steps=1000000", *words]).config)
        for name, words in ways.items()
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name in random.sample(list(ways), len(ways)):
            began = time.process_time()
            for _ in range(STEPS):
                loops[name].advance()
            if turn:  # the first warms up
                times[name].append((time.process_time() - began) / STEPS)
    plain = statistics.median(times[""])
    found = {}
    for name, some in times.items():
        low, _, high = statistics.quantiles(some, n=4)
        found[name] = statistics.median(some) / plain, (high - low) / 2 / statistics.median(some)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=15)
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    keep_freed_memory()  # as every process of a run does
    print("| algorithm, tau = 16 | with | over the algorithm alone | half of the middle half |\n| --- | --- | --- | --- |")
    for algo in WAYS:
        for name, (ratio, spread) in measured(algo, turns).items():
            print(f"| {algo} | {name or 'nothing'} | {ratio:.3f} | {100 * spread:.0f} % |", flush=True)


if __name__ == "__main__":
    main()
