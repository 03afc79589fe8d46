"""The step condition of a cycle, exact averages, and what is not told where there is no bound."""

from __future__ import annotations

import json
import math

import arrays
import arrays as matrices
import numpy as np
import pytest

from coopsgd.commands import analyze, compose
from coopsgd.mixing import graphs
from coopsgd.mixing.varying import GossipPGA, OnePeer, TwoLevel
from coopsgd.predict.setting import Setting
from coopsgd.predict.theory import largest_steps, window_constant, windows

QUADRATIC = ("task=quadratic", "task.heterogeneity=0", "processes=1", "device=cpu")


def slowly(Ws, m, tau, cycles):
    """c' from its definition: every step s and iterate k of so many cycles, every window multiplied out; s from the middle."""
    n, T = len(Ws[0]), len(Ws)
    K, J = cycles * T * tau, np.full((n, n), 1 / n)
    w = np.zeros((K, K + 1))
    for s in range(K):
        window = np.eye(n)
        for k in range(s + 1, K + 1):  # after step k - 1
            if k % tau == 0:
                window = Ws[(k // tau - 1) % T] @ window
            w[s, k] = np.linalg.norm(window - J, 2)
    middle = range(cycles // 2 * T * tau, (cycles // 2 + 1) * T * tau)
    return 2 * (n / m) ** 2 * max(float(w[s] @ w.sum(0)) for s in middle)


def schedule(mixing, m):
    return [arrays.factors(mixing, m, r)[0] for r in range(mixing.cycle(m))]


def doubly(n, seed):
    draw = np.random.default_rng(seed)
    return np.mean([np.eye(n)[draw.permutation(n)] for _ in range(3)], axis=0)


PAIRS, SWAP = matrices.pairs(4, [(0, 1), (2, 3)]), np.eye(4)[[0, 2, 1, 3]]
THREE = [PAIRS, SWAP, PAIRS]  # averages pairs, swaps 1 and 2, averages pairs: J; in any other order of them only half of it
CYCLES = {  # name: matrices, m, tau, cycles to look at, c' where it is known
    "one peer, 8": (schedule(OnePeer(), 8), 8, 1, 6, 7.31),
    "one peer, 16": (schedule(OnePeer(), 16), 16, 1, 6, 16.4),
    "one peer, 32": (schedule(OnePeer(), 32), 32, 1, 6, 29.4),
    "hypercube, 8": (schedule(OnePeer(form="hypercube"), 8), 8, 1, 6, 8),
    "hypercube, 16": (schedule(OnePeer(form="hypercube"), 16), 16, 1, 6, 18),
    "hypercube, 32": (schedule(OnePeer(form="hypercube"), 32), 32, 1, 4, 32),
    "one peer, 8, tau 3": (schedule(OnePeer(), 8), 8, 3, 6, 103.3),
    "one peer, 6": (schedule(OnePeer(), 6), 6, 2, 24, None),  # never exact: residues of 0.217 a cycle
    "three": (THREE, 4, 1, 6, 26),
    "J, tau 5": ([matrices.average(4)], 4, 5, 6, 20),
    "two levels": (schedule(TwoLevel(groups=2, tau_2=8, tau=2), 8), 8, 2, 6, 56),
    "uneven groups": (schedule(TwoLevel(groups=[3, 5], tau_2=8, tau=2), 8), 8, 2, 6, 56),
    "gossip, now and then J": (schedule(GossipPGA(every=4), 8), 8, 1, 6, 5.23),
    # one symmetric W: 2 zeta^2 / (1 - zeta)^2 = 1/2
    "ring of 4": ([matrices.metropolis(graphs.Ring().adjacency(4))], 4, 1, 60, 0.5),
    "nothing in common": ([doubly(6, 0), doubly(6, 1), doubly(6, 2)], 6, 2, 22, None),
    "with an auxiliary row": ([doubly(6, 3), doubly(6, 4)], 5, 3, 24, None),
}


@pytest.mark.parametrize("name", CYCLES)
def test_the_windows_of_a_cycle(name):
    Ws, m, tau, cycles, known = CYCLES[name]
    found = window_constant(Ws, m, tau, 0.99)
    assert found == pytest.approx(slowly(Ws, m, tau, cycles), rel=1e-6)
    if known is not None:
        assert found == pytest.approx(known, rel=2e-3)


def test_a_cycle_too_long_to_look_through_is_bounded_from_above(monkeypatch):
    for name in ("nothing in common", "one peer, 6", "three"):
        Ws, m, tau, *_ = CYCLES[name]
        exact = window_constant(Ws, m, tau, 0.5)
        for work in (1, 3e4, 3e5):
            monkeypatch.setattr(windows, "WORK", work)
            assert window_constant(Ws, m, tau, 0.5) >= exact * (1 - 1e-9)
        monkeypatch.undo()


def test_long_cycles_and_long_periods():
    """tau is a number in a formula; gossip with an average is a product of numbers, J ends every window."""
    Ws = schedule(GossipPGA(every=200), 16)
    one = window_constant(Ws, 16, 1, 0.0)
    assert window_constant(Ws, 16, 100_000, 0.0) > 1e9 * one
    # a cycle of 200 comes near the endless sum of D-PSGD, 2 zeta^2 / (1 - zeta)^2, from below
    zeta = (1 + 2 * math.cos(math.pi / 8)) / 3
    assert one == pytest.approx(2 * (zeta / (1 - zeta)) ** 2, rel=1e-2) and one < 2 * (zeta / (1 - zeta)) ** 2


def setting(*words):
    checked = compose.compose_config([*QUADRATIC, *words])
    return Setting(checked.parts)


WRITTEN = "algo.W=" + json.dumps([W.tolist() for W in THREE]).replace(" ", "")
STEPS = {  # the largest eta L that the proof carries, and by which condition
    "one peer, 8": (["algo=one_peer", "workers=8"], "computed", 0.308),
    "one peer, 16": (["algo=one_peer", "workers=16"], "computed", 0.218),
    "one peer, 32": (["algo=one_peer", "workers=32"], "computed", 0.168),
    "hypercube, 8": (["algo=one_peer", "algo.form=hypercube", "workers=8"], "computed", 0.297),
    "hypercube, 16": (["algo=one_peer", "algo.form=hypercube", "workers=16"], "computed", 0.210),
    "hypercube, 32": (["algo=one_peer", "algo.form=hypercube", "workers=32"], "computed", 0.162),
    "one peer, 8, tau 3": (["algo=one_peer", "workers=8", "tau=3"], "computed", 0.094),
    "three": (["algo=cooperative", WRITTEN, "workers=4", "tau=1"], "computed", 0.178),
    # J at the end of a cycle: no window lies across it, and the condition of PASGD stands, tau (tau - 1) for its steps
    "pasgd": (["algo=pasgd", "tau=5"], "pasgd", 0.200),
    "two levels": (["algo=two_level", "tau=2", "algo.tau_2=8"], "pasgd", 0.125),
    "gossip_pga": (["algo=gossip_pga", "algo.every=4", "workers=8"], "pasgd", 0.250),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_largest_step_is_one_that_the_proof_carries(name):
    words, condition, most = STEPS[name]
    found = setting(*words)
    assert found.largest_steps[condition] == pytest.approx(most, abs=5e-4)
    carried = window_constant(found.matrices, found.m, found.tau, found.zeta)
    for x in found.largest_steps.values():
        assert x + carried * x**2 <= 1 + 1e-9
    if condition == "computed":
        assert max(found.largest_steps.values()) == found.largest_steps["computed"] and "pasgd" not in found.largest_steps


def test_no_condition_of_one_w_is_taken_for_one_of_a_cycle():
    """Windows of ten matrices of norm 1 whose product is J: about 6 T^2, and c = 5 asks only 5 T^2."""
    T = 10
    assert set(largest_steps(T, 0.0, 4, 0, 6.0 * T**2)) == {"computed"}
    assert set(largest_steps(T, 0.0, 4, 0, 4.0 * T**2)) == {"published", "computed"}
    assert set(largest_steps(T, 0.0, 4, 0, 1.0)) == {"published", "derived", "pasgd", "computed"}


def test_a_rate_between_the_two_has_no_bound(capsys):
    """eta L = 0.32 is below 1/3, what a cycle of 3 would be allowed as J of 3 steps, and above what its windows carry."""
    checked = compose.compose_config([*QUADRATIC, "algo=one_peer", "workers=8"])
    L = analyze.facts(checked.parts)["constants"]["L"]
    for x, holds in ((0.32, False), (0.30, True)):
        checked = compose.compose_config([*QUADRATIC, "algo=one_peer", "workers=8", f"optim.lr={x / L}"])
        found = analyze.facts(checked.parts)
        assert (found["bound"] is not None) == holds and found["condition"] == ("computed" if holds else None)
        analyze.show(found)
        message = capsys.readouterr().out
        assert "computed from the matrices, c = 7.307" in message and "of PASGD" not in message
        assert ("no bound" in message) != holds


EXACTLY = {
    "average now and then": ["algo=gossip_pga", "algo.every=40"],
    "seldom": ["algo=gossip_pga", "algo.every=300", "topology=chain"],
    "one peer": ["algo=one_peer", "workers=16"],
    "hypercube": ["algo=one_peer", "algo.form=hypercube", "workers=16"],
    "two levels": ["algo=two_level", "workers=6", "algo.groups=3", "tau=3"],
    "three": ["algo=cooperative", WRITTEN, "workers=4"],
    "by way of a server": ["algo=parameter_server", "workers=7"],
    "an anchor on everybody": ["algo=gea", "topology=complete", "workers=7"],
    "two workers and a root": ["algo=dpsgd", "topology=complete", "workers=7"],
}


@pytest.mark.parametrize("name", EXACTLY)
def test_who_averages_exactly_leaves_nothing(name):
    found = setting(*EXACTLY[name])
    assert found.zeta == 0 and found.rate == {"communication": 0, "step": 0}


def test_many_that_leave_a_share_are_not_exact(tmp_path):
    """A list of 170 rings of thirds, m = 8: 0.8047^170 is 1e-16, as near to J as J by rounding; each leaves 0.8047."""
    W = matrices.metropolis(graphs.Ring().adjacency(8))
    zeta = (1 + 2 * math.cos(math.pi / 4)) / 3
    np.save(tmp_path / "w.npy", [W] * 170)
    found = setting("algo=cooperative", f"algo.W={tmp_path}/w.npy", "workers=8", "tau=2")
    assert found.rate["communication"] == pytest.approx(zeta, rel=1e-9)
    assert found.rate["step"] == pytest.approx(zeta**0.5, rel=1e-9)
    assert found.zeta == pytest.approx(zeta**170, rel=1e-6)


# what is not told where there is no bound

ASIDE = {  # what theory is not about, and whether the largest steps stay what they are
    "momentum": ["optim.momentum=0.9"],
    "nesterov": ["optim.momentum=0.9", "optim.nesterov=true"],
    "weight decay": ["optim.weight_decay=0.01"],
    "adam": ["optim=adam"],
    "adamw": ["optim=adamw"],
    "clip": ["clip=1"],
    "cosine": ["schedule=cosine"],
    "steps": ["schedule=step"],
    "warm-up": ["schedule.warmup=10"],
    "by the loss": ["period=adacomm"],
    "by the rate": ["period=qsr", "schedule=cosine"],
}
ALGOS = {
    "pasgd": ["algo=pasgd", "tau=10"],
    "easgd": ["algo=easgd", "tau=4"],
    "dpsgd": ["algo=dpsgd"],
    "one peer": ["algo=one_peer", "workers=8"],
    "pairwise": ["algo=pairwise"],
    "alone": ["algo=pasgd", "workers=1"],
}
BOUND = ("network_factor", "largest_eta_eff_L", "largest_eta_eff", "largest_lr", "condition", "bound", "linear_speedup")


def message(*words):
    checked = compose.compose_config(["task=quadratic", "processes=1", "device=cpu", "optim.lr=0.001", *words])
    return analyze.facts(checked.parts)


@pytest.mark.parametrize("aside", ASIDE)
@pytest.mark.parametrize("algo", ALGOS)
def test_nothing_that_follows_from_the_bound_is_told_where_it_does_not_hold(aside, algo, capsys):
    words = (*ALGOS[algo], *ASIDE[aside], "task.heterogeneity=0")
    found = message(*words)
    assert {name: found[name] for name in BOUND} == dict.fromkeys(BOUND)
    assert found["pasgd"]["tau_bound"] is None
    analyze.show(found)
    printed = capsys.readouterr().out
    assert "no bound" in printed and "same bound" not in printed and "largest step" not in printed
    # what stays is about matrices and, if a step is plain, about its noise
    plain = not any(word.startswith(("optim=", "optim.", "clip")) for word in ASIDE[aside])
    assert (found["consensus"]["noise_coefficient"] is not None) == plain
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("algo", ALGOS)
def test_workers_that_differ_have_a_bound_of_their_own_and_no_speed_up_is_promised(algo):
    if algo == "alone":
        return  # one worker does not differ
    same, differ = message(*ALGOS[algo], "task.heterogeneity=0"), message(*ALGOS[algo])
    assert all(same[name] is not None for name in BOUND) and same["pasgd"]["tau_bound"] is not None
    assert set(differ["largest_eta_eff_L"]) == {"drift"} and differ["network_factor"] == same["network_factor"]
    assert differ["bound"]["drift"] > 0 == same["bound"]["drift"] and differ["condition"] == "drift"
    assert differ["linear_speedup"] is differ["pasgd"]["tau_bound"] is None
