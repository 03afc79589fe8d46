"""Members of the framework at their limits, and the facts that hold at every step: algorithms' own invariants."""

from __future__ import annotations

import math
from itertools import pairwise

import arrays
import arrays as matrices
import numpy as np
import oracle
import oracle_rules
import pytest
import torch
from playing import MLP, QUADRATIC, play, settle
from test_oracle import ALGOS, EXACT, preset, problem, written

import coopsgd.fleet.kept as fleet
from coopsgd import registry
from coopsgd.fleet.plan import Layout
from coopsgd.fleet.stacked import Stacked
from coopsgd.mixing import graphs, matcha, spectra
from coopsgd.mixing.links import links_of
from coopsgd.mixing.sampled import Sampled
from coopsgd.mixing.static import Anchored, Hierarchical
from coopsgd.mixing.varying import GossipPGA, Matching, OnePeer, Pairwise, TwoLevel, _matching
from coopsgd.mixing.written import Written
from coopsgd.setup import catalogue
from coopsgd.setup.parts import Parts

EIGHT = "15 67 04 23 17 36 10 37 56 12 70 31"  # the example graph of arXiv:1905.09435, its matchings in order
MATCHINGS = [[(1, 5), (6, 7), (0, 4), (2, 3)], [(1, 7), (3, 6)], [(1, 0), (3, 7), (5, 6)], [(1, 2), (7, 0)], [(3, 1)]]
TIGHT = {"rtol": 0, "atol": 1e-12}


def undirected(edges: str, m: int) -> np.ndarray:
    taken = np.zeros((m, m), dtype=bool)
    for a, b in ((int(e[0]), int(e[1])) for e in edges.split()):
        taken[a, b] = taken[b, a] = True
    return taken


# W alone moves the mean as the gradients do; with an outer step it has a momentum of its own
OUTER = [a for a in ALGOS if any(group.startswith("outer") for group in catalogue.choices_of("algo", a))]
SERVED = ("parameter_server", "fedavg", "fedprox", "fednova", "scaffold")
FED_BACK = ("topk_ef", "efsign", "sparseloco")  # which keep a part of each step
DOUBLY = [a for a in ALGOS if a not in ("cooperative", *SERVED, *FED_BACK, *OUTER, *oracle_rules.RULES)]  # nor Adam's steps
CORRECTED = [a for a in ALGOS if any(group.startswith("correction") for group in catalogue.choices_of("algo", a))]


WHEN = ["order=atc", "order=cta", "delay=1", "delay=2", "delay=tau"]
WAYS = [(a, w) for a in DOUBLY for w in WHEN if (a, w) != ("cocod", "order=cta")]  # a delay goes with atc alone


@pytest.mark.parametrize(("algo", "when"), [(a, w) for a, w in WAYS if a not in CORRECTED or "order" in w])
def test_the_mean_over_all_models_follows_the_mean_gradient(process_groups, algo, when):  # F1, D3: u <- u - eta_eff mean g
    words = preset(algo, "task.heterogeneity=0", "task.curvature=" + FLAT, "tau=3")
    words += () if algo == "fullsync" else (when,)
    p, found = problem(words), play(process_groups, 2, *words).x
    # no curvature: the gradients are the noise alone, whatever the models are
    noise = sum(p.gradient(i, p.x0, k) for k in range(p.K) for i in range(p.m))
    np.testing.assert_allclose(found.mean(0), -p.eta * noise / len(found), **EXACT)


FLAT = "[" + ",".join(["[0,0,0]"] * 8) + "]"


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("algo", ["dpsgd", "easgd"])
@pytest.mark.parametrize("tau", [1, 5])
@pytest.mark.parametrize("when", ["order=cta", "delay=0", "delay=1", "delay=2", "delay=tau"])
def test_when_a_communication_acts_and_on_what(process_groups, when, tau, algo, processes):  # E6, D1
    if when == "delay=2" and tau == 1:
        pytest.skip("refused: longer than a round")
    words = (*QUADRATIC, f"algo={algo}", f"tau={tau}", when)
    strategy = Parts(settle(words)).strategy
    W = arrays.factors(strategy.schedule, 8, 0)[0]
    p, v, name = problem(words), strategy.schedule.num_aux, when.removeprefix("delay=")
    if when == "order=cta":
        expected = oracle.combine_then_adapt(p, W.tolist(), v)
    else:
        expected = oracle.delayed(p, W.tolist(), "tau" if name == "tau" else int(name), v)
    np.testing.assert_allclose(play(process_groups, processes, *words).x, expected, **EXACT)


