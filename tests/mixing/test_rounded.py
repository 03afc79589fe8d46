"""Weights as float32 has them: rows in sum 1, as symmetric as before, and nothing else touched."""

from __future__ import annotations

import numpy as np
import pytest
from playing import QUADRATIC, settle
from test_thousands import MIXINGS

from coopsgd.mixing import graphs, matrices
from coopsgd.mixing.matrix import Edges
from coopsgd.mixing.rounded import in_sum_one
from coopsgd.setup.parts import Parts
from coopsgd.testing.runs import make_loop


@pytest.mark.parametrize("words", ["algo=dpsgd", "algo=d2", "algo=d2 topology=torus", "algo=dpsgd topology=exponential"])
@pytest.mark.parametrize("m", [6, 12, 16])
def test_rows_and_columns_are_in_sum_one(words, m):
    config = settle((*QUADRATIC, f"workers={m}", *words.split()))
    (W,) = Parts(config).strategy.schedule.factors(m, 0)
    rounded = in_sum_one(W).dense()
    single = rounded.astype(np.float32).astype(float)
    assert (single == rounded).all() and np.abs(rounded - W.dense()).max() < 2e-6
    for axis in (0, 1):
        assert (single.sum(axis) == 1).all()
    assert ((rounded == rounded.T) == (W.dense() == W.dense().T)).all()


@pytest.mark.parametrize("name", sorted(MIXINGS))
def test_what_is_rounded_is_hardly_another(name):
    """No weight by more than 2e-5 of itself, and none of a symmetric W on one side alone; means and pulls not at all."""
    mixing, m = MIXINGS[name], 24
    try:
        mixing.check(m)
        factors = [W for r in range(2) for W in mixing.factors(m, r)]
    except ValueError:
        factors = [W for r in range(2) for W in mixing.factors(16, r)]
    for W in factors:
        before, after = W.dense(), in_sum_one(W).dense()
        off = ~np.eye(len(before), dtype=bool)
        assert (np.abs(after - before) <= 2e-5 * np.abs(before))[off].all()
        assert ((after == after.T) | (before != before.T)).all()


@pytest.mark.parametrize("least", [1e-7, 3e-7, 1e-4])
def test_small_weights_are_left(least):
    W = Edges.of(4, [0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 1, 2, 2, 3, 3, 0], [1 - least, least] * 4)
    assert in_sum_one(W) is W


def test_members_who_take_alike_are_left_alike():
    links = graphs.Ring().links(3, 0)
    W = matrices.staying(links, np.full(links.count, 1 / 3))
    assert in_sum_one(W) is W


def test_a_pull_of_any_strength_pulls_as_in_float64():
    for alpha in (1e-7, 3e-7, 1e-4, 1e-2):
        words = ("algo=easgd", "tau=1", f"algo.alpha={alpha}", "steps=300")
        found = []
        for dtype in ("float32", "float64"):
            loop = make_loop(settle((*(w for w in QUADRATIC if not w.startswith("dtype")), *words, f"dtype={dtype}")))
            for _ in range(300):
                loop.advance()
            found.append(loop.state.x[-1].double().numpy())
        np.testing.assert_allclose(found[0], found[1], rtol=2e-3, atol=1e-9)
