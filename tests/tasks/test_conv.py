"""The compiled pass of small convolutional networks: every step and gradient is autograd's, in every width of vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from playing import CNN, play
from test_dense import CLOSE, KINDS, LR, STEPS, runs_here
from torch import nn
from torch.nn.functional import cross_entropy

from coopsgd.host import native
from coopsgd.models.cnn import CNN as Model
from coopsgd.models.cnn import LeNet
from coopsgd.tasks.engines.choice import Choice, choose
from coopsgd.tasks.engines.conv import TOGETHER, Conv
from coopsgd.tasks.engines.losses import mse
from coopsgd.tasks.gradients import Bound

pytestmark = pytest.mark.skipif(not native.in_use(), reason="built without a compiler")


def odd():
    """Kernels that are no squares, even ones, frames on some sides, norms without weights, either order of ReLU and pooling."""
    first = (nn.ZeroPad2d((1, 0, 0, 2)), nn.Conv2d(3, 5, (3, 2), padding=(2, 0), bias=False), nn.GroupNorm(5, 5), nn.ReLU())
    second = (nn.Conv2d(5, 18, (2, 4), padding=(1, 2)), nn.GroupNorm(3, 18, affine=False), nn.ReLU(), nn.MaxPool2d(2))
    third = (nn.Conv2d(18, 33, 1), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(33, 7, 3, padding="same"), nn.ReLU())
    return nn.Sequential(nn.Sequential(*first), *second, *third, nn.Flatten(), nn.Linear(7 * 3 * 2, 3, bias=False))


def alone():
    return nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4))


def tiles():
    """3 x 3 between many channels, which fill no vector and no tile; the last of images of odd sides, with which it is not."""
    first = (nn.Conv2d(16, 17, 3, padding=1), nn.ReLU(), nn.Conv2d(17, 35, 3), nn.GroupNorm(5, 35), nn.ReLU())
    second = (nn.Conv2d(35, 18, 3, padding=(2, 1), bias=False), nn.GroupNorm(2, 18), nn.MaxPool2d(2), nn.ReLU())
    return nn.Sequential(*first, *second, nn.Conv2d(18, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 5 * 3, 3))


CASES = {
    "tiles": (tiles, (16, 10, 8), 3, 11, True),
    "tiles, contiguous": (tiles, (16, 10, 8), 3, 2, False),
    "cnn on 9 x 7": (lambda: Model(width=8).build((1, 9, 7), 10), (1, 9, 7), 10, 5, True),
    "cnn on 8 x 8 in colour": (lambda: Model(width=16, norm="none").build((3, 8, 8), 10), (3, 8, 8), 10, 33, False),
    "cnn on 28 x 28": (lambda: Model(width=24).build((1, 28, 28), 10), (1, 28, 28), 10, 3, True),
    "lenet": (lambda: LeNet().build((1, 28, 28), 10), (1, 28, 28), 10, 17, True),
    "odd": (odd, (3, 10, 8), 3, 9, True),
    "odd, contiguous": (odd, (3, 10, 8), 3, 1, False),
    "one channel": (alone, (1, 5, 6), 4, 1, True),
}


def only(monkeypatch, dtype, lanes):
    """Let vectors of this width compute."""
    library, bits = native.library(), 8 * dtype.itemsize
    usual, chosen = (getattr(library, f"conv_{end}") for end in (f"{bits}", f"{bits}_{lanes}"))
    chosen.argtypes, chosen.restype = usual.argtypes, usual.restype
    monkeypatch.setattr(library, f"conv_{bits}", chosen)


class Stage:
    """Three models of one kind, inside larger rows, gradients likewise, inputs and targets."""

    def __init__(self, name, dtype):
        torch.manual_seed(0)
        make, shape, classes, batch, self.last = CASES[name]
        self.module = make().to(dtype)
        self.bound = Bound(self.module, self.last)
        d = self.bound.d
        self.held, self.beside = (torch.full((5, d + more), 3.0, dtype=dtype) for more in (3, 8))
        self.x, self.other = self.held[1:-1, 2 : 2 + d], self.beside[1:-1, 5 : 5 + d]
        sizes = [(p.numel(), 1.0 if p.dim() == 1 else p[0].numel() ** -0.5) for p in self.module.parameters()]
        scale = torch.cat([torch.full((n,), size) for n, size in sizes])
        self.x.copy_(torch.randn(3, d, dtype=dtype) * scale)
        self.other.copy_(torch.randn(3, d, dtype=dtype))
        self.inputs, self.targets = torch.randn(3, batch, *shape, dtype=dtype), torch.randint(classes, (3, batch))

    def engine(self, x, other):
        engine = Conv(self.module)
        engine.channels_last = self.last
        engine.bind(x, other)
        return engine

    def autograd(self):
        """Losses and gradients of every row."""
        x = self.x.clone().requires_grad_()
        losses = []
        for row, h, wanted in zip(x, self.inputs, self.targets, strict=True):
            named = zip(dict(self.module.named_parameters()), self.bound.split(row), strict=True)
            losses.append(cross_entropy(torch.func.functional_call(self.module, dict(named), h), wanted))
        losses = torch.stack(losses)
        return losses.detach(), torch.autograd.grad(losses.sum(), x)[0]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "lanes"), KINDS)
def test_gradients_are_autograds(monkeypatch, dtype, lanes, name):
    if not runs_here(dtype, lanes):
        pytest.skip("this processor has no such vectors")
    only(monkeypatch, dtype, lanes)
    stage = Stage(name, dtype)
    losses, grad = stage.autograd()
    engine, before = stage.engine(stage.x, stage.other), stage.held.clone()
    for _ in range(2):  # again, in room that is not empty
        close = {"rtol": CLOSE[dtype], "atol": CLOSE[dtype] * float(grad.abs().max())}
        torch.testing.assert_close(engine.gradients(0, 3, stage.inputs, stage.targets), losses, **close)
        torch.testing.assert_close(stage.other, grad, **close)
    assert torch.equal(stage.held, before), "a model moved"
    around = torch.ones_like(stage.beside, dtype=torch.bool)
    around[1:-1, 5 : 5 + stage.bound.d] = False
    assert (stage.beside[around] == 3).all(), "something around the gradients was touched"


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("name", ["cnn on 9 x 7", "odd, contiguous", "tiles", "tiles, contiguous"])
def test_steps_are_those_of_sgd(name, dtype):
    stage = Stage(name, dtype)
    losses, grad = stage.autograd()
    for step in STEPS[1:]:
        x, other = stage.x.clone(), stage.other.clone()
        velocity = other if step.momentum else None
        engine = stage.engine(x, stage.other)
        own = step._replace(velocity=velocity)
        parts = [engine.descend(a, b, stage.inputs[a:b], stage.targets[a:b], LR, step=own) for a, b in ((0, 1), (1, 3))]
        seen = torch.cat(parts)
        g = grad + step.weight_decay * stage.x
        beside = step.momentum * stage.other + g if step.momentum else stage.other
        taken = g if not step.momentum else g + step.momentum * beside if step.nesterov else beside
        for one, right in ((seen, losses), (x, stage.x - LR * taken), (other, beside)):
            torch.testing.assert_close(one, right, rtol=CLOSE[dtype], atol=CLOSE[dtype])


def test_bits_are_those_of_a_model_alone():
    stage = Stage("lenet", torch.float32)
    many, single = stage.x.clone(), stage.x.clone()
    stage.engine(many, stage.other).descend(0, 3, stage.inputs, stage.targets, LR)
    engine = stage.engine(single, stage.other)
    for i in (2, 0, 1):
        engine.descend(i, i + 1, stage.inputs[i : i + 1], stage.targets[i : i + 1], LR)
    assert torch.equal(many, single) and not torch.equal(many, stage.x)


def test_what_is_no_number_goes_where_torch_lets_it():
    """Through the largest of four, through ReLU and through norms, of one sample or of a weight."""
    for name in ("tiles", "tiles, contiguous", "cnn on 9 x 7", "odd, contiguous", "cnn on 8 x 8 in colour"):
        for value in (torch.nan, torch.inf, -torch.inf):
            stage = Stage(name, torch.float64)
            stage.inputs[0, 0, 0, 2, 3] = value
            stage.x[2, 1] = value
            losses, grad = stage.autograd()
            seen = stage.engine(stage.x, stage.other).gradients(0, 3, stage.inputs, stage.targets)
            assert torch.equal(seen.isfinite(), losses.isfinite()) and bool(losses[1].isfinite())
            assert torch.equal(stage.other.isfinite().all(1), grad.isfinite().all(1))


def test_ties_go_to_the_first_of_four():
    stage = Stage("cnn on 8 x 8 in colour", torch.float64)
    stage.inputs = stage.inputs.round().clamp(0, 1)
    stage.x.copy_((stage.x * 2).round() / 2)
    grad = stage.autograd()[1]
    stage.engine(stage.x, stage.other).gradients(0, 3, stage.inputs, stage.targets)
    torch.testing.assert_close(stage.other, grad, rtol=1e-12, atol=1e-12)


def test_batches_of_other_sizes_in_turn():
    stage = Stage("lenet", torch.float64)
    engine = stage.engine(stage.x, stage.other)
    for batch in (17, 2, 9, 17):
        stage.inputs, stage.targets = stage.inputs[:, :batch], stage.targets[:, :batch]
        grad = stage.autograd()[1]
        engine.gradients(0, 3, stage.inputs, stage.targets)
        torch.testing.assert_close(stage.other, grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("target", [10, -1])
def test_a_target_that_is_no_class_is_told_before_anything_moves(target):
    stage = Stage("cnn on 9 x 7", torch.float32)
    before, stage.targets[0, 4] = stage.held.clone(), target
    with pytest.raises(IndexError, match=f"Target {target} is out of bounds"):
        stage.engine(stage.x, stage.other).descend(0, 3, stage.inputs, stage.targets, LR)
    assert torch.equal(stage.held, before)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "lanes"), KINDS)
def test_answers_are_the_modules(monkeypatch, dtype, lanes, name):
    """Of more samples than are answered in one call, by each model, and of one alone to the bit."""
    if not runs_here(dtype, lanes):
        pytest.skip("this processor has no such vectors")
    only(monkeypatch, dtype, lanes)
    stage = Stage(name, dtype)
    inputs = torch.randn(2 * TOGETHER + 3, *stage.inputs.shape[2:], dtype=dtype)
    inputs[70, 0, 2, 1] = torch.nan
    engine, before, beside = stage.engine(stage.x, stage.other), stage.held.clone(), stage.beside.clone()
    engine.gradients(0, 3, stage.inputs, stage.targets)  # which needs other room
    stage.beside.copy_(beside)
    found = engine.logits(stage.x, inputs)
    with torch.no_grad():
        for row, seen in zip(stage.x, found, strict=True):
            right = stage.bound.elsewhere(row[None])(inputs)
            close = {"rtol": CLOSE[dtype], "atol": CLOSE[dtype] * float(right.nan_to_num().abs().max())}
            torch.testing.assert_close(seen, right, equal_nan=True, **close)
    assert found[:, :70].isfinite().all() and found[:, 71:].isfinite().all()
    for i in (0, 69, len(inputs) - 1):
        assert torch.equal(engine.logits(stage.x[1:2], inputs[i : i + 1])[0, 0], found[1, i])
    assert torch.equal(stage.held, before) and torch.equal(stage.beside, beside)


def test_models_that_lie_otherwise_are_answered_and_of_other_kinds_refused():
    stage = Stage("lenet", torch.float32)
    engine = stage.engine(stage.x, stage.other)
    apart = torch.stack([stage.x[0], stage.x[0]], 1).t()[:1]  # as a strategy's own `answer` may be
    assert torch.equal(engine.logits(apart, stage.inputs[0]), engine.logits(stage.x[:1], stage.inputs[0]))
    with pytest.raises(ValueError, match="float32 or float64 are needed"):
        engine.logits(stage.x.bfloat16(), stage.inputs[0])


def test_a_run_is_evaluated_by_it_and_any_threads_say_the_same(process_groups):
    words = (*CNN, "algo=independent", "workers=3", "steps=4", "batch_size=8", "dtype=float32", "eval_every=2")

    def told(*more):
        last = play(process_groups, 1, *words, *more).lines[-1]
        return {name: value for name, value in last.items() if name.startswith("eval/") and value is not None}

    one, two, other = told("threads=1"), told("threads=2"), told("engine=loop")
    assert one == two and len(one) > 2
    assert one != other, "it had no part in it"
    assert one == pytest.approx(other, abs=1e-3)
    assert one["eval/loss"] == pytest.approx(other["eval/loss"], rel=1e-5)


def test_a_run_is_the_same_without_it_and_in_any_processes(process_groups):
    """To the bit in any processes: a row's numbers are its own."""
    words = (*CNN, "algo=independent", "workers=4", "steps=8", "batch_size=8", "optim.momentum=0.9", "dtype=float32")
    one, two = (play(process_groups, n, *words).x for n in (1, 2))
    np.testing.assert_array_equal(one, two)
    words = (*words[:-1], "dtype=float64")
    one, plain = (play(None, 1, *words, f"engine={engine}").x for engine in ("auto", "loop"))
    assert not np.array_equal(plain, one), "the kernel had no part in it"
    np.testing.assert_allclose(plain, one, rtol=1e-10, atol=1e-12)


