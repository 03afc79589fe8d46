"""How `coopsgd design` ranks, held against runs: Kendall's tau, and the regret of its first choice.

Remake: python scripts/check_design.py [--only iid-8 skewed-64 ...] [--keep FOLDER] [--first 10] [--lot 40]

Run are the first 10 of each ranking and 40 drawn by lot from all candidates, the same for every network and goal. Data and
number of workers decide what a candidate learns, the network only when: each is run once, to the end of all steps, and looked
at after every one. Ranked and checked as the command does it on each network, for a budget and for a target, a run is then as
much of that one as it has steps, its times those of the clock. Prints a table for docs/results.md. About two hours of one core.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import coopsgd.cli  # first of all: it keeps the threads of BLAS in check
from coopsgd.commands import compose
from coopsgd.commands.design import command
from coopsgd.commands.design import study as studies
from coopsgd.commands.design.pilots import in_one_process, pilot
from coopsgd.predict.rehearsal import rehearse
from coopsgd.run import start
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import Config

NETWORKS = {"fast": "cluster=datacenter", "slow": "cluster=wan_100m"}
SPREADS = {"iid": "partition=iid", "skewed": "partition=shards"}
SIZES = {8: "batch_size=32", 64: "batch_size=8"}
STEPS = 300


class Once:
    """Trains what it is asked for, but each algorithm only once, and tells of it as if it had been just that run."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._found = folder, dict[str, list[dict[str, Any]]]()

    def __call__(self, settings: Config, at: Path) -> list[dict[str, Any]]:
        """Metrics at the looks of `settings`, with its times; in a folder of its own instead of `at`."""
        whole = replace(settings, steps=STEPS, log_every=1, eval_every=1, cluster=None, name="")
        key = hashlib.sha256(repr(whole).encode()).hexdigest()[:16]
        if key not in self._found and (self._folder / key / "summary.json").is_file():
            self._found[key] = coopsgd.Run(self._folder / key).metrics()
        if key not in self._found:
            shutil.rmtree(self._folder / key, ignore_errors=True)  # of a run that was broken off
            self._found[key] = start.train_silently(whole, self._folder / key, "scripts/check_design.py")
        n, every = settings.steps, settings.eval_every
        lines = [line for line in self._found[key] if line["step"] <= n]
        lines = [line for line in lines if line is lines[-1] or not line["step"] % every]  # the last also where it diverged
        if settings.cluster is None:
            return lines
        times = [0.0, *rehearse(Parts(settings), n)]  # what a run logs, bit for bit
        return [line | {"sim_s": float(times[line["step"]])} for line in lines]

    def __len__(self) -> int:
        return len(self._found)


def halfway(words: list[str], once: Once) -> float:
    """A target: the eval/loss of averaging at every step after half of the steps."""
    lines = once(in_one_process(pilot(compose.compose_config([*words, "algo=pasgd"]).config, 1), 1), Path())
    return float(f"{lines[STEPS // 2]['eval/loss']:.3g}")


def drawn(label: str) -> bytes:
    """The lot of a candidate: the lowest are run. Of one name it is one, in whatever ranking it stands."""
    return hashlib.sha256(label.encode()).digest()


def judged(words: list[str], target: float | None, once: Once, folder: Path, first: int, lot: int) -> list[Any]:
    """A row of the table: ranked, the first and some drawn by lot run, compared."""
    base = compose.compose_config(command.based(words)).parts
    found = studies.study(base, words, folder, once, target=target)
    places = sorted(range(len(found.entries)), key=lambda place: drawn(found.entries[place].candidate.label))[:lot]
    chosen = sorted({*range(min(first, len(found.entries))), *places})
    found = studies.check(found, base.config, chosen, folder, once)
    for one in found.untold:
        print(f"{' '.join(words)}: cannot tell {one.outer} from {one.other} at tau {one.taus}", file=sys.stderr)
    verdict = found.verdict
    assert verdict is not None
    entries = found.entries[0], verdict.best.entry
    chose, best = (entry.candidate.label.replace("algo=", "", 1).replace("algo.", "") for entry in entries)
    unit = "s" if math.isfinite(verdict.regret_s) else ""
    regret = f"{verdict.regret_s:.3g} {unit} ({verdict.regret:.1%})"
    counts = f"{len(verdict.runs)} of {len(found.entries)}"
    return [counts, f"{verdict.tau:.2f}", chose, best, verdict.best.rank, regret, verdict.regret]


def kept(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which is asked only once for what is the same."""
    known: dict[str, Any] = {}

    def ask(parts: Parts, *more: Any) -> Any:
        key = repr((parts.config, more))
        if key not in known:
            known[key] = function(parts, *more)
        return known[key]

    return ask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = [f"{spread}-{m}" for m in SIZES for spread in SPREADS]
    parser.add_argument("--only", nargs="*", choices=everything, default=everything)
    parser.add_argument("--keep", type=Path, help="a folder for the runs; those that are there already are not made again")
    parser.add_argument("--first", type=int, default=10, help="so many of the ranking are run")
    parser.add_argument("--lot", type=int, default=40, help="and so many drawn by lot")
    arguments = parser.parse_args()
    for name in ("candidates", "rehearse"):  # the same for both goals
        setattr(studies, name, kept(getattr(studies, name)))
    print("| situation | goal | candidates run | Kendall's tau | first choice | best of these | its rank | regret |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    regrets = []
    for name in arguments.only:
        spread, _, m = name.partition("-")
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            once = Once(arguments.keep or Path(folder))
            situation = [SPREADS[spread], SIZES[int(m)], f"workers={m}", f"steps={STEPS}"]
            for network, cluster in NETWORKS.items():
                for target in (None, halfway(situation, once)):
                    words = [cluster, *situation]
                    *row, regret = judged(words, target, once, Path(folder), arguments.first, arguments.lot)
                    regrets.append(regret)
                    goal = "budget" if target is None else f"loss {target:g}"
                    print(f"| {network}, {spread}, m = {m} | {goal} | {' | '.join(map(str, row))} |", flush=True)
            print(f"{name}: {len(once)} runs, {time.perf_counter() - began:.0f} s", file=sys.stderr)
    known = [regret for regret in regrets if not math.isnan(regret)]
    print(f"\nMedian regret {statistics.median(known):.1%}, largest {max(known):.1%}, of {len(known)}.")


if __name__ == "__main__":
    main()
