"""Batches made in one pass, and steps on them: to the bit what torch makes in four passes, and one step at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from playing import MLP, play
from torch import nn

from coopsgd.data.augment import crop_and_flip
from coopsgd.host import native
from coopsgd.optim import SGDStep
from coopsgd.tasks.engines.bmm import Bmm
from coopsgd.tasks.engines.dense import Dense
from coopsgd.tasks.engines.samples import Samples, Scale

pytestmark = pytest.mark.skipif(not native.in_use(), reason="built without a compiler")

FROM = (torch.uint8, torch.float32, torch.float64)
TO = (torch.float32, torch.float64)
SHAPES = [((3, 5, 7), 3), ((1, 28, 28), 1), ((19,), 19), ((19,), 1), ((1,), 1), ((2, 33), 2), ((3, 4, 4), 1)]  # with channels


def samples(shape, kind, n=23):
    """Some, with numbers that rounding shows on."""
    draw = np.random.default_rng(0)
    if kind == torch.uint8:
        return torch.from_numpy(draw.integers(0, 256, (n, *shape), dtype=np.uint8))
    return torch.from_numpy(draw.normal(37, 11, (n, *shape))).to(kind)


def scales(kind, dtype, channels, monkeypatch):
    """The compiled one, and torch's."""
    exact = torch.float64 if kind == torch.float64 else dtype
    draw = np.random.default_rng(1)
    mean, std = (torch.tensor(draw.uniform(0.3, 90, channels), dtype=exact) for _ in range(2))
    compiled = Scale(mean, std, exact, dtype)
    plain = Scale(mean, std, exact, dtype)
    monkeypatch.setattr(plain, "_library", None)
    return compiled, plain


def bits(x):
    return x.contiguous().view(torch.int32 if x.dtype == torch.float32 else torch.int64)


@pytest.mark.parametrize(("kind", "dtype"), [*itertools.product(FROM, TO)])
def test_every_number_is_torchs_to_the_bit(kind, dtype, monkeypatch):
    for shape, channels in SHAPES:
        x = samples(shape, kind)
        if kind != torch.uint8:
            x.view(-1)[:4] = torch.tensor([torch.nan, torch.inf, 1e-42, -0.0])[: x.numel()]
        compiled, plain = scales(kind, dtype, channels, monkeypatch)
        assert compiled.known(x) is not None and plain.known(x) is None
        many = torch.from_numpy(np.random.default_rng(2).integers(0, len(x), 57))
        for which in (None, many, many[:1], many[:0], torch.arange(len(x)).flip(0), many[::3]):
            found, wanted = compiled(x, which), plain(x, which)
            assert found.dtype == dtype and found.shape == wanted.shape
            assert torch.equal(bits(found), bits(wanted)), (shape, which)


def test_what_is_no_row_of_numbers_is_torchs(monkeypatch):
    """Not side by side, or of a type that the pass does not know."""
    compiled, plain = scales(torch.uint8, torch.float32, 3, monkeypatch)
    for x in (samples((3, 5, 7), torch.uint8).transpose(2, 3), samples((3, 4), torch.uint8).to(torch.int16)):
        assert compiled.known(x) is None
        assert torch.equal(compiled(x, torch.tensor([2, 1])), plain(x, torch.tensor([2, 1])))


def test_shifted_and_mirrored_bytes(monkeypatch):
    compiled, plain = scales(torch.uint8, torch.float32, 3, monkeypatch)
    x = crop_and_flip(samples((3, 8, 8), torch.uint8), 2, 0, 1, 2)
    assert torch.equal(bits(compiled(x)), bits(plain(x)))


@pytest.mark.parametrize("bad", [-1, 23])
def test_a_sample_that_is_not_there(bad, monkeypatch):
    for scale in scales(torch.uint8, torch.float32, 3, monkeypatch):
        with pytest.raises((IndexError, RuntimeError)):
            scale(samples((3, 8, 8), torch.uint8), torch.tensor([1, bad]))


STEPS = [None, SGDStep(0.0, False, 0.3, None), SGDStep(0.9, False, 0.0, None), SGDStep(0.9, True, 0.3, None)]
RATES = (0.1, 0.05, 0.2)


