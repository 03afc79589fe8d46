"""scripts/studies.py: rates are walked to where both neighbours are worse, no run twice; what it runs is what coopsgd takes."""

from __future__ import annotations

import importlib
import math
import re
import shlex
from pathlib import Path

import pytest
from conftest import needs

from coopsgd.commands import compose
from coopsgd.registry import lookup

ROOT = Path(__file__).parents[1]


@pytest.fixture
def studies(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("studies")


def walked(studies, monkeypatch, loss, **rates):
    """What is found where a run's loss is that function of its rates, and what was run on the way."""
    ran = []

    def loss_of(words, folder):
        ran.append(folder.name)
        return loss(**{key: float(value) for key, value in (word.split("=") for word in words) if key != "seed"})

    monkeypatch.setattr(studies, "loss_of", loss_of)
    return studies.tuned([], rates, (7,), Path("nowhere")), ran


@pytest.mark.parametrize("best", [0.05, 0.4, 1.6])
def test_a_rate_is_walked_to_the_best_and_no_run_is_repeated(studies, monkeypatch, best):
    found, ran = walked(studies, monkeypatch, lambda lr: abs(math.log(lr / best)), lr=0.4)
    assert found == {"lr": pytest.approx(best)} and len(set(ran)) == len(ran)
    assert {f"lr={best / 2:g},seed=7", f"lr={best * 2:g},seed=7"} <= set(ran), "both neighbours were tried"


def test_a_second_rate_is_walked_at_the_first_that_was_found(studies, monkeypatch):
    found, ran = walked(studies, monkeypatch, lambda a, b: abs(math.log2(a)) + abs(math.log2(b / 4)), a=2.0, b=1.0)
    assert found == {"a": 1, "b": 4} and "a=0.5,b=1,seed=7" in ran and not any(name.startswith("a=2,b=4") for name in ran)


def test_runs_that_diverge_are_worse_than_all_and_a_walk_ends(studies, monkeypatch, capsys):
    found, _ = walked(studies, monkeypatch, lambda lr: math.inf if lr > 0.1 else 1 / lr, lr=0.8)
    assert found == {"lr": 0.1}
    found, ran = walked(studies, monkeypatch, lambda lr: 1 / lr, lr=1.0)
    assert len(ran) == 3 + studies.MOVES and "lr is at an end of what was tried" in capsys.readouterr().out


def test_rates_are_chosen_by_the_mean_over_seeds(studies, monkeypatch):
    """Seed 1 alone would have 2, at which seed 2 is bad."""
    losses = {"lr=1,seed=1": 0.3, "lr=2,seed=1": 0.1, "lr=1,seed=2": 0.3, "lr=2,seed=2": 0.9}
    monkeypatch.setattr(studies, "loss_of", lambda words, folder: losses.get(folder.name, 9.0))
    assert studies.tuned([], {"lr": 1.0}, (1,), Path("nowhere")) == {"lr": 2}
    assert studies.tuned([], {"lr": 1.0}, (1, 2), Path("nowhere")) == {"lr": 1}


NAMES = [
    *("compression", "drift", "fashion", "few_rounds", "merging", "momentum"),
    *("muon", "one_worker", "outer_rate", "senders", "slow_momentum", "small_cnn"),
]


@pytest.mark.parametrize("name", NAMES)
def test_every_way_of_a_study_is_one_that_coopsgd_takes(studies, name):
    assert sorted(studies.STUDIES) == NAMES
    study = studies.STUDIES[name]
    for own in study.ways.values():
        words, rates = studies.words_of(study, own)
        if words["data"] == "fashion_mnist":
            needs(lookup("data", "fashion_mnist")().find() is not None, "dataset-fashion-mnist")
        compose.compose_config([f"{key}={value.split(',')[0]}" for key, value in {**words, **rates}.items()])


def test_what_the_results_say_of_studies_is_theirs(studies):
    named = re.findall(r"scripts/studies\.py ([a-z_ ]+)", (ROOT / "docs" / "results.md").read_text())
    assert {one for line in named for one in shlex.split(line)} <= set(studies.STUDIES)
