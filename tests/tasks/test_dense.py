"""The compiled pass of linear layers: every step and gradient is autograd's, in every width of vectors it is built for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from playing import MLP, play
from torch import nn
from torch.nn.functional import cross_entropy

from coopsgd.host import native
from coopsgd.optim import SGDStep
from coopsgd.tasks.engines import dense
from coopsgd.tasks.engines.bmm import Bmm

pytestmark = pytest.mark.skipif(not native.in_use(), reason="built without a compiler")

SIZES = [
    ((64, 12, 9, 10), 32),
    ((7, 5, 3), 1),
    ((3, 4), 5),
    ((33, 130, 70, 11), 5),
    ((270, 1, 5), 70),
    ((160, 20, 10), 33),
]  # with a batch
STEPS = [
    None,
    *(
        SGDStep(momentum, nesterov, decay, None)
        for momentum, nesterov in ((0, False), (0.9, False), (0.9, True))
        for decay in (0, 0.3)
    ),
]
CLOSE = {torch.float32: 2e-5, torch.float64: 1e-12}
KINDS = [(dtype, lanes) for dtype, widths in ((torch.float32, (16, 8, 4)), (torch.float64, (8, 4, 2))) for lanes in widths]
LR = 0.1


def network(sizes, bias=True):
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b, bias=bias), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def runs_here(dtype, lanes):
    """Has this processor vectors of so many numbers?"""
    level = torch.backends.cpu.get_cpu_capability()
    width = lanes * dtype.itemsize
    return width == 16 or (width == 32 and level in ("AVX2", "AVX512")) or (width == 64 and level == "AVX512")


def only(monkeypatch, dtype, lanes):
    """Let vectors of this width compute."""
    library, bits = native.library(), 8 * dtype.itemsize
    usual = getattr(library, f"dense_{bits}")
    chosen = getattr(library, f"dense_{bits}_{lanes}")
    chosen.argtypes, chosen.restype = usual.argtypes, usual.restype
    monkeypatch.setattr(library, f"dense_{bits}", chosen)


def case(sizes, batch, dtype, bias, rows=3):
    """A module, rows inside larger ones, gradients likewise, inputs and targets."""
    torch.manual_seed(0)
    module = network(sizes, bias)
    d = sum(p.numel() for p in module.parameters())
    x, other = (torch.randn(rows + 2, d + more, dtype=dtype)[1:-1, :d] / d**0.25 for more in (3, 8))
    return module, x, other, torch.randn(rows, batch, sizes[0], dtype=dtype), torch.randint(sizes[-1], (rows, batch))


def autograd(module, x, inputs, targets):
    """Losses and gradients of every row."""
    x = x.clone().requires_grad_()
    losses = []
    for row, h, wanted in zip(x, inputs, targets, strict=True):
        parts = row.split([p.numel() for p in module.parameters()])
        named = {name: part.view(p.shape) for (name, p), part in zip(module.named_parameters(), parts, strict=True)}
        losses.append(cross_entropy(torch.func.functional_call(module.to(x.dtype), named, h), wanted))
    losses = torch.stack(losses)
    return losses.detach(), torch.autograd.grad(losses.sum(), x)[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "lanes"), KINDS)
def test_steps_and_gradients_are_autograds(monkeypatch, dtype, lanes, bias):
    if not runs_here(dtype, lanes):
        pytest.skip("this processor has no such vectors")
    only(monkeypatch, dtype, lanes)
    for sizes, batch in SIZES:
        module, x, other, inputs, targets = case(sizes, batch, dtype, bias)
        kernel = dense.Dense([layer for layer in module if isinstance(layer, nn.Linear)])
        losses, grad = autograd(module, x, inputs, targets)
        for step in STEPS:
            found, moved = x.clone(), other.clone()
            if step is None:
                wanted, wanted_beside = x, grad
                seen = kernel(found, moved, inputs, targets)
            else:
                velocity = moved if step.momentum else None
                seen = kernel(found, None, inputs, targets, LR, step._replace(velocity=velocity))
                g = grad + step.weight_decay * x
                wanted_beside = step.momentum * other + g if step.momentum else other
                taken = g if not step.momentum else g + step.momentum * wanted_beside if step.nesterov else wanted_beside
                wanted = x - LR * taken
            for one, right in ((seen, losses), (found, wanted), (moved, wanted_beside)):
                torch.testing.assert_close(one, right, rtol=CLOSE[dtype], atol=CLOSE[dtype])


def test_nothing_around_the_rows_is_touched():
    module, *_, inputs, targets = case((33, 12, 10), 5, torch.float64, True)
    d = sum(p.numel() for p in module.parameters())
    held, beside = torch.full((5, d + 7), 3.0, dtype=torch.float64), torch.full((5, d + 2), 4.0, dtype=torch.float64)
    kernel = dense.Dense([module[1], module[3]])
    kernel(held[1:4, 3 : 3 + d], beside[1:4, 1 : 1 + d], inputs, targets)
    assert (held == 3).all()
    untouched = torch.ones_like(beside, dtype=torch.bool)
    untouched[1:4, 1 : 1 + d] = False
    assert (beside[untouched] == 4).all() and not (beside[~untouched] == 4).any()
    kernel(held[1:4, 3 : 3 + d], None, inputs, targets, LR)
    untouched = torch.ones_like(held, dtype=torch.bool)
    untouched[1:4, 3 : 3 + d] = False
    assert (held[untouched] == 3).all() and not (held[~untouched] == 3).all()


def test_what_is_no_number_stays_so():
    module, x, other, inputs, targets = case((7, 5, 3), 5, torch.float32, True)
    x[1, 2] = torch.nan
    losses = dense.Dense([module[1], module[3]])(x, other, inputs, targets)
    assert torch.isfinite(losses[[0, 2]]).all() and torch.isnan(losses[1]) and torch.isnan(other[1]).any()


@pytest.mark.parametrize("target", [3, -1])
def test_a_target_that_is_no_class_is_told_before_anything_moves(target):
    module, x, _, inputs, targets = case((7, 5, 3), 5, torch.float32, True)
    before, targets[0, 4] = x.clone(), target
    with pytest.raises(IndexError, match=f"Target {target} is out of bounds"):
        dense.Dense([module[1], module[3]])(x, None, inputs, targets, LR)
    assert torch.equal(x, before)


@pytest.mark.parametrize("scale", [1e-6, 30.0, 1e4])
def test_losses_of_far_outputs_are_torchs(scale):
    module, x, other, inputs, targets = case((7, 5, 3), 32, torch.float64, True)
    losses, grad = autograd(module, x * scale, inputs, targets)
    x = x * scale
    torch.testing.assert_close(dense.Dense([module[1], module[3]])(x, other, inputs, targets), losses, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(other, grad, rtol=1e-11, atol=1e-11)


def test_a_run_is_the_same_without_it_and_in_any_processes(process_groups, monkeypatch):
    """To the bit in any processes: a row's numbers are its own."""
    words = (*MLP, "algo=independent", "workers=4", "steps=24", "dtype=float64", "optim.momentum=0.9")
    one, two = (play(process_groups, n, *words).x for n in (1, 2))
    np.testing.assert_array_equal(one, two)
    monkeypatch.setattr("coopsgd.tasks.engines.bmm.fits", lambda layers: False)
    plain = play(process_groups, 1, *words).x
    assert not np.array_equal(plain, one), "the kernel had no part in it"
    np.testing.assert_allclose(plain, one, rtol=1e-10, atol=1e-12)


def test_where_it_serves():
    assert Bmm.compiled(network((7, 5, 3)))
    for module in (
        nn.Sequential(nn.Flatten(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)),
        nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(7, 3)),
    ):
        assert not Bmm.compiled(module) and Bmm.cannot(module) is None
    assert (dense.chunk(159_010), dense.chunk(2410), dense.chunk(40_000)) == (1, 54, 3)