def test_original_elastic_averaging(process_groups):  # E6
    words = (*QUADRATIC, "algo=easgd", "tau=1", "algo.alpha=0.1", "delay=1")
    np.testing.assert_allclose(play(process_groups, 2, *words).x, oracle.original_easgd(problem(words), 0.1), **EXACT)


def test_combine_then_adapt_is_the_same_run_half_a_step_later(process_groups):  # D1
    words = (*QUADRATIC, "algo=dpsgd", "tau=3")
    W = matrices.metropolis(graphs.Ring().adjacency(8))
    late, early = (play(process_groups, 2, *words, f"order={order}") for order in ("cta", "atc"))
    np.testing.assert_allclose(W @ late.x, early.x, **EXACT)  # tau divides the 24 steps: atc has mixed at the end
    # one communication less, neither done nor charged: 2 neighbours x 8 workers x 10 float64
    assert early.logical == (8, 8 * 16, 8 * 16 * 80)
    assert late.logical == (7, 7 * 16, 7 * 16 * 80)


def test_with_full_averaging_only_atc_is_synchronous(process_groups):  # D2
    words = (*QUADRATIC, "algo=pasgd", "tau=1")
    sync = play(process_groups, 1, *QUADRATIC, "algo=fullsync").x
    np.testing.assert_allclose(play(process_groups, 2, *words).x, sync, **EXACT)
    spread = play(process_groups, 2, *words, "delay=1").x
    assert np.ptp(spread, axis=0).max() > 1e-2  # worker i sits at the mean less its own last step


@pytest.mark.parametrize("m", [4, 8, 16])
@pytest.mark.parametrize("weights", ["metropolis", "best_constant"])
@pytest.mark.parametrize("graph", [graphs.Ring(), graphs.Complete(), graphs.Chain()])
def test_anchor_on_top(graph, weights, m):  # E8: zeta' = m zeta / (m + 1 + zeta), and no alpha does better
    W = matrices.WEIGHTS[weights](graph.adjacency(m))
    z = spectra.zeta(W)
    best = spectra.zeta(arrays.factors(Anchored(weights=weights, topology=graph), m, 0)[0])
    assert best == pytest.approx(m * z / (m + 1 + z), abs=1e-9)
    others = [spectra.zeta(matrices.anchored(W, a)) for a in np.linspace(0.01, 2 / (m + 1), 100)]
    assert best <= min(others) + 1e-9


def test_anchor_on_nothing_is_elastic_averaging():  # E8
    np.testing.assert_allclose(matrices.anchored(np.eye(8), 0.13), matrices.elastic(8, 0.13), **TIGHT)


def test_tree_of_groups():  # E9: 12 workers in 4 groups, group models all to all: 0.866 at weight 0.25
    W = arrays.factors(Hierarchical(groups=4, root=False), 12, 0)[0]
    assert W.shape == (16, 16) and W[0, 12] == pytest.approx(0.25, abs=1e-9)
    assert spectra.zeta(W) == pytest.approx(0.866, abs=5e-4)
    uneven = arrays.factors(Hierarchical(groups=[5, 1, 2]), 8, 0)[0]
    assert spectra.is_doubly_stochastic(uneven, 1e-12) and spectra.is_symmetric(uneven) and spectra.zeta(uneven) < 1
    assert np.count_nonzero(uneven[8]) == 5 + 1 + 1  # the first group's model: five workers, itself, the root


def test_two_levels(process_groups):  # X5: a global average absorbs the group average of the same moment
    within, across = arrays.factors(TwoLevel(groups=[3, 5], tau_2=20, tau=10), 8, 0)[0], matrices.average(8)
    np.testing.assert_allclose(across @ within, across, **TIGHT)
    words = (*QUADRATIC, "algo=two_level", "tau=2")
    np.testing.assert_allclose(
        play(process_groups, 2, *words, "algo.tau_2=2").x, play(process_groups, 1, *QUADRATIC, "algo=pasgd", "tau=2").x, **EXACT
    )
    # groups of three and five: 2 (2 + 4) messages, a global one 2 * 7
    run = play(process_groups, 4, *words, "algo.tau_2=8", "algo.groups=[3,5]")
    assert run.logical[:2] == (12, 9 * 12 + 3 * 14)


