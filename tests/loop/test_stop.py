"""A run ends where a target is reached or a budget spent: at the same step wherever its rows are, and after a resume."""

from __future__ import annotations

import json

import pytest
from playing import QUADRATIC, play

from coopsgd.errors import ConfigError
from coopsgd.setup.stop import Stop

WORDS = (*QUADRATIC, "algo=pasgd", "tau=4", "workers=4", "log_every=5", "steps=100")
ROUND = 6 * 8 * 10  # bytes: 2 (m - 1) messages of ten float64


def end(process_groups, processes, *words):
    return play(process_groups, processes, *WORDS, *words).lines


def plain(lines):
    return [{name: value for name, value in line.items() if not name.endswith("_s") or name == "sim_s"} for line in lines]


@pytest.mark.parametrize(("budget", "rounds"), [(1, 1), (ROUND, 1), (ROUND + 1, 2), (3 * ROUND, 3)])
def test_a_budget_of_bytes_is_spent_by_the_round_that_reaches_it(process_groups, budget, rounds):
    lines = end(process_groups, 1, f"stop.bytes={budget}")
    assert lines[-1]["step"] == 4 * rounds and lines[-1]["bytes"] == ROUND * rounds
    assert lines[-1]["eval/loss"] is not None, "and the models are evaluated there"
    whole = end(process_groups, 1)
    assert [line["step"] for line in lines[:-1]] == list(range(0, 4 * rounds, 5))
    assert plain(lines[:-1]) == plain(whole[: len(lines) - 1])


def test_so_many_steps_of_a_longer_run(process_groups):
    """The rate moves as in the whole run, of which these are the first steps."""
    words = ("schedule=cosine", "log_every=5")
    whole = end(process_groups, 1, *words, "log_every=1")
    for steps in (7, 10, 99):
        lines = end(process_groups, 1, *words, f"stop.steps={steps}")
        assert [line["step"] for line in lines] == [*range(0, steps, 5), steps]
        assert lines[-1]["eval/loss"] is not None and lines[-1]["lr"] == whole[steps]["lr"]
        assert lines[-1]["bytes"] == whole[steps]["bytes"]
    assert end(process_groups, 1, "stop.steps=1000")[-1]["step"] == 100


def test_a_target_a_time_and_the_first_of_several(process_groups):
    whole = end(process_groups, 1, "eval_every=5")
    at = whole[6]
    lines = end(process_groups, 1, "eval_every=5", "stop.metric=eval/loss", f"stop.target={at['eval/loss']}")
    assert plain(lines) == plain(whole[:7])
    both = end(process_groups, 1, "eval_every=5", "stop.metric=eval/loss", f"stop.target={at['eval/loss']}", "stop.bytes=900")
    assert both[-1]["step"] == 8
    clock = end(process_groups, 1, "cluster=wan_100m", "stop.sim_seconds=0.3")
    assert clock[-1]["sim_s"] >= 0.3 > clock[-2]["sim_s"]
    assert end(process_groups, 1, "stop.seconds=1e-9")[-1]["step"] == 0
    assert len(end(process_groups, 1, "stop.seconds=1e9")) == len(end(process_groups, 1))


@pytest.mark.parametrize(
    "words",
    [
        ("stop.bytes=1000",),
        ("stop.steps=7",),
        ("stop.metric=eval/loss", "stop.target=1.9", "eval_every=3"),
        ("stop.seconds=1e-9",),
    ],
)
def test_every_placement_ends_at_the_same_step(process_groups, words):
    one, two = end(process_groups, 1, *words), end(process_groups, 2, *words)
    assert [line["step"] for line in one] == [line["step"] for line in two] and one[-1]["step"] < 100


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"metric": "eval/loss"}, "stop.target"),
        ({"target": 1.0}, "stop.metric"),
        ({"metric": "eval/accurcy", "target": 1.0}, "did you mean eval/accuracy?"),
        ({"metric": "bytes", "target": 1.0}, "use stop.bytes"),
        ({"bytes": -1}, "stop.bytes"),
        ({"steps": 0}, "stop.steps"),
        ({"steps": 2.5}, "stop.steps"),
        ({"metric": "steps", "target": 1.0}, "use stop.steps"),
        ({"seconds": True}, "stop.seconds"),
    ],
)
def test_what_can_never_come_is_refused(given, named):
    with pytest.raises(ValueError, match=named.replace("?", r"\?")):
        Stop(**given)


@pytest.mark.parametrize("words", [("stop.sim_seconds=1",), ("stop.metric=eval/accuracy", "stop.target=0.9")])
def test_what_this_run_does_not_have_is_refused(words):
    with pytest.raises(ConfigError, match=words[0].partition("=")[0]):
        play(None, 1, *WORDS, *words)


def test_a_share_is_reached_from_below():
    assert Stop(metric="eval/accuracy", target=0.9).reached({"eval/accuracy": 0.95})
    assert not Stop(metric="eval/accuracy", target=0.9).reached({"eval/accuracy": 0.85})
    assert Stop(metric="train/loss", target=0.9).reached({"train/loss": 0.85})
    assert not Stop(metric="train/loss", target=0.9).reached({"train/loss": None})


def test_a_run_that_ended_so_is_over(cli, tmp_path):
    words = ("task=quadratic", "algo=pasgd", "tau=4", "steps=100", "processes=1", "checkpoint_every=2", "save=rows")
    ended = cli("train", *words, "stop.bytes=1000", "hydra.run.dir=r")
    assert ended.code == 0, ended.err
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["status"] == "completed" and summary["steps"] < 100
    assert f"stop.bytes: ended after step {summary['steps']} of 100" in summary["notes"]
    assert "nothing is left to do" in cli("resume", "r").out
    (tmp_path / "r" / "summary.json").unlink()  # as if it had been killed between its last checkpoint and its end
    assert cli("resume", "r").code == 0
    again = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert again["steps"] == summary["steps"] and again["eval"] == summary["eval"]
    refused = cli("resume", "r", "steps=200", "stop.bytes=2000")
    assert refused.code == 2 and "stop.bytes" in refused.err
