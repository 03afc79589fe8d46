"""L of each worker's f_i, which the bound asks for, and L of their mean F: known, measured, and told apart."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from playing import settle
from test_probe import LOGISTIC, logistic, measured, quick

from coopsgd.commands import analyze, compose
from coopsgd.commands.probe import measure
from coopsgd.predict import probe_file
from coopsgd.setup.parts import Parts
from coopsgd.tasks.networks import bound

WORDS = ("task=quadratic", "workers=6", "processes=1", "device=cpu")


def facts(*words, probe=None):
    checked = compose.compose_config(words)
    return analyze.facts(checked.parts, (), probe)


def test_a_quadratic_knows_both():
    """f_i has the curvatures a_i, F their mean; the largest entry of a is above the largest mean of a column."""
    settings = settle(WORDS)
    a, _, _ = Parts(settings).task.arrays(6, settings.seed)
    known = Parts(settings).task.known(settings)
    both = [known.L, known.L_F]
    assert both == pytest.approx([a.max(), a.mean(0).max()]) and both[1] < 0.9 * both[0]
    found = facts(*WORDS, "algo=easgd", "optim.lr=0.01")
    assert (found["constants"]["L"], found["L_F"]) == (known.L, known.L_F)
    # the steps are those of the larger
    assert found["largest_eta_eff"]
    for condition, largest in found["largest_eta_eff"].items():
        assert largest == pytest.approx(found["largest_eta_eff_L"][condition] / known.L)


@pytest.mark.parametrize("workers", [3, 20])
def test_a_probe_measures_both(monkeypatch, workers):
    words = (*WORDS, f"workers={workers}", "dtype=float64")
    settings = settle(words)
    a, _, _ = Parts(settings).task.arrays(workers, settings.seed)
    found, _ = measured(monkeypatch, words, 3)
    assert found["L_workers"]["value"] == pytest.approx(a.max(), rel=1e-9)
    assert found["L_workers"]["worker"] == a.max(1).argmax() and found["L_workers"]["asked"] == workers
    assert found["L"]["value"] <= found["L_workers"]["value"]
    if workers == 3:  # all of whom F is made
        assert found["L"]["value"] == pytest.approx(a.mean(0).max(), rel=1e-9)


def test_the_curvatures_are_the_same_with_a_probe_and_without(cli, tmp_path, capsys):
    message = []
    for processes in (1, 2):
        words = ("task=quadratic", "workers=6", f"processes={processes}", "threads=1")
        ended = cli("probe", *words, "--steps", "4", "-o", f"{processes}.json", first=quick)
        assert ended.code == 0, ended.err
        assert "L of each f_i" in ended.out and "L of F" in ended.out
        with_it = facts(*words, "algo=easgd", "tau=4", probe=str(tmp_path / f"{processes}.json"))
        without = facts(*words, "algo=easgd", "tau=4")
        assert with_it["constants"]["L"] == pytest.approx(without["constants"]["L"], rel=1e-5)
        assert with_it["L_F"] == pytest.approx(without["L_F"], rel=1e-5) and with_it["notes"] == []
        message.append(json.loads((tmp_path / f"{processes}.json").read_text())["L_workers"])
    assert message[0]["value"] == pytest.approx(message[1]["value"], rel=1e-6) and message[0]["worker"] == message[1]["worker"]
    analyze.show(with_it)
    printed = capsys.readouterr().out
    assert f"L of each f_i {with_it['constants']['L']:.4g}, L of F {with_it['L_F']:.4g}" in printed


def test_an_old_file_is_read_and_says_what_it_lacks(cli, tmp_path):
    ended = cli("probe", "task=quadratic", "workers=4", "processes=1", "--steps", "2", first=quick)
    assert ended.code == 0, ended.err
    content = json.loads((tmp_path / "probe.json").read_text())
    del content["L_workers"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    found = facts("task=quadratic", "workers=4", "processes=1", probe=str(tmp_path / "old.json"))
    assert found["constants"]["L"] == found["L_F"] == content["L"]["value"]
    (note,) = found["notes"]
    assert "old.json: holds the L of F alone" in note and "probe again" in note
    (tmp_path / "odd.json").write_text(json.dumps(content | {"L_workers": {"value": "x"}}))
    with pytest.raises(ValueError, match="no whole probe file"):
        probe_file.load(tmp_path / "odd.json")


def test_each_workers_curvature_is_its_own_hessians(monkeypatch):
    """Logistic regression, a class or two a worker: Hessians of 35 x 35 of each worker's own batches, written out."""
    monkeypatch.setattr(measure, "PRODUCTS", 35)
    words = (*LOGISTIC, "data=gaussian", "data.dim=6", "data.classes=5", "data.samples=600", "partition=shards")
    settings, fleet, problem = logistic(words)
    walk = measure.Walk(Parts(settings), fleet, problem)
    walk.x[:] = torch.randn(walk.x.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    asked, values, slacks, parts = walk.curvatures(walk.x[:1])
    assert asked.tolist() == [0, 1, 2, 3] and parts.shape == (4, measure.OWN)
    module, k = bound(Parts(settings).task, settings.seed, torch.float64), (measure.FAR - 1) * problem.steps_per_epoch
    for i in range(4):
        seen = [problem._fetch(problem._batches.at(np.full(4, k + j)), np.full(4, k + j), i, i + 1) for j in range(measure.OWN)]
        x, y = (torch.cat([part.flatten(0, 1) for part in parts]) for parts in zip(*seen, strict=True))

        def loss(row, x=x, y=y):
            return torch.nn.functional.cross_entropy(module.functional(row[None], x), y)

        true = float(torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, walk.x[0]))[-1])
        assert values[i] == pytest.approx(true, rel=1e-9) and parts[i].mean() == pytest.approx(true, rel=1e-9)
        assert slacks[i] < 1e-6 * true
    top, _ = walk.curvature()
    assert values.max() > top.value  # workers that hold different classes are curved more, each by itself
