"""Messages between four hosts with slow links: what a round takes, and how much of it a delay hides, as tables.

Remake: python scripts/check_network.py --netlab NETLAB.py [--repeats 5]    (Linux, root; some ten minutes on 2 cores)

NETLAB.py runs a command on emulated hosts (`--hosts N --rate R --delay D -- command`), with RANK and MASTER_ADDR set. On each
kind of link all ways take turns; medians, smallest and largest of the turns. First a mixing of 410,000 numbers (1.64 MB) over
latency + bytes / bandwidth, beside whole messages by isend and irecv and the same exchange by plain sockets. Then steps with
delay=1 over max(compute, round), where computing is a sleep of half, one and two rounds; and once a small cnn.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from check_clock import refusal, spread

HOSTS, D = 4, 410_000
LINKS = {"1gbit": ("0.2ms", 1e9, 2e-4), "100mbit": ("5ms", 1e8, 5e-3), "20mbit": ("50ms", 2e7, 5e-2)}
ROUNDS = {"ring": 2, "exponential": 2, "all-reduce": 1.5}  # of a row, the bytes each host sends
COMPUTE = (0.5, 1.0, 2.0)  # rounds that the sleep lasts
MANY = 64  # where steps without communication are taken several at a time
STEPS = {"1gbit": 8, "100mbit": 8, "20mbit": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--netlab", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rates", nargs="*", default=list(LINKS), help="of the links to try")
    parser.add_argument("--inside", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return inside(*arguments.inside)
    why = refusal(arguments.netlab)
    if why:
        print(f"skipped: {why}")
        return
    for rate in arguments.rates:
        found = measured(arguments.netlab, rate, arguments.repeats)
        print(f"\n{rate}, {LINKS[rate][0]}; median (smallest, largest) of {arguments.repeats} turns")
        for what, over, values in rows(rate, found):
            print(f"| {what} | {over} | {spread(values)} |")


def measured(netlab: Path, rate: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, a turn each: of the slowest host."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(netlab), "--hosts", str(HOSTS), "--rate", rate, "--delay", LINKS[rate][0]]
        command += ["--timeout", "1800", "--", sys.executable, __file__, "--inside", folder, rate, str(repeats)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return dict(json.loads(Path(folder, "found").read_text()))


def rows(rate: str, found: dict[str, list[float]]) -> list[tuple[str, str, list[float]]]:
    """What was measured, over what, and the ratio of each turn."""
    _, bandwidth, latency = LINKS[rate]
    made = []
    for way, vectors in ROUNDS.items():
        hops = 2 * (HOSTS - 1) if way == "all-reduce" else 1
        model = hops * latency + vectors * D * 32 / bandwidth
        made.append((way, "latency + bytes / bandwidth", [t / model for t in found[way]]))
    model = latency + 2 * D * 32 / bandwidth
    made += [(way, "latency + bytes / bandwidth", [t / model for t in found[way]]) for way in ("whole messages", "sockets")]
    made.append(("ring", "sockets", [a / b for a, b in zip(found["ring"], found["sockets"], strict=True)]))
    for algo in ("dpsgd", "pasgd"):
        alone = statistics.median(found[f"{algo} round"])
        for share in COMPUTE:
            asleep = share * found[f"{algo} asleep"][0]
            values = [t / max(alone, asleep) for t in found[f"{algo} {share}"]]
            made.append((f"{algo}, delay=1, a sleep of {asleep / alone:.2g} rounds", "max(compute, round)", values))
    alone, compute = statistics.median(found["cnn round"]), statistics.median(found["cnn compute"])
    made.append((f"cnn, {compute / alone:.2g} rounds of real computing", "max(compute, round)", []))
    made[-1][2].extend(t / max(alone, compute) for t in found["cnn"])
    return made


def inside(folder: str, rate: str, repeats: str) -> None:
    """What each host does."""
    import torch
    import torch.distributed as dist

    from coopsgd.run.group import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()  # as every process of a run does
    dist.init_process_group("gloo", timeout=timedelta(seconds=600))
    rank, few = dist.get_rank(), 2 if rate == "20mbit" else 4
    ways = {**rounds(rank), "whole messages": whole(rank), "sockets": sockets(rank)}
    turns: dict[str, Callable[[], float]] = {name: lambda call=call: timed(call, few) for name, call in ways.items()}
    runs = {"dpsgd round": (0.0, 0), "pasgd round": (0.0, 0), "cnn round": (0.0, 0), "cnn": (-1.0, 1), "cnn compute": (-1.0, 0)}
    made = {name: Run(name, rank, seconds, delay) for name, (seconds, delay) in runs.items()}
    found: dict[str, list[float]] = {name: [] for name in (*turns, *made)}
    slept = dict[str, list[float]]()
    for name in (*turns, *made):
        largest(
            turns[name]() if name in turns else made[name].steps(MANY if name == "cnn compute" else STEPS[rate])
        )  # connections, memory, pace
    for algo in ("dpsgd", "pasgd"):
        alone = largest(made[f"{algo} round"].steps(STEPS[rate]))
        slept[f"{algo} asleep"] = [alone]
        for share in COMPUTE:
            made[f"{algo} {share}"] = Run(algo, rank, share * alone, 1)
            made[f"{algo} {share}"].steps(STEPS[rate])
            found[f"{algo} {share}"] = []
    for _ in range(int(repeats)):
        for name, values in found.items():
            values.append(
                largest(turns[name]() if name in turns else made[name].steps(MANY if name == "cnn compute" else STEPS[rate]))
            )
    if rank == 0:
        Path(folder, "found").write_text(json.dumps({**found, **slept}))
    dist.barrier()
    os._exit(0)


def largest(seconds: float) -> float:
    """Of all hosts, which are here then."""
    import torch
    import torch.distributed as dist

    found = torch.tensor([seconds], dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return float(found)


def timed(call: Callable[[], Any], calls: int) -> float:
    """Seconds of one, the median of some that begin together."""
    found = []
    for _ in range(calls):
        largest(0)
        begun = time.perf_counter()
        call()
        found.append(largest(time.perf_counter() - begun))
    return statistics.median(found)


def rounds(rank: int) -> dict[str, Callable[[], Any]]:
    """Mixings."""
    import torch

    from coopsgd.fleet.plan import layout_of
    from coopsgd.fleet.processes import Processes
    from coopsgd.mixing.graphs import Exponential, Ring
    from coopsgd.mixing.static import Average, Gossip

    ways = {"ring": Gossip(topology=Ring()), "exponential": Gossip(topology=Exponential()), "all-reduce": Average()}
    found: dict[str, Callable[[], Any]] = {}
    for name, schedule in ways.items():
        fleet, W = Processes(layout_of(schedule, HOSTS, HOSTS), rank), schedule.at(HOSTS, 0)
        found[name] = partial(fleet.mix, W, fleet.rows(torch.randn(1, D)))
    return found


def whole(rank: int) -> Callable[[], None]:
    """A ring by isend and irecv."""
    import torch
    import torch.distributed as dist

    x, came, sides = torch.randn(D), torch.empty(2, D), [(rank - 1) % HOSTS, (rank + 1) % HOSTS]

    def call() -> None:
        works = [dist.irecv(row, side) for row, side in zip(came, sides, strict=True)]
        for work in (*works, *(dist.isend(x, side) for side in sides)):
            work.wait()

    return call


def sockets(rank: int, port: int = 7001) -> Callable[[], None]:
    """A ring by plain sockets: each is written to and read from whenever it can be."""
    import torch

    listening = socket.create_server((f"10.77.0.{rank + 1}", port))
    while True:
        try:
            right = socket.create_connection((f"10.77.0.{(rank + 1) % HOSTS + 1}", port))
            break
        except OSError:  # not there yet
            time.sleep(0.05)
    left = listening.accept()[0]
    for side in (left, right):
        side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        side.setblocking(False)
    x, came = torch.randn(D), torch.empty(2, D)

    def call() -> None:
        selector, whole = selectors.DefaultSelector(), memoryview(x.numpy()).cast("B")
        left_over = {}
        for side, row in zip((left, right), came, strict=True):
            left_over[side] = [whole, memoryview(row.numpy()).cast("B")]
            selector.register(side, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while left_over:
            for key, events in selector.select():
                rest = left_over[key.fileobj]
                if events & selectors.EVENT_READ:
                    rest[1] = rest[1][key.fileobj.recv_into(rest[1]) :]
                if events & selectors.EVENT_WRITE:
                    rest[0] = rest[0][key.fileobj.send(rest[0][: 1 << 16]) :]
                wanted = selectors.EVENT_WRITE * bool(rest[0]) | selectors.EVENT_READ * bool(rest[1])
                if not wanted:
                    selector.unregister(key.fileobj)
                    del left_over[key.fileobj]
                elif wanted != key.events:
                    selector.modify(key.fileobj, wanted)

    return call


class Run:
    """A loop of local steps whose gradient is a sleep (of a negative time: a cnn's own), with a communication after each."""

    def __init__(self, name: str, rank: int, seconds: float, delay: int) -> None:
        import torch

        from coopsgd.commands import compose
        from coopsgd.fleet.plan import layout_of
        from coopsgd.fleet.processes import Processes
        from coopsgd.loop.loop import Loop
        from coopsgd.setup.parts import Parts

        cnn = name.startswith("cnn")
        algo = "independent" if name == "cnn compute" else "dpsgd" if cnn else name.split()[0]
        words = [f"workers={HOSTS}", f"processes={HOSTS}", "fleet=processes", "device=cpu", "threads=1", f"algo={algo}"]
        words += [*([] if algo == "independent" else ["tau=1", f"delay={delay}"]), "steps=1000000", "eval_every=0", "save=none"]
        words += ["data=digits", "model=cnn", "batch_size=64"] if cnn else ["task=quadratic", f"task.dim={D}"]
        parts = Parts(compose.compose_config(words).config)
        fleet = Processes(layout_of(parts.strategy.schedule, HOSTS, HOSTS), rank)
        problem = parts.task.build(parts.config, fleet.workers, torch.device("cpu"))
        if seconds >= 0:
            zero = torch.zeros(fleet.local_rows, 1)

            def asked(*_: Any) -> torch.Tensor:
                time.sleep(seconds)
                return zero.clone()

            problem.gradients = asked
        self._loop = Loop(parts, fleet, problem)

    def steps(self, many: int) -> float:
        """Seconds of one of so many."""
        self._loop.advance()  # with a delay: from here on one communication is under way as a step begins
        largest(0)
        begun = time.perf_counter()
        for _ in range(many):
            self._loop.advance()
        return (time.perf_counter() - begun) / many


if __name__ == "__main__":
    main()
