"""Schedules at random: what is expected of them against every lot there is, gone through one by one.

E[W (x) W] is built here as a matrix over pairs of workers, from all matrices a communication can be; the package never does.
"""

from __future__ import annotations

import itertools
import math

import arrays
import arrays as matrices
import numpy as np
import pytest
from scipy.optimize import linprog

from coopsgd.commands import analyze, compose
from coopsgd.mixing import expectation, graphs, matcha
from coopsgd.mixing.links import links_of
from coopsgd.mixing.matcha import Matcha, Matchings, decompose, probabilities
from coopsgd.mixing.sampled import Sampled
from coopsgd.mixing.varying import Matching, Pairwise, _matching
from coopsgd.predict.setting import Setting
from coopsgd.predict.theory import expected_drift, expected_noise, outcome_noise, sampled_consensus

QUADRATIC = ("task=quadratic", "processes=1", "device=cpu")


def every_pair(graph, m, events):
    """(chance, W) of all sequences of so many single pairs: a worker, then a neighbour."""
    adjacency = graph.adjacency(m, 0)
    one = [
        (1 / m / adjacency[i].sum(), matrices.pairs(m, [(i, int(j))])) for i in range(m) for j in np.flatnonzero(adjacency[i])
    ]
    found = [(1.0, np.eye(m))]
    for _ in range(events):
        found = [(p * q, V @ W) for p, W in found for q, V in one]
    return found


def every_matching(graph, m):
    """All orders of the edges, literally."""
    edges, found = links_of(graph.adjacency(m, 0)).pairs.tolist(), {}
    for order in itertools.permutations(edges):
        kept = []
        for i, j in order:
            if all(i not in pair and j not in pair for pair in kept):
                kept.append((i, j))
        key = tuple(sorted(kept))
        found[key] = found.get(key, 0) + 1 / math.factorial(len(edges))
    return [(p, matrices.pairs(m, pairs)) for pairs, p in found.items()]


def every_subset(mixing, m):
    """All matchings on or off."""
    L, p, alpha = mixing._design(m)
    each = [L.laplacian(row) for row in np.eye(L.count)]
    found = []
    for on in itertools.product((0, 1), repeat=L.count):
        chance = math.prod(q if b else 1 - q for q, b in zip(p, on, strict=True))
        found.append((chance, np.eye(m) - alpha * sum(b * one for b, one in zip(on, each, strict=True))))
    return found


MATCHA = Matcha(budget=0.4, topology=graphs.Grid())
LAWS = {
    "pairs on a ring": (Pairwise(), 5, lambda: every_pair(graphs.Ring(), 5, 1)),
    "pairs on a star, two at a time": (Pairwise(topology=graphs.Star(), events=2), 5, lambda: every_pair(graphs.Star(), 5, 2)),
    "pairs on a grid": (Pairwise(topology=graphs.Grid()), 6, lambda: every_pair(graphs.Grid(), 6, 1)),
    "matchings of a ring": (Matching(), 7, lambda: every_matching(graphs.Ring(), 7)),
    "matchings of a chain": (Matching(topology=graphs.Chain()), 8, lambda: every_matching(graphs.Chain(), 8)),
    "matchings of a star": (Matching(topology=graphs.Star()), 6, lambda: every_matching(graphs.Star(), 6)),
    "matchings of a grid": (Matching(topology=graphs.Grid()), 6, lambda: every_matching(graphs.Grid(), 6)),
    "matchings of everybody": (Matching(topology=graphs.Complete()), 4, lambda: every_matching(graphs.Complete(), 4)),
    "matchings of an odd number": (Matching(topology=graphs.Complete()), 3, lambda: every_matching(graphs.Complete(), 3)),
    "matcha": (MATCHA, 6, lambda: every_subset(MATCHA, 6)),
}


@pytest.mark.parametrize("name", LAWS)
def test_a_law_is_the_mean_over_every_lot(name):
    mixing, m, every = LAWS[name]
    lots, law = every(), mixing.expectation(m)
    assert sum(p for p, _ in lots) == pytest.approx(1) and not law.parts
    np.testing.assert_allclose(law.mean, sum(p * W for p, W in lots), atol=1e-14)
    whole = sum(p * np.kron(W, W) for p, W in lots)
    draw = np.random.default_rng(0)
    S = draw.standard_normal((m, m))
    S = S @ S.T
    moved = (whole @ S.ravel()).reshape(m, m)
    if name.startswith("matchings of everybody") or name.startswith("matchings of an odd"):  # of what is alike for all pairs
        S = 2 * np.eye(m) + 0.3
        moved = (whole @ S.ravel()).reshape(m, m)
    np.testing.assert_allclose(law.second(S), moved, atol=1e-12)
    left = np.linalg.eigvalsh(sum(p * W.T @ W for p, W in lots) - 1 / m)[-1]
    assert law.zeta == pytest.approx(math.sqrt(left), rel=1e-12) and mixing.zeta(m) == pytest.approx(law.zeta, rel=1e-9)


