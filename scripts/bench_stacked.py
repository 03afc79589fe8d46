"""Worker-steps a second of many workers in one process, beside the plain loop over models, in one run.

Remake: OMP_WAIT_POLICY=passive python scripts/bench_stacked.py [--repeats 3]
(needs fashion_mnist; about ten minutes of mlp and an hour of cnn on 2 cores; `coopsgd train` sets that policy by itself)

One round is tau = 10 local steps of batch 32 on each of m workers, then the average. `modules` is what one writes by hand:
m nn.Modules with a torch.optim.SGD each, once with torch's own threads on all cores and once with one thread; the others are
the task and fleet of `coopsgd train` under each engine, a thread for each core. `stored` stores gradients and steps
afterwards, as optimisers with momentum must; else gradient and update are fused. Each way runs in a fork of its own; the
ways take turns, in an order drawn anew for every repeat. Medians, with the smallest and largest; ratios are of medians. The
second table counts seconds of processor time, which other users of the machine change less.

`1 process` and `2 processes` are whole runs of `coopsgd train`, with a thread for each core and with one each, timed by
their own logs. gpt (1 M parameters, data=text, batch 8) is measured when asked for: --models gpt --sizes 8.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from typing import Any

import bench_scale
import numpy as np
import torch
from peers import FORK, silence

from coopsgd.commands import compose
from coopsgd.fleet.plan import Layout
from coopsgd.fleet.stacked import Stacked
from coopsgd.host import processors
from coopsgd.loop.stepping import Steps
from coopsgd.run.group import keep_freed_memory
from coopsgd.setup import schema
from coopsgd.setup.parts import Parts
from coopsgd.tasks.networks import network

TAU = 10
IMAGES = ("data=fashion_mnist", "batch_size=32")
WORDS = {"mlp": IMAGES, "cnn": IMAGES, "gpt": ("task=language", "data=text", "batch_size=8")}
ENGINES = {
    "mlp": ("loop", "vmap", "bmm", "bmm stored"),
    "cnn": ("loop", "vmap", "conv", "conv stored"),
    "gpt": ("loop", "vmap"),
}
ROUNDS = {"mlp": (1, 2), "cnn": (0, 1), "gpt": (0, 1)}  # not timed, timed
RUNS = ("1 process", "2 processes")


class Clock:
    """Seconds, and processor seconds of all threads, since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def modules(settings: schema.Config, warm: int, rounds: int) -> tuple[float, float]:
    """Time of so many rounds of the plain loop over models, written out."""
    problem = Parts(settings).task.build(settings, range(settings.workers), torch.device("cpu"))
    models = [network(Parts(settings).task, settings.seed) for _ in range(settings.workers)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    lists = [list(model.parameters()) for model in models]
    clock = Clock()
    for r in range(warm + rounds):
        if r == warm:
            clock = Clock()
        own = [np.full(settings.workers, r * TAU + k) for k in range(TAU)]
        chosen = [problem._batches.at(steps) for steps in own]
        for i, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            for k in range(TAU):
                inputs, targets = (part[0] for part in problem._fetch(chosen[k], own[k], i, i + 1))
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(inputs).flatten(0, -2), targets.flatten()).backward()
                optimizer.step()
        with torch.no_grad():
            for same in zip(*lists, strict=True):
                mean = torch.stack(same).mean(0)
                for parameter in same:
                    parameter.copy_(mean)
    return clock.read()


def stacked(settings: schema.Config, warm: int, rounds: int, stored: bool) -> tuple[float, float]:
    """The same of the parts that `coopsgd train` is made of."""
    from coopsgd.loop.inner import Inner
    from coopsgd.optim import SGD
    from coopsgd.schedules import Constant

    schedule, m = Parts(settings).strategy.schedule, settings.workers
    assert schedule is not None
    fleet = Stacked(Layout(m, 0, 1))
    problem = Parts(settings).task.build(settings, range(m), torch.device("cpu"))
    x = fleet.rows(problem.start())
    inner = Inner(SGD(lr=0.1), Constant(), x, m, TAU * (warm + rounds))
    steps = Steps(problem, inner, x, None, [], None, not stored, lambda k: TAU - k % TAU, fleet.zeros_like)
    clock = Clock()
    for r in range(warm + rounds):
        if r == warm:
            clock = Clock()
        for k in range(r * TAU, (r + 1) * TAU):
            own = np.full(len(x), k)
            if steps.fused:
                steps.descend(k, None, own)
            else:
                steps.step(steps.gradients(k, None, own)[1], None)
        fleet.mix(schedule.at(m, r), x)
    return clock.read()


