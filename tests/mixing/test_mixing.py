"""Closed forms of mixing matrices. A number has its arithmetic beside it; c = cos(2 pi / n)."""

from __future__ import annotations

import math

import arrays
import arrays as matrices
import numpy as np
import pytest

from coopsgd.mixing import graphs, spectra
from coopsgd.mixing.static import Average, Elastic, Gossip
from coopsgd.mixing.written import Written
from coopsgd.registry import lookup, names

TIGHT = {"rtol": 0, "atol": 1e-12}


def weighed(graph: graphs.Graph, n: int, weights: str = "metropolis") -> np.ndarray:
    return matrices.WEIGHTS[weights](graph.adjacency(n))


@pytest.mark.parametrize("n", [3, 5, 8, 16, 32])
def test_ring_with_thirds(n):  # M1
    values = np.sort(spectra.eigenvalues(weighed(graphs.Ring(), n)))
    np.testing.assert_allclose(values, np.sort([1 / 3 + 2 / 3 * math.cos(2 * math.pi * j / n) for j in range(n)]), **TIGHT)


@pytest.mark.parametrize("n", [4, 8, 16, 32])
def test_ring_best_constant(n):  # M2
    c = math.cos(2 * math.pi / n)
    W = weighed(graphs.Ring(), n, "best_constant")
    assert W[0, 1] == pytest.approx(1 / (3 - c), abs=1e-12)
    assert spectra.zeta(W) == pytest.approx((1 + c) / (3 - c), abs=1e-12)


@pytest.mark.parametrize("n", [3, 4, 9])
def test_chain(n):  # M3, M3b
    assert spectra.zeta(weighed(graphs.Chain(), n)) == pytest.approx(1 - 2 / 3 * (1 - math.cos(math.pi / n)), abs=1e-12)
    best = weighed(graphs.Chain(), n, "best_constant")
    assert best[0, 1] == pytest.approx(1 / 2, abs=1e-12)
    assert spectra.zeta(best) == pytest.approx(math.cos(math.pi / n), abs=1e-12)


@pytest.mark.parametrize("n", [3, 5, 9])
def test_star(n):  # M4
    assert spectra.zeta(weighed(graphs.Star(), n)) == pytest.approx(1 - 1 / n, abs=1e-12)
    best = weighed(graphs.Star(), n, "best_constant")
    assert best[0, 1] == pytest.approx(2 / (n + 1), abs=1e-12)
    assert spectra.zeta(best) == pytest.approx((n - 1) / (n + 1), abs=1e-12)


@pytest.mark.parametrize("weights", matrices.WEIGHTS)
def test_complete_is_the_average(weights):  # M5
    np.testing.assert_allclose(weighed(graphs.Complete(), 6, weights), matrices.average(6), **TIGHT)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_hypercube(k):  # M6
    for weights in ("metropolis", "best_constant"):
        assert spectra.zeta(weighed(graphs.Hypercube(), 2**k, weights)) == pytest.approx((k - 1) / (k + 1), abs=1e-12)


@pytest.mark.parametrize(("p", "q"), [(3, 3), (4, 4), (3, 5)])
def test_torus(p, q):  # M7
    def term(a, b):
        return abs(1 + 2 * math.cos(2 * math.pi * a / p) + 2 * math.cos(2 * math.pi * b / q)) / 5

    expected = max(term(a, b) for a in range(p) for b in range(q) if (a, b) != (0, 0))
    assert spectra.zeta(weighed(graphs.Torus(rows=p), p * q)) == pytest.approx(expected, abs=1e-12)


def test_a_torus_with_two_rows_is_a_simple_graph():
    assert graphs.Torus(rows=2).adjacency(8).sum(1).tolist() == [3] * 8  # one edge up-down, not two


@pytest.mark.parametrize(("p", "q"), [(2, 2), (3, 3), (3, 4)])
def test_grid_best_constant(p, q):  # M8
    values = sorted(4 - 2 * math.cos(math.pi * a / p) - 2 * math.cos(math.pi * b / q) for a in range(p) for b in range(q))
    expected = (values[-1] - values[1]) / (values[-1] + values[1])
    assert spectra.zeta(weighed(graphs.Grid(rows=p), p * q, "best_constant")) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [4, 6, 8, 12, 16])
def test_static_exponential_even(n):  # M9
    T = math.ceil(math.log2(n))
    W = weighed(graphs.Exponential(), n)
    assert np.count_nonzero(W[0]) == T + 1
    assert spectra.zeta(W) == pytest.approx(1 - 2 / (1 + T), abs=1e-12)


@pytest.mark.parametrize("n", [5, 7, 9])
def test_static_exponential_odd(n):  # M10
    assert spectra.zeta(weighed(graphs.Exponential(), n)) < 1 - 2 / (1 + math.ceil(math.log2(n))) - 1e-6


