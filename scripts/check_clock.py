"""The clock against reality: seconds a step on four hosts with slow links, measured and predicted, as a table.

Remake: python scripts/check_clock.py --netlab NETLAB.py [--repeats 3]    (Linux, root; about a quarter of an hour on 2 cores)

NETLAB.py runs a command on emulated hosts (`--hosts N --rate R --delay D -- command`), with RANK and MASTER_ADDR set. On the
same links, one after another: what `coopsgd probe` does, then every algorithm, in folders frozen with launch=false. `probe`:
sim_s of cluster=from_probe; `nominal`: that of the rate and delay asked for, with the probe's step. Medians, smallest and
largest of the repeats, each with a probe of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HOSTS = 4
LINKS = (("1gbit", "0.2ms", 1e9, 2e-4), ("100mbit", "1ms", 1e8, 1e-3), ("20mbit", "5ms", 2e7, 5e-3))
ALGOS = {
    "fullsync": ["algo=fullsync"],
    "pasgd, tau = 16": ["algo=pasgd", "tau=16"],
    "dpsgd, ring": ["algo=dpsgd", "topology=ring", "tau=1"],
    "dpsgd, ring, overlap": ["algo=dpsgd", "topology=ring", "tau=1", "delay=1"],
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
        made.append({"probe": write_config(at / "probe", ["steps=20"])})
        for number, (name, words) in enumerate(ALGOS.items()):
            about = predicted([*words, *nominal(0.003, bandwidth, latency)])
            steps = 16 + 16 * max(2, min(40, round(SECONDS / about / 16)))
            made[-1][name] = write_config(at / str(number), [*words, f"steps={steps}"])
    (root / "todo.json").write_text(json.dumps([[str(folder) for folder in runs.values()] for runs in made]))
    command = [sys.executable, str(netlab), "--hosts", str(HOSTS), "--rate", rate, "--delay", delay, "--timeout", "900", "--"]
    subprocess.run([*command, sys.executable, __file__, "--inside", str(root)], check=True, stdout=subprocess.DEVNULL)
    for name, words in ALGOS.items():
        times = [seconds_a_step(runs[name]) for runs in made]
        row, foretold = [name, spread([1e3 * t for t in times])], list[list[float]]()
        for runs in made:
            file = runs["probe"] / "probe.json"
            step = json.loads(file.read_text())["step_s"]["median"]
            probed = ["cluster=from_probe", f"cluster.file={file}"]
            foretold.append([predicted([*words, *probed]), predicted([*words, *nominal(step, bandwidth, latency)])])
        for column in zip(*foretold, strict=True):
            row += [spread([1e3 * t for t in column]), spread([t / real for t, real in zip(column, times, strict=True)])]
        yield row


def nominal(step: float, bandwidth: float, latency: float) -> list[str]:
    """The cluster that was asked for."""
    return ["cluster=custom", f"cluster.step_s={step}", f"cluster.bandwidth={bandwidth}", f"cluster.latency_s={latency}"]


def spread(values: list[float]) -> str:
    """Median (smallest, largest)."""
    return f"{statistics.median(values):.3g} ({min(values):.3g}, {max(values):.3g})"


def write_config(folder: Path, words: list[str]) -> Path:
    """A run that waits for its workers, as launch=false leaves it."""
    from coopsgd.commands import compose
    from coopsgd.run import folders

    settings = compose.compose_config([*COMMON, *words, "launch=false"]).config
    folders.write_config(settings, folder, "scripts/check_clock.py")
    (folder / "logs").mkdir()
    return folder


def predicted(words: list[str]) -> float:
    """Seconds a step on the clock."""
    from coopsgd.commands import compose
    from coopsgd.predict.rehearsal import rehearse
    from coopsgd.setup.parts import Parts

    times = rehearse(Parts(compose.compose_config([*COMMON, *words]).config), 176)
    return float(times[-1] - times[15]) / 160


def seconds_a_step(folder: Path) -> float:
    """Training time a step, the first sixteen left out."""
    from coopsgd.run.reader import log_points

    lines = log_points(folder / "metrics.jsonl")
    first = next(line for line in lines if line["step"] == 16)
    return (lines[-1]["train_s"] - first["train_s"]) / (lines[-1]["step"] - 16)


def inside(root: Path) -> None:
    """What each host does."""
    import torch

    from coopsgd.commands.probe import worker as prober
    from coopsgd.run import worker

    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    for folders in json.loads((root / "todo.json").read_text()):
        for at in map(Path, folders):
            (prober if at.name == "probe" else worker).work(at, rank, store=at / "logs" / "store")


if __name__ == "__main__":
    main()
