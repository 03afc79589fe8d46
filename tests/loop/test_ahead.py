"""Steps taken in one call with the communications between them are, to the bit, what verbs and single steps make of them."""

from __future__ import annotations

import contextlib
import ctypes
import re
from functools import partial

import numpy as np
import pytest
from playing import MLP, run, settle

from coopsgd.fleet import together
from coopsgd.fleet.shared import Shared
from coopsgd.fleet.together import Together
from coopsgd.host import native
from coopsgd.mixing.static import Gossip
from coopsgd.strategies.base import Strategy
from coopsgd.strategies.fullsync import FullSync

pytestmark = pytest.mark.skipif(not native.in_use(), reason="the kernels are not built here, or not wanted")

RUN = (*MLP, "fleet=shared", "workers=4", "steps=30", "batch_size=8", "log_every=10", "eval_every=20")
FULLSYNC, RING = ("algo=fullsync",), ("algo=dpsgd", "topology=ring", "tau=1")


def playing(rank, words, processes, alone=False, odd=False, late=None, pause=None):
    """One process's part of a run; how often steps were taken together here, and how many verbs were waited for there.

    alone: none are taken together; odd: only by processes of odd rank; late, pause: seconds in the place of MOMENT and MOST.
    """
    calls, waits = [], []
    taken, waited = Together.__call__, Shared._wait_at

    def counted(self, learning, k, kernels):
        calls.append(len(learning.losses))
        taken(self, learning, k, kernels)

    def counting(self, verb, step):
        waits.append((verb, step))
        waited(self, verb, step)

    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(Together, "__call__", counted)
        patch.setattr(Shared, "_wait_at", counting)
        if alone or (odd and not rank % 2):
            patch.setattr(Together, "can", lambda every: False)
        if late is not None:
            patch.setattr(together, "MOMENT", late)
        if pause is not None:
            patch.setattr(together, "MOST", pause)
        x, answer, logical, wire, lines, own, *_, summary = run(rank, settle(words), processes)
    times = ("wall_s", "train_s", "comm_s", "steps_per_s")
    lines = [{key: value for key, value in line.items() if key not in times} for line in lines]
    summary = {key: value for key, value in summary.items() if not key.endswith("_s")}
    return (x, answer, logical, wire, lines, own, summary), calls, waits


def same(one, other):
    for (x, answer, *rest, own, summary), (y, answer_too, *rest_too, own_too, summary_too) in zip(one, other, strict=True):
        for a, b in ((x, y), (answer, answer_too), (own, own_too)):
            assert (a is None and b is None) or np.array_equal(a, b)
        assert str(rest) == str(rest_too) and str(summary) == str(summary_too)  # nan is nan


def both(process_groups, *words, processes=4, **more):
    """What processes tell of a run with steps taken together, the same as without; how many they took at a time; who waited."""
    found, calls, waits = zip(*process_groups(processes)(partial(playing, **more), (*RUN, *words), processes), strict=True)
    expected, none, _ = zip(*process_groups(processes)(partial(playing, alone=True), (*RUN, *words), processes), strict=True)
    same(found, expected)
    assert not any(none)
    return calls, waits


TAKEN = {  # words -> how many steps at a time
    FULLSYNC: [10, 10, 10],
    (*FULLSYNC, "dtype=float32", "log_every=1"): [1] * 30,
    (*FULLSYNC, "workers=8"): [10, 10, 10],
    (*FULLSYNC, "log_every=7"): [7, 7, 6, 1, 7, 2],  # an evaluation after 20 steps
    (*FULLSYNC, "eval_every=0", "log_every=100"): [30],
    (*FULLSYNC, "stop.bytes=5e5"): None,
    (*FULLSYNC, "cluster=datacenter"): [10, 10, 10],
    RING: [10, 10, 10],
    (*RING, "dtype=float32"): [10, 10, 10],
    (*RING, "workers=8", "processes=2"): [10, 10, 10],
    (*RING, "optim.momentum=0.9", "optim.nesterov=true", "optim.weight_decay=1e-3"): [10, 10, 10],
    (*RING, "log_every=3rounds"): [3, 3, 3, 3, 3, 3, 2, 3, 3, 3],  # and step 21, an evaluation's, alone
    (*RING, "eval_every=4rounds", "log_every=100"): [4, 4, 4, 4, 4, 4, 4, 2],
    (*RING, "cluster=datacenter"): [10, 10, 10],
    (*RING, "topology=exponential", "schedule=cosine"): None,  # one at a time
    ("algo=one_peer", "tau=1"): [10, 10, 10],  # another matrix each time
    ("algo=matcha", "topology=ring", "tau=1"): None,
    ("algo=matching", "tau=1"): None,
    ("algo=hierarchical", "tau=1"): None,
    ("algo=gossip_pga", "tau=2"): None,
    (*RING, "algo.lazy=true"): [10, 10, 10],
    ("algo=pasgd", "tau=3"): None,
    ("algo=pasgd", "tau=[[0,1],[9,4]]"): None,
    ("algo=pasgd", "tau=3", "delay=0", "workers=12"): None,
    ("algo=easgd", "tau=2"): None,
    ("algo=easgd", "tau=1", "workers=16"): [10, 10, 10],
}


