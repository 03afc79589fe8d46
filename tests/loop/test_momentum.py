"""Steps with momentum, Nesterov's too, and weight decay are fused with their gradients: models and checkpoints stay."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from playing import MLP, play, settle

from coopsgd.loop.inner import Inner
from coopsgd.loop.saved import homes, inflate
from coopsgd.mixing.static import Average
from coopsgd.optim import SGD
from coopsgd.schedules import Constant
from coopsgd.testing.runs import Recorder, make_loop
from coopsgd.testing.saved import _read, _written, saved_and_loaded

SMALL = (*MLP, "workers=6", "batch_size=8", "steps=24", "tau=5", "algo=pasgd")
RULES = {
    "momentum": ("optim.momentum=0.9",),
    "nesterov": ("optim.momentum=0.9", "optim.nesterov=true"),
    "weight decay": ("optim.weight_decay=0.05",),
    "all": ("optim.momentum=0.8", "optim.nesterov=true", "optim.weight_decay=0.05"),
    "decay of a whole step": ("optim.weight_decay=10",),  # lr times it is 1: nothing of x stays
}
AXES = {
    "buffers kept": (),
    "averaged": ("buffers=average",),
    "reset": ("buffers=reset",),
    "averaged late": ("buffers=average", "delay=2"),
    "delay": ("delay=tau",),
    "combined first": ("order=cta",),
    "idle": ("algo.mixing=test_momentum:Half",),
    "idle, averaged": ("algo.mixing=test_momentum:Half", "buffers=average"),
    "idle, reset": ("algo.mixing=test_momentum:Half", "buffers=reset"),
    "rates that move": ("schedule=cosine", "schedule.warmup=3"),
    "a row more": ("algo=easgd",),
}
CASES = [("all" if i % 2 else "momentum", axis) for i, axis in enumerate(AXES)] + [(rule, "idle, averaged") for rule in RULES]


class Half(Average):
    """Only the even or only the odd workers compute, round by round."""

    def work(self, m, r, tau):
        return np.where(np.arange(m) % 2 == r % 2, tau, 0)


def pair(*words: str):
    """Two loops of one config, whose steps are fused in the first and not in the second."""
    settings = settle((*SMALL, *words))
    loops = [make_loop(settings, observer=Recorder(False)) for _ in range(2)]
    assert loops[0].steps.fused
    loops[1].steps.fused = False
    return settings, *loops


def equal_states(one, other, close=1e-12):
    (text, tensors), (expected_text, expected) = _written(one), _written(other)
    assert text == expected_text and tensors.keys() == expected.keys()
    for at, tensor in expected.items():
        if at != ".ledger.comm_s":
            torch.testing.assert_close(tensors[at], tensor, rtol=0, atol=close, msg=at)


@pytest.mark.parametrize(("rule", "axis"), CASES)
def test_fused_steps_are_those_of_torch(rule, axis):
    settings, fused, stored = pair(*RULES[rule], *AXES[axis])
    compared = 0
    for _ in range(settings.steps):
        fused.advance(), stored.advance()
        if not fused.steps.ahead:
            equal_states(fused, stored)
            compared += 1
    assert compared >= 4


@pytest.mark.parametrize("rule", RULES)
def test_a_run_goes_on_from_either(rule):
    """What one kind of steps has saved the other takes up, and a run that is saved after every step does not notice."""
    settings, fused, stored = pair(*RULES[rule], "algo.mixing=test_momentum:Half")
    for _ in range(10):
        fused.advance(), stored.advance()
    for loop in (fused, stored):
        for kind in (True, False):
            text, tensors = _written(loop)
            tree = inflate(json.loads(text), partial(_read, tensors), homes(loop.strategy, loop.parts.period))
            on = make_loop(settings, observer=Recorder(False), saved=tree)
            on.steps.fused = kind
            for _ in range(10):
                on.advance()
            if loop is fused and kind:
                first = on
            equal_states(on, first)
    saved_and_loaded("pasgd", settle((*SMALL, *RULES[rule], "steps=8", "algo.mixing=test_momentum:Half")))


def test_whichever_engine_takes_them_and_wherever_rows_are(process_groups):
    words = (*SMALL, *RULES["all"], "algo.mixing=test_momentum:Half", "buffers=average")
    expected = play(None, 1, *words).x
    np.testing.assert_allclose(play(None, 1, *words, "engine=loop").x, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(play(process_groups, 2, *words).x, expected, rtol=0, atol=1e-12)


def test_a_momentum_that_a_schedule_moves_is_the_one_that_is_taken():
    x = torch.zeros(2, 3, dtype=torch.float64)
    inner = Inner(SGD(momentum=0.9), Constant(), x, workers=2, steps=3)
    group = inner._optimizer.param_groups[0]
    group["momentum"] = 0.5
    assert inner.sgd_step().momentum == 0.5 and inner.sgd_step().velocity is not None
    group["momentum"] = 0.0
    assert inner.sgd_step().velocity is None  # torch leaves the buffers alone, too


def test_velocities_live_once():
    """The optimiser's buffers are views of what steps move; a row that never stepped has none."""
    x = torch.zeros(3, 4, dtype=torch.float64)
    inner = Inner(SGD(momentum=0.9), Constant(), x, workers=3, steps=3)
    step = inner.sgd_step(np.array([True, False, True]))
    step.velocity[0] = 1
    step.velocity[2] = 3
    saved = inner.saved()
    assert torch.cat(list(saved["steps"].parts))[:, 0].tolist() == [0, -1, 0]
    assert torch.cat(list(saved["buffers"]["momentum_buffer"].parts))[:, 0].tolist() == [1, 0, 3]
    inner.step(x, torch.ones_like(x), None)
    assert step.velocity[:, 0].tolist() == [1.9, 0, 3.7]  # torch's own step moves them, and makes row 1 its own
    again = inner.sgd_step()
    assert again.velocity is step.velocity and again.velocity[:, 0].tolist() == [1.9, 1, 3.7]
    inner.put([torch.full_like(x, 7)])
    assert again.velocity.unique().tolist() == [7]
    inner.reset()
    assert inner.sgd_step().velocity.count_nonzero() == 0


@pytest.mark.parametrize(
    ("settings", "fusable"),
    [(SGD(momentum=0.9, nesterov=True, weight_decay=0.1), True), (SGD(momentum=0.9, dampening=0.1), False)],
)
def test_dampening_is_torchs_alone(settings, fusable):
    """Its first step is another than the others."""
    assert settings.fusable == fusable
