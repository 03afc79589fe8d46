"""kill -9 at any moment, again and again: the run that is resumed ends with the bits of one that nobody killed.

Moments are drawn, and places are aimed at: within a checkpoint, an evaluation, a line, the last save (tests/strikes.py).
"""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial

import pytest
import torch
from running import children, linux, started, until  # noqa: F401  a fixture
from strikes import PLACES, VICTIMS, struck_at

import coopsgd
from coopsgd.run.sweep import readable_summary

WORDS = (
    *("task=quadratic", "task.dim=2000", "dtype=float64", "workers=4", "processes=2", "algo=easgd", "tau=3", "device=cpu"),
    *("optim.momentum=0.9", "steps=300", "log_every=10", "eval_every=50", "checkpoint_every=20", "save=rows"),
)
TIMES = 10
MANY = pytest.param(100, marks=pytest.mark.slow)
LATE = ("models", "summary")  # a run comes there once, at its end


def size(folder):
    file = folder / "metrics.jsonl"
    return file.stat().st_size if file.exists() else -1


def moved(command, folder, before):
    """It has written something, or come to its end."""
    return size(folder) != before or not command.process.is_alive()


def at_a_moment(draw, started, words, folder):  # noqa: F811
    """Somebody is killed at a moment that is drawn; was it in time? The command, and what it was."""
    before, command = size(folder), started(*words)
    until(partial(moved, command, folder, before), "progress")
    time.sleep(draw.random() * 0.3)
    command.seen = children(command.pid)
    if not command.seen or not command.process.is_alive():
        return command, ""
    victim = draw.choice([command.pid, *command.seen])
    os.kill(victim, signal.SIGKILL)
    return command, "a moment " + ("parent" if victim == command.pid else "worker")


def at_a_place(draw, started, words, place):  # noqa: F811
    """Somebody is killed when a process comes to this place."""
    rank, victim = draw.choice(PLACES[place]), draw.choice(VICTIMS)
    nth = 1 if place.__name__ in (*LATE, "reading") else draw.randint(1, 3)
    return started(*words, first=partial(struck_at, place, rank, victim, nth)), f"{place.__name__} {rank} {victim} {nth}"


@linux
@pytest.mark.parametrize("times", [TIMES, MANY])
def test_a_run_that_is_killed_again_and_again(started, cli, tmp_path, times):  # noqa: F811
    assert cli("train", *WORDS, "hydra.run.dir=whole").code == 0
    whole, draw, killed, aims = coopsgd.Run(tmp_path / "whole"), random.Random(times), [], []
    folder, words = tmp_path / "r", ("train", *WORDS, "hydra.run.dir=r")
    while len(killed) < times:
        if not aims:  # each place once, and a moment now and then
            aims = [*PLACES, *[None] * (len(PLACES) // 5 if times > TIMES else 0)]
            draw.shuffle(aims)
        aim = aims.pop()
        command, what = at_a_moment(draw, started, words, folder) if aim is None else at_a_place(draw, started, words, aim)
        until(lambda: children(command.pid) or not command.process.is_alive(), "workers")  # noqa: B023
        command.seen = command.seen or children(command.pid)
        ended = command.ended()
        command.nothing_left(halves="parent" in what)
        if what and ended.code:
            killed.append(what)
        if (readable_summary(folder) or {}).get("status") == "completed":  # it was over before, or nobody needed the victim
            unharmed(whole, coopsgd.Run(folder))
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
        frozen = (folder / "config.yaml").exists()
        words = ("resume", folder.name) if frozen else ("train", *WORDS, f"hydra.run.dir={folder.name}")
    ended = cli(*words)
    assert ended.code == 0, ended
    unharmed(whole, coopsgd.Run(folder))
    print(killed)


def unharmed(one, other):
    """It has the bits of a run that nobody killed, and nothing else is left."""
    assert torch.equal(one.rows(), other.rows()) and torch.equal(one.answer(), other.answer())
    assert [line["step"] for line in one.metrics()] == [line["step"] for line in other.metrics()]
    assert [line["train/loss"] for line in one.metrics()] == [line["train/loss"] for line in other.metrics()]
    again = [resumed["again"] for resumed in other.summary.get("resumed", [])]
    assert max(again, default=0) <= 20 + 10  # an interval, as far as lines tell
    halves = [path.name for path in other.folder.rglob("*") if path.name.endswith(".part") or "step-" in path.name]
    assert len(halves) == 1, halves


@linux
@pytest.mark.slow
def test_every_place_is_come_to(started, tmp_path):  # noqa: F811
    """What is aimed at is hit: where nobody was killed, nothing would be tried."""
    words = ("train", *WORDS, "steps=90")
    for place in PLACES:
        if place.__name__ != "reading":
            command = started(*words, f"hydra.run.dir={place.__name__}", first=partial(struck_at, place, 0, "self", 1))
            ended = command.ended()
            assert ended.code == 1 and "was killed by SIGKILL" in ended.err, (place.__name__, ended)
