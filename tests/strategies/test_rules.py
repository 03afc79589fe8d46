"""The algorithms that are more than (tau, W, v): their special cases, what they conserve, what they refuse."""

from __future__ import annotations

import numpy as np
import oracle
import oracle_rules
import pytest
import torch
from playing import QUADRATIC, play, settle
from test_oracle import EXACT, problem

from coopsgd.commands.compose import compose_config
from coopsgd.errors import ConfigError
from coopsgd.setup.parts import Parts
from coopsgd.strategies.base import Tick
from coopsgd.testing.runs import Recorder, make_loop

WHEN = ("order=atc", "order=cta", "delay=1", "delay=tau")


def same(process_groups, one, other, exactly=False):
    a, b = (play(process_groups, 1, *QUADRATIC, *words).x for words in (one, other))
    assert np.array_equal(a, b) if exactly else np.allclose(a, b, **EXACT)


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("algo", ["qg_dsgdm", "decentlam"])
def test_without_momentum_they_are_gossip(process_groups, algo, when):
    same(process_groups, (f"algo={algo}", "algo.beta=0", "tau=3", when), ("algo=dpsgd", "tau=3", when), exactly=True)


@pytest.mark.parametrize("inner", [(), ("optim.momentum=0.8",), ("optim=adam",)])
def test_an_average_that_keeps_nothing_is_fullsync(process_groups, inner):
    same(process_groups, ("algo=gpa", "algo.mu_x=0", *inner), ("algo=fullsync", *inner))


def test_gradients_at_the_average_are_heavy_ball(process_groups):
    """a <- mu a + (1 - mu) z, z <- z - lr g(a): what moves a is mu times what moved it last, and (1 - mu) lr g."""
    same(
        process_groups,
        ("algo=gpa", "algo.mu_x=0.8", "algo.mu_y=1", "optim.lr=0.1"),
        ("algo=fullsync", "optim.momentum=0.8", "optim.lr=0.02"),
    )


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_average_is_what_is_evaluated(process_groups, processes):
    words = (*QUADRATIC, "algo=gpa", "algo.mu_x=0.7", "algo.mu_y=0.5")
    p = problem(words)
    z, a = p.x0.copy(), p.x0.copy()
    for k in range(p.K):
        z = z - p.eta * sum(p.gradient(i, (a + z) / 2, k) for i in range(p.m)) / p.m
        a = 0.7 * a + 0.3 * z
    played = play(process_groups, processes, *words)
    np.testing.assert_allclose(played.answer, a, **EXACT)
    assert played.logical == play(process_groups, 1, *QUADRATIC, "algo=fullsync").logical


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


def test_quasi_global_momentum_of_a_round_without_a_rate_stays():
    strategy = Parts(settle((*QUADRATIC, "algo=qg_dsgdm", "algo.nesterov=true"))).strategy
    x, g = torch.ones(2, 3, dtype=torch.float64), torch.full((2, 3), 0.25, dtype=torch.float64)
    s = strategy.init(None, x)._replace(momentum=g.clone(), start=x + 1)
    for r in range(2):
        along, s = strategy.direction(None, Tick(r, r, 0.0), g, x, s)
        assert torch.equal(s.momentum, g)
        torch.testing.assert_close(along, g + 0.9 * (0.9 * g + g), rtol=0, atol=1e-15)


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


@pytest.mark.parametrize("when", WHEN)
def test_gasloc_without_outer_rate_and_momentum_is_gossip(process_groups, when):
    neutral = ("algo.eta=1", "algo.gamma=0")
    for momentum in ("after", "before"):
        words = ("algo=gasloc", f"algo.momentum={momentum}", *neutral, "tau=3", when)
        same(process_groups, words, ("algo=dpa", "tau=3", when), exactly=True)


@pytest.mark.parametrize("when", ["delay=0", "delay=1", "delay=tau"])
def test_gasloc_that_mixes_its_momentum_is_diloco_where_everyone_averages(process_groups, when):
    words = ("tau=3", when)
    ours = ("algo=gasloc", "topology=complete", "algo.momentum=before", "algo.gamma=0.9", *words)
    same(process_groups, ours, ("algo=diloco", *words))


@pytest.mark.parametrize("momentum", ["after", "before"])
@pytest.mark.parametrize("topology", ["ring", "exponential", "complete"])
def test_the_mean_of_gasloc_steps_as_torchs_nesterov_on_the_mean_displacement(topology, momentum):
    words = (*QUADRATIC, "algo=gasloc", f"algo.momentum={momentum}", f"topology={topology}", "tau=2", "steps=16")
    loop = make_loop(settle(words), observer=Recorder())
    z = torch.nn.Parameter(loop.state.x.mean(0))
    outer, apart = torch.optim.SGD([z], lr=0.7, momentum=0.6, nesterov=True), []
    for k in range(16):
        loop.advance()
        if k % 2:
            z.grad = z.data - loop_before(loop).mean(0)
            outer.step()
            torch.testing.assert_close(loop.state.x.mean(0), z.data, rtol=0, atol=1e-12)
            apart.append(float(loop.state.x.std(0).max()))
    if topology == "complete":
        assert (max(apart) < 1e-14) == (momentum == "before")  # the paper's form leaves workers apart even there


def loop_before(loop):
    """The models as they were when the latest communication began."""
    return loop.observer.before[-1][2]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_gasloc_with_other_numbers_is_slow_loops(process_groups, processes):
    words = (*QUADRATIC, "algo=gasloc", "algo.eta=0.5", "algo.gamma=0.8", "algo.momentum=before", "tau=4")
    expected = oracle_rules.gasloc(problem(words), 0.5, 0.8, True)
    np.testing.assert_allclose(play(process_groups, processes, *words).x, expected, **EXACT)


ARCS = "0 1\n1 2\n2 3\n3 0\n0 2\n1 3\n3 1\n1 0\n"


@pytest.fixture
def arcs(tmp_path):
    """A directed graph of four, on which nobody hears from as many as it sends to; and to whom each sends."""
    (tmp_path / "arcs.txt").write_text(ARCS)
    to = {j: [int(line[2]) for line in ARCS.splitlines() if int(line[0]) == j] for j in range(4)}
    return (f"topology.file={tmp_path}/arcs.txt", "topology=file", "topology.directed=true", "workers=4"), to


@pytest.mark.parametrize("more", [("tau=1",), ("tau=3",)], ids=" ".join)
def test_push_sum_on_a_directed_graph(process_groups, arcs, more):
    graph, to = arcs
    words = (*QUADRATIC, "algo=sgp", *graph, *more)
    expected = oracle_rules.push_sum(problem(words), lambda j, r: to[j])
    for processes in (1, 2, 4):
        np.testing.assert_allclose(play(process_groups, processes, *words).x, expected, **EXACT)


@pytest.mark.parametrize("more", [(), ("optim.momentum=0.9",), ("optim=adam",), ("delay=1",), ("delay=tau",)], ids=" ".join)
def test_push_sum_loses_no_mass(arcs, more):
    """Sum of mass: what the workers began with, and all that their optimisers have done since."""
    loop = make_loop(settle((*QUADRATIC, "algo=sgp", *arcs[0], "tau=3", *more)), observer=(steps := Moves()))
    total = loop.state.x.sum(0)
    for _ in range(21):
        steps.old = loop.state.x.clone()
        loop.advance()
        s, x = loop.state.s, loop.state.x
        mass = (s.weight * s.start + (x - s.start)).sum(0)
        torch.testing.assert_close(mass, total + steps.total, rtol=0, atol=1e-12)
        assert abs(float(s.weight.sum()) - 4) < 1e-12
    assert float(s.weight.max() - s.weight.min()) > 0.1
    torch.testing.assert_close(loop.strategy.answer(loop.fleet, x, s)[0] * 4, mass, rtol=0, atol=1e-12)


class Moves(Recorder):
    """Adds up what local steps do to the models: from `old`, in each step."""

    total = old = 0.0

    def moved(self, loop, t, active, due):
        self.total = self.total + (loop.state.x - self.old).sum(0)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("outer", ["momentum", "nesterov"])
def test_push_sum_takes_an_outer_step_for_one_more_local_step(process_groups, arcs, outer, processes):
    """mass gains all that moved the model since the last communication left it at mass / weight: the outer step, then u."""
    graph, to = arcs
    o = {"lr": 0.6, "momentum": 0.5}
    words = (*QUADRATIC, "algo=sgp", *graph, "tau=3", f"outer={outer}", *(f"outer.{key}={value}" for key, value in o.items()))
    p = problem(words)
    y, w, kept = [p.x0.copy() for _ in range(4)], [1.0] * 4, [[] for _ in range(4)]
    x = z = list(y)
    for k, r in enumerate(p.rounds()):
        x = oracle_rules.local(p, x, k)
        if r >= 0:
            mass = [w[i] * y[i] + (x[i] - y[i]) for i in range(4)]
            sends = {i: [j for j in range(4) if i == j or i in to[j]] for i in range(4)}
            share = [1 + len(to[j]) for j in range(4)]
            w = [sum(w[j] / share[j] for j in sends[i]) for i in range(4)]
            y = [sum(mass[j] / share[j] for j in sends[i]) / w[i] for i in range(4)]
            x = z = [oracle.outer_step(outer, z[i], y[i], kept[i], o, p.eta) for i in range(4)]
    assert max(w) - min(w) > 0.1
    np.testing.assert_allclose(play(process_groups, processes, *words).x, x, **EXACT)


