"""Schedules with a warm-up, clipping, mixed precision: held against torch doing the same by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from playing import CNN, MLP, QUADRATIC, Lines, play, settle
from refusals import refused

from coopsgd.data.base import Batches
from coopsgd.data.digits import Digits
from coopsgd.data.partitions import IID
from coopsgd.fleet.plan import Layout
from coopsgd.fleet.stacked import Stacked
from coopsgd.loop.evaluation import train
from coopsgd.loop.inner import Inner
from coopsgd.loop.stepping import clip_
from coopsgd.optim import SGD
from coopsgd.schedules import Constant, Cosine, MultiStep, StepDecay
from coopsgd.setup.parts import Parts
from coopsgd.tasks.networks import network

STEPS, RATE = 24, 0.4


def rates(schedule: Constant, active: list[np.ndarray | None] | None = None) -> list[float]:
    x = torch.zeros(2, 3, dtype=torch.float64)
    inner, found = Inner(SGD(lr=RATE), schedule, x, workers=2, steps=STEPS), []
    for k in range(STEPS):
        found.append(inner.lr)
        inner.step(x, torch.ones_like(x), active[k] if active else None)
        inner.advance()
    assert float(-x[0, 0]) == pytest.approx(sum(found))  # the rate told is the rate taken
    return found


def formula(schedule: Constant, k: int) -> float:
    """The rate of step k, written down."""
    w, f = schedule.warmup, schedule.warmup_from
    if k < w:
        return RATE * (f + (1 - f) * (k + 1) / w)
    if isinstance(schedule, Cosine):
        return schedule.floor + (RATE - schedule.floor) * (1 + math.cos(math.pi * (k - w) / (STEPS - w))) / 2
    if isinstance(schedule, MultiStep):
        return RATE * schedule.gamma ** sum(k >= milestone for milestone in schedule.milestones)
    if isinstance(schedule, StepDecay):
        every = max(1, (STEPS - w) // 3) if schedule.every == "auto" else schedule.every
        return RATE * schedule.gamma ** ((k - w) // every)
    return RATE


def by_torch(schedule: Constant) -> list[float]:
    """The same with torch's schedulers, put together by hand on an optimiser of their own."""
    kinds = torch.optim.lr_scheduler
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    w, f = schedule.warmup, schedule.warmup_from
    main = {
        Constant: lambda: kinds.ConstantLR(optimizer, 1.0, 0),
        Cosine: lambda: kinds.CosineAnnealingLR(optimizer, STEPS - w, schedule.floor),
        MultiStep: lambda: kinds.MultiStepLR(optimizer, [k - w for k in schedule.milestones], schedule.gamma),
        StepDecay: lambda: kinds.StepLR(
            optimizer, (STEPS - w) // 3 if schedule.every == "auto" else schedule.every, schedule.gamma
        ),
    }[type(schedule)]
    if w:
        warm = kinds.LinearLR(optimizer, f + (1 - f) / w, total_iters=w - 1)
        scheduler = kinds.SequentialLR(optimizer, [warm, main()], [w])
    else:
        scheduler = main()
    found = []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("warm", [{}, {"warmup": 1}, {"warmup": 5}, {"warmup": 6, "warmup_from": 0.25}, {"warmup": STEPS - 1}])
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (Constant, {}),
        (Cosine, {}),
        (Cosine, {"floor": 0.01}),
        (MultiStep, {"milestones": [24, 30], "gamma": 0.5}),
        (MultiStep, {"milestones": [8, 16]}),
        (StepDecay, {"every": 4, "gamma": 0.5}),
        (StepDecay, {}),
    ],
)
def test_every_rate_of_every_schedule(kind, more, warm):
    schedule = kind(**more, **warm)
    if min(more.get("milestones", [99])) <= schedule.warmup:
        with pytest.raises(ValueError, match="within the warm-up"):
            schedule.arguments(STEPS)
        return
    if kind is StepDecay and not more and warm.get("warmup") == STEPS - 1:
        assert schedule.arguments(STEPS)["step_size"] == 1  # a third of the one step left
        return
    found = rates(schedule)
    assert found == pytest.approx([formula(schedule, k) for k in range(STEPS)], rel=1e-12, abs=1e-15)
    assert found == pytest.approx(by_torch(schedule), rel=1e-12, abs=1e-15)
    some = [None if k % 3 else np.array([True, k % 2 == 0]) for k in range(STEPS)]
    assert rates(schedule, some) == found  # idle rows do not stop the clock