def whole(model: str, m: int, way: str) -> tuple[float, float]:
    """The same of a whole run; of processor time nothing is known."""
    steps = max(TAU, 800 // m) if model == "mlp" else TAU
    processes = int(way.split()[0])
    words = (
        f"model={model}",
        *WORDS[model],
        f"workers={m}",
        "algo=pasgd",
        f"tau={TAU}",
        "device=cpu",
        f"processes={processes}",
    )
    return m / bench_scale.measured((*words, f"threads={processors.cores() // processes}"), steps).seconds, math.nan


def measured(model: str, m: int, way: str) -> tuple[float, float]:
    """Worker-steps a second and a processor second, taken in a fork."""
    if way in RUNS:
        return whole(model, m, way)
    answers = FORK.SimpleQueue()

    def child() -> None:
        torch.set_num_threads(1 if way.endswith("1 thread") else processors.cores())
        keep_freed_memory()
        engine = "loop" if way.startswith("modules") else way.split()[0]
        words = (f"model={model}", *WORDS[model], f"workers={m}", "processes=1", "algo=pasgd", f"engine={engine}")
        with silence():
            settings = compose.compose_config((*words, "device=cpu")).config
            plain = way.startswith("modules")
            warm, rounds = ROUNDS[model]
            took = modules(settings, warm, rounds) if plain else stacked(settings, warm, rounds, way.endswith("stored"))
        answers.put(tuple(m * TAU * rounds / seconds for seconds in took))

    process = FORK.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0, f"{way} with {m} workers ended with {process.exitcode}"
    return answers.get()


def short(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def table(model: str, sizes: list[int], repeats: int, only: list[str]) -> None:
    """Measure one model and print what was found."""
    ways = [way for way in ("modules", "modules, 1 thread", *ENGINES[model], *RUNS) if not only or way in only]
    found: dict[Any, list[tuple[float, float]]] = {(way, m): [] for way in ways for m in sizes}
    for repeat in range(repeats):
        for m in sizes:
            order = list(ways)
            random.Random(1000 * repeat + m).shuffle(order)
            for way in order:
                found[way, m].append(measured(model, m, way))
    for which, unit in enumerate(("second", "processor second")):
        if which and set(ways) <= {*RUNS}:
            break
        rates = {key: [both[which] for both in values] for key, values in found.items()}
        middle = {key: statistics.median(values) for key, values in rates.items()}
        print(f"\n{model}: worker-steps a {unit}, median of {repeats} (smallest, largest), ratio to the better plain loop")
        print(f"{'':22}" + "".join(f"{f'm = {m}':>26}" for m in sizes))
        for way in ways:
            if which and way in RUNS:
                continue
            cells = []
            for m in sizes:
                over = max((middle[w, m] for w in ways if w.startswith("modules")), default=middle[way, m])
                spread = f"({short(min(rates[way, m]))}, {short(max(rates[way, m]))})"
                cells.append(f"{short(middle[way, m])} {spread} {middle[way, m] / over:.2f}")
            print(f"{way:22}" + "".join(f"{cell:>26}" for cell in cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=["mlp", "cnn"], choices=[*WORDS])
    parser.add_argument("--sizes", nargs="*", type=int, default=[8, 32, 128, 512])
    parser.add_argument("--ways", nargs="*", default=[], help="of those named in the table; all of them otherwise")
    arguments = parser.parse_args()
    for model in arguments.models:
        table(model, arguments.sizes, arguments.repeats, arguments.ways)


if __name__ == "__main__":
    main()
