"""What holds of an outer step whatever W, inner optimiser and rates are: other forms, special cases, its mean, its gains."""

from __future__ import annotations

import numpy as np
import oracle
import oracle_rules
import pytest
import torch
from playing import MLP, QUADRATIC, play, settle
from test_oracle import EXACT, problem

from coopsgd.errors import RunFailed
from coopsgd.strategies.outer import Momentum, Nesterov
from coopsgd.testing.runs import Recorder, make_loop

INNERS = {
    "momentum": ("optim.momentum=0.8", "optim.nesterov=true", "optim.weight_decay=0.01", "schedule=cosine"),
    "adam": ("optim=adam", "optim.lr=0.02"),
    "averaged adam": ("optim=adamw", "optim.lr=0.02", "buffers=average"),
    "torch": ("optim=torch", "optim.cls=RMSprop", "optim.lr=0.02", "buffers=reset"),
    "clipped": ("clip=0.05",),
}
NEUTRAL = ("outer.lr=1", "outer.momentum=0")


def same(one: tuple[str, ...], other: tuple[str, ...], *both: str, rows: int | None = None) -> None:
    a, b = (play(None, 1, *QUADRATIC, *words, *both) for words in (one, other))
    np.testing.assert_allclose(a.x[:rows], b.x[:rows], **EXACT)


@pytest.mark.parametrize("when", ["delay=0", "delay=1", "delay=tau"])
@pytest.mark.parametrize("algo", ["pasgd", "dpsgd", "easgd", "one_peer", "hierarchical", "matching"])
def test_all_axes_at_their_neutral_values_are_the_algorithm(algo, when):
    neutral = ("outer=nesterov", *NEUTRAL, "codec=identity", "correction=proximal", "correction.mu=0", "merge=kept")
    same((f"algo={algo}", *neutral), (f"algo={algo}",), "tau=3", when)


@pytest.mark.parametrize("inner", INNERS)
def test_diloco_without_its_rates_is_periodic_averaging_for_any_inner_optimiser(inner):
    same(("algo=diloco", *NEUTRAL), ("algo=pasgd",), "tau=3", *INNERS[inner])


def test_and_for_muon():
    words = (*MLP, "workers=2", "steps=5", "batch_size=4", "tau=2", "optim=muon", "optim.lr=0.01")
    a, b = (play(None, 1, *words, *more).x for more in (("algo=diloco", *NEUTRAL), ("algo=pasgd",)))
    np.testing.assert_allclose(a, b, **EXACT)


@pytest.mark.parametrize(
    ("words", "synchronous"),
    [
        (("algo=diloco", *NEUTRAL), ()),
        (("algo=slowmo", "outer.momentum=0"), ()),
        (("algo=slowmo", "outer.momentum=0.7"), ("optim.momentum=0.7",)),
        (("algo=diloco", "outer.lr=1", "outer.momentum=0.7"), ("optim.momentum=0.7", "optim.nesterov=true")),
    ],
)
def test_rounds_of_one_step_are_those_of_one_large_batch(words, synchronous):
    """The outer momentum is that of the step: over the rate (slowmo), or at a rate that stays."""
    more = ("schedule=multistep", "schedule.milestones=[7,15]", "schedule.gamma=0.5") if "slowmo" in words[0] else ()
    same((*words, "tau=1", *more), ("algo=fullsync", *synchronous, *more))


@pytest.mark.parametrize("momentum", [0.0, 0.75])
def test_slow_momentum_at_a_rate_that_stays_is_block_momentum(momentum):
    same(("algo=slowmo", f"outer.momentum={momentum}"), ("algo=bmuf", f"outer.momentum={momentum}"), "tau=4")


def test_slow_momentum_is_over_the_rate_of_the_last_step_of_a_round():
    """u <- beta u + (z - mean) / gamma, z <- z - gamma u; gamma falls in the middle of a round, and after its last step."""
    rates = [0.1] * 6 + [0.05] * 6 + [0.025] * 12
    words = (*QUADRATIC, "algo=slowmo", "tau=4", "schedule=multistep", "schedule.milestones=[6,12]", "schedule.gamma=0.5")
    p = problem(words)
    z, u, x = p.x0.copy(), np.zeros_like(p.x0), [p.x0.copy()] * 8
    for k in range(p.K):
        x = [x[i] - rates[k] * p.gradient(i, x[i], k) for i in range(8)]
        if k % 4 == 3:
            u = 0.5 * u + (z - sum(x) / 8) / rates[k]
            z = z - rates[k] * u
            x = [z] * 8
    np.testing.assert_allclose(play(None, 1, *words).x, x, **EXACT)
    assert np.abs(play(None, 1, *words, "outer.scale=none").x - x).max() > 1e-3


