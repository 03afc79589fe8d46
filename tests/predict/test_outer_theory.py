"""What an outer step makes of a disagreement: against the rows of a whole system followed step by step, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from coopsgd.commands import show
from coopsgd.commands.compose import compose_config
from coopsgd.mixing.static import Elastic, Gossip
from coopsgd.mixing.varying import OnePeer
from coopsgd.predict import theory
from coopsgd.predict.setting import Setting

SCHEDULES = {"ring": (Gossip(), 5), "one_peer": (OnePeer(), 4), "easgd": (Elastic(), 3)}


def noise(Ws, m, tau, order, delay, *linear):
    return theory.outer_noise(theory.outer_share(Ws, m, *linear), m, len(Ws[0]), tau, order, delay)


def by_steps(Ws, m, tau, order, delay, lr, mu, nesterov):
    """Covariances of (X, what was sent, z, b), moved by every local step and every communication, to their stationary state."""
    n = len(Ws[0])
    one, none = np.eye(n), np.zeros((n, n))
    noise = np.zeros((4 * n, 4 * n))
    noise[range(m), range(m)] = 1
    send = np.block([[one, none, none, none], [one, none, none, none], [none, none, one, none], [none, none, none, one]])

    def due(W):
        b = np.block([none, -W, one, mu * one])  # mu b + z - W sent
        away = np.block([none, -W, one, none])
        z = np.block([none, none, one, none]) - lr * (away + mu * b if nesterov else b)
        x = z + np.block([one, -one, none, none])
        return np.vstack([x, np.block([none, one, none, none]), z, b])

    off = np.eye(n)[:m] - np.append(np.full(m, 1 / m), np.zeros(n - m))
    M = np.zeros((4 * n, 4 * n))
    M[:n, :n] = off.T @ off / m
    away = np.kron(np.eye(4), np.eye(n) - np.append(np.full(m, 1 / m), np.zeros(n - m)))  # seen from the workers' mean
    S, last = np.zeros((4 * n, 4 * n)), []
    for cycle in range(3000):
        looks = []
        for W in Ws:
            for k in range(tau):
                if k == tau - delay:
                    S = send @ S @ send.T
                S = S + noise
                if k < tau - 1 or order == "cta":
                    looks.append(float((M * S).sum()))
            if not delay:
                S = send @ S @ send.T
            step = away @ due(W)
            S = step @ S @ step.T
            if order != "cta":
                looks.append(float((M * S).sum()))
        last.append(np.mean(looks))
        if cycle > 20 and abs(last[-1] - last[-2]) < 1e-13 * last[-1]:
            return last[-1]
    raise AssertionError("it does not settle")


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize(("tau", "order", "delay"), [(1, "atc", 0), (3, "atc", 0), (3, "atc", 1), (3, "atc", 3), (2, "cta", 0)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_stationary_consensus_is_that_of_the_whole_system(name, tau, order, delay, nesterov):
    schedule, m = SCHEDULES[name]
    Ws = [np.asarray(schedule.at(m, r)) for r in range(schedule.cycle(m))]
    found = noise(Ws, m, tau, order, delay, 0.6, 0.5, nesterov)
    assert found == pytest.approx(by_steps(Ws, m, tau, order, delay, 0.6, 0.5, nesterov), rel=1e-9)


def drift_by_steps(Ws, m, tau, order, delay, lr, mu, nesterov, kept, gradients):
    """The mean of (1/m) sum ||x_i - mean||^2 over the looks of a cycle, one local step after the other until it stays."""
    n = len(Ws[0])
    h = np.vstack([gradients, np.zeros((n - m, gradients.shape[1]))])
    z, b, x, held = (np.zeros_like(h) for _ in range(4))
    last = []
    for cycle in range(4000):
        looks = []
        for W in Ws:
            for k in range(tau):
                if k == tau - delay:
                    held = x.copy()
                mean = x[:m].mean(0)
                x[:m] = mean + kept * (x[:m] - mean) - h[:m]
                if k < tau - 1 or order == "cta":
                    looks.append(x.copy())
            sent = held if delay else x.copy()
            away = z - W @ sent
            b = mu * b + away
            new = z - lr * (away + mu * b if nesterov else b)
            x, z = new + (x - sent), new
            if order != "cta":
                looks.append(x.copy())
        last.append(np.mean([((one[:m] - one[:m].mean(0)) ** 2).sum() / m for one in looks]))
        if cycle > 20 and abs(last[-1] - last[-2]) < 1e-14 * last[-1]:
            return last[-1]
    raise AssertionError("it does not settle")


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize(
    ("tau", "order", "delay", "kept"),
    [(1, "atc", 0, 1.0), (3, "atc", 0, 0.9), (3, "atc", 1, 0.8), (3, "atc", 3, 1.0), (2, "cta", 0, 0.9)],
)
@pytest.mark.parametrize("name", SCHEDULES)
def test_how_far_gradients_that_differ_drive_workers_apart(name, tau, order, delay, kept, nesterov):
    """H is a mean over all ways of differing: of the h_i = every column of an orthogonal basis of what sums to zero."""
    schedule, m = SCHEDULES[name]
    Ws = [np.asarray(schedule.at(m, r)) for r in range(schedule.cycle(m))]
    basis = np.linalg.qr(np.column_stack([np.ones(m), np.eye(m)[:, 1:]]))[0][:, 1:]  # (m, m - 1), kappa2 = (m - 1) / m
    expected = drift_by_steps(Ws, m, tau, order, delay, 0.6, 0.5, nesterov, kept, basis) * m / (m - 1)
    assert theory.outer_drift(Ws, m, tau, order, delay, 0.6, 0.5, nesterov, kept) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kept", [1.0, 0.8])
@pytest.mark.parametrize("delay", [0, 1, 3])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_neutral_step_drifts_as_W_alone(name, delay, kept):
    schedule, m = SCHEDULES[name]
    Ws = [np.asarray(schedule.at(m, r)) for r in range(schedule.cycle(m))]
    assert theory.outer_drift(Ws, m, 3, "atc", delay, 1.0, 0.0, True, kept) == pytest.approx(
        theory.drift_consensus(Ws, m, 3, "atc", delay, kept), rel=1e-10
    )


@pytest.mark.parametrize("delay", [0, 1, 3])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_neutral_step_leaves_what_W_leaves(name, delay):
    schedule, m = SCHEDULES[name]
    Ws = [np.asarray(schedule.at(m, r)) for r in range(schedule.cycle(m))]
    assert noise(Ws, m, 3, "atc", delay, 1.0, 0.0, False) == pytest.approx(
        theory.noise_consensus(Ws, m, 3, "atc", delay), rel=1e-10
    )
    assert theory.cycle_radius(Ws, 1.0, 0.0, True) == pytest.approx(schedule.zeta(m), abs=1e-7)


def test_published_rates_on_the_ring_of_six():
    W = np.asarray(Gossip().at(6, 0))
    values = np.linalg.eigvalsh(W)[:-1]
    for momentum, expected in ((0.6, 0.678), (0.9, 0.831)):  # Nesterov at lr 0.7
        assert theory.mode_radius(values, 0.7, momentum, True) == pytest.approx(expected, abs=5e-4)
        assert theory.cycle_radius([W], 0.7, momentum, True) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("momentum", [0.5, 0.6, 0.9])
def test_pairs_lose_their_last_disagreement_to_the_outer_step_alone(momentum):
    """lambda = 0: Nesterov leaves sqrt(mu (1 - lr)), heavy ball sqrt(mu), which is why NoLoCo's momentum is low."""
    for nesterov, left in ((True, (momentum * 0.3) ** 0.5), (False, momentum**0.5)):
        found = theory.mode_radius(np.array([0.0]), 0.7, momentum, nesterov)
        assert found == pytest.approx(left, rel=1e-12)
        assert theory.cycle_radius([np.full((2, 2), 0.5)], 0.7, momentum, nesterov) == pytest.approx(left, rel=1e-9)


