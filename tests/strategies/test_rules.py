"""The algorithms that are more than (tau, W, v): their special cases, what they conserve, what they refuse."""

from __future__ import annotations

import numpy as np
import oracle_rules
import pytest
import torch
from playing import QUADRATIC, play, settle
from test_oracle import EXACT, problem

from coopsgd.setup.parts import Parts
from coopsgd.strategies.base import Tick

WHEN = ("order=atc", "order=cta", "delay=1", "delay=tau")


def same(process_groups, one, other, exactly=False):
    a, b = (play(process_groups, 1, *QUADRATIC, *words).x for words in (one, other))
    assert np.array_equal(a, b) if exactly else np.allclose(a, b, **EXACT)


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("algo", ["qg_dsgdm", "decentlam"])
def test_without_momentum_they_are_gossip(process_groups, algo, when):
    same(process_groups, (f"algo={algo}", "algo.beta=0", "tau=3", when), ("algo=dpsgd", "tau=3", when), exactly=True)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("tau", [1, 4])
def test_quasi_global_momentum_looks_ahead(process_groups, tau, processes):
    words = (*QUADRATIC, "algo=qg_dsgdm", "algo.nesterov=true", "algo.beta=0.8", "algo.mu=0.7", f"tau={tau}")
    expected = oracle_rules.qg_dsgdm(problem(words), 0.8, 0.7, True)
    np.testing.assert_allclose(play(process_groups, processes, *words).x, expected, **EXACT)


def test_quasi_global_momentum_of_one_worker_is_a_mean_of_its_gradients(process_groups):
    words = (*QUADRATIC, "algo=qg_dsgdm", "algo.beta=0.8", "algo.mu=0.7", "workers=1")
    p = problem(words)
    x, m = p.x0.copy(), np.zeros_like(p.x0)
    for k in range(p.K):
        g = p.gradient(0, x, k)
        x, m = x - p.eta * (g + 0.8 * m), (0.7 + 0.3 * 0.8) * m + 0.3 * g
    np.testing.assert_allclose(play(process_groups, 1, *words).x[0], x, **EXACT)


def test_decentlam_where_everyone_averages_is_heavy_ball(process_groups):
    words = ("topology=complete", "algo.beta=0.8", "tau=1")
    same(process_groups, ("algo=decentlam", *words), ("algo=fullsync", "optim.momentum=0.8"))


@pytest.mark.parametrize("when", ["delay=0", "delay=1", "delay=tau"])
def test_decentlam_is_gossip_with_outer_momentum_in_units_of_a_gradient(process_groups, when):
    outer = ("outer=momentum", "outer.momentum=0.8", "outer.lr=1", "outer.scale=lr")
    more = ("tau=3", when, "schedule=cosine")
    same(process_groups, ("algo=decentlam", "algo.beta=0.8", *more), ("algo=dpsgd", *outer, *more))


def test_decentlam_at_a_rate_of_nothing_mixes():
    strategy = Parts(settle((*QUADRATIC, "algo=decentlam"))).strategy
    x, heard = torch.ones(2, 3), torch.full((2, 3), 0.5)
    s = strategy.init(None, x)
    new, s = strategy.receive(None, Tick(0, 0, 0.0), x, heard, s)
    assert torch.equal(new, heard) and torch.equal(s.momentum, torch.zeros(2, 3)) and torch.equal(s.start, heard)
