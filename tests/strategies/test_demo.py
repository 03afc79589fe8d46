"""DeMo: codec=dct with outer=sign, against slow loops on every placement, its transform, its special cases."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from oracle_sent import chunks, demo
from playing import MLP, QUADRATIC, play, settle
from public import Network
from test_oracle import problem

from coopsgd.commands.compose import compose_config
from coopsgd.errors import ConfigError
from coopsgd.fleet.block import Block
from coopsgd.strategies import codecs

EXACT = {"rtol": 0, "atol": 1e-12}
CASE = (*MLP, "workers=4", "steps=7", "batch_size=4", "eval_samples=10", "algo=demo", "codec.chunk=8", "codec.keep=3")


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_network_is_what_slow_loops_make_of_it(process_groups, processes):
    played, p = play(process_groups, processes, *CASE), Network(settle(CASE))
    np.testing.assert_allclose(played.x, demo(p, 8, 3), **EXACT)
    sizes = Counter(where.size for where in chunks(p, 8))
    sent = {L: count * min(3, L) for L, count in sizes.items()}
    message = sum(8 * sent[L] + math.ceil(sent[L] * (L - 1).bit_length() / 8) for L in sizes)
    assert played.logical == (7, 7 * 12, 7 * 12 * message)


def test_a_vector_of_the_preset(process_groups):
    words = (*QUADRATIC, "algo=demo", "codec.keep=2")
    there = demo(problem(words), 64, 2)
    for processes in (1, 4):
        np.testing.assert_allclose(play(process_groups, processes, *words).x, there, **EXACT)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_its_weight_decay_is_of_the_model_and_not_in_the_momentum(process_groups, processes):
    words = (*QUADRATIC, "algo=demo", "codec.keep=2", "outer.weight_decay=0.5")
    expected = demo(problem(words), 64, 2, wd=0.5)
    np.testing.assert_allclose(play(process_groups, processes, *words).x, expected, **EXACT)
    coupled = play(process_groups, 1, *QUADRATIC, "algo=demo", "codec.keep=2", "optim.weight_decay=0.5").x
    assert np.abs(coupled - expected).max() > 1e-2


def test_all_coefficients_without_feedback_are_the_sign_of_the_mean_gradient(process_groups):
    words = (*QUADRATIC, "algo=demo", "codec.keep=64", "codec.feedback=false", "codec.decay=1")
    p = problem(words)
    x = p.x0
    for k in range(p.K):
        x = x - p.eta * np.sign(sum(p.gradient(i, x, k) for i in range(p.m)) / p.m)
    np.testing.assert_allclose(play(process_groups, 1, *words).x, np.array([x] * p.m), **EXACT)


@pytest.mark.parametrize("scale", ["lr", "none"])
def test_the_outer_sign_goes_with_every_W(process_groups, scale):
    words = (*QUADRATIC, "algo=dpsgd", "tau=2", "outer=sign", f"outer.scale={scale}", "outer.lr=0.3")
    p, size = problem(words), 0.3
    x = z = [p.x0] * 8
    for k in range(p.K):
        x = [x[i] - p.eta * p.gradient(i, x[i], k) for i in range(8)]
        if k % 2:
            y = [(x[i - 1] + x[i] + x[(i + 1) % 8]) / 3 for i in range(8)]
            x = z = [z[i] - size * (p.eta if scale == "lr" else 1) * np.sign(z[i] - y[i]) for i in range(8)]
    np.testing.assert_allclose(play(process_groups, 2, *words).x, np.array(x), **EXACT)


def test_a_difference_that_is_small_beside_the_model_has_its_sign(process_groups):
    """In float32 a step of 1e-12 leaves z - (z - q) at 0; q itself is not."""
    words = (*QUADRATIC[:1], "dtype=float32", *QUADRATIC[2:], "algo=demo", "steps=1", "optim.lr=1e-9", "task.sigma=0")
    found = play(process_groups, 1, *words, "outer.scale=none", "outer.lr=0.5").x
    start = problem((*words, "dtype=float64")).x0
    np.testing.assert_allclose(np.abs(found - start), 0.5, rtol=1e-5)


BLOCKS = (
    Block("a", (12, 10), (10, 1), 0),
    Block("bias", (7,), (1,), 120),
    Block("conv", (4, 3, 2, 2), (12, 1, 6, 3), 127),
)


@pytest.mark.parametrize("columns", [None, torch.arange(100, 170)])
def test_the_transform_keeps_lengths_and_comes_back(columns):
    codec = codecs.DCT(chunk=5)
    width = 175 if columns is None else len(columns)
    coder = codec.coder(BLOCKS, columns, width, torch.float64, 0)
    v = torch.randn(3, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coded = coder.coded(v)
    torch.testing.assert_close(coded.norm(dim=1), v.norm(dim=1))
    torch.testing.assert_close(coder.restored(coded), v, rtol=0, atol=1e-13)
    assert sum(len(starts) * L for starts, L in codec.segments(BLOCKS, columns)) == width


def test_one_worker_loses_nothing():
    """delta and what was sent add up to all gradients."""
    codec = codecs.DCT(chunk=4, keep=2)
    coder = codec.coder(BLOCKS, None, 175, torch.float64, 0)
    draw = torch.Generator().manual_seed(0)
    delta = total = gone = torch.zeros(1, 175, dtype=torch.float64)
    for _ in range(10):
        g = torch.randn(1, 175, dtype=torch.float64, generator=draw)
        q, _ = coder.unpack(coder.pack(delta + g, [0], True), [0])
        delta, total, gone = delta + g - q, total + g, gone + q
    torch.testing.assert_close(delta + gone, total, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("algo=demo", "codec.chunk=0"), "codec.chunk: must be a whole number of at least 1, got 0"),
        (("algo=demo", "codec.keep=half"), "codec.keep: must be a whole number, got 'half'"),
        (("algo=demo", "codec.bits=9"), "codec.bits: this codec takes 1 to 8, got 9"),
        (("algo=demo", "outer.weight_decay=-1"), "outer.weight_decay: must be a number, not negative, got -1"),
        (("algo=demo", "outer.scale=rate"), "outer.scale: must be one of none, lr, got 'rate'"),
        (("algo=easgd", "codec=dct"), "codec=dct: easgd: with a W that moves"),
    ],
)
def test_bad_input(words, says):
    with pytest.raises(ConfigError) as error:
        compose_config(["task=quadratic", *words])
    assert says in str(error.value)
