"""Signals: those ignored at the start stay ignored, all others end the command with a summary and one line."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import time

import pytest
from running import LONG, SHORT, Terminal, held_save, linux, started, until  # noqa: F401  a fixture

import coopsgd

pytestmark = linux


def ignoring(*numbers: int) -> None:
    """nohup, or a background job of a script."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize("sweep", [False, True])
def test_what_is_ignored_at_the_start_stays_ignored(started, tmp_path, sweep):  # noqa: F811
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
    more = ("-m", "seed=0,1", "hydra.sweep.dir=s") if sweep else ("hydra.run.dir=r",)
    folder = "s/algo=easgd,seed=0" if sweep else "r"
    command = started("train", *LONG, "processes=2", *more, first=functools.partial(ignoring, *numbers))
    pids = command.at_work(2, folder)
    for number in numbers:
        command.send_all(number)
        os.kill(pids[1], number)
    lines = (tmp_path / folder / "metrics.jsonl").read_bytes().count(b"\n")
    until(lambda: (tmp_path / folder / "metrics.jsonl").read_bytes().count(b"\n") > lines + 1, "more lines")
    command.send(signal.SIGTERM)
    ended = command.ended()
    assert ended.code == 143 and len(ended.lines) == 1, ended
    assert command.summary(folder)["status"] == "interrupted"
    command.nothing_left()


@pytest.mark.parametrize("name", ["HUP", "QUIT", "XCPU", "ALRM", "VTALRM", "USR2"])
def test_every_signal_that_ends_leaves_a_summary(started, name):  # noqa: F811
    number = getattr(signal, f"SIG{name}")
    command = started("train", *LONG, "processes=2", "hydra.run.dir=r")
    command.at_work(2)
    command.send(number)
    ended = command.ended()
    assert ended.code == 128 + number, ended
    assert len(ended.lines) == 1 and ended.lines[0].startswith(f"coopsgd: ended by SIG{name} at step "), ended
    assert command.summary()["status"] == "interrupted"
    command.nothing_left()


@pytest.mark.parametrize("name", ["HUP", "INT", "TERM", "USR2", "SEGV"])
def test_a_signal_to_a_worker_is_one_line(started, name):  # noqa: F811
    command = started("train", *LONG, "processes=4", "hydra.run.dir=r")
    os.kill(command.at_work()[2], getattr(signal, f"SIG{name}"))
    ended = command.ended()
    (line,) = ended.lines
    assert ended.code == 1 and f"worker process 2 was killed by SIG{name}" in line
    assert command.summary()["status"] == "failed"
    command.nothing_left()


@pytest.mark.parametrize("processes", [1, 4])
def test_many_interrupts_in_a_row_leave_a_summary(started, processes):  # noqa: F811
    command = started("train", *LONG, f"processes={processes}", "hydra.run.dir=r")
    command.at_work(processes)
    for _ in range(12):
        with_suppressed(command)
        time.sleep(0.008)
    ended = command.ended()
    assert ended.code == 130 and len(ended.lines) == 1 and ended.lines[0].startswith("coopsgd: interrupted at step "), ended
    assert command.summary()["status"] == "interrupted"
    command.nothing_left()


def swallowing() -> None:
    """A signal comes while a library is at work that swallows whatever is raised in it."""
    from coopsgd.commands import compose

    check = compose.check

    def deaf(*arguments, **more):
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        return check(*arguments, **more)

    compose.check = deaf


@pytest.mark.parametrize("words", [("train", *LONG, "processes=2", "hydra.run.dir=r"), ("show", "task=quadratic")])
def test_a_signal_that_a_library_swallows_is_not_forgotten(cli, words):
    ended = cli(*words, first=swallowing)
    assert ended.code == 143 and len(ended.lines) == 1, ended
    assert ended.lines[0].startswith("coopsgd: ended by SIGTERM"), ended


def test_interrupts_leave_a_visible_cursor(started):  # noqa: F811
    terminal = Terminal()
    command = started("train", *LONG, "processes=2", "hydra.run.dir=r", first=terminal.first, env=terminal.ENV)
    command.at_work(2)
    for _ in range(8):
        with_suppressed(command)
        time.sleep(0.008)
    assert command.ended().code == 130
    message = terminal.output()
    assert b"step 0/" in message and message.rfind(b"\x1b[?25h") >= message.rfind(b"\x1b[?25l")
    assert b"coopsgd: interrupted" in message and b"Traceback" not in message
    command.nothing_left()


