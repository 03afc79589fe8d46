"""Where nobody says a timeout, it is derived: a worker that hangs ends the run, one that is slow does not."""

from __future__ import annotations

import os
import re
import signal
import time
from functools import partial

import pytest
from faults import faulty
from running import LONG, linux, started, until  # noqa: F401  a fixture

pytestmark = linux


def impatient(floor: float, first: float) -> None:
    """Waits may last so many seconds at least, and so many where they are new."""
    from coopsgd.fleet import waits
    from coopsgd.run import launch, worker

    for module in (waits, launch, worker):
        vars(module).update({name: value for name, value in (("FLOOR", floor), ("FIRST", first)) if hasattr(module, name)})


def slow_evaluations(floor: float, first: float) -> None:
    """And the first process takes a while for an evaluation."""
    from coopsgd.tasks.quadratic import QuadraticProblem

    impatient(floor, first)
    evaluate = QuadraticProblem.evaluate

    def slow(self, *arguments):
        time.sleep(3)
        return evaluate(self, *arguments)

    QuadraticProblem.evaluate = slow


def test_a_stopped_worker_ends_the_run(started):  # noqa: F811
    command = started("train", *LONG, "processes=2", "hydra.run.dir=r", first=partial(impatient, 3, 300))
    os.kill(command.at_work(2)[1], signal.SIGSTOP)
    ended = command.ended()
    assert ended.code == 1
    (name,) = re.findall(
        r"worker process 1 \(pid \d+\) was stopped for ([\d.e+]+) s \(timeout\) and did not come to", ended.err
    )
    assert 3 <= float(name) < 300
    assert command.summary()["status"] == "failed"
    command.nothing_left()


def test_one_that_does_not_come_ends_the_run(started, tmp_path):  # noqa: F811
    command = started(*faulty(tmp_path, "stays"), "processes=2", first=partial(impatient, 3, 300))
    ended = command.ended()
    assert ended.code == 1 and "Traceback" not in ended.err
    assert re.search(r"worker process 1 \(pid \d+\) did not come to the mean of step 4, where others waited", ended.err), ended
    command.nothing_left()


@pytest.mark.parametrize(("first", "code"), [(30, 0), (1, 1)])
def test_a_slow_evaluation_does_not(cli, first, code):
    """20 times what the first took; without time for the first the run would end, which shows what is tried here."""
    words = ("task=quadratic", "steps=1", "processes=2", "hydra.run.dir=r")
    ended = cli("train", *words, first=partial(slow_evaluations, 1, first))
    assert ended.code == code, ended
    if code:
        assert "worker process 0 (pid" in ended.err and "of the evaluation after step 0" in ended.err, ended
