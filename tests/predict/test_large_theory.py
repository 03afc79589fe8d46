"""Predictions for thousands of workers: by modes, by classes or by traces, equal to what is computed from whole arrays."""

from __future__ import annotations

import numpy as np
import pytest

from coopsgd import registry
from coopsgd.mixing import graphs, spectra
from coopsgd.mixing.matrix import Matrix
from coopsgd.mixing.static import Average, Elastic, Gossip, Hierarchical, ParameterServer
from coopsgd.mixing.varying import GossipPGA, Matching, OnePeer, TwoLevel
from coopsgd.predict.theory import drift_consensus, large, noise_consensus

EXACT = {
    "ring": Gossip(),
    "torus": Gossip(topology=graphs.Torus()),
    "exponential": Gossip(topology=graphs.Exponential()),
    "hypercube": Gossip(topology=graphs.Hypercube()),
    "star": Gossip(topology=graphs.Star()),
    "average": Average(),
    "elastic": Elastic(),
    "uneven tree": Hierarchical(groups=[3, 5, 8]),
    "tree without a root": Hierarchical(groups=4, root=False),
    "one peer": OnePeer(),
    "pairs of a hypercube": OnePeer(form="hypercube"),
    "two levels": TwoLevel(groups=[6, 10], tau=1, tau_2=3),
    "gossip and averages": GossipPGA(every=3),
    "a server": ParameterServer(),
}


@pytest.mark.parametrize("name", EXACT)
def test_modes_and_classes_are_exact(name):
    mixing, m = EXACT[name], 16
    Ws = [mixing.at(m, r) for r in range(mixing.cycle(m) or 1)]
    if name == "a server":
        Ws = [large.workers_alone(W, m) for W in Ws]
    arrays = [np.asarray(W) for W in Ws]
    for tau, order, delay in ((1, "atc", 0), (3, "atc", 0), (3, "cta", 0), (1, "atc", 1), (3, "atc", 2)):
        found, error = large.noise(Ws, m, tau, order, delay)
        assert error is None and found == pytest.approx(noise_consensus(arrays, m, tau, order, delay), rel=1e-9)
        for kept in (1.0, 0.9):
            found, error = large.drift(Ws, m, tau, order, delay, kept)
            assert error is None and found == pytest.approx(drift_consensus(arrays, m, tau, order, delay, kept), rel=1e-9)


@pytest.mark.parametrize("name", ["random_regular", "grid", "erdos_renyi"])
def test_other_graphs_are_estimated_with_an_error(name):
    W = Gossip(topology=registry.lookup("graph", name)()).at(64, 0)
    for tau, order in ((1, "atc"), (4, "cta")):
        found, error = large.noise([W], 64, tau, order, 0)
        assert 0 < error < 0.1 * found and abs(found - noise_consensus([W.dense()], 64, tau, order)) < 4 * error
        found, error = large.drift([W], 64, tau, order, 0, 1.0)
        assert 0 < error < found and abs(found - drift_consensus([W.dense()], 64, tau, order)) < 4 * error
    assert large.noise([W], 64, 4, "atc", 1) == (None, None)  # no estimate of delays


def test_an_estimate_that_takes_long_says_how_long(monkeypatch):
    W, told = Gossip(topology=graphs.Grid()).at(64, 0), []
    monkeypatch.setattr(large.news, "listener", told.append)
    large.noise([W], 64, 1, "atc", 0)
    assert told == []
    clock = iter(range(0, 100, 2))  # two seconds between any two looks at it
    monkeypatch.setattr(large.time, "monotonic", lambda: next(clock))
    large.noise([W], 64, 1, "atc", 0)
    (line,) = told
    assert f"64 workers is estimated from {large.PROBES} draws, about 1 min 32 s more" in line


def test_zeta_of_one_schedule_is_computed_once(monkeypatch):
    mixing, real, calls = Gossip(topology=graphs.Grid()), spectra.log_zeta, []
    monkeypatch.setattr(spectra, "log_zeta", lambda Ws: calls.append(1) or real(Ws))
    mixing.check(64)
    assert mixing.zeta(64) == mixing.zeta(64) == pytest.approx(spectra.zeta(mixing.at(64, 0))) and len(calls) == 1
    assert mixing.zeta(36) != mixing.zeta(64) and len(calls) == 2


def test_thousands_of_workers_without_a_square(monkeypatch):
    """zeta, and C where a form is known, for 4096: whoever asks for an (m, m) array is caught."""

    def refused(*_):
        raise AssertionError("a dense (m, m) array")

    monkeypatch.setattr(Matrix, "dense", refused)
    m = 4096
    for name, mixing in EXACT.items():
        mixing = TwoLevel(groups=2, tau=1, tau_2=3) if name == "two levels" else mixing
        mixing = Hierarchical() if name == "uneven tree" else mixing
        zeta, Ws = mixing.zeta(m), [mixing.at(m, r) for r in range(mixing.cycle(m) or 1)]
        assert 0 <= zeta < 1
        if name != "a server":
            C, error = large.noise(Ws, m, 1, "atc", 0)
            assert C > 0 or (name == "average" and C < 1e-20)
            assert error is None
    # closed forms: a ring of thirds, a torus of fifths, the centre of EASGD
    c = np.cos(2 * np.pi / m)
    assert EXACT["ring"].zeta(m) == pytest.approx(1 / 3 + 2 / 3 * c, abs=1e-12)
    assert EXACT["torus"].zeta(m) == pytest.approx((3 + 2 * np.cos(2 * np.pi / 64)) / 5, abs=1e-12)
    assert EXACT["elastic"].zeta(m) == pytest.approx(m / (m + 2), abs=1e-12)
    assert spectra.zeta(Gossip(topology=graphs.RandomRegular()).at(m, 0)) == pytest.approx(0.9558, abs=1e-3)
    assert Matching().zeta(m) < 1
