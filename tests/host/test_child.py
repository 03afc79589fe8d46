"""What runs a user's code in a process of its own: it answers, tells how it failed, and never outlives the command."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
from conftest import elsewhere
from running import NEVER, alive, linux, started, until  # noqa: F401  a fixture

from coopsgd.host.child import ChildFailed, answer_of

SLEEPY = f"""
import os, time

def sleep(*args):
    with open("pid.part", "w") as file:
        file.write(str(os.getpid()))
    os.rename("pid.part", "pid")
    time.sleep({NEVER})

class Data:
    def __len__(self):
        return 3
    def __getitem__(self, i):
        sleep()

Net = sleep
"""


def test_it_answers_and_leaves_nothing_here():
    def work():
        os.environ["LEFT_BEHIND"] = "1"
        return {"pid": os.getpid(), "many": list(range(100_000))}  # more than a pipe holds

    answer = answer_of(work)
    assert answer["pid"] != os.getpid() and answer["many"][-1] == 99_999 and "LEFT_BEHIND" not in os.environ
    assert answer_of(lambda: None) is None


def test_it_tells_how_it_failed():
    def refuse():
        raise ValueError("data.path: is\n   no good")

    with pytest.raises(ValueError, match=r"^data\.path: is no good$"):
        answer_of(refuse)
    for work, message in (
        (lambda: 1 / 0, "^ZeroDivisionError: division by zero$"),
        (lambda: sys.exit(7), "^SystemExit: 7$"),
        (lambda: os._exit(3), "^its process ended with exit code 3$"),
        (lambda: os._exit(0), "^its process ended with exit code 0$"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "^its process was killed by SIGKILL$"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "^its process was killed by SIGTERM$"),
        (lambda: object(), "^TypeError: "),
    ):
        with pytest.raises(ChildFailed, match=message):
            answer_of(work)


def test_what_it_prints_is_not_taken_for_an_answer_of_the_command(capfd):
    print("ours")
    answer_of(lambda: (print("python"), os.system("echo a program"))[1])
    message = capfd.readouterr()
    assert message.out == "ours\n" and sorted(message.err.splitlines()) == ["a program", "python"]


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("words", [("data=custom", "data.path=sleepy:Data"), ("model=custom", "model.path=sleepy:Net")])
def test_it_dies_with_the_command(started, tmp_path, words, number):  # noqa: F811
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    command = started("show", *words)
    until((tmp_path / "pid").exists)
    child = int((tmp_path / "pid").read_text())
    assert alive(child) and child != command.pid
    command.send(number)
    assert command.ended().code == (-number if number == signal.SIGKILL else 128 + number)
    until(lambda: not alive(child), "the child's end")


@linux
def test_it_dies_when_its_parent_dies_before_it_has_begun(tmp_path):
    """The parent is gone between the fork and the child's first line: no signal will come."""
    elsewhere(orphan_a_child, tmp_path / "pid")
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    until(lambda: not alive(int((tmp_path / "pid").read_text())), "the child's end")


def orphan_a_child(file):
    """A grandchild that kills the child before it does anything else."""
    from coopsgd.host import child

    if middle := os.fork():
        os.waitpid(middle, 0)
        return

    def late(parent):
        file.write_text(str(os.getpid()))
        os.kill(parent, signal.SIGKILL)
        while os.getppid() == parent:
            time.sleep(0.01)
        child_dies(parent)

    child_dies, child.die_with = child.die_with, late
    child.answer_of(lambda: time.sleep(NEVER))
    os._exit(0)
