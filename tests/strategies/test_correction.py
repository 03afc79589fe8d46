"""Corrections: against slow loops on every placement, what they keep, where they are exact, what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import corrected
import numpy as np
import oracle
import pytest
import torch
from playing import QUADRATIC, play, settle
from test_oracle import EXACT, problem

from coopsgd.commands.compose import compose_config
from coopsgd.errors import ConfigError
from coopsgd.setup.parts import Parts
from coopsgd.testing import check_strategy
from coopsgd.testing.runs import Recorder, make_loop, rows_of_steps

MOVING = ("schedule=multistep", "schedule.milestones=[7,15]", "schedule.gamma=0.5")
RATES = [0.1] * 7 + [0.05] * 8 + [0.025] * 9  # of 24 steps
INNERS = {
    "sgd": ((), {}),
    "all": (("optim.momentum=0.8", "optim.weight_decay=0.01", *MOVING), {"momentum": 0.8, "decay": 0.01}),
}
# what a run is of -> the slow loops of it
CASES: dict[str, tuple[tuple[str, ...], Callable[..., np.ndarray]]] = {
    "d2": (("algo=dpsgd", "algo.lazy=true", "correction=d2"), corrected.d2),
    "d2 J": (("algo=pasgd", "tau=1", "correction=d2"), corrected.d2),
    "led": (("algo=dpa", "tau=4", "algo.lazy=true", "correction=led"), corrected.led),
    "led moving": (("algo=pasgd", "tau=[[0,1],[5,3]]", "correction=led"), corrected.led),
    "gt": (("algo=dpsgd", "correction=gt"), corrected.gt),
    "gt directed": (("algo=dpsgd", "topology=exponential", "correction=gt"), corrected.gt),
    "kgt": (("algo=dpa", "tau=3", "correction=kgt"), corrected.kgt),
    "kgt one peer": (("algo=one_peer", "tau=[[0,2],[8,4]]", "correction=kgt"), corrected.kgt),
    "proximal": (
        ("algo=pasgd", "tau=4", "correction=proximal", "correction.mu=0.5"),
        lambda p, Ws, inner: corrected.proximal(p, Ws, inner, 0.5),
    ),
    "proximal easgd": (
        ("algo=easgd", "tau=4", "correction=proximal", "correction.mu=0.5"),
        lambda p, Ws, inner: corrected.proximal(p, Ws, inner, 0.5, 1),
    ),
    "scaffold": (("algo=pasgd", "tau=4", "correction=scaffold"), lambda p, Ws, inner: corrected.scaffold(p, inner)),
}


@cache
def matrices(words: tuple[str, ...], rounds: int = 24) -> list[list[list[float]]]:
    """What each communication does, as lists."""
    schedule = Parts(settle(words)).strategy.schedule
    assert schedule is not None
    found = []
    for r in range(rounds):
        W = np.eye(8 + schedule.num_aux)
        for factor in schedule.factors(8, r):
            W = factor.dense() @ W
        found.append(W.tolist())
    return found


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("case", CASES)
def test_is_what_slow_loops_make_of_it(process_groups, case, inner, processes):
    words, loops = CASES[case]
    more, keys = INNERS[inner]
    words = (*QUADRATIC, *words, *more)
    rates = RATES if inner == "all" else [0.1] * 24
    p = problem(words)
    expected = loops(p, matrices(words), corrected.Inner(p, rates, **keys))
    played = play(process_groups, processes, *words)
    np.testing.assert_allclose(played.x, expected, **EXACT)
    assert played.logical == play(process_groups, 1, *words).logical


def drawn(p: oracle.Problem, fraction: float) -> Callable[[int], list[int]]:
    return lambda r: oracle.clients_of(p, r, fraction)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("fraction", [0.25, 1.0])
def test_scaffold_with_sampled_clients(process_groups, fraction, inner, processes):
    more, keys = INNERS[inner]
    words = (*QUADRATIC, "algo=fedavg", "tau=3", f"algo.fraction={fraction}", "correction=scaffold", *more)
    p = problem(words)
    rates = RATES if inner == "all" else [0.1] * 24
    expected = corrected.scaffold(p, corrected.Inner(p, rates, **keys, resets=True), drawn(p, fraction))
    np.testing.assert_allclose(play(process_groups, processes, *words).x, expected, **EXACT)


def nesterov(lr: float, mu: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """z after a step of torch's SGD along z - mean."""
    b: list[Any] = [0.0]

    def step(z: np.ndarray, mean: np.ndarray) -> np.ndarray:
        b[0] = mu * b[0] + (z - mean)
        return z - lr * (z - mean + mu * b[0])

    return step


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("algo", ["pasgd", "fedavg"])
def test_scaffold_with_an_outer_step_is_one_message(process_groups, algo, processes):
    """Models and controls travel together: as many messages as without correction, of twice the bytes."""
    words = (*QUADRATIC, f"algo={algo}", "tau=3", "outer=nesterov", "buffers=reset", *INNERS["all"][0])
    p = problem(words)
    clients = drawn(p, 0.5) if algo == "fedavg" else None
    inner = corrected.Inner(p, RATES, **INNERS["all"][1], resets=True)
    played = play(process_groups, processes, *words, "correction=scaffold")
    np.testing.assert_allclose(played.x, corrected.scaffold(p, inner, clients, step=nesterov(0.7, 0.9)), **EXACT)
    plain = play(process_groups, processes, *words)
    assert played.logical[:2] == plain.logical[:2] and played.logical[2] == 2 * plain.logical[2]
    assert (plain.wire_bytes > 0) == (processes > 1) and played.wire_bytes == 2 * plain.wire_bytes


