"""What a step of optim=muon costs: all workers at once, one after another, and torch.optim.Muon beside AdamW.

    python scripts/bench_muon.py                    # three models, 8 workers
    python scripts/bench_muon.py --workers 32

Each turn times every way once, in an order that moves; printed is the median of the turns and the spread between quartiles.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable

import torch

from coopsgd.fleet.block import Block
from coopsgd.loop.inner import Inner
from coopsgd.models.base import Model
from coopsgd.models.cnn import CNN
from coopsgd.models.gpt import GPT
from coopsgd.models.mlp import MLP
from coopsgd.optim import Adam, AdamW, Muon
from coopsgd.schedules import Constant

MODELS: tuple[tuple[str, Model, tuple[int, ...], int], ...] = (
    ("mlp, hidden=[64,64,64] on 8 x 8", MLP(hidden=[64, 64, 64]), (1, 8, 8), 10),
    ("cnn, width=16 on 28 x 28", CNN(width=16), (1, 28, 28), 10),
    ("gpt, width=64, 4 layers", GPT(width=64, layers=4), (128,), 100),
)


def by_torch(blocks: tuple[Block, ...], x: torch.Tensor, grad: torch.Tensor) -> Callable[[], object]:
    """A step of every worker as a program of torch's would take it: Muon for hidden matrices, AdamW for the rest."""
    optimizers = []
    for row, slope in zip(x, grad, strict=True):
        parts: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
        for block in blocks:
            view = block.of(row[None])[0]
            p = torch.nn.Parameter(view.flatten(1) if block.hidden else view)
            g = block.of(slope[None])[0]
            p.grad = g.flatten(1) if block.hidden else g
            parts[block.hidden].append(p)
        optimizers += [torch.optim.Muon(parts[True], lr=0.02, weight_decay=0.0), torch.optim.AdamW(parts[False], lr=3e-4)]
    return lambda: [optimizer.step() for optimizer in optimizers]


def ways(settings: tuple[str, Model, tuple[int, ...], int], workers: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    _, model, shape, classes = settings
    blocks = model.blocks(shape, classes)
    x = torch.randn(workers, blocks[-1].stop)
    grad = torch.randn_like(x)

    def inner(kind: Muon | Adam, rows: torch.Tensor) -> Inner:
        return Inner(kind, Constant(), rows, len(rows), 1, lambda: blocks)

    together, alone = inner(Muon(), x.clone()), [inner(Muon(), row[None].clone()) for row in x]
    adam, own = inner(AdamW(), x.clone()), [row[None].clone() for row in grad]

    def step(one: Inner, direction: torch.Tensor) -> object:
        return one.step(one._x, direction)

    return {
        "stacked": lambda: step(together, grad),
        "one by one": lambda: [step(one, g) for one, g in zip(alone, own, strict=True)],
        "torch.optim.Muon": by_torch(blocks, x.clone(), grad),
        "stacked AdamW": lambda: step(adam, grad),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--turns", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    print(f"commit {commit}, torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, 1 thread")
    print(f"{given.workers} workers, float32, median of {given.turns} turns (quartiles), ms a step of all\n")
    names = ["stacked", "one by one", "torch.optim.Muon", "stacked AdamW"]
    print(f"| model | {' | '.join(names)} | one by one / stacked | torch / stacked |\n| --- |{' ---: |' * (len(names) + 2)}")
    for settings in MODELS:
        every = ways(settings, given.workers)
        times: dict[str, list[float]] = {name: [] for name in every}
        for turn in range(given.turns + 2):
            for at in range(len(names)):
                name = names[(at + turn) % len(names)]
                began = time.process_time()
                every[name]()
                if turn > 1:
                    times[name].append(1e3 * (time.process_time() - began))
        middle = {name: statistics.median(found) for name, found in times.items()}
        spread = {name: statistics.quantiles(found, n=4) for name, found in times.items()}
        cells = [f"{middle[name]:.3g} ({spread[name][0]:.3g} to {spread[name][2]:.3g})" for name in names]
        ratios = [f"{middle[name] / middle['stacked']:.1f}" for name in names[1:3]]
        print(f"| {settings[0]} | {' | '.join(cells + ratios)} |", flush=True)


if __name__ == "__main__":
    main()
