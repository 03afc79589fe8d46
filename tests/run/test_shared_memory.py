"""Runs whose processes share one memory: the default on one machine, resumed on any fleet, refused where it cannot be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_resume import PLAIN, SAVED, interrupted, lines, same

import coopsgd
from coopsgd.setup import schema

WORDS = (*PLAIN, "algo=easgd", "tau=3", "optim.momentum=0.9")
ROUNDING = 1e-12


@pytest.fixture
def trained(cli, tmp_path):
    """trained(folder, words...): a run of these, with a checkpoint after step 15 of 23."""

    def train(folder, *words):
        ended = cli("train", *WORDS, *SAVED, *words, f"hydra.run.dir={folder}")
        assert ended.code == 0, ended
        return coopsgd.Run(tmp_path / folder)

    return train


def frozen(run):
    return schema.load(run.folder / "config.yaml").fleet


def close(one, other):
    """Are two runs the same to rounding?"""
    for what in ("rows", "answer"):
        np.testing.assert_allclose(getattr(one, what)(), getattr(other, what)(), rtol=0, atol=ROUNDING)
    assert [line["bytes"] for line in lines(one.folder)] == [line["bytes"] for line in lines(other.folder)]


def test_it_is_the_default_and_nothing_is_sent(trained):
    one = trained("one", "processes=1")
    found = {fleet: trained(fleet, "processes=2", f"fleet={fleet}") for fleet in ("auto", "processes")}
    assert [frozen(run) for run in found.values()] == ["shared", "processes"]
    assert frozen(one) == "auto"
    close(found["auto"], found["processes"])
    close(found["auto"], one)
    assert [run.summary["ledger"]["wire_bytes"] > 0 for run in found.values()] == [False, True]
    assert found["auto"].summary["ledger"]["bytes"] == found["processes"].summary["ledger"]["bytes"]
    same(found["auto"], trained("again", "processes=2"))


@pytest.mark.parametrize(("first", "second"), [("shared", "processes"), ("processes", "shared")])
def test_a_run_goes_on_in_the_other_fleet(cli, tmp_path, trained, first, second):
    whole = trained("whole", "processes=2", f"fleet={first}")
    interrupted(whole.folder, tmp_path / "broken")
    assert cli("resume", "broken", f"fleet={second}", "processes=4").code == 0
    close(whole, coopsgd.Run(tmp_path / "broken"))


def test_a_folder_of_an_earlier_version_stays_on_the_network(cli, trained):
    run = trained("old", "processes=2", "fleet=processes")
    config = run.folder / "config.yaml"
    kept = [line for line in config.read_text().splitlines(keepends=True) if not line.startswith("fleet:")]
    config.write_text("".join(kept))
    assert frozen(run) == "processes"
    ended = cli("resume", "old", "steps=24")
    assert ended.code == 0, ended
    assert frozen(run) == "processes" and coopsgd.Run(run.folder).summary["ledger"]["wire_bytes"] > 0


def test_what_auto_chose_is_chosen_again(cli, trained, tmp_path):
    """Nobody asked for one memory: elsewhere, or in other processes, a run goes on without being told how."""
    run = trained("r", "processes=2")
    assert frozen(run) == "shared"
    ended = cli("resume", "r", "steps=24", "launch=false")
    assert ended.code == 0 and "torchrun" in ended.out, ended
    assert frozen(run) == "processes"
    one = trained("one", "processes=1")
    assert frozen(one) == "auto"
    ended = cli("train", *WORDS, *SAVED[1:], "steps=24", "processes=2", "resume=auto", "hydra.run.dir=one")
    assert ended.code == 0, ended
    assert frozen(one) == "shared"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("fleet=none",), "fleet: must be one of auto, shared, processes, got 'none'"),
    ],
)
def test_refused_in_one_line(cli, words, why):
    ended = cli("train", *PLAIN, *words)
    assert ended.code == 2 and len(ended.lines) == 1 and why in ended.err, ended


def test_several_machines_are_given_processes_of_their_own(cli, tmp_path):
    assert cli("train", *PLAIN, "processes=2", "launch=false", "hydra.run.dir=r").code == 0
    assert schema.load(tmp_path / "r" / "config.yaml").fleet == "processes"


def test_show_says_how_it_is_carried_out(cli):
    shown = json.loads(cli("show", "algo=easgd", "workers=4", "processes=2", "device=cpu", "--json").out)
    assert shown["factors"][0]["wire_vectors"] == 0 and "one memory" in shown["factors"][0]["plan"][0]
    sent = json.loads(cli("show", "algo=easgd", "workers=4", "processes=2", "device=cpu", "fleet=processes", "--json").out)
    assert sent["factors"][0]["wire_vectors"] > 0
