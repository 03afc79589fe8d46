"""Running statistics: what each policy does to them, what it costs, that the averaged model is judged with the right ones."""

from __future__ import annotations

from functools import cache
from typing import Any

import arrays
import numpy as np
import pytest
import torch
from playing import CNN, Lines, settle

from coopsgd.data.digits import Digits
from coopsgd.fleet.plan import layout_of
from coopsgd.fleet.processes import Processes
from coopsgd.fleet.stacked import Stacked
from coopsgd.loop.evaluation import train
from coopsgd.loop.norm_stats import BATCHES
from coopsgd.models.cnn import CNN as Network
from coopsgd.run.reader import Run
from coopsgd.setup import schema
from coopsgd.setup.parts import Parts
from coopsgd.streams import stream
from coopsgd.tasks.gradients import Bound, recalibrated
from coopsgd.tasks.networks import network

SMALL = (*CNN, "model.norm=batch", "workers=4", "batch_size=8", "optim.lr=0.05")
ALGOS = {
    "pasgd": ("algo=pasgd", "tau=3"),
    "dpsgd": ("algo=dpsgd", "tau=2"),
    "easgd": ("algo=easgd", "tau=2", "algo.alpha=0.2"),
    "fullsync": ("algo=fullsync",),
    "momentum": ("algo=dpsgd", "topology=chain", "tau=2", "optim.momentum=0.9", "buffers=average"),
}
POLICIES = ["average", "local", "recalibrate"]
B = 2 * 3 * 8  # a mean and a variance for each of 8 and 16 channels


def member(rank: int, settings: schema.Config, processes: int) -> dict[str, Any]:
    """One process's part of a run: all models and statistics, as far as it knows them."""
    parts = Parts(settings)
    layout = layout_of(parts.strategy.schedule, settings.workers, processes)
    fleet = Processes(layout, rank) if processes > 1 else Stacked(layout)
    problem = parts.task.build(settings, fleet.workers, torch.device("cpu"))
    report = Lines()
    outcome = train(parts, fleet, problem, report)
    found = {"x": fleet.gather(outcome.x), "answer": outcome.answer, "logical": (fleet.ledger.messages, fleet.ledger.bytes)}
    found["stats"] = None if outcome.stats is None else fleet.gather(outcome.stats)
    found["answer_stats"], found["last"] = outcome.answer_stats, report.lines[-1]
    return {name: value.numpy() if torch.is_tensor(value) else value for name, value in found.items()}


def run(process_groups: Any, processes: int, *words: str) -> dict[str, Any]:
    settings = settle(words)
    return member(0, settings, 1) if processes == 1 else process_groups(processes)(member, settings, processes)[0]


def test_a_mask_is_no_statistic(process_groups):
    words = (*CNN[:1], *CNN[3:], "model=custom", "model.path=nets:Masked", "workers=4", "steps=6", "algo=pasgd", "tau=2")
    for processes in (1, 2):
        found = run(process_groups, processes, *words)
        assert np.isfinite(found["x"]).all() and found["stats"].shape == (4, 20)  # BatchNorm's alone
        assert np.isfinite(found["last"]["eval/loss"])


def test_what_no_batchnorm_keeps_is_not_recalibrated():
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.InstanceNorm2d(2, track_running_stats=True))
    bound = Bound(module)
    given = torch.tensor([[-0.06, 0.003, 0.93, 0.92]])
    found = recalibrated(bound, bound.flat(), given, [torch.randn(4, 1, 8, 8)])
    assert torch.equal(found, given)


