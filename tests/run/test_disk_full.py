"""A full disk ends no run: what cannot be written waits, the answer comes before the rows, and the cause is told in a line."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from running import LONG, SHORT, children, limited, linux, started, until  # noqa: F401  a fixture

import coopsgd
from coopsgd.run.folders import steps_saved
from coopsgd.strategies.base import Strategy

WIDE = ("task.dim=2000", "save=rows")  # rows of 40 kB, an answer of 8


@pytest.fixture
def disk(tmp_path):
    """A file system of a megabyte at tmp_path / "disk"."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, name: str = "filler", spare: int = 0) -> None:
    """No room is left but for so many bytes."""
    file = os.open(disk / name, os.O_WRONLY | os.O_CREAT)
    for size in (1 << 16, 1 << 12, 1):
        with suppress(OSError):
            while os.write(file, bytes(size)):
                pass
    if spare:
        os.ftruncate(file, os.fstat(file).st_size - spare)
    os.close(file)


def fill_at_save(disk: str, spare: int) -> None:
    """The disk is full when the models are to be saved."""
    from coopsgd.run import final

    write = final.write

    def full(*content):
        if not (Path(disk) / "filler").exists():
            fill(Path(disk), spare=spare)
        write(*content)

    final.write = full


@linux
@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_costs_a_checkpoint(started, disk, processes):  # noqa: F811
    words = (*LONG, "log_every=1000000", "checkpoint_every=300", f"processes={processes}", "hydra.run.dir=disk/r")
    command = started("train", *words)
    until(lambda: steps_saved(disk / "r"), "a checkpoint")
    fill(disk)
    until(lambda: "no checkpoint (No space left on device): training goes on" in command.output(), "a note")
    assert command.process.is_alive()
    (disk / "filler").unlink()
    before = steps_saved(disk / "r")[:1]
    until(lambda: steps_saved(disk / "r")[:1] > before, "a newer one")
    command.seen = children(command.pid)
    command.send(signal.SIGTERM)
    assert command.ended().code == 143
    command.nothing_left()


@linux
@pytest.mark.parametrize("processes", [1, 4])
def test_a_run_goes_on_while_the_disk_is_full(started, disk, processes):  # noqa: F811
    command = started("train", *LONG, f"processes={processes}", "hydra.run.dir=disk/r")
    command.at_work(processes, "disk/r")
    fill(disk)
    until(lambda: "metrics.jsonl cannot be written (No space left on device)" in command.output(), "a note")
    size = (disk / "r" / "metrics.jsonl").stat().st_size
    assert (disk / "r" / "metrics.jsonl").read_bytes().endswith(b"\n")  # no half of a line
    time.sleep(1)
    assert command.process.is_alive() and (disk / "r" / "metrics.jsonl").stat().st_size == size
    (disk / "filler").unlink()
    until(lambda: (disk / "r" / "metrics.jsonl").stat().st_size > size, "more lines")
    command.send(signal.SIGTERM)
    assert command.ended().code == 143
    steps = [line["step"] for line in coopsgd.Run(disk / "r").metrics()]
    assert steps == list(range(0, 100 * len(steps), 100))  # none is missing
    assert command.output().count("cannot be written") <= 2  # the lines, and TensorBoard's events
    command.nothing_left()


@pytest.mark.parametrize("processes", [1, 4])
def test_the_answer_is_kept_where_the_rows_do_not_fit(cli, tmp_path, processes):
    ended = cli("train", *SHORT, *WIDE, f"processes={processes}", "hydra.run.dir=r", first=functools.partial(limited, 25_000))
    assert ended.code == 0, ended
    run = coopsgd.Run(tmp_path / "r")
    assert run.summary["status"] == "completed" and run.summary["saved"] == "answer"
    assert run.summary["not_written"] == {"rows": "File too large"}
    assert run.answer().shape == (1, 2000)
    assert (
        "r/checkpoints/final.safetensors: File too large; the models of the workers are not kept, but their answer is"
        in ended.out
    )
    assert not list(tmp_path.rglob("*.part"))


def test_a_disk_that_has_room_for_the_answer_alone_has_the_answer(cli, disk):
    first = functools.partial(fill_at_save, str(disk), 40_000)
    ended = cli("train", *SHORT, *WIDE, "processes=1", "hydra.run.dir=disk/r", first=first)
    assert ended.code == 0, ended
    run = coopsgd.Run(disk / "r")
    assert run.summary["saved"] == "answer" and run.answer().shape == (1, 2000)
    assert [line["step"] for line in run.metrics()] == list(range(0, 61, 10))


