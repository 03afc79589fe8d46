"""Invariants of whole runs: placement, large batches, repetition, conservation laws, idle rows."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from playing import CNN, MLP, QUADRATIC, Lines, play, settle
from test_oracle import EXACT, problem, written

from coopsgd.fleet.plan import Layout
from coopsgd.fleet.stacked import Stacked
from coopsgd.loop.evaluation import train
from coopsgd.loop.inner import Inner
from coopsgd.mixing.static import Average
from coopsgd.optim import SGD, Adam, AdamW
from coopsgd.schedules import Constant
from coopsgd.setup import schema
from coopsgd.setup.parts import Parts

SPREAD = [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ((*QUADRATIC, "algo=easgd", "tau=3", "steps=100"), 1e-12),
        ((*QUADRATIC, "algo=dpsgd", "topology=random_regular", "steps=100"), 1e-12),
        ((*QUADRATIC, "algo=pasgd", "tau=3", "steps=300", "optim.momentum=0.9"), 1e-9),
        ((*MLP, "algo=easgd", "tau=5", "steps=33", "workers=8", "batch_size=8"), 1e-12),
        ((*MLP, "algo=dpsgd", "tau=2", "steps=33", "workers=8", "batch_size=8", "model.dropout=0.3"), 1e-12),
        ((*CNN, "algo=pasgd", "tau=5", "steps=33", "workers=8", "batch_size=8"), 1e-12),
        ((*MLP, "algo=fullsync", "steps=33", "workers=8", "batch_size=8", "optim=adam"), 1e-9),
    ],
)
def test_the_same_config_gives_the_same_trajectory_wherever_its_rows_are(process_groups, words, tolerance):
    played = {p: play(process_groups, p, *words) for p in SPREAD}
    largest = np.abs(played[1].x).max()
    for run in played.values():
        np.testing.assert_allclose(run.x, played[1].x, rtol=0, atol=tolerance * largest)
        assert run.logical == played[1].logical


@pytest.mark.parametrize("optim", ["optim=sgd", "optim.momentum=0.9", "nesterov", "optim.weight_decay=0.01"])
@pytest.mark.parametrize("algo", ["pasgd", "fullsync"])
def test_averaging_every_step_is_one_large_batch(process_groups, algo, optim):  # S1, S2
    more = ("optim.momentum=0.9", "optim.nesterov=true", "optim.weight_decay=0.01") if optim == "nesterov" else (optim,)
    words = (*MLP, "workers=4", "batch_size=16", "steps=50", *more)
    run = play(process_groups, 4, *words, f"algo={algo}", "tau=1")
    np.testing.assert_allclose(run.x, np.broadcast_to(_large_batch(settle(words)), run.x.shape), rtol=0, atol=1e-10)


def _large_batch(settings: schema.Config) -> np.ndarray:
    """Plain torch on the union of the workers' batches."""
    from coopsgd.data.base import Batches
    from coopsgd.data.digits import Digits
    from coopsgd.data.partitions import IID
    from coopsgd.tasks.networks import network

    images = Digits().load()
    module = network(Parts(settings).task, settings.seed).double()
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    node = {k: v for k, v in settings.optim.items() if k not in ("name", "beta1", "beta2")}
    optimizer = kinds[settings.optim["name"]](module.parameters(), **node)
    batches = Batches(IID().deal(images.train_y, 4, settings.seed), range(4), settings.batch_size, settings.seed)
    for k in range(settings.steps):
        which = batches.at(np.full(4, k)).reshape(-1)
        x = torch.from_numpy(images.train_x[which]).double() / 16 - 0.5
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x), torch.from_numpy(images.train_y[which])).backward()
        optimizer.step()
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy()


def test_fullsync_is_a_large_batch_under_adam_and_model_averaging_is_not(process_groups):  # S4
    words = (*MLP, "workers=4", "batch_size=16", "steps=20", "optim=adam")
    expected = _large_batch(settle(words))
    fullsync, pasgd = (play(process_groups, 1, *words, f"algo={algo}", "tau=1").x[0] for algo in ("fullsync", "pasgd"))
    np.testing.assert_allclose(fullsync, expected, rtol=0, atol=1e-9)
    assert np.abs(pasgd - expected).max() > 1e-4