def test_weights_on_irregular_graphs():
    grid = graphs.Grid(rows=3)  # 3 x 3: values printed to three digits in the reference, 0.767, 0.800, 0.714
    found = [spectra.zeta(weighed(grid, 9, weights)) for weights in ("metropolis", "uniform", "best_constant")]
    np.testing.assert_allclose(found, [0.767, 0.800, 0.714], atol=5e-4)


@pytest.mark.parametrize("weights", matrices.WEIGHTS)
@pytest.mark.parametrize("name", [name for name in names("graph") if name != "file"])
def test_every_matrix_is_what_it_claims(name, weights):
    if name == "exponential" and weights in ("best_constant", "fdla"):
        with pytest.raises(ValueError, match="undirected"):
            weighed(lookup("graph", name)(), 16, weights)
        return
    adjacency = lookup("graph", name)().adjacency(16)
    W = matrices.WEIGHTS[weights](adjacency)
    assert spectra.is_doubly_stochastic(W, 1e-12)
    assert spectra.is_symmetric(W) == (name != "exponential")
    off = ~np.eye(16, dtype=bool)
    np.testing.assert_array_equal((W != 0)[off] <= adjacency[off], True)  # FDLA may leave an edge unused
    assert weights == "fdla" or np.array_equal((W != 0)[off], adjacency[off])
    assert 0 <= spectra.zeta(W) < 1
    if weights == "metropolis":
        assert (np.diag(W) >= 0).all()
    order = np.random.default_rng(0).permutation(16)
    assert spectra.zeta(W[np.ix_(order, order)]) == pytest.approx(spectra.zeta(W), abs=1e-12)


@pytest.mark.parametrize("m", [1, 2, 4, 8, 16])
def test_elastic_spectrum(m):  # E1
    alpha = 0.13
    values = np.sort(spectra.eigenvalues(matrices.elastic(m, alpha)))
    np.testing.assert_allclose(values, np.sort([1, *[1 - alpha] * (m - 1), 1 - (m + 1) * alpha]), **TIGHT)
    assert spectra.is_doubly_stochastic(matrices.elastic(m, alpha), 1e-12)


@pytest.mark.parametrize("m", [2, 4, 8])
def test_elastic_optimum(m):  # E2
    best = spectra.zeta(arrays.factors(Elastic(), m, 0)[0])
    assert best == pytest.approx(m / (m + 2), abs=1e-12)
    assert all(best <= spectra.zeta(matrices.elastic(m, a)) + 1e-12 for a in np.linspace(0.001, 2 / (m + 1), 200))


@pytest.mark.parametrize("m", [2, 4, 8])
def test_elastic_is_the_star_with_its_best_constant(m):  # E3; worker 0 of the star is the centre, z is last
    star = matrices.best_constant(graphs.Star().adjacency(m + 1))
    order = [*range(1, m + 1), 0]
    np.testing.assert_allclose(star[np.ix_(order, order)], arrays.factors(Elastic(), m, 0)[0], **TIGHT)


@pytest.mark.parametrize("m", [2, 4, 8, 16])
def test_elastic_network_factor(m):  # E4: (1 + 1/m)^2 [(1 + zeta^2) / (1 - zeta^2) - 1] = (m + 1) / 2
    z = spectra.zeta(arrays.factors(Elastic(), m, 0)[0])
    assert (1 + 1 / m) ** 2 * ((1 + z * z) / (1 - z * z) - 1) == pytest.approx((m + 1) / 2, rel=1e-12)


def test_hops_of_the_exponential_graph_average_exactly():  # P2: three mixings of (I + P^h) / 2 are J for 8 workers
    n = 8
    hops = [(np.eye(n) + np.roll(np.eye(n), h, axis=0)) / 2 for h in (1, 2, 4)]
    period = spectra.product(hops, n)
    np.testing.assert_allclose(period, matrices.average(n), **TIGHT)
    # |1 + w| / 2 over eighth roots w; hops of 2 and 4 alone leave groups that never hear of each other
    assert [spectra.zeta(W) for W in hops] == pytest.approx([math.cos(math.pi / 8), 1, 1])
    assert spectra.reaches_consensus(period)


def test_rate_of_a_matrix_that_is_only_row_stochastic():
    W = np.outer(np.ones(3), [0.9, 0.05, 0.05])  # every row jumps to the same weighted mean at once
    assert spectra.zeta(W) == pytest.approx(0, abs=1e-7)


def test_random_graphs_are_a_function_of_the_seed():
    for graph in (graphs.RandomRegular(), graphs.ErdosRenyi()):
        first, again, other = (graph.adjacency(16, seed) for seed in (1, 1, 2))
        assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert set(graphs.RandomRegular(degree=5).adjacency(16).sum(1)) == {5}


def test_factors_are_the_same_frozen_arrays_each_time():
    for mixing in (Average(), Gossip(), Elastic(), Written(W=[[0.5, 0.5], [0.5, 0.5]])):
        W = mixing.at(2, 0)
        assert W is mixing.at(2, 7) is mixing.factors(2, 7)[0]
        with pytest.raises(ValueError, match="read-only"):
            W.dense()[0, 0] = 3
