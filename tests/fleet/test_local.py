"""Mixing the rows of one process: equal to the product in whatever way it is done, and only where something changes."""

from __future__ import annotations

import arrays as matrices
import numpy as np
import pytest
import torch
from conftest import processor_time
from scipy.sparse import csr_array

from coopsgd.fleet import compiled
from coopsgd.fleet.entries import Entries
from coopsgd.fleet.local import Combined, Local, _Product, _Split
from coopsgd.host import native
from coopsgd.mixing import graphs
from coopsgd.mixing.matrix import Edges
from coopsgd.mixing.rounded import in_sum_one


def kinds(r: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    one = np.eye(r)
    one[0] = rng.random(r)
    pair = np.eye(r)
    pair[:2, :2] = 0.5 if r > 1 else 1
    return {
        "dense": rng.standard_normal((r, r)),
        "sparse": rng.standard_normal((r, r)) * (rng.random((r, r)) < 3 / r),
        "one row": one,
        "one pair": pair,
        "average": np.full((r, r), 1 / r),
        "lazy": 0.5 * np.eye(r) + 0.5 / r,
        "nothing": np.eye(r),
        "zero": np.zeros((r, r)),
    }


@pytest.fixture(params=["compiled", "torch"])
def way(request, monkeypatch):
    """With the compiled kernels, where there are some, and without."""
    if request.param == "torch":
        monkeypatch.setattr(native, "library", lambda: None)
    return request.param


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@pytest.mark.parametrize("r", [1, 2, 6, 7, 64, 300])
def test_equal_to_the_product(r, dtype, tolerance, way):
    rng = np.random.default_rng(r)
    for name, S in kinds(r, rng).items():
        for sizes in ((), (1,), (0, 3), (2, 1)):
            Ms = [rng.standard_normal((r, k)) * (rng.random((r, 1)) < 0.5) for k in sizes]
            x = torch.from_numpy(rng.standard_normal((r, 5000))).to(dtype)  # no multiple of any slice
            extras = [torch.from_numpy(rng.standard_normal((k, 5000))).to(dtype) for k in sizes]
            expected = sum((M @ e.double().numpy() for M, e in zip(Ms, extras, strict=True)), S @ x.double().numpy())
            still = [i for i in range(r) if np.array_equal(S[i], np.eye(r)[i]) and not any(M[i].any() for M in Ms)]
            before = x[still].clone()
            Local(S, [Entries.of(M) for M in Ms])(x, *extras)
            scale = np.abs(S).sum(1).max() + sum(np.abs(M).sum(1).max(initial=0) for M in Ms) + 1
            np.testing.assert_allclose(x.double().numpy(), expected, rtol=0, atol=6 * tolerance * scale, err_msg=name)
            assert torch.equal(x[still], before), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("r", [5, 8, 32])
def test_the_mean_moves_in_no_direction(r, lazy, dtype, way):
    """Weights are rounded too: 1/3 thrice is 3e-8 too much in float32, and 2e-3 in bfloat16."""
    W = matrices.metropolis(graphs.Ring().adjacency(r))
    x = torch.from_numpy(np.random.default_rng(r).uniform(1, 2, (r, 200_000))).to(dtype)
    before = x.double().mean(0)
    Local(in_sum_one(Edges.of_sparse(csr_array((np.eye(r) + W) / 2 if lazy else W))))(x)
    moved = float(((x.double().mean(0) - before) / before).mean())
    assert abs(moved) < 0.01 * torch.finfo(dtype).eps  # with weights rounded one by one 0.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("r", [2, 5, 6, 9, 20])
def test_rows_that_are_mixed_alike_are_alike(r, dtype, way):
    rng = np.random.default_rng(r)
    shares = rng.dirichlet(np.ones(r))
    halves = np.zeros((r, r))
    for part in (slice(0, r // 2), slice(r // 2, r)):
        halves[part, part] = shares[part] / shares[part].sum()
    for W in (np.tile(shares, (r, 1)), halves):
        x = torch.from_numpy(rng.standard_normal((r, 5000))).to(dtype)
        Local(W)(x)
        for part in (slice(0, r // 2), slice(r // 2, r)):
            assert (x[part] == x[part][:1]).all()


def test_a_slice_of_other_rows_is_mixed_in_place():
    whole = torch.arange(60.0).reshape(6, 10)
    part = whole[1:5]
    S = np.roll(np.eye(4), 1, axis=1)  # a cycle: each takes the next, and none may read what was written already
    expected = part.roll(-1, 0).clone()
    Local(S)(part)
    assert torch.equal(whole[1:5], expected) and whole[0, 0] == 0 and whole[5, 9] == 59


@pytest.mark.skipif(not native.in_use(), reason="built without a compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("r", [5, 8, 64])
def test_kernels_make_the_same_bits_of_a_column_wherever_it_lies(r, dtype, monkeypatch):
    rng = np.random.default_rng(r)
    star = 0.9 * np.eye(r)
    star[0] = star[:, 0] = 0.1
    for S in (star, np.full((r, r), 1 / r), matrices.metropolis(graphs.Ring().adjacency(r))):
        x = torch.from_numpy(rng.standard_normal((r, 5000))).to(dtype)
        whole, cut, shared = x.clone(), x.clone(), x.clone()
        mix = Local(S)
        assert mix._made(x).kernel is not None
        mix(whole)
        for a, b in ((0, 1), (1, 3), (3, 1024), (1024, 2733), (2733, 5000)):
            mix(cut[:, a:b])
        monkeypatch.setattr(compiled, "LARGE", 0)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        mix(shared)
        monkeypatch.undo()
        assert torch.equal(whole, cut) and torch.equal(whole, shared)
        strided = torch.empty(r, 10000, dtype=dtype)[:, ::2].copy_(x)  # which no kernel takes
        mix(strided)
        torch.testing.assert_close(strided, whole, rtol=0, atol=1e-14 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 3e-7)])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 32, 33, 70, 500])
def test_a_mean_of_some_rows(m, dtype, tolerance, way, monkeypatch):
    """Of rows in any order among others; by the kernel a column has the same bits wherever it lies."""
    monkeypatch.setattr(compiled, "LARGE", 1000)  # threads share it
    draw = np.random.default_rng(m)
    rows = draw.permutation(m + 3)[:m].astype(np.int64)
    x = torch.from_numpy(draw.standard_normal((m + 3, 2300))).to(dtype)
    whole = torch.full((3, 2300), 7.0, dtype=dtype)
    compiled.Mean(rows)(x, whole[1:2])
    torch.testing.assert_close(whole[1], x.double()[rows].mean(0).to(dtype), rtol=tolerance, atol=tolerance)
    assert (whole[[0, 2]] == 7).all(), "what lies beside the mean was touched"
    if way == "compiled":
        for a, b in ((0, 1), (1, 1025), (1025, 2300)):
            part = torch.empty(1, b - a, dtype=dtype)
            compiled.Mean(rows)(x[:, a:b], part)
            assert torch.equal(part[0], whole[1, a:b])


def test_a_mean_of_many_rows_does_not_add_up_their_rounding(way):
    """Added one to another 4096 of these are off by 3.9e-6."""
    x = torch.full((4096, 64), 0.1)
    out = torch.empty(1, 64)
    compiled.Mean(np.arange(4096))(x, out)
    assert float((out.double() - x[0, 0].double()).abs().max()) < 1e-7


@pytest.mark.skipif(not native.in_use(), reason="built without a compiler")
def test_a_mean_of_a_power_of_two_that_are_alike_is_what_they_are():
    x = torch.randn(8, 300)[:1].expand(8, -1).contiguous()
    out = torch.empty(1, 300)
    for m in (1, 2, 4, 8):
        compiled.Mean(np.arange(m))(x, out)
        assert torch.equal(out, x[:1])


def test_how_it_is_done():
    like = torch.zeros(1)
    ring = matrices.metropolis(graphs.Ring().adjacency(64))
    assert Local(ring)._made(like).gathered is not None
    assert Local(np.random.default_rng(0).random((64, 64)))._made(like).gathered is None
    assert isinstance(Local(matrices.average(64))._made(like), _Split)
    pair = np.eye(64)
    pair[:2, :2] = 0.5
    made = Local(pair)._made(like)
    assert isinstance(made, _Product) and made.changed.tolist() == [0, 1]


def test_a_large_ring_is_far_from_a_dense_product():
    ring, x = matrices.metropolis(graphs.Ring().adjacency(1024)), torch.randn(1024, 8192)
    dense, mix = torch.from_numpy(ring.copy()).float(), Local(ring)
    mix(x)
    assert processor_time(lambda: mix(x)) < processor_time(lambda: dense @ x) / 3  # about a thirtieth


SPARSE = np.kron(np.eye(20), np.ones((20, 1))) * (1 + np.arange(20))  # 400 rows, a number each


def test_what_is_added_up_before_it_is_sent():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 5000))
    for V in (np.eye(20)[[3, 7]], rng.random((3, 20)), rng.random((2, 20)) * (np.arange(20) == 4), np.eye(20)[[9]] * 2, SPARSE):
        out = Combined(Entries.of(V))(torch.from_numpy(x), torch.empty(len(V), 5000, dtype=torch.float64))
        np.testing.assert_allclose(out.numpy(), V @ x, rtol=0, atol=1e-14 * 20)