@pytest.mark.parametrize("lr", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("momentum", [0.3, 0.9])
def test_heavy_ball_leaves_at_least_the_root_of_its_momentum(lr, momentum):
    for values in np.random.default_rng(0).uniform(-0.9, 0.99, (20, 5)):
        assert theory.mode_radius(values, lr, momentum, False) >= np.sqrt(momentum) - 1e-12


def test_show_and_analyze_tell_it(capsys):
    parts = compose_config(["task=quadratic", "algo=dpsgd", "workers=6", "outer=momentum", "outer.momentum=0.81"]).parts
    found = show.facts(parts, ())
    assert found["axes"]["outer"]["momentum"] == 0.81
    assert found["outer"]["gains"] == {"own": 1.0, "total": pytest.approx(1 / 0.19)}
    assert found["outer"]["zeta"] >= found["outer"]["floor"] == pytest.approx(0.9)
    show.show(found)
    assert "sqrt(momentum) = 0.9" in capsys.readouterr().out
    assert Setting(parts).noise is not None and Setting(parts).bound(100) is None


@pytest.mark.parametrize("words", [("algo=dpsgd", "outer=adam"), ("algo=fedavg", "outer=momentum")])
def test_what_is_not_known_is_not_told(words):
    setting = Setting(compose_config(["task=quadratic", *words]).parts)
    assert setting.outer_zeta is None and setting.noise is None