@pytest.mark.parametrize("words", TAKEN, ids=" ".join)
def test_it_is_what_steps_one_by_one_are(process_groups, words):
    processes = 2 if "processes=2" in words else 4
    calls, _ = both(process_groups, *(word for word in words if word != "processes=2"), processes=processes)
    assert all(map(any, calls)), "no process takes steps together"
    if TAKEN[words] is not None:
        assert list(calls) == [TAKEN[words]] * processes


@pytest.mark.parametrize(
    "words",
    [
        (*FULLSYNC, "optim=adam"),
        (*FULLSYNC, "optim.momentum=0.9"),
        (*FULLSYNC, "clip=1"),
        (*FULLSYNC, "codec=bf16"),
        (*RING, "delay=1"),
        (*RING, "order=cta"),
        (*RING, "merge=0.5"),
        (*RING, "optim.momentum=0.9", "buffers=average"),
        (*RING, "optim.momentum=0.9", "buffers=reset"),
        (*RING, "codec=bf16"),
        (*RING, "log_every=1"),
        (*RING, "stop.bytes=5e5"),
        ("algo=parameter_server", "tau=1"),  # two matrices a communication
        ("algo=fedavg", "tau=2"),  # workers that sit out
        (*RING, "model=cnn", "model.hidden=null"),
        ("algo=pasgd", "tau=7", "eval_every=5"),
    ],
    ids=" ".join,
)
def test_an_algorithm_that_does_more_is_left_to_the_loop(process_groups, words):
    words = tuple(word for word in (*RUN, *words) if not ("model=cnn" in words and word.startswith("model.hidden")))
    for _, calls, _ in process_groups(2)(playing, words, 2):
        assert not calls


class Both(FullSync):
    """Averages gradients, and mixes models too."""

    schedule = Gossip()
    send = Strategy.send


class Longer(Gossip):
    """Every other round is longer than tau."""

    def work(self, m, r, tau):
        return np.full(m, 3 * tau) if r % 2 else None


@pytest.mark.parametrize("words", [("algo.strategy=test_ahead:Both", "tau=1"), ("algo.strategy=test_ahead:Both", "tau=3")])
def test_gradients_and_models(process_groups, words):
    for (_, _, (rounds, messages, _), *_), calls, _ in process_groups(4)(playing, (*RUN, "algo=fullsync", *words), 4):
        assert not calls and messages == 30 * 6 + rounds * 8, "a mean and a ring"


def test_rounds_whose_length_a_schedule_says(process_groups):
    """An observer cannot foresee which communication is the last before an evaluation: its consensus is of before it."""
    words = ("algo=dpsgd", "tau=1", "algo.mixing=test_ahead:Longer", "eval_every=7")
    played = process_groups(4)(playing, (*RUN, *words), 4)
    assert not any(calls for _, calls, _ in played)


@pytest.mark.parametrize("words", [FULLSYNC, RING, ("algo=easgd", "tau=2")], ids=" ".join)
def test_who_does_and_who_does_not_meet_each_other(process_groups, words):
    calls, _ = both(process_groups, *words, odd=True)
    assert [bool(one) for one in calls] == [False, True, False, True]


@pytest.mark.parametrize("words", [FULLSYNC, RING], ids=" ".join)
def test_whoever_is_late_is_waited_for_by_name(process_groups, words):
    _, waits = both(process_groups, *words, late=-1.0)
    verb = "mean" if words == FULLSYNC else "mix"
    assert {one for some in waits for one, _ in some} == {verb}
    steps = {step for some in waits for _, step in some}
    assert steps <= set(range(30)) and len(steps) > 10


@pytest.mark.parametrize("words", [FULLSYNC, RING], ids=" ".join)
def test_python_has_its_turn_now_and_then(process_groups, words):
    """Signals are heard between two calls."""
    calls, _ = both(process_groups, *words, pause=0.0)
    assert list(calls) == [[10, 10, 10]] * 4


def unknown_label(rank, words, processes):
    """What a process says that meets a label which is none."""
    taken = Together.__call__

    def spoilt(self, learning, k, kernels):
        samples = native.Samples.from_address(learning.known.samples)
        classes = (ctypes.c_int64 * samples.count)(*[77] * samples.count)
        own, samples.labels = samples.labels, ctypes.addressof(classes)
        try:
            taken(self, learning, k, kernels)
        finally:
            samples.labels = own

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Together, "__call__", spoilt)
        with pytest.raises(IndexError) as error:
            run(rank, settle(words), processes)
    return str(error.value)


def test_a_label_that_is_none_is_told(process_groups):
    for said in process_groups(2)(unknown_label, (*RUN, *RING), 2):
        assert re.fullmatch(r"Target \d is out of bounds.", said)  # as the label is called that lies there again
