"""How the time and the memory of a step grow: with workers, parameters, neighbours, processes, and lines of the log.

Remake: python scripts/bench_scale.py [--repeats 5] [--axes workers ...] [-o docs]
(needs fashion_mnist; a quarter of an hour on 2 cores)

Each point is a run of `coopsgd train` in a fork of one warm process, timed by its own log lines after a warm-up; the points of
an axis take turns, in an order drawn anew for every repeat. Medians, with the smallest and largest. With -o, a table and a
picture of each axis are written there: scale.md, whose tables are those of docs/speed.md, and scale.png.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import torch
from peers import FORK, silence

from coopsgd.commands.train import command
from coopsgd.host import processors
from coopsgd.run.reader import Run, log_points

matplotlib.use("agg")
from matplotlib import pyplot as plt


class Axis(NamedTuple):
    """What grows, and what the time of a step would ideally be at each value, up to a factor."""

    label: str
    values: tuple[int, ...]
    words: Callable[[int], tuple[str, ...]]  # of a value
    ideal: Callable[[int], float]
    steps: Callable[[int], int] = lambda value: 40  # timed ones, of a value


MLP = ("model=mlp", "data=fashion_mnist", "batch_size=8")
QUADRATIC = ("task=quadratic", "task.sigma=0", "dtype=float32")  # a gradient is little beside a message
ONE = ("processes=1", "threads=1")
AXES = {
    "workers": Axis(
        "workers m of a small quadratic (1e4 numbers) on a ring, one process",
        (1, 4, 16, 64, 256, 1024, 4096),
        lambda m: (*QUADRATIC, "task.dim=10000", f"workers={m}", *ONE, *_ring(m)),
        lambda m: m,
        lambda m: max(4, 400 // m),
    ),
    "networks": Axis(
        "workers m, each an mlp (1.6e5 numbers, batch 8), on a ring, one process",
        (1, 4, 16, 64, 256, 1024),
        lambda m: (*MLP, f"workers={m}", *ONE, *_ring(m)),
        lambda m: m,
        lambda m: max(4, 400 // m),
    ),
    "parameters": Axis(
        "numbers d of each of 4 models, averaged every step, one process",
        (10_000, 100_000, 1_000_000, 10_000_000, 30_000_000),
        lambda d: (*QUADRATIC, f"task.dim={d}", "workers=4", *ONE, "algo=fullsync"),
        lambda d: d,
        lambda d: max(4, 4_000_000 // d),
    ),
    "neighbours": Axis(
        "neighbours of each of 256 workers (random regular graph, 1e4 numbers), one process",
        (2, 4, 8, 16, 32, 64, 128),
        lambda k: (
            *QUADRATIC,
            "task.dim=10000",
            "workers=256",
            *ONE,
            "algo=dpsgd",
            "topology=random_regular",
            f"topology.degree={k}",
        ),
        lambda k: 1,
    ),
    "processes": Axis(
        "processes that share 16 mlps, averaged every step",
        (1, 2, 4, 8, 16),
        lambda p: (*MLP, "workers=16", f"processes={p}", "threads=1", "algo=fullsync"),
        lambda p: 1 / min(p, processors.cores()),
    ),
    "lines": Axis(
        "lines of the log in 256 steps of 4 mlps",
        (2, 8, 32, 128, 256),
        lambda n: (*MLP, "workers=4", *ONE, "algo=pasgd", "tau=16", f"log_every={256 // n}"),
        lambda n: 1,
        lambda n: 256,
    ),
}


def _ring(m: int) -> tuple[str, ...]:
    return ("algo=dpsgd", "topology=ring") if m > 2 else ("algo=fullsync",)


class Point(NamedTuple):
    """Seconds of a step, and the most bytes that a process held."""

    seconds: float
    memory: int


def measured(words: tuple[str, ...], steps: int) -> Point:
    """In a fork, of which memory is counted."""
    answers = FORK.SimpleQueue()
    member = FORK.Process(target=_measure, args=(words, steps, answers))
    member.start()
    member.join()
    if member.exitcode:
        raise RuntimeError(f"coopsgd train {' '.join(words)} ended with {member.exitcode}; its error is above")
    return Point(*answers.get())


def _measure(words: tuple[str, ...], steps: int, answers: Any) -> None:
    warm = max(2, steps // 4)
    lines = () if any(word.startswith("log_every") for word in words) else (f"log_every={warm}",)
    with tempfile.TemporaryDirectory() as folder, silence():
        more = (*lines, "eval_every=0", f"steps={warm + steps}", "save=none", f"hydra.run.dir={folder}/run")
        assert command.train([*words, *more]) == 0
        found, summary = log_points(Path(folder, "run", "metrics.jsonl")), Run(Path(folder, "run")).summary
    first = next(line for line in found if line["step"] >= warm)
    answers.put(((found[-1]["train_s"] - first["train_s"]) / (found[-1]["step"] - first["step"]), summary["peak_memory"]))


def swept(axis: Axis, repeats: int) -> dict[int, list[Point]]:
    """Of each value its repeats."""
    points: dict[int, list[Point]] = {value: [] for value in axis.values}
    for repeat in range(repeats):
        order = list(axis.values)
        random.Random(repeat).shuffle(order)
        for value in order:
            began = time.perf_counter()
            points[value].append(measured(axis.words(value), axis.steps(value)))
            print(f"  {axis.label}: {value}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
    return points


def table(axis: Axis, points: dict[int, list[Point]]) -> str:
    """In Markdown: of each value the time of a step, the same a unit, and what it holds above the smallest."""
    least = min(point.memory for some in points.values() for point in some)
    lines = [f"| {axis.label} | ms a step | over the one before | MB above the least |", "| --- | --- | --- | --- |"]
    before = None
    for value, some in points.items():
        low, middle, high = _spread(some)
        grew = "-" if before is None else f"{middle / before:.2f}"
        held = (statistics.median(point.memory for point in some) - least) / 1e6
        lines.append(f"| {value:,} | {middle:.3g} ({low:.3g}, {high:.3g}) | {grew} | {held:,.0f} |")
        before = middle
    return "\n".join(lines)


def _spread(some: list[Point]) -> tuple[float, float, float]:
    times = [1e3 * point.seconds for point in some]
    return min(times), statistics.median(times), max(times)


def drawn(axes: dict[str, dict[int, list[Point]]]) -> Any:
    """A log-log plot of each axis, with the ideal through the last point of what grows, else through the first."""
    figure, places = plt.subplots(2, 3, figsize=(11, 6.4), layout="constrained")
    for place in places.flat[len(axes) :]:
        place.set_visible(False)
    for place, (name, points) in zip(places.flat, axes.items(), strict=False):
        axis = AXES[name]
        values = list(points)
        low, middle, high = (list(part) for part in zip(*map(_spread, points.values()), strict=True))
        place.fill_between(values, low, high, color="#0072B2", alpha=0.2, linewidth=0)
        place.loglog(values, middle, "o-", color="#0072B2", label="measured")
        ideal = [axis.ideal(value) for value in values]
        at = ideal.index(max(ideal)) if ideal[-1] > ideal[0] else 0  # where it is to touch what is measured
        place.set_ylim(min(low) / 3, 3 * max(high))
        place.loglog(values, [middle[at] * one / ideal[at] for one in ideal], "--", color="#555555", label="ideal")
        place.set_xlabel(textwrap.fill(axis.label, 44))
        place.set_ylabel("ms a step")
        place.set_title(name)
        place.grid(alpha=0.3)
        place.legend(frameon=False)
    return figure


def circumstances(repeats: int) -> str:
    """What the numbers depend on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    cpu = next((line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor())
    return (
        f"`python scripts/bench_scale.py --repeats {repeats}`, commit {commit.stdout.strip()}, {processors.cores()} cores of "
        f"{cpu}, torch {torch.__version__.partition('+')[0]}, medians of {repeats} (smallest, largest)."
    )


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--axes", nargs="*", default=list(AXES), choices=list(AXES))
    parser.add_argument("-o", dest="out", help="a folder for scale.md and scale.png")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    found, told = {}, [circumstances(arguments.repeats)]
    for name in arguments.axes:
        found[name] = swept(AXES[name], arguments.repeats)
        told.append(table(AXES[name], found[name]))
        print(f"\n{told[-1]}", flush=True)
    if arguments.out:
        Path(arguments.out, "scale.md").write_text("\n\n".join(told) + "\n")
        drawn(found).savefig(Path(arguments.out, "scale.png"), dpi=110)


if __name__ == "__main__":
    main()
