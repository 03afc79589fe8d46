"""Every algorithm, built in or as docs/new_algorithm.md tells, keeps the promises of `coopsgd.testing`; breakers are named."""

from __future__ import annotations

import breakers
import pytest
import written
from playing import OF_ADAM, OF_MATRICES, with_tau

from coopsgd.loop.loop import Loop
from coopsgd.loop.rounds import Rounds
from coopsgd.setup import catalogue
from coopsgd.testing import check_strategy

ALGOS = [choice.name for choice in catalogue.choices("algo")]
WORDS = {
    "cooperative": ("algo.W=[[0.5,0.5,0,0],[0,0.5,0.5,0],[0,0,0.5,0.5],[0.5,0,0,0.5]]",),
    **dict.fromkeys(OF_ADAM, ("buffers=keep", "buffers_every=1")),  # promises are about models under SGD
}
SMALL = ("data=digits", "model=mlp", "model.hidden=[4]", "batch_size=4", "eval_samples=10")


@pytest.mark.parametrize("algo", ALGOS)
def test_every_algorithm_keeps_its_promises(process_groups, algo):
    problem = {"problem": SMALL} if algo in OF_MATRICES else {}
    check_strategy(algo, *WORDS.get(algo, ()), *with_tau(algo, 3), process_groups=process_groups, **problem)


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (written.SlowMo, ("tau=3",)),
        (written.StreamingDiLoCo, ("tau=2",)),
        (written.PushSum, ("tau=1",)),
        (written.GradientTracking, ("tau=1", "algo.mixing=gossip", "topology=ring")),
    ],
)
def test_an_algorithm_written_as_the_readme_tells_keeps_them_too(process_groups, cls, words):
    check_strategy(cls, *words, process_groups=process_groups)


@pytest.mark.parametrize(
    "words",
    [
        ("sgp", "topology=star", "tau=3", "delay=1"),
        ("dpsgd", "tau=3", "order=cta"),
        ("streaming_diloco", "tau=4", "delay=1"),
    ],
)
def test_a_message_that_leaves_before_it_is_due_or_after_does_not_confuse_it(words):
    """Who moved is seen after the local step, whenever its round's message leaves."""
    check_strategy(*words, processes=(1,))


BREAKERS = {
    breakers.Receives: ["Receives.receive", "row 0", "`x`", "fleet.mix, mean or pick"],
    breakers.Hears: ["Hears.receive", "`heard`"],
    breakers.Directs: ["Directs.direction", "`grad`"],
    breakers.Sends: ["Sends.send", "`x`"],
    breakers.Answers: ["Answers.answer", "`x`"],
    breakers.Remembers: ["Remembers.receive", "`s.rows`"],
    breakers.Hides: ["Hides", "_rounds", "belongs into the state"],
    breakers.Global: ["Global", "outside of the state"],
    breakers.Places: ["Places", "on 2 processes"],
}


@pytest.mark.parametrize("cls", BREAKERS, ids=lambda cls: cls.__name__)
def test_who_breaks_a_promise_is_named(process_groups, cls):
    with pytest.raises(AssertionError) as error:
        check_strategy(cls, "tau=2", process_groups=process_groups, processes=(1, 2))
    assert all(part in str(error.value) for part in BREAKERS[cls]), error.value


@pytest.mark.parametrize("algo", ["pasgd", "easgd"])
def test_it_fails_when_idling_is_taken_out(monkeypatch, algo):
    monkeypatch.setattr(Rounds, "active", property(lambda self: None))
    with pytest.raises(AssertionError, match=rf"{algo}: worker 1 moved in step 0"):
        check_strategy(algo, "tau=2", processes=())


@pytest.mark.parametrize("algo", ["pasgd", "easgd"])
def test_it_fails_when_idling_is_anothers_on_a_process_but_the_first(process_groups, algo):
    def confused(p):
        return lambda function, *arguments: process_groups(p)(breakers.with_idling_confused, function, *arguments)

    with pytest.raises(AssertionError, match=rf"{algo}: worker 2 .* in step 0, on 2 processes"):
        check_strategy(algo, "tau=2", process_groups=confused, processes=(1, 2))


@pytest.mark.parametrize(
    ("owner", "name", "value", "message"),
    [
        (Loop, "_companions", lambda self, t: [], "running statistics"),
        (Loop, "_late", property(lambda self: 0), "delay=1: after step 2 off by"),
    ],
)
def test_it_fails_when_the_loop_does(monkeypatch, owner, name, value, message):
    monkeypatch.setattr(owner, name, value)
    with pytest.raises(AssertionError, match=message):
        check_strategy("dpsgd", "tau=2", processes=())


def test_it_starts_processes_of_its_own():
    check_strategy(written.SlowMo, "tau=2", processes=(1, 2))
