"""A user's optimisers and scalers: their groups, the steps that are skipped, gradients as they come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from programs import network
from test_modules import PASGD, gradients, pair, values
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from written import SlowMo

from coopsgd import Cooperation
from coopsgd.errors import RunFailed


def test_groups_of_parameters_have_their_own_rates():
    models = [network() for _ in range(2)]
    optimizers = [
        torch.optim.SGD([{"params": m[0].parameters()}, {"params": m[2].parameters(), "lr": 0.5}], lr=0.1) for m in models
    ]
    coop = Cooperation(models, optimizers, *PASGD)
    before = network()
    gradients(models)
    coop.step()
    gradients(both := [network(), network()])
    for at, rate in ((0, 0.1), (2, 0.5)):
        mean = (both[0][at].weight.grad + both[1][at].weight.grad) / 2
        assert torch.allclose(models[0][at].weight, before[at].weight - rate * mean, atol=1e-14)
    assert "train/lr" not in coop.scalars()
    assert coop.state_dict() is not None


@pytest.mark.parametrize(
    "words",
    [
        ("algo=pasgd", f"algo.strategy={SlowMo.__module__}:SlowMo", "~algo.mixing", "tau=1"),
        ("algo=pasgd", "period=qsr"),
    ],
)
def test_who_needs_one_rate_says_so(words):
    models = [network() for _ in range(2)]
    optimizers = [
        torch.optim.SGD([{"params": m[0].parameters()}, {"params": m[2].parameters(), "lr": 0.5}], lr=0.1) for m in models
    ]
    gradients(models)
    with pytest.raises(RunFailed, match=r"the optimiser has several \(0.1, 0.5\); give all its parameter groups one rate"):
        Cooperation(models, optimizers, *words).step()


@pytest.mark.parametrize("words", [PASGD, ("algo=fullsync",)])
@pytest.mark.parametrize("unscaled", [False, True])
def test_a_scaler_that_skips_a_step(words, unscaled):
    """The first worker's gradient overflows in step 1: pasgd skips its step alone, fullsync that of all, and both count."""
    models, optimizers, coop = pair(network, *words)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    scaler.scale(torch.zeros(()))  # begins here, as with a loss
    reference = [network(), network()]
    others = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in reference]
    for k in range(3):
        scale = scaler.get_scale()
        gradients(models, k)
        for i, model in enumerate(models):
            for p in model.parameters():
                p.grad.mul_(scale)
            if k == 1 and i == 0:
                model[0].weight.grad[0, 0] = torch.inf
        if unscaled:
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
        coop.step(scaler=scaler)
        scaler.update()
        gradients(reference, k)
        steppers = others
        if words != PASGD:
            for p, q in zip(reference[0].parameters(), reference[1].parameters(), strict=True):
                p.grad = q.grad = (p.grad + q.grad) / 2
            steppers = [] if k == 1 else others
        for i, optimizer in enumerate(steppers):
            if not (k == 1 and i == 0):
                optimizer.step()
        mean = (values(reference[0]) + values(reference[1])) / 2
        for model in reference:
            nn.utils.vector_to_parameters(mean.clone(), model.parameters())
    assert coop.steps == 3
    assert scaler.get_scale() == 2.0**3
    assert torch.allclose(values(models[0]), mean, atol=1e-14)


class Reads(TorchDispatchMode):
    """Counts numbers that are read from tensors, for which a processor waits where these are on a GPU."""

    many = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.many += func.overloadpacket.__name__ == "_local_scalar_dense"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("overflows", [False, True])
def test_what_a_scaler_has_found_stays_on_the_device(overflows):
    """Of a direction that the algorithm made, as with fullsync; torch's optimisers that are not fused read it themselves."""
    models = [network() for _ in range(2)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, fused=True) for model in models]
    coop = Cooperation(models, optimizers, "algo=fullsync")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    scaler.scale(torch.zeros(()))
    for k in range(3):
        gradients(models, k)
        if overflows and k == 2:
            models[1][0].weight.grad[0, 0] = torch.inf
        before = values(models[0])
        with Reads() as reads:
            coop.step(scaler=scaler)
            scaler.update()
        if k:  # in the first, parts are made
            assert reads.many == 0
        assert torch.equal(before, values(models[0])) == (overflows and k == 2)
    assert scaler.get_scale() == (2.0**3 if overflows else 2.0**4)


def test_accumulated_and_clipped_gradients():
    models, _, coop = pair(network, "algo=fullsync")
    reference = network()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)
    total: list[Any] = []
    for model in models:
        model.zero_grad()
    for micro in range(3):
        for i, model in enumerate(models):
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(10 * i + micro), dtype=torch.float64)
            (model(x).square().mean() / 3).backward()
    for model in models:
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        total.append([p.grad.clone() for p in model.parameters()])
    coop.step()
    for p, a, b in zip(reference.parameters(), *total, strict=True):
        p.grad = (a + b) / 2
    optimizer.step()
    assert torch.allclose(values(models[1]), values(reference), atol=1e-15)


def test_a_gradient_that_some_do_not_have():
    models, _, coop = pair(network, "algo=fullsync")
    gradients(models)
    expected = models[0][2].bias.grad / 2
    models[1][2].bias.grad = None
    coop.step()
    assert torch.allclose(models[1][2].bias.grad, expected)


def test_reset_forgets_nothing_that_was_loaded_before_the_first_step():
    model, reference = network(), network()
    optimizer, other = (torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (model, reference))
    for m, o in ((model, optimizer), (reference, other)):
        gradients([m], 7)
        o.step()
    coop = Cooperation([model], [optimizer], "algo=pasgd", "tau=1", "delay=1", "buffers=reset")
    gradients([model])
    gradients([reference])
    coop.step()
    other.step()
    assert np.array_equal(values(model), values(reference))