@pytest.mark.parametrize("processes", [1, 4])
def test_a_run_repeated_is_bitwise_the_same(process_groups, processes):
    words = (*MLP, "dtype=float32", "algo=easgd", "tau=3", "workers=4", "steps=30", "log_every=10", "eval_every=10")
    first, again = play(process_groups, processes, *words), play(process_groups, processes, *words)
    np.testing.assert_array_equal(first.x, again.x)
    times = {"wall_s", "train_s", "comm_s"}
    for one, two in zip(first.lines, again.lines, strict=True):
        assert {k: v for k, v in one.items() if k not in times} == {k: v for k, v in two.items() if k not in times}


@pytest.mark.parametrize("v", [0, 1])
@pytest.mark.parametrize("kind", ["ring", "elastic", "identity", "average"])
def test_mean_recursion(process_groups, kind, v):  # F1: u <- u - eta m / (m + v) * mean gradient, communicated or not
    m, tau, steps = 4, 3, 10
    W = {
        "ring": lambda n: np.eye(n) / 2 + np.roll(np.eye(n), 1, 0) / 4 + np.roll(np.eye(n), -1, 0) / 4,
        "elastic": lambda n: np.eye(n) * 0.9 + 0.1 / n,
        "identity": np.eye,
        "average": lambda n: np.full((n, n), 1 / n),
    }[kind](m + v)
    base = (
        *QUADRATIC,
        "workers=4",
        "algo=cooperative",
        f"algo.v={v}",
        written(W),
        "algo.allow_disconnected=true",
        f"tau={tau}",
    )
    rows = [play(process_groups, 1, *base, f"steps={k}").x for k in range(steps + 1)]
    p = problem((*base, f"steps={steps}"))
    for k in range(steps):
        gradient = np.mean([p.gradient(i, rows[k][i], k) for i in range(m)], axis=0)
        expected = rows[k].mean(0) - p.eta * m / (m + v) * gradient
        np.testing.assert_allclose(rows[k + 1].mean(0), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "more", [("optim.momentum=0.9",), ("optim.momentum=0.9", "optim.nesterov=true", "optim.weight_decay=0.1")]
)
def test_mean_of_linear_optimisers_follows_the_mean_gradient(process_groups, more):  # X7
    words = (*QUADRATIC, "task.heterogeneity=0", "algo=dpsgd", "tau=4", *more)
    played = play(process_groups, 2, *words)
    # with one f for all, the mean model feels the mean noise: one worker with the averaged noise does the same steps
    p, settings = problem(words), settle(words)
    x = torch.tensor(p.x0, requires_grad=True)
    optimizer = torch.optim.SGD([x], **{k: v for k, v in settings.optim.items() if k != "name"})
    for k in range(p.K):
        x.grad = torch.tensor(np.mean([p.gradient(i, x.detach().numpy(), k) for i in range(p.m)], axis=0))
        optimizer.step()
    np.testing.assert_allclose(played.x.mean(0), x.detach().numpy(), rtol=0, atol=1e-12)


def test_elastic_without_pull_is_lone_workers_and_a_frozen_centre(process_groups):  # E5
    words = (*QUADRATIC, "algo=easgd", "algo.alpha=0", "algo.allow_unstable=true", "tau=2")
    x = play(process_groups, 2, *words).x
    lone = (*QUADRATIC, "algo=cooperative", written(np.eye(8)), "algo.allow_disconnected=true")
    np.testing.assert_allclose(x[:8], play(process_groups, 1, *lone).x, **EXACT)
    np.testing.assert_array_equal(x[8], np.zeros(10))


def test_limits_of_decentralised_averaging(process_groups):  # D2, D5: on a complete graph it is periodic averaging
    words = (*QUADRATIC, "tau=3")
    gossip = play(process_groups, 4, *words, "algo=dpsgd", "topology=complete")
    np.testing.assert_allclose(gossip.x, play(process_groups, 1, *words, "algo=pasgd").x, **EXACT)
    assert gossip.logical == play(process_groups, 1, *words, "algo=pasgd").logical  # an average is priced as one, whoever asks


def test_periodic_averaging_never_due_is_lone_workers(process_groups):
    lone = (*QUADRATIC, "algo=cooperative", written(np.eye(8)), "algo.allow_disconnected=true")
    run = play(process_groups, 2, *QUADRATIC, "algo=pasgd", "tau=25")
    np.testing.assert_allclose(run.x, play(process_groups, 1, *lone).x, **EXACT)
    assert run.logical == (0, 0, 0)


def test_a_last_round_that_is_not_full_is_not_mixed(process_groups):
    words = (*QUADRATIC, "algo=pasgd", "tau=10", "steps=24")
    run = play(process_groups, 2, *words)
    assert run.logical[0] == 2 and np.ptp(run.x, axis=0).max() > 1e-3
    np.testing.assert_allclose(run.answer, run.x.mean(0), rtol=0, atol=1e-14)


