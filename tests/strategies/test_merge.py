"""What an answer does to a local model that went on meanwhile: against slow loops on every placement, at its ends, refusals."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from playing import QUADRATIC, play
from test_oracle import EXACT, problem
from test_outer import matrices, words_of

from coopsgd.commands.compose import compose_config
from coopsgd.errors import ConfigError
from coopsgd.testing import check_strategy


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("merge", [0, 0.3, 1])
@pytest.mark.parametrize("delay", ["0", "2", "tau"])
@pytest.mark.parametrize("algo", ["pasgd", "dpsgd", "easgd", "one_peer"])
def test_is_what_slow_loops_make_of_it(process_groups, algo, delay, merge, processes):
    words = (*QUADRATIC, f"algo={algo}", "tau=4", f"delay={delay}", f"merge={merge}", *words_of("nesterov"))
    Ws = matrices(words, 6)
    o = {"lr": 0.6, "momentum": 0.8}
    mix = lambda x, r: oracle.product(Ws[r % len(Ws)], x)  # noqa: E731
    expected = oracle.with_outer(problem(words), mix, "nesterov", o, delay, len(Ws[0]) - 8, merge)
    np.testing.assert_allclose(play(process_groups, processes, *words).x, expected, **EXACT)


@pytest.mark.parametrize("algo", ["dpsgd", "easgd"])
def test_without_a_delay_half_is_the_lazy_matrix(process_groups, algo):
    words = (*QUADRATIC, f"algo={algo}", "tau=4", "merge=0.5")
    p, Ws = problem(words), matrices(words, 6)
    n = len(Ws[0])
    lazy = [(0.5 * (np.array(W) + np.eye(n))).tolist() for W in Ws]
    expected = oracle.periodic(p, lambda x, r: oracle.product(lazy[r % len(lazy)], x), n - 8)
    np.testing.assert_allclose(play(process_groups, 1, *words).x, expected, **EXACT)


@pytest.mark.parametrize("delay", ["0", "2"])
def test_the_weight_one_leaves_everyone_alone(process_groups, delay):
    words = (*QUADRATIC, "tau=4", f"delay={delay}")
    alone = play(process_groups, 1, *QUADRATIC, "algo=independent")
    assert np.array_equal(play(process_groups, 1, *words, "algo=pasgd", "merge=1").x, alone.x)


def test_the_weight_nought_without_delay_is_what_it_was(process_groups):
    words = (*QUADRATIC, "algo=dpsgd", "tau=4")
    assert np.array_equal(play(process_groups, 1, *words, "merge=0").x, play(process_groups, 1, *words).x)


@pytest.mark.parametrize("words", [("algo=dpsgd", "merge=0.3"), ("algo=pasgd", "merge=0.5", "outer=nesterov")])
def test_keeps_every_promise_of_the_contract(words):
    check_strategy(words[0][5:], "tau=3", *words[1:], processes=(1,))


@pytest.mark.parametrize("value", ["1.5", "-0.1", "true", "overwrite"])
def test_bad_input(value):
    with pytest.raises(ConfigError, match=r"merge: must be kept, or the weight of the local model, a number in \[0, 1\]"):
        compose_config(["task=quadratic", f"merge={value}"])


def test_an_algorithm_that_mixes_no_models_has_nothing_to_merge():
    with pytest.raises(ConfigError, match=r"merge=0.5: fullsync mixes no models"):
        compose_config(["task=quadratic", "algo=fullsync", "merge=0.5"])
