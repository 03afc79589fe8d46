"""max_restarts: workers that fail are started again from the last checkpoint, and the run ends with the same bits."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

import pytest
import torch
from running import linux, until

import coopsgd
from coopsgd.strategies.base import Strategy

pytestmark = linux
WORDS = ("task=quadratic", "dtype=float64", "workers=4", "processes=2", "steps=23", "log_every=4", "eval_every=8", "save=rows")


@dataclass(frozen=True)
class Falls(Strategy):
    """Everyone takes the mean of everyone. The last process gets beyond step `at` once it was started `times` again."""

    how: str = "killed"
    at: int = 13
    times: int = 0

    def direction(self, fleet, t, grad, x, s):
        last = fleet.rank == fleet.layout.processes - 1
        if last and t.k == self.at and int(os.environ["TORCHELASTIC_RESTART_COUNT"]) < self.times:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "leaves":
                os._exit(0)
            if self.how == "raises":
                raise RuntimeError("a bug of its author's")
            if self.how == "stops":
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(1e6)
        return grad, s

    def send(self, fleet, t, x, s):
        return fleet.later(fleet.mean, x)


@pytest.fixture
def falling(cli, tmp_path):
    """falling(folder, words..., how=, times=): `coopsgd train` of it."""
    (tmp_path / "more" / "algo").mkdir(parents=True)
    (tmp_path / "more" / "algo" / "falls.yaml").write_text("strategy: test_restarts:Falls\nhow: killed\ntimes: 0\ntau: 1\n")

    def train(folder, *words, how="killed", times=0, first=None):
        more = (f"algo.how={how}", f"algo.times={times}", f"hydra.run.dir={folder}")
        return cli("train", "--config-dir", "more", "algo=falls", *WORDS, *more, *words, first=first)

    return train


def same(one, other):
    assert torch.equal(one.rows(), other.rows()) and torch.equal(one.answer(), other.answer())
    for name in ("step", "train/loss", "bytes", "rounds", "consensus"):
        assert [line[name] for line in one.metrics()] == [line[name] for line in other.metrics()], name


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("killed", "worker process 1 was killed by SIGKILL"),
        ("leaves", "worker process 1 left with exit code 0 before the run was over"),
        ("raises", "a bug of its author's"),
        ("hangs", "did not come to the mean of step 14"),
    ],
)
def test_a_worker_that_fails(falling, tmp_path, how, said):
    assert falling("whole", "checkpoint_every=5").code == 0
    ended = falling("r", "checkpoint_every=5", "max_restarts=3", "timeout=3", how=how, times=2)
    assert ended.code == 0, ended
    assert ended.err.count(said) == 2
    assert [line for line in ended.lines if "started again" in line] == [
        "the workers are started again, 1 of 3 times",
        "the workers are started again, 2 of 3 times",
    ]
    assert ended.out.count("goes on from step 10") == 2 and "restarts" in ended.out
    one, other = coopsgd.Run(tmp_path / "whole", trust=True), coopsgd.Run(tmp_path / "r", trust=True)
    same(one, other)
    assert other.summary["restarts"] == 2 and "restarts" not in one.summary
    assert other.summary["resumed"][-1] == {"from": 10, "again": 2}
    if how == "raises":  # of both
        assert (tmp_path / "r" / "logs" / "rank1.err").read_text().count("Traceback") == 2


def counting_threads():
    """Before workers are started again: a process that forks has one."""
    from coopsgd.run.board import Board

    clear = Board.clear

    def counted(self):
        until(lambda: len(os.listdir("/proc/self/task")) == 1, "the end of torchelastic's threads")  # joined, they may linger
        clear(self)

    Board.clear = counted


def test_without_a_checkpoint_it_starts_over(falling, tmp_path):
    assert falling("whole", "checkpoint_every=0").code == 0
    ended = falling("r", "checkpoint_every=0", "max_restarts=1", times=1, first=counting_threads)
    assert ended.code == 0 and "no checkpoint yet: the run starts over" in ended.out, ended
    one, other = coopsgd.Run(tmp_path / "whole", trust=True), coopsgd.Run(tmp_path / "r", trust=True)
    same(one, other)
    assert other.summary["restarts"] == 1 and len(list((tmp_path / "r").glob("events.*"))) == 1


def test_restarts_of_all_commands_are_counted(falling, cli, tmp_path):
    """Two of a command that fails all the same, none of one that is asked for nothing, one of the last."""
    assert falling("r", "checkpoint_every=5", "max_restarts=2", times=3).code == 1
    assert coopsgd.Run(tmp_path / "r", trust=True).summary["restarts"] == 2
    assert cli("resume", "--trust", "r", "max_restarts=0").code == 1
    ended = cli("resume", "--trust", "r", "max_restarts=1", first=later)
    assert ended.code == 0, ended
    summary = coopsgd.Run(tmp_path / "r", trust=True).summary
    assert summary["restarts"] == 3 and summary["restarts_of_commands"] == [2, 1]


def later():
    """Started once again is enough."""
    inner = Falls.direction

    def direction(self, fleet, t, grad, x, s):
        object.__setattr__(self, "times", 1)
        return inner(self, fleet, t, grad, x, s)

    Falls.direction = direction


def test_one_that_always_fails_fails_the_run(falling, tmp_path):
    ended = falling("r", "checkpoint_every=5", "max_restarts=1", how="raises", times=9)
    assert ended.code == 1 and len(ended.lines) == 3, ended
    assert ended.err.count("a bug of its author's") == 2 and ended.lines[1] == "the workers are started again, 1 of 1 times"
    summary = coopsgd.Run(tmp_path / "r", trust=True).summary
    assert summary["status"] == "failed" and summary["restarts"] == 1


def test_words(cli):
    ended = cli("train", "task=quadratic", "max_restarts=-1")
    assert ended.code == 2 and "max_restarts: must be a whole number of at least 0" in ended.err
