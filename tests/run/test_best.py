"""`save=best`: the best model that was evaluated is kept, the same on every placement and after a resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from running import unsaved_end

from coopsgd import Run
from coopsgd.commands import compose
from coopsgd.errors import ConfigError, DamagedFile

# noise and a rate this high: the loss goes up and down
WORDS = ("task=quadratic", "dtype=float64", "workers=4", "optim.lr=0.8", "task.sigma=2", "steps=40", "eval_every=5", "seed=3")
WORDS += ("log_every=10", "tau=2", "save=best", "checkpoint_every=10", "keep=9")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def best_line(run, metric="eval/loss", sign=1):
    return min((line for line in run.metrics() if line.get(metric) is not None), key=lambda line: sign * line[metric])


def loss_of(run, answer):
    parts = run.parts
    return parts.task.build(parts.config, range(4), "cpu").evaluate(answer)["eval/loss"]


def test_it_is_the_best_of_all_evaluations(cli):
    for at, processes in (("one", 1), ("two", 2)):
        assert cli("train", *WORDS, f"processes={processes}", f"hydra.run.dir={at}").code == 0
    run = Run("one")
    line = best_line(run)
    assert 0 < line["step"] < 40, "neither the first nor the last, or this shows nothing"
    assert run.summary["best"] == {"metric": "eval/loss", "step": line["step"], "value": line["eval/loss"]}
    assert loss_of(run, run.answer("best")) == line["eval/loss"] < loss_of(run, run.answer())
    other = Run("two")
    assert other.summary["best"]["step"] == line["step"]
    assert (other.answer("best") - run.answer("best")).abs().max() < 1e-12
    assert run.summary["saved"] == "answer" and cli("verify", "one").code == 0
    # it is read as the other file is
    data = bytearray(Path("one/checkpoints/best.safetensors").read_bytes())
    data[-1] ^= 1
    Path("one/checkpoints/best.safetensors").write_bytes(data)
    with pytest.raises(DamagedFile, match=r"best\.safetensors is damaged"):
        run.answer("best")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_resumed_run_keeps_the_same_one(cli, processes):
    assert cli("train", *WORDS, f"processes={processes}", "hydra.run.dir=whole", first=unsaved_end).code == 0
    whole = Run("whole")
    assert whole.summary["best"]["step"] < 30, "or it would be found anew"
    shutil.copytree("whole", "part")
    for name in ("summary.json", "checkpoints/best.safetensors", "checkpoints/final.safetensors"):
        Path("part", name).unlink()  # as if it had been killed after this checkpoint
    assert [path.name for path in Path("part/checkpoints").iterdir()] == ["step-30"]
    assert cli("resume", "part").code == 0
    part = Run("part")
    assert part.summary["best"] == whole.summary["best"] and torch.equal(part.answer("best"), whole.answer("best"))


def test_it_is_there_while_the_run_goes_on(cli):
    """With every checkpoint, so that what is killed has left it."""
    assert cli("train", *WORDS, "processes=1", "hydra.run.dir=r").code == 0
    Path("r/summary.json").unlink()
    assert Run("r").answer("best").shape == (1, 10)


def test_of_a_share_the_largest_and_a_network(cli):
    words = ("data=digits", "model=cnn", "model.width=8", "model.norm=batch", "workers=2", "processes=1", "steps=12", "tau=2")
    words += ("eval_every=2", "optim.lr=0.5", "save=best", "objective=eval/accuracy")
    assert cli("train", *words, "hydra.run.dir=r").code == 0
    run = Run("r")
    line = best_line(run, "eval/accuracy", -1)
    assert run.summary["best"] == {"metric": "eval/accuracy", "step": line["step"], "value": line["eval/accuracy"]}
    data = run.parts.data.load(0)
    assert run.model("best") is not None and len(data.test_y)
    assert cli("train", *words, "start=r/checkpoints/best.safetensors", "steps=2", "hydra.run.dir=s").code == 0
    assert Run("s").metrics()[0]["eval/accuracy"] == line["eval/accuracy"], "with its statistics"


@pytest.mark.parametrize("objective", ["lr", "bytes", "[eval/loss,consensus]"])
def test_what_tells_nothing_of_better_is_refused(objective):
    with pytest.raises(ConfigError, match=r"^save=best: goes by objective.*objective=eval/loss$"):
        compose.compose_config(["task=quadratic", "save=best", f"objective={objective}"])


def test_what_would_change_it_is_refused_on_resume(cli):
    assert cli("train", *WORDS, "processes=1", "hydra.run.dir=r").code == 0
    for word in ("eval_every=4", "objective=consensus", "save=rows"):
        ended = cli("resume", "r", word, "steps=50")
        assert ended.code == 2 and len(ended.lines) == 1 and "(save=best)" in ended.err, ended.err
    assert cli("train", *[w for w in WORDS if w != "save=best"], "processes=1", "hydra.run.dir=q").code == 0
    assert "(save=best)" in cli("resume", "q", "save=best", "steps=50").err
    with pytest.raises(LookupError, match="save=best"):
        Run("q").answer("best")
    with pytest.raises(LookupError, match="final and best"):
        Run("q").answer("worst")
    assert json.loads(Path("q/summary.json").read_text()).get("best") is None
