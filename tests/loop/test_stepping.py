"""Fused steps, and several at once, are the steps one by one: losses, schedules, idle rows; and memory stays in bounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import needs
from playing import MLP, QUADRATIC, play, settle

from coopsgd.fleet.stacked import reserved
from coopsgd.loop import inner as inner_optimiser
from coopsgd.loop.inner import Inner
from coopsgd.loop.stepping import Steps
from coopsgd.mixing.static import Average
from coopsgd.optim import SGD, Adam
from coopsgd.registry import lookup
from coopsgd.schedules import Constant
from coopsgd.setup.parts import Parts
from coopsgd.strategies.cooperative import Cooperative
from coopsgd.tasks.supervised_problem import SupervisedProblem

SMALL = (*MLP, "workers=6", "batch_size=8", "steps=40", "tau=7")


class Unfused(Cooperative):
    """Looks at every gradient, so each is stored and used one step at a time."""

    def direction(self, fleet, t, grad, x, s):
        return grad, s


class Half(Average):
    """Only the even or only the odd workers compute, round by round."""

    def work(self, m, r, tau):
        return np.where(np.arange(m) % 2 == r % 2, tau, 0)


@pytest.mark.parametrize(
    "more",
    [
        ("algo=pasgd",),
        ("algo=easgd",),  # an auxiliary row
        ("algo=dpsgd", "log_every=3"),  # looked at between communications
        ("algo=pasgd", "schedule=cosine"),  # the step sizes of later steps are not known yet
        ("algo=pasgd", "optim=adam"),  # never fused
        ("algo=pasgd", "tau=50"),  # longer than the run
    ],
)
def test_fused_steps_are_the_steps_one_by_one(process_groups, more):
    words = (*SMALL, *more)
    fast, slow = play(process_groups, 1, *words), play(process_groups, 1, *words, "algo.strategy=test_stepping:Unfused")
    np.testing.assert_allclose(fast.x, slow.x, rtol=0, atol=1e-12)
    assert fast.logical == slow.logical
    for one, other in zip(fast.lines[1:], slow.lines[1:], strict=True):
        assert one["train/loss"] == pytest.approx(other["train/loss"], abs=1e-12) and one["lr"] == other["lr"]


def test_how_often_the_log_is_written_changes_no_number(process_groups):
    rare, often = (play(process_groups, 1, *SMALL, "algo=pasgd", f"log_every={n}") for n in (40, 1))
    np.testing.assert_allclose(rare.x, often.x, rtol=0, atol=1e-13)
    assert len(often.lines) == 41
    each = [line["train/loss"] for line in often.lines[1:]]
    assert rare.lines[-1]["train/loss"] == pytest.approx(np.mean(each), abs=1e-12) and len(set(each)) == 40


def test_steps_of_some_workers_are_fused_too(process_groups, counted):
    half = (*SMALL, "algo=pasgd", "algo.mixing=test_stepping:Half")
    fused = play(process_groups, 1, *half)
    assert counted == {"descend": 40}
    single = play(process_groups, 1, *half, "algo.strategy=test_stepping:Unfused")
    assert counted == {"descend": 40, "gradients": 40}
    for run in (single, play(process_groups, 2, *half)):
        np.testing.assert_allclose(run.x, fused.x, rtol=0, atol=1e-12)
        assert run.lines[-1]["train/loss"] == pytest.approx(fused.lines[-1]["train/loss"], abs=1e-12)
    busy = play(process_groups, 1, *SMALL, "algo=pasgd")
    assert np.abs(busy.x - fused.x).max() > 1e-3 and busy.lines[-1]["samples"] == 2 * fused.lines[-1]["samples"]


@pytest.fixture
def counted(monkeypatch):
    """Steps that were taken in this process, by how they were asked for."""
    steps = {}

    def counting(name, many):
        real = getattr(SupervisedProblem, name)

        def call(self, k, *arguments):
            steps[name] = steps.get(name, 0) + many(*arguments)
            return real(self, k, *arguments)

        monkeypatch.setattr(SupervisedProblem, name, call)

    counting("descend", lambda rates, active, own, *step: len(rates))
    counting("gradients", lambda active, own: 1)
    return steps


@pytest.mark.parametrize(
    ("more", "how"),
    [
        (("algo=pasgd",), "descend"),
        (("algo=pasgd", "order=cta"), "descend"),
        (("algo=pasgd", "delay=1"), "descend"),  # a message under way does not mind how steps are taken
        (("algo=dpsgd", "delay=3"), "descend"),
        (("algo=pasgd", "delay=tau"), "descend"),
        (("algo=pasgd", "clip=100"), "gradients"),
        (("algo=pasgd", "optim.momentum=0.1"), "descend"),
        (("algo=pasgd", "optim.momentum=0.1", "optim.dampening=0.1"), "gradients"),
        (("algo=pasgd", "optim=adam"), "gradients"),
        (("algo=pasgd", "algo.strategy=test_stepping:Unfused"), "gradients"),
        (("algo=fullsync",), "gradients"),  # it averages them
    ],
)
def test_steps_are_fused_unless_somebody_looks_at_their_gradients(counted, more, how):
    fast = play(None, 1, *SMALL, *more)
    assert counted == {how: 40}
    if how == "descend":
        slow = play(None, 1, *SMALL, *more, "algo.strategy=test_stepping:Unfused")
        assert counted == {"descend": 40, "gradients": 40}
        np.testing.assert_allclose(fast.x, slow.x, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("more", "at_once"),
    [
        (("delay=0",), [16, 16]),
        (("delay=1",), [15, 1, 15, 1]),  # 30 of the 32 steps go together: all but the one that a message is under way in
        (("delay=4",), [12, 4, 12, 4]),
        (("delay=tau",), [16, 16]),
        (("order=cta",), [16, 16]),
    ],
)
def test_steps_go_together_as_far_as_no_message_leaves_or_comes(monkeypatch, more, at_once):
    asked, descend = [], SupervisedProblem.descend

    def counting(self, k, rates, active, own):
        asked.append(len(rates))
        return descend(self, k, rates, active, own)

    monkeypatch.setattr(SupervisedProblem, "descend", counting)
    words = (*(word for word in SMALL if not word.startswith(("steps=", "tau="))), "steps=32", "tau=16", "log_every=32")
    run = play(None, 1, *words, "algo=pasgd", *more)
    assert asked == at_once and run.logical[0] == (1 if "order=cta" in more else 2)  # cta: the last waits for a next step


@pytest.mark.parametrize("words", [(*QUADRATIC, "workers=6"), SMALL])
def test_what_is_mixed_is_what_was_there_before_the_step(process_groups, words):
    """delay=1 at tau=1, D-PSGD as its paper writes it: the gradient is the one where the step began."""
    settings = settle((*words, "algo=pasgd"))
    run = play(process_groups, 2, *words, "steps=5", "algo=pasgd", "tau=1", "delay=1")
    problem = Parts(settings).task.build(settings, range(6), torch.device("cpu"))
    x = problem.start().expand(6, -1).clone()
    grad = torch.zeros_like(x)
    problem.bind(x, grad)
    for k in range(5):
        problem.gradients(k, None, np.full(6, k))
        x.copy_(x.mean(0, keepdim=True) - 0.1 * grad)
    np.testing.assert_allclose(run.x, x.numpy(), rtol=0, atol=1e-12)


class Counting:
    """A problem whose loss is half the squared norm: the gradient is the row itself. Counts what it is asked."""

    def __init__(self):
        self.asked = []

    def bind(self, x, grad, statistics, module_buffers):
        self.x, self.grad = x, grad

    def gradients(self, k, active, own):
        self.asked.append(("gradients", k))
        self.grad.copy_(self.x)
        return 0.5 * (self.x**2).sum(1, keepdim=True)

    def descend(self, k, rates, active, own):
        self.asked.append(("descend", k, len(rates)))
        losses = []
        for lr in rates:
            losses.append(0.5 * (self.x**2).sum(1, keepdim=True))
            self.x.mul_(1 - lr)
        return torch.stack(losses)


def test_steps_up_to_the_next_look_are_asked_for_at_once():
    x, problem = torch.ones(2, 3, dtype=torch.float64), Counting()
    inner = Inner(SGD(lr=0.5), Constant(), x, workers=2, steps=6)
    steps = Steps(problem, inner, x, None, [], None, fusing=True, unwatched=lambda k: 4 - k % 4, zeros_like=reserved)
    losses = [float(steps.descend(k, None, np.full(2, k))[0]) for k in range(6)]
    assert problem.asked == [("descend", 0, 4), ("descend", 4, 4)]
    assert losses == [1.5 * 0.25**k for k in range(6)]
    assert torch.equal(x, torch.full_like(x, 0.5**8))  # it has been taken ahead, as far as nobody looks


@pytest.mark.parametrize(
    ("settings", "clip", "fusing", "fused"),
    [
        (SGD(lr=0.5), None, True, True),
        (SGD(lr=0.5), None, False, False),
        (SGD(lr=0.5), 9.0, True, False),
        (SGD(lr=0.5, momentum=0.5), None, True, False),
    ],
)
def test_a_gradient_is_stored_and_a_direction_stepped_along(settings, clip, fusing, fused):
    x, problem = torch.ones(2, 3, dtype=torch.float64), Counting()
    inner = Inner(settings, Constant(), x, workers=2, steps=1)
    steps = Steps(problem, inner, x, None, [], clip, fusing, lambda k: 1, reserved)
    assert steps.fused == fused and problem.asked == []
    loss, grad = steps.gradients(0, None, np.zeros(2, dtype=int))
    assert problem.asked == [("gradients", 0)]
    assert float(loss[0]) == 1.5 and torch.equal(grad, torch.ones_like(x)) and torch.equal(x, torch.ones_like(x))
    steps.step(torch.full((2, 3), 2.0, dtype=torch.float64), None)
    assert torch.equal(x, torch.zeros_like(x))


@pytest.mark.parametrize("settings", [SGD(momentum=0.9, nesterov=True, weight_decay=0.1), Adam()])
def test_rows_in_blocks_are_stepped_as_rows_in_one(monkeypatch, settings):
    torch.manual_seed(0)
    start = torch.randn(7, 5, dtype=torch.float64)
    directions = [torch.randn(7, 5, dtype=torch.float64) for _ in range(6)]
    some = np.array([True, False, True, True, False, True, True])
    found = []
    for block, parts in ((1 << 22, 1), (15, 3)):
        monkeypatch.setattr(inner_optimiser, "BLOCK", block)
        x = start.clone()
        inner = Inner(settings, Constant(), x, workers=7, steps=6)
        assert len(inner._parts) == parts
        for turn, direction in enumerate(directions):
            inner.step(x, direction, some if turn == 3 else None)
            if turn == 1:
                inner.put([b.mul_(0.5) for b in inner.stacked()])
        found.append(x)
    assert torch.equal(*found)


def test_only_sgd_of_lr_alone_is_plain():
    assert SGD(lr=0.3).plain
    for settings in (SGD(momentum=0.1), SGD(weight_decay=0.1), Adam()):
        assert not getattr(settings, "plain", False)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_reserved_zeros_take_memory_when_they_are_written_to():
    x = torch.empty(64, 1 << 20)  # 256 MB
    before = resident()
    zeros = reserved(x)
    assert zeros.shape == x.shape and zeros.dtype == x.dtype and resident() - before < 4 << 20
    assert not zeros[3].any()
    zeros[5] = 1
    assert resident() - before < 16 << 20 and float(zeros.sum()) == 1 << 20  # a row of 4 MB, and its pages' neighbours
    assert reserved(torch.empty(3, 0)).shape == (3, 0)


WIDE = (
    "model.hidden=[2000]",
    "batch_size=2",
    "eval_every=0",
    "eval_samples=10",
    "processes=1",
    "save=answer",
)  # 150,010 parameters
LEARNED = 64 * 2000 + 2000 + 2000 * 10 + 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "more", "copies"),  # two at once where they are fused
    [(2, (), 1), (1, ("optim.momentum=0.9", "optim.nesterov=true"), 2), (1, ("optim=adam",), 4)],
)
def test_memory_of_many_workers(cli, tmp_path, steps, more, copies):
    """The rows, and beside them gradients and buffers if there are any; what is set aside in passing does not grow."""

    def peak(workers):
        folder = tmp_path / str(workers)
        taken = (f"steps={steps}", f"tau={steps}")
        ended = cli("train", "algo=pasgd", *WIDE, *taken, *more, f"workers={workers}", f"hydra.run.dir={folder}")
        assert ended.code == 0, ended.err
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["parameters"] == LEARNED
        return summary["peak_memory"]

    # from many to more: what a process needs before its first row varies by a copy of 128 rows from run to run
    copied = (peak(448) - peak(192)) / (256 * LEARNED * 4)
    assert copies - 0.5 < copied < copies + 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("model", "workers", "d"), [("mlp", 1024, 159_010), ("cnn", 256, 421_834)])
def test_a_thousand_workers_fit(tmp_path, model, workers, d):
    needs(lookup("data", "fashion_mnist")().find() is not None, "dataset-fashion-mnist")
    words = (f"model={model}", "data=fashion_mnist", f"workers={workers}", "processes=1", "algo=pasgd", "tau=10")
    command = [sys.executable, "-m", "coopsgd.cli", "train", *words, "steps=12", "eval_samples=50", "hydra.run.dir=run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["parameters"] == d and summary["status"] == "completed" and summary["ledger"]["rounds"] == 1
    assert summary["peak_memory"] < 4 * workers * d * 4 + 1.5e9
    assert summary["eval"]["eval/accuracy"] > 0.2


@pytest.mark.parametrize(("given", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE")])
def test_threads_wait_asleep_unless_the_user_says_otherwise(tmp_path, given, policy):
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-m", "coopsgd.cli", "train", "steps=0", "workers=1", "hydra.run.dir=run"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**env, **given, "OMP_DISPLAY_ENV": "true"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("torch is built without OpenMP, or with one that does not tell its settings")
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr
