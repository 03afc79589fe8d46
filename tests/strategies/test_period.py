"""When communications are due: every rule against its formula, and with every algorithm."""

from __future__ import annotations

import math

import numpy as np
import pytest
from playing import QUADRATIC, play
from test_oracle import EXACT

from coopsgd.loop.rounds import Rounds
from coopsgd.strategies.period import QSR, AdaComm, Period, PostLocal


def ends(period: Period, steps: int, lr=lambda k: 0.1, loss=lambda k: 1.0, now=lambda k: math.nan) -> list[int]:
    """Numbers of the steps, from 1, after which a communication is due."""
    due, k = [], 0
    rounds = Rounds(period, None, 4, lambda: loss(k), lambda: now(k))
    for k in range(steps):
        rounds.begin(k, lr(k))
        if rounds.due:
            due.append(k + 1)
        rounds.end(rounds.active)
    return due


def test_constant():
    assert ends(Period(3), 10) == [3, 6, 9]


def test_a_list_is_looked_up_when_a_round_begins():
    assert ends(Period([[0, 1], [3, 4], [9, 2]]), 16) == [1, 2, 3, 7, 11, 13, 15]  # the round from 7 keeps its 4


def test_post_local_switches_at_a_step_or_when_the_rate_drops():
    assert ends(PostLocal(4, switch=3), 12) == [1, 2, 3, 7, 11]
    warm_then_drop = lambda k: min(0.1, 0.02 * (k + 1)) if k < 8 else 0.01  # noqa: E731
    assert ends(PostLocal(3, switch="auto"), 15, warm_then_drop) == [*range(1, 9), 11, 14]


def test_post_local_does_not_take_the_end_of_a_warm_up_for_a_drop(process_groups):
    # torch's warm-up multiplies its way up and ends one ulp above the rate at which it then goes on
    words = (
        *QUADRATIC,
        "algo=pasgd",
        "tau=4",
        "period=post_local",
        "schedule=step",
        "schedule.every=10",
        "steps=40",
        "log_every=1",
    )
    lines = play(process_groups, 1, *words, "schedule.warmup=10", "optim.lr=0.1").lines
    assert [line["step"] for line in lines if line["tau"] == 1][-1] == 20  # 10 of warm-up, 10 at the full rate


def test_the_quadratic_rule():
    # (0.2 / 0.1)^2 = 4, then the rate is halved: four times as long
    assert ends(QSR(2, alpha=0.2), 28, lambda k: 0.1 if k < 8 else 0.05) == [4, 8, 24]
    assert ends(QSR(3, alpha=0.0), 9) == [3, 6, 9]  # alpha 0: constant
    assert ends(QSR(2, alpha=0.2, warmup=4), 12, lambda k: 0.001 * (k + 1) if k < 4 else 0.1) == [2, 4, 8, 12]
    assert ends(QSR(2, alpha=0.2), 9, lambda k: 0.1 if k < 4 else 0.0) == [4]  # a rate of nothing: never again
    assert ends(QSR(1, alpha=0.2, power=1.0), 6) == [2, 4, 6]
    assert ends(QSR(2, alpha=0.2), 9, lambda k: 0.1 if k < 4 else 1e-200) == [4]  # whose square no number holds
    assert ends(QSR(1, alpha=0.3), 18) == [9, 18]  # 0.3 / 0.1 is 3, not a little less


def test_adacomm_follows_the_loss():
    falling = lambda k: 1.0 if k <= 8 else 0.25 if k <= 24 else 0.01  # noqa: E731
    found = ends(AdaComm(8, interval=16, gamma=1.0), 60, loss=falling)
    # F_0 = 1 from the first round; at 16 the mean is 0.25: sqrt(0.25) * 8 = 4; at 32 0.01: ceil(0.8) = 1
    assert found == [8, 16, 20, 24, 28, 32, *range(33, 61)]


def test_adacomm_at_its_limits():
    assert ends(AdaComm(6, interval=12, gamma=1.0), 30) == [6, 12, 18, 24, 30]  # constant loss and rate: constant tau
    assert ends(AdaComm(8, interval=8, gamma=0.5), 22) == [8, 12, 16, 18, 20, 22]  # the guard halves what would not fall
    dropped = ends(AdaComm(4, interval=8, gamma=0.5), 24, lambda k: 0.1 if k < 8 else 0.025)
    assert dropped == [4, 8, 16, 20, 24]  # sqrt(0.1 / 0.025) * 4 = 8 at once; then unchanged, so halved


def test_adacomm_begins_after_the_warm_up():
    rate = lambda k: 0.01 * (k + 1) if k < 10 else 0.1  # noqa: E731
    loss = lambda k: 9.0 if k < 10 else 1.0 if k < 30 else 0.25  # noqa: E731
    found = ends(AdaComm(8, interval=8, gamma=1.0, warmup=10), 60, rate, loss)
    # rounds of 8 to step 16; from there F_0 = 1 (at 24), at 32 a quarter of it: tau = 4
    assert found == [8, 16, 24, 32, *range(36, 61, 4)]


