"""Schedules in steps, epochs or rounds, and the one that goes by eval/loss: held against torch's schedulers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from playing import MLP, QUADRATIC, play, settle
from refusals import refused
from running import unsaved_end

import coopsgd
from coopsgd.loop.inner import Inner
from coopsgd.optim import SGD
from coopsgd.schedules import Constant, Cosine, Exponential, Inverse, Linear, MultiStep, Plateau, StepDecay
from coopsgd.setup.identity import identity
from coopsgd.setup.parts import Parts

RATE, UNITS = 0.4, 12
KINDS = torch.optim.lr_scheduler


def by_torch(schedule: Constant, length: int) -> list[float]:
    """The rate of each unit."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    w, f = schedule.warmup, schedule.warmup_from
    main = {
        Exponential: lambda: KINDS.ExponentialLR(optimizer, schedule.gamma),
        Linear: lambda: KINDS.PolynomialLR(optimizer, length - w, power=1.0),
        Inverse: lambda: KINDS.LambdaLR(optimizer, lambda n: 1 / (1 + schedule.decay * n) ** schedule.power),
        Cosine: lambda: KINDS.CosineAnnealingLR(optimizer, length - w),
        MultiStep: lambda: KINDS.MultiStepLR(optimizer, [n - w for n in schedule.milestones], schedule.gamma),
        StepDecay: lambda: KINDS.StepLR(
            optimizer, (length - w) // 3 if schedule.every == "auto" else schedule.every, schedule.gamma
        ),
    }[type(schedule)]
    if w:
        warm = KINDS.LinearLR(optimizer, f + (1 - f) / w, total_iters=w - 1)
        scheduler = KINDS.SequentialLR(optimizer, [warm, main()], [w])
    else:
        scheduler = main()
    found = []
    for _ in range(length):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def rates(schedule: Constant, steps: int, length: int, ends: set[int] = frozenset()) -> list[float]:
    """The rate of every step; ends: the steps that end a round."""
    inner, found = Inner(SGD(lr=RATE), schedule, torch.zeros(1, 2, dtype=torch.float64), workers=1, steps=length), []
    for k in range(1, steps + 1):
        found.append(inner.lr)
        inner.advance(k in ends)
    return found


ALL = [
    (Exponential, {"gamma": 0.8}),
    (Linear, {}),
    (Inverse, {"decay": 0.5}),
    (Inverse, {"decay": 1.0, "power": 0.5}),
    (Cosine, {}),
    (MultiStep, {"milestones": [5, 9]}),
    (StepDecay, {}),
    (StepDecay, {"every": 3}),
]
LENGTHS = [1, 4, 2, 2, 7, 1, 1, 3, 5, 2, 1, 6]  # steps of each round


@pytest.mark.parametrize("warm", [{}, {"warmup": 3}, {"warmup": 4, "warmup_from": 0.25}], ids=str)
@pytest.mark.parametrize(("kind", "more"), ALL)
def test_what_is_given_in_units_is_what_torch_does_once_a_unit(kind, more, warm):
    expected = by_torch(kind(**more, **warm), UNITS)
    np.testing.assert_allclose(rates(kind(**more, **warm), UNITS, UNITS), expected, rtol=1e-12, atol=0)
    w, f = warm.get("warmup", 0), warm.get("warmup_from", 0.0)
    for unit, lengths in ((5, [5] * UNITS), ("round", LENGTHS)):
        steps, ends, rise = sum(lengths), set(np.cumsum(lengths).tolist()), sum(lengths[:w])
        found = rates(kind(**more, **warm, unit=unit).in_steps(rise), steps, steps, ends)
        if kind in (Linear, Cosine) or (kind is StepDecay and not more):  # they have no number but the warm-up
            np.testing.assert_allclose(found, rates(kind(**more, **warm | {"warmup": rise}), steps, steps), rtol=1e-12, atol=0)
            continue
        np.testing.assert_allclose(found[:rise], [RATE * (f + (1 - f) * (k + 1) / rise) for k in range(rise)], rtol=1e-12)
        np.testing.assert_allclose(found[rise:], np.repeat(expected[w:], lengths[w:]), rtol=1e-12, atol=0)


def test_a_line_ends_at_its_floor():
    found = rates(Linear(floor=0.1), 8, 8)
    np.testing.assert_allclose(found, 0.1 + (RATE - 0.1) * (1 - np.arange(8) / 8), rtol=1e-12)


LOSSES = [9.0, 8.0, 8.0, 7.9995, 8.5, 7.0, 7.1, 7.2, 7.3, 7.0, 6.9999, 7.5, 7.5, 7.5, 7.5, 7.5, 7.5, -1.0, -1.0, -2.0]