@cache
def unmixed(words: tuple[str, ...], steps: int) -> list[np.ndarray]:
    """The statistics after 0, 1, ... steps when no mixing touches them."""
    return [member(0, settle((*words, "norm_stats=local", f"steps={k}")), 1)["stats"] for k in range(steps + 1)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("algo", ALGOS)
def test_statistics_do_not_depend_on_placement(process_groups, algo, policy):
    words = (*SMALL, *ALGOS[algo], f"norm_stats={policy}", "steps=12")
    one, two, four = (run(process_groups, p, *words) for p in (1, 2, 4))
    for other in (two, four):
        for name in ("x", "stats", "answer", "answer_stats"):
            np.testing.assert_allclose(other[name], one[name], rtol=1e-11, atol=1e-12, err_msg=name)
        assert other["logical"] == one["logical"]
        assert other["last"]["eval/loss"] == pytest.approx(one["last"]["eval/loss"], rel=1e-10)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("algo", ALGOS)
def test_averaged_statistics_are_W_times_the_rows_at_every_mixing(process_groups, algo, processes):
    """Training never reads them, so what a batch adds is the same under `local`; the rest is a loop over W."""
    words, steps = (*SMALL, *ALGOS[algo]), 7
    settings = settle(words)
    strategy = Parts(settings).strategy
    (W,) = arrays.factors(strategy.schedule, 4, 0) or (np.full((4, 4), 0.25),)
    lone = unmixed(words, steps)
    expected = lone[0].copy()
    for k in range(steps):
        added = lone[k + 1] - 0.9 * lone[k]  # BatchNorm: s <- 0.9 s + 0.1 of this batch
        added[4:] = 0.1 * expected[4:]  # an auxiliary row sees no batch
        expected = 0.9 * expected + added
        if (k + 1) % settings.tau == 0:
            expected = W @ expected
    mixed = run(process_groups, processes, *words, f"steps={steps}")["stats"]
    assert mixed.shape == (len(W), B)
    np.testing.assert_allclose(mixed, expected, rtol=0, atol=1e-11)
    assert np.abs(expected - lone[steps]).max() > 1e-3


@pytest.mark.parametrize("algo", ALGOS)
def test_only_average_is_charged_and_in_the_same_messages(process_groups, algo):
    words = (*SMALL, *ALGOS[algo], "steps=12")
    messages, charged = run(process_groups, 2, *words, "norm_stats=average")["logical"]
    d = Network(width=8, norm="batch").parameters(Digits.SHAPE, 10)
    vectors = 2 if algo == "momentum" else 1  # buffers travel too
    for policy in ("local", "recalibrate"):
        plain = run(process_groups, 2, *words, f"norm_stats={policy}")["logical"]
        assert plain[0] == messages and charged * vectors * d == plain[1] * (vectors * d + B)


def by_hand(words: tuple[str, ...], row: np.ndarray, statistics: np.ndarray) -> torch.nn.Module:
    """A plain module with those parameters and running statistics, put in one by one."""
    module = network(Parts(settle(words)).task, 0).double()
    at = 0
    with torch.no_grad():
        for p in module.parameters():
            part = torch.from_numpy(row[at : at + p.numel()].copy())
            at += p.numel()
            if p.dim() == 4:  # channels last in the row
                out, channels, height, width = p.shape
                part = part.view(out, height, width, channels).permute(0, 3, 1, 2)
            p.copy_(part.reshape(p.shape))
        at = 0
        for part in module.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                for buffer in (part.running_mean, part.running_var):
                    buffer.copy_(torch.from_numpy(statistics[at : at + len(buffer)].copy()))
                    at += len(buffer)
    return module.eval()


def judged(module: torch.nn.Module) -> tuple[float, float]:
    """Loss and accuracy on the test set, all at once."""
    images = Digits().load()
    with torch.no_grad():
        logits = module(torch.from_numpy(images.test_x).double() / 16 - 0.5)
    labels = torch.from_numpy(images.test_y)
    return float(torch.nn.functional.cross_entropy(logits, labels)), float((logits.argmax(1) == labels).double().mean())


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_averaged_model_is_judged_with_the_right_statistics(process_groups, policy, processes):
    words = (*SMALL, "algo=dpsgd", "tau=4", "steps=30", f"norm_stats={policy}")
    found = run(process_groups, processes, *words)
    mean = found["stats"].mean(0)
    if policy == "recalibrate":  # torch's own re-estimation, on the same batches of the whole training set
        images = Digits().load()
        module = by_hand(words, found["x"].mean(0), mean)
        draws = [stream(0, "recalibrate", b).choice(1433, 8, replace=False) for b in range(BATCHES)]
        batches = [torch.from_numpy(images.train_x[which]).double() / 16 - 0.5 for which in draws]
        torch.optim.swa_utils.update_bn(batches, module)
        expected = np.concatenate([b.numpy() for name, b in module.named_buffers() if "running" in name])
        assert np.abs(expected - mean).max() > 1e-3
    else:
        expected = mean
    np.testing.assert_allclose(found["answer_stats"][0], expected, rtol=0, atol=1e-12)
    loss, accuracy = judged(by_hand(words, found["answer"][0], expected))
    assert found["last"]["eval/loss"] == pytest.approx(loss, rel=1e-10)
    assert found["last"]["eval/accuracy"] == accuracy
    own = [judged(by_hand(words, x, s))[1] for x, s in zip(found["x"], found["stats"], strict=True)]
    assert (found["last"]["eval/accuracy_worst"], found["last"]["eval/accuracy_best"]) == (min(own), max(own))


def test_each_policy_judges_otherwise(process_groups):
    words = (*SMALL, "algo=pasgd", "tau=4", "steps=12")
    found = {policy: run(process_groups, 1, *words, f"norm_stats={policy}") for policy in POLICIES}
    assert len({found[policy]["last"]["eval/loss"] for policy in ("average", "recalibrate")}) == 2
    np.testing.assert_array_equal(found["average"]["x"], found["local"]["x"])  # training does not read them
    assert np.ptp(found["average"]["stats"], axis=0).max() < 1e-12 < np.ptp(found["local"]["stats"], axis=0).max()
    # after a dozen steps running averages still remember how they began; an estimate does not
    assert found["recalibrate"]["last"]["eval/loss"] < 0.9 * found["average"]["last"]["eval/loss"]


@pytest.mark.parametrize("policy", POLICIES)
def test_looking_changes_nothing(process_groups, policy):
    words = (*SMALL, "algo=dpsgd", "tau=2", "steps=9", "model.dropout=0.2", f"norm_stats={policy}")
    often, never = run(process_groups, 1, *words, "eval_every=1"), run(process_groups, 1, *words)
    np.testing.assert_array_equal(often["x"], never["x"])
    np.testing.assert_array_equal(often["stats"], never["stats"])


@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_keeps_them_and_its_model_has_them(cli, tmp_path, policy):
    words = [w for w in SMALL if not w.startswith("log_every")]
    more = ["algo=easgd", "algo.alpha=0.2", "tau=3", "steps=12", "processes=2", f"norm_stats={policy}", "hydra.run.dir=run"]
    ended = cli("train", *words, *more)
    assert ended.code == 0, ended.err
    kept = Run(tmp_path / "run")
    assert kept.summary["norm_stats"] == policy
    assert kept.rows().shape[0] == 5 and kept.stats().shape == (5, B)
    loss, accuracy = judged(kept.model())
    assert loss == pytest.approx(kept.summary["eval"]["eval/loss"], rel=1e-10)
    assert accuracy == kept.summary["eval"]["eval/accuracy"]
    torch.save(kept.model(), tmp_path / "whole.pt")  # a plain module: nothing of ours hangs on it


def test_a_model_without_statistics_says_so(cli, tmp_path):
    ended = cli("train", "steps=1", "norm_stats=local", "hydra.run.dir=run")
    assert ended.code == 0 and "norm_stats=local: the model keeps no running statistics; ignored" in ended.out + ended.err
    assert Run(tmp_path / "run").summary["norm_stats"] is None
    with pytest.raises(LookupError, match="no running statistics"):
        Run(tmp_path / "run").stats()


def test_show_counts_them(cli):
    import json

    words = ("model=cnn", "model.norm=batch", "algo=pasgd", "processes=1", "--json")
    average, local = (json.loads(cli("show", *words, f"norm_stats={p}").out) for p in ("average", "local"))
    b = average["statistics"]
    assert b == 2 * 96 and average["parameters"] == local["parameters"]
    sent = [found["schedule"][0]["bytes_per_worker_mean"] for found in (average, local)]
    assert sent[0] - sent[1] == pytest.approx(4 * b * 2 * 3 / 4)  # an average over 4: 2 (m - 1) / m vectors a worker


def test_weights_below_zero_and_averaged_variances_are_refused(cli):
    """The centre of elastic averaging takes 1 - m alpha of itself: -1/3 for 4 workers and the best alpha."""
    ended = cli("train", "model=cnn", "model.norm=batch", "algo=easgd")
    assert ended.code == 2 and len(ended.lines) == 1
    assert "norm_stats=average" in ended.err and "W[4, 4] = -0.333" in ended.err and "recalibrate" in ended.err
    ended = cli("train", "norm_stats=mean")
    assert ended.code == 2 and "average, local, recalibrate" in ended.lines[0]


def test_counts_of_batches_stay_with_their_row():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    bound = Bound(module)
    assert (bound.d, bound.b, bound.stateful) == (2 * 4 + 4 * 2 + 2, 8, True)
    x, stats = bound.flat().repeat(2, 1), bound.statistics().repeat(2, 1)
    bound.bind(x, torch.zeros_like(x), stats)
    batch = torch.randn(16, 4)
    for row in (0, 1, 0, 0):
        bound.row(row)(batch)
    counted = [int(bound.row(row)[1].num_batches_tracked) for row in (0, 1)]
    assert counted == [3, 1]
    torch.testing.assert_close(stats[1, :4], 0.1 * batch.mean(0))
    torch.testing.assert_close(stats[0, 4:], 0.9**3 + (1 - 0.9**3) * batch.var(0))
    assert int(bound.elsewhere(x[:1], stats[:1])[1].num_batches_tracked) == 0
    bound.elsewhere(x[:1], stats[:1])(batch)  # in training mode, on a copy
    torch.testing.assert_close(stats[0, 4:], 0.9**3 + (1 - 0.9**3) * batch.var(0))
