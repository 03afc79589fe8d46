"""A console that cannot be written is dropped: the run goes on, and its exit code is what it deserves."""

from __future__ import annotations

import functools
import json
import os

import pytest
from running import SHORT

import coopsgd


def closed(*numbers: int) -> None:
    """The user wrote >&- or so."""
    for number in numbers:
        os.close(number)


def onto(file: str, *numbers: int) -> None:
    """... >/dev/full"""
    opened = os.open(file, os.O_WRONLY)
    for number in numbers:
        os.dup2(opened, number)
    os.close(opened)


def unread(*numbers: int) -> None:
    """... | true"""
    reading, writing = os.pipe()
    os.close(reading)
    for number in numbers:
        os.dup2(writing, number)
    os.close(writing)


def hung_up(*numbers: int) -> None:
    """A terminal whose window was closed."""
    ours, theirs = os.openpty()
    os.close(ours)
    for number in numbers:
        os.dup2(theirs, number)
    os.close(theirs)


BROKEN = {
    "reader gone": functools.partial(unread, 1),
    "both readers gone": functools.partial(unread, 1, 2),
    "stdout full": functools.partial(onto, "/dev/full", 1),
    "both full": functools.partial(onto, "/dev/full", 1, 2),
    "stdout closed": functools.partial(closed, 1),
    "stderr closed": functools.partial(closed, 2),
    "all closed": functools.partial(closed, 0, 1, 2),
    "terminal gone": functools.partial(hung_up, 0, 1, 2),
}


@pytest.mark.parametrize("how", BROKEN)
def test_training_goes_on_without_a_console(cli, tmp_path, how):
    ended = cli("train", *SHORT, "processes=2", "hydra.run.dir=r", first=BROKEN[how])
    assert ended.code == 0, ended
    assert ended.err == ""
    run = coopsgd.Run(tmp_path / "r")
    assert run.summary["status"] == "completed"
    assert [line["step"] for line in run.metrics()] == list(range(0, 61, 10))
    assert run.config.steps == 60  # nothing was printed into a file that took the console's place
    assert os.listdir(tmp_path / "r" / "logs") == []


@pytest.mark.parametrize("how", ["both readers gone", "both full", "all closed"])
def test_a_sweep_goes_on_without_a_console_and_its_code_is_its_own(cli, tmp_path, how):
    words = ("task.curvature=[[1],[1]]", "workers=2", "processes=1", "optim.lr=0.1,1000,0.2", "hydra.sweep.dir=s")
    ended = cli("train", "-m", *SHORT, *words, first=BROKEN[how])
    assert ended.code == 1, ended
    found = {p.parent.name: json.loads(p.read_text())["status"] for p in (tmp_path / "s").glob("*/summary.json")}
    assert found == {
        "algo=easgd,optim.lr=0.1": "completed",
        "algo=easgd,optim.lr=1000": "diverged",
        "algo=easgd,optim.lr=0.2": "completed",
    }


@pytest.mark.parametrize("how", BROKEN)
def test_a_refusal_is_a_refusal_without_a_console(cli, tmp_path, how):
    assert cli("train", "optim.lr=-1", first=BROKEN[how]).code == 2


@pytest.mark.parametrize("words", [("show", "algo=easgd"), ("list",), ("analyze", "task=quadratic"), ("--help",)])
def test_a_reader_that_has_seen_enough_ends_a_table_quietly(cli, words):
    ended = cli(*words, first=BROKEN["reader gone"])
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize("words", [("show", "algo=easgd", "--json"), ("list",), ("completion", "bash")])
def test_a_table_that_was_not_written_is_an_error(cli, words):
    ended = cli(*words, first=BROKEN["stdout full"])
    assert ended.code == 1
    (line,) = ended.lines
    assert line == "coopsgd: standard output cannot be written (No space left on device)"


def test_what_an_encoding_cannot_say_is_spelt(cli, tmp_path):
    ended = cli("train", *SHORT, "processes=1", "name='Zürich'", "hydra.run.dir='é'", env={"PYTHONIOENCODING": "ascii"})
    assert ended.code == 0, ended
    assert (tmp_path / "é" / "summary.json").exists()


def test_files_of_a_run_do_not_take_the_place_of_a_closed_console(cli, tmp_path):
    ended = cli("train", *SHORT, "processes=1", "hydra.run.dir=r", first=functools.partial(closed, 0, 1, 2))
    assert ended.code == 0
    for path in (tmp_path / "r").glob("*.*"):
        assert b"workers in" not in path.read_bytes(), path
    assert (tmp_path / "r" / "config.yaml").read_text().startswith("# coopsgd train")


def test_flags_before_the_verb_change_no_exit_code(cli, tmp_path):
    (tmp_path / "mine").mkdir()
    ended = cli("--config-dir", "mine", "train", *SHORT, "processes=1", "hydra.run.dir=r", first=BROKEN["stdout full"])
    assert (ended.code, ended.err) == (0, "")
    ended = cli("--json", "show", "algo=easgd", first=BROKEN["stdout full"])
    assert ended.code == 1
