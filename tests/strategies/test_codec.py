"""Codecs: what a message holds and weighs, error feedback and public copies against slow loops on every placement, refusals."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import oracle
import pytest
import torch
from playing import QUADRATIC, play, settle
from test_oracle import EXACT, problem
from test_outer import OUTERS, matrices, words_of

from coopsgd.commands.compose import compose_config
from coopsgd.errors import ConfigError
from coopsgd.fleet.block import vector
from coopsgd.fleet.plan import layout_of
from coopsgd.fleet.spread import routes, spread_price
from coopsgd.mixing.matrix import Matrix
from coopsgd.setup.parts import Parts
from coopsgd.strategies import codecs, packing
from coopsgd.strategies.coder import Coder
from coopsgd.streams import stream
from coopsgd.testing import check_strategy

D = 10


def topk(v, share=0.3):
    k = max(1, round(share * len(v)))
    q = np.zeros_like(v)
    for i in sorted(range(len(v)), key=lambda i: (-abs(v[i]), i))[:k]:
        q[i] = v[i]
    return q


def sign(v):
    return np.array([1.0 if one >= 0 else -1.0 for one in v]) * sum(abs(one) for one in v) / len(v)


def minmax(v, bits=4):
    low, high = min(v), max(v)
    return np.array([low + round((one - low) / (high - low) * (2**bits - 1)) / (2**bits - 1) * (high - low) for one in v])


def statistical(v, bits=2):
    mean, std = sum(v) / len(v), math.sqrt(sum((one - sum(v) / len(v)) ** 2 for one in v) / len(v))
    at = [min(max(round((one - mean) / (6 * std / 2**bits) + 2 ** (bits - 1)), 0), 2**bits - 1) for one in v]
    inside = {b: [one for one, i in zip(v, at, strict=True) if i == b] for b in set(at)}
    return np.array([sum(inside[b]) / len(inside[b]) for b in at])


def bf16(v):
    return torch.from_numpy(v).to(torch.bfloat16).double().numpy()


def randk(v, row, k, share=0.3):
    at = stream(0, "codec", row, k).choice(len(v), round(share * len(v)), replace=False, shuffle=False)
    q = np.zeros_like(v)
    q[at] = v[at]
    return q


def qsgd(v, row, k, bits=4):
    s, norm = 2 ** (bits - 1) - 1, math.sqrt(sum(one * one for one in v))
    u = stream(0, "codec", row, k).random((1, len(v)))[0]
    by = 1 + min(len(v) / s**2, math.sqrt(len(v)) / s)
    return np.array([math.copysign(math.floor(s * abs(x) / norm + u[i]), x) * norm / s / by for i, x in enumerate(v)])


CODECS = {
    "identity": ((), lambda v, row, k: v),
    "bf16": ((), lambda v, row, k: bf16(v)),
    "topk": (("codec.share=0.3",), lambda v, row, k: topk(v)),
    "sign": ((), lambda v, row, k: sign(v)),
    "minmax": ((), lambda v, row, k: minmax(v)),
    "statistical": ((), lambda v, row, k: statistical(v)),
    "randk": (("codec.share=0.3",), lambda v, row, k: randk(v, row, k)),
    "qsgd": (("codec.feedback=true",), lambda v, row, k: qsgd(v, row, k)),
}


def slow(words, C, keeps, decay=1.0, over="all", outer=None, delay=0):
    """W = J: differences to the slow model, what is left out added to the next."""
    p = problem(words)
    m, x, z = p.m, [p.x0.copy() for _ in range(p.m)], p.x0.copy()
    e, kept, then = [np.zeros_like(z) for _ in range(m)], [], x
    for k, r in enumerate(p.rounds()):
        if k % p.tau == p.tau - delay:
            then, sent = x, k
        x = [x[i] - p.eta * p.gradient(i, x[i], k) for i in range(m)]
        if r < 0:
            continue
        then, sent = (x, k) if not delay else (then, sent)
        v = [z - then[i] + (decay * e[i] if keeps else 0) for i in range(m)]
        q = [C(v[i], i, sent) for i in range(m)]
        e = [v[i] - q[i] for i in range(m)]
        count = m if over == "all" else np.maximum(1, sum((one != 0).astype(float) for one in q))
        y = z - sum(q) / count
        z = oracle.outer_step(outer[0], z, y, kept, outer[1], p.eta) if outer else y
        x = [z + (x[i] - then[i]) for i in range(m)]
    return np.array(x)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("codec", CODECS)
def test_differences_to_the_slow_model(process_groups, codec, processes):
    more, C = CODECS[codec]
    words = (*QUADRATIC, "algo=pasgd", "tau=3", f"codec={codec}", *more, *words_of("nesterov"))
    there = slow(words, C, codec not in ("identity", "bf16"), outer=("nesterov", OUTERS["nesterov"]))
    np.testing.assert_allclose(play(process_groups, processes, *words).x, there, **EXACT)


@pytest.mark.parametrize("processes", [1, 4])
def test_decay_senders_and_a_delay(process_groups, processes):
    words = (
        *QUADRATIC,
        "algo=pasgd",
        "tau=3",
        "codec=topk",
        "codec.share=0.3",
        "codec.decay=0.9",
        "codec.over=senders",
        "delay=1",
    )
    there = slow(words, CODECS["topk"][1], True, 0.9, "senders", delay=1)
    np.testing.assert_allclose(play(process_groups, processes, *words).x, there, **EXACT)


def gossip(words, C, rule, gamma):
    p, Ws = problem(words), matrices(words, 1)
    W, m = np.array(Ws[0]), p.m
    x = [p.x0.copy() for _ in range(m)]
    copies = [p.x0.copy() for _ in range(m)]
    e = [np.zeros_like(p.x0) for _ in range(m)]
    for k, r in enumerate(p.rounds()):
        x = [x[i] - p.eta * p.gradient(i, x[i], k) for i in range(m)]
        if r < 0:
            continue
        if rule == "choco":
            copies = [copies[i] + C(x[i] - copies[i], i, k) for i in range(m)]
            q = copies
        else:
            q = [C(x[i] + e[i], i, k) for i in range(m)]
            e = [x[i] + e[i] - q[i] for i in range(m)]
        x = [x[i] + gamma * (sum(W[i, j] * q[j] for j in range(m)) - q[i]) for i in range(m)]
    return np.array(x)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("rule", ["choco", "deepsqueeze"])
@pytest.mark.parametrize("codec", ["identity", "topk", "sign", "qsgd"])
def test_gossip_by_public_copies_and_with_feedback(process_groups, codec, rule, processes):
    more, C = CODECS[codec]
    more = tuple(word for word in more if "feedback" not in word)
    words = (*QUADRATIC, "algo=dpsgd", "tau=2", f"codec={codec}", *more, f"codec.rule={rule}", "codec.gamma=0.4")
    np.testing.assert_allclose(play(process_groups, processes, *words).x, gossip(words, C, rule, 0.4), **EXACT)


@pytest.mark.parametrize("words", [("algo=pasgd",), ("algo=dpsgd",), ("algo=dpsgd", "codec.rule=deepsqueeze"), ("algo=easgd",)])
def test_identity_is_no_codec(process_groups, words):
    plain = play(process_groups, 1, *QUADRATIC, "tau=3", words[0])
    np.testing.assert_allclose(play(process_groups, 1, *QUADRATIC, "tau=3", "codec=identity", *words).x, plain.x, **EXACT)


def test_all_of_it_is_averaging_whatever_the_decay(process_groups):
    words = (*QUADRATIC, "algo=pasgd", "tau=3")
    plain = play(process_groups, 1, *words)
    whole = play(process_groups, 1, *words, "codec=topk", "codec.share=1", "codec.decay=0.5")
    np.testing.assert_allclose(whole.x, plain.x, **EXACT)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("algo", ["easgd", "one_peer", "matching", "hierarchical", "fedavg", "parameter_server", "gossip_pga"])
def test_sixteen_bits_go_with_every_schedule(process_groups, algo, processes):
    words = (*QUADRATIC, f"algo={algo}", "tau=3", "codec=bf16")
    played, plain = play(process_groups, processes, *words), play(process_groups, 1, *words[:-1])
    alone = play(process_groups, 1, *words)
    np.testing.assert_allclose(played.x, alone.x, **EXACT)
    assert played.logical == alone.logical
    assert 0 < np.abs(played.x - plain.x).max() < 0.1
    Ws = matrices(words, 8) if algo in ("easgd", "one_peer", "matching") else []
    if Ws:
        p = problem(words)
        there = oracle.periodic(p, lambda x, r: oracle.product(Ws[r % len(Ws)], [bf16(one) for one in x]), len(Ws[0]) - 8)
        if len(Ws) >= 8 or algo != "matching":
            np.testing.assert_allclose(alone.x, there, **EXACT)


def test_shared_memory_has_the_same_rows_and_sends_nothing(process_groups):
    for words in (("algo=pasgd", "codec=topk", "codec.share=0.3"), ("algo=dpsgd", "codec=sign"), ("algo=easgd", "codec=bf16")):
        there = play(process_groups, 2, *QUADRATIC, "tau=3", *words, "fleet=shared")
        alone = play(process_groups, 1, *QUADRATIC, "tau=3", *words)
        np.testing.assert_allclose(there.x, alone.x, **EXACT)
        assert there.logical == alone.logical and there.wire_bytes == 0


SIZES = {  # of 10 numbers of 8 bytes
    "identity": 80,
    "bf16": 20,
    "topk": 3 * 8 + math.ceil(3 * 4 / 8),
    "sign": 8 + math.ceil(10 / 8),
    "minmax": 16 + math.ceil(10 * 4 / 8),
    "statistical": 4 * 8 + math.ceil(10 * 2 / 8),
    "randk": 3 * 8,
    "qsgd": 8 + math.ceil(10 * 4 / 8),
}


@pytest.mark.parametrize("codec", SIZES)
def test_a_message_weighs_what_it_holds(process_groups, codec):
    more, _ = CODECS[codec]
    words = (*QUADRATIC, "algo=pasgd", "tau=3", f"codec={codec}", *more)
    played = play(process_groups, 4, *words)
    assert played.logical == (8, 8 * 8 * 7, 8 * 8 * 7 * SIZES[codec])
    assert played.wire_bytes == 8 * 4 * 3 * 2 * SIZES[codec]  # two rows of each process to three others


def test_with_fragments_outer_and_a_delay_wherever_rows_are(process_groups):
    words = (
        *QUADRATIC,
        "algo=pasgd",
        "tau=4",
        "codec=topk",
        "codec.share=0.4",
        "fragments.count=2",
        "delay=1",
        "outer=nesterov",
    )
    alone = play(process_groups, 1, *words)
    for processes in (2, 4):
        there = play(process_groups, processes, *words)
        np.testing.assert_allclose(there.x, alone.x, **EXACT)
        assert there.logical == alone.logical
    whole = play(process_groups, 1, *words, "codec.share=1")
    plain = play(process_groups, 1, *(word for word in words if not word.startswith("codec")))
    np.testing.assert_allclose(whole.x, plain.x, **EXACT)


@pytest.mark.parametrize("bits", range(33))
def test_bits_are_packed_the_lowest_first(bits):
    """Against a whole number of all of them; more than a slice, and a number that fills no whole bytes."""
    for n in (1, 13, packing.SLICE + 5):
        codes = np.random.default_rng(bits).integers(0, 2**bits, (2, n))
        packed = packing.pack(torch.from_numpy(codes), bits)
        assert packed.shape == (2, math.ceil(n * bits / 8)) and packed.dtype == torch.uint8
        assert packing.unpack(packed, n, bits).tolist() == codes.tolist()
        if n == 13:
            whole = [sum(int(code) << bits * i for i, code in enumerate(row)) for row in codes]
            assert [int.from_bytes(bytes(row), "little") for row in packed.tolist()] == whole


def test_feedback_loses_nothing():
    """z less the mean of what was left out is z0 less the sum of the mean differences."""
    codec = codecs.TopK(share=0.2, per="row")
    draw = np.random.default_rng(0)
    coder = Coder(codec, codec.segments(vector(D), None), D, torch.float64, 0)
    e, sent, total = torch.zeros(4, D, dtype=torch.float64), 0, 0
    for _ in range(20):
        v = torch.from_numpy(draw.standard_normal((4, D)))
        total = total + v
        q, held = coder.unpack(coder.pack(v + e, range(4), True), range(4))
        assert held.sum(1).tolist() == [2] * 4
        e = v + e - q
        sent = sent + q
    torch.testing.assert_close(sent + e, total, rtol=0, atol=1e-12)


def test_of_equal_numbers_the_first_are_sent():
    codec = codecs.TopK(share=0.4, per="row")
    coder = Coder(codec, codec.segments(vector(5), None), 5, torch.float64, 0)
    v = torch.tensor([[1.0, -2.0, 2.0, 2.0, -1.0], [3.0, 3.0, 3.0, 3.0, 3.0]], dtype=torch.float64)
    q, _ = coder.unpack(coder.pack(v, [0, 1], True), [0, 1])
    assert q.tolist() == [[0, -2, 2, 0, 0], [3, 3, 0, 0, 0]]


def test_rounding_at_random_is_right_on_average():
    codec = codecs.QSGD(bits=3)
    v = torch.randn(1, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for k in range(4000):
        coder = Coder(codec, codec.segments(vector(40), None), 40, torch.float64, k)
        found.append(coder.unpack(coder.pack(v, [0], False), [0])[0])
    assert float((torch.cat(found).mean(0) - v[0]).abs().max()) < 0.15


@pytest.mark.parametrize(
    ("algo", "words"),
    [
        ("pasgd", ("codec=topk", "codec.share=0.3", "outer=nesterov")),
        ("dpsgd", ("codec=sign", "codec.gamma=0.4")),
        ("easgd", ("codec=bf16",)),
        ("pasgd", ("tau=4", "codec=qsgd", "fragments.count=2")),
    ],
)
def test_keeps_every_promise_of_the_contract(process_groups, algo, words):
    check_strategy(algo, *(() if words[0] == "tau=4" else ("tau=3",)), *words, process_groups=process_groups, processes=(1, 2))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("algo=pasgd", "codec=topk", "codec.share=0"), "codec.share: must be a number above 0 and at most 1, got 0"),
        (("algo=pasgd", "codec=randk", "codec.share=1.5"), "codec.share: must be a number above 0"),
        (("algo=pasgd", "codec=qsgd", "codec.bits=17"), "codec.bits: must be a whole number in 1 to 16, got 17"),
        (("algo=pasgd", "codec=qsgd", "codec.bits=1"), "codec.bits: this codec takes 2 to 16, got 1"),
        (("algo=pasgd", "codec=minmax", "codec.bits=0"), "codec.bits: must be a whole number in 1 to 16, got 0"),
        (("algo=one_peer", "codec=topk"), "codec=topk: one_peer: with a W that moves or auxiliary models"),
        (("algo=easgd", "codec=sign"), "codec=sign: easgd: with a W that moves or auxiliary models"),
        (("algo=dpsgd", "codec=topk", "codec.rule=slow"), "codec.rule=slow: compresses differences"),
        (("algo=one_peer", "codec=bf16", "codec.rule=choco"), "codec.rule=choco: neighbours keep copies"),
        (("algo=pasgd", "codec=topk", "codec.gamma=0.5"), "codec.gamma=0.5: has no use with rule=slow"),
        (("algo=dpsgd", "codec=topk", "codec.feedback=true"), "codec.feedback=True: has no use with rule=choco"),
        (("algo=pasgd", "codec=sign", "codec.over=senders"), "codec.over=senders: every worker sends every coordinate"),
        (("algo=pasgd", "codec=topk", "codec.decay=0"), "codec.decay: must lie in (0, 1], got 0"),
        (("algo=pasgd", "codec=topk", "codec.per=layer"), "codec.per: must be one of tensor, chunk, row"),
        (("algo=fullsync", "codec=topk"), "codec=topk: fullsync mixes no models"),
        (("codec.share=0.1",), "codec.share: codec=none has none; choose one, as in codec=topk"),
    ],
)
def test_bad_input(words, says):
    with pytest.raises(ConfigError) as error:
        compose_config(["task=quadratic", *words])
    assert says in str(error.value)


def test_a_checked_config_names_its_parts():
    parts = Parts(settle((*QUADRATIC, "algo=dpsgd", "codec=topk")))
    assert parts.codec.rule_for(parts.strategy.schedule, 8) == "choco"


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (("algo=dpsgd", "codec=sign"), 2),
        (("algo=dpsgd", "codec=topk", "codec.rule=deepsqueeze", "codec.gamma=0.2"), 2),
        (("algo=one_peer", "codec=bf16"), 1),
    ],
)
def test_of_thousands_of_workers_only_who_takes_from_whom(process_groups, monkeypatch, words, messages):
    """Time and memory by the links of W: no array of all pairs of 2048 workers is made, and none of 4 million numbers."""
    words = (*QUADRATIC, *words, "workers=2048", "steps=2", "tau=1")
    settle(words)

    def refused(self):
        raise AssertionError(f"{self.n} x {self.n}")

    monkeypatch.setattr(Matrix, "_dense", property(refused))
    tracemalloc.start()
    try:
        played = play(process_groups, 1, *words)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert played.logical[:2] == (2, 2 * 2048 * messages) and np.isfinite(played.x).all()
    assert peak < 2048**2, f"{peak / 1e6:.0f} MB"  # a byte a pair would be 4 MB


def test_who_sends_whom_is_found_by_links():
    """Of rows on several processes, against the array of all pairs."""
    for algo, m in (("dpsgd", 12), ("easgd", 8), ("hierarchical", 12), ("parameter_server", 8), ("two_level", 12)):
        schedule = Parts(settle((*QUADRATIC, f"algo={algo}", f"workers={m}", "tau=2"))).strategy.schedule
        for W in schedule.at(m, 0).factors:
            n, dense = len(W), np.asarray(W)
            rows, columns, weights = W.entries_by_row
            np.testing.assert_array_equal(np.argwhere(dense), np.stack([rows, columns], 1))
            np.testing.assert_array_equal(dense[rows, columns], weights)
            for processes in (1, 2, 4):
                layout = layout_of(schedule, m, processes)
                found = {(src, dst): rows for src, dst, rows in routes((rows, columns), layout)}
                for q in range(processes):
                    here = layout.rows(q)
                    wanted = set(np.flatnonzero(dense[here].any(0))) - set(here)
                    sent = [row for (_, dst), some in found.items() if dst == q for row in some]
                    assert sorted(sent) == sorted(wanted) and all(src != dst for src, dst in found)
                    assert all(set(some) <= set(layout.rows(src)) for (src, _), some in found.items())
            price = spread_price((rows, columns), m, n, True)
            assert price.messages == np.count_nonzero(dense) - np.count_nonzero(np.diag(dense)) == price.vectors
