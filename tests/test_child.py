"""What runs a user's code in a process of its own: it answers, tells how it failed, and never outlives the command."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings

import pytest
from conftest import WARM, _command
from test_ending import alive, until

from coopsgd.host.child import ChildFailed, answer_of

SLEEPY = """
import os, time

def sleep(*args):
    with open("pid.part", "w") as file:
        file.write(str(os.getpid()))
    os.rename("pid.part", "pid")
    time.sleep(100)

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
    for work, told in (
        (lambda: 1 / 0, "^ZeroDivisionError: division by zero$"),
        (lambda: sys.exit(7), "^SystemExit: 7$"),
        (lambda: os._exit(3), "^its process ended with exit code 3$"),
        (lambda: os._exit(0), "^its process ended with exit code 0$"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "^its process was killed by SIGKILL$"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "^its process was killed by SIGTERM$"),
        (lambda: object(), "^TypeError: "),
    ):
        with pytest.raises(ChildFailed, match=told):
            answer_of(work)


def test_what_it_prints_is_not_taken_for_an_answer_of_the_command(capfd):
    print("ours")
    answer_of(lambda: (print("python"), os.system("echo a program"))[1])
    told = capfd.readouterr()
    assert told.out == "ours\n" and sorted(told.err.splitlines()) == ["a program", "python"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("words", [("data=custom", "data.path=sleepy:Data"), ("model=custom", "model.path=sleepy:Net")])
def test_it_dies_with_the_command(tmp_path, words, number):
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    process = WARM.Process(target=_command, args=(("show", *words), str(tmp_path), str(tmp_path / "told"), {}, None))
    process.start()
    until((tmp_path / "pid").exists)
    child = int((tmp_path / "pid").read_text())
    assert alive(child) and child != process.pid
    os.kill(process.pid, number)
    process.join(10)
    try:
        until(lambda: not alive(child), 5)
        assert process.exitcode == (-number if number == signal.SIGKILL else 128 + number)
    finally:
        if alive(child):
            os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_dies_when_its_parent_dies_before_it_has_begun():
    """The parent is gone between the fork and the child's first line: no signal will come."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this process has threads
        middle = os.fork()
    if middle == 0:
        from coopsgd.host import child

        def late(parent):
            os.write(writing, str(os.getpid()).encode())
            while os.getppid() == parent:
                time.sleep(0.01)
            child_dies(parent)

        child_dies, child.die_with = child.die_with, late
        signal.alarm(1)  # ends it while it waits
        child.answer_of(lambda: time.sleep(100))
        os._exit(0)
    pid = int(os.read(reading, 20))
    os.waitpid(middle, 0)
    try:
        until(lambda: not alive(pid), 5)
    finally:
        os.close(reading)
        os.close(writing)
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