def test_a_rate_of_nothing_divides_nothing():
    z = torch.ones(1, 3, dtype=torch.float64)
    outer = Momentum(scale="lr")
    with pytest.raises(RunFailed, match=r"outer\.scale=lr: the learning rate .* is 0.*use outer\.scale=none"):
        outer.step(z, z / 2, outer.begin(z), 0.0)


def test_a_server_with_momentum_that_hears_all_is_averaging_with_outer_momentum():
    same(("algo=fedavgm", "algo.fraction=1", "buffers=keep"), ("algo=pasgd", "outer=momentum"), "tau=4", rows=8)


def test_adagrads_server_that_adapts_to_nothing_is_an_average():
    """eps beyond all displacements: sqrt(v) + eps stays 2 eps."""
    words = (*QUADRATIC, "tau=4", "algo.fraction=0.5")
    plain = play(None, 1, *words, "algo=fedavg").x
    adaptive = play(None, 1, *words, "algo=fedadagrad", "outer.eps=1e6", "outer.lr=2e6").x
    np.testing.assert_allclose(adaptive, plain, rtol=0, atol=1e-10)


@pytest.mark.parametrize("when", ["delay=0", "delay=1", "delay=tau"])
@pytest.mark.parametrize("outer", ["momentum", "nesterov", "yogi"])
def test_gossip_in_which_everyone_hears_all_steps_as_an_average(outer, when):
    gossip, mean = ("algo=dpsgd", "topology=complete"), ("algo=pasgd",)
    same(gossip, mean, f"outer={outer}", "tau=3", when)


def test_noloco_without_its_rates_is_gossip_of_the_same_pairs():
    same(("algo=noloco", *NEUTRAL), ("algo=matching", "topology=complete"), "tau=3")


@pytest.mark.parametrize("m", [5, 8])
def test_noloco_sends_one_vector_a_worker_and_of_an_odd_number_one_sits_out(m):
    words = (*QUADRATIC, "algo=noloco", f"workers={m}", "tau=4", "task.dim=6")
    rounds, messages, sent = play(None, 1, *words).logical
    assert (rounds, messages, sent) == (6, 6 * (m - m % 2), 6 * (m - m % 2) * 6 * 8)


@pytest.mark.parametrize("outer", ["momentum", "nesterov"])
def test_who_mixes_with_nobody_looks_ahead_alone(outer):
    """W = I: m lone Lookaheads, whose outer step is towards what their own steps came to; and one worker is one."""
    words = (*QUADRATIC, "algo=independent", "tau=3", f"outer={outer}", "outer.lr=0.6", "outer.momentum=0.5")
    p, o, x = problem(words), {"lr": 0.6, "momentum": 0.5}, []
    for i in range(8):
        one, z, kept = p.x0.copy(), p.x0.copy(), []
        for k in range(p.K):
            one = one - p.eta * p.gradient(i, one, k)
            if k % 3 == 2:
                one = z = oracle.outer_step(outer, z, one, kept, o, p.eta)
        x.append(one)
    played = play(None, 1, *words)
    np.testing.assert_allclose(played.x, x, **EXACT)
    assert played.logical[1:] == (0, 0)
    alone = (*words[2:], "workers=1", "task=quadratic", "dtype=float64")
    a, b = play(None, 1, *alone), play(None, 1, *(word.replace("independent", "pasgd") for word in alone))
    np.testing.assert_allclose(a.x, b.x, **EXACT)
    assert b.logical[1:] == (0, 0)


MEAN = [("dpsgd", inner) for inner in INNERS] + [
    ("noloco", "momentum"),
    ("one_peer", "adam"),
    ("easgd", "clipped"),
    ("gea", "torch"),
]


