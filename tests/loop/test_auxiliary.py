"""Auxiliary models (EASGD's centre, a server's, a hierarchy's groups) are measured as what they are, wherever they lie."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import oracle
import pytest
import torch
from playing import CNN, MLP, play, settle
from test_oracle import preset, problem

from coopsgd.errors import ConfigError
from coopsgd.loop.consensus import Distances
from coopsgd.run.reader import Run
from coopsgd.run.schema import AUXILIARY, METRICS
from coopsgd.setup.parts import Parts
from coopsgd.streams import stream
from coopsgd.tasks.gradients import recalibrated
from coopsgd.tasks.networks import bound

NAMES = {metric.name for metric in METRICS.values() if metric.when == AUXILIARY}
LOOKS = ("workers=4", "steps=6", "tau=2", "eval_every=2", "batch_size=16", "optim.lr=0.2")
ALGOS = {
    "easgd": ("algo=easgd",),
    "overlap": ("algo=easgd", "delay=1"),
    "combine first": ("algo=easgd", "order=cta"),
    "anchor": ("algo=gea",),
    "groups and a root": ("algo=hierarchical", "algo.groups=2"),
    "server": ("algo=parameter_server",),
    "clients": ("algo=fedavg", "algo.fraction=0.5"),
}


def pictures(task, seed, part):
    """The (n, ...) inputs of the training or test set as models read them, and their labels."""
    data = task.data.load(seed)
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(-1, 1, 1) for v in (data.mean, data.std))
    x, y = (torch.from_numpy(np.array(getattr(data, f"{part}_{of}"))) for of in "xy")
    return (x.double() - mean) / std, y.long()


def looked(words, row, stats=None):
    """Loss and accuracy on the test set of one (d,) model, by its module in one forward pass."""
    config = settle(words)
    task = Parts(config).task
    module = task.module(config, torch.from_numpy(row[None]), None if stats is None else torch.from_numpy(stats[None]))
    x, y = pictures(task, config.seed, "test")
    with torch.no_grad():
        logits = module(x)
    return float(torch.nn.functional.cross_entropy(logits, y)), float((logits.argmax(1) == y).double().mean())


@pytest.mark.parametrize("name", ALGOS)
def test_the_auxiliary_models_are_evaluated_themselves(process_groups, name):
    words = (*MLP, *LOOKS, *ALGOS[name])
    found = play(None, 1, *words)
    each = [looked(words, row) for row in found.x[4:]]
    for key, mine in zip(("eval/aux_loss", "eval/aux_accuracy"), zip(*each, strict=True), strict=True):
        assert found.lines[-1][key] == pytest.approx(np.mean(mine), rel=1e-12)
    assert {key for key in found.lines[-1] if "aux" in key} == NAMES
    for processes in (2, 4):
        other = play(process_groups, processes, *words)
        assert other.logical == found.logical  # looking is not charged
        for line, same in zip(found.lines, other.lines, strict=True):
            for key in NAMES:
                assert same[key] == pytest.approx(line[key], rel=1e-9, abs=1e-20), (key, line["step"])


@dataclass
class Whole(oracle.Problem):
    """One that remembers all rows of a communication, not the workers' alone."""

    def communicates(self, k, before, after):
        self.seen.append([k + 1, np.array(before), None if after is None else np.array(after)])


@pytest.mark.parametrize("algo", ["easgd", "gea", "hierarchical", "cooperative"])
def test_their_distance_is_that_before_the_latest_communication(process_groups, algo):
    """From the trajectory of the loops written from the papers."""
    words = preset(algo, "tau=3", "steps=8", "log_every=1", "eval_every=1")
    p = problem(words)
    p = Whole(**{f.name: getattr(p, f.name) for f in fields(p)} | {"seen": []})
    oracle.ORACLES[algo](p)
    assert [step for step, *_ in p.seen] == [3, 6]
    for processes in (1, 2):
        lines = play(process_groups, processes, *words).lines
        for (_, before, _), steps in zip(p.seen, (range(3, 6), range(6, 9)), strict=True):
            mean = before[:8].mean(0)
            away = np.mean([(row - mean) @ (row - mean) for row in before[8:]])
            for k in steps:
                assert lines[k]["eval/aux_distance"] == pytest.approx(away, rel=1e-9)


