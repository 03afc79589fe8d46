"""Every algorithm against the papers' formulas, wherever its rows are."""

from __future__ import annotations

import arrays
import numpy as np
import oracle
import oracle_axes
import oracle_rules
import oracle_sent
import pytest
from playing import OF_MATRICES, QUADRATIC, fitting, of_tau, play, settle, written

from coopsgd.setup import catalogue
from coopsgd.setup.parts import Parts

oracle.ORACLES |= oracle_rules.RULES | oracle_axes.AXES | oracle_sent.SENT
ALGOS = [choice.name for choice in catalogue.choices("algo") if choice.name not in OF_MATRICES]
EXACT = {"rtol": 0, "atol": 1e-12}  # float64, sums taken in another order: a few ulps, nothing more


def problem(words: tuple[str, ...]) -> oracle.Problem:
    settings = settle(words)
    task = Parts(settings).task
    a, c, x0 = task.arrays(settings.workers, settings.seed)
    eta = settings.optim["lr"]
    return oracle.Problem(a, c, x0, task.sigma, settings.seed, eta, settings.tau, settings.steps)


def preset(algo: str, *more: str) -> tuple[str, ...]:
    words = (*QUADRATIC, f"algo={algo}", *fitting(algo, more))
    if algo == "cooperative":
        words += (f"algo.v={oracle.RAW_V}", written(oracle.raw_matrix(8, oracle.RAW_V)))
    if algo == "matcha":
        words += (f"algo.alpha={oracle.MATCHA_ALPHA}",)
    return words + oracle_rules.WORDS.get(algo, ()) + oracle_axes.WORDS.get(algo, ())


MOVING = "tau=[[0,1],[5,3]]"


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
@pytest.mark.parametrize(("algo", "tau"), [(a, t) for a in ALGOS for t in ("auto", MOVING) if of_tau(a, t)])
def test_matches_the_paper(process_groups, algo, tau, processes):
    words = preset(algo, tau if tau == MOVING else f"tau={tau}")
    played = play(process_groups, processes, *words)
    np.testing.assert_allclose(played.x, oracle.ORACLES[algo](problem(words)), **EXACT)
    assert played.logical == play(process_groups, 1, *words).logical


@pytest.mark.parametrize("tau", [1, 2, 5])
@pytest.mark.parametrize("v", [0, 1, 3])
@pytest.mark.parametrize("kind", ["dense", "sparse", "low rank", "blocks"])
def test_any_matrix(process_groups, kind, v, tau):
    m, rng = 8, np.random.default_rng([v, tau])
    n = m + v
    W = rng.random((n, n))
    if kind == "sparse":
        W *= rng.random((n, n)) < 0.3
        W += np.eye(n)
    elif kind == "low rank":
        W = rng.random((n, 2)) @ rng.random((2, n))
    elif kind == "blocks":
        W *= np.kron(np.eye(2), np.ones((n, n)))[::2, ::2][:n, :n] + np.eye(n)
    W /= W.sum(1, keepdims=True)
    more = (f"tau={tau}", f"algo.v={v}", written(W), "algo.allow_disconnected=true", "steps=11")
    words = (*QUADRATIC, "algo=cooperative", *more)
    expected = oracle.cooperative(problem(words), W.tolist(), v)
    played = {p: play(process_groups, p, *words) for p in (1, 2, 4)}
    for run in played.values():
        np.testing.assert_allclose(run.x, expected, **EXACT)
        assert run.logical == played[1].logical


TOPOLOGIES = [c.name for c in catalogue.choices("topology") if c.name != "file"]  # one needs a file
WEIGHTS = ["metropolis", "uniform", "best_constant", "fdla"]
# a directed graph has no best constant weight; test_bad_input shows that it is refused
PAIRS = [(t, w) for t in TOPOLOGIES for w in WEIGHTS if t != "exponential" or w in ("metropolis", "uniform")]


@pytest.mark.parametrize(("topology", "weights"), PAIRS)
def test_every_topology_is_its_matrix(process_groups, topology, weights):
    words = (*QUADRATIC, "algo=dpsgd", "tau=2", f"topology={topology}", f"algo.weights={weights}", "steps=9")
    settings = settle(words)
    W = arrays.factors(Parts(settings).strategy.schedule, 8, 0)[0]
    expected = oracle.cooperative(problem(words), W.tolist())
    for processes in (1, 2, 8):
        np.testing.assert_allclose(play(process_groups, processes, *words).x, expected, **EXACT)


@pytest.mark.parametrize("processes", [3, 5, 6])
def test_edges_in_odd_worlds_and_any_order(process_groups, processes):
    rng = np.random.default_rng(processes)
    for _ in range(5):  # directed and irregular: some processes only send, some only receive, none in rank order
        W = rng.random((processes, processes)) * (rng.random((processes, processes)) < 0.4) + np.eye(processes)
        W /= W.sum(1, keepdims=True)
        words = (*QUADRATIC, f"workers={processes}", "steps=6", "algo=cooperative", "tau=1", written(W))
        words += ("algo.allow_disconnected=true",)
        np.testing.assert_allclose(
            play(process_groups, processes, *words).x, oracle.cooperative(problem(words), W.tolist()), **EXACT
        )


@pytest.mark.parametrize("processes", [2, 4, 8])
@pytest.mark.parametrize("v", [1, 3])
def test_copies_of_auxiliary_rows_are_equal_bit_by_bit(process_groups, processes, v):
    m = 8
    W = np.eye(m + v) * 0.5  # workers hear their own and the auxiliaries, which hear everyone: replicas are cheapest
    W[:m, m:] = 0.5 / v
    W[m:, :m] = np.random.default_rng(v).random((1, m)) / 10
    W[m:, m:] += np.diag(1 - W[m:].sum(1))
    words = (*QUADRATIC, "algo=cooperative", "tau=2", f"algo.v={v}", written(W))
    played = play(process_groups, processes, *words)
    assert played.layout.replicated
    copies = [rows[m // processes :] for rows in played.held]
    assert all(np.array_equal(copies[0], other) for other in copies)
    np.testing.assert_array_equal(copies[0], played.x[m:])
    assert np.ptp(played.x[m:], axis=1).max() > 0
