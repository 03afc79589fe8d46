"""Runs that end before their steps are done, and shares that fill no batch: what goes on is the run that nobody stopped."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
from playing import play
from running import in_turn, unsaved_end
from test_resume import PLAIN, interrupted, lines, same

import coopsgd

SMALL = ("checkpoint_every=15", "log_every=4", "eval_every=8", "save=rows", "processes=1")
WORDS = (*PLAIN, *SMALL, "algo=pasgd", "tau=4")
FEW = (  # the smallest of 8 shares has 53 samples
    *("data=digits", "model=mlp", "model.hidden=[8]", "workers=8", "batch_size=64", "device=cpu", *SMALL),
    *("partition=dirichlet", "partition.alpha=0.1", "partition.min_size=1", "partition.small=train", "steps=23"),
)


def gone_on(cli, tmp_path, words, first=None):
    """A run, and one that went on from its checkpoint after step 15."""
    ended = cli("train", *words, "hydra.run.dir=whole", first=partial(in_turn, first, unsaved_end))
    assert ended.code == 0, ended
    assert [path.name for path in (tmp_path / "whole" / "checkpoints").glob("step-*")] == ["step-15"]
    interrupted(tmp_path / "whole", tmp_path / "broken")
    ended = cli("resume", "broken", first=first)
    assert ended.code == 0 and "goes on from step 15" in ended.out, ended
    return coopsgd.Run(tmp_path / "whole"), coopsgd.Run(tmp_path / "broken")


SHARES = {"gossip": ("algo=dpsgd", "optim.momentum=0.9"), "epochs": ("algo=fedavg", "algo.epochs=1"), "apart": ("processes=2",)}


@pytest.mark.parametrize("kind", SHARES)
def test_shares_that_fill_no_batch(cli, tmp_path, kind):
    one, other = gone_on(cli, tmp_path, (*FEW, *SHARES[kind]))
    assert min(map(len, one.parts.task.shares(one.config))) < 64 < max(map(len, one.parts.task.shares(one.config)))
    same(one, other)


def by_steps():
    """The clock of a run tells a thousandth of a second for each step, whatever this machine takes."""
    from coopsgd.loop import evaluation
    from coopsgd.loop.loop import Loop

    advance, now = Loop.advance, [0.0]

    def counted(self):
        now[0] += 0.001
        advance(self)

    Loop.advance = counted
    evaluation.time = SimpleNamespace(perf_counter=lambda: now[0])


def stops(process_groups):
    """What ends a run of 100 steps at step 24, beyond the checkpoint."""
    found = {line["step"]: line for line in play(process_groups, 1, *WORDS, "steps=100").lines}
    assert found[16]["eval/loss"] > found[24]["eval/loss"]
    return {
        "stop.seconds": ("stop.seconds=0.0205",),
        "stop.target": ("stop.metric=eval/loss", f"stop.target={found[24]['eval/loss']}"),
        "stop.steps": ("stop.steps=24",),
        "stop.bytes": (f"stop.bytes={found[24]['bytes']}",),
    }


@pytest.mark.parametrize("key", ["stop.seconds", "stop.target", "stop.steps", "stop.bytes"])
def test_what_ends_a_run(cli, tmp_path, process_groups, key):
    """It ends where it did, to the bit; and it ends there for good: more steps are refused, with what gives them."""
    one, other = gone_on(cli, tmp_path, (*WORDS, "steps=100", *stops(process_groups)[key]), first=by_steps)
    same(one, other)
    assert one.summary["steps"] == 24 and f"{key}: ended after step 24 of 100" in other.summary["notes"]
    before = (tmp_path / "broken" / "config.yaml").read_text()
    ended = cli("resume", "broken", "steps=200")
    assert ended.code == 2 and len(ended.lines) == 1, ended
    assert ended.err.startswith(f"coopsgd: steps: {key} ended the run after step 24 of 100, and would end it there again; ")
    assert (tmp_path / "broken" / "config.yaml").read_text() == before and lines(one.folder) == lines(other.folder)
    anew = ended.err.partition("begin anew: coopsgd ")[2].split()
    if key == "stop.target":
        ended = cli(*anew, "hydra.run.dir=anew")
        assert ended.code == 0 and coopsgd.Run(tmp_path / "anew").summary["steps"] == 200, ended
    ended = cli("resume", "broken")
    assert ended.code == 0 and "completed at step 24; nothing is left to do" in ended.out


def test_a_stop_that_lies_ahead_is_told(cli, tmp_path):
    assert cli("train", *WORDS, "steps=16", "stop.steps=24", "hydra.run.dir=r").code == 0
    ended = cli("resume", "r", "steps=40")
    assert ended.code == 0 and "stop.steps=24: ends the run before its steps=40" in ended.err
    assert coopsgd.Run(tmp_path / "r").summary["steps"] == 24
