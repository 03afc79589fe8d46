"""What `show` and `analyze` say of corrections, codecs and GASLoC is what runs do, and bounds hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from playing import settle

from coopsgd.fleet.block import Block, vector
from coopsgd.fleet.plan import layout_of
from coopsgd.fleet.stacked import Stacked
from coopsgd.predict.of_axes import codec_facts, correction_facts, delta_of, gasloc_facts
from coopsgd.predict.theory import corrected
from coopsgd.setup.parts import Parts
from coopsgd.strategies.base import Tick
from coopsgd.testing.runs import make_loop

ONE_CURVATURE = ("task=quadratic", "task.sigma=0", "dtype=float64", "device=cpu")


def parts_of(*words: str, workers: int = 5, dim: int = 2) -> Parts:
    """Of quadratics whose every curvature is 1."""
    flat = f"task.curvature=[{','.join([str([1] * dim).replace(' ', '')] * workers)}]"
    return Parts(settle((*ONE_CURVATURE, *words, f"workers={workers}", f"task.dim={dim}", flat)))


def disagreement(x: torch.Tensor) -> float:
    return float((x - x.mean(0)).norm())


@pytest.mark.parametrize(
    "words",
    [
        ("algo=d2", "topology=ring"),
        ("algo=d2", "topology=star"),
        ("algo=gradient_tracking", "topology=ring"),
        ("algo=led", "topology=ring", "tau=4"),
        ("algo=kgt", "topology=ring", "tau=4"),
        ("algo=kgt", "topology=star", "tau=3"),
        ("algo=pasgd", "correction=scaffold", "tau=4"),
    ],
)
def test_a_correction_contracts_below_the_rate_that_is_told_and_not_above(words):
    """Far into a run models still come nearer at 0.9 times the largest rate, and not at 1.1."""
    parts = parts_of(*words)
    known = correction_facts(parts)
    assert known is not None and known["exact"].startswith("exact")
    most = known["largest_lr_L"]
    for lr in (0.9 * most, 1.1 * most):
        loop = make_loop(parts_of(*words, f"optim.lr={lr!r}").config)
        seen = []
        for k in range(120 * loop.parts.config.tau):
            loop.advance()
            if (k + 1) % loop.parts.config.tau == 0:
                seen.append(max(float(loop.state.x.std(0).max()), float(loop.state.x.abs().max()) if most >= 2 else 0.0))
        late, early = np.mean(seen[-20:]), np.mean(seen[20:40])
        assert (late < 1.001 * early or late < 1e-9) == (lr < most), (most, lr, early, late)


@pytest.mark.parametrize("words", [("kgt", "tau=4"), ("led", "tau=4"), ("d2",), ("gradient_tracking",)])
def test_models_come_nearer_by_what_the_blocks_say(words):
    """Far into a run on a ring they move a round by the slowest mode: of W, or of the mean, (1 - x)^tau."""
    (name, *more), x = words, 0.2
    parts = parts_of(f"algo={name}", "topology=ring", f"optim.lr={x}", *more)
    schedule, tau = parts.strategy.schedule, parts.config.tau
    assert schedule is not None
    values = np.linalg.eigvalsh(np.asarray(schedule.at(5, 0)))[:-1]
    loop, seen = make_loop(parts.config), []
    for _ in range(61):
        before = loop.state.x.clone()
        for _ in range(tau):
            loop.advance()
        seen.append(float((loop.state.x - before).norm()))
    told = max(corrected.left("gt" if name == "gradient_tracking" else name, values, x, tau), (1 - x) ** tau)
    assert (seen[55] / seen[25]) ** (1 / 30) == pytest.approx(told, rel=2e-3)


def test_what_scaffold_corrects_dies_out_as_its_block_says():
    """Within a round workers part by what their controls are wrong; at x = 1.5 that leaves more than the mean does."""
    words, tau, x = ("algo=pasgd", "correction=scaffold", "tau=4"), 4, 1.5
    told = corrected.left("scaffold", np.zeros(4), x, tau)
    loop, seen = make_loop(parts_of(*words, f"optim.lr={x}").config), []
    for k in range(40 * tau):
        loop.advance()
        if k % tau == tau - 2:
            seen.append(disagreement(loop.state.x))
    assert (seen[35] / seen[15]) ** (1 / 20) == pytest.approx(told, rel=1e-6)
    assert told == pytest.approx(1 - (1 - 0.5 + 0.25 - 0.125) / 4)


def test_without_curvature_a_round_leaves_what_is_told():
    values = np.array([0.8, 0.3, -0.2])
    assert corrected.left("d2", values, 0.0, 1) == pytest.approx(0.8**0.5)
    assert corrected.left("led", values, 0.0, 7) == pytest.approx(0.8**0.5)
    assert corrected.left("gt", values, 0.0, 1) == pytest.approx(0.8)
    assert corrected.left("kgt", values, 0.0, 7) == pytest.approx(0.8)
    assert corrected.left("d2", np.array([-0.34]), 0.0, 1) > 1 > corrected.left("d2", np.array([-0.33]), 0.0, 1)


@pytest.mark.parametrize(
    "words",
    [
        *(("codec=topk", f"codec.share={share}") for share in (0.01, 0.3)),
        ("codec=randk", "codec.share=0.25"),
        *(
            ("codec=sign",),
            ("codec=qsgd", "codec.per=tensor"),
            ("codec=qsgd", "codec.bits=2"),
            ("codec=bf16",),
            ("codec=fp16",),
        ),
        ("codec=dct", "codec.keep=4", "codec.chunk=8"),
    ],
)
def test_a_message_keeps_at_least_delta(words):
    codec, d = Parts(settle((*ONE_CURVATURE, "algo=dpsgd", *words))).codec, 256
    assert codec is not None
    delta = delta_of(codec, d)
    g = torch.Generator().manual_seed(1)
    v = torch.randn(400, d, generator=g, dtype=torch.float64) * torch.rand(400, d, generator=g, dtype=torch.float64) ** 6
    coder = codec.coder(vector(d), None, d, v.dtype, 0)
    kept, _ = coder.unpack(coder.pack(v, range(400), True), range(400))
    lost = ((v - kept) ** 2).sum(1) / (v**2).sum(1)
    assert delta is not None and 0 < delta <= 1
    assert float(lost.mean() if codec.DRAWS else lost.max()) <= 1 - delta + 1e-12


WORST = {  # of which a message keeps no more than delta -> how far below the bound it may be
    "sign": (("codec=sign",), [1.0] + [0.0] * 255, 0),
    "topk": (("codec=topk", "codec.share=0.25"), [1.0, -1.0] * 128, 0),
    "randk": (("codec=randk", "codec.share=0.25"), [1.0] * 256, 0),
    "bf16": (("codec=bf16",), [1 + 2.0**-8] * 256, 0.01),
    "fp16": (("codec=fp16",), [1 + 2.0**-11] * 256, 0.01),
    "qsgd": (("codec=qsgd", "codec.bits=2", "codec.per=tensor"), [1.0] * 256, 0.01),
}


@pytest.mark.parametrize("case", WORST)
def test_a_message_can_keep_as_little_as_delta(case):
    words, v, off = WORST[case]
    parts = parts_of("algo=pasgd", *words, dim=256)
    codec, known = parts.codec, codec_facts(parts)
    assert codec is not None and known is not None
    rows = torch.tensor([v] * 4000 if codec.DRAWS else [v], dtype=torch.float64)
    coder = codec.coder(vector(256), None, 256, rows.dtype, 0)
    kept, _ = coder.unpack(coder.pack(rows, range(len(rows)), True), range(len(rows)))
    lost = float(((rows - kept) ** 2).sum(1).mean() / (rows[0] ** 2).sum())
    assert lost == pytest.approx(1 - known["delta"], rel=max(off, 1e-9))


@pytest.mark.parametrize("bits", [2, 3])
def test_omega_is_what_qsgd_adds_to_even_numbers(bits):
    """Of L equal numbers each is one level of s or none: the variance is sqrt(L) / s - 1 times the square; told is 1 more."""
    parts = parts_of("algo=pasgd", "codec=qsgd", f"codec.bits={bits}", "codec.per=tensor", dim=1024)
    codec, s = parts.codec, 2 ** (bits - 1) - 1
    assert codec is not None
    rows = torch.ones(4000, 1024, dtype=torch.float64)
    coder = codec.coder(vector(1024), None, 1024, rows.dtype, 0)
    heard, _ = coder.unpack(coder.pack(rows, range(4000), False), range(4000))
    assert float(heard.mean()) == pytest.approx(1, abs=0.01)
    added = float(((heard - rows) ** 2).sum(1).mean()) / 1024
    assert added == pytest.approx(32 / s - 1, rel=0.02)
    assert codec_facts(parts)["omega"] == pytest.approx(32 / s)


def test_a_transform_keeps_of_even_coefficients_what_is_told():
    codec = Parts(settle((*ONE_CURVATURE, "algo=dpsgd", "codec=dct", "codec.keep=4", "codec.chunk=8"))).codec
    assert codec is not None
    block = (Block("a", (8, 8), (8, 1), 0),)
    coder = codec.coder(block, None, 64, torch.float64, 0)
    rows = coder.restored(torch.ones(1, 64, dtype=torch.float64))
    kept, _ = coder.unpack(coder.pack(rows, range(1), True), range(1))
    assert float(((rows - kept) ** 2).sum() / (rows**2).sum()) == pytest.approx(1 - delta_of(codec, 64))


@pytest.mark.parametrize("share", [0.01, 0.001])
def test_what_error_feedback_leaves_out_is_bounded_as_its_recursion_is(share):
    """|e| <= sqrt(1 - delta) (|e| + |D|) settles at sqrt(1 - delta) / (1 - sqrt(1 - delta)): no less is told, and 1 % more."""
    told = codec_facts(parts_of("algo=pasgd", "codec=topk", f"codec.share={share}", dim=2000))["left_out"]
    least = (1 - share) / (1 - (1 - share) ** 0.5) ** 2
    assert least <= told <= 1.01 * least


def test_chocos_rate_is_half_its_gamma_where_that_is_least():
    """The proof leaves 1 - gamma / 2. 82 bounds it over all W: a gap of 1 and |I - W| = 2 would give that, of little sent."""
    rows, overs = [], []
    for low, high in ((-0.9, 0.3), (0.1, 0.8), (-0.5, 0.5), (0.0, 0.2), (-0.2, 0.9)):
        for delta in (0.1, 0.9):
            gamma, left = corrected.choco(np.array([high, low]), delta)
            assert 1 - left <= gamma / 2
            rho, beta = 1 - max(high, -low), 1 - low
            rows.append([rho, rho**2, beta**2, rho * beta**2, rho * delta])
            overs.append(rho**2 * delta / gamma)
            bound = rho**2 * delta / (1 - left)
    found = np.linalg.lstsq(np.array(rows), np.array(overs), rcond=None)[0]
    np.testing.assert_allclose(found, [16, 1, 4, 2, -8], rtol=1e-8)
    assert 2 * found @ [1, 1, 4, 4, 0] == pytest.approx(bound)


def test_choco_leaves_no_more_than_its_proof():
    """By the topk here, gamma as told, no gradients: the sum over models and copies, in every communication."""
    words = ("algo=dpsgd", "topology=ring", "codec=topk", "codec.share=0.25")
    parts = parts_of(*words, dim=16)
    known = codec_facts(parts)
    assert known is not None
    gamma, left = known["choco"]["gamma"], known["choco"]["left"]
    found = parts_of(*words, f"codec.gamma={gamma!r}", dim=16)
    fleet = Stacked(layout_of(found.strategy.schedule, 5, 1))
    fleet.describe(vector(16))
    x = fleet.rows(torch.zeros(1, 16, dtype=torch.float64))
    s = found.strategy.init(fleet, x.clone())
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = None
    for r in range(30):
        t = Tick(r, r, 0.1, 1)
        x, s = found.strategy.receive(fleet, t, x, found.strategy.send(fleet, t, x, s).wait(), s)
        now = disagreement(x) ** 2 + float(((x - s.kept[0]) ** 2).sum())
        assert before is None or now <= left * before
        before = now


@pytest.mark.parametrize("momentum", ["before", "after"])
@pytest.mark.parametrize("topology", ["ring", "complete"])
def test_gasloc_leaves_what_is_told(momentum, topology):
    parts = parts_of("algo=gasloc", f"topology={topology}", f"algo.momentum={momentum}", "algo.gamma=0.4")
    fleet = Stacked(layout_of(parts.strategy.schedule, 5, 1))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x -= x.mean(0)  # beside which what is left would drown in rounding
    s, logs = parts.strategy.init(fleet, x), []
    for r in range(60):
        t = Tick(r, r, 0.1, 1)
        x, s = parts.strategy.receive(fleet, t, x, parts.strategy.send(fleet, t, x, s).wait(), s)
        logs.append(np.log(disagreement(x) + 1e-300))
    told = gasloc_facts(parts)["zeta"]
    if told < 1e-6:
        assert logs[3] < -30
    else:
        slope = np.polyfit(np.arange(30), logs[5:35], 1)[0]  # complex modes go up and down about it
        assert slope == pytest.approx(np.log(told), abs=0.03)


def test_error_feedback_leaves_out_at_most_what_is_told():
    parts = parts_of("algo=pasgd", "codec=topk", "codec.share=0.1", dim=40)
    most, codec = codec_facts(parts)["left_out"], parts.codec
    assert most == pytest.approx(4 * 0.9 / 0.01) and codec is not None
    g = torch.Generator().manual_seed(0)
    e, coder = torch.zeros(1, 40, dtype=torch.float64), codec.coder(vector(40), None, 40, torch.float64, 0)
    for _ in range(300):
        v = e + torch.nn.functional.normalize(torch.randn(1, 40, generator=g, dtype=torch.float64))
        e = v - coder.unpack(coder.pack(v, range(1), True), range(1))[0]
        assert float((e**2).sum()) <= most


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (("algo=d2", "topology=ring"), ["d2 is exact", "eigenvalues above -1/3", "shrinks for lr h below"]),
        (("algo=pasgd", "correction=proximal"), ["not exact", "largest rate: not known"]),
        (("algo=dpsgd", "codec=topk"), ["delta = 0.01", "CHOCO's proof takes gamma"]),
        (("algo=pasgd", "codec=qsgd"), ["omega ="]),
        (("algo=pasgd", "codec=statistical"), ["not known of this codec", "no rate is known"]),
        (("algo=gasloc",), ["momentum added after mixing"]),
    ],
)
def test_it_is_said(cli, words, lines):
    for verb in ("show", "analyze"):
        out = " ".join(cli(verb, "task=quadratic", *words).out.split())
        assert all(line in out for line in lines), (verb, out)
