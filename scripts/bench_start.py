"""Seconds from the command to the first step with 4 workers: coopsgd beside torchrun on a script that does the same.

Remake: python scripts/bench_start.py [--repeats 7]    (about 3 minutes on 2 cores)

Both read digits, build the mlp, meet over gloo and take one step on every worker; a sentinel file (for coopsgd its own
metrics.jsonl) tells when. The two take turns. Then a sweep of 20 such runs: seconds a run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = """
import os, sys, importlib.util
from pathlib import Path
import numpy as np
import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
path = Path(importlib.util.find_spec("sklearn").submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.float32))
x, y = table[:, :-1] / 16 - 0.5, table[:, -1].long()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 200), torch.nn.ReLU(), torch.nn.Linear(200, 10))
model = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
which = slice(32 * rank, 32 * rank + 32)
torch.nn.functional.cross_entropy(model(x[which]), y[which]).backward()
optimizer.step()
if rank == 0:
    Path(sys.argv[1]).write_text("done")
dist.barrier()
dist.destroy_process_group()
"""


def until_first_step(command: list[str], reached: Path, lines: int) -> float:
    """Seconds until `reached` has so many lines; the command is then waited for."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (reached.exists() and len(reached.read_text().splitlines()) >= lines):
        if process.poll() not in (None, 0):
            sys.exit(f"{command} failed:\n{process.stderr.read() if process.stderr else ''}")
        time.sleep(0.005)
    took = time.perf_counter() - began
    process.communicate()
    return took


def coopsgd(*words: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "coopsgd.cli",
        "train",
        "algo=fullsync",
        "processes=4",
        "steps=1",
        "log_every=1",
        *words,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "script.py").write_text(SCRIPT)
        for i in range(repeats):
            run = folder / f"run{i}"
            ours.append(until_first_step([*coopsgd(), f"hydra.run.dir={run}"], run / "metrics.jsonl", 2))
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
            theirs.append(
                until_first_step([*torchrun, str(folder / "script.py"), str(folder / f"done{i}")], folder / f"done{i}", 1)
            )
        began = time.perf_counter()
        sweep = ["-m", f"seed={','.join(map(str, range(20)))}", f"hydra.sweep.dir={folder}/sweep"]
        subprocess.run([*coopsgd(), *sweep], check=True, stdout=subprocess.DEVNULL)
        a_run = (time.perf_counter() - began) / 20
    print(f"seconds to the first step of 4 workers, median of {repeats} (smallest, largest)")
    for label, values in (("coopsgd train", ours), ("torchrun", theirs)):
        print(f"  {label:14} {statistics.median(values):6.2f}  ({min(values):.2f}, {max(values):.2f})")
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"  coopsgd / torchrun: {ratio:.3f}  ({min(each):.3f}, {max(each):.3f}), to reach at most 0.5")
    print(f"  a sweep of 20 such runs, the import of torch included: {a_run:.2f} s a run")


if __name__ == "__main__":
    main()
