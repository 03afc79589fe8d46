"""Every number that this project promises of its speed, as a ratio inside one run, beside its target and its peers.

Remake: make bench, or python scripts/bench.py [--netlab NETLAB.py]    (needs fashion_mnist; under 8 minutes on 2 quiet cores)

*own* is coopsgd's algo=independent in as many processes, *bare* a plain torch loop in as many. Ways take turns; ratios are
of medians. A row more than 15 % worse than its target is marked, and the exit code is then 1. Rows that cannot be measured
here (emulated hosts need root and an emulator, resnet18 needs torchvision) say why, and are not counted. Of the sweep of
torchruns one is timed and multiplied. docs/speed.md says what is known of the rows that are missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from coopsgd.run import progress

SLACK = 1.15
SWEPT = 20  # runs of the sweep
SIZES = {"mlp": (200, 50), "cnn": (24, 6), "resnet18": (6, 2)}  # steps that are timed, and steps before
SHARES = {"steps": 120.0, "resnet": 70.0, "simulated": 60.0, "start": 50.0}  # seconds, after which no turn begins
Way = Callable[[], float]


@dataclass(frozen=True)
class Row:
    """One line of the table. ratio None: not measured, `peers` says why. at_least: the target is one to reach from above."""

    what: str
    ratio: float | None
    target: float
    peers: str = ""
    spread: tuple[float, float, int] | None = None  # smallest, largest, of how many
    at_least: bool = False

    @property
    def missed(self) -> bool:
        """Is it worse than its target by more than 15 %?"""
        if self.ratio is None:
            return False
        return self.ratio * SLACK < self.target if self.at_least else self.ratio > SLACK * self.target

    def cells(self) -> tuple[str, ...]:
        """As it is printed."""
        found = "not measured" if self.ratio is None else f"{self.ratio:.3g}"
        if self.spread is not None:
            found += f" ({self.spread[0]:.3g}, {self.spread[1]:.3g}; {self.spread[2]})"
        target = f"at {'least' if self.at_least else 'most'} {self.target:g}"
        return self.what, found, target + ", MISSED" * self.missed, self.peers


def ratio(what: str, times: dict[str, list[float]], way: str, over: str, target: float, **peers: str) -> Row:
    """A row of times taken in turns; peers: their ways, by name, over the same."""
    each = [a / b for a, b in zip(times[way], times[over], strict=True)]
    base = statistics.median(times[over])
    others = ", ".join(f"{name} {statistics.median(times[other]) / base:.3g}" for name, other in peers.items())
    return Row(what, statistics.median(times[way]) / base, target, others, (min(each), max(each), len(each)))


def in_turns(ways: dict[str, Way], repeats: int, seconds: float) -> dict[str, list[float]]:
    """Each way's times, in an order drawn anew for every turn; as many turns as there is time for, at least one."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    began = time.perf_counter()
    for repeat in range(repeats):
        if repeat and (time.perf_counter() - began) * (repeat + 1) / repeat > seconds:
            break
        order = list(ways)
        random.Random(repeat).shuffle(order)
        for name in order:
            times[name].append(ways[name]())
    return times


def ours(size: tuple[str, int, int], *words: str) -> Way:
    """A step of coopsgd train."""
    from peers import coopsgd_step

    return lambda: coopsgd_step(*size, *words)


def four(size: tuple[str, int, int], *words: str) -> Way:
    """The same in 4 processes."""
    return ours(size, *words, "workers=4", "processes=4")


def theirs(way: str, size: tuple[str, int, int], world: int, momentum: float = 0.0) -> Way:
    """A step of a peer."""
    from peers import peer_step

    return lambda: peer_step(way, *size, world, momentum)


def steps(repeats: int) -> Iterator[Row]:
    """Steps of 4 processes over the same without communication, and of one over a plain loop."""
    targets = {"fullsync": {"cnn": 1.10, "mlp": 1.8}, "ring": {"cnn": 1.10, "mlp": 1.8}, "pasgd": {"cnn": 1.02, "mlp": 1.10}}
    for model in ("cnn", "mlp"):
        size = (model, *SIZES[model])
        ways = {
            "own": four(size, "algo=independent"),
            "fullsync": four(size, "algo=fullsync"),
            "ring": four(size, "algo=dpsgd", "topology=ring", "tau=1"),
            "pasgd": four(size, "algo=pasgd", "tau=16"),
            "ddp": theirs("ddp", size, 4),
            "averager": theirs("averager", size, 4),
        }
        if model == "mlp":
            ways["bare"] = theirs("bare", size, 1, momentum=0.9)
            ways["one"] = ours(size, "algo=pasgd", "tau=16", "workers=1", "optim.momentum=0.9")
        times = in_turns(ways, repeats, SHARES["steps"] / 2)
        yield ratio(f"fullsync, 4 processes, {model} / own", times, "fullsync", "own", targets["fullsync"][model], DDP="ddp")
        yield ratio(f"ring, tau 1, {model} / own", times, "ring", "own", targets["ring"][model])
        yield ratio(f"pasgd, tau 16, {model} / own", times, "pasgd", "own", targets["pasgd"][model], averager="averager")
        if model == "mlp":
            yield ratio("one worker, mlp, momentum / bare", times, "one", "bare", 0.75)