@pytest.mark.parametrize(
    "more", [{}, {"threshold": 0.0}, {"patience": 0}, {"gamma": 0.5, "floor": 0.05, "patience": 1}], ids=str
)
def test_a_plateau_is_torchs(more):
    schedule = Plateau(**{"patience": 2, **more})
    inner = Inner(SGD(lr=RATE), schedule, torch.zeros(1, 2), workers=1, steps=99)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler = KINDS.ReduceLROnPlateau(
        optimizer,
        factor=schedule.gamma,
        patience=schedule.patience,
        threshold=schedule.threshold,
        min_lr=schedule.floor,
        eps=0,
    )
    moved = set()
    for loss in LOSSES[:-3]:  # of a loss below 0 torch asks for more than the same
        inner.advance()
        inner.heard(loss)
        scheduler.step(loss)
        assert inner.lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        moved.add(inner.lr)
    assert len(moved) > 1


def test_a_plateau_waits_for_the_warm_up_to_end():
    schedule = Plateau(warmup=4, patience=0)
    inner, found = Inner(SGD(lr=RATE), schedule, torch.zeros(1, 2), workers=1, steps=99), []
    for _ in range(7):
        found.append(inner.lr)
        inner.advance()
        inner.heard(1.0)
    # heard of after step 4 for the first time, which is the best so far, then each lowers it
    np.testing.assert_allclose(found, [RATE / 4, RATE / 2, 3 * RATE / 4, RATE, RATE, RATE / 10, RATE / 100])


SMALL = (*MLP, "workers=4", "batch_size=16")


def lrs(lines):
    return {line["step"]: line["lr"] for line in lines}


