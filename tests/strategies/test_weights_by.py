"""Workers that weigh by their samples, in every mean: against slow loops, on every placement; steps that differ; refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import oracle_axes
import oracle_sent
import pytest
from playing import QUADRATIC, play, settle
from public import CASE, Network
from test_correction import nesterov
from test_oracle import EXACT, problem
from test_rounding import C

from coopsgd.commands.compose import compose_config
from coopsgd.errors import ConfigError
from coopsgd.setup.parts import Parts
from coopsgd.strategies.normalised import worth

UNEVEN = (*CASE, "model=mlp", "model.hidden=[4]", "log_every=1000", "eval_every=0", "partition=quantity", "batch_size=8")


def shares(words: tuple[str, ...]) -> np.ndarray:
    """What each worker has of all samples."""
    sizes = np.array(Parts(settle(words)).task.sizes(settle(words)))
    assert np.ptp(sizes) > 20
    return sizes / sizes.sum()


def mean(w: np.ndarray, x: Any) -> np.ndarray:
    return sum(w[i] * x[i] for i in range(len(w))) / sum(w)


def fullsync(p: oracle.Problem, w: np.ndarray) -> np.ndarray:
    x = p.x0.copy()
    for k in range(p.K):
        x = x - p.eta * mean(w, [p.gradient(i, x, k) for i in range(p.m)])
    return np.array([x] * p.m)


def two_level(p: oracle.Problem, w: np.ndarray) -> np.ndarray:
    def mix(x: oracle.Models, r: int) -> oracle.Models:
        return [mean(w, x)] * 4 if r % 4 == 3 else [mean(w[:2], x[:2])] * 2 + [mean(w[2:], x[2:])] * 2

    return oracle.periodic(p, mix)


def signs(p: oracle.Problem, w: np.ndarray) -> np.ndarray:
    return oracle_axes.with_memory(p, oracle_axes.signs, w=w)


def all_at_once(p: oracle.Problem, w: np.ndarray, P: int = 2) -> np.ndarray:
    """Every tau / P steps one run of columns: the signs of D + e of each row, their weighted mean, a step along it."""
    x, z, b = [p.x0.copy() for _ in range(p.m)], p.x0.copy(), np.zeros_like(p.x0)
    e, d = [np.zeros_like(p.x0) for _ in range(p.m)], len(p.x0)
    for k in range(p.K):
        x = [x[i] - p.eta * p.gradient(i, x[i], k) for i in range(p.m)]
        if (k + 1) % (p.tau // P):
            continue
        at = (k + 1) // (p.tau // P) - 1
        part = slice(at % P * d // P, (at % P + 1) * d // P)
        sent = []
        for i in range(p.m):
            v = z[part] - x[i][part] + e[i][part]
            q = oracle_axes.signs(v)
            e[i][part] = v - q
            sent.append(q)
        delta = mean(w, sent)
        b[part] = 0.9 * b[part] + delta
        z[part] -= 0.7 * (delta + 0.9 * b[part])
        for one in x:
            one[part] = z[part]
    return np.array(x)


def half_bits(p: oracle.Problem, w: np.ndarray) -> np.ndarray:
    """Differences to the slow model rounded to bf16, their weighted mean."""
    x, z = [p.x0.copy() for _ in range(p.m)], p.x0.copy()
    for k, r in enumerate(p.rounds()):
        x = [x[i] - p.eta * p.gradient(i, x[i], k) for i in range(p.m)]
        if r >= 0:
            z = z - mean(w, [C(z - one) for one in x])
            x = [z] * p.m
    return np.array(x)


CASES = {
    "pasgd": (("algo=pasgd",), lambda p, w: oracle.periodic(p, lambda x, r: [mean(w, x)] * 4)),
    "lazy": (
        ("algo=pasgd", "algo.lazy=true"),
        lambda p, w: oracle.periodic(p, lambda x, r: [(one + mean(w, x)) / 2 for one in x]),
    ),
    "outer": (
        ("algo=diloco",),
        lambda p, w: oracle.with_outer(p, lambda x, r: [mean(w, x)] * 4, "nesterov", {"lr": 0.7, "momentum": 0.9}),
    ),
    "server": (("algo=parameter_server",), lambda p, w: oracle.periodic(p, lambda x, r: [mean(w, x[:4])] * 5, 1)),
    "groups": (("algo=two_level",), two_level),
    "gradients": (("algo=fullsync",), fullsync),
    "codec": (("algo=pasgd", "codec=sign"), signs),
    "all at once": (
        ("algo=pasgd", "tau=4", "codec=sign", "codec.per=row", "fragments=columns", "outer=nesterov"),
        all_at_once,
    ),
    "bf16": (("algo=pasgd", "codec=bf16"), half_bits),
    "averages": (("algo=powersgd",), lambda p, w: oracle_sent.powersgd(p, w=w)),
}


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("case", CASES)
def test_every_mean_is_by_samples(process_groups, case, processes):
    more, loops = CASES[case]
    words = (*UNEVEN, *more, "weights_by=samples")
    w, played = shares(words), play(process_groups, processes, *words)
    np.testing.assert_allclose(played.x, loops(Network(settle(words)), w), **EXACT)
    np.testing.assert_allclose(played.answer, mean(w, played.x[:4]), **EXACT)
    if processes == 2 and case in ("pasgd", "gradients"):
        np.testing.assert_allclose(play(process_groups, 2, *words, "fleet=shared").x, played.x, **EXACT)
    even = play(process_groups, 1, *words, "weights_by=uniform")
    assert played.logical == even.logical and np.abs(played.x - even.x).max() > 1e-4


def test_scaffolds_control_is_the_mean_by_samples(process_groups):
    """K-GT's other name where W = J, with weights: both are exact, and the server's is the same where all clients take part."""
    words = (*UNEVEN, "weights_by=samples", "correction=scaffold")
    one = play(process_groups, 1, *words, "algo=pasgd")
    served = play(process_groups, 2, *words, "algo=fedavg", "algo.fraction=1", "buffers=keep")
    np.testing.assert_allclose(served.x[:4], one.x, **EXACT)


def test_workers_of_equally_many_samples_count_alike(process_groups):
    words = (*UNEVEN, "partition=iid", "workers=3", "algo=pasgd")
    one, other = (play(process_groups, 1, *words, f"weights_by={by}") for by in ("samples", "uniform"))
    assert np.array_equal(one.x, other.x)


def nova(
    p: oracle.Problem,
    work: list[int],
    w: np.ndarray,
    inner: Any,
    step: Callable[[Any, Any], Any] = lambda z, y: y,
    own: bool = False,
) -> np.ndarray:
    """z <- z - tau_eff sum w_i (z - x_i) / |a_i|_1, a_i by the formula of the paper for momentum; K is whole rounds.

    step(z, that): the outer step towards it. own: are minibatches those of a worker's own steps, not of all iterations?
    """
    z, rho, longest = p.x0.copy(), inner[0], max(work)
    norms = [(t - rho * (1 - rho**t) / (1 - rho)) / (1 - rho) for t in work]
    for begin in range(0, p.K, longest):
        moved = []
        for i, steps in enumerate(work):
            x, v = z.copy(), np.zeros_like(z)
            first = begin // longest * steps if own else begin
            for k in range(first, first + steps):
                v = rho * v + p.gradient(i, x, k)
                x = x - p.eta * v
            moved.append((z - x) / norms[i])
        z = step(z, z - mean(w, norms) * mean(w, moved))
    return z


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_fednova_divides_by_what_steps_are_worth(process_groups, rho, processes):
    words = (*QUADRATIC, "algo=pasgd", "algo.mixing=members:Unequal", "tau=5", "buffers=reset", f"optim.momentum={rho}")
    words += ("correction=fednova", "steps=25")
    expected = nova(problem(words), [1] + [5] * 7, np.full(8, 1 / 8), (rho,))
    np.testing.assert_allclose(play(process_groups, processes, *words).x, [expected] * 8, **EXACT)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_fednova_by_samples_with_an_outer_step(process_groups, processes):
    words = (*UNEVEN, "algo=pasgd", "algo.mixing=members:Unequal", "tau=5", "buffers=reset", "optim.momentum=0.8", "steps=10")
    words += ("correction=fednova", "weights_by=samples", "outer=nesterov")
    plain = Network(settle([word for word in words if "momentum" not in word]))  # which would have a velocity of its own
    expected = nova(plain, [1] + [5] * 3, shares(words), (0.8,), nesterov(0.7, 0.9), own=True)
    np.testing.assert_allclose(play(process_groups, processes, *words).x, [expected] * 4, **EXACT)


def test_fednova_aims_at_what_all_want(process_groups):
    """f_i = (x - e_i)^2 / 2 settles where sum c_i (e_i - x) = 0, c_i = (1 - (1 - eta)^tau_i) / tau_i: nearly at the mean."""
    words = (*QUADRATIC, "algo=pasgd", "algo.mixing=members:Unequal", "tau=5", "task.sigma=0", "steps=2000", "optim.lr=0.1")
    words += ("task.curvature=[" + ",".join(["[1,1]"] * 8) + "]",)
    e = problem(words).c
    c = np.array([(1 - 0.9**t) / t for t in [1] + [5] * 7])
    found = play(process_groups, 1, *words, "correction=fednova").x[0]
    np.testing.assert_allclose(found, c @ e / c.sum(), rtol=0, atol=1e-10)
    plain = play(process_groups, 1, *words).x[0]
    assert np.abs(found - e.mean(0)).max() < 0.3 * np.abs(plain - e.mean(0)).max()


@pytest.mark.parametrize("more", [(), ("outer=momentum",), ("algo.fraction=1", "weights_by=uniform")])
def test_fednova_of_equally_many_steps_is_fedavg(process_groups, more):
    words = (*QUADRATIC, "tau=4", *more)
    nova, plain = (play(process_groups, 1, *words, f"algo={algo}").x for algo in ("fednova", "fedavg"))
    np.testing.assert_allclose(nova, plain, **EXACT)


def test_fednova_of_clients_that_pass_over_their_own_samples(process_groups):
    """Different numbers of steps, by samples and drawn at random: the same wherever rows are, and not the plain mean."""
    words = (*UNEVEN, "algo=fednova", "algo.epochs=1", "optim.momentum=0.5", "batch_size=64", "steps=60")
    one, two = (play(process_groups, processes, *words) for processes in (1, 2))
    np.testing.assert_allclose(two.x, one.x, **EXACT)
    assert np.abs(one.answer - play(process_groups, 1, *words, "algo=fedavg").answer).max() > 1e-3


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_are_worth_what_the_optimiser_makes_of_them(nesterov):
    import torch

    x = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    steps = torch.optim.SGD([x], lr=1.0, momentum=0.7, nesterov=nesterov)
    for k in range(1, 9):
        x.grad = torch.ones_like(x)
        steps.step()
        assert worth(k, 0.7, nesterov) == pytest.approx(-float(x.detach()), rel=1e-12)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("algo=dpsgd", "weights_by=samples"), "weights_by=samples: is of means over all workers"),
        (("algo=gossip_pga", "weights_by=samples"), "weights_by=samples: is of means over all workers"),
        (("algo=easgd", "weights_by=samples"), "weights_by=samples: is of means over all workers"),
        (("algo=pasgd", "weights_by=samples", "task=quadratic"), "weights_by=samples: task=quadratic has no samples"),
        (("algo=pasgd", "weights_by=samples", "correction=kgt"), "weights_by=samples correction=kgt: its corrections sum"),
        (("algo=pasgd", "weights_by=bytes"), "weights_by: must be one of uniform, samples"),
        (("algo=fedavg", "weights_by=uniform", "algo.drawn=proportional"), "weights_by=uniform algo.drawn=proportional"),
        (("algo=fedavg", "algo.weighting=uniform"), "algo.weighting: fedavg has no such key: weights_by=samples or uniform"),
        (("algo=dpsgd", "correction=fednova"), "correction=fednova: makes workers of different numbers of steps"),
        (("algo=fednova", "delay=1"), "delay=1: correction=fednova"),
    ],
)
def test_bad_input(words, says):
    with pytest.raises(ConfigError) as error:
        compose_config([*words])
    assert says in str(error.value)