def test_where_it_serves(monkeypatch):
    module = Model(width=8).build((1, 8, 8), 10)
    assert choose("auto", Bound(module)) == choose("auto", Bound(module, channels_last=False)) == Choice("conv", 12)
    assert choose("auto", Bound(module), batch=7).name == choose("auto", Bound(module), loss=mse).name == "loop"
    assert "cross entropy" in choose("conv", Bound(module), loss=mse).note
    assert "channels last" in choose("vmap", Bound(module, channels_last=False)).note
    assert choose("auto", Bound(Model(width=8, norm="batch").build((1, 8, 8), 10))).name == "loop"
    assert choose("auto", Bound(Model(width=8, dropout=0.1).build((1, 8, 8), 10))).name == "loop"
    monkeypatch.setattr(native, "in_use", lambda: False)
    assert choose("auto", Bound(module)).name == "loop"
    assert choose("conv", Bound(module)).note.startswith("engine=conv: it is compiled, and here it is not")


END = (nn.Flatten(), nn.Linear(4, 2))
SHARED = nn.Linear(4, 4)
REFUSED = [
    (nn.Sequential(nn.Conv2d(1, 1, 3, stride=2), nn.ReLU(), *END), "stride 1"),
    (nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.ReLU(), *END), "stride 1"),
    (nn.Sequential(nn.Conv2d(2, 2, 3, dilation=2), nn.ReLU(), *END), "stride 1"),
    (nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), nn.ReLU(), *END), "padded with zeros"),
    (nn.Sequential(nn.Conv2d(2, 2, 3), *END), "one ReLU"),
    (nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.ReLU(), *END), "one ReLU"),
    (nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.MaxPool2d(3), *END), "2 x 2"),
    (nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.MaxPool2d(2, 1), *END), "2 x 2"),
    (nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True), *END), "2 x 2"),
    (nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 1, padding=1), nn.ReLU(), *END), "as much as its kernel"),
    (nn.Sequential(nn.GroupNorm(1, 2), nn.Conv2d(2, 2, 3), nn.ReLU(), *END), "where GroupNorm is"),
    (nn.Sequential(nn.Conv2d(2, 2, 3), nn.Tanh(), *END), "Tanh"),
    (nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(2), nn.Linear(4, 2)), "Flatten"),
    (nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2), nn.ReLU()), "linear layers"),
    (nn.Sequential(nn.ZeroPad2d(-1), nn.Conv2d(2, 2, 3), nn.ReLU(), *END), "cut"),
    (nn.Sequential(*END), "1 to 32 convolutions"),
    (nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)).half(), "float32"),
    (nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), SHARED, nn.ReLU(), SHARED), "distinct"),
]


@pytest.mark.parametrize(("module", "why"), REFUSED)
def test_what_it_cannot_run_it_names(module, why):
    assert why in Conv.cannot(module)