def stepped(lots, m, tau, order, delay, noisy, kept=1.0):
    """The stationary distance over log points, by the second moment and the mean of x themselves, every lot at every step."""
    whole, mean = sum(p * np.kron(W, W) for p, W in lots), sum(p * W for p, W in lots)
    away = np.eye(m) - 1 / m
    B = np.eye(m) if noisy else away * math.sqrt(m / (m - 1))
    see = away  # what is measured is seen from the mean
    Z, Y = np.zeros((m, m)), np.zeros((m, m))  # E[x x'], E[x]

    def step(Z, Y):
        if noisy:  # independent of all before
            return Z + np.eye(m), Y
        pulled = np.eye(m) - (1 - kept) * away
        across = pulled @ Y @ B.T
        return pulled @ Z @ pulled.T + across + across.T + B @ B.T, pulled @ Y + B

    def mixed(Z, Y):
        Z, Y = see @ (whole @ Z.ravel()).reshape(m, m) @ see, see @ mean @ Y
        return Z, Y

    late = min(delay, tau)

    def received(Z, Y):
        """W x + (x' - x), x' what `late` steps make of x: they go along gradients of the rows before they are mixed."""
        moved, W_Y = mixed(Z, Y)
        if noisy:
            return moved + late * np.eye(m), Y
        pulled = np.eye(m) - (1 - kept) * away
        Q, b = np.linalg.matrix_power(pulled, late) - np.eye(m), sum(np.linalg.matrix_power(pulled, j) @ B for j in range(late))
        MZ, across = mean @ Z, (mean + Q) @ Y @ b.T
        Z = moved + see @ (MZ @ Q + Q @ MZ.T) @ see + Q @ Z @ Q + see @ (across + across.T) @ see + b @ b.T
        return Z, W_Y + Q @ Y + b

    last = []
    for r in range(4000):
        points = []
        for t in range(tau):
            due = t == tau - 1
            if t == 0 and order == "cta" and r:
                Z, Y = mixed(Z, Y)
            if t == tau - late:
                sent = Z, Y
            Z, Y = step(Z, Y)
            if due and order == "atc":
                Z, Y = received(*sent) if late else mixed(Z, Y)
            points.append(np.trace(see @ Z @ see) / m)
        if last and max(abs(a - b) for a, b in zip(points, last, strict=True)) < 1e-14 * max(points):
            break
        last = points
    return float(np.mean(points))


@pytest.mark.parametrize(("order", "delay"), [("atc", 0), ("cta", 0), ("atc", 1), ("atc", 2), ("atc", 3)])
@pytest.mark.parametrize("name", ["pairs on a ring", "pairs on a star, two at a time", "matchings of a grid", "matcha"])
def test_stationary_distances_are_those_of_the_law(name, order, delay):
    mixing, m, every = LAWS[name]
    lots, law = every(), mixing.expectation(m)
    for tau in (1, 3):
        assert expected_noise(law, m, tau, order, delay) == pytest.approx(stepped(lots, m, tau, order, delay, True), rel=1e-8)
        for kept in (1.0, 0.9):
            found = expected_drift(law, m, tau, order, delay, kept)
            assert found == pytest.approx(stepped(lots, m, tau, order, delay, False, kept), rel=1e-7)


def facts(*words):
    checked = compose.compose_config([*QUADRATIC, *words])
    return analyze.facts(checked.parts)


def test_numbers_that_are_known():
    pairs = facts("algo=pairwise", "workers=4", "topology=ring")
    assert pairs["consensus"]["noise_coefficient"] == pytest.approx(1.625, rel=1e-9)
    assert pairs["pasgd"]["tau_consensus"] == pytest.approx(1 + 8 / 3 * 1.625)
    budget = facts("algo=matcha", "workers=6", "topology=complete", "algo.budget=0.3")
    assert budget["consensus"]["noise_coefficient"] == pytest.approx(0.648, abs=5e-4)
    star = facts("algo=matching", "workers=6", "topology=star")
    assert star["zeta"] == pytest.approx(math.sqrt(0.9), rel=1e-12)
    for found in (pairs, budget, star):
        assert found["errors"] == dict.fromkeys(found["errors"])
    # W = 1/2 of pairs (12)(34), (13)(24) or (14)(23): tr E[W'W - J] = 2 - 1 of 3, so C = (3/4) (1/3) / (1 - 1/3)
    everybody = facts("algo=matching", "workers=4", "topology=complete")
    assert everybody["consensus"]["noise_coefficient"] == pytest.approx(3 / 8)
    assert everybody["zeta"] == pytest.approx(math.sqrt(1 / 3))


