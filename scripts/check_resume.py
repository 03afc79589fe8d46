"""The whole product, once: every algorithm, interrupted by lot and resumed, ends with the bits of a run that was not.

    python scripts/check_resume.py --results FILE [--minutes 9] [--processes 2]    (again until nothing is left)
    python scripts/check_resume.py --results FILE --table
    python scripts/check_resume.py --results FILE --left    (the points that nobody has tried, a line each)

The product is of AXES below. Each run is saved after a step by lot, and either killed later, by lot, or asked to stop as by
a first signal; it goes on in new parts, on the same number of processes. Rows, answer, lines of metrics.jsonl and the ledger
are compared as `tests/run/test_resume.py` compares them: to the bit, measured times aside. FILE has a line a run, so that the
script goes on where it was itself interrupted; without the file of an earlier session, --first 924 begins with the 924th
point of the lot, which is always the same. --table prints counts of all that is in it, by value of each axis, with what
does not apply and why.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "run")]

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from test_resume import ALGOS, RING, same  # noqa: E402

from coopsgd.commands.compose import compose_config  # noqa: E402
from coopsgd.errors import ConfigError  # noqa: E402
from coopsgd.run import keeper, worker  # noqa: E402
from coopsgd.run.folders import steps_saved, write_config  # noqa: E402
from coopsgd.run.reader import Run  # noqa: E402

STEPS = 26
OWN = {"cooperative": (RING,), "fedavg": ("algo.fraction=0.5",)}  # fedavg: two of four workers are idle
DIGITS = ("data=digits", "batch_size=32", "eval_samples=50")  # a pass takes 11 steps
AXES: dict[str, dict[str, tuple[str, ...]]] = {
    "algo": {name: (f"algo={name}", *OWN.get(name, ())) for name in ALGOS},
    "task": {
        "quadratic": ("task=quadratic", "dtype=float64"),
        "mlp, partial epochs": (*DIGITS, "model=mlp", "model.hidden=[16]"),
        "BatchNorm, partial epochs": (*DIGITS, "model=custom", "model.path=nets:Masked"),
    },
    "optim": {"sgd, momentum": ("optim=sgd", "optim.momentum=0.9"), "adamw": ("optim=adamw", "optim.lr=0.01")},
    "tau": {"4": ("tau=4",), "moving": ("tau=[[0,2],[9,5]]",)},
    "order": {"delay 0": (), "delay 1": ("delay=1",), "delay tau": ("delay=tau",), "cta": ("order=cta",)},
    "clock": {"none": (), "cluster": ("cluster=ethernet_1g",)},
}
REFUSING = ("fullsync", "fedavg")  # a delay or cta, which they do not know, or a period: fullsync has none
COMMON = (f"steps={STEPS}", "log_every=4", "eval_every=8", "workers=4", "device=cpu", "threads=1", "save=rows")


class Killed(Exception):
    """As by SIGKILL: nothing more is written."""


class Lot(keeper.Keeper):
    """Saves after one step, and is killed after another or asked to stop there."""

    saves, ends, kill = 0, 0, True  # set before a run; 0: never

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._asked = lambda: keeper.STOP if Lot.ends and not Lot.kill else None
        self._next = Lot.ends if Lot.ends and not Lot.kill else STEPS + 1

    def due(self, step: int, ended: int | None = None) -> bool:
        return step == Lot.saves or super().due(step, ended)

    def after(self, loop: Any, evaluator: Any) -> None:
        k = loop.state.k
        if k == Lot.saves and not loop.steps.ahead:
            self.save(loop, evaluator, wanted=True)
        if Lot.kill and k == Lot.ends:
            raise Killed
        super().after(loop, evaluator)


def trained(folder: str, rank: int, store: str | None, lot: tuple[int, int, bool]) -> None:
    """One process's part of a run, or of its going on."""
    Lot.saves, Lot.ends, Lot.kill = lot
    try:
        with contextlib.suppress(Killed, keeper.Stopped), contextlib.redirect_stdout(io.StringIO()):
            worker.work(Path(folder), rank, store=store, trust=True)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _serve(pipe: Any, rank: int) -> None:
    _prepare()
    while (asked := pipe.recv()) is not None:
        try:
            trained(asked[0], rank, *asked[1:])
            pipe.send(None)
        except BaseException:
            pipe.send(traceback.format_exc())


def _prepare() -> None:
    torch.set_num_threads(1)
    worker.Keeper = Lot  # type: ignore[misc]
    worker.asked_by_signals = lambda: lambda: None


@contextlib.contextmanager
def processes(many: int) -> Iterator[Callable[..., None]]:
    """Inside, what it gives trains in so many processes; in this one, stacked, for 1."""
    if many == 1:
        _prepare()
        yield lambda folder, store, lot: trained(folder, 0, None, lot)
        return
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(many)]
    members = [context.Process(target=_serve, args=(theirs, q), daemon=True) for q, (_, theirs) in enumerate(pipes)]
    for member in members:
        member.start()

    def train(folder: str, store: str, lot: tuple[int, int, bool]) -> None:
        for ours, _ in pipes:
            ours.send((folder, store, lot))
        said = [ours.recv() if ours.poll(120) else "it does not answer" for ours, _ in pipes]
        if wrong := [one for one in said if one]:
            raise RuntimeError(wrong[0])

    try:
        yield train
    finally:
        for member in members:
            member.kill()
            member.join()