def test_a_server_is_periodic_averaging_at_two_messages_a_worker(process_groups):
    words = (*QUADRATIC, "tau=4")
    server_owns_aux, alone = (
        play(process_groups, 2, *words, "algo=parameter_server"),
        play(process_groups, 1, *words, "algo=pasgd"),
    )
    np.testing.assert_allclose(server_owns_aux.x[:8], alone.x, **EXACT)
    assert server_owns_aux.logical[:2] == (6, 6 * 16) and alone.logical[:2] == (6, 6 * 14)


@pytest.mark.parametrize("form", ["exponential", "hypercube"])
@pytest.mark.parametrize("m", [2, 4, 8, 16])
def test_one_peer_averages_exactly_within_a_cycle(m, form):  # P2, P4
    mixing = OnePeer(form=form)
    hops = [arrays.factors(mixing, m, r)[0] for r in range(3, 3 + mixing.cycle(m))]  # from any start
    np.testing.assert_allclose(spectra.product(hops, m), matrices.average(m), **TIGHT)
    assert all(np.count_nonzero(W - np.diag(np.diag(W))) == m for W in hops)  # one message a worker
    assert all(spectra.is_symmetric(W) for W in hops) or form == "exponential"


@pytest.mark.parametrize(("m", "left"), [(6, 0.217), (12, 0.209)])
def test_one_peer_of_no_power_of_two_never_does(m, left):  # P3
    assert OnePeer().zeta(m) == pytest.approx(left, abs=5e-4)


def test_pairwise_gossip_on_a_complete_graph():  # P5: an event leaves 1 - 1 / (m - 1) of the mean square
    mixing = Pairwise(topology=graphs.Complete())
    assert mixing.zeta(8) == pytest.approx(math.sqrt(1 - 1 / 7), abs=1e-12)
    for r in range(5):
        (W,) = arrays.factors(mixing, 8, r)
        np.testing.assert_allclose(W @ W, W, **TIGHT)  # an orthogonal projection
    assert Pairwise(topology=graphs.Complete(), events=3).zeta(8) == pytest.approx((1 - 1 / 7) ** 1.5, abs=1e-12)


@pytest.mark.parametrize("mixing", [Matching(topology=graphs.Complete()), Matching(), Pairwise(events=2), matcha.Matcha()])
def test_mean_square_contraction_of_random_schedules_is_what_a_sample_shows(mixing):
    m, rounds = 8, 4000
    second = np.zeros((m, m))
    for r in range(rounds):
        W = spectra.product(arrays.factors(mixing, m, r), m)
        assert spectra.is_doubly_stochastic(W)
        second += W.T @ W / rounds
    found = np.linalg.norm(second - matrices.average(m), 2) ** 0.5
    assert mixing.zeta(m) == pytest.approx(found, rel=0.025)  # a sample's largest eigenvalue errs upwards


@pytest.mark.parametrize(("graph", "m"), [("ring", 9), ("complete", 12), ("torus", 36), ("star", 7), ("ring", 1)])
def test_a_random_matching_is_that_of_trying_edge_after_edge(graph, m):
    edges = links_of(registry.lookup("graph", graph)().adjacency(m)).pairs
    for seed in range(50):
        free, kept = set(range(m)), []
        for e in np.random.default_rng(seed).permutation(len(edges)):
            if set(edges[e]) <= free:
                free -= set(edges[e])
                kept.append(e)
        assert sorted(_matching(edges, m, np.random.default_rng(seed))) == sorted(kept)


def test_matchings_of_a_complete_graph_are_perfect():
    mixing = Matching(topology=graphs.Complete(), seed=3)
    for r in range(20):
        (W,) = arrays.factors(mixing, 8, r)
        assert np.diag(W).tolist() == [0.5] * 8 and (np.count_nonzero(W, axis=1) == 2).all()


