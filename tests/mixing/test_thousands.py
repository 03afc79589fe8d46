"""4096 workers: no mixing of the registry makes anything of their square; what cannot be told is refused by arithmetic."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch

from coopsgd.errors import ConfigError
from coopsgd.fleet.plan import layout_of, lower
from coopsgd.fleet.price import price
from coopsgd.fleet.stacked import Stacked
from coopsgd.mixing import fastest, graphs, matcha, matrices, spectra
from coopsgd.mixing.base import Mixing
from coopsgd.mixing.expectation import Expectation
from coopsgd.mixing.matcha import Matcha, Matchings, decompose
from coopsgd.mixing.relays import Relays
from coopsgd.mixing.static import Gossip
from coopsgd.mixing.varying import Matching, Pairwise
from coopsgd.registry import lookup, names
from coopsgd.setup import catalogue

M = 4096
GRAPHS = [choice.name for choice in catalogue.choices("topology") if choice.name != "file"]  # one needs a file
MIXINGS = {name: lookup("mixing", name)() for name in names("mixing") if name != "matrix"}
MIXINGS |= {
    f"{weights} on {graph}": Gossip(weights=weights, topology=lookup("graph", graph)())
    for weights in matrices.WEIGHTS
    for graph in GRAPHS
    if (weights, graph)
    in {("fdla", "torus"), ("uniform", "star"), ("best_constant", "complete"), ("metropolis", "exponential")}
    or weights == "metropolis"
}
MIXINGS |= {
    "relays": Relays(topology=graphs.Tree()),
    "pairs of everybody": Pairwise(topology=graphs.Complete()),
    "everybody matched": Matching(topology=graphs.Complete()),
}


@pytest.mark.parametrize("name", MIXINGS)
def test_no_mixing_of_the_registry_makes_anything_of_the_square(name):
    """Checks, zeta, signs, two communications, plans and prices: less memory than a quarter of an (m, m) array."""
    mixing = MIXINGS[name]
    tracemalloc.start()
    try:
        mixing.refuse_size(M)
        mixing.check(M)
        zeta = mixing.zeta(M)
        mixing.negative(M)
        for W in (W for r in range(2) for W in mixing.factors(M, r)):
            plan = lower(W, layout_of(mixing, M, 1))
            assert len(plan.stay(0)) == len(W) and price(W, M, mixing.server_owns_aux).messages >= 0
            W.is_symmetric(1e-9)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert zeta is None or 0 <= zeta < 1 or name == "identity"
    assert peak < 8 * M * M / 4, f"{peak / 1e6:.0f} MB"


@pytest.mark.parametrize("name", sorted(MIXINGS.keys() - {"matcha"}))  # whose matrices are edges, as those of matching
def test_nor_does_what_is_sent_between_two_processes(name):
    """Plans for two processes, made ready for one of them and carried out by it."""
    mixing = MIXINGS[name]
    tracemalloc.start()
    try:
        layout = layout_of(mixing, M, 2)
        fleet = Stacked(layout)
        for W in (W for r in range(2) for W in mixing.factors(M, r)):
            plan = lower(W, layout)
            x, lowered = torch.zeros(len(layout.rows(0)), 1), fleet._lowered(plan)
            core, aux = x[: lowered.core], x[lowered.core :]
            for _, V in (*lowered.sums, *lowered.sends):
                assert V.message(core).shape == (V.k, 1)
            arriving = torch.zeros(sum(V.k for _, V in lowered.sums) + sum(k for _, k in lowered.receives), 1)
            lowered.core_local(core, aux, arriving)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * M * M / 4, f"{peak / 1e6:.0f} MB"


@pytest.mark.parametrize("graph", ["ring", "torus", "grid", "random_regular", "erdos_renyi"])
def test_matcha_of_many_is_what_matcha_of_few_is(monkeypatch, graph):
    """Probabilities, alpha and zeta by sparse eigenvectors, against the interior point method and whole arrays."""
    m, budget = 36, 0.4
    L = Matchings(decompose(lookup("graph", graph)().links(m, 0)), m)
    p, q = matcha.probabilities(L, budget), matcha._cut(L, budget)
    best, found = (np.linalg.eigvalsh(L.laplacian(x))[1] for x in (p, q))
    assert found == pytest.approx(best, rel=5e-4) and q.sum() <= budget * L.count + 1e-9 and 0 <= q.min() <= q.max() <= 1
    alpha = matcha.best_alpha(L, p)
    zeta = matcha.bernoulli(L, p, alpha).zeta
    monkeypatch.setattr(matcha, "WHOLE", 0)
    monkeypatch.setattr(matcha, "FOLLOWED", 0)
    assert matcha.rho(L, p, matcha.best_alpha(L, p)) == pytest.approx(matcha.rho(L, p, alpha), rel=1e-9)
    law = matcha.bernoulli(L, p, alpha)
    assert law.second is None and law.zeta == pytest.approx(zeta, rel=1e-12)


@pytest.mark.parametrize("graph", ["grid", "ring", "complete", "star"])
@pytest.mark.parametrize("events", [1, 2, 3])
def test_pairs_of_many_are_what_pairs_of_few_are(monkeypatch, graph, events):
    def law() -> Expectation:
        found = Pairwise(topology=lookup("graph", graph)(), events=events).expectation(36)
        assert found is not None
        return found

    whole = law()
    for module in ("coopsgd.mixing.expectation", "coopsgd.mixing.varying"):
        monkeypatch.setattr(f"{module}.FOLLOWED", 0)
    sparse = law()
    assert whole.second is not None and sparse.second is None and sparse.zeta == pytest.approx(whole.zeta, rel=1e-13)


def test_pairs_on_a_large_ring_are_slow_and_no_mistake():
    """1 - zeta is 1.4e-10: E[W] = I - L / (2 m), so zeta^2 = 1 - (1 - cos(2 pi / m)) / m."""
    mixing = Pairwise()
    mixing.check(M)
    assert 1 - mixing.zeta(M) ** 2 == pytest.approx((1 - math.cos(2 * math.pi / M)) / M, rel=1e-5)
    with pytest.raises(
        ValueError, match=r"of a random communication .* so slowly that no run .* topology, or set algo\.allow_dis"
    ):
        Pairwise().check(100_000)


class Halves(Mixing):
    """Two halves that never hear of each other."""

    def matrices(self, m: int, r: int) -> tuple[np.ndarray, ...]:
        return (np.kron(np.eye(2), np.full((m // 2, m // 2), 2 / m)),)


@pytest.mark.parametrize("m", [4, 64, 500])
def test_who_never_agrees_is_still_refused(m):
    with pytest.raises(ValueError, match="no consensus"):
        Halves().check(m)


def test_fdla_of_edges_that_are_alike_is_one_weight():
    """What the solver finds for small rings, hypercubes, stars and square tori is no better than the best constant."""
    for graph, m in ((graphs.Ring(), 9), (graphs.Hypercube(), 8), (graphs.Star(), 7), (graphs.Torus(), 16)):
        links = graph.links(m)
        constant = matrices.best_constant(links)
        found = fastest.fastest(links.adjacency(), constant.dense())
        assert links.alike and spectra.zeta(found) == pytest.approx(spectra.zeta(constant), abs=1e-4)
    assert spectra.zeta(matrices.fdla(graphs.Ring().links(M))) == spectra.zeta(matrices.best_constant(graphs.Ring().links(M)))
    with pytest.raises(
        ConfigError, match=r"algo\.weights=fdla: .* up to 1024 members.* got 4096; use best_constant or metropolis"
    ):
        matrices.fdla(graphs.Grid().links(M))


def test_matchings_of_too_many_edges_are_refused():
    with pytest.raises(ConfigError, match=r"topology: has 8386560 edges among 4096 workers.*or algo=matching"):
        Matcha(topology=graphs.Complete()).check(M)


@pytest.mark.parametrize("mixing", [Matching(), Pairwise()], ids=["matching", "pairwise"])
def test_pairs_on_a_ring_of_a_thousand(mixing):
    """Whose matrices go to scipy for their bandwidth."""
    mixing.check(1024)
    assert 0 < mixing.zeta(1024) < 1
