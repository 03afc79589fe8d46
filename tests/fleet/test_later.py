"""`later`: what was started on today's values goes on while they change, and the answer is the same as had we waited."""

from __future__ import annotations

import arrays as matrices
import numpy as np
import pytest
import torch
import torch.distributed as dist
from playing import QUADRATIC, Lines, play, settle

from coopsgd.fleet.plan import Layout, layout_of
from coopsgd.fleet.processes import Processes
from coopsgd.fleet.stacked import Stacked
from coopsgd.loop.evaluation import train
from coopsgd.mixing.graphs import Ring
from coopsgd.setup.parts import Parts

M, D = 8, 1000


def verbs(rank, processes, W, x):
    """Every verb twice, started and then disturbed; and at once, on as many processes."""
    layout = Layout(M, 1, processes)
    fleet = Processes(layout, rank) if processes > 1 else Stacked(layout)
    mine = torch.from_numpy(x[layout.rows(rank)])
    found = []
    for name, before, after in (("mix", (W,), ()), ("mean", (), ()), ("mean", (), (mine[:, :7],)), ("pick", (), (3,))):
        verb = getattr(fleet, name)
        started, given = [], mine.clone()
        for _ in range(2):  # two under way at once
            started.append(fleet.later(verb, *before, given, *after))
            given += 1
        late = [pending.wait() for pending in started]
        now = [verb(*before, mine.clone() + shift, *after) for shift in (0, 1)]
        found.append((late, now))
        with pytest.raises(RuntimeError, match="waited for already"):
            started[0].wait()
    with pytest.raises(ValueError, match="later: takes mix, mean, pick or spread"):
        fleet.later(fleet.gather, mine)
    return fleet.ledger.messages, found


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("kind", ["elastic", "ring", "average"])
def test_answers_are_those_of_verbs_done_at_once(process_groups, kind, processes):
    W = np.eye(M + 1)
    if kind == "elastic":
        W = matrices.elastic(M, 0.1)
    else:
        W[:M, :M] = matrices.average(M) if kind == "average" else matrices.metropolis(Ring().adjacency(M, 0))
    x = np.random.default_rng(0).normal(size=(M + 1, D))
    answers = [verbs(0, 1, W, x)] if processes == 1 else process_groups(processes)(verbs, processes, W, x)
    assert len({messages for messages, _ in answers}) == 1
    for _, found in answers:
        for late, now in found:
            for a, b in zip(late, now, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


class Travelling:
    """What torch.distributed started, until it is waited for."""

    def __init__(self, work, under_way):
        self._work, self._under_way = work, under_way
        under_way.append(self)

    def wait(self, *args):
        self._under_way.remove(self)
        return self._work.wait(*args)


def hidden(rank, settings, processes):
    """How many messages of this process are under way while each gradient is computed."""
    parts = Parts(settings)
    fleet = Processes(layout_of(parts.strategy.schedule, settings.workers, processes), rank)
    problem = parts.task.build(settings, fleet.workers, torch.device("cpu"))
    under_way, found = [], []

    gradients = problem.gradients

    def asked(*args):
        found.append(len(under_way))
        return gradients(*args)

    def started(verb):
        def call(*args, **kwargs):
            work = verb(*args, **kwargs)
            return work if work is None else Travelling(work, under_way)

        return call

    problem.gradients = asked
    names = ("isend", "irecv", "all_reduce")
    before = {name: getattr(dist, name) for name in names}
    try:
        for name in names:
            setattr(dist, name, started(before[name]))
        train(parts, fleet, problem, Lines())
    finally:
        for name in names:
            setattr(dist, name, before[name])
    assert not under_way
    return found


@pytest.mark.parametrize(("algo", "most"), [("algo=dpsgd", 4), ("algo=pasgd", 1), ("algo=easgd", 1)])
def test_what_the_network_does_is_hidden_behind_the_gradient(process_groups, algo, most):
    """Of a ring two to send and two to receive, of an average one all-reduce: all leave before the gradient is asked for."""
    run = (*QUADRATIC, "workers=4", "tau=1", "steps=20", "log_every=20", algo)
    for found in process_groups(4)(hidden, settle((*run, "delay=1")), 4):
        assert len(found) == 20 and set(found) == {most}
    for found in process_groups(4)(hidden, settle((*run, "delay=0")), 4):
        assert set(found) == {0}


def test_a_delay_with_every_buffer_policy_is_the_same_everywhere(process_groups):
    for buffers in ("keep", "average", "reset"):
        run = (*QUADRATIC, "algo=dpsgd", "tau=2", "delay=1", f"buffers={buffers}", "optim.momentum=0.9")
        one = play(process_groups, 1, *run)
        for processes in (2, 8):
            np.testing.assert_allclose(play(process_groups, processes, *run).x, one.x, rtol=0, atol=1e-12)