@pytest.mark.parametrize(
    "words",
    [
        ("algo=pairwise", "algo.events=3", "workers=8"),
        ("algo=matcha", "workers=8", "algo.budget=0.3", "topology=grid"),
        ("algo=matching", "workers=8", "topology=torus"),
        ("algo=matching", "workers=16", "topology=torus"),  # too large to be gone through: from a sample, but not of this seed
        ("algo=fedavg", "workers=6", "tau=3"),
    ],
    ids=" ".join,
)
def test_an_expectation_does_not_know_the_seed(words):
    """What is expected of lots is the same for all of them."""
    found = [facts(*words, f"seed={seed}") for seed in (0, 1)]
    for key in ("zeta", "rate", "network_factor", "pasgd", "errors"):
        assert found[0][key] == found[1][key], key
    for key in ("noise_coefficient", "drift_coefficient"):
        assert found[0]["consensus"][key] == found[1]["consensus"][key], key


def test_what_comes_of_a_sample_says_so(capsys, monkeypatch):
    """A law small enough to be exact, once made to be sampled: the error is as large as it says."""
    mixing, m = Matching(topology=graphs.Torus()), 9
    law = mixing.expectation(m)
    exact = law.zeta, expected_noise(law, m, 2)
    monkeypatch.setattr(expectation, "CASES", 0)
    off = []
    for number in range(6):
        draw = np.random.default_rng(number)
        edges = mixing._links(m).pairs
        sampled = expectation.random_matching(m, edges, lambda edges=edges, draw=draw: _matching(edges, m, draw))
        for true, (value, error) in zip(
            exact, (sampled.measure(lambda one: one.zeta), sampled.measure(lambda one: expected_noise(one, m, 2))), strict=True
        ):
            assert 0 < error < 0.01 * true
            off.append((value - true) / error)
    assert max(map(abs, off)) < 5 and np.sqrt(np.mean(np.square(off))) > 0.2  # neither too small nor for show
    found = facts("algo=matching", "workers=9", "topology=torus", "tau=2")
    assert found["errors"]["zeta"] > 0 and found["errors"]["tau_consensus"] > 0
    analyze.show(found)
    lines = capsys.readouterr().out.splitlines()
    (zeta,) = [line for line in lines if line.startswith("zeta")]
    (tie,) = [line for line in lines if "stationary consensus at equal lr" in line]
    (noise,) = [line for line in lines if line.startswith("stationary")]
    for line in (zeta, tie, noise):
        assert " +- " in line and ", sampled" in line
    digits = noise.split(" +- ")[0].split(": ")[-1].split(".")[1]
    assert len(digits) == len(noise.split(" +- ")[1].split(",")[0].split(".")[1]) <= 3  # no more than the error leaves


def clients_alike(m, s, tau):
    """FedAvg with s of m clients a round and equal weights, from the recursion of one worker's and two workers' moments.

    Less the server's own square: a worker's is tau (1 - m / s^2), its product with the server -(1 - f) tau / (s f), and two
    workers' beta = P0 beta + 2 P1 gamma - tau / s, P0 and P1 for neither or one of them in a round.
    """
    f = s / m
    alpha, gamma = tau * (1 - m / s**2), -(1 - f) * tau / (s * f)
    P0, P1 = (m - s) * (m - s - 1) / (m * (m - 1)), s * (m - s) / (m * (m - 1))
    beta = (2 * P1 * gamma - tau / s) / (1 - P0)
    return (1 - 1 / m) * ((1 - f) * alpha - P0 * beta - 2 * P1 * gamma + f * (tau - 1) / 2)


@pytest.mark.parametrize(("m", "s", "tau"), [(8, 4, 3), (6, 2, 1), (5, 4, 2), (12, 3, 4)])
def test_federated_averaging_over_every_set_of_clients(m, s, tau):
    found = outcome_noise(Sampled(fraction=s / m).outcomes(m, tau), m)
    assert found == pytest.approx(clients_alike(m, s, tau), rel=1e-10)