@pytest.mark.parametrize("steps", [23, 24])
def test_push_sum_combines_then_adapts(process_groups, arcs, steps):
    """cta is atc whose communication waits for the next step; what is evaluated does not wait, for mixing keeps it."""
    words = (*QUADRATIC, "algo=sgp", *arcs[0], "tau=3", f"steps={steps}")
    cta, atc = (play(process_groups, 2, *words, f"order={order}") for order in ("cta", "atc"))
    np.testing.assert_allclose(cta.answer, atc.answer, **EXACT)
    assert np.allclose(cta.x, atc.x, **EXACT) == bool(steps % 3)


@pytest.mark.parametrize("topology", ["ring", "exponential", "hypercube", "complete"])
def test_push_sum_where_all_send_to_as_many_as_they_hear_from_is_gossip(process_groups, topology):
    ours = play(process_groups, 1, *QUADRATIC, "algo=sgp", f"topology={topology}")
    theirs = play(process_groups, 1, *QUADRATIC, "algo=dpsgd", "algo.weights=uniform", f"topology={topology}")
    np.testing.assert_allclose(ours.x, theirs.x, **EXACT)
    assert ours.logical == theirs.logical  # and no weight is sent


def test_push_sum_sends_one_number_more_where_weights_move(process_groups, arcs):
    words = (*QUADRATIC, "algo=sgp", *arcs[0], "task.dim=12")
    rounds, messages, sent = play(process_groups, 1, *words).logical
    assert (messages, sent) == (8 * rounds, 8 * rounds * (12 + 1) * 8)


@pytest.mark.parametrize(("m", "rounds"), [(2, 1), (4, 3), (8, 5), (16, 7)])
def test_the_book_of_the_authors_averages_exactly_after_two_log_m_less_one(m, rounds):
    mixing = Parts(settle((*QUADRATIC, "algo=sgp_one_peer", f"workers={m}"))).strategy.schedule
    whole = np.eye(m)
    for r in range(3, 3 + rounds):  # wherever it begins
        whole = mixing.at(m, r).dense() @ whole
    assert mixing.cycle(m) == rounds and np.abs(whole - 1 / m).max() < 1e-15 and mixing.zeta(m) < 1e-12


def test_several_peers_of_a_book():
    words = (*QUADRATIC, "algo=sgp_one_peer", "workers=9", "algo.book_of=n_peer", "algo.peers_at_once=2")
    mixing = Parts(settle(words)).strategy.schedule
    assert mixing.pages(9) == [[1, 2], [3, 6]] and mixing.zeta(9) < 1e-12


def test_mass_over_weight_reaches_the_mean_on_any_directed_graph(arcs):
    mixing = Parts(settle((*QUADRATIC, "algo=sgp", *arcs[0]))).strategy.schedule
    whole = np.eye(4)
    for r in range(60):
        whole = mixing.at(4, r).dense() @ whole
        assert np.abs(mixing.at(4, r).dense().sum(1) - 1).max() < 1e-14
    assert np.abs(whole - 1 / 4).max() < 1e-12 and np.ptp(mixing.weights(4, 60)) > 0.1
    fresh = Parts(settle((*QUADRATIC, "algo=sgp", *arcs[0]))).strategy.schedule
    np.testing.assert_allclose(fresh.weights(4, 10**9), mixing.weights(4, 60), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("algo=sgp", "algo.mixing=matching"), "algo.mixing: push_sum shares models out by columns"),
        (("algo=sgp_one_peer", "algo.peers_at_once=2"), "algo.peers_at_once: the exponential book names one"),
        (("algo=sgp_one_peer", "algo.book_of=n_peer", "algo.peers_at_once=4", "workers=4"), "algo.peers_at_once: 4 peers"),
        (("algo=sgp_one_peer", "algo.book_of=phone"), "algo.book_of: must be one of"),
        (("algo=sgp", "algo.weights=fdla"), "algo.weights: sgp has no such key"),
        (("algo=qg_dsgdm", "algo.beta=1"), "algo.beta: must lie in [0, 1)"),
        (("algo=decentlam", "algo.beta=-0.5"), "algo.beta: must lie in [0, 1)"),
        (("algo=gasloc", "algo.gamma=1"), "algo.gamma: must lie in [0, 1)"),
        (("algo=gasloc", "algo.eta=0"), "algo.eta: must be a positive number"),
        (("algo=gasloc", "algo.momentum=between"), "algo.momentum: must be one of after, before"),
        (("algo=gpa", "algo.mu_x=1"), "algo.mu_x: must lie in [0, 1), got 1"),
        (("algo=gpa", "algo.mu_y=1.5"), "algo.mu_y: must lie in [0, 1], got 1.5"),
        (("algo=gpa", "outer=momentum"), "outer=momentum: gpa mixes no models"),
        (("algo=decentlam", "outer=momentum"), "outer=momentum: decentlam takes its momentum from where"),
        (("algo=gasloc", "outer=nesterov"), "outer=nesterov: gasloc takes its momentum from where"),
    ],
)
def test_bad_input(words, says):
    with pytest.raises(ConfigError) as error:
        compose_config(["task=quadratic", *words])
    assert str(error.value).startswith(says)