def test_matcha_on_the_example_of_its_paper():  # P6, P8 and the reference's values, which a second optimiser confirmed
    L, everything = matcha.Matchings(MATCHINGS, 8), np.ones(5)
    np.testing.assert_allclose(L.laplacian(everything), matrices.laplacian(undirected(EIGHT, 8)), **TIGHT)
    for L_j in map(L.laplacian, np.eye(5)):
        np.testing.assert_allclose(L_j @ L_j, 2 * L_j, **TIGHT)
    p = matcha.probabilities(L, 0.5)
    np.testing.assert_allclose(p, [0.984, 0, 0.758, 0.758, 0], atol=2e-3)
    assert np.linalg.eigvalsh(L.laplacian(p))[1] == pytest.approx(0.5612, abs=1e-4)
    assert matcha.best_alpha(L, p) == pytest.approx(0.396, abs=1e-3)
    assert matcha.rho(L, p, matcha.best_alpha(L, p)) == pytest.approx(0.644, abs=5e-4)
    vanilla = matcha.best_alpha(L, everything)
    values = np.linalg.eigvalsh(L.laplacian(everything))
    assert vanilla == pytest.approx(2 / (values[1] + values[-1]), abs=1e-6) == pytest.approx(0.286, abs=5e-4)
    assert matcha.rho(L, everything, vanilla) == pytest.approx(0.654, abs=5e-4)
    half = np.full(5, 0.5)
    assert matcha.rho(L, half, matcha.best_alpha(L, half)) == pytest.approx(0.791, abs=5e-4)


def test_second_moment_of_matcha_by_enumeration():  # P7: all 2^5 activations
    L, p, alpha = matcha.Matchings(MATCHINGS, 8), np.array([0.9, 0.1, 0.5, 0.7, 0.3]), 0.25
    expected = np.zeros((8, 8))
    for code in range(32):
        on = np.array([(code >> j) & 1 for j in range(5)], dtype=float)
        W = np.eye(8) - alpha * L.laplacian(on)
        expected += np.prod(np.where(on == 1, p, 1 - p)) * (W @ W)
    np.testing.assert_allclose(matcha.second_moment(L, p, alpha), expected, **TIGHT)


@pytest.mark.parametrize("graph", [graphs.Ring(), graphs.Complete(), graphs.Hypercube(), graphs.ErdosRenyi(), graphs.Star()])
def test_decomposition_is_into_matchings(graph):
    adjacency = graph.adjacency(16, 1)
    matchings = matcha.decompose(adjacency)
    edges = sorted(edge for matching in matchings for edge in matching)
    assert edges == [tuple(edge) for edge in np.argwhere(np.triu(adjacency)).tolist()]  # each edge once
    for matching in matchings:
        ends = [end for edge in matching for end in edge]
        assert len(ends) == len(set(ends))
    assert len(matchings) <= adjacency.sum(1).max() + 1


def test_matcha_with_the_whole_budget_is_gossip_with_the_best_constant(process_groups):
    words = (*QUADRATIC, "tau=2", "topology=hypercube")
    gossip = play(process_groups, 2, *words, "algo=dpsgd", "algo.weights=best_constant")
    run = play(process_groups, 2, *words, "algo=matcha", "algo.budget=1")
    np.testing.assert_allclose(run.x, gossip.x, rtol=0, atol=1e-6)  # alpha is found by search
    assert run.logical == gossip.logical


@pytest.mark.parametrize(("graph", "m"), [("ring", 8), ("star", 7), ("hypercube", 8), ("complete", 6)])
def test_fastest_weights_are_the_best_constant_where_all_edges_are_alike(graph, m):  # M11
    adjacency = {"ring": graphs.Ring(), "star": graphs.Star(), "hypercube": graphs.Hypercube(), "complete": graphs.Complete()}[
        graph
    ].adjacency(m)
    best = spectra.zeta(matrices.best_constant(adjacency))
    assert spectra.zeta(matrices.fdla(adjacency)) == pytest.approx(best, abs=1e-6)


def test_fastest_weights_where_edges_differ():  # the reference: 0.693, 0.866, 0.745
    barbell = undirected("01 02 03 12 13 23 45 46 47 56 57 67 34", 8)
    cases = ((graphs.Grid(rows=3).adjacency(9), 0.693), (barbell, 0.866), (undirected(EIGHT, 8), 0.745))
    for adjacency, expected in cases:
        W = matrices.fdla(adjacency)
        assert spectra.zeta(W) == pytest.approx(expected, abs=5e-4)
        assert spectra.is_symmetric(W) and spectra.is_doubly_stochastic(W)
        assert not (W != 0)[~adjacency & ~np.eye(len(W), dtype=bool)].any()