def test_the_first_step_of_a_warm_up_is_not_wasted(process_groups):
    lines = play(
        process_groups, 2, *QUADRATIC, "algo=pasgd", "tau=4", "log_every=1", "schedule=cosine", "schedule.warmup=4"
    ).lines
    assert [line["lr"] for line in lines[1:6]] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert lines[-1]["lr"] == pytest.approx(0.05 * (1 + math.cos(math.pi * 19 / 20)))


BAD = {
    "warm-up of all": (("schedule.warmup=100", "steps=100"), ["schedule.warmup", "100"]),
    "negative warm-up": (("schedule=cosine", "schedule.warmup=-1"), ["schedule.warmup", "-1"]),
    "warm-up of a word": (("schedule.warmup=long",), ["schedule.warmup", "long"]),
    "warm-up from above": (("schedule.warmup=5", "schedule.warmup_from=1.5"), ["schedule.warmup_from", "1.5"]),
    "milestone within": (
        ("schedule=multistep", "schedule.milestones=[5]", "schedule.warmup=9"),
        ["schedule.milestones", "5", "9"],
    ),
    "clip of zero": (("clip=0",), ["clip", "positive", "0"]),
    "clip of a word": (("clip=hard",), ["clip", "hard"]),
    "unknown precision": (("amp=fp8",), ["amp", "bf16", "fp8"]),
    "bf16 of float64": (("amp=bf16", "dtype=float64"), ["amp=bf16", "float64", "float32"]),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_in_one_line(case):
    refused(*BAD[case])


@pytest.mark.parametrize("limit", [1e-3, 1.0, 3.0, 1e3])
def test_clipping_is_torchs_for_every_row(limit):
    torch.manual_seed(0)
    grad = torch.randn(5, 40, dtype=torch.float64) * torch.tensor([[0.0], [0.1], [0.5], [1], [10]])
    expected = []
    for row in grad:
        parts = [torch.nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (7, 13, 20)]
        for p, g in zip(parts, row.split([7, 13, 20]), strict=True):
            p.grad = g.clone()
        torch.nn.utils.clip_grad_norm_(parts, limit)
        expected.append(torch.cat([p.grad for p in parts]))
    clip_(grad, limit)
    torch.testing.assert_close(grad, torch.stack(expected), rtol=1e-14, atol=0)
    assert float(grad.norm(dim=1).max()) <= limit


@pytest.mark.parametrize("algo", ["pasgd", "fullsync"])
def test_each_worker_is_clipped_by_itself_before_anything_is_averaged(process_groups, algo):
    words = (*QUADRATIC, f"algo={algo}", "tau=1", "clip=0.7", "optim.momentum=0.9")
    runs = [play(process_groups, p, *words) for p in (1, 2, 8)]
    settings = settle(words)
    task = Parts(settings).task
    a, c, x0 = (torch.from_numpy(part) for part in task.arrays(8, 0))
    from coopsgd.streams import stream

    x, velocity, clipped = x0.clone(), torch.zeros_like(x0), 0
    for k in range(settings.steps):
        noise = torch.from_numpy(stream(0, "noise", k).standard_normal(a.shape)) / a.shape[1] ** 0.5
        rows = []
        for i in range(8):
            p = torch.nn.Parameter(x)
            p.grad = a[i] * (x - c[i]) + noise[i]
            clipped += float(torch.nn.utils.clip_grad_norm_([p], 0.7)) > 0.7
            rows.append(p.grad)
        velocity = 0.9 * velocity + torch.stack(rows).mean(0)
        x = x - 0.1 * velocity
    assert 0 < clipped < 8 * settings.steps  # some were, some were not
    for run in runs:
        np.testing.assert_allclose(run.answer, x.numpy(), rtol=0, atol=1e-12)


def test_clipping_a_network_is_clipping_its_parameters(process_groups):
    words = (*MLP, "algo=pasgd", "tau=3", "workers=4", "steps=12", "batch_size=8", "clip=0.3")
    one, two, four = (play(process_groups, p, *words) for p in (1, 2, 4))
    for other in (two, four):
        np.testing.assert_allclose(other.x, one.x, rtol=0, atol=1e-12)
    assert np.abs(one.x - play(process_groups, 1, *words[:-1]).x).max() > 1e-3
    lone = play(process_groups, 1, *words, "workers=1", "steps=1")  # a step of 0.1 along a gradient of norm 0.3 at most
    start = torch.cat([p.detach().reshape(-1) for p in network(Parts(settle(words)).task, 0).double().parameters()])
    assert np.linalg.norm(lone.x[0] - start.numpy()) == pytest.approx(0.03, rel=1e-4)


HALF = ("data=digits", "model.width=8", "model=cnn", "workers=2", "batch_size=16", "steps=60", "log_every=20", "eval_every=0")


@pytest.mark.parametrize("more", [("algo=pasgd", "tau=4"), ("algo=fullsync", "model.norm=batch", "optim.momentum=0.9")])
def test_bf16_computes_in_halves_and_keeps_whole_numbers(more):
    def outcome(*words: str):
        settings = settle((*HALF, "device=cpu", *more, *words))
        fleet, report, parts = Stacked(Layout(2, 0, 1)), Lines(), Parts(settings)
        problem = parts.task.build(settings, fleet.workers, torch.device("cpu"))
        seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
        problem._bound.module.register_forward_hook(lambda module, _, y: seen[module.training].add(y.dtype))
        return train(parts, fleet, problem, report), seen, report.lines

    half, seen, lines = outcome("amp=bf16")
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}  # measured in full
    whole, plain, reference = outcome("engine=loop")  # which calls the module
    assert plain == {True: {torch.float32}, False: {torch.float32}}
    for found in (half.x, half.answer, half.stats):
        assert found is None or found.dtype == torch.float32
    assert lines[-1]["train/loss"] < 0.6 * lines[1]["train/loss"]
    assert lines[-1]["eval/loss"] == pytest.approx(reference[-1]["eval/loss"], abs=0.2)  # paths part, ends are alike
    off = float((half.x - whole.x).norm() / whole.x.norm())
    assert off > 1e-5
    again, _, _ = outcome("amp=bf16")
    assert torch.equal(again.x, half.x)


