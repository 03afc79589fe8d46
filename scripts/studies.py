"""The studies of docs/results.md in which every way has rates of its own: tuned on other seeds than are told of.

Remake: python scripts/studies.py [NAME...]    (all: see the time beside each; what is done already is not run again)

Each rate is walked by factors of two from where it begins, by the test loss at the end of a run of seed 100 (where one seed
misled, by the mean over three), until both neighbours of the best are worse; a second rate (that of the outer step, say) after
the first. Then seeds 0 to 4 run at what was found, and `coopsgd compare` leaves table and figures in build/figures/NAME; one of
these is docs/study_NAME.png. Every command is printed.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shlex
import shutil
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import coopsgd.cli  # first of all: it keeps the threads of BLAS in check
from coopsgd.compare.comparison import Comparison

COMMON = (
    "data=digits workers=8 partition=shards steps=600 "
    "processes=1 threads=1 eval_every=100 log_every=100 save=none checkpoint_every=0"
)
ENDED = ("completed", "diverged")
SEEDS = "0,1,2,3,4"
MOVES = 5  # of a rate beyond the first three values, at most


@dataclass(frozen=True)
class Study:
    """about: what is asked. minutes: of one core, about. words: of all.

    ways: label -> words; each with rates of its own. rates: key -> where it begins.

    A way may begin a rate elsewhere, `@optim.lr=0.01` among its words; `@outer.lr=1` adds one that the study has not.
    """

    about: str
    minutes: float
    words: str
    ways: dict[str, str]
    columns: tuple[str, ...]
    rates: dict[str, float] = field(default_factory=lambda: {"optim.lr": 0.4})
    picture: str = "final"
    tuned_on: tuple[int, ...] = (100,)  # seeds, by whose mean loss rates are chosen


def product(*axes: dict[str, str]) -> dict[str, str]:
    """Every label and words of one axis with those of each other."""
    found = {"": ""}
    for axis in axes:
        found = {f"{a} {b}".strip(): f"{c} {d}".strip() for a, c in found.items() for b, d in axis.items()}
    return found


FEEDBACK = {"with feedback": "codec.feedback=true", "without": "codec.feedback=false"}
ADAM = "optim=adam @optim.lr=0.004"
NESTEROV = "outer=nesterov outer.momentum=0.9 @outer.lr=0.7"
WITH_AND_WITHOUT = {"none": "outer=none", "nesterov 0.9": NESTEROV}
AXES = {  # one at a time, at rates of their own
    "average": "algo=pasgd",
    "nesterov": f"algo=pasgd {NESTEROV}",
    "adam": f"algo=pasgd {ADAM}",
    "diloco": f"algo=pasgd {ADAM} {NESTEROV}",
    "topk": "algo=pasgd codec=topk codec.share=0.01 codec.feedback=true",
    "dpa": "algo=dpa topology=ring",
    "kgt": "algo=dpa topology=ring correction=kgt",
}
STUDIES = {
    "compression": Study(
        "The largest hundredth, two bits and one, with and without what was left out before",
        8,
        "algo=pasgd tau=1",
        {"none": "codec=none"}
        | product(
            {
                "topk": "codec=topk codec.share=0.01",
                "minmax": "codec=minmax codec.bits=2",
                "statistical": "codec=statistical codec.bits=2",
                "qsgd": "codec=qsgd codec.bits=2",
                "sign": "codec=sign",
            },
            FEEDBACK,
        ),
        ("codec", "codec.feedback", "optim.lr", "final", "sent"),
    ),
    "drift": Study(
        "One class a worker: corrections against plain gossip",
        3,
        "workers=10 partition.classes=1 topology=ring steps=300",
        {
            "dpsgd": "algo=dpsgd",
            "d2": "algo=dpsgd algo.lazy=true correction=d2",
            "gt": "algo=dpsgd correction=gt",
            "dpa": "algo=dpa tau=10",
            "led": "algo=dpa tau=10 algo.lazy=true correction=led",
            "kgt": "algo=dpa tau=10 correction=kgt",
        },
        ("algo", "correction", "algo.lazy", "optim.lr", "final", "sent"),
        picture="by_steps",
    ),
    "momentum": Study(
        "Gossip with momentum where data differ",
        3,
        "workers=10 topology=ring steps=300 @optim.lr=0.1",
        product(
            {
                "none": "algo=dpsgd @optim.lr=1.6",
                "local": "algo=dpsgd optim.momentum=0.9",
                "qg": "algo=qg_dsgdm",
            },
            {"dirichlet": "partition=dirichlet partition.alpha=0.1 partition.equal=true", "one class": "partition.classes=1"},
        ),
        ("partition", "algo", "optim.momentum", "optim.lr", "final"),
        picture="by_steps",
    ),
    "merging": Study(
        "What becomes of local steps taken while a message travels",
        2,
        "algo=pasgd tau=20 steps=300",
        {"none": "delay=0"}
        | product(
            {"5": "delay=5", "10": "delay=10"},
            {"overwrite": "merge=0", "half": "merge=0.5", "kept": "merge=kept"},
        ),
        ("delay", "merge", "optim.lr", "final"),
    ),
    "few_rounds": Study(
        "DiLoCo against averaging with Adam inside, 12 and 6 rounds",
        3,
        f"algo=pasgd steps=300 {ADAM}",
        product(
            {"25": "tau=25", "50": "tau=50"},
            WITH_AND_WITHOUT,
        ),
        ("tau", "outer", "outer.momentum", "outer.lr", "optim.lr", "final"),
        picture="by_steps",
        tuned_on=(100, 101, 102),
    ),
    "senders": Study(
        "A sparse mean over those that sent a coordinate, or over all",
        2,
        f"algo=pasgd tau=25 codec=sparseloco outer=momentum outer.momentum=0 {ADAM}",
        {
            "all": "codec.over=all outer.lr=1",
            "senders": "codec.over=senders outer.lr=1",
            "all, own rate": "codec.over=all @outer.lr=2",
            "senders, own rate": "codec.over=senders @outer.lr=1",
        },
        ("codec.over", "outer.lr", "optim.lr", "final"),
    ),
    "outer_rate": Study(
        "The outer rate against the inner one, without momentum",
        2,
        "algo=pasgd tau=25 steps=300 partition=iid outer=momentum outer.momentum=0",
        {f"outer.lr={rate}": f"outer.lr={rate} optim.lr=0.05,0.2,0.8" for rate in (0.7, 1, 2, 4)},
        ("outer.lr", "optim.lr", "final"),
        {},
        picture="against_optim_lr",
    ),
    "one_worker": Study(
        "One worker, which talks to nobody, with an outer step",
        2,
        "algo=pasgd tau=25 workers=1 partition=iid",
        product(
            {"sgd": "optim=sgd", "adam": ADAM},
            WITH_AND_WITHOUT,
        ),
        ("optim", "outer", "outer.momentum", "outer.lr", "optim.lr", "final"),
        picture="by_steps",
        tuned_on=(100, 101, 102),
    ),
    "slow_momentum": Study(
        "Slow momentum with rounds of 5, 25 and 100, at the inner rates that scripts/study_outer.sh chose",
        2,
        "algo=pasgd",
        {
            f"{tau} {outer}": f"tau={tau} outer={outer} optim.lr={rate}"
            for outer, rates in (
                ("none", (0.8, 0.8, 0.8)),
                ("momentum outer.momentum=0.6", (0.8, 0.8, 0.4)),
                ("momentum outer.momentum=0.9", (0.05, 0.4, 0.4)),
                ("nesterov outer.momentum=0.9", (0.1, 0.4, 0.4)),
            )
            for tau, rate in zip((5, 25, 100), rates, strict=True)
        },
        ("tau", "outer", "outer.momentum", "optim.lr", "final"),
        {},
    ),
    "muon": Study(
        "Muon against AdamW inside DiLoCo as workers grow, 128 samples a step in all",
        5,
        "algo=pasgd tau=25 steps=300 partition=iid outer=nesterov outer.momentum=0.6 @outer.lr=0.7",
        product(
            {
                "1": "workers=1 batch_size=128",
                "4": "workers=4 batch_size=32",
                "16": "workers=16 batch_size=8",
            },
            {"adamw": "optim=adamw @optim.lr=0.004", "muon": "optim=muon optim.adam_lr=0.004 @optim.lr=0.02"},
        ),
        ("workers", "optim", "optim.lr", "outer.lr", "final"),
    ),
    "fashion": Study(
        "The axes one at a time on Fashion-MNIST, two classes a worker, rounds of 25 steps",
        25,
        "data=fashion_mnist model=mlp tau=25",
        AXES,
        ("algo", "codec", "correction", "optim", "outer", "outer.lr", "optim.lr", "final", "sent"),
        {"optim.lr": 0.1},
        picture="by_steps",
        tuned_on=(100, 101, 102),
    ),
    "small_cnn": Study(
        "The same with convolutions",
        30,
        "data=fashion_mnist model=cnn workers=4 batch_size=16 steps=200 tau=10 eval_samples=1000",
        AXES,
        ("algo", "codec", "correction", "optim", "outer", "outer.lr", "optim.lr", "final", "sent"),
        {"optim.lr": 0.1},
        picture="by_steps",
    ),
}


def words_of(one: Study, own: str) -> tuple[dict[str, str], dict[str, str]]:
    """Of a way: its words by key, and where its rates begin."""
    words: dict[str, str] = {}
    rates = {key: str(value) for key, value in one.rates.items()}
    for word in shlex.split(f"{COMMON} {one.words} {own}"):
        key, value = word.split("=", 1)
        (rates if key.startswith("@") else words)[key.removeprefix("@")] = value
    return words, rates


def train(words: list[str]) -> None:
    """`coopsgd train -q` of these words, in this process. That a run diverges is an answer."""
    print("coopsgd train", shlex.join(words), flush=True)
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            coopsgd.cli.cli.main(["train", "-q", *words], standalone_mode=False)
        except SystemExit as end:
            if end.code not in (0, 1, None):
                raise


def loss_of(words: list[str], folder: Path) -> float:
    """The test loss at the end of that run, which is done only once; infinite if it diverged."""
    summary = folder / "summary.json"
    if not summary.is_file() or json.loads(summary.read_text())["status"] not in ENDED:
        train([*words, "resume=auto", f"hydra.run.dir={folder}"])
    found = json.loads(summary.read_text())
    if found["status"] not in ENDED:
        sys.exit(f"{folder}: {found['status']}; look at its log, or remove it")
    return found["eval"]["eval/loss"] if found["status"] == "completed" else math.inf


def tuned(words: list[str], rates: dict[str, float], seeds: tuple[int, ...], folder: Path) -> dict[str, float]:
    """The rates, one after another, at which both neighbours by a factor of two are worse in the mean over seeds."""
    at = dict(rates)
    seen: dict[tuple[float, ...], float] = {}

    def tried(**moved: float) -> float:
        these = {**at, **moved}
        key = tuple(these.values())
        if key not in seen:
            said = [f"{k}={v:g}" for k, v in these.items()]
            runs = [[*said, f"seed={seed}"] for seed in seeds]
            seen[key] = statistics.fmean(loss_of([*words, *run], folder / ",".join(run)) for run in runs)
        return seen[key]

    for rate, begin in rates.items():
        values = [begin / 2, begin, begin * 2]
        for _ in range(MOVES + 1):
            losses = [tried(**{rate: value}) for value in values]
            best = values[losses.index(min(losses))] if min(losses) < math.inf else values[0]
            if best not in (values[0], values[-1]):
                break
            values = [values[0] / 2, *values] if best == values[0] else [*values, values[-1] * 2]
        else:
            print(f"{folder.name}: {rate} is at an end of what was tried, {best:g}", flush=True)
        at[rate] = best
    return at


def study(name: str) -> None:
    """All runs of a study, and its table and figures."""
    one, began, before = STUDIES[name], time.perf_counter(), sum(os.times()[:4])
    print(f"{name}: {one.about} (about {one.minutes:g} minutes of one core)", flush=True)
    place, folders = Path("multirun") / "studies" / name, []
    for label, own in one.ways.items():
        words, rates = words_of(one, own)
        said = [f"{key}={value}" for key, value in words.items()]
        label = label.replace(" ", "_").replace(",", "")
        found = tuned(said, {key: float(value) for key, value in rates.items()}, one.tuned_on, place / "tuning" / label)
        folders.append(str(place / "runs" / label / (",".join(f"{key}={value:g}" for key, value in found.items()) or "told")))
        said += [f"{key}={value:g}" for key, value in found.items()]
        train(["-m", *said, f"seed={SEEDS}", "skip_done=true", f"hydra.sweep.dir={folders[-1]}"])
    used = (sum(os.times()[:4]) - before) / 60
    print(f"{name}: {(time.perf_counter() - began) / 60:.1f} minutes, {used:.1f} of processor time", flush=True)
    differing = {key.removesuffix(".name") for key in Comparison.of(folders, along=False).differing} | {"final", "sent"}
    options = [word for column in one.columns if column in differing for word in ("--column", column)]
    asked = [*folders, "--metric", "eval/loss", "--metric", "eval/accuracy", *options]
    asked += ["-o", f"build/figures/{name}"]
    print("coopsgd compare", shlex.join(asked), flush=True)
    with contextlib.suppress(SystemExit):
        coopsgd.cli.cli.main(["compare", *asked], standalone_mode=False)
    shutil.copy(f"build/figures/{name}/{one.picture}.png", f"docs/study_{name}.png")


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    unknown = set(sys.argv[1:]) - set(STUDIES)
    if unknown:
        sys.exit(f"{', '.join(sorted(unknown))}: no study; there are {', '.join(STUDIES)}")
    for name in sys.argv[1:] or STUDIES:
        study(name)
