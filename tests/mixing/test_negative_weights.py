"""Negative weights are known from whoever makes the matrices, all of the schedule; a rounding error is none."""

from __future__ import annotations

from dataclasses import dataclass

import arrays
import numpy as np
import pytest
import torch

from coopsgd.commands import compose
from coopsgd.errors import ConfigError
from coopsgd.mixing.base import ROUNDING, Mixing
from coopsgd.mixing.graphs import Ring
from coopsgd.mixing.matcha import Matcha
from coopsgd.mixing.written import Written

CHAINS = (4, 5, 6, 8, 10, 12)
SOUND = [
    *((f"algo=dpsgd topology=chain algo.weights={w} workers={m}") for m in CHAINS for w in ("best_constant", "fdla")),
    *((f"algo=dpsgd topology=grid algo.weights=best_constant workers={m}") for m in (6, 8)),
    *(f"algo=hierarchical algo.groups=2 workers=2 algo.root={root}" for root in ("true", "false")),
]


@pytest.mark.parametrize("words", SOUND)
def test_a_weight_of_zero_is_zero(words):
    """1 - 1/2 - 1/2 is 0, whatever rounding made of the halves."""
    strategy = compose.compose_config([*words.split(), "task=quadratic"]).strategy
    m = int(words.split("workers=")[1].split()[0])
    (W,) = arrays.factors(strategy.schedule, m, 0)
    assert W.min() == 0 and not np.signbit(W).any(), W.min()
    assert strategy.schedule.negative(m) is None
    np.testing.assert_allclose(W.sum(1), 1, rtol=0, atol=1e-15)


def test_makers_give_the_exact_half():
    words = ["algo=dpsgd", "topology=chain", "algo.weights=best_constant", "task=quadratic"]
    (W,) = arrays.factors(compose.compose_config(words).strategy.schedule, 4, 0)
    np.testing.assert_array_equal(W, [[0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [0, 0, 0.5, 0.5]])


def test_rounding_is_cleaned_off_whatever_made_it():
    """A list, a function, a mixing of one's own: entries within rounding of zero are zero, others stay to the bit."""
    tiny = np.array([[0.75, 0.25 + 2e-16, -2.2e-16], [0.25, 0.5, 0.25], [0.0, 0.25, 0.75]])

    @dataclass(frozen=True)
    class Own(Mixing):
        def matrices(self, m, r):
            return (self.once("shared", tiny.copy),)

    for mixing in (Written(W=tiny.tolist()), Own()):
        (W,) = arrays.factors(mixing, 3, 0)
        assert W[0, 2] == 0 and mixing.negative(3) is None and not W.flags.writeable
        assert W[1, 0] == 0.25
    kept = Written(W=[[1 + 1e-9, -1e-9], [0.5, 0.5]])
    assert arrays.factors(kept, 2, 0)[0][0, 1] == pytest.approx(-1e-9) and "W[0, 1]" in kept.negative(2)
    assert ROUNDING < 1e-9


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "extra", [("optim=adam", "buffers=average"), ("model=resnet20", "model.norm=batch", "norm_stats=average")]
)
def test_matcha_knows_its_worst_case(seed, extra):
    """Half of these seeds draw their first negative weight only after dozens of communications."""
    words = ("algo=matcha", "workers=8", "algo.budget=0.2", f"seed={seed}", "device=cpu", *extra)
    with pytest.raises(ConfigError, match=r"negative weight \(W\[\d+, \d+\] = -"):
        compose.compose_config(words)


