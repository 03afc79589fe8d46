"""codec=powersgd: against slow loops on every placement, what it costs, what it keeps, what it refuses."""

from __future__ import annotations

import numpy as np
import oracle
import oracle_sent
import pytest
import torch
from oracle_sent import Matrices
from playing import MLP, play, settle
from public import Network
from test_outer import OUTERS, words_of

from coopsgd.commands.compose import compose_config
from coopsgd.errors import ConfigError
from coopsgd.fleet.block import Block
from coopsgd.setup.parts import Parts
from coopsgd.strategies import codecs

EXACT = {"rtol": 0, "atol": 1e-12}
CASE = (*MLP, "workers=4", "steps=9", "batch_size=4", "eval_samples=10")
RANK = 2


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize(
    ("words", "more"),
    [
        (("algo=powersgd",), {}),
        (("algo=pasgd", "codec=powersgd", "tau=3", "delay=1", *words_of("nesterov")), {"delay": 1}),
    ],
)
def test_is_what_slow_loops_make_of_it(process_groups, words, more, processes):
    played, p = play(process_groups, processes, *CASE, *words), Network(settle((*CASE, *words)))
    kept: list[np.ndarray] = []
    if "delay" in more:
        more = {**more, "outer": lambda z, y: oracle.outer_step("nesterov", z, y, kept, OUTERS["nesterov"], p.eta)}
    np.testing.assert_allclose(played.x, oracle_sent.powersgd(p, **more), **EXACT)
    numbers = Matrices(p, RANK).numbers
    rounds = 9 if len(words) == 1 else 3
    assert played.logical == (rounds, rounds * 2 * 6, rounds * 6 * numbers * 8)  # two averages: 2 (m - 1) messages each


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("rule", ["choco", "deepsqueeze"])
def test_gossip_by_factors_of_ones_own(process_groups, rule, processes):
    words = (*CASE, "algo=dpsgd", "tau=2", "codec=powersgd", f"codec.rule={rule}", "codec.gamma=0.4")
    p, W = Network(settle(words)), ring(4)
    found, m = Matrices(p, RANK), 4
    x, copies, e, Qs = [p.x0] * m, [p.x0] * m, [np.zeros_like(p.x0)] * m, [found.Qs] * m
    for k in range(p.K):
        x = [x[i] - p.eta * p.gradient(i, x[i], k) for i in range(m)]
        if k % 2 == 0:
            continue
        v = [x[i] - copies[i] if rule == "choco" else x[i] + e[i] for i in range(m)]
        q, Qs = zip(*(found.approximated([v[i]], Qs[i]) for i in range(m)), strict=True)
        if rule == "choco":
            q = copies = [copies[i] + q[i] for i in range(m)]
        else:
            e = [v[i] - q[i] for i in range(m)]
        x = [x[i] + 0.4 * (sum(W[i][j] * q[j] for j in range(m)) - q[i]) for i in range(m)]
    played = play(process_groups, processes, *words)
    np.testing.assert_allclose(played.x, np.array(x), **EXACT)
    assert played.logical[2] == 4 * 8 * 8 * found.numbers


def ring(m):
    return [[1 / 3 if (i - j) % m in (0, 1, m - 1) else 0 for j in range(m)] for i in range(m)]


def test_by_layers_it_is_the_same_wherever_rows_are(process_groups):
    words = (*CASE, "algo=pasgd", "tau=4", "steps=13", "fragments.count=2", "fragments.by=layer", "codec=powersgd", "delay=1")
    words += ("outer=nesterov",)
    alone = play(process_groups, 1, *words)
    for more in (("fleet=shared",), ()):
        there = play(process_groups, 2, *words, *more)
        np.testing.assert_allclose(there.x, alone.x, **EXACT)
        assert there.logical == alone.logical


BLOCKS = (
    Block("a", (6, 5), (5, 1), 0),
    Block("bias", (7,), (1,), 30),
    Block("conv", (8, 3, 2, 2), (1, 32, 16, 8), 37),  # channels last, and its first dimension innermost
    Block("few", (3, 2), (2, 1), 133),
)


def coder_of(rank, columns=None):
    codec = codecs.PowerSGD(rank=rank)
    return codec, codec.coder(BLOCKS, columns, 139 if columns is None else len(columns), torch.float64, 0)


