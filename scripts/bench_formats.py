"""How the weights of convolutions should lie in a row: a step of one worker in either memory format, over a plain torch loop.

Remake: python scripts/bench_formats.py [--turns 9] [--seconds 20]    (needs torchvision; about ten minutes on 2 cores)

SGD with momentum 0.9, one thread. The ways take turns in an order drawn anew for every turn, until `--turns` are over or so
many `--seconds` of a network; processor time, which other users of the machine change less; ratios are of medians. `auto` is
what `coopsgd train` chooses by these numbers.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from coopsgd.models.cnn import CNN, LeNet
from coopsgd.models.external import TorchVision
from coopsgd.models.resnet import ResNet
from coopsgd.models.vgg import VGG
from coopsgd.optim import SGDStep
from coopsgd.run.group import keep_freed_memory
from coopsgd.run.memory_format import faster
from coopsgd.tasks.engines.loop import Loop
from coopsgd.tasks.gradients import Bound

SMALL, COLOUR, LARGE = (1, 28, 28), (3, 32, 32), (3, 224, 224)
NETWORKS: list[tuple[str, Any, tuple[int, ...]]] = [
    ("cnn", CNN(), SMALL),
    ("lenet", LeNet(), SMALL),
    ("resnet20", ResNet(), COLOUR),
    ("vgg11", VGG(), COLOUR),
    ("resnet18, 32", TorchVision(), COLOUR),
    ("resnet18, 224", TorchVision(), LARGE),
]
RATE, MOMENTUM = 1e-4, 0.9


def rows(module: nn.Module, last: bool, inputs: Tensor, targets: Tensor) -> Callable[[], Any]:
    """A step as a run takes it, its weights channels last or contiguous."""
    bound = Bound(module, last)
    engine, row = Loop(bound), bound.flat()
    engine.bind(row, torch.zeros_like(row), bound.statistics(), bound.module_buffers())
    step = SGDStep(MOMENTUM, False, 0.0, torch.zeros_like(row))
    return lambda: engine.descend(0, 1, inputs[None], targets[None], RATE, step=step)


def plain(module: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], Any]:
    """A step as one writes it by hand."""
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE, momentum=MOMENTUM)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs), targets).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=20, help="of one network and batch, after the first turn")
    parser.add_argument("--batches", nargs="*", type=int, default=[8, 128])
    parser.add_argument("--only", default="", help="networks whose name begins so")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| network | batch | plain loop, ms | contiguous | channels_last | auto | turns |\n" + "| --- " * 7 + "|")
    for name, model, shape in NETWORKS:
        for batch in arguments.batches if name.startswith(arguments.only) else ():
            torch.manual_seed(0)
            data = torch.randn(batch, *shape), torch.randint(10, (batch,))
            ways = {"plain": plain(model.build(shape, 10), *data)}
            ways |= {
                kind: rows(model.build(shape, 10), kind == "channels_last", *data) for kind in ("contiguous", "channels_last")
            }
            taken: dict[str, list[float]] = {way: [] for way in ways}
            for way in ways.values():
                way()
            began = time.perf_counter()
            for turn in range(arguments.turns):
                order = list(ways)
                random.Random(turn).shuffle(order)
                for way in order:
                    before = time.process_time()
                    ways[way]()
                    taken[way].append(time.process_time() - before)
                if time.perf_counter() - began > arguments.seconds:
                    break
            middle = {way: statistics.median(values) for way, values in taken.items()}
            over = [f"{middle[kind] / middle['plain']:.2f}" for kind in ("contiguous", "channels_last")]
            least = {kind: min(values) for kind, values in taken.items() if kind != "plain"}
            many = len(taken["plain"])
            print(
                f"| {name} | {batch} | {1e3 * middle['plain']:.3g} | {' | '.join(over)} | {faster(least)} | {many} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