def learning(dtype, kind=torch.uint8, batch=5):
    """A kernel, 3 models in rows of a larger tensor, as much beside them, samples, and which they learn from in 3 steps."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(42, 20), nn.ReLU(), nn.Linear(20, 7, bias=False))
    d = sum(p.numel() for p in module.parameters())
    x, beside = (torch.randn(5, d + 3, dtype=dtype)[1:-1, :d] / d**0.25 for _ in range(2))
    images = samples((2, 3, 7), kind)
    exact = torch.float64 if kind == torch.float64 else dtype
    scale = Scale(torch.tensor([100.0, 120.0]), torch.tensor([50.0, 60.0]), exact, dtype)
    read = Samples.of(images, torch.randint(7, (len(images),)), scale)
    which = np.random.default_rng(3).integers(0, len(images), (len(RATES), 5, batch + 2))[
        :, 1:4, :batch
    ]  # a part of a larger one
    return Dense([module[1], module[3]]), x, beside, read, which, (images, scale)


@pytest.mark.parametrize("dtype", TO)
@pytest.mark.parametrize("step", STEPS)
def test_steps_in_one_call_are_steps_one_by_one(dtype, step):
    for kind, batch in ((torch.uint8, 5), (torch.float64, 33)):
        kernel, x, beside, read, which, (images, scale) = learning(dtype, kind, batch)
        found, moved, wanted, right = x.clone(), beside.clone(), x.clone(), beside.clone()
        own = [None if step is None else step._replace(velocity=v if step.momentum else None) for v in (moved, right)]
        losses = torch.full((len(RATES), 3, 2), 7.0, dtype=dtype)
        kernel.steps(found, None, read, which, losses[:, :, 0], RATES, own[0])
        for j, lr in enumerate(RATES):
            numbers = torch.from_numpy(np.ascontiguousarray(which[j]))
            inputs = scale(images, numbers.flatten()).view(3, batch, -1)
            targets = read._held[1][numbers]
            assert torch.equal(losses[j, :, 0], kernel(wanted, None, inputs, targets, lr, own[1]))
        assert torch.equal(found, wanted) and torch.equal(moved, right) and not torch.equal(found, x)
        assert (losses[:, :, 1] == 7).all()


def test_gradients_from_samples():
    kernel, x, beside, read, which, (images, scale) = learning(torch.float32)
    before, right, losses = x.clone(), torch.empty_like(beside), torch.empty(1, 3)
    kernel.steps(x, beside, read, which[:1], losses)
    numbers = torch.from_numpy(np.ascontiguousarray(which[0]))
    wanted = kernel(x, right, scale(images, numbers.flatten()).view(3, 5, -1), read._held[1][numbers])
    assert torch.equal(losses[0], wanted) and torch.equal(beside, right) and torch.equal(x, before)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_label_that_is_no_class_is_told(steps):
    kernel, x, _, read, which, _ = learning(torch.float32)
    read._held[1][int(which[steps - 1, 2, 3])] = 9
    with pytest.raises(IndexError, match="Target 9 is out of bounds"):
        kernel.steps(x, None, read, which[:steps], torch.empty(steps, 3), RATES[:steps])


@pytest.mark.parametrize(
    "words", [("algo=pasgd", "tau=4"), ("algo=fullsync", "optim.momentum=0.9"), ("algo=easgd", "clip=1.0")]
)
def test_a_run_is_the_same_whoever_makes_its_batches(words, process_groups, monkeypatch):
    """To the bit: made in the kernel, made before it in one pass, made by torch."""
    learned, words = [], (*MLP, *words, "workers=3", "steps=12", "processes=1")
    learn = Bmm.learn
    monkeypatch.setattr(Bmm, "learn", lambda *given: learned.append(1) or learn(*given))
    inside = play(process_groups, 1, *words).x
    assert learned
    monkeypatch.setattr(Bmm, "reads", lambda *given: False)
    before = play(process_groups, 1, *words).x
    monkeypatch.setattr(Scale, "known", lambda *given: None)
    np.testing.assert_array_equal(inside, before)
    np.testing.assert_array_equal(inside, play(process_groups, 1, *words).x)