def test_adacomm_by_the_clock():
    # the first eight steps take 2 s each, later ones half a second: decisions at 16 s (step 8), 24 s (step 24), 32 s (step 40)
    clock = lambda k: 2.0 * k if k <= 8 else 16 + 0.5 * (k - 8)  # noqa: E731
    falling = lambda k: 1.0 if k < 8 else 0.25 if k < 24 else 0.01  # noqa: E731
    found = ends(AdaComm(8, interval="8s", gamma=1.0), 46, loss=falling, now=clock)
    # step 8: F_0 = F = 0.25, so tau stays 8; step 24: 0.01 / 0.25 is a twenty-fifth: ceil(8 / 5) = 2
    assert found == [8, 16, 24, *range(26, 47, 2)]
    for words, seconds in (("60s", 60.0), ("1.5 s", 1.5), (".5s", 0.5)):
        assert AdaComm(8, interval=words)._seconds == seconds


@pytest.mark.parametrize("processes", [2, 4])
def test_adacomm_by_the_clock_is_the_same_wherever_rows_are(process_groups, processes):
    words = (*QUADRATIC, "algo=pasgd", "tau=8", "period=adacomm", "cluster=custom", "cluster.step_s=1", "log_every=1")
    exponential = ("cluster.step=exponential", "cluster.latency_s=0.25", "period.interval=6s", "steps=60")
    here, spread = (play(process_groups, p, *words, *exponential) for p in (1, processes))
    np.testing.assert_allclose(spread.x, here.x, **EXACT)
    assert spread.logical == here.logical
    keys = ("tau", "sim_s", "rounds")
    assert [[line[key] for key in keys] for line in spread.lines] == [[line[key] for key in keys] for line in here.lines]
    taus = [line["tau"] for line in here.lines]
    assert taus[0] == 8 and taus[-1] < 8
    # counted in steps instead, the same number of them comes to other rounds
    assert taus != [line["tau"] for line in play(process_groups, 1, *words, *exponential, "period.interval=6").lines]


def test_adacomm_pays_for_asking(process_groups):
    words = (*QUADRATIC, "algo=pasgd", "tau=4")
    run = play(process_groups, 2, *words, "period=adacomm", "period.interval=12", "period.gamma=1")
    asked = 2  # after the first round, and at step 12
    rounds = run.logical[0]
    assert run.logical[1] == 14 * (rounds + asked)  # 2 (m - 1) messages each
    assert run.logical[2] == 14 * (rounds * 80 + asked * 8)  # ten numbers, or one


def test_adacomm_with_a_first_round_as_long_as_the_interval(process_groups):
    run = play(
        process_groups, 1, *QUADRATIC, "algo=pasgd", "tau=4", "period=adacomm", "period.interval=4", "period.gamma=1", "steps=8"
    )
    rounds = run.logical[0]
    assert run.logical[1] == 14 * (rounds + 1)  # F_0 is also the loss since: one question at step 4, where there were two


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("algo", ["pasgd", "easgd", "dpsgd", "one_peer", "fedavg", "two_level", "matcha"])
@pytest.mark.parametrize(
    "period",
    [
        ("tau=[[0,1],[5,3],[13,6]]",),
        ("tau=4", "period=post_local", "period.switch=7"),
        ("tau=2", "period=qsr", "period.alpha=0.2", "schedule=cosine"),
        ("tau=4", "period=adacomm", "period.interval=6"),
    ],
)
def test_every_period_with_every_algorithm_wherever_rows_are(process_groups, algo, period, processes):
    words = (*QUADRATIC, f"algo={algo}", *period)
    here, spread = play(process_groups, 1, *words), play(process_groups, processes, *words)
    np.testing.assert_allclose(spread.x, here.x, **EXACT)
    assert spread.logical == here.logical and here.logical[0] > 0


def test_post_local_is_synchronous_before_its_switch(process_groups):
    words = (*QUADRATIC, "algo=pasgd", "tau=6", "period=post_local", "period.switch=24")
    np.testing.assert_allclose(
        play(process_groups, 2, *words).x, play(process_groups, 1, *QUADRATIC, "algo=pasgd", "tau=1").x, **EXACT
    )


def test_the_tau_of_a_line_is_the_one_in_force(process_groups):
    words = (*QUADRATIC, "algo=pasgd", "tau=[[0,2],[4,5]]", "log_every=1")
    lines = play(process_groups, 1, *words).lines
    assert [line["tau"] for line in lines[1:10]] == [2, 2, 2, 2, 5, 5, 5, 5, 5]
    assert not math.isnan(lines[1]["train/loss"])
