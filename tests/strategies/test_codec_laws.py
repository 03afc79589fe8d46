"""What holds of every codec: nothing of nothing, scales, bits, what is kept back, what a message weighs, its reading by all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from playing import MLP, QUADRATIC, play, settle
from test_oracle import EXACT, problem

from coopsgd.fleet.block import Block
from coopsgd.setup.parts import Parts
from coopsgd.strategies import codecs
from coopsgd.strategies.coder import mean
from coopsgd.testing.runs import Recorder, make_loop

D = 96
BLOCKS = (Block("a", (6, 10), (10, 1), 0), Block("b", (36,), (1,), 60))
EVERY = {
    "identity": codecs.Identity(),
    "bf16": codecs.BFloat16(),
    "fp16": codecs.Float16(),
    "sign": codecs.Sign(),
    "minmax": codecs.MinMax(),
    "statistical": codecs.Statistical(),
    "qsgd": codecs.QSGD(chunk=16),
    "topk": codecs.TopK(share=0.2),
    "topk of 2 bits": codecs.TopK(share=0.2, bits=2, per="chunk", chunk=16),
    "randk": codecs.RandK(share=0.2),
    "dct": codecs.DCT(chunk=6, keep=3),
    "powersgd": codecs.PowerSGD(rank=2),
}


def coder_of(codec, k=3, dtype=torch.float64):
    return codec.coder(BLOCKS, None, D, dtype, k)


def said(codec, v, contract=False):
    """What a message says of v (r, D)."""
    coder, memory = coder_of(codec), None
    if codec.REMEMBERS:
        memory = codec.begin(BLOCKS, v).expand(len(v), -1)
    return coder.unpack(coder.pack(v, range(len(v)), contract, memory), range(len(v)))[0]


def numbers(rows=3, seed=0):
    return torch.randn(rows, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", EVERY)
def test_of_nothing_nothing_and_of_twice_as_much_twice_as_much(name):
    codec, v = EVERY[name], numbers()
    assert torch.equal(said(codec, torch.zeros_like(v)), torch.zeros_like(v))
    one = said(codec, v)
    for scale in (4.0, 0.5):  # by which floating-point numbers are multiplied exactly
        torch.testing.assert_close(
            said(codec, scale * v), scale * one, rtol=0, atol=0 if name not in ("dct", "powersgd") else 1e-12
        )
    if name not in ("bf16", "fp16"):  # whose steps are those of powers of 2
        torch.testing.assert_close(said(codec, 3 * v), 3 * one, rtol=0, atol=1e-12)
    if name not in ("minmax", "statistical", "topk of 2 bits"):  # whose bins may be reached from above
        torch.testing.assert_close(said(codec, -v), -one, rtol=0, atol=0 if name not in ("dct", "powersgd") else 1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_a_message_is_read_alike_wherever_it_is_written_and_read(name):
    """To the bit: by whoever holds all rows, or one of them."""
    codec, v = EVERY[name], numbers(4)
    coder = coder_of(codec)
    memory = codec.begin(BLOCKS, v).expand(4, -1) if codec.REMEMBERS else None
    packed = coder.pack(v, range(4), True, memory)
    values, held = coder.unpack(packed, range(4))
    for i in range(4):
        assert torch.equal(coder.pack(v[i : i + 1], [i], True, None if memory is None else memory[:1]), packed[i : i + 1])
        again = coder_of(codec).unpack(packed[i : i + 1].clone(), [i])
        assert torch.equal(again[0], values[i : i + 1]) and (held is None or torch.equal(again[1], held[i : i + 1]))


@pytest.mark.parametrize("bits", range(1, 17))
def test_with_more_bits_less_is_off(bits):
    """At most half a step: of the range, or of the norm over its levels, a whole one where rounding is at random."""
    v = numbers()
    near = said(codecs.MinMax(bits=bits), v)
    for at in (slice(0, 60), slice(60, D)):
        wide = v[:, at].amax(1) - v[:, at].amin(1)
        assert ((near - v)[:, at].abs().amax(1) <= wide / (2**bits - 1) / 2 * (1 + 1e-9)).all()
    if bits > 1:
        off = (said(codecs.QSGD(bits=bits, per="row"), v) - v).abs().amax(1)
        assert (off <= v.norm(dim=1) / (2 ** (bits - 1) - 1)).all()


def test_what_comes_back_is_nearer():
    """|C(v) - v|^2: of the scaled sign |v|^2 - |v|_1^2 / d, of the largest k at most (1 - k / d) |v|^2."""
    v = numbers(50)
    sign = codecs.Sign(per="row")
    off = (said(sign, v) - v).square().sum(1)
    torch.testing.assert_close(off, v.square().sum(1) - v.abs().sum(1) ** 2 / D, rtol=1e-12, atol=0)
    for share in (0.125, 0.5, 1.0):
        off = (said(codecs.TopK(share=share, per="row"), v) - v).square().sum(1)
        assert (off <= (1 - share) * v.square().sum(1)).all()


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_rounding_at_random_is_off_by_what_its_paper_allows(bits):
    """E |q - v|^2 <= min(d / s^2, sqrt(d) / s) |v|^2, s levels; over 400 draws of one vector."""
    v, s = numbers(1).expand(400, -1), 2 ** (bits - 1) - 1
    off = (said(codecs.QSGD(bits=bits, per="row"), v) - v).square().sum(1).mean()
    assert off <= min(D / s**2, D**0.5 / s) * v[0].square().sum()


def test_over_its_senders_a_coordinate_counts_as_much_more_as_there_are_fewer():
    codec, v = codecs.TopK(share=0.2, per="row", over="senders"), numbers(5)
    coder = coder_of(codec)
    packed = coder.pack(v, range(5), True)
    count = coder.unpack(packed, range(5))[1].sum(0, keepdim=True)
    over = [mean(coder, packed, 5, kind) for kind in ("senders", "all")]
    assert {0, 1, 2} <= set(count.flatten().tolist())
    torch.testing.assert_close(over[0] * count / 5, over[1], rtol=0, atol=1e-12)
    assert not over[0][count == 0].any()


@pytest.mark.parametrize(("share", "times"), [(64 / 4096, 146), (0.01, 228), (0.03, 76)])
def test_two_bits_and_twelve_for_the_place_are_a_small_part_of_float32(share, times):
    """k (2 + 12) / 8 bytes of 4096 numbers, as published: 1/147, 1/229, 1/76, and a table of four means beside it."""
    codec, k = codecs.TopK(share=share, bits=2, per="chunk", chunk=4096), round(share * 4096)
    size = codec.size(10, 4096, 4) - 10 * 4 * 4
    assert abs(size - 10 * k * (2 + 12) / 8) <= 1 and int(10 * 4096 * 4 / size) in (times, times - 1)
    assert codecs.DCT().size(10, 4096, 4) == 10 * 32 * (4 * 8 + 12) / 8  # DeMo's, whose places are here of 12 bits, not 32


KEEPS = {
    "topk": ("algo=pasgd", "codec=topk", "codec.share=0.3"),
    "decays": ("algo=pasgd", "codec=topk", "codec.share=0.2", "codec.decay=0.8"),
    "randk": ("algo=pasgd", "codec=randk", "codec.share=0.3", "codec.decay=0.9"),
    "sign": ("algo=efsign",),
    "sparseloco": ("algo=sparseloco", "task.dim=60", "codec.share=0.1"),
    "qsgd": ("algo=pasgd", "codec=qsgd", "codec.feedback=true", "codec.bits=3"),
    "powersgd": ("algo=powersgd",),
    "powersgd decays": ("algo=powersgd", "codec.decay=0.7"),
}


@pytest.mark.parametrize("inner", [(), ("optim=adam", "optim.lr=0.01")], ids=" ".join)
@pytest.mark.parametrize("case", KEEPS)
def test_what_is_left_out_is_kept(case, inner):
    """z - mean e after a communication is z - decay mean e - mean D before it; without decay z0 less all mean D."""
    base = (*MLP, "workers=3", "batch_size=4", "steps=8") if "powersgd" in case else (*QUADRATIC, "steps=12")
    config = settle((*base, *KEEPS[case], "tau=2", *inner))
    loop = make_loop(config, observer=Recorder())
    beta, kept, z = Parts(config).codec.decay, 0.0, loop.state.x[:1].clone()
    start, total, left = z, 0.0, 0.0
    for _ in range(config.steps // 2):
        loop.advance(), loop.advance()
        away = z - loop.observer.before[-1][2].mean(0, keepdim=True)
        new = loop.state.s.z if loop.state.s.z is not None else loop.state.x[:1]
        e = loop.state.s.kept[0].mean(0, keepdim=True)
        torch.testing.assert_close(new - e, z - beta * kept - away, rtol=0, atol=1e-12)
        z, kept, total, left = new.clone(), e.clone(), total + away, max(left, float(e.abs().max()))
    assert left > 1e-6
    if beta == 1:
        torch.testing.assert_close(z - kept, start - total, rtol=0, atol=1e-12)


@pytest.mark.parametrize("codec", ["sign", "topk"])
def test_the_models_less_what_is_kept_follow_sgd_on_the_same_gradients(codec):
    words = (*QUADRATIC, "algo=pasgd", "tau=1", f"codec={codec}")
    p, loop = problem(words), make_loop(settle(words), observer=Recorder())
    x = p.x0
    for k in range(12):
        at = loop.state.x[0].numpy().copy()
        loop.advance()
        x = x - p.eta * sum(p.gradient(i, at, k) for i in range(8)) / 8
        np.testing.assert_allclose(loop.state.x[0] - loop.state.s.kept[0].mean(0), x, **EXACT)


FLAT = "task.curvature=[" + ",".join(["[0,0,0]"] * 8) + "]"
GOSSIP = [
    ("codec=bf16",),
    ("codec=fp16", "topology=exponential"),
    ("codec=topk", "codec.share=0.3", "codec.gamma=0.3"),
    ("codec=qsgd", "codec.gamma=0.4", "outer=nesterov", "outer.lr=1", "outer.momentum=0"),
    ("codec=sign", "codec.rule=deepsqueeze", "codec.gamma=0.3"),
    ("codec=randk", "codec.rule=deepsqueeze", "codec.gamma=0.3", "fragments=columns", "fragments.count=3", "delay=1"),
]


@pytest.mark.parametrize("more", GOSSIP, ids=" ".join)
def test_gossip_of_compressed_models_keeps_their_mean(more):
    """Whatever a message leaves out, and at gamma = 1 too: gradients are noise alone, and the mean takes their mean."""
    words = (*QUADRATIC, "algo=dpsgd", "tau=3", "task.heterogeneity=0", FLAT, *more)
    p = problem(words)
    expected = p.x0 - p.eta * sum(p.gradient(i, p.x0, k) for i in range(8) for k in range(p.K)) / 8
    found = play(None, 1, *words).x
    np.testing.assert_allclose(found.mean(0), expected, **EXACT)
    assert np.ptp(found, axis=0).max() > 1e-3
