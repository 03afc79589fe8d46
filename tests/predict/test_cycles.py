"""The price of a round without barriers: the maximum cycle mean, against all cycles, and against rounds played in loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from test_underlay import DUMBBELL, by_hand, gml

from coopsgd.commands import analyze, compose
from coopsgd.mixing.matrix import Matrix
from coopsgd.predict.clock.cycles import critical_cycle, maximum_cycle_mean, price, product
from coopsgd.predict.rehearsal import rehearse


def means(A):
    """Of every cycle that passes no node twice."""
    n = len(A)
    for k in range(1, n + 1):
        for some in itertools.permutations(range(n), k):
            if some[0] == min(some):
                weight = sum(A[some[i], some[(i + 1) % k]] for i in range(k))
                if weight > -math.inf:
                    yield weight / k


@pytest.mark.parametrize("seed", range(24))
def test_karp_finds_the_best_of_all_cycles(seed):
    draw = np.random.default_rng(seed)
    n = int(draw.integers(1, 6))
    A = np.where(draw.random((n, n)) < draw.uniform(0.2, 0.9), draw.normal(size=(n, n)), -math.inf)
    best = max(means(A), default=-math.inf)
    found = maximum_cycle_mean(A)
    assert found == pytest.approx(best, rel=1e-12, abs=1e-12)
    if best > -math.inf:
        cycle = critical_cycle(A, found)
        assert len({*cycle}) == len(cycle)
        weight = sum(A[i, j] for i, j in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        assert weight / len(cycle) == pytest.approx(best, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_on_a_tree_an_edge_costs_its_mean_of_both_ways_and_one_way_around_the_mean_of_all(seed):
    draw, n = np.random.default_rng(seed), 7
    tree, ring = np.full((2, n, n), -math.inf)
    edges = [(i, int(draw.integers(i))) for i in range(1, n)]
    for i, j in edges:
        tree[i, j], tree[j, i] = draw.uniform(1, 5, 2)
    both = max((tree[i, j] + tree[j, i]) / 2 for i, j in edges)
    assert maximum_cycle_mean(tree) == pytest.approx(both, rel=1e-14)
    tree[range(n), range(n)] = loops = draw.uniform(0, 5, n)
    assert maximum_cycle_mean(tree) == pytest.approx(max(both, loops.max()), rel=1e-14)
    for i in range(n):
        ring[(i + 1) % n, i] = draw.uniform(1, 9)
    mean = ring[ring > -math.inf].mean()
    assert maximum_cycle_mean(ring) == pytest.approx(mean, rel=1e-14) and mean < ring.max()  # which a barrier costs


def test_a_product_is_one_round_after_another():
    draw = np.random.default_rng(0)
    A, B, t = draw.normal(size=(4, 4)), draw.normal(size=(4, 4)), draw.normal(size=4)
    assert np.allclose((product(A, B) + t).max(1), (A + (B + t).max(1)).max(1), rtol=0, atol=1e-14)


LINES = {(0, 1): 0.03, (1, 2): 0.05, (2, 3): 0.01, (3, 4): 0.02, (4, 0): 0.08, (1, 3): 0.04}
RATE = 2e5  # bytes a second of each line
STEP = 0.02
SPEEDS = [1, 0.5, 2, 1, 0.8]


@pytest.fixture
def network(tmp_path):
    """A network of five whose lines are unlike, with hosts that are unlike."""
    lines = [(i, j, f"latency_s {latency} capacity {8 * RATE}") for (i, j), latency in LINES.items()]
    file = gml(tmp_path, [""] * 5, lines)
    words = ["task=quadratic", "task.dim=1000", "workers=5", "cluster=graph", f"cluster.file={file}", f"cluster.step_s={STEP}"]
    return [*words, f"cluster.speeds={SPEEDS}", "cluster.access=4e6", "log_every=1", "eval_every=0"]


def played(takes, tau, rounds):
    """(rounds, m) when each worker is done with each round: loops over workers, who takes from whom a list a round."""
    lines = {ends: (latency, RATE) for one, latency in LINES.items() for ends in (one, one[::-1])}
    t, found, nbytes = [0.0] * 5, [], 4000
    for r in range(rounds):
        pairs = takes(r)
        a, b = by_hand(lines, range(5), pairs, 5e5)
        ready = [t[i] + tau * STEP / SPEEDS[i] for i in range(5)]
        sent = [max([b[pair] * nbytes for pair in pairs if pair[1] == i], default=0) for i in range(5)]
        come = [max([ready[j] + a[i, j] + b[i, j] * nbytes for i2, j in pairs if i2 == i], default=0) for i in range(5)]
        t = [max(ready[i] + sent[i], come[i]) for i in range(5)]
        found.append(t)
    return np.array(found)


GRAPHS = {
    "ring": ("topology=ring", lambda r: [(i, (i + s) % 5) for i in range(5) for s in (1, 4)]),
    "star": ("topology=star", lambda r: [(0, i) for i in range(1, 5)] + [(i, 0) for i in range(1, 5)]),
    "exponential": ("topology=exponential", lambda r: [(i, (i - h) % 5) for i in range(5) for h in (1, 2, 4)]),
    "one way": (None, lambda r: [(i, (i - 1) % 5) for i in range(5)]),
}
LCM = 60  # of 1 ... 5: by then the times repeat, whatever the cycles are


@pytest.mark.parametrize("tau", [1, 3])
@pytest.mark.parametrize("name", GRAPHS)
def test_it_is_what_rounds_take_in_the_long_run(tmp_path, network, name, tau):
    topology, takes = GRAPHS[name]
    if topology is None:
        (tmp_path / "g.txt").write_text("".join(f"{i} {(i + 1) % 5}\n" for i in range(5)))
        network += [f"topology.file={tmp_path}/g.txt", "topology.directed=true"]
    parts = compose.compose_config([*network, "algo=dpsgd", topology or "topology=file", f"tau={tau}"]).parts
    found, _ = price(parts)
    times = played(takes, tau, 4 * LCM)
    per_round = (times[-1] - times[-1 - LCM]) / LCM
    assert found.exact and per_round == pytest.approx([found.per_round] * 5, rel=1e-12)
    assert found.barrier >= found.per_round * (1 - 1e-12)
    clock = rehearse(parts, 4 * LCM * tau)  # and the clock's own
    assert (clock[-1] - clock[-1 - LCM * tau]) / LCM == pytest.approx(found.per_round, rel=1e-12)


def test_a_barrier_costs_the_maximum_and_its_absence_the_mean(network, tmp_path):
    (tmp_path / "g.txt").write_text("".join(f"{i} {(i + 1) % 5}\n" for i in range(5)))
    one_way = [*network, "algo=dpsgd", "topology=file", f"topology.file={tmp_path}/g.txt", "topology.directed=true"]
    found, _ = price(compose.compose_config(one_way).parts)
    everyone, _ = price(compose.compose_config([*network, "algo=pasgd", "tau=1"]).parts)
    assert found.per_round < found.barrier
    assert everyone.per_round == pytest.approx(everyone.barrier, rel=1e-12)  # an all-reduce waits for all


@pytest.mark.parametrize(
    "words", [("algo=one_peer", "workers=4"), ("algo=easgd", "workers=4"), ("algo=gossip_pga", "algo.every=3", "workers=4")]
)
@pytest.mark.parametrize("when", ["order=atc", "order=cta", "delay=1", "delay=tau"])
def test_a_schedule_that_repeats_is_priced_by_its_product(tmp_path, words, when):
    file = gml(tmp_path, *DUMBBELL)
    base = [
        "task=quadratic",
        "task.dim=100",
        "cluster=graph",
        f"cluster.file={file}",
        "tau=2",
        when,
        "cluster.speeds=[1,0.7,1,1]",
        *words,
    ]
    parts = compose.compose_config(base).parts
    found, why = price(parts)
    assert found is not None, why
    many = 2 * LCM  # rounds: of whole periods of up to three matrices, as often as the times need to repeat
    clock = rehearse(parts, 2 * 2 * many)
    assert (clock[-1] - clock[-1 - 2 * many]) / many == pytest.approx(found.per_round, rel=1e-12)


def test_of_random_steps_it_is_a_lower_bound(network):
    words = [*network, "algo=dpsgd", "topology=ring", "cluster.step=exponential"]
    parts = compose.compose_config(words).parts
    found, _ = price(parts)
    clock = rehearse(parts, 400)
    assert not found.exact and found.per_round < clock[-1] / 400


NONE = {
    "random": (("algo=matching",), "do not come again"),
    "every step": (("algo=fullsync",), "in every step"),
    "tau moves": (("algo=dpsgd", "tau=[[0,1],[5,2]]"), "not all alike"),
    "clients": (("algo=fedavg",), "do not come again|not all alike"),
}


@pytest.mark.parametrize("kind", NONE)
def test_where_there_is_none_analyze_says_why(network, kind):
    words, why = NONE[kind]
    facts = analyze.facts(compose.compose_config([*network, *words, "steps=20"]).parts)
    assert facts["cycle_mean"] is None
    assert any(one in facts["no_cycle_mean"] for one in why.split("|")), facts["no_cycle_mean"]


def test_analyze_tells_it(network, capsys):
    words = [*network, "algo=dpsgd", "topology=ring", "tau=2", "steps=20"]
    parts = compose.compose_config(words).parts
    facts = analyze.facts(parts)
    mean = facts["cycle_mean"]
    assert mean["seconds_per_round"] == pytest.approx(2 * mean["seconds_per_step"]) == price(parts)[0].per_round
    assert isinstance(parts.strategy.schedule.at(5, 0), Matrix) and facts["no_cycle_mean"] is None
    analyze.show(facts)
    assert "the maximum cycle mean (" in capsys.readouterr().out
    plain = analyze.facts(compose.compose_config(["task=quadratic", "algo=dpsgd", "cluster=wan_20m", "steps=20"]).parts)
    assert "cluster.ports=parallel has one" in plain["no_cycle_mean"]
    analyze.show(plain)
    assert "no cycle mean of a round in the long run: cluster.ports=nic" in capsys.readouterr().out
