"""What checkpoints cost: 1e7 parameters, 4 workers, adamw, with at least 3 checkpoints in the timed span and with none.

Remake: python scripts/bench_checkpoint.py [--repeats 3]    (about 5 minutes on 2 cores, 1 GB of disk)

The two ways take turns, in an order drawn anew for every repeat. A step is the median over a run's steps of what train_s grew
by, for saving is off that clock; the ratio is of medians, with the smallest and largest of the repeats'. Seconds, bytes and the
largest process's peak memory are those of summary.json; of peaks the least, for luck with the
allocator only adds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from figures import stamp

STEPS, EVERY = 16, 4
WORDS = [
    *(
        "algo=easgd",
        "tau=4",
        "workers=4",
        "optim=adamw",
        "optim.lr=1e-4",
        "data=digits",
        "model=mlp",
        "model.hidden=[3120,3120]",
    ),
    *(f"steps={STEPS}", "log_every=1", "eval_every=0", "eval_samples=50", "save=none", "device=cpu"),
]


def measured(folder: Path, processes: int, every: int) -> dict[str, Any]:
    """One run's numbers."""
    words = [*WORDS, f"processes={processes}", f"checkpoint_every={every}", f"hydra.run.dir={folder}"]
    subprocess.run([sys.executable, "-m", "coopsgd.cli", "train", *words], check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["parameters"] >= 9.9e6 and (summary["checkpoints"]["written"] >= 3) == (every > 0), summary["checkpoints"]
    took = [b["train_s"] - a["train_s"] for a, b in pairwise(lines[1:])]  # the first step also warms up
    return {
        "step": statistics.median(took),
        "wall": lines[-1]["wall_s"],
        "peak": summary["peak_memory"],
        **summary["checkpoints"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 4])
    arguments = parser.parse_args()
    print(stamp("checkpoints"), end="\n\n")
    head = (
        "4 workers in",
        "step without",
        "step with",
        "ratio",
        "a checkpoint",
        "of",
        "every 5 min",
        "peak without",
        "peak with",
    )
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for processes in arguments.processes:
        found: dict[int, list[dict[str, Any]]] = {0: [], EVERY: []}
        for repeat in range(arguments.repeats):
            order = list(found)
            random.Random(repeat).shuffle(order)
            for every in order:
                with tempfile.TemporaryDirectory() as name:
                    found[every].append(measured(Path(name) / "r", processes, every))
        without, with_ = ([run["step"] for run in found[every]] for every in (0, EVERY))
        each = [b / a for a, b in zip(without, with_, strict=True)]
        one = statistics.median(run["seconds"] / run["written"] for run in found[EVERY])
        peaks = [min(run["peak"] for run in found[every]) / 1e6 for every in (0, EVERY)]
        cells = (
            f"{processes} process{'es' * (processes > 1)}",
            *(f"{1e3 * statistics.median(times):.0f} ms" for times in (without, with_)),
            f"{statistics.median(with_) / statistics.median(without):.3f} ({min(each):.3f}, {max(each):.3f})",
            f"{one:.2f} s",
            f"{found[EVERY][0]['bytes'] / 1e6:.0f} MB",
            f"{one / 300:.2%}",
            *(f"{peak:.0f} MB" for peak in peaks),
        )
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