@pytest.mark.parametrize("rank", [1, 2])
def test_matrices_of_its_rank_are_sent_as_they_are(rank):
    codec, coder = coder_of(rank)
    draw = torch.Generator().manual_seed(0)
    v = torch.randn(3, 139, dtype=torch.float64, generator=draw)
    for block in BLOCKS:
        if len(block.shape) > 1:
            n, p = block.matrix
            factors = [torch.randn(3, size, rank, dtype=torch.float64, generator=draw) for size in (n, p)]
            block.matrices(v).copy_(factors[0] @ factors[1].transpose(1, 2))
    memory = codec.begin(BLOCKS, v).expand(3, -1)
    packed = coder.pack(v, range(3), True, memory)
    assert packed.shape[1] == sum(coder.sizes)
    torch.testing.assert_close(coder.unpack(packed, range(3))[0], v, rtol=0, atol=1e-12)


def test_iterations_find_the_best_of_its_rank():
    """The same matrix again and again: a power iteration, whose error becomes that of the singular value decomposition."""
    codec, coder = coder_of(2)
    v = torch.randn(1, 139, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    memory = codec.begin(BLOCKS, v)
    for _ in range(300):
        packed = coder.pack(v, range(1), True, memory)
        memory = coder.recalled(packed, memory)
    found = coder.unpack(packed, range(1))[0]
    for block in (BLOCKS[0], BLOCKS[2]):
        U, s, V = torch.linalg.svd(block.matrices(v)[0], full_matrices=False)
        best = U[:, :2] * s[:2] @ V[:2]
        torch.testing.assert_close(block.matrices(found)[0], best, rtol=0, atol=1e-6)


def test_a_matrix_of_zeros_is_not_the_end_of_it():
    codec, coder = coder_of(1)
    v = torch.zeros(1, 139, dtype=torch.float64)
    memory = codec.begin(BLOCKS, v)
    memory = coder.recalled(coder.pack(v, range(1), True, memory), memory)
    v[:, :30] = (torch.arange(6.0)[:, None] + 1).expand(6, 5).flatten()
    found = coder.unpack(coder.pack(v, range(1), True, memory), range(1))[0]
    torch.testing.assert_close(found, v, rtol=0, atol=1e-12)


def test_of_fragments_whole_matrices_alone_travel_as_factors():
    columns = torch.cat([torch.arange(0, 30), torch.arange(133, 139)])
    codec, coder = coder_of(1, columns)
    v = torch.randn(2, 36, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    memory = codec.begin(BLOCKS, v).expand(2, -1)
    packed = coder.pack(v, range(2), True, memory)
    assert packed.shape[1] == 8 * (6 + 5 + 3 + 2)
    after = coder.recalled(packed, memory)
    assert torch.equal(after[:, 5:17], memory[:, 5:17]) and not torch.equal(after[:, :5], memory[:, :5])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("task=quadratic", "algo=powersgd"), "codec=powersgd: powersgd: the model has no matrix"),
        (
            ("codec=powersgd", "algo=pasgd", "codec.rank=11"),
            "codec.rank=11: the smallest matrix of the model, 3.weight, is 10 x",
        ),
        (("codec=powersgd", "algo=pasgd", "codec.rank=0"), "codec.rank: must be a whole number of at least 1, got 0"),
        (("codec=powersgd", "algo=pasgd", "codec.rank=1.5"), "codec.rank: must be a whole number, got 1.5"),
        (
            ("codec=powersgd", "algo=pasgd", "model.hidden=[10]", "codec.rank=9"),
            "codec.rank=9: two factors of this rank are no",
        ),
        (("codec=powersgd", "algo=one_peer"), "codec=powersgd: one_peer: with a W that moves"),
        (("codec=powersgd", "algo=easgd"), "codec=powersgd: easgd: with a W that moves"),
        (
            ("codec=powersgd", "algo=pasgd", "tau=4", "fragments.count=2"),
            "fragments.by=stride: cuts matrices, of which codec=powersgd sends factors; use fragments.by=layer",
        ),
    ],
)
def test_bad_input(words, says):
    with pytest.raises(ConfigError) as error:
        compose_config(list(words))
    assert says in str(error.value)


def test_its_default_fits_the_default_model():
    assert Parts(settle((*MLP, "algo=powersgd"))).codec.rank == 2
