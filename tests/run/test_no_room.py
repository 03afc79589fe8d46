"""A disk that takes nothing more, in each way there is: the run goes on or ends in one line, and what was saved is whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import LONG, children, linux, started, until  # noqa: F401  a fixture

import coopsgd
from coopsgd.run import checkpoints

pytestmark = linux
WORDS = (*LONG, "task.dim=300", "log_every=200", "checkpoint_every=400", "processes=2", "hydra.run.dir=disk/r")


@pytest.fixture
def disk(tmp_path):
    """disk(options): a small file system at tmp_path / "disk"."""
    place = tmp_path / "disk"
    place.mkdir()

    def mounted(options: str) -> Path:
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("only root can mount a small disk")
        return place

    yield mounted
    subprocess.run(["umount", "--lazy", str(place)], capture_output=True)


def no_inodes(disk: Path) -> None:
    for n in range(10**4):
        try:
            (disk / f"filler{n}").touch()
        except OSError:
            return


def quota(disk: Path) -> None:
    """As a quota would: the file system is made as small as what is on it."""
    used = sum(path.stat().st_blocks * 512 for path in disk.rglob("*"))
    subprocess.run(["mount", "-o", f"remount,size={used + 4096}", str(disk)], check=True)


@pytest.mark.parametrize(
    ("options", "spoil", "said"),
    [("size=8m,nr_inodes=60", no_inodes, "No space left on device"), ("size=8m", quota, "No space left on device")],
    ids=["inodes", "quota"],
)
def test_a_disk_that_takes_nothing_more_while_training(started, disk, options: str, spoil: Callable[[Path], None], said: str):  # noqa: F811
    """Training goes on; the checkpoint before stays whole; the lines that are there are whole."""
    at = disk(options)
    command = started("train", *WORDS)
    until(lambda: checkpoints.newest(at / "r", lambda line: None), "a whole checkpoint")
    spoil(at)
    until(lambda: f"no checkpoint ({said}): training goes on" in command.output(), "a note")
    assert command.process.is_alive()
    command.seen = children(command.pid)
    command.send(signal.SIGTERM)
    ended = command.ended()
    assert ended.code == 143 and "Traceback" not in ended.err, ended
    sound(at / "r")
    command.nothing_left()


def sound(folder: Path) -> None:
    """A whole checkpoint lies there, and lines without a torn one."""
    found = checkpoints.newest(folder, print)
    assert found is not None and found.step > 0
    lines = (folder / "metrics.jsonl").read_bytes()
    assert lines.endswith(b"\n")
    steps = [json.loads(line)["step"] for line in lines.splitlines()]
    assert steps == list(range(0, steps[-1] + 1, 200)) and steps[-1] >= found.step - 200


REFUSING = {
    "EROFS": ("Read-only file system", 30),
    "EDQUOT": ("Disk quota exceeded", 122),
    "EIO": ("Input/output error", 5),
}
PLACES = ("checkpoint", "lines", "final", "summary")


def failing(number: int, place: str) -> None:
    """From the second checkpoint on, opening or writing what belongs to this place fails with this error."""
    from coopsgd.host import newfile
    from coopsgd.run import metrics

    create, pwrite, count = newfile.create, os.pwrite, iter(range(10**9))
    names = {"checkpoint": "rows-", "final": "final.", "summary": "summary."}

    def refused(path: Path) -> object:
        if place in names and Path(path).name.startswith(names[place]) and (place != "checkpoint" or next(count) > 0):
            raise OSError(number, os.strerror(number), str(path))
        return create(path)

    def unwritten(file: int, data: bytes, at: int) -> int:
        if place == "lines" and at > 4000:
            raise OSError(number, os.strerror(number))
        return pwrite(file, data, at)

    class Os:
        def __getattr__(self, name: str) -> object:
            return unwritten if name == "pwrite" else getattr(os, name)

    newfile.create = refused
    metrics.os = Os()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("error", REFUSING)
def test_every_write_that_is_refused(cli, tmp_path, error, place):
    """One line for each thing that cannot be written, no traceback; 1 only where the answer or its summary cannot."""
    from functools import partial

    said, number = REFUSING[error]
    words = ("task=quadratic", "steps=100", "log_every=10", "eval_every=50", "checkpoint_every=20", "save=rows", "processes=2")
    ended = cli("train", *words, "timeout=2", "hydra.run.dir=r", first=partial(failing, number, place))
    everything = ended.out + ended.err
    assert said in everything and "Traceback" not in everything, ended
    assert ended.code == (1 if place in ("final", "summary") else 0), ended
    if ended.code:
        assert sum(said in line for line in ended.lines) <= 2, ended.err
    found = checkpoints.newest(tmp_path / "r", print)
    assert found is not None and found.step == (20 if place == "checkpoint" else 100)
    steps = [json.loads(line)["step"] for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(0, steps[-1] + 1, 10)) and (place == "lines" or steps[-1] == 100)
    if place != "summary":
        assert coopsgd.Run(tmp_path / "r").summary["status"] == ("failed" if ended.code else "completed")
    assert not list((tmp_path / "r").rglob("*.part"))


def test_a_disk_that_is_read_only_from_the_start(started, disk, tmp_path):  # noqa: F811
    at = disk("size=1m")
    subprocess.run(["mount", "-o", "remount,ro", str(at)], check=True)
    for words in (("train", *WORDS), ("train", "-m", *WORDS[:-1], "seed=0,1", "hydra.sweep.dir=disk/s")):
        ended = started(*words).ended()
        assert ended.code == 2 and len(ended.lines) <= 2 and "Read-only file system" in ended.err, ended
    assert not os.listdir(at)
