"""The clock against reality: seconds a step on four hosts with slow links, measured and predicted, as a table.

Remake: python scripts/check_clock.py --netlab NETLAB.py [--repeats 3]    (Linux, root; about a quarter of an hour on 2 cores)

NETLAB.py runs a command on emulated hosts (`--hosts N --rate R --delay D -- command`), with RANK and MASTER_ADDR set. On the
same links, one after another: a probe (all-reduce and edges of several sizes, steps of `independent`), then every algorithm, in
folders frozen with launch=false. `probe`: sim_s of cluster=from_probe; `nominal`: that of the rate and delay
asked for, with the probe's step. Medians, smallest and largest of the repeats, each with a probe of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HOSTS = 4
LINKS = (("1gbit", "0.2ms", 1e9, 2e-4), ("100mbit", "1ms", 1e8, 1e-3), ("20mbit", "5ms", 2e7, 5e-3))
ALGOS = {
    "fullsync": ["algo=fullsync"],
    "pasgd, tau = 16": ["algo=pasgd", "tau=16"],
    "dpsgd, ring": ["algo=dpsgd", "topology=ring", "tau=1"],
    "dpsgd, ring, overlap": ["algo=dpsgd", "topology=ring", "tau=1", "algo.order=overlap"],
}
COMMON = [f"workers={HOSTS}", f"processes={HOSTS}", "device=cpu", "threads=1", "eval_every=0", "save=none", "log_every=16"]
COMMON += ["data=digits", "model=mlp"]
SECONDS = 5.0  # of one measured run, about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--netlab", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rates", nargs="*", default=[link[0] for link in LINKS], help="of the links to try")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return inside(arguments.inside)
    why = refusal(arguments.netlab)
    if why:
        print(f"skipped: {why}")
        return
    print("| link | algorithm | measured, ms a step | from the probe | ratio | nominal | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for rate, delay, bandwidth, latency in (one for one in LINKS if one[0] in arguments.rates):
        with tempfile.TemporaryDirectory() as root:
            for row in link(arguments.netlab, Path(root), rate, delay, bandwidth, latency, arguments.repeats):
                print(f"| {rate}, {delay} | " + " | ".join(row) + " |", flush=True)


def refusal(netlab: Path | None) -> str:
    """Why nothing can be emulated here; empty when it can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "emulated hosts need Linux and root"
    if netlab is None or not netlab.is_file():
        return f"no emulator at {netlab}; name one with --netlab"
    done = subprocess.run([sys.executable, str(netlab), "--hosts", "2", "--check"], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"the emulator does not work here: {done.stderr.strip().splitlines()[-1:]}"


def link(netlab: Path, root: Path, rate: str, delay: str, bandwidth: float, latency: float, repeats: int) -> Any:
    """The table's rows for one kind of link. In every repeat all is measured anew: what else the machine does changes."""
    made: list[dict[str, Path]] = []
    for repeat in range(repeats):
        (at := root / str(repeat)).mkdir()
        made.append({"alone": freeze(at / "alone", ["algo=independent", "steps=320"])})
        for number, (name, words) in enumerate(ALGOS.items()):
            about = predicted([*words, *nominal(0.003, bandwidth, latency)])
            steps = 16 + 16 * max(2, min(40, round(SECONDS / about / 16)))
            made[-1][name] = freeze(at / str(number), [*words, f"steps={steps}"])
    (root / "todo.json").write_text(json.dumps([[str(folder) for folder in runs.values()] for runs in made]))
    command = [sys.executable, str(netlab), "--hosts", str(HOSTS), "--rate", rate, "--delay", delay, "--timeout", "900", "--"]
    subprocess.run([*command, sys.executable, __file__, "--inside", str(root)], check=True, stdout=subprocess.DEVNULL)
    for name, words in ALGOS.items():
        times = [seconds_a_step(runs[name]) for runs in made]
        row, told = [name, spread([1e3 * t for t in times])], list[list[float]]()
        for runs in made:
            step, at = seconds_a_step(runs["alone"]), runs["alone"].parent
            network = json.loads((at / "network.json").read_text())
            (at / "probe.json").write_text(
                json.dumps({"format": 1, "step_s": {"median": step, "workers": [step]}, "network": network})
            )
            probed = ["cluster=from_probe", f"cluster.file={at / 'probe.json'}", "cluster.own_speeds=false"]
            told.append([predicted([*words, *probed]), predicted([*words, *nominal(step, bandwidth, latency)])])
        for column in zip(*told, strict=True):
            row += [spread([1e3 * t for t in column]), spread([t / real for t, real in zip(column, times, strict=True)])]
        yield row


def nominal(step: float, bandwidth: float, latency: float) -> list[str]:
    """The cluster that was asked for."""
    return ["cluster=custom", f"cluster.step_s={step}", f"cluster.bandwidth={bandwidth}", f"cluster.latency_s={latency}"]


def spread(values: list[float]) -> str:
    """Median (smallest, largest)."""
    return f"{statistics.median(values):.3g} ({min(values):.3g}, {max(values):.3g})"


def freeze(folder: Path, words: list[str]) -> Path:
    """A run that waits for its workers, as launch=false leaves it."""
    from coopsgd import compose

    settings = compose.shown([*COMMON, *words, "launch=false"]).config
    compose.freeze(settings, folder, "scripts/check_clock.py")
    (folder / "logs").mkdir()
    return folder


def predicted(words: list[str]) -> float:
    """Seconds a step on the clock."""
    from coopsgd import clock, compose, config

    settings = compose.shown([*COMMON, *words]).config
    times = clock.rehearse(settings, config.make_strategy(settings)[0], 176)
    return float(times[-1] - times[15]) / 160


def seconds_a_step(folder: Path) -> float:
    """Training time a step, the first sixteen left out."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    first = next(line for line in lines if line["step"] == 16)
    return (lines[-1]["train_s"] - first["train_s"]) / (lines[-1]["step"] - 16)


def inside(root: Path) -> None:
    """What each host does."""
    import torch

    from coopsgd import worker

    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    for repeat, folders in enumerate(json.loads((root / "todo.json").read_text())):
        probe(root / str(repeat), rank)
        for folder in folders:
            worker.work(Path(folder), rank, store=Path(folder) / "logs" / "store")


def probe(root: Path, rank: int) -> None:
    """a + b * bytes of an all-reduce over all hosts, and of a message, by medians of many.

    Messages as gossip sends them, to and from both neighbours at once: a + 2 * bytes * b. One message alone there and back
    tells of a link that nothing else uses.
    """
    import numpy as np
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.FileStore(str(root / "probe-store"), HOSTS), rank=rank, world_size=HOSTS)
    sizes = [1 << 10, 1 << 14, 1 << 16, 1 << 18, 1 << 19]
    found: dict[str, list[float]] = {"all_reduce": [], "edge": []}
    for size in sizes:
        part, heard = torch.zeros(size // 4), torch.zeros(2, size // 4)

        def exchange(part: torch.Tensor = part, heard: torch.Tensor = heard) -> None:
            sides = ((rank - 1) % HOSTS, (rank + 1) % HOSTS)
            works = [dist.irecv(heard[at], side) for at, side in enumerate(sides)]
            for work in [*works, *(dist.isend(part, side) for side in sides)]:
                work.wait()

        for name, act in (("all_reduce", lambda part=part: dist.all_reduce(part)), ("edge", exchange)):
            times = []
            for _ in range(10):
                dist.barrier()
                began = time.perf_counter()
                act()
                times.append(time.perf_counter() - began)
            found[name].append(statistics.median(times[2:]))
    told: dict[str, Any] = {"processes": HOSTS}
    for name, seconds in found.items():
        # least squares of relative errors: small messages count as much as large ones
        weights, carried = 1 / np.array(seconds), np.array(sizes) * (2 if name == "edge" else 1)
        (a, b), *_ = np.linalg.lstsq(np.stack([weights, weights * carried], 1), np.ones(len(sizes)), rcond=None)
        told[name] = {"a": max(0.0, float(a)), "b": float(b)}
    dist.destroy_process_group()
    if rank == 0:
        (root / "network.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
