"""The command watches its workers: one that left or that is stopped is named, and ends the run, not the user's patience."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest
from faults import faulty
from running import LONG, SHORT, held_save, linux, started, state, until  # noqa: F401  a fixture

from coopsgd.run import launch

pytestmark = linux


@pytest.mark.parametrize("processes", [1, 4])
def test_a_worker_that_leaves_early_is_named(started, tmp_path, processes):  # noqa: F811
    command = started(*faulty(tmp_path, "leaves"), f"processes={processes}")
    ended = command.ended()
    assert ended.code == 1
    assert ended.lines.count("Traceback") == 0
    line = ended.lines[-1]
    assert f"worker process {processes - 1} left with exit code 0 before the run was over" in line
    assert command.summary()["status"] == "failed"
    command.nothing_left()


@pytest.mark.parametrize("processes", [1, 4])
def test_a_stopped_worker_is_named_and_ends_the_run_after_timeout(started, processes):  # noqa: F811
    command = started("train", *LONG, f"processes={processes}", "timeout=4", "hydra.run.dir=r")
    pids = command.at_work(processes)
    os.kill(pids[-1], signal.SIGSTOP)
    name = f"worker process {processes - 1} (pid {pids[-1]})"
    until(lambda: f"{name} is stopped" in command.output(), "a note that names it")
    ended = command.ended()
    assert ended.code == 1
    assert len(ended.lines) == 2 and f"{name} was stopped for 4 s (timeout)" in ended.lines[1], ended.err
    if processes > 1:
        assert re.search(r"did not come to the \w+ of (step \d+|the log line after step \d+),", ended.lines[1]), ended.err
    assert command.summary()["status"] == "failed"
    command.nothing_left()


@pytest.mark.parametrize("processes", [2, 4])
def test_a_worker_that_others_wait_for_in_vain_is_named(started, tmp_path, processes):  # noqa: F811
    command = started(*faulty(tmp_path, "stays"), f"processes={processes}", "timeout=3")
    ended = command.ended()
    assert ended.code == 1 and "Traceback" not in ended.err
    line = ended.lines[-1]
    assert f"worker process {processes - 1} (pid " in line, ended.err
    assert "did not come to the mean of step 4, where others waited 3 s (timeout)" in line, ended.err
    assert command.summary()["status"] == "failed"
    command.nothing_left()


def test_a_worker_that_goes_on_in_time_does_no_harm(started):  # noqa: F811
    command = started("train", *LONG, "processes=2", "timeout=600", "hydra.run.dir=r")
    pids = command.at_work(2)
    os.kill(pids[0], signal.SIGSTOP)
    until(lambda: "is stopped" in command.output(), "a note")
    os.kill(pids[0], signal.SIGCONT)
    until(lambda: "goes on" in command.output(), "another")
    command.send(signal.SIGTERM)
    assert command.ended().code == 143
    command.nothing_left()


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_suspended_command_can_go_on_however_long_it_was_suspended(started, tmp_path, processes):  # noqa: F811
    command = started("train", *LONG, f"processes={processes}", "timeout=2", "hydra.run.dir=r")
    pids = command.at_work(processes)
    command.send_all(signal.SIGSTOP)
    until(lambda: all(state(pid) == "T" for pid in (command.pid, *pids)), "all to stop")
    time.sleep(3)  # longer than timeout
    command.send_all(signal.SIGCONT)
    lines = (tmp_path / "r" / "metrics.jsonl").read_bytes().count(b"\n")
    until(lambda: (tmp_path / "r" / "metrics.jsonl").read_bytes().count(b"\n") > lines + 1, "more lines")
    assert command.process.is_alive(), command.ended()
    assert "stopped" not in command.output()
    command.send(signal.SIGTERM)
    assert command.ended().code == 143
    command.nothing_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_a_stopped_worker_at_once(started, number):  # noqa: F811
    command = started("train", *LONG, "processes=4", "hydra.run.dir=r")
    pids = command.at_work()
    os.kill(pids[1], signal.SIGSTOP)
    command.send(number)
    ended = command.ended(within=5)
    told = [line for line in ended.lines if "being saved" not in line]  # which a busy machine may take a while for
    assert ended.code == 128 + number and len(told) == 1
    assert command.summary()["status"] == "interrupted"
    command.nothing_left()


@pytest.mark.parametrize("number", [0, signal.SIGTERM])
def test_a_worker_that_is_stopped_during_the_final_save_ends_the_run_too(started, number):  # noqa: F811
    words = ("train", *SHORT, "processes=2", "timeout=3", "hydra.run.dir=r")
    command = started(*words, first=held_save)
    os.kill(command.saving(2)[1], signal.SIGSTOP)
    if number:  # it is woken, and the save is finished
        command.send(number)
    command.save_goes_on()
    ended = command.ended()
    assert ended.code == (128 + number if number else 0) and "Traceback" not in ended.err, ended
    assert command.summary()["status"] == "completed"
    command.nothing_left()


@pytest.mark.parametrize("given", [(), (15,), (15, 30)])
def test_the_agents_end_is_told_what_torch_tells_it(monkeypatch, given):
    """torch 2.11 hands over other arguments than 2.14: taken at their number, a command ended in a traceback, or never."""
    told = []
    monkeypatch.setattr(launch.LocalElasticAgent, "_shutdown", lambda self, *more: told.append(more))
    agent = object.__new__(launch.Agent)
    agent._processes = []
    agent._shutdown(*given)
    assert told == [given]
