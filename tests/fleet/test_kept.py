"""Plans are kept by what their matrices hold: a schedule that makes the same ones anew has each planned once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coopsgd.fleet import base, factors, kept, price
from coopsgd.fleet.plan import Layout
from coopsgd.fleet.stacked import Stacked
from coopsgd.mixing import graphs, written
from coopsgd.mixing.matcha import Matcha
from coopsgd.mixing.structured import Dense
from coopsgd.mixing.written import Written


def lazy(m: int, r: int) -> np.ndarray:
    """One of five matrices, made anew."""
    a = 0.1 + 0.1 * (r % 5)
    return a / m + (1 - a) * np.eye(m)


def never(m: int, r: int) -> np.ndarray:
    """Another one each round."""
    W = np.random.default_rng(r).random((m, m))
    return W / W.sum(1, keepdims=True)


def late(m: int, r: int) -> np.ndarray:
    """Others at first."""
    return never(m, r) if r < 100 else lazy(m, r)


@pytest.fixture
def planned(monkeypatch):
    """How often a plan was made, a price found, and a name looked up."""
    made: dict[str, int] = {}

    def counted(module, name):
        real = getattr(module, name)

        def count(*args, **more):
            made[name] = made.get(name, 0) + 1
            return real(*args, **more)

        monkeypatch.setattr(module, name, count)

    for module, name in ((base.plans, "lower"), (base, "price"), (written, "imported")):
        counted(module, name)
    return made


@pytest.mark.parametrize("m", [2, 5, 40])
def test_a_function_of_the_round_has_each_of_its_matrices_planned_once(planned, m):
    schedule, fleet, x = Written(W=f"{__name__}:lazy"), Stacked(Layout(m, 0, 1)), torch.randn(m, 3, dtype=torch.float64)
    slow = x.numpy().copy()
    for r in range(200):
        fleet.mix(schedule.at(m, r), x)
        slow = lazy(m, r) @ slow
    np.testing.assert_allclose(x.numpy(), slow, rtol=0, atol=1e-12)
    assert planned == {"lower": 5, "price": 5, "imported": 1}


def test_so_does_what_is_drawn_of_few(planned):
    schedule, fleet, x = Matcha(topology=graphs.Ring()), Stacked(Layout(8, 0, 1)), torch.randn(8, 3)
    for r in range(200):
        fleet.mix(schedule.at(8, r), x)
    assert planned["lower"] <= 4, "a ring of 8 falls into two matchings"


def test_a_cycle_that_begins_late_is_learned_and_memory_is_bounded(planned):
    schedule, fleet, x = Written(W=f"{__name__}:late"), Stacked(Layout(4, 0, 1)), torch.randn(4, 3)
    for r in range(900):
        fleet.mix(schedule.at(4, r), x)
        assert len(fleet._plans) <= kept.PLANS[1]
    before = planned["lower"]
    for r in range(900, 1000):
        fleet.mix(schedule.at(4, r), x)
    assert planned["lower"] == before


def test_matrices_that_differ_in_a_bit_or_in_kind_are_not_taken_for_each_other():
    W = never(4, 0)
    V = W.copy()
    V[2, 3] = np.nextafter(V[2, 3], 1)
    known = [kept.known_by(one)[0] for one in (W, V, W.astype(np.float32), Dense(W), Dense(V), W.reshape(2, 8), 1.0 * Dense(W))]
    assert len(set(known)) == len(known)
    assert kept.known_by(Dense(W.copy()))[0] == kept.known_by(Dense(W))[0]


@pytest.mark.parametrize("n", [3, 4, 9, 60])
def test_what_is_found_of_a_whole_array_is_what_its_entries_say(n):
    draw = np.random.default_rng(n)
    for k in range(20):
        u, v = draw.random((2, n)) + 0.1
        W = [np.outer(u, v), lazy(n, k), never(n, k), np.outer(u, v) + 1e-9 * (np.arange(n)[:, None] == k % n)][k % 4]
        W = W + np.diag(draw.random(n))
        if k % 3 == 0:
            W[0] *= -1
        off = ~np.eye(n, dtype=bool)
        slow, quick = factors.rank_one(*np.nonzero(off), W[off], np.arange(n)), factors.whole_rank_one(W)
        assert (slow is None) == (quick is None)
        if slow is not None:
            assert np.array_equal(slow[0], quick[0]) and np.array_equal(slow[1], quick[1])
        slow, quick = price._priced(Dense(W), np.arange(n), n), price.price(W, n)
        assert slow.messages == quick.messages and np.array_equal(slow.sent, quick.sent)
        assert len(slow.sums) == len(quick.sums)
        assert all(np.array_equal(a, b) for a, b in zip(slow.links, quick.links, strict=True))