@pytest.mark.parametrize("drawn", ["alike", "proportional"])
def test_clients_of_unequal_sizes_and_epochs_are_what_long_runs_come_to(drawn):
    """Against 2000 rounds of one seed's lots, within what they scatter by, a few per cent."""
    sizes = [40, 8, 16, 24]
    mixing = Sampled(fraction=0.5, drawn=drawn, epochs=1, sizes=sizes, sample_shares=[n / 88 for n in sizes], batch_size=8)
    m, rounds = 4, 2000
    Ws = [np.linalg.multi_dot(arrays.factors(mixing, m, r)[::-1]) for r in range(rounds)]
    counts = [mixing.work(m, r, 1) for r in range(rounds)]
    value, error = sampled_consensus(Ws, m, 1, "atc", 0, counts)
    assert error < 0.1 * value and abs(outcome_noise(mixing.outcomes(m, 1), m) - value) < 4 * error


def test_too_many_sets_of_clients_are_sampled_and_said_to_be():
    found = facts("algo=fedavg", "workers=32", "tau=3")
    value, error = found["consensus"]["noise_coefficient"], found["errors"]["noise_coefficient"]
    assert 0 < error < 0.02 * value and abs(value - clients_alike(32, 16, 3)) < 5 * error
    assert found["errors"]["tau_consensus"] == pytest.approx(64 / 31 * error)


def test_workers_that_never_agree_have_no_law_to_settle_in():
    checked = compose.compose_config(
        [*QUADRATIC, "algo=matcha", "workers=4", "algo.alpha=1.5", "algo.allow_disconnected=true", "algo.budget=0.5"]
    )
    found = Setting(checked.parts)
    assert found.zeta > 1 and found.noise is None and found.slow == ""


# MATCHA's probabilities


def cuts(L, budget, start, rounds=150):
    """From above: lambda_2(p) = min v' L(p) v, so whatever vectors are asked, a linear program over p is at least the optimum.

    Vectors are asked where the last program ended, and between there and `start`; the bound falls towards the optimum.
    """
    asked, end = [], start
    for _ in range(rounds):
        for p in (end, (end + start) / 2, 0.1 * end + 0.9 * start):
            vectors = np.linalg.eigh(L.laplacian(p))[1]
            asked += [L.stretched(vectors[:, k]) for k in range(1, min(L.m, 5))]
        A = np.vstack([np.hstack([-np.array(asked), np.ones((len(asked), 1))]), np.append(np.ones(L.count), 0)])
        b = np.append(np.zeros(len(asked)), budget * L.count)
        message = linprog(np.append(np.zeros(L.count), -1), A, b, bounds=[(0, 1)] * L.count + [(None, None)])
        end = message.x[:-1]
        if -message.fun - np.linalg.eigvalsh(L.laplacian(start))[1] < 1e-8:
            break
    return -message.fun


@pytest.mark.parametrize(
    ("graph", "m", "budget"),
    [
        (graphs.Torus(), 9, 0.3),  # the ascent ended 1e-5 below
        (graphs.Exponential(), 8, 0.5),  # 1e-3 below
        (graphs.ErdosRenyi(), 16, 0.5),
        (graphs.ErdosRenyi(), 10, 0.1),
        (graphs.Grid(), 12, 0.9),
        (graphs.Star(), 6, 0.3),
    ],
    ids=str,
)
def test_probabilities_are_the_optimum_of_their_semidefinite_program(graph, m, budget):
    L = Matchings(decompose(graph.adjacency(m, 1)), m)
    p = probabilities(L, budget)
    assert p.min() >= 0 and p.max() <= 1 and p.sum() <= budget * L.count + 1e-9
    reached = np.linalg.eigvalsh(L.laplacian(p))[1]
    assert reached == pytest.approx(cuts(L, budget, p), abs=2e-8)
    assert not ((p > 0) & (p < matcha.SNAP)).any()  # one that is never to be drawn is not drawn once in a while


def test_a_graph_too_large_for_it_still_has_probabilities(monkeypatch):
    L = Matchings(decompose(graphs.Torus().adjacency(9, 0)), 9)
    best = np.linalg.eigvalsh(L.laplacian(probabilities(L, 0.5)))[1]
    monkeypatch.setattr(matcha, "WORK", 5e4)
    p = probabilities(L, 0.5)
    assert best * 0.99 < np.linalg.eigvalsh(L.laplacian(p))[1] <= best + 1e-9 and p.sum() <= 0.5 * L.count + 1e-9