def resnet(repeats: int) -> Iterator[Row]:
    """torchvision's resnet18 on 8 x 3 x 32 x 32."""
    names = {"own step, 1 worker": 1.02, "own step, 4 workers": 1.02, "fullsync, 4 processes": 1.25}
    if importlib.util.find_spec("torchvision") is None:
        yield from (Row(f"resnet18, {name} / bare", None, target, "needs torchvision") for name, target in names.items())
        return
    from coopsgd.run import memory_format

    memory_format.FEW = 0  # so that these few steps have the format that a run of 200 measures
    size = ("resnet18", *SIZES["resnet18"])
    ways = {
        "bare, 1": theirs("bare", size, 1),
        "bare, 4": theirs("bare", size, 4),
        "own, 1": ours(size, "algo=independent", "workers=1"),
        "own, 4": four(size, "algo=independent"),
        "fullsync, 4": four(size, "algo=fullsync"),
        "ddp, 4": theirs("ddp", size, 4),
    }
    times = in_turns(ways, repeats, SHARES["resnet"])
    yield ratio("resnet18, own step, 1 worker / bare", times, "own, 1", "bare, 1", names["own step, 1 worker"])
    yield ratio("resnet18, own step, 4 workers / bare", times, "own, 4", "bare, 4", names["own step, 4 workers"])
    target = names["fullsync, 4 processes"]
    yield ratio("resnet18, fullsync, 4 processes / bare", times, "fullsync, 4", "bare, 4", target, DDP="ddp, 4")


def rounds(repeats: int) -> Iterator[Row]:
    """One communication among 4 processes of a host."""
    import bench_round

    bench_round.SECONDS = 0.2
    only = ("all-reduce", "ring by hand", "shared average", "shared easgd", "gloo easgd", "gloo ring")
    found = bench_round.measured([int(d) for d in bench_round.GOALS["shared average"]], repeats, only)
    over = "all-reduce"
    for d, target in bench_round.GOALS["shared average"].items():
        yield ratio(f"round of J, {d:.0e} floats / all-reduce", found[int(d)], "shared average", over, target)
    for size, target in bench_round.GOALS["shared easgd"].items():
        d = int(size)
        yield ratio(f"EASGD round, {d:.0e}, shared / all-reduce", found[d], "shared easgd", over, target)
        yield ratio(f"EASGD round, {d:.0e}, over gloo / all-reduce", found[d], "gloo easgd", over, 1.1)
    d = 3 * 10**7
    yield ratio(f"ring round, {d:.0e}, over gloo / ring by hand", found[d], "gloo ring", "ring by hand", 1.05)


def simulated(repeats: int) -> Iterator[Row]:
    """Worker-steps a second of 32 models in one process, over separate modules with torch.optim."""
    import bench_stacked

    for model, target, engine in (("mlp", 5.5, "bmm"), ("cnn", 3.6, "conv")):
        names = (engine, "modules", "modules, 1 thread")
        ways: dict[str, Way] = {
            way: lambda model=model, way=way: bench_stacked.measured(model, 32, way)[0]  # type: ignore[misc]
            for way in names
        }
        rates = in_turns(ways, repeats, SHARES["simulated"] / 2)
        plain = max(("modules", "modules, 1 thread"), key=lambda way: statistics.median(rates[way]))
        each = [a / b for a, b in zip(rates[engine], rates[plain], strict=True)]
        found = statistics.median(rates[engine]) / statistics.median(rates[plain])
        yield Row(
            f"simulated {model}, m = 32, over modules", found, target, plain, (min(each), max(each), len(each)), at_least=True
        )