@pytest.mark.parametrize("outer", ["momentum", "nesterov"])
@pytest.mark.parametrize(("algo", "inner"), MEAN)
def test_the_mean_steps_as_torch_does_on_the_mean_displacement(algo, outer, inner):
    """Whatever doubly stochastic W mixes, in the run itself; what is clipped is a gradient, never a displacement."""
    words = (*QUADRATIC, f"algo={algo}", "tau=2", f"outer={outer}", "outer.lr=0.7", "outer.momentum=0.6", *INNERS[inner])
    loop = make_loop(settle(words), observer=Recorder())
    z = torch.nn.Parameter(loop.state.x.mean(0))
    theirs = torch.optim.SGD([z], lr=0.7, momentum=0.6, nesterov=outer == "nesterov")
    for k in range(12):
        loop.advance()
        if k % 2:
            z.grad = z.data - loop.observer.before[-1][2].mean(0)
            theirs.step()
            torch.testing.assert_close(loop.state.x.mean(0), z.data, rtol=0, atol=1e-12)


GAINS = {(0.7, 0.9): (1.33, 7.0), (0.9, 0.8): (1.62, 4.5), (0.7, 0.6): (1.12, 1.75), (0.3, 0.9): (0.57, 3.0)}


@pytest.mark.parametrize(("lr", "momentum"), GAINS)
def test_one_displacement_counts_as_often_as_is_said(lr, momentum):
    own, total = GAINS[lr, momentum]
    for outer, first in ((Nesterov(lr=lr, momentum=momentum), own), (Momentum(lr=lr, momentum=momentum), lr)):
        assert outer.gains == (pytest.approx(first, abs=1e-12), pytest.approx(total, abs=1e-12))
        z = torch.zeros(1, 1, dtype=torch.float64)
        memory, walked = outer.begin(z), []
        for displacement in (1.0, *[0.0] * 400):
            outer.step(z, z - displacement, memory, 0.1)
            walked.append(-float(z))
        assert walked[0] == pytest.approx(first, abs=1e-12) and walked[-1] == pytest.approx(total, abs=1e-9)


def test_nesterov_has_three_other_forms():
    """Of the same displacements D: y = z - lr D, z <- y + mu (y - y before); with lr inside u; heavy ball at z + lr mu b."""
    lr, mu, ours = 0.7, 0.6, Nesterov(lr=0.7, momentum=0.6)
    z = torch.randn(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    memory, start = ours.begin(z), z.clone()
    one, before, inside, u, ball, b = start, start, start, 0 * start, start, 0 * start
    for k in range(8):
        D = torch.randn(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(k + 1))
        ours.step(z, z - D, memory, 0.1)
        y = one - lr * D
        one, before = y + mu * (y - before), y
        u = mu * u + lr * D
        inside = inside - mu * u - lr * D
        b = mu * b + D
        ball = ball - lr * b
        for other in (one, inside, ball - lr * mu * memory[0]):
            torch.testing.assert_close(z, other, rtol=0, atol=1e-12)


def test_gossip_right_before_an_average_may_be_left_out():
    """J W = J: loops that gossip in each step and then, every fourth, average too, are the algorithm that averages alone."""
    words = (*QUADRATIC, "algo=gossip_pga", "algo.every=4", "tau=1")
    p = problem(words)
    both = oracle.periodic(p, lambda x, r: [oracle.mean(oracle.thirds(x))] * 8 if r % 4 == 3 else oracle.thirds(x))
    np.testing.assert_allclose(play(None, 1, *words).x, both, **EXACT)


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_gasloc_without_momentum_mixes_the_slow_model_too(eta):
    """z <- W ((1 - eta) z + eta x), where an outer step of that rate leaves (1 - eta) z with its worker."""
    words = (*QUADRATIC, "algo=gasloc", f"algo.eta={eta}", "algo.gamma=0", "tau=3")
    expected = oracle_rules.gasloc(problem(words), eta, 0.0)
    np.testing.assert_allclose(play(None, 1, *words).x, expected, **EXACT)
    outer = play(None, 1, *QUADRATIC, "algo=dpa", "outer=momentum", f"outer.lr={eta}", "outer.momentum=0", "tau=3").x
    assert (np.abs(outer - expected).max() < 1e-12) == (eta == 1)
