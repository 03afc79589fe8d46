"""A loss that is not finite ends a run: the step and the worker are named, and the last good checkpoint stays."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import coopsgd
from coopsgd.run.folders import steps_saved

# of two workers the second is thrown to -8 times its place (slowly: -1.03 times) at each step, the first comes to rest
WORDS = ("task=quadratic", "task.curvature=[[0.1],[1]]", "task.sigma=0.01", "workers=2", "algo=independent", "eval_every=0")
FAST, SLOW = "optim.lr=9", "optim.lr=2.03"


def all_are_large():
    """A checkpoint of any size is too large to stay when a run has come to its end."""
    from coopsgd.run import keeper

    keeper.LIMIT = 0


@pytest.mark.parametrize(
    ("processes", "lr", "every", "log_every", "first"),
    [(1, FAST, 4, 500, None), (2, FAST, 7, 10, all_are_large), (1, SLOW, 200, 4000, None)],
)
def test_step_worker_and_the_last_good_checkpoint(cli, tmp_path, processes, lr, every, log_every, first):
    more = (f"processes={processes}", f"checkpoint_every={every}", f"log_every={log_every}", "steps=4000", "hydra.run.dir=r")
    ended = cli("train", *WORDS, lr, *more, first=first)
    assert ended.code == 1, ended
    summary = coopsgd.Run(tmp_path / "r").summary
    at = summary["diverged_at"]
    assert summary["status"] == "diverged" and summary["diverged_workers"] == [1] and 10 < at < 4000
    (kept,) = steps_saved(tmp_path / "r")
    assert at - every <= kept < at, "the last one before the loss was no number"
    assert f"the loss of worker 1 at step {at} is not finite; the last good checkpoint is " in ended.err
    assert f"r/checkpoints/step-{kept};" in ended.err and len(ended.lines) == 1, ended.err
    found = [load_file(file) for file in (tmp_path / "r" / "checkpoints" / f"step-{kept}").glob("*.safetensors")]
    assert all(torch.isfinite(x).all() for one in found for name, x in one.items() if name.endswith(".x"))


def test_all_workers_at_once(cli, tmp_path):
    words = ("task.curvature=[[1],[1]]", "algo=pasgd", "processes=2", "steps=4000", "hydra.run.dir=r")
    ended = cli("train", *WORDS, *words, FAST)
    assert ended.code == 1 and "the loss of workers 0, 1 at step " in ended.err, ended
    assert coopsgd.Run(tmp_path / "r").summary["diverged_workers"] == [0, 1]
