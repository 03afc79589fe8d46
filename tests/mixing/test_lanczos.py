"""The two ends of a large sparse spectrum: right, without factorising what would fill up, and never silent for long."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse.linalg import eigsh

from coopsgd.mixing import graphs, lanczos, matrices, spectra
from coopsgd.mixing.static import Gossip
from coopsgd.mixing.structured import Product

M = 600  # above WHOLE, and quick as an array


def drawn(seed: int = 0):
    return Gossip(topology=graphs.RandomRegular(), seed=seed).at(M, 0)


@pytest.fixture
def factorised(monkeypatch):
    """Sigmas of the solver when it was asked for what lies next to one, which factorises the matrix."""
    seen = []

    def watched(*args, sigma=None, **more):
        seen.extend([] if sigma is None else [sigma])
        return eigsh(*args, sigma=sigma, **more)

    monkeypatch.setattr("scipy.sparse.linalg.eigsh", watched)
    return seen


def test_what_mixes_well_is_never_factorised(monkeypatch, factorised):
    """The factor of a random graph is nearly full: of 20,000 workers it took minutes."""
    monkeypatch.setattr(lanczos, "RESTARTS", 3)  # too few for the last digits, enough for the first
    W = drawn()
    values = np.linalg.eigvalsh(W.dense())
    assert lanczos.ends(W) == pytest.approx((values[-2], values[0]), abs=1e-11) and not factorised
    value, x = lanczos.top(W)
    assert np.linalg.norm(W @ x - value * x) < 1e-6 and abs(x.mean()) < 1e-9
    two = Product(M, (drawn(1), drawn(2)))
    expected = np.linalg.norm(two.dense() - 1 / M, 2)
    assert spectra.zeta(two) == pytest.approx(expected, abs=1e-9) and not factorised


def test_what_hardly_mixes_is_factorised(monkeypatch, factorised):
    monkeypatch.setattr(lanczos, "RESTARTS", 1)
    links = graphs.links_of_pairs(M, [(i, i + 1) for i in range(M - 1)])  # a chain of which nobody knows the modes
    W = matrices.metropolis(links)
    assert lanczos.top(W)[0] == pytest.approx(1 - 2 / 3 * (1 - np.cos(np.pi / M)), abs=1e-12) and factorised


def test_the_smallest_is_found_where_it_is_slow_to_come(monkeypatch):
    """It is the mirror of the largest of a chain in which everybody but the ends takes all from its neighbours."""
    monkeypatch.setattr(lanczos, "RESTARTS", 3)
    W = matrices.best_constant(graphs.links_of_pairs(M, [(i, i + 1) for i in range(M - 1)]))
    assert lanczos.ends(W)[1] == pytest.approx(np.linalg.eigvalsh(W.dense())[0], abs=1e-6)


def test_what_takes_long_says_how_long_at_most(monkeypatch):
    told, W = [], drawn()
    monkeypatch.setattr(lanczos.news, "listener", told.append)
    lanczos.ends(W)
    assert told == []
    now = iter(range(10**9))  # a second between any two looks at the clock
    monkeypatch.setattr(lanczos.time, "monotonic", lambda: float(next(now)))
    lanczos.ends(W)
    assert told[0].startswith("spectrum: the second largest eigenvalue of the matrix of 600 members, at most about ")
    assert any("the smallest eigenvalue" in line for line in told)
    assert len(told) == len({*told}) == 2


def test_zeta_of_one_matrix_is_looked_for_once(monkeypatch):
    W, asked, real = drawn(3), [], lanczos.ends
    monkeypatch.setattr(spectra.lanczos, "ends", lambda *a: asked.append(1) or real(*a))
    cycle = [drawn(4), drawn(5)]
    for _ in range(2):
        spectra.zeta(W), spectra.log_zeta([W]), spectra.log_zeta(cycle)
    assert len(asked) == 2


def test_a_large_graph_says_how_long_its_drawing_takes(monkeypatch):
    told, now = [], iter(range(0, 10**9, 10))
    monkeypatch.setattr(graphs.news, "listener", told.append)
    monkeypatch.setattr(graphs.time, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr(graphs, "FEW", 20_000)
    quick = graphs.RandomRegular().links(1000, 0)
    assert told == []
    for graph in (graphs.RandomRegular(degree=20), graphs.ErdosRenyi(p=0.02)):
        graph.links(3000, 0)
    assert ["random_regular of 3000 workers" in told[0], "erdos_renyi of 3000 workers" in told[1], len(told)] == [True, True, 2]
    assert all(", about " in line for line in told)
    monkeypatch.setattr(graphs, "FEW", 0)  # a look beforehand moves nothing
    assert (graphs.RandomRegular().links(1000, 0).columns == quick.columns).all()


@pytest.mark.slow
def test_zeta_of_twenty_thousand_on_a_random_graph(factorised):
    assert Gossip(topology=graphs.RandomRegular()).zeta(20_000) == pytest.approx(0.956910134957, abs=1e-9) and not factorised
