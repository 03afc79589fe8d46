"""`later`: what was started on today's values goes on while they change, and the answer is the same as had we waited."""

from __future__ import annotations

import time

import arrays as matrices
import numpy as np
import pytest
import torch
import torch.distributed as dist
from playing import QUADRATIC, play, settle

from coopsgd.fleet.plan import Layout
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
    with pytest.raises(ValueError, match="later: takes mix, mean or pick"):
        fleet.later(fleet.gather, mine)
    return fleet.ledger.messages, found


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("kind", ["elastic", "ring", "average"])
def test_answers_are_those_of_verbs_done_at_once(gangs, kind, processes):
    W = np.eye(M + 1)
    if kind == "elastic":
        W = matrices.elastic(M, 0.1)
    else:
        W[:M, :M] = matrices.average(M) if kind == "average" else matrices.metropolis(Ring().adjacency(M, 0))
    x = np.random.default_rng(0).normal(size=(M + 1, D))
    answers = [verbs(0, 1, W, x)] if processes == 1 else gangs(processes)(verbs, processes, W, x)
    assert len({messages for messages, _ in answers}) == 1
    for _, found in answers:
        for late, now in found:
            for a, b in zip(late, now, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


class Slow:
    """A network on which whatever was started takes `seconds`, from when it was started."""

    def __init__(self, work, seconds):
        self._work, self._over = work, time.monotonic() + seconds

    def wait(self, *args):
        time.sleep(max(0.0, self._over - time.monotonic()))
        return self._work.wait(*args)


def slowed(rank, settings, processes, network, compute):
    """Seconds of a run in which every exchange takes `network` seconds and every gradient `compute`."""
    parts = Parts(settings)
    fleet = Processes(Layout(settings.workers, parts.strategy.schedule.num_aux, processes), rank)
    problem = parts.task.build(settings, fleet.workers, torch.device("cpu"))
    gradients, events = problem.gradients, []

    def slow_gradients(*args):
        time.sleep(compute)
        return gradients(*args)

    problem.gradients = slow_gradients
    names = ("isend", "irecv", "all_reduce")
    before = {name: getattr(dist, name) for name in names}

    def slow(verb):
        def call(*args, **kwargs):
            work = verb(*args, **kwargs)
            return work if work is None else Slow(work, network)

        return call

    class Report:
        def log(self, line):
            events.append((line["step"], line["train_s"]))

    try:
        for name in names:
            setattr(dist, name, slow(before[name]))
        train(parts, fleet, problem, Report())
    finally:
        for name in names:
            setattr(dist, name, before[name])
    return events[-1][1] - events[0][1]


@pytest.mark.parametrize("algo", ["algo=dpsgd", "algo=pasgd", "algo=easgd"])
def test_what_the_network_does_is_hidden_behind_the_gradient(gangs, algo):
    # 20 steps with 20 ms of gradient and 15 ms of network each: 0.7 s where nothing is hidden, 0.3 s less where all of it is,
    # and as much more in both as a busy machine takes
    run = (*QUADRATIC, "workers=4", "tau=1", "steps=20", "log_every=20", algo)
    took = {}
    for delay in (1, 0):
        took[delay] = min(max(gangs(4)(slowed, settle((*run, f"delay={delay}")), 4, 0.015, 0.02)) for _ in range(3))
    assert took[0] >= 0.7
    assert took[1] < took[0] - 0.15


def test_a_delay_with_every_buffer_policy_is_the_same_everywhere(gangs):
    for buffers in ("keep", "average", "reset"):
        run = (*QUADRATIC, "algo=dpsgd", "tau=2", "delay=1", f"buffers={buffers}", "optim.momentum=0.9")
        one = play(gangs, 1, *run)
        for processes in (2, 8):
            np.testing.assert_allclose(play(gangs, processes, *run).x, one.x, rtol=0, atol=1e-12)
