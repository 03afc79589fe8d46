"""What is mixed is what the models were `delay` local steps ago: against loops by hand, closed forms, the edge of stability."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from playing import QUADRATIC, play, settle, written
from test_oracle import problem

from coopsgd.commands import analyze, compose, show
from coopsgd.errors import ConfigError
from coopsgd.mixing import spectra
from coopsgd.predict.theory.delay import contraction, largest_step
from coopsgd.predict.theory.moments import noise_consensus
from coopsgd.setup.parts import Parts
from coopsgd.testing.runs import Recorder, make_loop

TAU, M = 3, 8
RING = (np.eye(M) + np.roll(np.eye(M), 1, 0) + np.roll(np.eye(M), -1, 0)) / 3
MEAN = np.full((M, M), 1 / M)
ELASTIC = np.eye(M + 1) - 0.15 * np.diag([1] * M + [M])
ELASTIC[:M, M] = ELASTIC[M, :M] = 0.15
WS = {"ring": (RING, 0), "mean": (MEAN, 0), "elastic": (ELASTIC, 1), "raw": (oracle.raw_matrix(M, 2), 2)}


CURVED = (written(np.ones((M, 4))).replace("algo.W", "task.curvature"), "task.dim=4")  # every worker alike, but for its centre


def words(W: np.ndarray, v: int, *more: str) -> tuple[str, ...]:
    return (*QUADRATIC, "algo=cooperative", f"algo.v={v}", written(W), f"tau={TAU}", *more)


@pytest.mark.parametrize("kind", WS)
@pytest.mark.parametrize("delay", [0, 1, 2, "tau"])
def test_a_run_is_what_loops_over_workers_make_of_it(process_groups, kind, delay):
    W, v = WS[kind]
    given = words(W, v, f"delay={delay}")
    expected = oracle.delayed(problem(given), W.tolist(), delay, v)
    runs = [play(process_groups, p, *given) for p in (1, 2)]
    for run in runs:
        np.testing.assert_allclose(run.x, expected, rtol=0, atol=1e-12)
        assert run.logical == runs[0].logical
    if delay:
        assert np.abs(expected - oracle.delayed(problem(given), W.tolist(), 0, v)).max() > 1e-3


@pytest.mark.parametrize("delay", [0, 1, 2, "tau"])
def test_the_mean_of_models_follows_the_mean_of_their_steps_whatever_the_delay(process_groups, delay):
    """Of workers of one curvature the mean gradient is that of the mean model, so the mean is that of no delay."""
    runs = [play(process_groups, 1, *words(RING, 0, f"delay={d}", *CURVED)).x for d in (0, delay)]
    np.testing.assert_allclose(runs[1].mean(0), runs[0].mean(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("delay", range(5))
@pytest.mark.parametrize("W", [RING, MEAN], ids=["ring", "mean"])
def test_stationary_consensus_has_a_closed_form(W, delay):
    tau = 4
    modes = np.sort(np.linalg.eigvalsh(W))[:-1]  # all but consensus
    after = (((tau - delay) * modes**2 + delay) / (1 - modes**2)).sum() / M  # just after a communication
    since = (tau - 1) / 2 * (M - 1) / M  # steps taken since, on average over a round
    assert noise_consensus([W], M, tau, delay=delay) == pytest.approx(after + since, rel=1e-9)


def flat(dim: int) -> tuple[str, ...]:
    """Without curvature: gradients are noise alone, or nothing."""
    return (written(np.zeros((M, dim))).replace("algo.W", "task.curvature"), f"task.dim={dim}", "task.heterogeneity=0")


@pytest.mark.parametrize("kind", ["ring", "elastic"])
@pytest.mark.parametrize("delay", [0, 1, 2, "tau"])
def test_zeta_is_that_of_no_delay(kind, delay):
    """Without gradients a round multiplies the disagreement by zeta in the end, whatever was mixed how late."""
    W, v = WS[kind]
    config = settle(words(W, v, f"delay={delay}", *flat(3), "task.sigma=0", f"steps={40 * TAU}"))
    loop = make_loop(config, observer=Recorder())
    loop.state.x.copy_(torch.from_numpy(np.random.default_rng(3).standard_normal((M + v, 3))))
    limit = np.linalg.matrix_power(W, 2000)  # what all agree on in the end
    norms, agreed = [], torch.from_numpy(limit) @ loop.state.x
    for k in range(config.steps):
        loop.advance()
        if (k + 1) % TAU == 0:
            norms.append(float((loop.state.x - agreed).norm()))
    zeta = np.sort(np.abs(np.linalg.eigvals(W)))[-2]
    measured = (norms[35] / norms[19]) ** (1 / 16)
    assert measured == pytest.approx(zeta, rel=1e-3)
    message = analyze.facts(Parts(config), ())
    assert message["zeta"] == pytest.approx(spectra.zeta(W), rel=1e-12) and message["delay"] == delay


@pytest.mark.parametrize("kind", ["ring", "elastic"])
@pytest.mark.parametrize("delay", [1, "tau"])
def test_consensus_under_noise_alone_is_what_analyze_tells(kind, delay):
    """Simulated: the mean over 240 rounds of 1000 coordinates, each a copy. Its standard error is below 0.5 %."""
    W, v = WS[kind]
    lr, burn, rounds, dim = 0.3, 40, 240, 1000
    config = settle(
        words(W, v, f"delay={delay}", *flat(dim), "task.sigma=1", f"optim.lr={lr}", f"steps={(burn + rounds) * TAU}", "seed=7")
    )
    loop, found = make_loop(config, observer=Recorder()), []
    for _ in range(config.steps):
        loop.advance()
        models = loop.state.x[:M]
        found.append(float(((models - models.mean(0)) ** 2).sum(1).mean()))
    measured = np.mean(found[burn * TAU :])
    message = analyze.facts(Parts(config), ())["consensus"]["noise"]
    assert measured == pytest.approx(message, rel=0.02)
    windows = np.reshape(found[burn * TAU :], (12, -1)).mean(1)  # of 20 rounds each: their spread tells the error
    assert windows.std() / np.sqrt(11) < 0.005 * message


EDGE = -0.8 * (np.eye(M) - MEAN) + MEAN  # every mode but consensus at -0.8


@pytest.mark.parametrize("delay", [1, 3])
@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_it_contracts_just_below_the_largest_step_and_diverges_just_above(process_groups, delay, factor):
    """Without noise what a round adds to the disagreement shrinks, or grows, by the factor of theory from round to round."""
    most = largest_step(np.array([-0.8]), TAU, delay)
    assert most < 1.7  # without a delay it would be 2: that of gradient descent
    lr = most * factor

    def apart(rounds: int) -> np.ndarray:
        more = (*CURVED, "task.sigma=0", f"steps={rounds * TAU}", f"optim.lr={lr}", f"delay={delay}")
        x = play(process_groups, 1, *words(EDGE, 0, *more)).x
        return x - x.mean(0)

    early, late = (np.linalg.norm(apart(r + 1) - apart(r)) for r in (8, 16))
    assert (late > early) == (factor > 1)
    assert (late / early) ** (1 / 8) == pytest.approx(contraction(np.array([-0.8]), lr, TAU, delay), rel=1e-6)


PAIRED = (np.roll(np.eye(M), 1, 0) + np.roll(np.eye(M), -1, 0)) / 2  # neighbours alone: eigenvalue -1 on a ring of even length


@pytest.mark.parametrize(("W", "most"), [(PAIRED, 0.0), (RING, 2 / 3)], ids=["no weight of its own", "thirds"])
def test_a_ring_of_even_length_needs_weights_of_its_own(W, most, capsys):
    """tau = delay = 1: lambda = -1 grows at any rate; thirds, -1/3, contract below lr L = 2/3. analyze and show tell it."""
    more = ("delay=1", "tau=1", *CURVED, "task.sigma=0", "algo.allow_disconnected=true")
    given = tuple(word for word in words(W, 0, *more) if word != f"tau={TAU}")
    for lr in (0.3, 0.6, 0.7):
        loop, sizes = make_loop(settle((*given, f"optim.lr={lr}", "steps=50")), observer=Recorder()), []
        for _ in range(50):
            before = loop.state.x - loop.state.x.mean(0)
            loop.advance()
            sizes.append(float((loop.state.x - loop.state.x.mean(0) - before).norm()))
        factor = contraction(np.linalg.eigvalsh(W)[:-1], lr, 1, 1)
        assert (factor > 1) == (lr > most) == (sizes[-1] > sizes[-2])
        assert sizes[-1] / sizes[-2] == pytest.approx(factor, rel=1e-2)
    parts = Parts(settle((*given, "optim.lr=0.3")))
    assert largest_step(np.linalg.eigvalsh(W)[:-1], 1, 1) == pytest.approx(most, abs=1e-9)
    told = analyze.facts(parts, ())
    assert told["largest_delayed_lr_L"] == pytest.approx(most, abs=1e-9) == told["largest_delayed_lr"]
    for verb, found in ((analyze, told), (show, show.facts(parts, ()))):
        verb.show(found)
        assert f"with delay=1 workers on quadratics of curvature L agree below lr L = {most:.4g}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more", [("outer=nesterov",), ("optim.momentum=0.9",), ("merge=0",), ("correction=proximal",), ("delay=0",)]
)
def test_of_other_steps_no_largest_is_told(more, capsys):
    parts = Parts(settle((*QUADRATIC, "algo=dpsgd", "delay=1", *more)))
    assert show.facts(parts, ())["largest_delayed_lr_L"] is analyze.facts(parts, ())["largest_delayed_lr_L"] is None


REFUSED = {
    "the old word": (("algo=dpsgd", "order=overlap"), ["order=overlap", "delay=1"]),
    "longer than a round": (("algo=pasgd", "tau=3", "delay=4"), ["delay=4", "at most delay=3", "delay=tau"]),
    "longer than the shortest": (("algo=pasgd", "tau=[[0,2],[8,5]]", "delay=3"), ["delay=3", "at most delay=2"]),
    "cta": (("algo=pasgd", "order=cta", "delay=1"), ["order=cta delay=1", "order=atc"]),
    "cta, all the round": (("algo=pasgd", "order=cta", "delay=tau"), ["order=cta delay=tau"]),
    "fullsync": (("algo=fullsync", "delay=1"), ["delay=1", "fullsync"]),
    "fullsync before the gradient": (("algo=fullsync", "order=cta"), ["order=cta", "fullsync"]),
    "fedavg": (("algo=fedavg", "delay=1"), ["delay=1", "fedavg", "delay=0"]),
    "fedavg before the gradient": (("algo=fedavg", "order=cta"), ["order=cta", "fedavg"]),
    "less than none": (("algo=pasgd", "delay=-1"), ["delay", "-1"]),
    "half a step": (("algo=pasgd", "delay=0.5"), ["delay", "0.5"]),
    "another word": (("algo=pasgd", "delay=all"), ["delay", "'all'", "tau"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_delayed_is_refused(case):
    given, parts = REFUSED[case]
    with pytest.raises(ConfigError) as error:
        compose.compose_config([*QUADRATIC, *given])
    assert "\n" not in str(error.value) and all(part in str(error.value) for part in parts), error.value
