"""Milliseconds of a step of many workers on one GPU, by engine, beside the plain loop over models and torch.func by hand.

Remake: python scripts/bench_gpu.py [--repeats 5]      (on a machine with a GPU; some minutes)
Try it: python scripts/bench_gpu.py --device cpu --repeats 1 --sizes 1 2 --models mlp

One round is tau = 10 steps (2 of 1024 workers) of batch 32 (8 windows of 64 characters for gpt) on each of m workers,
then the average; images are 28 x 28 of noise. `modules` is what one writes by hand: m nn.Modules with a torch.optim.SGD
each. `torch.func` is the other: stacked parameters, one vmap(grad) over all models, one update a parameter, the mean. Their
batches are on the GPU already. The others are `Loop`, the loop of `coopsgd train`, by engine and by how many rows the engine
takes at a time; `stored` has momentum, so that gradients are stored and the step comes after. One way after the other, for
all would not fit at once. Medians, with the smallest and largest.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from coopsgd.commands import compose
from coopsgd.data.base import DataSet, Images
from coopsgd.fleet.plan import Layout
from coopsgd.fleet.stacked import Stacked
from coopsgd.loop.loop import Loop
from coopsgd.run.device import ready
from coopsgd.setup.parts import Parts
from coopsgd.strategies.period import Period
from coopsgd.tasks.engines import choice
from coopsgd.tasks.networks import network

FAKE = (  # images of 3 x 32 x 32 that nobody has to fetch
    "data=custom",
    "data.path=torchvision.datasets:FakeData",
    "data.arguments={size: 4096, image_size: [3, 32, 32], num_classes: 10}",
)
MODELS = {
    "mlp": ("model=mlp",),
    "cnn": ("model=cnn",),
    "resnet18": ("model=torchvision", *FAKE),  # BatchNorm: its statistics are kept row by row, so it is looped over
    "gpt": ("task=language", "model.context=64", "batch_size=8"),
}
DEVICE = "cuda"
LONG = 2.0  # seconds of a round, from which on it is timed once
WORDS = ("workers=4", "batch_size=32", "algo=pasgd", "optim.lr=0.01", "steps=100000", "log_every=100000", "eval_every=0")


@dataclass(frozen=True)
class Noise(DataSet):
    """As many images as 1024 workers need."""

    SHAPE = (1, 28, 28)
    CLASSES = 10

    def load(self, seed: int = 0) -> Images:
        return _noise()


@lru_cache
def _noise() -> Images:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (400_000, 1, 28, 28), dtype=np.uint8), rng.integers(0, 10, 400_000)
    return Images(x, y, x[:100], y[:100], (127.5,), (75.0,))


@lru_cache
def settled(model: str) -> Parts:
    parts = Parts(compose.compose_config((*WORDS, *MODELS[model], "device=cpu")).config)
    return parts if model in ("gpt", "resnet18") else parts.but(parts.config, task=replace(parts.task, data=Noise()))


def coopsgd(model: str, m: int, engine: str, rows: int, *, stored: bool = False) -> Callable[[int], None]:
    """Rounds of `coopsgd train`."""
    parts = settled(model)
    config = replace(parts.config, workers=m, engine=engine)
    more = {"optim": replace(parts.optim, momentum=0.9)} if stored else {}
    chunks = choice.CHUNK[DEVICE]
    choice.CHUNK[DEVICE] = {**chunks, engine: rows} if rows else chunks
    fleet = Stacked(Layout(m, 0, 1))
    problem = parts.task.build(config, fleet.workers, ready(DEVICE))
    choice.CHUNK[DEVICE] = chunks
    loop = Loop(parts.but(config, period=Period(tau(m)), **more), fleet, problem)

    def rounds(steps: int) -> None:
        for _ in range(steps):
            loop.advance()

    return rounds


def batches(model: str, m: int) -> Any:
    parts = settled(model)
    problem = parts.task.build(replace(parts.config, workers=m), range(m), ready(DEVICE))
    own = np.zeros(m, dtype=np.int64)
    return problem._fetch(problem._batches.at(own), own, 0, m)


def modules(model: str, m: int) -> Callable[[int], None]:
    """m modules, each with an optimiser."""
    task, device = settled(model).task, ready(DEVICE)
    models = [network(task, 0).to(device) for _ in range(m)]
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.01) for one in models]
    lists, (x, y) = [list(one.parameters()) for one in models], batches(model, m)

    def rounds(steps: int) -> None:
        for i, (one, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            for _ in range(steps):
                optimizer.zero_grad()
                nn.functional.cross_entropy(one(x[i]).flatten(0, -2), y[i].flatten()).backward()
                optimizer.step()
        with torch.no_grad():
            for same in zip(*lists, strict=True):
                mean = torch.stack(same).mean(0)
                for parameter in same:
                    parameter.copy_(mean)

    return rounds


def functional(model: str, m: int) -> Callable[[int], None]:
    """torch.func by hand, all models at once."""
    module = network(settled(model).task, 0).to(ready(DEVICE))
    stacked = {name: p.detach().expand(m, *p.shape).clone() for name, p in module.named_parameters()}
    x, y = batches(model, m)

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        said = torch.func.functional_call(module, parameters, (x,))
        return nn.functional.cross_entropy(said.flatten(0, -2), y.flatten())

    gradient = torch.func.vmap(torch.func.grad(loss))

    def rounds(steps: int) -> None:
        for _ in range(steps):
            for name, grad in gradient(stacked, x, y).items():
                stacked[name].add_(grad, alpha=-0.01)
        for p in stacked.values():
            p.copy_(p.mean(0, keepdim=True).expand_as(p))

    return rounds


def tau(m: int) -> int:
    return 10 if m < 1000 else 2


def ways(model: str, m: int) -> dict[str, Callable[[], Callable[[int], None]]]:
    found: dict[str, Any] = {"modules": lambda: modules(model, m), "torch.func": lambda: functional(model, m)}
    found["auto"] = lambda: coopsgd(model, m, "auto", 0)
    found["loop"] = lambda: coopsgd(model, m, "loop", 1)
    for engine in (*(("vmap",) if model != "resnet18" else ()), *(("bmm",) if model == "mlp" else ())):
        for rows in sorted({min(m, n) for n in (4, 16, 64, 256, 1024)}):
            found[f"{engine} {rows}"] = lambda e=engine, n=rows: coopsgd(model, m, e, n)
        found[f"{engine} {m} stored"] = lambda e=engine: coopsgd(model, m, e, m, stored=True)
    return found


def synchronise() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def timed(rounds: Callable[[int], None], steps: int) -> float:
    synchronise()
    began = time.perf_counter()
    rounds(steps)
    synchronise()
    return (time.perf_counter() - began) / steps


def table(model: str, m: int, repeats: int, only: list[str]) -> None:
    times: dict[str, list[float]] = {}
    about: dict[str, str] = {}
    # one way at a time: 1024 models in ten ways would not fit
    for name, make in ways(model, m).items():
        if only and name.split()[0] not in only:
            continue
        try:
            if DEVICE == "cuda":
                torch.cuda.reset_peak_memory_stats()
            rounds = make()
            timed(rounds, tau(m))
            first = timed(rounds, tau(m)) * tau(m)
            times[name] = [timed(rounds, tau(m)) for _ in range(repeats if first < LONG else 1)]
            about[name] = f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if DEVICE == "cuda" else ""
        except torch.OutOfMemoryError:
            about[name] = "does not fit"
        except RuntimeError as error:  # torch.func cannot run it
            about[name] = str(error).strip().splitlines()[0][:90]
        rounds = None  # type: ignore[assignment]
        gc.collect()
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
    base = statistics.median(times["modules"]) if "modules" in times else None
    for name, text in about.items():
        if name in times:
            low, middle, high = (1e3 * f(times[name]) for f in (min, statistics.median, max))
            ratio = "" if base is None else f"{middle / 1e3 / base:8.3f}"
            text = f"{middle:10.3f} ({low:.3f}, {high:.3f}) {ratio}  {text}"
        print(f"{model} m={m:<5} {name:18} {text}", flush=True)


def main() -> None:
    global DEVICE
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--sizes", nargs="*", type=int, default=[1, 8, 64])
    parser.add_argument("--device", default=DEVICE, choices=("cuda", "cpu"))
    parser.add_argument("--ways", nargs="*", default=[], help="engines and peers; all of them otherwise")
    arguments = parser.parse_args()
    DEVICE = arguments.device
    card, each = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU", f"median of {arguments.repeats} (least, most)"
    print(f"{card}, torch {torch.__version__}; ms a step, {each}, share of modules, memory")
    for model in arguments.models:
        for m in arguments.sizes:
            table(model, m, arguments.repeats, arguments.ways)


if __name__ == "__main__":
    main()