def test_bf16_gradients_are_what_torchs_autocast_gives_a_plain_module():
    settings = settle((*CNN, "dtype=float32", "workers=2", "amp=bf16", "algo=pasgd"))
    problem = Parts(settings).task.build(settings, range(2), torch.device("cpu"))
    x = problem.start().repeat(2, 1)
    grad = torch.zeros_like(x)
    problem.bind(x, grad)
    loss = problem.gradients(0, None, np.zeros(2, dtype=int))
    images = Digits().load()
    batches = Batches(IID().deal(images.train_y, 2, 0), range(2), 32, 0).at(np.zeros(2, dtype=int))
    errors = []
    for row in range(2):
        module = network(Parts(settings).task, settings.seed).to(memory_format=torch.channels_last)
        inputs = torch.from_numpy(images.train_x[batches[row]]).float() / 16 - 0.5
        with torch.autocast("cpu", dtype=torch.bfloat16):
            own = torch.nn.functional.cross_entropy(module(inputs), torch.from_numpy(images.train_y[batches[row]]))
        own.backward()
        flat = [p.grad.permute(0, 2, 3, 1) if p.dim() == 4 else p.grad for p in module.parameters()]
        errors.append(float((torch.cat([g.reshape(-1) for g in flat]) - grad[row]).norm() / grad[row].norm()))
        assert float(loss[row]) == pytest.approx(float(own.detach()), rel=1e-6)
    assert max(errors) < 1e-5
    whole = settle((*CNN, "dtype=float32", "workers=2", "algo=pasgd"))
    problem = Parts(whole).task.build(whole, range(2), torch.device("cpu"))
    halved = grad.clone()
    problem.bind(x, grad)
    problem.gradients(0, None, np.zeros(2, dtype=int))
    off = (halved - grad).norm(dim=1) / grad.norm(dim=1)
    assert (off > 1e-3).all() and (off < 0.15).all()  # bfloat16 keeps 8 bits


def test_what_a_quadratic_has_no_use_for_is_said(cli):
    ended = cli("train", "task=quadratic", "amp=bf16", "norm_stats=local", "steps=2")
    assert ended.code == 0
    assert "amp: task quadratic has none; ignored" in ended.out + ended.err
    assert "norm_stats: task quadratic has none; ignored" in ended.out + ended.err


@dataclass(frozen=True)
class Heavy(SGD):
    momentum: float = 0.9


@dataclass(frozen=True)
class Uphill(SGD):
    maximize: bool = True


@pytest.mark.parametrize("algo", ["fullsync", "pasgd"])
def test_a_class_made_of_sgd_is_not_taken_for_it(algo):
    """What it changes is heard of, in steps that are fused with their gradients and in those that are not."""
    words = (*MLP, f"algo={algo}", "workers=2", "steps=5")
    heavy, same = (play(None, 1, *words, *more).x for more in (("optim.name=test_optim:Heavy",), ("optim.momentum=0.9",)))
    np.testing.assert_allclose(heavy, same, rtol=1e-12, atol=1e-12)
    up, down = (play(None, 1, *words, "steps=1", *more).x for more in (("optim.name=test_optim:Uphill",), ()))
    start = play(None, 1, *words, "steps=1", "optim.lr=1e-30").x
    np.testing.assert_allclose(up - start, start - down, rtol=1e-9, atol=1e-12)
