"""How `coopsgd design` ranks, held against runs: Kendall's tau, and the regret of its first choice.

Remake: python scripts/check_design.py [--only fast-iid-8 ...] [--all]    (about a quarter of an hour on 2 idle cores)

Each situation is ranked as the command does it. Then the first ten and fifty more, evenly from the rest down to the last, are
run on the clock (--all: every candidate); the best of those stands for the best there is. Prints a table for docs/results.md.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from coopsgd import compose
from coopsgd.config import Config
from coopsgd.design import study as studies

NETWORKS = {"fast": ("cluster=datacenter",), "slow": ("cluster=wan_100m",)}
SPREADS = {"iid": ("partition=iid",), "skewed": ("partition=shards",)}
SIZES = {8: ("batch_size=32",), 64: ("batch_size=8",)}
TARGETS = {"iid": 0.5, "skewed": 0.9}  # of eval/loss, for the runs to a target
STEPS = 300


def situations() -> dict[str, tuple[list[str], float | None]]:
    """Name -> words, and the target loss or None for a budget."""
    found: dict[str, tuple[list[str], float | None]] = {}
    for network, net in NETWORKS.items():
        for spread, part in SPREADS.items():
            for m, size in SIZES.items():
                words = [*net, *part, *size, f"workers={m}", f"steps={STEPS}"]
                found[f"{network}-{spread}-{m}"] = words, None
                found[f"{network}-{spread}-{m}-target"] = words, TARGETS[spread]
    return found


def judged(words: list[str], target: float | None, folder: Path, everyone: bool) -> dict[str, Any]:
    """One situation: ranked, run, compared."""
    base = compose.shown(words).config
    began = time.perf_counter()

    def run(settings: Config, at: Path) -> list[dict[str, Any]]:
        return compose.quietly(settings, at, "scripts/check_design.py")

    found = studies.study(base, words, folder, run, target=target)
    ranked = time.perf_counter() - began
    n = len(found.entries)
    found = studies.check(found, base, range(n) if everyone else studies.places(n, 10, 50), folder, run)
    verdict = found.verdict
    assert verdict is not None
    return {
        "candidates": n,
        "run": len(verdict.runs),
        "seconds": ranked,
        "tau": verdict.tau,
        "first": found.entries[0].candidate.label,
        "best": verdict.best.entry.candidate.label,
        "rank": verdict.best.rank,
        "regret_s": verdict.regret_s,
        "regret": verdict.regret,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(situations()), default=list(situations()))
    parser.add_argument("--all", action="store_true", help="run every candidate")
    arguments = parser.parse_args()
    print("| situation | candidates | run | Kendall's tau | first choice | best that was run | its rank | regret |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    regrets = []
    for name in arguments.only:
        words, target = situations()[name]
        with tempfile.TemporaryDirectory() as folder:
            one = judged(words, target, Path(folder), arguments.all)
        regrets.append(one["regret"] if math.isfinite(one["regret"]) else math.inf)
        first, best = (one[key].removeprefix("algo=").replace("algo.", "") for key in ("first", "best"))
        print(
            f"| {name} | {one['candidates']} | {one['run']} | {one['tau']:.2f} | {first} | {best} | {one['rank']} | "
            f"{one['regret_s']:.3g} s ({one['regret']:.1%}) |",
            flush=True,
        )
        print(f"{name}: ranked in {one['seconds']:.0f} s", file=sys.stderr)
    print(f"\nMedian regret: {statistics.median(regrets):.1%}; largest {max(regrets):.1%}.")


if __name__ == "__main__":
    main()