def test_gossip_contracts_disagreement_by_zeta_squared():  # eta = 0
    W = Parts(settle((*QUADRATIC, "algo=dpsgd"))).strategy.schedule.factors(8, 0)[0]
    fleet = Stacked(Layout(8, 0, 1))
    wave = torch.tensor([[np.cos(2 * np.pi * i / 8)] for i in range(8)])  # the slowest mode of the ring
    zeta = 1 / 3 + 2 / 3 * np.cos(2 * np.pi / 8)
    mixed = fleet.mix(W, wave.clone())
    assert float((mixed**2).sum() / (wave**2).sum()) == pytest.approx(zeta**2, abs=1e-12)


@pytest.mark.parametrize("buffers", ["keep", "average", "reset"])
def test_buffers_at_a_mixing(process_groups, buffers):  # S3
    words = (*QUADRATIC, "algo=pasgd", "tau=4", "optim.momentum=0.9", f"buffers={buffers}")
    runs = [play(process_groups, p, *words) for p in (1, 4)]
    p = problem(words)
    x, b = [p.x0.copy() for _ in range(8)], [np.zeros_like(p.x0) for _ in range(8)]
    for k in range(p.K):
        for i in range(8):
            b[i] = 0.9 * b[i] + p.gradient(i, x[i], k)
            x[i] = x[i] - p.eta * b[i]
        if (k + 1) % 4 == 0:
            x = [sum(x) / 8] * 8
            b = {"keep": b, "average": [sum(b) / 8] * 8, "reset": [np.zeros_like(p.x0)] * 8}[buffers]
    for run in runs:
        np.testing.assert_allclose(run.x, np.array(x), **EXACT)
    plain = play(process_groups, 1, *words, "buffers=keep").logical
    assert runs[0].logical[1] == plain[1] and runs[0].logical[2] == plain[2] * (2 if buffers == "average" else 1)


def test_a_packed_message_carries_models_and_buffers_together(process_groups):
    words = (*QUADRATIC, "algo=dpsgd", "topology=chain", "tau=2", "optim=adam", "buffers=average")
    runs = [play(process_groups, p, *words) for p in (1, 2, 8)]
    for run in runs[1:]:
        np.testing.assert_allclose(run.x, runs[0].x, rtol=0, atol=1e-9)
    assert runs[0].logical[1] == 12 * 14  # 12 rounds, 7 edges both ways: no more messages than models alone
    assert runs[0].logical[2] == 12 * 14 * 3 * 80  # three vectors of ten float64 each


@pytest.mark.parametrize(
    "settings", [SGD(momentum=0.9, weight_decay=0.1), SGD(momentum=0.9, nesterov=True), Adam(), AdamW(weight_decay=0.1)]
)
def test_idle_rows_keep_everything_bit_for_bit(settings):
    torch.manual_seed(0)
    x = torch.randn(3, 5, dtype=torch.float64)
    inner = Inner(settings, Constant(), x, workers=3, steps=9)
    alone = [Inner(settings, Constant(), row, workers=1, steps=9) for row in x.clone()[:, None]]
    for turn, active in enumerate(
        [None, [True, False, True], [False, False, True], [True, True, True], None, [False, True, True]]
    ):
        mask = None if active is None else np.array(active)
        direction = torch.randn(3, 5, dtype=torch.float64)
        before = x.clone()
        inner.step(x, direction, mask)
        for i in range(3):
            if mask is None or mask[i]:
                alone[i].step(alone[i]._x, direction[i : i + 1])
            else:
                assert torch.equal(x[i], before[i]), f"row {i} moved while idle in turn {turn}"
            assert torch.equal(x[i], alone[i]._x[0]), f"row {i} differs from a lone worker's in turn {turn}"


def test_a_schedule_that_idles_workers_runs_on_every_placement(process_groups):
    words = (*QUADRATIC, "algo=pasgd", "tau=3", "optim=adam", "optim.lr=0.05")
    runs = [play(process_groups, p, *words, "algo.mixing=test_train:Half") for p in (1, 2, 4)]
    for run in runs[1:]:
        np.testing.assert_allclose(run.x, runs[0].x, rtol=0, atol=1e-12)
    assert np.abs(runs[0].x - play(process_groups, 1, *words).x).max() > 1e-2


