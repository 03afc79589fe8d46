"""A plan is a function of the matrix and the layout alone; what is large is planned from its structure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_plan import carried_out

from coopsgd.fleet import plan as plans
from coopsgd.fleet import processes
from coopsgd.fleet.plan import Layout, layout_of, lower
from coopsgd.fleet.price import price
from coopsgd.fleet.processes import Processes
from coopsgd.fleet.stacked import Stacked
from coopsgd.mixing import graphs, matrices
from coopsgd.mixing.base import Mixing
from coopsgd.mixing.matcha import Matcha
from coopsgd.mixing.matrix import Matrix, identity
from coopsgd.mixing.static import Anchored, Elastic, Gossip, Hierarchical, ParameterServer
from coopsgd.mixing.structured import Average, Groups
from coopsgd.mixing.varying import Matching, OnePeer, TwoLevel


def drawn(m: int, r: int) -> np.ndarray:
    """Averages within groups of 4 and more at random: never the same groups twice."""
    order = np.random.default_rng(r).permutation(m)
    W = np.zeros((m, m))
    for group in (order[:4], order[4:9], order[9:]):
        W[np.ix_(group, group)] = 1 / len(group)
    return W


class Regrouped(Mixing):
    """Groups at random."""

    def cycle(self, m: int) -> None:
        return None

    def matrices(self, m: int, r: int) -> tuple[np.ndarray, ...]:
        return (drawn(m, r),)


@pytest.mark.parametrize("mixing", [Regrouped(), Matcha(topology=graphs.Complete()), TwoLevel(groups=[3, 5, 8])])
def test_a_restart_plans_what_an_uninterrupted_run_plans(monkeypatch, mixing):
    """Which sums a process makes must not depend on what was planned before: else a resumed run differs in its last bits."""
    monkeypatch.setattr(processes.dist, "new_group", lambda ranks, timeout: tuple(ranks))
    layout = Layout(16, 0, 16)

    def sums(fleet: Processes, r: int) -> list[tuple[int, ...]]:
        (W,) = mixing.at(16, r).factors
        return [group for group, _ in fleet.planned(W, torch.zeros(1, dtype=torch.float64)).lowered.sums]

    whole = Processes(layout, 5)
    planned = [sums(whole, r) for r in range(120)]
    for r in (40, 90, 119):
        assert sums(Processes(layout, 5), r) == planned[r]
    groups = {group for of_round in planned for group in of_round if len(group) < 16}
    assert bool(groups) == (mixing.cycle(16) is not None), "groups of processes are for matrices that come again"


LARGE = {
    "ring": Gossip(),
    "exponential": Gossip(topology=graphs.Exponential()),
    "random regular": Gossip(topology=graphs.RandomRegular()),
    "average": TwoLevel(groups=[1] * 320, tau_2=10, tau=10),
    "groups": TwoLevel(groups=[100, 20, 199, 1]),
    "elastic": Elastic(),
    "anchored": Anchored(topology=graphs.Complete(), alpha=0.002),
    "tree": Hierarchical(groups=[120, 200]),
    "one peer": OnePeer(),
    "matching": Matching(),
    "server": ParameterServer(),
}


@pytest.mark.parametrize("name", LARGE)
def test_structure_plans_and_mixes_what_the_array_says(name):
    """Above WHOLE rows the plan is read off the structure: the same matrix, never dearer than edges or an all-gather."""
    mixing, m = LARGE[name], 320
    for W in mixing.at(m, 0).factors:
        n = len(W)
        for processes_ in (1, 2, 4):
            layout = layout_of(mixing, m, processes_)
            plan = lower(W, layout)
            assert isinstance(plan.rest, Matrix) and "_dense" not in vars(W)
            dense = W.block(np.arange(n), np.arange(n))
            np.testing.assert_allclose(as_arrays(plan), dense, rtol=0, atol=1e-13)
            home = layout.home
            both = [(p, q) for p in range(processes_) for q in range(processes_) if p != q]
            edges = sum(np.count_nonzero(dense[np.ix_(home == p, home == q)].any(0)) for p, q in both)
            assert plan.vectors <= min(edges or n, (processes_ - 1) * n) or layout.replicated
        x = np.random.default_rng(0).normal(size=(n, 700))
        fleet, rows = Stacked(layout_of(mixing, m, 1)), torch.from_numpy(x.copy())
        fleet.mix(W, rows)
        np.testing.assert_allclose(rows.numpy(), dense @ x, rtol=0, atol=1e-12)
        vars(W).pop("_dense", None)
        assert price(W, m, mixing.server_owns_aux).messages == price(dense, m, mixing.server_owns_aux).messages


def as_arrays(plan: plans.Plan) -> np.ndarray:
    """What the plan does, its own rows as an array."""
    stay = plan.stay
    object.__setattr__(plan, "stay", lambda q: np.array(stay(q)))
    return carried_out(plan)


@pytest.mark.slow
def test_a_run_of_thousands_makes_nothing_of_its_square(monkeypatch):
    """4096 workers in one process, some steps of each: whoever asks for a whole (m, m) array is caught."""
    monkeypatch.setattr(Matrix, "dense", refused)
    monkeypatch.setattr(Matrix, "_dense", property(refused), raising=False)
    m = 4096
    for mixing in (*LARGE.values(), Average(m), Groups(m, [range(2048), range(2048, m)])):
        if isinstance(mixing, TwoLevel):
            continue
        v = mixing.num_aux if isinstance(mixing, Mixing) else 0
        fleet = Stacked(Layout(m, v, 1, server_owns_aux=bool(v)))
        x = torch.ones(m + v, 3, dtype=torch.float64)
        mixing = Hierarchical() if isinstance(mixing, Hierarchical) else mixing
        for r in range(2):
            W = mixing.at(m, r) if isinstance(mixing, Mixing) else mixing
            if len(W) == fleet.layout.n:
                fleet.mix(W, x)
        np.testing.assert_allclose(x.numpy(), 1, rtol=0, atol=1e-11)


def refused(*_: object) -> np.ndarray:
    raise AssertionError("a dense (m, m) array")


def test_nothing_to_do_is_an_identity():
    assert identity(5).is_identity and lower(identity(300), Layout(300, 0, 4)).vectors == 0
    assert not matrices.upload(np.full(3, 1 / 3)).is_identity