def test_a_graph_with_no_way_back_is_refused(tmp_path):
    (tmp_path / "one_way.txt").write_text("0 1\n1 2\n")
    words = [f"topology.file={tmp_path}/one_way.txt", "topology=file", "topology.directed=true", "workers=3"]
    with pytest.raises(ConfigError, match="no messages lead from worker 1 to worker 0"):
        compose_config(["task=quadratic", "algo=sgp", *words])


def chain(m, tree=0):
    return [[j for j in (i - 1, i + 1) if 0 <= j < m] for i in range(m)]


def star(m, tree=0):
    return [list(range(1, m)) if i == 0 else [0] for i in range(m)]


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize(
    ("words", "graph", "trees"),
    [
        (("topology=chain",), chain, 1),
        (("topology=star", "tau=3"), star, 1),
        (("algo.trees=2", "tau=2"), oracle_rules.binary_tree, 2),
    ],
)
def test_relays_along_any_tree_bring_the_exact_mean_late(process_groups, words, graph, trees, processes):
    words = (*QUADRATIC, "algo=relay", "task.dim=5", "steps=40", *words)
    expected = oracle_rules.relay(problem(words), graph, trees)
    np.testing.assert_allclose(play(process_groups, processes, *words).x, expected, **EXACT)


def test_on_a_star_everybody_has_heard_of_everybody_after_two_rounds():
    loop = make_loop(settle((*QUADRATIC, "algo=relay", "topology=star")), observer=Recorder())
    for k in range(2):
        assert (loop.state.s[0].counts[1] < 7).any() or not k
        loop.advance()
    assert (loop.state.s[0].counts[1] == 7).all()


@pytest.mark.parametrize("words", [("topology=chain",), ("topology=star",), ("algo.trees=2",)], ids=" ".join)
def test_relays_send_one_vector_each_way_along_each_edge(process_groups, words):
    rounds, _, sent = play(process_groups, 1, *QUADRATIC, "algo=relay", "task.dim=6", *words).logical
    assert sent == rounds * 2 * 7 * 6 * 8


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_relayed_models_that_do_not_move_stay_equal_bit_for_bit(process_groups, dtype):
    flat = "task.curvature=[" + ",".join(["[0,0,0]"] * 8) + "]"  # no curvature and no noise: no gradient
    words = (*(word for word in QUADRATIC if not word.startswith("dtype")), f"dtype={dtype}", flat, "task.sigma=0")
    words += ("algo=relay", "algo.trees=2", "task.start=[3.3,1.7,-2.1]")
    found = play(process_groups, 1, *words).x
    assert (found == found[0]).all()


@pytest.mark.slow
def test_relayed_sums_do_not_drift():
    """20,000 rounds in float32 beside float64: as far apart as after 500."""
    loops = [make_loop(settle((*QUADRATIC[:1], *QUADRATIC[2:], "algo=relay", "steps=20000", f"dtype={d}"))) for d in DTYPES]
    apart = []
    for k in range(20000):
        for loop in loops:
            loop.advance()
        if k in (499, 19999):
            apart.append(float((loops[0].state.x.double() - loops[1].state.x).abs().max()))
    assert apart[1] < 3 * apart[0] + 1e-6, apart


DTYPES = ("float32", "float64")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("topology=ring",), "topology: relays go along a tree, and this one has cycles, 8 edges of 8 workers"),
        (("topology=exponential",), "topology: relays go along a tree, and this one has edges that go one way"),
        (("topology=chain", "algo.trees=3"), "algo.trees: must be 1 or 2, got 3"),
        (("topology.children=0",), "topology.children: must be at least 1"),
        (("algo.mixing=gossip",), "algo.mixing: relay passes models on along a tree"),
    ],
)
def test_what_cannot_be_relayed_is_refused(words, says):
    with pytest.raises(ConfigError) as error:
        compose_config(["task=quadratic", "algo=relay", "workers=8", *words])
    assert str(error.value).startswith(says)