def test_easgds_centre_moves_by_its_pull():
    """One communication of W_alpha: z' = z + alpha sum (x_i - z), so from 0 it comes to 4 alpha mean(x)."""
    words = ("task=quadratic", "dtype=float64", "device=cpu", "workers=4", "tau=2", "log_every=1", "eval_every=1")
    found = play(None, 1, *words, "algo=easgd", "algo.alpha=0.1", "steps=2", "optim.lr=0.2")
    alone = play(None, 1, *words, "algo=independent", "steps=2", "optim.lr=0.2")
    assert np.allclose(found.x[4], 0.4 * alone.x.mean(0), rtol=0, atol=1e-14)
    parts = Parts(settle((*words, "algo=easgd")))
    problem = parts.task.build(parts.config, range(4), torch.device("cpu"))
    assert found.lines[-1]["eval/aux_loss"] == pytest.approx(problem.evaluate(torch.from_numpy(found.x[4:]))["eval/loss"])
    assert found.lines[-1]["eval/aux_accuracy"] is None


def test_without_auxiliary_models_there_is_nothing_of_them(monkeypatch):
    calls = []
    monkeypatch.setattr("coopsgd.loop.norm_stats.auxiliary", lambda *_: calls.append(1))
    for algo in ("pasgd", "fullsync", "dpsgd", "two_level"):
        lines = play(None, 1, *MLP, "algo=" + algo, "workers=4", "steps=2", "eval_every=1").lines
        assert not calls and not any("aux" in key for line in lines for key in line)


@pytest.mark.parametrize("policy", ["average", "local", "recalibrate"])
def test_a_centre_has_statistics_to_be_judged_with(process_groups, policy):
    words = (*CNN, "model.norm=batch", f"norm_stats={policy}", *LOOKS, "algo=easgd", "algo.alpha=0.2")
    found = play(None, 1, *words)
    other = play(process_groups, 2, *words)
    config = settle(words)
    task = Parts(config).task
    centre, mean = found.x[4], torch.from_numpy(found.stats[:4].mean(0, keepdims=True))
    if policy == "local":
        assert np.allclose(found.stats[4], mean[0], rtol=0, atol=1e-14)
    if policy == "recalibrate":
        x, _ = pictures(task, config.seed, "train")
        some = [x[stream(config.seed, "recalibrate", b).choice(len(x), 16, replace=False)] for b in range(32)]
        wanted = recalibrated(bound(task, config.seed, torch.float64), torch.from_numpy(centre[None]), mean, some)
        assert np.allclose(found.stats[4], wanted[0], rtol=0, atol=1e-12)
    loss, accuracy = looked(words, centre, found.stats[4])
    assert np.allclose(other.stats, found.stats, rtol=0, atol=1e-12)
    for run in (found, other):
        assert run.lines[-1]["eval/aux_loss"] == pytest.approx(loss, rel=1e-9)
        assert run.lines[-1]["eval/aux_accuracy"] == pytest.approx(accuracy)


def test_a_run_gives_its_centre_back(cli, tmp_path):
    """run.model(m) on the test set is eval/aux_loss; run.answer() is run.model()."""
    words = (*CNN, "model.norm=batch", "norm_stats=local", *LOOKS, "algo=easgd", "save=rows")
    ended = cli("train", *words, "hydra.run.dir=here", "stop.metric=eval/aux_accuracy", "stop.target=1")
    assert ended.code == 0, ended.err
    assert "auxiliary accuracy" in ended.out
    run = Run(tmp_path / "here")
    x, y = pictures(run.parts.task, run.config.seed, "test")
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(run.model(4)(x), y)
    assert float(loss) == pytest.approx(run.summary["eval"]["eval/aux_loss"], rel=1e-9)
    flat = torch.cat([p.detach().flatten() for p in run.model().parameters()])
    assert torch.equal(flat.sort().values, run.answer()[0].sort().values)


@pytest.mark.parametrize("words", [("stop.metric=eval/aux_loss", "stop.target=1"), ("objective=eval/aux_loss",)])
def test_who_has_none_cannot_go_by_it(words):
    with pytest.raises(ConfigError, match=r"algo=pasgd has no auxiliary model and so no eval/aux_loss; use eval/loss"):
        settle((*MLP, "algo=pasgd", *words))
    settle((*MLP, "algo=easgd", *words))


def test_a_checkpoint_of_a_version_that_knew_the_workers_distance_alone_is_read():
    for saved, wanted in ((None, (None, None)), (0.5, (0.5, None)), ((0.5, 2.0), (0.5, 2.0)), ([0.5, None], (0.5, None))):
        assert Distances.of(saved) == wanted
