"""Launch many small runs in a row on a loaded machine and look for one that hangs.

Remake: python scripts/stress_launch.py [--launches 300] [--processes 4]

Two busy loops a core keep the machine loaded. Each launch is a whole run: fork, meet, gossip along edges and by all-reduce,
save, end. A launch that takes longer than --limit seconds counts as hung.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

from peers import silence

from coopsgd.commands import compose
from coopsgd.host import processors
from coopsgd.run import folders, launch

ALGOS = (("algo=easgd", "tau=2"), ("algo=dpsgd", "topology=ring"), ("algo=dpsgd", "topology=chain"), ("algo=fullsync",))


def busy() -> None:
    while True:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launches", type=int, default=300)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--limit", type=float, default=60.0)
    arguments = parser.parse_args()
    p = arguments.processes
    words = ("task=quadratic", "steps=6", f"workers={p}", f"processes={p}", f"timeout={arguments.limit}", "save=rows")
    plans = [compose.compose_config([*words, *algo]).config for algo in ALGOS]
    load = [multiprocessing.get_context("fork").Process(target=busy, daemon=True) for _ in range(2 * processors.cores())]
    for process in load:
        process.start()
    times = []
    with tempfile.TemporaryDirectory() as name, silence():
        for i in range(arguments.launches):
            folder = Path(name) / str(i)
            plan = plans[i % len(plans)]
            folders.write_config(plan, folder, "coopsgd train")
            began = time.perf_counter()
            launch.run(folder, plan)
            times.append(time.perf_counter() - began)
    for process in load:
        process.kill()
    slow = sum(seconds > arguments.limit for seconds in times)
    print(
        f"{len(times)} launches of {p} processes under load: {slow} hung; "
        f"median {statistics.median(times):.2f} s, longest {max(times):.2f} s"
    )
    sys.exit(1 if slow else 0)


if __name__ == "__main__":
    main()