@pytest.mark.parametrize("seed", range(6))
def test_fastest_weights_are_never_worse_than_the_best_constant(seed):
    adjacency = graphs.ErdosRenyi(p=0.35).adjacency(12, seed)
    assert spectra.zeta(matrices.fdla(adjacency)) <= spectra.zeta(matrices.best_constant(adjacency)) + 1e-12


def test_gossip_with_global_averages_at_its_limits(process_groups):  # D4
    words = (*QUADRATIC, "algo=gossip_pga")
    sync = play(process_groups, 1, *QUADRATIC, "algo=fullsync")
    np.testing.assert_allclose(play(process_groups, 2, *words, "algo.every=1").x, sync.x, **EXACT)
    gossip = play(process_groups, 1, *QUADRATIC, "algo=dpsgd")
    rare = play(process_groups, 2, *words, "algo.every=25")
    np.testing.assert_allclose(rare.x, gossip.x, **EXACT)
    assert rare.logical == gossip.logical


def test_a_list_of_matrices_is_a_schedule(process_groups):
    hops = np.stack([arrays.factors(OnePeer(), 8, r)[0] for r in range(3)])
    words = (*QUADRATIC, "tau=2")
    listed = play(process_groups, 4, *words, "algo=cooperative", written(hops))
    np.testing.assert_allclose(listed.x, play(process_groups, 1, *words, "algo=one_peer").x, **EXACT)


def test_a_function_is_a_schedule(process_groups):
    words = (*QUADRATIC, "tau=2")
    run = play(process_groups, 4, *words, "algo=cooperative", "algo.W=members:one_peer")
    np.testing.assert_allclose(run.x, play(process_groups, 1, *words, "algo=one_peer").x, **EXACT)


def test_federated_averaging_of_everyone_is_periodic_averaging(process_groups):
    words = (*QUADRATIC, "tau=4")
    run = play(process_groups, 2, *words, "algo=fedavg", "algo.fraction=1")
    alone = play(process_groups, 1, *words, "algo=pasgd")
    np.testing.assert_allclose(run.x[:8], alone.x, **EXACT)
    np.testing.assert_allclose(run.answer, run.x[8], **EXACT)
    assert run.logical[:2] == (6, 6 * 16)  # 2 s messages a round, s = 8


@pytest.mark.parametrize("processes", [1, 4])
def test_clients_not_drawn_compute_nothing_and_keep_what_they_had(process_groups, processes):
    words = (*QUADRATIC, "algo=fedavg", "algo.fraction=0.25", "tau=24", "optim.momentum=0.9")
    run = play(process_groups, processes, *words)
    drawn = oracle.stream(0, "clients", 0).choice(8, 2, replace=False)
    following = oracle.stream(0, "clients", 1).choice(8, 2, replace=False)
    idle = sorted(set(range(8)) - {*drawn, *following})
    assert idle and not run.x[idle].any()  # they start at 0
    assert run.logical[:2] == (1, 4)
    np.testing.assert_allclose(run.x[8], run.x[drawn].mean(0) if not set(drawn) & set(following) else run.x[8], **EXACT)


def test_local_epochs_are_whole_passes_and_weights_go_by_samples(process_groups):
    words = (*MLP, "algo=fedavg", "algo.epochs=2", "workers=4", "batch_size=50", "steps=28", "algo.fraction=0.5")
    run = play(process_groups, 2, *words)  # 358 samples a worker: 7 batches a pass, 14 steps a round
    assert run.logical[:2] == (2, 8)
    np.testing.assert_allclose(run.x, play(process_groups, 1, *words).x, **EXACT)


