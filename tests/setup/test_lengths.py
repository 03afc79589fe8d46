"""Lengths in steps, epochs or rounds: how long the run is, how often it is looked at, when tau and the rate move."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from playing import MLP, QUADRATIC, play, settle
from refusals import refused

from coopsgd.commands import compose
from coopsgd.setup.lengths import step_of
from coopsgd.setup.parts import Parts
from coopsgd.setup.spoken import words_of
from coopsgd.strategies.period import Period

SMALL = (*MLP, "workers=4", "batch_size=16")
SKEWED = (*SMALL, "algo=fedavg", "algo.fraction=0.5", "algo.epochs=1", "partition=quantity", "partition.alpha=2")


def test_an_epoch_is_the_steps_of_the_longest_pass():
    config = settle(SMALL)
    per_epoch = Parts(config).task.steps_per_epoch(config)
    assert per_epoch == max(map(len, Parts(config).task.shares(config))) // 16 and per_epoch > 10
    words = ("eval_every=1epoch", "log_every=2epochs", "checkpoint_every=3epoch", "tau=1epoch", "epochs=4")
    found = settle((*SMALL, *words))
    assert (found.eval_every, found.log_every, found.checkpoint_every) == (per_epoch, 2 * per_epoch, 3 * per_epoch)
    assert (found.tau, found.steps, found.epochs) == (per_epoch, 4 * per_epoch, None)
    assert settle((*SMALL, "eval_every=01rounds")).eval_every == "1round"
    assert settle((*SMALL, "eval_every=7steps", "log_every=1step")).eval_every == 7
    listed = settle((*SMALL, "tau=[[0,1],[2epochs,8],[130rounds,20]]")).tau
    assert listed[1] == [2 * per_epoch, 8] and listed[2] == [2 * per_epoch + 8 * (130 - 2 * per_epoch), 20]


def test_a_switch_of_tau_is_given_in_any_unit():
    per_epoch = settle((*SMALL, "tau=1epoch")).tau
    for said, step in (("5", 5), ("3epochs", 3 * per_epoch), ("20rounds", 20)):
        config = settle((*SMALL, "period=post_local", f"period.switch={said}", "tau=4"))
        assert config.period["switch"] == step
    assert settle((*SMALL, "period=adacomm", "period.interval=2epochs")).period["interval"] == 2 * per_epoch


OWN = """
from dataclasses import dataclass
from coopsgd.registry import option
from coopsgd.strategies.period import Period

@dataclass(frozen=True)
class Twice(Period):
    after: int = option(5, "when tau doubles", unit="steps")

    def next(self, s, k, lr, loss, now):
        return (self.tau if k < self.after else 2 * self.tau), s
"""


def test_a_key_of_ones_own_that_is_in_steps_takes_epochs(tmp_path, monkeypatch):
    (tmp_path / "own_twice.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    per_epoch = settle((*SMALL, "tau=1epoch")).tau
    config = settle((*SMALL, "period.name=own_twice:Twice", "period.after=2epochs", "tau=3"))
    assert config.period["after"] == 2 * per_epoch
    assert (
        play(None, 1, *SMALL, "period.name=own_twice:Twice", "period.after=1epoch", "tau=3", "steps=60").lines[-1]["tau"] == 6
    )


ROUNDS = {
    "pasgd": (*QUADRATIC, "algo=pasgd", "tau=5", "rounds=6"),
    "gradients": (*QUADRATIC, "algo=fullsync", "rounds=7"),
    "two levels": (*QUADRATIC, "algo=two_level", "tau=2", "rounds=9"),
    "a list": (*QUADRATIC, "algo=dpsgd", "tau=[[0,1],[4,3],[10,5]]", "rounds=11"),
    "a switch": (*QUADRATIC, "algo=easgd", "tau=4", "period=post_local", "period.switch=6", "rounds=9"),
    "unequal clients": (*SKEWED, "rounds=4"),
}


@pytest.mark.parametrize("name", ROUNDS)
def test_a_run_of_so_many_rounds_has_as_many_communications(process_groups, name):
    words = [word for word in ROUNDS[name] if not word.startswith("steps=")]
    for processes in (1, 2):
        run = play(process_groups, processes, *words)
        assert run.logical[0] == int(words[-1].partition("=")[2])
        assert run.lines[-1]["phase"] == 0, "it ends with the last communication"
    assert settle(words).rounds is None


def ends_of(words: tuple[str, ...], steps: int) -> list[int]:
    """After which steps of such a run a round ends, told by the phase of every step's line."""
    lines = play(None, 1, *words, f"steps={steps}", "log_every=1").lines
    return [line["step"] for line in lines[1:] if line["phase"] == 0]