@pytest.mark.parametrize("optim", [("optim=adam", "optim.lr=0.05"), ("optim.momentum=0.9",)])
def test_buffers_of_idle_workers_are_mixed_too(process_groups, optim):
    words = (*QUADRATIC, "algo=pasgd", "tau=2", "buffers=average", *optim)
    runs = [play(process_groups, p, *words, "algo.mixing=test_train:Half") for p in (1, 2, 8)]
    for run in runs[1:]:
        np.testing.assert_allclose(run.x, runs[0].x, rtol=0, atol=1e-9)
    kept, busy = (play(process_groups, 1, *words, *more).x for more in (("algo.mixing=test_train:Half", "buffers=keep"), ()))
    assert min(np.abs(runs[0].x - kept).max(), np.abs(runs[0].x - busy).max()) > 1e-3


class Half(Average):
    """Everyone takes the mean of everyone; only the even or only the odd workers compute, round by round."""

    def work(self, m, r, tau):
        return np.where(np.arange(m) % 2 == r % 2, tau, 0)


def test_schedule_and_metrics_of_a_short_run(process_groups):
    words = (
        *MLP,
        "workers=4",
        "epochs=2",
        "schedule=multistep",
        "schedule.milestones=[5]",
        "log_every=4",
        "eval_every=8",
        "algo=pasgd",
        "tau=3",
    )
    run = play(process_groups, 2, *words)
    assert settle(words).steps == 2 * (1433 // 4 // 32)  # 22: an epoch is a worker's pass over its own 358 samples
    steps = [line["step"] for line in run.lines]
    assert steps == [0, 4, 8, 12, 16, 20, 22]
    assert [line["lr"] for line in run.lines] == pytest.approx([0.1, 0.1, *[0.01] * 5])
    evaluated = [line["step"] for line in run.lines if "eval/loss" in line]
    assert evaluated == [0, 8, 16, 22]
    last = run.lines[-1]
    assert last["samples"] == 22 * 4 * 32 and last["epoch"] == 2 and last["rounds"] == 7
    d = run.x.shape[1]
    assert last["messages"] == 7 * 6 and last["bytes"] == 7 * 6 * d * 8 and last["wire_bytes"] == 7 * 2 * d * 8
    assert last["phase"] == 1 and last["consensus"] > last["consensus_after"] == pytest.approx(0, abs=1e-20)
    assert run.lines[1]["consensus"] is None and run.lines[1]["phase"] == 1
    assert last["eval/accuracy_worst"] <= last["eval/accuracy_best"]


def test_losses_are_means_over_workers_since_the_last_line(process_groups):
    words = (*QUADRATIC, "algo=pasgd", "tau=4", "steps=6", "log_every=3", "task.sigma=0")
    run = play(process_groups, 2, *words)
    p = problem(words)
    losses, x = [], [p.x0.copy() for _ in range(8)]
    for k in range(6):
        losses.append(np.mean([0.5 * (p.a[i] * (x[i] - p.c[i]) ** 2).sum() for i in range(8)]))
        x = [x[i] - p.eta * p.gradient(i, x[i], k) for i in range(8)]
        if (k + 1) % 4 == 0:
            x = [sum(x) / 8] * 8
    assert run.lines[0]["train/loss"] is None
    assert [line["train/loss"] for line in run.lines[1:]] == pytest.approx([np.mean(losses[:3]), np.mean(losses[3:])])


def test_no_step_at_all(process_groups):
    run = play(process_groups, 2, *QUADRATIC, "algo=easgd", "steps=0")
    assert len(run.lines) == 1 and run.logical == (0, 0, 0)


def test_measuring_is_off_the_ledger_and_off_the_clock():
    settings = settle((*QUADRATIC, "algo=pasgd", "eval_every=1", "log_every=1", "workers=4"))
    fleet, report, parts = Stacked(Layout(4, 0, 1)), Lines(), Parts(settings)
    problem_ = parts.task.build(settings, fleet.workers, torch.device("cpu"))
    slow = problem_.evaluate

    def sleepy(answer, statistics):
        import time

        time.sleep(0.01)
        return slow(answer, statistics)

    problem_.evaluate = sleepy
    train(parts, fleet, problem_, report)
    last = report.lines[-1]
    assert last["wall_s"] - last["train_s"] > 24 * 0.01
    assert last["rounds"] == 2 and last["messages"] == 2 * 6


def test_the_oracle_is_independent():
    assert not {name for name in vars(oracle) if "fleet" in name or "strateg" in name}