def with_suppressed(command) -> None:
    if command.process.is_alive():
        command.send_all(signal.SIGINT)


@pytest.mark.parametrize("to", ["command", "group", "worker"])
@pytest.mark.parametrize("processes", [1, 4])
def test_a_signal_during_the_final_save_lets_it_be_finished(started, tmp_path, processes, to):  # noqa: F811
    words = ("train", *SHORT, f"processes={processes}", "save=rows", "hydra.run.dir=r")
    command = started(*words, first=held_save)
    workers = sorted(command.saving(processes))
    {"command": command.send, "group": command.send_all, "worker": functools.partial(os.kill, workers[0])}[to](signal.SIGTERM)
    command.save_goes_on()
    ended = command.ended()
    assert ended.code == (0 if to == "worker" else 143) and len(ended.lines) <= 1, ended
    assert command.summary()["status"] == "completed" and command.summary()["saved"] == "rows"
    assert len(coopsgd.Run(tmp_path / "r").rows()) == 5
    command.nothing_left()


def test_a_second_signal_ends_the_final_save(started):  # noqa: F811
    words = ("train", *SHORT, "processes=2", "save=rows", "hydra.run.dir=r")
    command = started(*words, first=held_save)
    command.saving(2)
    command.send_all(signal.SIGINT)
    time.sleep(1)
    assert command.process.is_alive(), command.ended()
    command.send_all(signal.SIGINT)
    ended = command.ended()
    assert ended.code == 130 and len(ended.lines) == 1 and ended.lines[0].startswith("coopsgd: interrupted at step "), ended
    assert command.summary()["status"] == "interrupted"
    command.nothing_left()


def test_a_sweep_does_not_go_on_after_a_signal_during_a_save(started, tmp_path):  # noqa: F811
    words = ("train", "-m", *SHORT, "seed=0,1", "processes=1", "hydra.sweep.dir=s")
    command = started(*words, first=held_save)
    command.saving(1)
    command.send(signal.SIGINT)
    command.save_goes_on()
    assert command.ended().code == 130
    assert [path.parent.name for path in (tmp_path / "s").glob("*/config.yaml")] == ["algo=easgd,seed=0"]
    assert command.summary("s/algo=easgd,seed=0")["status"] == "completed"


def test_halves_that_a_killed_process_left_are_cleaned_by_the_next(started, tmp_path):  # noqa: F811
    words = ("train", *SHORT, "processes=1", "save=rows", "hydra.run.dir=r")
    command = started(*words, first=held_save)
    command.saving(1)
    command.send(signal.SIGKILL)
    command.ended()
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in command.seen), "the worker's end")
    (tmp_path / "r" / "config.yaml").unlink()
    assert list((tmp_path / "r").rglob("*.part"))
    again = started(*words)
    assert again.ended().code == 0
    again.nothing_left()


def test_what_an_earlier_attempt_left_in_logs_does_no_harm(started, tmp_path):  # noqa: F811
    logs = tmp_path / "r" / "logs"
    logs.mkdir(parents=True)
    (logs / "store").write_bytes(b"\0\1\2 what another group of processes said" * 50)
    message = {"time": 0.0, "rank": 0, "traceback": "an old bug", "error": "an old bug"}
    (logs / "error0.json").write_text(json.dumps(message))
    (logs / "rank1.err").write_text("an old bug")
    (tmp_path / "r" / "summary.json").write_text('{"status": "completed", "steps": 7, "eval": {}}')
    command = started("train", *LONG, "processes=4", "hydra.run.dir=r")
    os.kill(command.at_work()[1], signal.SIGKILL)
    ended = command.ended()
    assert ended.code == 1 and "was killed by SIGKILL" in ended.err and "an old bug" not in ended.err
    assert command.summary()["status"] == "failed"
    assert os.listdir(logs) == []


@pytest.mark.slow
@linux
def test_what_a_killed_probe_leaves_the_next_one_clears_away(started, cli, tmp_path):  # noqa: F811
    words = ("probe", "workers=2", "processes=1", "model.hidden=[4]")
    command = started(*words, "--steps", "1000000")

    def halves():
        return list(tmp_path.glob(".probe.json*"))

    until(lambda: [path for path in halves() if (path / "config.yaml").exists()], what="its folder")
    command.send(signal.SIGKILL)
    command.ended()
    assert halves()
    ended = cli(*words, "--steps", "0")
    assert ended.code == 0 and not halves(), ended
