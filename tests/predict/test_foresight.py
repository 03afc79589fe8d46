"""What lies beyond the end of a run is told before it starts, and in the summary."""

from __future__ import annotations

import json

import pytest
from playing import QUADRATIC, play, settle

from coopsgd import Common
from coopsgd.commands import compose
from coopsgd.predict import foresight
from coopsgd.setup.parts import Parts
from coopsgd.strategies.cooperative import Cooperative

SMALL = ("task=quadratic", "workers=4", "processes=1")


def message(*words: str) -> list[str]:
    checked = compose.compose_config((*SMALL, *words))
    return [note for note in checked.notes if "ignored" not in note and "given twice" not in note]


# what lies beyond -> words, what the note must name
BEYOND = {
    "inside the first round of a server": (("algo=fedavg", "tau=50", "steps=40"), ["steps=40", "step 50", "answer"]),
    "inside a later round of a server": (("algo=fedavg", "steps=45"), ["steps=45", "step 40", "5 steps"]),
    "inside the first round": (("algo=easgd", "tau=50", "steps=40"), ["steps=40", "step 50", "trains alone"]),
    "cta waits for a step that never comes": (
        ("algo=dpsgd", "order=cta", "tau=40", "steps=40"),
        ["steps=40", "trains alone"],
    ),
    "milestones": (
        ("schedule=multistep", "schedule.milestones=[20,40,50]", "steps=40"),
        ["schedule.milestones=[40, 50]", "40"],
    ),
    "a milestone": (("schedule=multistep", "schedule.milestones=[50]", "steps=40"), ["schedule.milestones=[50]", "lies"]),
    "a drop": (("schedule=step", "schedule.every=70", "steps=40"), ["schedule=step", "70"]),
    "a period's switch": (("period=post_local", "period.switch=40", "steps=40"), ["period.switch=40", "stays 1"]),
    "a drop that is waited for": (
        ("period=post_local", "schedule=multistep", "schedule.milestones=[90]", "steps=40"),
        ["period.switch=auto", "stays 1"],
    ),
    "a tau": (("tau=[[0,1],[20,2],[500,8]]", "steps=40"), ["tau", "500", "8"]),
    "a tau passed over": (("tau=[[0,30],[5,2],[25,3]]", "steps=40"), ["tau", "step 5", "passed over"]),
    "the first decision": (("period=adacomm", "period.interval=60", "steps=40"), ["period.interval=60", "stays"]),
    "everyone's average": (("algo=two_level", "tau=5", "algo.tau_2=50", "steps=40"), ["algo.tau_2=50", "10", "8"]),
    "everyone's average, by count": (("algo=gossip_pga", "algo.every=50", "steps=40"), ["algo.every=50", "50", "40"]),
    "a list of W": (
        ("algo=cooperative", "algo.W=[[[0,1],[1,0]],[[1,0],[0,1]],[[0.5,0.5],[0.5,0.5]]]", "workers=2", "tau=20", "steps=40"),
        ["3 communications", "2"],
    ),
    "evaluations": (("eval_every=100", "steps=40"), ["eval_every=100", "40"]),
    "log lines": (("log_every=100", "steps=40"), ["log_every=100", "40"]),
}


@pytest.mark.parametrize("case", BEYOND)
def test_it_is_said_before_the_start(case):
    words, parts = BEYOND[case]
    notes = message(*words)
    assert any(all(part in note for part in parts) for note in notes), notes


@pytest.mark.parametrize(
    "words",
    [
        ("steps=40",),  # eval_every=100 is only a default
        ("algo=fedavg", "steps=40"),
        ("algo=easgd", "steps=45"),  # the answer is the mean of the workers, whose last steps are in it
        ("algo=parameter_server", "steps=45"),
        ("algo=gea", "steps=45"),
        ("algo=hierarchical", "steps=45"),
        ("algo=fullsync", "steps=1"),
        ("algo=independent", "tau=50", "steps=40"),
        ("algo=pasgd", "tau=50", "steps=40", "workers=1"),
        ("algo=dpsgd", "order=cta", "tau=39", "steps=40"),
        ("schedule=multistep", "schedule.milestones=[39]", "steps=40"),
        ("period=post_local", "period.switch=30", "steps=40"),
        ("tau=[[0,1],[20,2],[38,8]]", "steps=40", "algo=pasgd"),
        ("algo=pasgd", "steps=0", "tau=50"),
        ("algo=two_level", "tau=5", "steps=40"),
        ("algo=pasgd", "tau=1", "steps=200000"),
    ],
    ids=" ".join,
)
def test_nothing_is_said_of_what_comes(words):
    assert message(*words) == []


def test_epochs_of_clients(cli, tmp_path):
    """A run that ended inside its first round said nothing: 0 rounds, loss unchanged, completed."""
    ended = cli("train", "algo=fedavg", "algo.epochs=5", "steps=40", "processes=1", "hydra.run.dir=run")
    assert ended.code == 0, ended.err
    (note,) = ended.lines
    assert "steps=40" in note and "first round" in note and "model that all began with" in note
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["notes"] == [note]
    shown = cli("show", "algo=fedavg", "algo.epochs=5", "steps=40")
    assert note in shown.out.replace("\n", "")


def test_what_only_the_run_can_tell_is_in_its_summary(cli, tmp_path):
    words = ("algo=fedavg", "tau=9", "period=adacomm", "period.interval=18", "steps=40", "eval_every=0", "hydra.run.dir=run")
    ended = cli("train", *SMALL, *words)
    assert ended.code == 0 and not ended.lines
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["phase"] > 0
    (note,) = summary["notes"]
    assert f"the {summary['phase']} steps since" in note and note in ended.out.replace("\n", "")


class Anchor(Cooperative):
    """Answers with what the first worker's server last had, and does not say so."""

    def init(self, fleet, x) -> Common:
        return fleet.pick(x, 0)

    def receive(self, fleet, t, x, heard, s):
        return heard, fleet.pick(heard, 0)

    def answer(self, fleet, x, s):
        return s


def test_an_answer_of_ones_own_that_lags_is_found_out(process_groups):
    words = (*QUADRATIC, "algo=pasgd", "tau=10")
    settings = settle((*words, "steps=24"))
    for name, lags in (("test_foresight:Anchor", True), ("cooperative", False)):
        settings.algo["strategy"] = name
        run = play(process_groups, 2, *words, "steps=24", f"algo.strategy={name}")
        assert run.lags is lags
        found = foresight.hindsight(Parts(settings), 2, 4, run.lags)
        assert len(found) == lags and all("step 20" in note for note in found)