def test_epochs_and_rounds_move_the_rate_of_a_run(process_groups):
    words = tuple(word for word in SMALL if not word.startswith("log_every="))
    words = (*words, "algo=pasgd", "tau=7", "log_every=1", "schedule=exponential", "schedule.gamma=0.5", "steps=60")
    config = settle((*words, "schedule.unit=epoch"))
    per_epoch = Parts(config).task.steps_per_epoch(config)
    assert config.schedule["unit"] == per_epoch < 30
    for unit, length in (("epoch", per_epoch), ("round", 7), ("step", 1)):
        found = lrs(play(process_groups, 2, *words, f"schedule.unit={unit}").lines)
        assert all(found[k] == pytest.approx(0.1 * 0.5 ** ((k - 1) // length)) for k in range(1, 61)), unit


def test_a_round_of_unequal_clients_is_one_round():
    words = tuple(word for word in SMALL if not word.startswith("log_every="))
    words += ("algo=fedavg", "algo.epochs=1", "partition=quantity", "partition.alpha=2", "log_every=1", "rounds=4")
    lines = play(None, 1, *words, "schedule=step", "schedule.unit=round", "schedule.every=2").lines[1:]
    ends = [line["step"] for line in lines if line["phase"] == 0]
    assert len(ends) == 4 and len(set(np.diff([0, *ends]).tolist())) > 1
    assert [k for k, lr in lrs(lines).items() if lr < 0.05] == list(range(ends[1] + 1, ends[3] + 1))


def test_what_goes_by_the_rate_knows_its_unit():
    config = settle((*QUADRATIC, "algo=pasgd", "tau=4", "schedule=multistep", "schedule.milestones=[3]", "schedule.unit=round"))
    assert Parts(config).schedule.unit == "round" and Parts(config).schedule.milestones == [3]
    small = settle(
        (*SMALL, "schedule=multistep", "schedule.milestones=[3]", "schedule.unit=epoch", "schedule.warmup=1", "epochs=5")
    )
    per_epoch = Parts(small).task.steps_per_epoch(small)
    assert Parts(small).schedule == MultiStep(warmup=per_epoch, milestones=[3 * per_epoch])
    for period, warmup in (("post_local", 2), ("post_local period.switch=1", 5), ("constant", 8)):
        words = ("algo=pasgd", "tau=4", *f"period={period}".split(), "schedule=cosine", "schedule.warmup=2")
        assert Parts(settle((*QUADRATIC, *words, "schedule.unit=round"))).schedule == Cosine(warmup=warmup)
    qsr = settle((*QUADRATIC, "algo=pasgd", "tau=4", "period=qsr", "schedule.warmup=2", "schedule.unit=round"))
    assert Parts(qsr).period.warmup == 8
    units = settle((*SMALL, "period=adacomm", "schedule.warmup=2", "schedule.unit=epoch", "epochs=9"))
    assert Parts(units).period.warmup == 2 * Parts(units).task.steps_per_epoch(units)


PLATEAU = ("algo=easgd", "tau=4", "schedule=plateau", "schedule.patience=1", "schedule.threshold=0.3", "schedule.gamma=0.5")


def test_a_plateau_is_the_same_on_every_placement(process_groups):
    words = tuple(word for word in QUADRATIC if not word.startswith(("log_every=", "eval_every=", "steps=")))
    words = (*words, *PLATEAU, "steps=60", "log_every=4", "eval_every=4")
    one, two, four = (play(process_groups, p, *words) for p in (1, 2, 4))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    by_hand = KINDS.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, threshold=0.3)
    for line in one.lines[1:]:
        assert line["lr"] == pytest.approx(optimizer.param_groups[0]["lr"])  # of the step before the evaluation
        by_hand.step(line["eval/loss"])
    assert len(set(lrs(one.lines).values())) > 2
    for other in (two, four):
        assert lrs(other.lines) == lrs(one.lines) and other.logical == one.logical
        np.testing.assert_allclose(other.x, one.x, rtol=0, atol=1e-12)


def test_how_often_a_plateau_looks_is_part_of_what_is_trained():
    found = [identity(settle((*QUADRATIC, *PLATEAU, f"eval_every={k}"))) for k in (4, 8)]
    assert found[0] != found[1]


def lines_of(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("wall_s", "train_s", "comm_s")} for line in found]


RESUMED = {
    "plateau": (*PLATEAU, "schedule.warmup=3"),
    "exponential a round": ("algo=easgd", "tau=4", "schedule=exponential", "schedule.gamma=0.7", "schedule.unit=round"),
    "linear in units": ("algo=fedavg", "tau=3", "schedule=linear", "schedule.unit=4", "schedule.warmup=2"),
    "milestones in rounds": (
        *("algo=easgd", "tau=3", "schedule=multistep", "schedule.milestones=[3,7,12]", "schedule.unit=round"),
        "schedule.warmup=2",
    ),
    "adacomm in rounds": ("algo=easgd", "tau=4", "period=adacomm", "period.interval=2rounds", "period.gamma=0.5"),
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_has_the_same_bits(cli, tmp_path, name):
    words = ("task=quadratic", "workers=4", "processes=1", "device=cpu", "dtype=float64", *RESUMED[name])
    words = (*words, "steps=47", "log_every=4", "eval_every=4", "checkpoint_every=26", "hydra.run.dir=whole")
    assert cli("train", *words, first=unsaved_end).code == 0
    whole = coopsgd.Run(tmp_path / "whole")
    rows, lines = whole.rows(), lines_of(tmp_path / "whole")
    assert len(set(lrs(lines).values())) > 2 or name.startswith("adacomm")
    (tmp_path / "whole" / "summary.json").unlink()
    (tmp_path / "whole" / "checkpoints" / "final.safetensors").unlink()
    if name == "plateau":
        ended = cli("resume", "whole", "eval_every=8")
        assert ended.code == 2 and len(ended.lines) == 1 and "eval_every: says when schedule=plateau looks" in ended.err
    ended = cli("resume", "whole")
    assert ended.code == 0 and "goes on from step 26" in ended.out, ended
    assert torch.equal(coopsgd.Run(tmp_path / "whole").rows(), rows) and lines_of(tmp_path / "whole") == lines


BAD = {
    "unit": (("schedule.unit=month",), ["schedule.unit", "step, epoch or round", "month"]),
    "unit of zero": (("schedule.unit=0",), ["schedule.unit", "0"]),
    "epochs of a quadratic": (("task=quadratic", "schedule.unit=epoch"), ["schedule.unit=epoch", "no epochs"]),
    "warm-up in rounds": (("schedule.warmup=5", "schedule.unit=round", "steps=30"), ["schedule.warmup", "50 steps", "30"]),
    "milestone within": (
        ("schedule=multistep", "schedule.milestones=[2]", "schedule.warmup=2", "schedule.unit=round"),
        ["schedule.milestones", "2 lies within", "2 rounds"],
    ),
    "milestone of no number": (("schedule=multistep", "schedule.unit=epoch"), ["schedule.milestones", "name the"]),
    "every": (("schedule=step", "schedule.unit=round", "schedule.every=0"), ["schedule.every", "0"]),
    "gamma": (("schedule=exponential", "schedule.gamma=0"), ["schedule.gamma", "(0, 1)", "0"]),
    "gamma of a plateau": (("schedule=plateau", "schedule.gamma=1"), ["schedule.gamma", "(0, 1)", "1"]),
    "patience": (("schedule=plateau", "schedule.patience=-1"), ["schedule.patience", "-1"]),
    "threshold": (("schedule=plateau", "schedule.threshold=1"), ["schedule.threshold", "1"]),
    "plateau unseen": (("schedule=plateau", "eval_every=0"), ["schedule=plateau", "eval_every=0", "eval_every=1epoch"]),
    "floor": (("schedule=linear", "schedule.floor=2"), ["schedule.floor", "optim.lr=0.1", "2"]),
    "floor of a plateau": (("schedule=plateau", "schedule.floor=2"), ["schedule.floor", "optim.lr=0.1", "2"]),
    "decay": (("schedule=inverse", "schedule.decay=-1"), ["schedule.decay", "-1"]),
    "power": (("schedule=inverse", "schedule.power=0"), ["schedule.power", "0"]),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_in_one_line(case):
    refused(*BAD[case])
