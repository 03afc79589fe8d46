"""How long a process may wait for another follows from what things have taken here."""

from __future__ import annotations

import pytest

from coopsgd.fleet import waits
from coopsgd.fleet.waits import CHECKPOINT, EVALUATION, FIRST, FLOOR, START, TIMES, TRAINING, Waits


@pytest.fixture
def clock(monkeypatch):
    """clock(5): five seconds pass."""
    now = [100.0]
    monkeypatch.setattr(waits.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def waited(of: Waits, verb: str, activity: str, step: int, clock, seconds: float = 0.001) -> float:
    """How long it may wait there; it does so for `seconds`."""
    of.begin(verb, activity, step)
    assert of.now is not None
    limit = of.now.limit
    clock(seconds)
    of.end()
    return limit


def trained(of: Waits, clock, step_s: float = 0.01, evaluation_s: float = 0.01) -> None:
    """It has been through a step, a communication and an evaluation."""
    for step in range(3):
        clock(step_s)
        waited(of, "mix", TRAINING, step, clock)
    waited(of, "total", EVALUATION, 3, clock)
    clock(evaluation_s)
    waited(of, "barrier", EVALUATION, 3, clock)
    waited(of, "mix", TRAINING, 4, clock)


def test_what_is_new_may_take_long_what_is_known_not(clock):
    of = Waits(None)
    clock(1000)  # it builds its data, which no later wait is measured by
    assert waited(of, "join", START, 0, clock) == FIRST
    assert waited(of, "mix", TRAINING, 0, clock) == FIRST
    assert waited(of, "mix", TRAINING, 1, clock) == FLOOR
    assert waited(of, "total", EVALUATION, 2, clock) == FIRST
    clock(1)
    assert waited(of, "total", EVALUATION, 2, clock) == FIRST, "the same evaluation, which may not be half over"
    waited(of, "mix", TRAINING, 2, clock)
    assert waited(of, "total", EVALUATION, 4, clock) == FLOOR
    assert waited(of, "total", CHECKPOINT, 4, clock) == FIRST


@pytest.mark.parametrize(("step_s", "evaluation_s"), [(9, 0.01), (0.01, 9)])
def test_long_steps_and_long_evaluations_are_waited_for(clock, step_s, evaluation_s):
    of = Waits(None)
    trained(of, clock, step_s, evaluation_s)
    assert of.usual == pytest.approx(TIMES * 9)
    assert waited(of, "mix", TRAINING, 5, clock) == of.usual
    assert waited(of, "gather", CHECKPOINT, 5, clock) == FIRST
    assert waited(of, "mix", TRAINING, 6, clock, seconds=40) == pytest.approx(TIMES * 9)
    assert of.usual == pytest.approx(TIMES * 40), "a round whose messages take long"


def test_the_process_that_all_wait_for_counts_its_steps_one_by_one(clock):
    of = Waits(None)
    trained(of, clock)
    for _ in range(1000):
        clock(1)
        of.passed("mean", TRAINING)
    assert waited(of, "mean", TRAINING, 1005, clock) == FLOOR


def test_what_is_given_is_all_there_is(clock):
    of = Waits(7.0)
    trained(of, clock, 100.0)
    assert waited(of, "mix", TRAINING, 0, clock) == waited(of, "gather", CHECKPOINT, 0, clock) == 7.0


def test_time_in_which_the_process_was_stopped_does_not_count(clock):
    of = Waits(None)
    trained(of, clock)
    clock(3600)
    of.again()
    assert waited(of, "mix", TRAINING, 5, clock) == FLOOR and of.usual == FLOOR


def test_a_wait_says_where(clock):
    told = []
    of = Waits(None, told.append)
    for verb, activity, step in (
        ("mix", TRAINING, 0),
        ("total", EVALUATION, 20),
        ("join", START, 0),
        ("barrier", CHECKPOINT, 9),
    ):
        waited(of, verb, activity, step, clock)
    assert [str(one) for one in told if one] == [
        "the mix of step 1",
        "the total of the evaluation after step 20",
        "the join of the start",
        "the barrier of the checkpoint after step 9",
    ]
