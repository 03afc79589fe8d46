"""kill -9 at any moment, again and again: the run that is resumed ends with the bits of one that nobody killed."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial

import pytest
import torch
from running import children, linux, started, until  # noqa: F401  a fixture

import coopsgd

WORDS = (
    *("task=quadratic", "task.dim=2000", "dtype=float64", "workers=4", "processes=2", "algo=easgd", "tau=3", "device=cpu"),
    *("optim.momentum=0.9", "steps=600", "log_every=10", "eval_every=50", "checkpoint_every=20", "save=rows"),
)
TIMES = 10
MANY = pytest.param(100, marks=pytest.mark.slow)


def size(folder):
    file = folder / "metrics.jsonl"
    return file.stat().st_size if file.exists() else -1


def moved(command, folder, before):
    """It has written something, or come to its end."""
    return size(folder) != before or not command.process.is_alive()


@linux
@pytest.mark.parametrize("times", [TIMES, MANY])
def test_a_run_that_is_killed_again_and_again(started, cli, tmp_path, times):  # noqa: F811
    assert cli("train", *WORDS, "hydra.run.dir=whole").code == 0
    folder, draw, killed, words = tmp_path / "r", random.Random(times), 0, ("train", *WORDS, "hydra.run.dir=r")
    while killed < times:
        before, command = size(folder), started(*words)
        until(partial(moved, command, folder, before), "progress")
        time.sleep(draw.random() * 0.3)  # in training, in the middle of a checkpoint, in an evaluation
        command.seen = children(command.pid)
        if command.seen and command.process.is_alive():
            victim = draw.choice([command.pid, *command.seen])
            killed += 1
            os.kill(victim, signal.SIGKILL)
        ended = command.ended()
        command.nothing_left()
        if ended.code == 0:
            words = ("train", *WORDS, f"hydra.run.dir={killed}")  # it was over before: another one
            folder = tmp_path / str(killed)
            continue
        words = ("resume", folder.name)
    ended = cli("resume", folder.name)
    assert ended.code == 0, ended
    one, other = coopsgd.Run(tmp_path / "whole"), coopsgd.Run(folder)
    assert torch.equal(one.rows(), other.rows()) and torch.equal(one.answer(), other.answer())
    assert [line["step"] for line in one.metrics()] == [line["step"] for line in other.metrics()]
    assert [line["train/loss"] for line in one.metrics()] == [line["train/loss"] for line in other.metrics()]
    again = [resumed["again"] for resumed in other.summary["resumed"]]
    assert max(again) <= 20 + 10  # an interval, as far as lines tell
    halves = [path.name for path in folder.rglob("*") if path.name.endswith(".part") or "step-" in path.name]
    assert len(halves) == 1, halves