def started(repeats: int) -> Iterator[Row]:
    """Cold commands of 4 workers and one step, and a sweep of them."""
    import bench_start

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "script.py").write_text(bench_start.SCRIPT)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
        count = iter(range(1000))
        ways: dict[str, Way] = {
            "import": lambda: taken([sys.executable, "-c", "import torch"]),
            "coopsgd": lambda: taken([*bench_start.coopsgd(), f"hydra.run.dir={folder}/run{next(count)}"]),
            "torchrun": lambda: taken([*torchrun, str(folder / "script.py"), str(folder / "done")]),
        }
        times = in_turns(ways, repeats, SHARES["start"])
        yield ratio("cold command, 4 workers, 1 step / import torch", times, "coopsgd", "import", 1.35, torchrun="torchrun")
        seeds = ",".join(map(str, range(SWEPT)))
        sweep = taken([*bench_start.coopsgd(), "-m", f"seed={seeds}", f"hydra.sweep.dir={folder}/sweep"])
        one = statistics.median(times["torchrun"])
        yield Row(f"a sweep of {SWEPT} / {SWEPT} torchruns", sweep / (SWEPT * one), 0.06, "one torchrun, multiplied")
    words = "show algo=easgd", "list", "analyze algo=dpsgd topology=ring", "train algo=esgd"  # the last is an error
    command = [sys.executable, "-m", "coopsgd.cli"]
    ways = {said: lambda said=said: taken([*command, *said.split()], (0, 2)) for said in words}  # type: ignore[misc]
    ways["import"] = lambda: taken([sys.executable, "-c", "import torch"])
    times = in_turns(ways, 2 * repeats + 1, SHARES["start"] / 2)
    for said in words:
        yield ratio(f"coopsgd {said} / import torch", times, said, "import", 0.35)


def taken(command: list[str], codes: tuple[int, ...] = (0,)) -> float:
    """Seconds of a command, which ends with one of these codes."""
    began = time.perf_counter()
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
    if ended not in codes:
        raise RuntimeError(f"{' '.join(command)} ended with {ended}")
    return time.perf_counter() - began


def networked(repeats: int, netlab: Path | None) -> Iterator[Row]:
    """A round on a ring of emulated hosts, over latency + bytes / bandwidth."""
    import check_network
    from check_clock import refusal

    what, target, rate = "ring round, 4 hosts, 100 Mbit/s, 5 ms / its model", 1.15, "100mbit"
    if why := refusal(netlab):
        yield Row(what, None, target, why)
        return
    delay, bandwidth, latency = check_network.LINKS[rate]
    with tempfile.TemporaryDirectory() as folder:
        asked = ["--hosts", str(check_network.HOSTS), "--rate", rate, "--delay", delay, "--timeout", "100", "--"]
        inside = [sys.executable, __file__, "--inside", f"{folder}/times", "--repeats", str(repeats)]
        subprocess.run([sys.executable, str(netlab), *asked, *inside], check=True, stdout=subprocess.DEVNULL)
        times = [float(word) for word in Path(folder, "times").read_text().split()]
    model = latency + check_network.ROUNDS["ring"] * 32 * check_network.D / bandwidth
    yield Row(what, statistics.median(times) / model, target, "", (min(times) / model, max(times) / model, len(times)))


def one_host(place: Path, repeats: int) -> None:
    """What one of the emulated hosts does."""
    import check_network
    import torch
    import torch.distributed as dist

    from coopsgd.run.group import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()  # as every process of a run does
    dist.init_process_group("gloo")
    call = check_network.rounds(dist.get_rank())["ring"]
    times = [check_network.timed(call, 1) for _ in range(2 + 3 * repeats)][2:]
    if dist.get_rank() == 0:
        place.write_text(" ".join(map(str, times)))
    dist.barrier()
    dist.destroy_process_group()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--netlab", type=Path, default=os.environ.get("NETLAB"), help="an emulator of hosts, or set NETLAB")
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "steps": lambda: steps(arguments.repeats),
        "rounds": lambda: rounds(arguments.repeats),
        "resnet": lambda: resnet(arguments.repeats),
        "simulated": lambda: simulated(arguments.repeats),
        "start": lambda: started(arguments.repeats),
        "network": lambda: networked(arguments.repeats, arguments.netlab),
    }
    parser.add_argument("--parts", nargs="*", default=list(parts), choices=list(parts))
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        one_host(arguments.inside, arguments.repeats)
        return 0
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    progress.silence()
    began, rows = time.perf_counter(), list[Row]()
    for name in arguments.parts:
        print(f"{name}, after {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        rows += parts[name]()
    table = [("what", "median (least, most; turns)", "target", "peers"), *(row.cells() for row in rows)]
    print("\n".join(printed(table)))
    missed = sum(row.missed for row in rows)
    print(f"\n{len(rows)} rows, {missed} missed by more than 15 %, in {time.perf_counter() - began:.0f} s")
    return int(missed > 0)


def printed(table: list[tuple[str, ...]]) -> Iterator[str]:
    """The lines of a markdown table."""
    for number, cells in enumerate(table):
        yield "| " + " | ".join(cells) + " |"
        if number == 0:
            yield "| --- " * len(cells) + "|"


if __name__ == "__main__":
    sys.exit(main())