def test_matchas_worst_case_is_reached_and_not_passed():
    """Over all subsets of matchings that can be drawn, the smallest diagonal entry is the one that is told."""
    for seed, budget in ((0, 0.3), (1, 0.6), (2, 1.0)):
        words = ["topology=erdos_renyi", "algo=matcha", "workers=7", f"seed={seed}", "task=quadratic"]
        topology = compose.compose_config(words).strategy.mixing.topology
        mixing = Matcha(budget=budget, seed=seed, topology=topology)
        L, p, alpha = mixing._design(7)
        drawable, sure = np.flatnonzero(p > 0), p >= 1
        found = []
        for bits in range(1 << len(drawable)):
            drawn = np.zeros(len(p))
            drawn[drawable] = [(bits >> i) & 1 for i in range(len(drawable))]
            if (drawn >= sure).all():
                found.append((np.eye(7) - alpha * L.laplacian(drawn)).min())
        message = mixing.negative(7)
        assert (message is None) == (min(found) >= -ROUNDING)
        if message is not None:
            assert float(message.split("= ")[1].rstrip(")")) == pytest.approx(min(found), rel=1e-2)


@pytest.mark.parametrize("algo", ["matching", "pairwise", "fedavg", "one_peer", "two_level"])
def test_schedules_that_never_hold_one(algo):
    strategy = compose.compose_config([f"algo={algo}", "workers=6", "data=digits"]).strategy
    assert strategy.schedule.negative(6) is None
    assert min(W.min() for r in range(200) for W in arrays.factors(strategy.schedule, 6, r)) >= 0


def test_a_list_is_looked_at_to_its_end():
    good, bad = [[0.5, 0.5], [0.5, 0.5]], [[1.5, -0.5], [-0.5, 1.5]]
    assert "-0.5" in Written(W=[good] * 40 + [bad]).negative(2)
    with pytest.raises(ConfigError, match="norm_stats=average: this W has a negative weight"):
        compose.compose_config(
            [
                "algo=cooperative",
                "workers=2",
                f"algo.W={[good] * 40 + [bad]}".replace(" ", ""),
                "model=resnet20",
                "model.norm=batch",
            ]
        )


def test_a_function_is_looked_at_as_far_as_it_is_checked():
    assert "-0.5" in Written(W="members:negative_at_900").negative(2)


def test_a_function_that_turns_negative_later_ends_the_run(cli):
    """Beyond what was looked at, the run says which communication it was, before a variance is spoiled."""
    words = ("algo=cooperative", "workers=2", "algo.W=members:negative_at_1100", "tau=1", "optim=adam", "buffers=average")
    ended = cli("train", *words, "steps=1200", "task=quadratic", "processes=1", "eval_every=0", "log_every=1000")
    assert ended.code == 1 and "communication 1100" in ended.err and "negative weight" in ended.err, ended.err
    assert "Traceback" not in ended.err
    assert cli("train", *words[:-1], "steps=1200", "task=quadratic", "processes=1", "eval_every=0", "log_every=1000").code == 0


def test_the_whole_cycle_of_a_mixing_of_ones_own():
    @dataclass(frozen=True)
    class Own(Mixing):
        def matrices(self, m, r):
            return (np.array([[1.5, -0.5], [-0.5, 1.5]]) if r == 29 else np.full((2, 2), 0.5),)

        def cycle(self, m):
            return 30

    assert "-0.5" in Own().negative(2)


def test_mean_squares_stay_mean_squares():
    """What Adam keeps under a square root is not negative after weights that are not, however the sums were rounded."""
    from playing import play

    played = play(None, 1, "task=quadratic", "algo=dpsgd", "workers=8", "optim=adam", "buffers=average", "steps=40", "tau=1")
    assert np.isfinite(played.x).all() and torch.isfinite(torch.from_numpy(played.answer)).all()


@pytest.mark.parametrize(("alpha", "plain", "lazy"), [(0.4, None, None), (0.6, "-0.2", None), (1.2, "-1.4", "-0.2")])
def test_of_lazy_matcha_it_is_half_of_W_that_counts(alpha, plain, lazy):
    """On a ring a worker may be in two matchings: 1 - 2 alpha stay, of (I + W) / 2 1 - alpha."""
    for is_lazy, weight in ((False, plain), (True, lazy)):
        mixing = Matcha(topology=Ring(), alpha=alpha, lazy=is_lazy, allow_disconnected=True)
        found = mixing.negative(8)
        assert found is None if weight is None else f"= {weight})" in found