def state_of(*words: str, steps: int = 12) -> tuple[Any, torch.Tensor]:
    """The strategy's state and the models after so many steps, all rows in this process."""
    loop = make_loop(compose_config([*QUADRATIC, *words, "processes=1"]).config, observer=Recorder())
    rows_of_steps(loop, steps)
    return loop.state.s, loop.state.x


@pytest.mark.parametrize("case", ["d2", "led", "gt", "kgt", "kgt one peer", "gt directed"])
def test_corrections_sum_to_zero(case):
    s, _ = state_of(*CASES[case][0], *INNERS["all"][0])
    assert float(s.c.abs().max()) > 1e-3
    torch.testing.assert_close(s.c.sum(0), torch.zeros_like(s.c[0]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("words", [("algo=pasgd",), ("algo=fedavg", "algo.fraction=1"), ("algo=fedavg",)])
def test_the_servers_control_is_the_mean_of_all(words):
    s, _ = state_of(*words, "tau=3", "correction=scaffold", *INNERS["all"][0])
    heard = s.common[-1]  # the server's row, or that of a worker that has just heard of it
    assert float(heard.abs().max()) > 1e-3
    torch.testing.assert_close(s.mine[:8].mean(0), heard, rtol=0, atol=1e-13)


@pytest.mark.parametrize("case", ["d2", "led", "gt", "kgt"])
def test_the_mean_takes_plain_steps_whatever_the_rate_does(case):
    words, _ = CASES[case]
    words = (*QUADRATIC, *words, *MOVING)
    p = problem(words)
    loop = make_loop(compose_config([*words, "processes=1"]).config, observer=Recorder())
    for k in range(24):
        before = loop.state.x.clone()
        loop.advance()
        steps = [-RATES[k] * p.gradient(i, before[i].numpy(), k) for i in range(8)]
        np.testing.assert_allclose(loop.state.x.mean(0), before.mean(0).numpy() + np.mean(steps, axis=0), **EXACT)


def test_d2_is_the_textbooks_at_a_constant_rate(process_groups):
    words = (*QUADRATIC, *CASES["d2"][0])
    np.testing.assert_allclose(
        play(process_groups, 1, *words).x, corrected.textbook_d2(problem(words), matrices(words)[0]), **EXACT
    )


def same(process_groups, one: tuple[str, ...], other: tuple[str, ...], *both: str) -> None:
    a, b = (play(process_groups, 1, *QUADRATIC, *words, *both).x[:8] for words in (one, other))
    np.testing.assert_allclose(a, b, **EXACT)


@pytest.mark.parametrize("inner", INNERS)
def test_led_of_one_step_is_d2(process_groups, inner):
    words = ("algo=dpsgd", "algo.lazy=true")
    same(process_groups, (*words, "correction=led"), (*words, "correction=d2"), *INNERS[inner][0])


def test_kgt_of_one_step_is_gt(process_groups):
    same(process_groups, ("algo=dpsgd", "correction=kgt"), ("algo=dpsgd", "correction=gt"))


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("server", ["pasgd", "parameter_server", "fedavg"])
def test_kgt_where_W_is_J_is_scaffold(process_groups, server, inner):
    full = ("algo.fraction=1", "buffers=keep") if server == "fedavg" else ()
    scaffold = (f"algo={server}", *full, "correction=scaffold")
    same(process_groups, ("algo=pasgd", "correction=kgt"), scaffold, "tau=4", *INNERS[inner][0])


@pytest.mark.parametrize("algo", ["fedavg", "dpa", "easgd"])
def test_proximal_without_a_pull_is_not_there(process_groups, algo):
    words = (*QUADRATIC, f"algo={algo}", "tau=4")
    pulled = play(process_groups, 1, *words, "correction=proximal", "correction.mu=0")
    np.testing.assert_allclose(pulled.x, play(process_groups, 1, *words).x, **EXACT)


LAZY = [
    "dpsgd",
    "one_peer",
    "matching",
    "matcha",
    "easgd",
    "gea",
    "hierarchical",
    "two_level",
    "gossip_pga",
    "pasgd",
    "pairwise",
]


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("algo", LAZY)
def test_lazy_mixes_with_half_of_W(process_groups, algo, processes):
    words = (*QUADRATIC, f"algo={algo}", "tau=2")
    W = [np.array(one) for one in matrices(words)]
    lazy = [((np.eye(len(one)) + one) / 2).tolist() for one in W]
    found = [np.array(one) for one in matrices((*words, "algo.lazy=true"))]
    np.testing.assert_allclose(found, lazy, **EXACT)
    expected = oracle.periodic(problem(words), lambda x, r: oracle.product(lazy[r], x), len(W[0]) - 8)
    played = play(process_groups, processes, *words, "algo.lazy=true")
    np.testing.assert_allclose(played.x, expected, **EXACT)
    assert played.logical == play(process_groups, 1, *words).logical


@pytest.mark.parametrize("algo", ["matching", "matcha", "pairwise"])
def test_lazy_in_expectation(algo):
    """zeta^2 = ||E[W'W] - J||, from many draws."""
    schedule = Parts(settle((*QUADRATIC, f"algo={algo}", "algo.lazy=true"))).strategy.schedule
    assert schedule is not None
    drawn = [schedule.at(8, r).dense() for r in range(4000)]
    seen = np.sqrt(np.linalg.norm(np.mean([W.T @ W for W in drawn], axis=0) - 1 / 8, 2))
    assert schedule.zeta(8) == pytest.approx(seen, rel=0.01)


@pytest.mark.parametrize(("topology", "m"), [("ring", 2000), ("hypercube", 1024), ("complete", 5000)])
def test_lazy_keeps_structure(topology, m):
    words = ["task=quadratic", f"workers={m}", "algo=dpsgd", f"topology={topology}"]
    plain, lazy = (compose_config([*words, *more]).strategy.schedule for more in ((), ("algo.lazy=true",)))
    assert plain is not None and lazy is not None
    W, half = plain.at(m, 0), lazy.at(m, 0)
    assert half.nonzeros <= W.nonzeros + m and half.modes is not None and "_dense" not in vars(half)
    np.testing.assert_allclose(half.modes.values, (1 + W.modes.values) / 2, **EXACT)


STILL = ("task.sigma=0", "steps=1200", "optim.lr=0.1")


@pytest.mark.parametrize(
    "words",
    [
        ("algo=dpsgd", "algo.lazy=true", "correction=d2"),
        ("algo=dpsgd", "correction=gt"),
        ("algo=one_peer", "correction=gt"),
        ("algo=dpa", "tau=8", "algo.lazy=true", "correction=led"),
        ("algo=dpa", "tau=8", "correction=kgt"),
        ("algo=matching", "tau=4", "correction=kgt"),
        ("algo=fedavg", "tau=8", "correction=scaffold"),
        ("algo=pasgd", "tau=8", "correction=scaffold", "outer=nesterov"),
    ],
)
def test_is_exact_where_workers_differ(process_groups, words):
    p = problem((*QUADRATIC, *words, *STILL))
    best = (p.a * p.c).sum(0) / p.a.sum(0)
    off = np.abs(play(process_groups, 1, *QUADRATIC, *words, *STILL).x[:8] - best).max()
    plain = [word for word in words if not word.startswith(("correction", "outer"))]
    without = np.abs(play(process_groups, 1, *QUADRATIC, *plain, *STILL).x[:8] - best).max()
    assert off < 1e-4 and without > 1e-2


@pytest.mark.parametrize("case", ["d2", "led", "gt"])
def test_where_the_rate_drops_there_is_one_kick_of_mean_nothing(case):
    """c is in units of x, at rest eta grad f_i: at gamma eta rows go off by (1 - gamma) eta W grad f_i, and come back."""
    words = (*CASES[case][0], "tau=1", "task.sigma=0", "steps=900", "optim.lr=0.1")
    words += ("task.curvature=[" + ",".join(["[1,2]"] * 8) + "]",)
    words += ("schedule=multistep", "schedule.milestones=[400]", "schedule.gamma=0.5")
    p = problem((*QUADRATIC, *words))
    best = (p.a * p.c).sum(0) / p.a.sum(0)
    loop = make_loop(settle((*QUADRATIC, *words)), observer=Recorder())
    rows_of_steps(loop, 400)
    assert np.abs(loop.state.x.numpy() - best).max() < 1e-12
    loop.advance()
    W, g = np.array(matrices((*QUADRATIC, *words))[0]), p.a * (best - p.c)
    kick = 0.5 * 0.1 * W @ g
    assert np.abs(kick).max() > 1e-3 and np.abs(kick.mean(0)).max() < 1e-15
    np.testing.assert_allclose(loop.state.x.numpy() - best, kick, **EXACT)
    rows_of_steps(loop, 499)
    assert np.abs(loop.state.x.numpy() - best).max() < 1e-10


def test_the_correction_of_kgt_is_the_difference_of_scaffolds_controls():
    ours, _ = state_of("algo=pasgd", "tau=4", "correction=kgt")
    theirs, _ = state_of("algo=pasgd", "tau=4", "correction=scaffold")
    torch.testing.assert_close(ours.c, theirs.common - theirs.mine, rtol=0, atol=1e-12)


def test_scaffold_of_one_step_with_all_is_one_large_batch(process_groups):
    same(process_groups, ("algo=scaffold", "algo.fraction=1", "tau=1"), ("algo=fullsync",))


@pytest.mark.parametrize(("case", "vectors"), [("d2", 1), ("led", 1), ("gt", 2), ("kgt", 2), ("scaffold", 2), ("proximal", 1)])
def test_what_it_sends(process_groups, case, vectors):
    words = (*QUADRATIC, *CASES[case][0])
    plain = play(process_groups, 1, *(word for word in words if not word.startswith("correction")))
    found = play(process_groups, 4, *words)
    assert found.logical == (plain.logical[0], plain.logical[1], vectors * plain.logical[2])


@pytest.mark.parametrize(
    "words",
    [
        ("dpsgd", "algo.lazy=true", "correction=d2"),
        ("dpa", "tau=3", "algo.lazy=true", "correction=led"),
        ("dpsgd", "correction=gt"),
        ("pasgd", "tau=3", "correction=kgt"),
        ("fedavg", "tau=3", "correction=scaffold"),
        ("fedavg", "tau=3", "correction=scaffold", "outer=nesterov"),
        ("easgd", "tau=3", "correction=proximal"),
        ("pasgd", "tau=3", "correction=proximal", "outer=nesterov"),
    ],
)
def test_keeps_every_promise_of_the_contract(process_groups, words):
    check_strategy(*words, process_groups=process_groups, processes=(1, 2))


@pytest.mark.parametrize("delay", ["1", "tau"])
def test_proximal_with_a_delay_is_pulled_to_what_was_mixed(process_groups, delay):
    words = ("algo=pasgd", "tau=4", f"delay={delay}", "correction=proximal")
    for processes in (1, 4):
        a = play(process_groups, processes, *QUADRATIC, *words, "correction.mu=0.3").x
        b = play(
            process_groups, 1, *QUADRATIC, *words, "outer=momentum", "outer.lr=1", "outer.momentum=0", "correction.mu=0.3"
        ).x
        np.testing.assert_allclose(a, b, **EXACT)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("algo=dpsgd", "workers=8", "correction=d2"), "needs a W whose eigenvalues are all above -1/3"),
        (("algo=dpsgd", "workers=8", "correction=led"), "use algo.lazy=true"),
        (("algo=dpa", "correction=d2"), "got tau=10; use tau=1, or correction=led"),
        (("algo=dpsgd", "tau=[[0,1],[9,2]]", "correction=gt"), "got a period that moves; use tau=1, or correction=kgt"),
        (("algo=easgd", "correction=kgt"), "easgd has auxiliary models, which have no gradients"),
        (("algo=easgd", "correction=scaffold"), "its c is the mean over all workers, which no communication of easgd takes"),
        (
            ("algo=pasgd", "algo.lazy=true", "correction=scaffold"),
            "pasgd with algo.lazy=true does not take; use algo.lazy=false",
        ),
        (
            ("algo=pasgd", "algo.lazy=true", "correction=fednova"),
            "pasgd with algo.lazy=true does not take; use algo.lazy=false",
        ),
        (("algo=one_peer", "correction=led"), "needs one W for all rounds"),
        (("algo=dpsgd", "workers=8", "topology=exponential", "correction=d2"), "needs a symmetric W"),
        (("algo=fullsync", "correction=gt"), "correction=gt: fullsync mixes no models"),
        (("algo=pasgd", "correction=kgt", "outer=nesterov"), "correction=kgt outer=nesterov: what a worker takes"),
        (("algo=pasgd", "correction=scaffold", "delay=1"), "delay=1: correction=scaffold"),
        (("algo=pasgd", "correction=proximal", "correction.mu=-1"), "correction.mu: must be a number of at least 0"),
        (("algo=pasgd", "correction.mu=1"), "correction.mu: correction=none has none"),
        (("algo=fedavg", "algo.lazy=true"), "algo.lazy: a communication here is 2 matrices"),
        (
            ("algo=cooperative", "workers=2", "algo.W=[[0.5,0.5],[0.3,0.7]]", "correction=kgt"),
            "needs columns of W that sum to 1",
        ),
    ],
)
def test_bad_input(words, says):
    with pytest.raises(ConfigError) as error:
        compose_config(["task=quadratic", *words])
    assert says in str(error.value)


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
@pytest.mark.parametrize("words", [("algo=d2",), ("algo=led", "tau=2")], ids=" ".join)
def test_what_is_given_back_does_not_grow_in_float32(process_groups, words, processes):
    """What mixing took from all of them is nothing, but for rounding, and what there is of that adds up."""
    rest = tuple(word for word in QUADRATIC if not word.startswith("dtype"))
    exact, found = (
        play(process_groups, n, *rest, *words, "steps=400", f"dtype={d}").x for n, d in ((1, "float64"), (processes, "float32"))
    )
    assert np.abs(exact - found).max() < 1e-4, "with weights that are rounded one by one 9e-4 and 2e-4"