@pytest.mark.slow
def test_only_clients_drawn_in_proportion_are_unbiased():
    sizes, rounds = [10, 20, 30, 140], 4000
    share = np.array(sizes) / 200

    def mean_weight(drawn, shares):
        mixing = Sampled(fraction=0.5, drawn=drawn, sample_shares=shares)
        return np.mean([arrays.factors(mixing, 4, r)[0][4, :4] for r in range(rounds)], axis=0)

    # a weight is at most 0.5 off its mean of at most 0.7: four standard deviations of a mean over 4000
    close = {"rtol": 0, "atol": 4 * 0.5 / rounds**0.5}
    np.testing.assert_allclose(mean_weight("proportional", share), share, **close)
    # two of four, by their samples: half the time the largest is drawn, beside 10, 20 or 30 samples of another
    assert mean_weight("alike", share)[3] == pytest.approx((140 / 150 + 140 / 160 + 140 / 170) / 6, abs=close["atol"])
    assert mean_weight("alike", None)[3] == pytest.approx(1 / 4, abs=close["atol"])


def test_clients_drawn_in_proportion_wherever_rows_are(process_groups):
    words = (*MLP, "algo=fedavg", "algo.drawn=proportional", "workers=4", "batch_size=20", "partition=quantity", "steps=30")
    run = play(process_groups, 2, *words)
    np.testing.assert_allclose(run.x, play(process_groups, 1, *words).x, **EXACT)
    mixing = Parts(settle(words)).strategy.mixing
    drawn = [np.count_nonzero(mixing._drawn(4, r)) for r in range(4)]
    assert all(mixing._drawn(4, r).sum() == 2 for r in range(4)) and min(drawn) == 1  # one client drawn twice, once at least
    assert run.logical[:2] == (3, sum(map(sum, pairwise(drawn))))


def test_unequal_numbers_of_local_steps_have_the_fixed_point_of_theory(process_groups):
    """H3: f_i = (x - e_i)^2 / 2 settles at sum c_i e_i / sum c_i, c_i = 1 - (1 - eta)^tau_i, not at the mean of e_i."""
    words = (
        "task=quadratic",
        "dtype=float64",
        "workers=2",
        "task.curvature=[[1],[1]]",
        "task.centers=[[0],[1]]",
        "task.sigma=0",
    )
    words += ("algo=pasgd", "algo.mixing=members:Unequal", "steps=2000", "log_every=5000", "eval_every=0")
    eta, tau = 0.1, (1, 5)
    c = [1 - (1 - eta) ** t for t in tau]
    found = play(process_groups, 2, *words, "device=cpu").x
    np.testing.assert_allclose(found, c[1] / sum(c), rtol=0, atol=1e-12)


