"""buffers_every: at which communications the optimiser's buffers are averaged; what it costs, saved and refused."""

from __future__ import annotations

import numpy as np
import oracle_rules
import pytest
import torch
from playing import QUADRATIC, play, settle
from refusals import refused
from test_oracle import problem

from coopsgd.loop.saved import flatten, homes, inflate
from coopsgd.predict import cost
from coopsgd.setup.identity import identity
from coopsgd.setup.parts import Parts
from coopsgd.testing.runs import Recorder, make_loop

DES_LOC = (*QUADRATIC, "algo=des_loc", "tau=1", "steps=14")


def test_each_buffer_becomes_equal_at_its_own_communications():
    loop = make_loop(settle(DES_LOC), observer=Recorder())
    for done in range(1, 15):
        loop.advance()
        first, second = (float(np.ptp(rows.numpy(), axis=0).max()) for rows in loop.state.inner.stacked())
        assert (first == 0) == (done % 3 == 0) and (second == 0) == (done % 6 == 0), done


@pytest.mark.parametrize("every", ["1", "[1,1]", "[2,1]", "4"])
def test_any_periods_are_what_slow_loops_make_of_them(every):
    numbers = [int(one) for one in every.strip("[]").split(",")]
    words = (*QUADRATIC, "algo=local_adam", "tau=2", f"buffers_every={every}")
    expected = oracle_rules.local_adam(problem(words), numbers[0], numbers[-1])
    np.testing.assert_allclose(play(None, 1, *words).x, expected, rtol=0, atol=1e-12)


def test_what_is_foretold_of_them_is_what_is_sent():
    config = settle(DES_LOC)
    loop, d = make_loop(config, observer=Recorder()), 8 * Parts(config).task.dimension(config)
    sent = []
    for _ in range(12):
        before = loop.fleet.ledger.bytes
        loop.advance()
        sent.append(loop.fleet.ledger.bytes - before)
    average = 2 * 7 * d  # one vector of 8 workers
    assert sent == [average * (1 + (r % 3 == 0) + (r % 6 == 0)) for r in range(1, 13)]
    assert [8 * cost.of_round(Parts(config), r)["bytes_per_worker_mean"] for r in range(12)] == sent
    assert 8 * cost.per_step(Parts(config))["bytes_per_worker_mean"] == pytest.approx(np.mean(sent))


def test_moments_that_are_never_averaged_are_kept():
    """Periods beyond all: periodic averaging with Adam. By its own it sends half of Local Adam's bytes."""
    never, kept = (*QUADRATIC, "algo=des_loc", "tau=3", "buffers_every=1000"), (*QUADRATIC, "algo=pasgd", "tau=3", "optim=adam")
    np.testing.assert_allclose(play(None, 1, *never).x, play(None, 1, *kept).x, rtol=0, atol=1e-12)
    assert np.abs(play(None, 1, *never, "buffers_every=1").x - play(None, 1, *kept).x).max() > 1e-6
    sent = [play(None, 1, *QUADRATIC, f"algo={algo}", "tau=2").logical[2] for algo in ("des_loc", "local_adam")]
    assert sent[0] == sent[1] / 2


@pytest.mark.parametrize("more", [("outer=nesterov",), ("codec=topk", "codec.share=0.3"), ("algo.lazy=true", "outer=momentum")])
def test_moments_are_averaged_beside_an_outer_step_or_a_codec(more):
    """The models of the outer step and of what is packed are others, the moments are averaged as they are without."""
    loop = make_loop(settle((*QUADRATIC, "algo=local_adam", "tau=2", *more)), observer=Recorder())
    for done in range(1, 7):
        before = [rows.clone() for rows in loop.state.inner.stacked()]
        loop.advance()
        for rows in loop.state.inner.stacked():
            alike = float(np.ptp(rows.numpy(), axis=0).max()) < 1e-15
            assert alike == (done % 2 == 0 and "algo.lazy=true" not in more), (done, before)


@pytest.mark.parametrize("when", ["delay=0", "delay=tau"])
def test_a_run_goes_on_from_what_was_saved(when):
    config = settle((*DES_LOC, "tau=2", when))
    whole = make_loop(config, observer=Recorder())
    half = make_loop(config, observer=Recorder())
    for k in range(14):
        whole.advance()
        if k < 9:  # in the middle of a round
            half.advance()
    skeleton, leaves = flatten(half.saved())
    tensors = {at: torch.cat([*leaf.parts]) if hasattr(leaf, "parts") else leaf.tensor for at, leaf in leaves.items()}
    saved = inflate(skeleton, lambda at, kind: tensors[at].clone(), homes(half.strategy, half.parts.period))
    again = make_loop(config, observer=Recorder(), saved=saved)
    for _ in range(5):
        again.advance()
    assert torch.equal(again.state.x, whole.state.x)


def test_it_makes_another_run_only_where_buffers_are_averaged():
    base = (*QUADRATIC, "algo=pasgd", "optim=adam")
    averaged, often = (settle((*base, "buffers=average", *more)) for more in ((), ("buffers_every=2",)))
    assert identity(averaged) != identity(often)
    assert identity(settle((*base, "algo=local_adam"))) == identity(settle((*base, "buffers=average", "algo=local_adam")))


@pytest.mark.parametrize(
    "case",
    [
        (("algo=pasgd", "buffers_every=2"), "buffers_every=2: says when buffers=average averages, and buffers=keep does not"),
        (("algo=des_loc", "optim=sgd"), "buffers_every=[3, 6]: is one for each buffer, and optim=sgd keeps none"),
        (("algo=des_loc", "buffers_every=[3]"), "optim=adam keeps 2, exp_avg, exp_avg_sq; give as many"),
        (("algo=des_loc", "buffers_every=0"), "buffers_every: must be a whole number of communications"),
        (("algo=des_loc", "buffers_every=[3,x]"), "buffers_every: must be a whole number of communications"),
        (("algo=fullsync", "buffers=average", "buffers_every=2"), "fullsync mixes no models"),
    ],
    ids=lambda case: " ".join(case[0]),
)
def test_refused_in_one_line(case):
    refused(("task=quadratic", *case[0]), [case[1]])