WATCHED = {
    "pasgd": (*QUADRATIC, "algo=pasgd", "tau=4"),
    "adacomm": (*QUADRATIC, "algo=easgd", "tau=6", "period=adacomm", "period.interval=8"),
    "fedavg": (*SKEWED,),
    "gradients": (*QUADRATIC, "algo=fullsync"),
}


@pytest.mark.parametrize("name", WATCHED)
def test_looked_at_after_each_second_round(process_groups, name):
    words, steps = WATCHED[name], 300 if name == "fedavg" else 44
    words = tuple(word for word in words if not word.startswith(("steps=", "log_every=", "eval_every=")))
    ends = ends_of(words, steps)
    assert len(ends) > 3
    runs = [play(process_groups, p, *words, f"steps={steps}", "log_every=1round", "eval_every=2rounds") for p in (1, 2)]
    for run in runs:
        lines = {line["step"]: line for line in run.lines}
        assert list(lines) == sorted({0, *ends, steps})
        assert [k for k, line in lines.items() if "eval/loss" in line] == sorted({0, *ends[1::2], steps})
    np.testing.assert_allclose(runs[1].x, runs[0].x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("more", [(), ("order=cta",), ("delay=1",), ("delay=tau",)], ids=str)
def test_rounds_are_the_steps_that_they_are(more):
    """The same lines, consensus before and after a communication too, and the same models, to the bit."""
    words = (*QUADRATIC, "algo=dpsgd", "tau=4", "steps=30", *more)
    words = tuple(word for word in words if not word.startswith(("log_every=", "eval_every=")))
    rounds = play(None, 1, *words, "log_every=1round", "eval_every=2rounds")
    steps = play(None, 1, *words, "log_every=4", "eval_every=8")
    for one, other in zip(rounds.lines, steps.lines, strict=True):
        assert {k: v for k, v in one.items() if not k.endswith("_s")} == {
            k: v for k, v in other.items() if not k.endswith("_s")
        }
    assert np.array_equal(rounds.x, steps.x)


def test_adacomm_decides_after_so_many_rounds():
    words = (*QUADRATIC, "algo=pasgd", "tau=3", "period=adacomm", "steps=40", "log_every=1", "period.gamma=1")
    by_rounds = [line["tau"] for line in play(None, 1, *words, "period.interval=2rounds").lines]
    by_steps = [line["tau"] for line in play(None, 1, *words, "period.interval=6").lines]
    first = next(k for k, tau in enumerate(by_rounds) if tau != 3)
    assert first == next(k for k, tau in enumerate(by_steps) if tau != 3)  # two rounds of 3 steps are 6
    stages = [len(list(same)) // tau for tau, same in itertools.groupby(by_rounds[1:])]
    assert all(rounds >= 2 for rounds in stages[:-1])


def test_rounds_are_counted_where_they_are_not_alike():
    period = Period([[0, 1], [4, 3]])
    assert [step_of("x", n, period, None, 2) for n in (1, 4, 5, 7)] == [1, 4, 7, 13]
    assert step_of("x", 10**9, Period(7), None, 2) == 7 * 10**9


BAD = {
    "half an epoch": (("eval_every=1.5epoch",), ["eval_every", "1epoch", "1.5epoch"]),
    "no number": (("log_every=epoch",), ["log_every", "1epoch", "'epoch'"]),
    "none": (("log_every=0rounds",), ["log_every", "at least 1", "0rounds"]),
    "a total in steps": (("steps=4epochs",), ["steps", "epochs=4"]),
    "two totals": (("epochs=2", "rounds=3"), ["epochs=2", "rounds=3", "one of the two"]),
    "rounds of zero": (("rounds=0",), ["rounds", "at least 1"]),
    "rounds nobody knows": (("rounds=5", "period=qsr"), ["rounds=5", "as it runs", "steps or epochs"]),
    "a checkpoint": (("checkpoint_every=2round5",), ["checkpoint_every", "5rounds", "2round5"]),
    "a switch": (("period=post_local", "period.switch=5foo"), ["period.switch", "5epochs", "5foo"]),
    "an interval": (("period=adacomm", "period.interval=0rounds"), ["period.interval", "5rounds", "0rounds"]),
    "tau of itself": (("tau=2rounds",), ["tau", "rounds", "steps or epochs"]),
    "no epochs": (("task=quadratic", "eval_every=1epoch"), ["eval_every=1epoch", "quadratic", "no epochs", "rounds"]),
    "too many": (("epochs=9000000000000000000",), ["epochs", "2^63"]),
    "too many to count": (("rounds=2e6", "algo=fedavg"), ["rounds=2000000", "1000000", "steps"]),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_in_one_line(case):
    refused(*BAD[case])


def test_a_checkpoint_after_every_third_round_and_a_longer_run_in_rounds(cli, tmp_path):
    words = ("task=quadratic", "workers=4", "processes=1", "algo=pasgd", "tau=4", "log_every=2rounds", "device=cpu")
    ended = cli("train", *words, "rounds=8", "checkpoint_every=3rounds", "keep=9", "hydra.run.dir=r")
    assert ended.code == 0, ended
    saved = {path.name for path in (tmp_path / "r" / "checkpoints").glob("step-*")}
    assert saved == {"step-32"}  # the newest stays, that of the end
    ended = cli("resume", "r", "rounds=11")
    assert ended.code == 0 and "goes on from step 32" in ended.out, ended
    import coopsgd

    summary = coopsgd.Run(tmp_path / "r").summary
    assert (summary["steps"], summary["ledger"]["rounds"]) == (44, 11)


def test_in_a_loop_of_ones_own():
    import torch

    import coopsgd

    def coop(*words: str):
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return coopsgd.Cooperation([model], [optimizer], *words)

    found = coop("algo=pasgd", "period=post_local", "period.switch=6rounds", "tau=4")
    assert found.config.period["switch"] == 6
    with pytest.raises(coopsgd.errors.ConfigError, match=r"^tau=1epoch: how long an epoch is only your loop knows; give steps"):
        coop("algo=pasgd", "tau=1epoch")
    with pytest.warns(UserWarning, match=r"eval_every, rounds, schedule: ignored; your own loop decides that"):
        coop("algo=pasgd", "eval_every=1epoch", "rounds=20", "schedule=plateau")


def test_a_round_whose_communication_is_put_off_is_noted():
    words = (*QUADRATIC, "algo=pasgd", "tau=4", "rounds=3", "steps=null")
    line = "rounds=3: under order=cta a round's communication comes with the step behind it"
    notes = {order: compose.compose_config((*words, f"order={order}")).notes for order in ("cta", "atc")}
    assert [any(note.startswith(line) for note in notes[order]) for order in ("cta", "atc")] == [True, False]


def test_none_takes_a_key_back():
    assert words_of([{"rounds": None, "steps": 4}]) == ["rounds=null", "steps=4"]