def test_clients_with_more_data_take_more_steps_and_weigh_more(process_groups):
    words = (*MLP, "algo=fedavg", "algo.epochs=2", "algo.fraction=1", "workers=4", "batch_size=20", "partition=quantity")
    settings = settle(words)
    parts = Parts(settings)
    task, strategy = parts.task, parts.strategy
    sizes = task.sizes(settings)
    assert len(set(sizes)) > 1
    assert strategy.schedule.work(4, 0, 1).tolist() == [2 * (n // 20) for n in sizes]  # two whole passes, ragged ends dropped
    up, _ = arrays.factors(strategy.schedule, 4, 0)
    np.testing.assert_allclose(up[4, :4], np.array(sizes) / sum(sizes), **TIGHT)
    longest = max(2 * (n // 20) for n in sizes)
    run = play(process_groups, 2, *words, f"steps={longest}")
    np.testing.assert_allclose(run.x, play(process_groups, 1, *words, f"steps={longest}").x, **EXACT)
    assert run.logical[:2] == (1, 8) and np.ptp(run.x, axis=0).max() == 0
    one = play(process_groups, 1, *words, f"steps={longest - 1}")
    busiest = int(np.argmax(sizes))
    early = play(process_groups, 1, *words, f"steps={min(2 * (n // 20) for n in sizes)}")
    least = int(np.argmin(sizes))
    np.testing.assert_array_equal(one.x[least], early.x[least])  # done early: idle since, bit for bit
    assert np.abs(one.x[busiest] - early.x[busiest]).max() > 0


def test_a_doubly_stochastic_matrix_whose_powers_average(process_groups):
    """De Bruijn: W W = J, though ||W - J|| = 1. Its workers agree, and the bound has nothing to say of it."""
    W = [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    mixing = Written(W=W)
    assert mixing.zeta(4) == pytest.approx(1)
    mixing.check(4)
    run = play(process_groups, 2, *QUADRATIC, "workers=4", "algo=cooperative", "tau=1", written(np.array(W)), "optim.lr=1e-9")
    assert np.ptp(run.x, axis=0).max() < 1e-8
    with pytest.raises(ValueError, match="never agree"):
        Written(W=np.eye(4)[[1, 2, 3, 0]].tolist()).check(4)  # a permutation has norm 1 as well


@pytest.mark.parametrize(
    ("graph", "m", "budget", "alpha", "rho"), [("star", 16, 0.1, 0.526, 0.9474), ("complete", 16, 0.1, 0.294, 0.529)]
)
def test_the_best_weight_of_matcha_on_dense_graphs_and_small_budgets(graph, m, budget, alpha, rho):
    # by a scan of alpha over (0, 1) in steps of 0.001
    L = matcha.Matchings(matcha.decompose(registry.lookup("graph", graph)().adjacency(m)), m)
    p = matcha.probabilities(L, budget)
    found = matcha.best_alpha(L, p)
    scanned = min((matcha.rho(L, p, a), a) for a in np.arange(0.001, 1, 0.001))
    assert matcha.rho(L, p, found) <= scanned[0] + 1e-9
    assert found == pytest.approx(alpha, abs=2e-3) and matcha.rho(L, p, found) == pytest.approx(rho, abs=5e-4)


def test_a_run_keeps_the_probabilities_of_matcha():
    words = (*QUADRATIC, "algo=matcha", "topology=torus", "algo.budget=0.3")
    settings = settle(words)
    p = settings.algo["probabilities"]
    assert sum(p) == pytest.approx(0.3 * len(p)) and Parts(settings).strategy.mixing._design(8)[1].tolist() == p
    with pytest.raises(ValueError, match=r"are of 2 matchings, but 8 workers .* algo.probabilities=auto"):
        settle((*words, "+algo.probabilities=[0.5,0.5]"))
    with pytest.raises(ValueError, match=r"add up to .* algo.budget=0.9"):  # a run's config, repeated with another budget
        settle((*QUADRATIC, "algo=matcha", "topology=torus", f"+algo.probabilities={p}", "algo.budget=0.9"))


def test_matchings_of_a_graph_too_dense_for_a_line_graph():
    adjacency = graphs.Complete().adjacency(130)
    matchings = matcha.decompose(adjacency)
    assert len({edge for matching in matchings for edge in matching}) == 130 * 129 // 2
    assert all(len({end for edge in matching for end in edge}) == 2 * len(matching) for matching in matchings)
    assert len(matchings) < 2 * 129  # what first fit promises


def test_what_never_comes_again_is_not_kept():
    mixing = Matching(topology=graphs.Complete())
    for r in range(10):
        arrays.factors(mixing, 8, r)
    assert len(mixing._cache) == 2
    assert mixing.factors(8, 9)[0] is mixing.factors(8, 9)[0]
    pga = GossipPGA(every=100)
    assert pga.factors(8, 0)[0] is pga.factors(8, 57)[0] is not pga.factors(8, 99)[0]
    two = TwoLevel(groups=2, tau=1, tau_2=5)
    assert two.factors(8, 0)[0] is two.factors(8, 3)[0]


def test_plans_of_large_matrices_are_few(monkeypatch):
    monkeypatch.setattr(fleet, "ROOM", 0)
    stacked, rows = Stacked(Layout(4, 0, 1)), torch.ones(4, 3)
    for r in range(40):
        stacked.mix(arrays.factors(OnePeer(), 4, r)[0] * 1.0, rows)
        stacked.mix(np.full((4, 4), 0.25) + np.eye(4)[(np.arange(4) + r) % 4] * 1e-3, rows)
    assert len(stacked._plans) <= fleet.PLANS[0]


def test_most_of_a_cycle_longer_than_what_is_kept_is_planned_once(monkeypatch):
    stacked, rows, planned = Stacked(Layout(4, 0, 1)), torch.ones(4, 3), []
    monkeypatch.setattr(fleet, "PLANS", (8, 8))
    lowered = stacked._lowered
    monkeypatch.setattr(stacked, "_lowered", lambda plan: planned.append(1) or lowered(plan))
    cycle = [np.full((4, 4), 0.25) + np.diag([r * 1e-3] * 4) - r * 1e-3 / 4 for r in range(12)]
    for W in cycle * 10:
        stacked.mix(W, rows)
    assert len(planned) <= 12 + 9 * 5