def configured(words: tuple[str, ...], many: int) -> Any:
    """The checked config; where running statistics cannot be averaged by this W, each worker keeps its own."""
    mixed = compose_config((*words, *COMMON, f"processes={many}", "checkpoint_every=0"))
    ignored = [note for note in mixed.notes if note.endswith("; ignored") and not note.startswith("norm_stats")]
    if ignored:
        raise ConfigError(ignored[0])
    return mixed.config


def attempt(train: Callable[..., None], words: tuple[str, ...], many: int, lot: random.Random) -> dict[str, Any]:
    """One point of the product: what became of it."""
    try:
        config = configured(words, many)
    except ConfigError as error:
        if "norm_stats=average" not in str(error):
            return {"how": "does not apply", "why": str(error)}
        try:
            config = configured((*words, "norm_stats=local"), many)
        except ConfigError as other:
            return {"how": "does not apply", "why": str(other)}
    saves = lot.randrange(1, STEPS - 1)
    ends = lot.randrange(saves, STEPS)
    kill = lot.random() < 0.7
    found = {"saved": saves, "ended": ends, "by": "kill" if kill else "signal", "lines_again": 0}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        try:
            for run, lots in (("whole", [(0, 0, True)]), ("broken", [(saves, ends, kill), (0, 0, True)])):
                write_config(config, place / run, "")
                for i, one in enumerate(lots):
                    train(str(place / run), str(place / f"{run}{i}"), one)
                    if run == "broken" and i == 0:
                        assert steps_saved(place / run)[0] == (saves if kill else ends), steps_saved(place / run)
                        assert not (place / run / "summary.json").exists(), "it was not interrupted"
                        lines = Run(place / run).metrics()
                        found["lines_again"] = sum(line["step"] > steps_saved(place / run)[0] for line in lines)
            one, other = (Run(place / run, trust=True) for run in ("whole", "broken"))
            same(one, other)
            assert other.summary["resumed"][0]["from"] == (saves if kill else ends)
            return {"how": "pass", **found}
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return {"how": "FAIL", "why": f"{type(error).__name__}: {str(error)[:300]}", **found}
        finally:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()


def table(results: list[dict[str, Any]]) -> None:
    """Counts by value of each axis, reasons, failures."""
    hows = ("pass", "FAIL", "does not apply")
    print(f"| axis | value | {' | '.join(hows)} |\n|{' --- |' * (2 + len(hows))}")
    extra = {
        "processes": lambda r: str(r["processes"]),
        "interrupted by": lambda r: r.get("by"),
        "lines written again": lambda r: None if "by" not in r else "none" if not r["lines_again"] else "some",
    }
    whole = Counter(r["how"] for r in results)
    print(f"| all | | {' | '.join(str(whole[how]) for how in hows)} |")
    for axis in (*AXES, *extra):
        value_of = extra.get(axis, lambda r, axis=axis: r["point"][axis])
        for value in dict.fromkeys(v for r in results if (v := value_of(r)) is not None):
            count = Counter(r["how"] for r in results if value_of(r) == value)
            print(f"| {axis} | {value} | {' | '.join(str(count[how]) for how in hows)} |")
    print("\nWhat does not apply:\n")
    reasons = Counter(re.sub(r"\d+(\.\d+)?", "N", r["why"]) for r in results if r["how"] == "does not apply")
    for why, many in reasons.most_common():
        print(f"- {many}: {why}")
    for r in results:
        if r["how"] == "FAIL":
            print(f"\nFAIL {r['point']} {r.get('saved')} {r.get('ended')} {r.get('by')}: {r['why']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0, help="no run is begun after so many")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--most", type=int, default=10**9, help="of the product's points, by lot")
    parser.add_argument("--first", type=int, default=1, help="the place in the lot to begin with")
    parser.add_argument("--left", action="store_true", help="run nothing, print the points that are left")
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    results = [json.loads(line) for line in arguments.results.read_text().splitlines()] if arguments.results.exists() else []
    done = {json.dumps([r["point"], r["processes"]]) for r in results}
    points = [dict(zip(AXES, values, strict=True)) for values in itertools.product(*AXES.values())]
    random.Random(0).shuffle(points)
    points = points[arguments.first - 1 :][: arguments.most]
    left = [p for p in points if json.dumps([p, arguments.processes]) not in done]
    if arguments.left:
        print(*(json.dumps(point) for point in left), sep="\n")
        return
    end = time.monotonic() + 60 * arguments.minutes
    if not arguments.table:
        with processes(arguments.processes) as train, arguments.results.open("a") as file:
            for point in left:
                if time.monotonic() > end:
                    break
                chosen = {axis: AXES[axis][value] for axis, value in point.items()}
                if point["algo"] == "fullsync" and point["tau"] == "4":
                    del chosen["tau"]  # it has none: once, as it is
                words = tuple(word for part in chosen.values() for word in part)
                lot = random.Random(json.dumps([point, arguments.processes]))
                result = {"point": point, "processes": arguments.processes}
                result |= attempt(train, words, arguments.processes, lot)
                if result["how"] == "does not apply" and point["algo"] not in REFUSING:
                    result["how"] = "FAIL"
                results.append(result)
                file.write(json.dumps(result) + "\n")
                file.flush()
                left = left[1:]
    table(results)
    print(f"\n{len(left)} of {len(points)} left in {arguments.processes} processes")
    sys.exit(any(r["how"] == "FAIL" for r in results))


if __name__ == "__main__":
    main()
