"""Ten commands at once in one folder: one of them works there, the others are refused or have folders of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from running import linux, started  # noqa: F401  a fixture

import coopsgd

pytestmark = linux
WORDS = ("task=quadratic", "steps=40", "log_every=10", "eval_every=20", "processes=1", "checkpoint_every=20", "save=rows")
TEN = 10


def together(begin: float) -> None:
    """Begin at the same moment, and write a config slowly."""
    from coopsgd.run import folders

    dumps = folders.dumps

    def slow(config):
        time.sleep(0.2)
        return dumps(config)

    folders.dumps = slow
    time.sleep(max(0.0, begin - time.time()))


def at_once(started, *words: str, each=lambda n: ()) -> list:  # noqa: F811
    """How each of ten commands ended."""
    first = partial(together, time.time() + 2)
    commands = [started(*words, *each(n), first=first) for n in range(TEN)]
    return [command.ended() for command in commands]


def whole(folder: Path, like: coopsgd.Run) -> None:
    """One run has written all of it."""
    run = coopsgd.Run(folder)
    assert run.summary["status"] == "completed" and torch.equal(run.rows(), like.rows())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 10, 20, 30, 40]
    assert len(list(folder.glob("events.*"))) == 1 and not list(folder.rglob("*.part"))


@pytest.mark.parametrize("more", [(), ("resume=auto",)])
def test_ten_runs(cli, started, tmp_path, more):  # noqa: F811
    assert cli("train", *WORDS, "hydra.run.dir=alone").code == 0
    ended = at_once(started, "train", *WORDS, *more, "hydra.run.dir=r")
    over = [one for one in ended if more and "completed at step 40; nothing is left to do" in one.out]  # they came late
    codes = sorted(one.code for one in ended if one not in over)
    assert codes == [0] + [2] * (TEN - 1 - len(over)), ended
    for one in ended:
        assert one.code == 0 or (len(one.lines) == 1 and ("is in use" in one.err or "already holds a run" in one.err)), one
    whole(tmp_path / "r", coopsgd.Run(tmp_path / "alone"))


@pytest.mark.slow
def test_ten_runs_in_folders_named_by_the_time(cli, started, tmp_path):  # noqa: F811
    assert cli("train", *WORDS, "hydra.run.dir=alone").code == 0
    ended = at_once(started, "train", *WORDS)
    assert [one.code for one in ended] == [0] * TEN, ended
    folders = [path.parent for path in tmp_path.glob("outputs/*/*/config.yaml")]
    assert len(folders) == TEN
    for folder in folders:
        whole(folder, coopsgd.Run(tmp_path / "alone"))


def test_ten_that_resume(cli, started, tmp_path):  # noqa: F811
    assert cli("train", *WORDS, "hydra.run.dir=alone").code == 0
    shutil.copytree(tmp_path / "alone", tmp_path / "r")
    (tmp_path / "r" / "summary.json").unlink()
    ended = at_once(started, "resume", "r")
    lines = [one.lines for one in ended if one.code]
    went_on = [one for one in ended if "goes on from step 40" in one.out]
    assert len(went_on) == 1 and all("is in use by another coopsgd" in line for (line,) in lines), ended
    assert all(one.code in (0, 2) for one in ended)
    run = coopsgd.Run(tmp_path / "r")
    assert torch.equal(run.rows(), coopsgd.Run(tmp_path / "alone").rows())
    assert [line["step"] for line in run.metrics()] == [0, 10, 20, 30, 40]


def test_a_config_that_is_killed_while_it_is_written_is_none(started, tmp_path):  # noqa: F811
    """The folder is free again, and no command takes half of a config for a run."""
    command = started("train", *WORDS, "hydra.run.dir=r", first=writing_for_ever)
    while not (tmp_path / "writing").exists():
        time.sleep(0.01)
    command.send(signal.SIGKILL)
    command.ended()
    assert not (tmp_path / "r" / "config.yaml").exists()
    again = started("train", *WORDS, "hydra.run.dir=r")
    assert again.ended().code == 0
    assert not list((tmp_path / "r").rglob("*.part"))


def writing_for_ever() -> None:
    from coopsgd.run import folders

    def stuck(*_):
        Path("writing").touch()
        time.sleep(1e6)

    folders._for_hydra = stuck


def test_halves_of_a_process_whose_number_came_again(cli, tmp_path):
    """A number of a process that was killed may be another's now: in a folder that nobody works in it says nothing."""
    assert cli("train", *WORDS, "hydra.run.dir=r").code == 0
    (tmp_path / "r" / "summary.json").unlink()
    half = tmp_path / "r" / "checkpoints" / f"final.safetensors.{os.getpid()}.part"
    half.write_bytes(b"half of it")
    assert cli("resume", "r").code == 0
    assert not half.exists()
