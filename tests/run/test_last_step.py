"""A run is saved after its last step, before the evaluation and the models that follow: a kill there costs no step."""

from __future__ import annotations

from functools import partial

import pytest
from running import unsaved_end
from test_resume import NETWORK, PLAIN, counting, interrupted, lines, same

import coopsgd
from coopsgd.run.folders import steps_saved

STOP = ("log_every=4", "eval_every=8", "checkpoint_every=15", "save=rows", "processes=1")
CASES = {
    "delay, momentum": (*PLAIN, "algo=dpsgd", "tau=4", "delay=1", "optim.momentum=0.9"),
    "cta, a clock": (*PLAIN, "algo=easgd", "tau=4", "order=cta", "cluster=ethernet_1g"),
    "accuracies before a mix, BatchNorm": (*NETWORK, "algo=gossip_pga", "tau=8", "optim=adamw"),
    "idle workers, save=best": (*NETWORK, "algo=fedavg", "algo.fraction=0.5", "tau=4", "save=best"),
    "plateau": (*PLAIN, "algo=pasgd", "tau=4", "schedule=plateau", "schedule.patience=0"),
    "adacomm": (*PLAIN, "algo=pasgd", "tau=4", "period=adacomm", "period.interval=6"),
    "evaluated at the ends alone": (*PLAIN, "algo=pasgd", "tau=4", "eval_every=0", "log_every=2rounds"),
}


def alike(one, other, words):
    """As test_resume.same; of save=best there are no rows."""
    if "save=best" not in words:
        return same(one, other)
    assert lines(one.folder) == lines(other.folder) and one.summary["best"] == other.summary["best"]
    assert (one.answer() == other.answer()).all()


@pytest.mark.parametrize("steps", [23, 24])  # the second has a line in a longer run too
@pytest.mark.parametrize("case", CASES)
def test_killed_after_its_last_step_and_made_longer(cli, tmp_path, case, steps):
    words = ("train", *STOP, *CASES[case])
    assert cli(*words, "steps=37", "hydra.run.dir=long", first=unsaved_end).code == 0
    assert cli(*words, f"steps={steps}", "hydra.run.dir=r").code == 0
    assert steps_saved(tmp_path / "r") == [steps]
    broken = interrupted(tmp_path / "r", tmp_path / "broken")
    ended = cli("resume", "broken", first=counting if "task=quadratic" in words else None)
    assert ended.code == 0 and f"goes on from step {steps}" in ended.out, ended
    assert not (tmp_path / "gradients").exists(), "a gradient was computed again"
    alike(coopsgd.Run(tmp_path / "r"), coopsgd.Run(broken), words)
    ended = cli("resume", "r", "steps=37")
    assert ended.code == 0 and f"goes on from step {steps}" in ended.out, ended
    alike(coopsgd.Run(tmp_path / "long"), coopsgd.Run(tmp_path / "r"), words)


def killed(what):
    """By SIGKILL, in the evaluation after the last step, or before the models are there."""
    import os
    import signal

    from coopsgd.loop.evaluation import Evaluator
    from coopsgd.run import final

    evaluate = Evaluator._evaluate

    def dies(self, loop):
        if loop.state.k == 23:
            os.kill(os.getpid(), signal.SIGKILL)
        return evaluate(self, loop)

    if what == "evaluation":
        Evaluator._evaluate = dies
    else:
        final.write = lambda *given: os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("what", ["evaluation", "models"])
def test_killed_at_the_end(cli, tmp_path, what):
    words = ("train", *STOP, *PLAIN, "processes=2", "algo=dpsgd", "tau=4", "optim.momentum=0.9", "steps=23")
    assert cli(*words, "hydra.run.dir=whole").code == 0
    assert cli(*words, "hydra.run.dir=r", first=partial(killed, what)).code == 1
    assert not (tmp_path / "r" / "checkpoints" / "final.safetensors").exists()
    ended = cli("resume", "r", first=counting)
    assert ended.code == 0 and "goes on from step 23" in ended.out, ended
    assert not (tmp_path / "gradients").exists()
    same(coopsgd.Run(tmp_path / "whole"), coopsgd.Run(tmp_path / "r"))


@pytest.mark.parametrize("words", [("schedule=plateau", "schedule.patience=0"), ("schedule=cosine",)])
def test_it_is_verified(cli, tmp_path, words):
    words = ("train", *STOP, *PLAIN, *words, "processes=1", "algo=pasgd", "tau=4")
    assert cli(*words, "steps=24", "hydra.run.dir=r").code == 0
    ended = cli("verify", "r")
    assert ended.code == 0 and "the checkpoint of step 24, the final models, bit for bit" in ended.out, ended
    assert cli("resume", "r", "steps=40", "checkpoint_every=0").code == 0
    for more in ((), ("--steps", "24"), ("--steps", "9")):
        ended = cli("verify", "r", *more)
        assert ended.code == 0 and "same: " in ended.out, (more, ended)
    assert cli(*words, "steps=24", "checkpoint_every=0", "hydra.run.dir=never").code == 0
    assert steps_saved(tmp_path / "never") == []
