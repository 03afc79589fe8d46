"""A step of coopsgd.Cooperation in a user's loop against the same loop without it, and against DDP. Ratios of medians.

    torchrun --nproc-per-node 4 scripts/bench_loop.py [--steps 32] [--repetitions 15] [--width 32]

A CNN with BatchNorm on images of 32 x 32, batches of 16, SGD with momentum, gloo; one thread a process. The loops take turns,
some steps each, so that whatever else the machine does meets all of them alike. The second bare loop meets at a barrier every
16 steps and sends nothing: what waiting for the slowest process costs by itself.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from coopsgd import Cooperation


def cnn(width: int) -> nn.Module:
    torch.manual_seed(0)

    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]

    layers = [*block(3, width), *block(width, 2 * width), *block(2 * width, 2 * width)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * width * 16, 10))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def meeting(optimizer: torch.optim.Optimizer, every: int) -> tuple[torch.optim.Optimizer, Any]:
    """The optimiser, and its step with a barrier after every so many."""
    count = itertools.count(1)

    def step() -> None:
        optimizer.step()
        if next(count) % every == 0:
            dist.barrier()

    return optimizer, step


def loops(width: int) -> dict[str, Any]:
    """By name: (model, optimizer, what takes the step)."""
    found = {}
    bare = cnn(width)
    optimizer = sgd(bare)
    found["bare"] = bare, optimizer, optimizer.step
    model = cnn(width)
    found["bare, a barrier every 16 steps"] = model, *meeting(sgd(model), every=16)
    wrapped = DistributedDataParallel(cnn(width), gradient_as_bucket_view=True)
    optimizer = sgd(wrapped)
    found["ddp"] = wrapped, optimizer, optimizer.step
    for words in (
        "algo=pasgd tau=16",
        "algo=dpsgd topology=ring tau=16",
        "algo=dpsgd topology=ring tau=16 delay=4",
        "algo=pasgd tau=1",
        "algo=fullsync",
        "algo=dpsgd topology=ring tau=1",
        "algo=dpsgd topology=ring tau=1 delay=1",
    ):
        model = cnn(width)
        optimizer = sgd(model)
        found[words] = model, optimizer, Cooperation(model, optimizer, *words.split()).step
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("steps", 32), ("repetitions", 15), ("width", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    dist.init_process_group("gloo")
    every = loops(given.width)
    x, y = torch.randn(16, 3, 32, 32), torch.randint(0, 10, (16,))
    took: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(given.repetitions + 1):
        for name, (model, optimizer, step) in every.items():
            dist.barrier()
            began = time.perf_counter()
            for _ in range(given.steps):
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()
                step()
            dist.barrier()
            took[name].append((time.perf_counter() - began) / given.steps)
    if dist.get_rank() == 0:
        d = sum(p.numel() for p in every["bare"][0].parameters())
        print(f"{d} parameters, {dist.get_world_size()} processes, {given.repetitions} x {given.steps} steps each")
        middle = {name: statistics.median(times[1:]) for name, times in took.items()}
        print(f"{'loop':42} {'ms a step':>10} {'/ bare':>8} {'/ ddp':>8}")
        for name, value in middle.items():
            print(f"{name:42} {1000 * value:10.2f} {value / middle['bare']:8.3f} {value / middle['ddp']:8.3f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