def test_a_full_disk_at_the_end_is_waited_for(started, disk, tmp_path):  # noqa: F811
    first = functools.partial(fill_at_save, str(disk), 0)
    command = started("train", *SHORT, *WIDE, "processes=2", "hydra.run.dir=disk/r", first=first)
    until(lambda: "final.safetensors cannot be written (No space left on device): trying again for 30 s" in command.output())
    (disk / "filler").write_bytes(b"")
    ended = command.ended()
    assert ended.code == 0, ended
    assert coopsgd.Run(disk / "r").rows().shape == (5, 2000)


def test_without_room_for_the_answer_the_run_fails_in_one_line(cli, disk):
    first = functools.partial(fill_at_save, str(disk), 0)
    ended = cli("train", *SHORT, *WIDE, "processes=2", "timeout=3", "hydra.run.dir=disk/r", first=first)
    assert ended.code == 1
    message = "disk/r/checkpoints/final.safetensors cannot be written (No space left on device), though the run came to its end"
    assert any(message in line for line in ended.lines) and "Traceback" not in ended.err
    assert len(ended.lines) <= 2  # nor can the summary be written, which may be told


def test_a_full_disk_at_the_beginning_is_a_refusal(cli, disk):
    fill(disk)
    ended = cli("train", *SHORT, "processes=1", "hydra.run.dir=disk/r")
    (line,) = ended.lines
    assert ended.code == 2 and "disk/r" in line and "No space left on device" in line
    assert not (disk / "r" / "config.yaml").exists()


@dataclass(frozen=True)
class Loud(Strategy):
    """Prints, and fails in the end."""

    fails: bool = False

    def direction(self, fleet, t, grad, x, s):
        if t.k == 1:
            fill(Path("disk"), f"filler{fleet.rank}")
        print("x" * 5000, flush=True)
        if self.fails and t.k == 8 and fleet.rank == fleet.layout.processes - 1:
            raise RuntimeError("a bug of its author's")
        return grad, s

    def send(self, fleet, t, x, s):
        return fleet.later(fleet.mean, x)


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_strategy_prints_and_raises_on_a_full_disk(cli, disk, tmp_path, fails):
    (tmp_path / "more" / "algo").mkdir(parents=True)
    (tmp_path / "more" / "algo" / "loud.yaml").write_text(f"strategy: test_disk_full:Loud\nfails: {fails}\ntau: 1\n")
    words = ("task=quadratic", "steps=9", "processes=2", "save=none", "timeout=3", "hydra.run.dir=disk/r")
    ended = cli("train", "--config-dir", "more", "algo=loud", *words)
    assert ended.code == 1
    if fails:
        assert "worker process 1 failed" in ended.err and ended.err.count("a bug of its author's") == 1
    else:  # it trained to the end, and there was no room for a summary
        assert "disk/r/summary.json cannot be written (No space left on device), though the run came to its end" in ended.err
        assert "Traceback" not in ended.err


def test_torn_lines_are_left_out_by_every_reader(cli, tmp_path):
    words = ("task=quadratic", "steps=40", "log_every=10", "eval_every=10", "processes=1")
    assert cli("train", *words, "hydra.run.dir=r").code == 0
    path = tmp_path / "r" / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    torn = [lines[0], b"\0" * 64 + lines[1], lines[2][:30] + b"\n", b"\xff\xfe\n", b"[1]\n", b"12\n", b"\0" * 4096, b"\n"]
    path.write_bytes(b"".join([*torn, lines[3], lines[4][:-9]]))
    assert [line["step"] for line in coopsgd.Run(tmp_path / "r").metrics()] == [0, 10, 30]
    ended = cli("analyze", "--over", "r", "--json")
    assert ended.code == 0, ended
    assert '"step"' in ended.out


def test_a_probe_that_cannot_be_kept_says_so(cli, disk):
    fill(disk, spare=60_000)
    words = ("task=quadratic", "workers=2", "processes=1", "--steps", "3", "-o", "disk/probe.json")
    ended = cli("probe", *words, first=functools.partial(limited, 1000))
    (line,) = ended.lines
    assert ended.code in (1, 2) and "disk" in line
    assert sorted(os.listdir(disk)) == ["filler"]
