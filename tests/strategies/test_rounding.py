"""bf16 and fp16 with algorithms that make their messages by themselves: slow loops, what stays exact, bytes, refusals."""

from __future__ import annotations

import numpy as np
import oracle
import oracle_rules
import pytest
import torch
from corrected import Inner
from playing import QUADRATIC, play, settle
from test_correction import matrices, state_of
from test_oracle import EXACT, problem
from test_rules import ARCS, Moves

from coopsgd.commands.compose import compose_config
from coopsgd.errors import ConfigError
from coopsgd.testing import check_strategy
from coopsgd.testing.runs import make_loop


def C(v, kind=torch.bfloat16):
    """Rounded to 16 bits."""
    return torch.from_numpy(np.asarray(v)).to(kind).double().numpy()


class Copies:
    """W x among workers, of which they know each other's public copies alone: x + W p - p, p <- p + C(x - p)."""

    def __init__(self, W, start):
        self.W, self.p = W, [one.copy() for one in start]

    def __call__(self, x):
        self.p = [p + C(one - p) for one, p in zip(x, self.p, strict=True)]
        mixed = oracle.product(self.W, self.p)
        return [one + (y - p) for one, y, p in zip(x, mixed, self.p, strict=True)]


def kept(W, x):
    """W x of a W that moves: what rounding leaves out stays where it was."""
    p = [C(one) for one in x]
    return [one + (y - q) for one, y, q in zip(x, oracle.product(W, p), p, strict=True)]


def push_sum(words, to):
    """On a directed graph whose weights move: w exactly, mass rounded."""
    p, m = problem(words), len(to)
    P = [[(1 / (1 + len(to[j])) if i == j or i in to[j] else 0.0) for j in range(m)] for i in range(m)]
    y, w = [p.x0.copy() for _ in range(m)], [1.0] * m
    x = list(y)
    for k, r in enumerate(p.rounds()):
        x = oracle_rules.local(p, x, k)
        if r >= 0:
            mass = kept(P, [w[i] * y[i] + (x[i] - y[i]) for i in range(m)])
            w = [sum(P[i][j] * w[j] for j in range(m)) for i in range(m)]
            x = y = [mass[i] / w[i] for i in range(m)]
    return np.array(x)


def gossip(words):
    p, W = problem(words), matrices(words)[0]
    x = [p.x0.copy() for _ in range(p.m)]
    mix = Copies(W, x)
    for k, r in enumerate(p.rounds()):
        x = oracle_rules.local(p, x, k)
        x = mix(x) if r >= 0 else x
    return np.array(x)


def relay(words, neighbours):
    """Edge by edge: of j all know what it has told, told <- told + C(y - told); it told i that less what i had told it."""
    p = problem(words)
    of, m = neighbours(p.m), p.m
    told, x = [np.zeros_like(p.x0) for _ in range(m)], [p.x0.copy() for _ in range(m)]
    none = {(j, i): np.zeros_like(p.x0) for i in range(m) for j in of[i]}
    last, before = none, none  # what j told i in the round before, and before that
    counts = dict.fromkeys(none, 0)
    for k, r in enumerate(p.rounds()):
        x = oracle_rules.local(p, x, k)
        if r < 0:
            continue
        heard = [sum((last[j, i] for j in of[i]), 0 * p.x0) for i in range(m)]
        new = [told[i] + C(x[i] - p.x0 + heard[i] - told[i]) for i in range(m)]
        now = {(j, i): new[j] - told[i] + before[j, i] for j, i in none}
        counts = {(j, i): 1 + sum(counts[q, j] for q in of[j] if q != i) for j, i in none}
        known = [sum(counts[j, i] for j in of[i]) for i in range(m)]
        total = [sum((now[j, i] for j in of[i]), 0 * p.x0) for i in range(m)]
        x = [p.x0 + ((m - known[i]) * (x[i] - p.x0) + total[i]) / m for i in range(m)]
        told, last, before = new, now, last
    return np.array(x)


def scaffold(words, fraction):
    """A server and sampled clients: who sends adds what rounding left out of its last message."""
    p = problem(words)
    n, everyone = p.m, range(p.m)
    zero = np.zeros_like(p.x0)
    x, c, left = ([start.copy() for _ in range(n + 1)] for start in (p.x0, zero, zero))  # the server's last
    own, of_c = [zero.copy() for _ in everyone], [zero.copy() for _ in range(n + 1)]
    seen, current = [[] for _ in everyone], 0

    def say(i, values, rest):
        said = C(values[i] + rest[i])
        rest[i] = values[i] + rest[i] - said
        return said

    for k, r in enumerate(p.rounds()):
        drawn = oracle.clients_of(p, current, fraction)
        for i in drawn:
            seen[i].append(p.gradient(i, x[i], k))
            x[i] = x[i] - p.eta * (seen[i][-1] - own[i] + c[i])
        if r >= 0:
            for i in drawn:
                new = oracle.mean(seen[i])
                c[i], own[i] = c[i] + len(drawn) / n * (new - own[i]), new
            x[n] = sum(say(i, x, left) for i in drawn) / len(drawn)
            c[n] = sum(say(i, c, of_c) for i in drawn) / len(drawn)
            model, control = say(n, x, left), say(n, c, of_c)
            seen, current = [[] for _ in everyone], r + 1
            for i in oracle.clients_of(p, current, fraction):
                x[i], c[i] = model, control
    return np.array(x)


def scaffold_of_all(words):
    """W = J by public copies of models and of controls."""
    p = problem(words)
    J = [[1 / p.m] * p.m for _ in range(p.m)]
    x, zeros = [p.x0.copy() for _ in range(p.m)], [np.zeros_like(p.x0) for _ in range(p.m)]
    c, own, seen = list(zeros), list(zeros), [[] for _ in range(p.m)]
    models, controls = Copies(J, x), Copies(J, zeros)
    for k, r in enumerate(p.rounds()):
        for i in range(p.m):
            seen[i].append(p.gradient(i, x[i], k))
            x[i] = x[i] - p.eta * (seen[i][-1] - own[i] + c[i])
        if r >= 0:
            new = [oracle.mean(one) for one in seen]
            x, c = models(x), controls([c[i] + new[i] - own[i] for i in range(p.m)])
            own, seen = new, [[] for _ in range(p.m)]
    return np.array(x)


def d2(words):
    p, W = problem(words), matrices(words)[0]
    x, c = [p.x0.copy() for _ in range(p.m)], [np.zeros_like(p.x0) for _ in range(p.m)]
    mix, inner = Copies(W, x), Inner(p, [0.1] * 24)
    for k in range(p.K):
        stepped = [inner.plain(i, x[i], k) for i in range(p.m)]
        x = mix([stepped[i] + c[i] for i in range(p.m)])
        c = [x[i] - stepped[i] for i in range(p.m)]
    return np.array(x)


def gt(words):
    """W moves."""
    p, Ws = problem(words), matrices(words)
    x, c = [p.x0.copy() for _ in range(p.m)], [np.zeros_like(p.x0) for _ in range(p.m)]
    inner = Inner(p, [0.1] * 24)
    for k, r in enumerate(p.rounds()):
        u = [inner.plain(i, x[i], k) - x[i] for i in range(p.m)]
        x, s = kept(Ws[r], [x[i] + u[i] + c[i] for i in range(p.m)]), kept(Ws[r], [c[i] + u[i] for i in range(p.m)])
        c = [s[i] - u[i] for i in range(p.m)]
    return np.array(x)


def fullsync(words):
    p = problem(words)
    x = p.x0.copy()
    for k in range(p.K):
        x = x - p.eta * oracle.mean([C(p.gradient(i, x, k)) for i in range(p.m)])
    return np.array([x] * p.m)


def chain(m):
    return [[j for j in (i - 1, i + 1) if 0 <= j < m] for i in range(m)]


STAR = {0: list(range(1, 8)), **{j: [0] for j in range(1, 8)}}
CASES = {
    "push-sum": (("algo=sgp", "topology=star", "tau=2"), lambda words: push_sum(words, STAR)),
    "push-sum steady": (("algo=sgp", "tau=2"), gossip),
    "relay": (("algo=relay", "topology=chain", "tau=2"), lambda words: relay(words, chain)),
    "scaffold": (("algo=fedavg", "tau=3", "correction=scaffold"), lambda words: scaffold(words, 0.5)),
    "scaffold J": (("algo=pasgd", "tau=3", "correction=scaffold"), scaffold_of_all),
    "d2": (("algo=dpsgd", "algo.lazy=true", "correction=d2"), d2),
    "gt": (("algo=one_peer", "tau=1", "correction=gt"), gt),
    "fullsync": (("algo=fullsync",), fullsync),
}


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("case", CASES)
def test_is_what_slow_loops_make_of_it(process_groups, case, processes):
    words, loops = CASES[case]
    words = (*QUADRATIC, *words, "codec=bf16")
    played = play(process_groups, processes, *words)
    np.testing.assert_allclose(played.x, loops(words), **EXACT)
    plain = play(process_groups, 1, *words[:-1])
    assert 1e-6 < np.abs(played.x - plain.x).max() < 0.05


KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}
# what is sent -> its bytes of a message of 10 float64, and the exact ones beside
OTHERS = {
    "decentlam": (("algo=decentlam", "tau=2"), 20),
    "gasloc": (("algo=gasloc", "tau=2"), 20),
    "two trees": (("algo=relay", "algo.trees=2", "tau=2"), 10),
    "push-sum": (("algo=sgp", "topology=star", "tau=2"), 28),
    "led": (("algo=led", "tau=2"), 20),
    "kgt": (("algo=kgt", "tau=2"), 40),
    "gradient_tracking": (("algo=gradient_tracking",), 40),
    "scaffold": (("algo=scaffold", "tau=2"), 40),
    "fedprox": (("algo=fedprox", "tau=2"), 20),
    "fednova": (("algo=fednova", "tau=2"), 20),
    "qg_dsgdm": (("algo=qg_dsgdm", "tau=2"), 20),
    "scaffold outer": (("algo=fedavg", "tau=2", "correction=scaffold", "outer=nesterov"), 40),
    "scaffold outer J": (("algo=pasgd", "tau=2", "correction=scaffold", "outer=nesterov"), 40),
    "push-sum late": (("algo=sgp", "topology=star", "tau=2", "delay=1", "outer=nesterov"), 28),
}


@pytest.mark.parametrize("codec", ["bf16", "fp16"])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_picked_row_is_heard_rounded(process_groups, processes, codec):
    """Of an algorithm that goes on from one worker's model: C(x) of it by everyone, itself too, in two bytes a number."""
    words = (*QUADRATIC, "algo=fullsync", "algo.strategy=members:Leader", "tau=3", f"codec={codec}")
    p = problem(words)
    x = [p.x0.copy() for _ in range(p.m)]
    for k, r in enumerate(p.rounds()):
        x = oracle_rules.local(p, x, k)
        x = [C(x[r % p.m], KINDS[codec])] * p.m if r >= 0 else x
    played = play(process_groups, processes, *words)
    np.testing.assert_allclose(played.x, x, **EXACT)
    assert played.logical == (8, 8 * 7, 8 * 7 * 20)  # its row to seven others, ten numbers of two bytes
    assert played.wire_bytes == 8 * 20 * (processes - 1)


@pytest.mark.parametrize("codec", ["bf16", "fp16"])
@pytest.mark.parametrize("case", OTHERS)
def test_the_same_wherever_rows_are_and_two_bytes_a_number(process_groups, case, codec):
    words, nbytes = OTHERS[case]
    words = (*QUADRATIC, *words, f"codec={codec}")
    alone = play(process_groups, 1, *words)
    assert alone.logical[2] == alone.logical[1] * nbytes and alone.wire_bytes == 0
    for more in (("fleet=processes", 2), ("fleet=processes", 4), ("fleet=shared", 2)):
        there = play(process_groups, more[1], *words, more[0])
        np.testing.assert_allclose(there.x, alone.x, **EXACT)
        assert there.logical == alone.logical
        assert (there.wire_bytes > 0) == (more[0] == "fleet=processes") and there.wire_bytes % nbytes == 0
    plain = play(process_groups, 1, *words, "codec=none")
    same = play(process_groups, 1, *words, "codec=identity")
    np.testing.assert_allclose(same.x, plain.x, **EXACT)
    assert 1e-7 < np.abs(alone.x - plain.x).max() < 0.1


def test_what_a_worker_hears_is_what_was_sent_and_the_wire_is_what_the_ledger_says(process_groups):
    """Of one worker a process all that is charged crosses, 20 bytes a message and 8 of a weight."""
    words = (*QUADRATIC, "workers=4", "codec=bf16", "tau=2")
    for algo, nbytes in ((("algo=sgp", "topology=star"), 28), (("algo=relay", "topology=chain"), 20), (("algo=kgt",), 40)):
        found = play(process_groups, 4, *words, *algo)
        assert found.wire_bytes == found.logical[2] == found.logical[1] * nbytes


@pytest.mark.parametrize("words", [(), ("delay=1",), ("optim.momentum=0.9",)], ids=" ".join)
def test_push_sum_loses_no_mass(tmp_path, words):
    (tmp_path / "arcs.txt").write_text(ARCS)
    graph = (f"topology.file={tmp_path}/arcs.txt", "topology=file", "topology.directed=true", "workers=4")
    loop = make_loop(settle((*QUADRATIC, "algo=sgp", *graph, "tau=3", "codec=bf16", *words)), observer=(steps := Moves()))
    total = loop.state.x.sum(0)
    for _ in range(21):
        steps.old = loop.state.x.clone()
        loop.advance()
        s, x = loop.state.s.own, loop.state.x
        torch.testing.assert_close((s.weight * s.start + (x - s.start)).sum(0), total + steps.total, rtol=0, atol=1e-12)
        assert abs(float(s.weight.sum()) - 4) < 1e-12


@pytest.mark.parametrize(
    "words",
    [
        ("algo=dpsgd", "algo.lazy=true", "correction=d2"),
        ("algo=dpa", "tau=4", "algo.lazy=true", "correction=led"),
        ("algo=dpsgd", "correction=gt"),
        ("algo=one_peer", "tau=3", "correction=kgt"),
    ],
)
def test_corrections_sum_to_zero(words):
    s, _ = state_of(*words, "codec=bf16")
    assert float(s.own.c.abs().max()) > 1e-3
    torch.testing.assert_close(s.own.c.sum(0), torch.zeros_like(s.own.c[0]), rtol=0, atol=1e-13)


def test_the_servers_control_and_what_was_left_out_are_the_mean_of_all():
    s, _ = state_of("algo=fedavg", "tau=3", "correction=scaffold", "codec=bf16")
    left = s.sent.copies[1]  # of the second vector of a message
    heard = s.own.common[oracle.clients_of(problem(QUADRATIC), 4)[0]]  # of a client of the next round
    whole = heard + left[-1] + left[:8].mean(0) * 2  # half of the clients take part: each counts double
    assert float(left.abs().max()) > 1e-5
    torch.testing.assert_close(s.own.mine[:8].mean(0), whole, rtol=0, atol=1e-13)


STILL = ("task.sigma=0", "steps=800", "optim.lr=0.1", "codec=bf16")


@pytest.mark.parametrize(
    ("words", "off"),
    [
        (("algo=dpsgd", "algo.lazy=true", "correction=d2"), 1e-5),
        (("algo=dpa", "tau=8", "algo.lazy=true", "correction=led"), 1e-5),
        (("algo=dpsgd", "correction=kgt"), 1e-5),
        (("algo=pasgd", "tau=8", "correction=scaffold"), 1e-5),
        (("algo=one_peer", "correction=gt"), 0.02),  # the models are rounded anew in each round: 2^-8 of their size at most
        (("algo=fedavg", "tau=8", "correction=scaffold"), 0.02),
    ],
)
def test_is_as_exact_as_its_W_lets_it_be(process_groups, words, off):
    p = problem((*QUADRATIC, *words, *STILL))
    best = (p.a * p.c).sum(0) / p.a.sum(0)
    found = np.abs(play(process_groups, 1, *QUADRATIC, *words, *STILL).x[:8] - best).max()
    assert found < off


def test_relayed_sums_do_not_drift():
    """500 rounds of bf16 beside whole messages: as far apart as after 100."""
    loops = [make_loop(settle((*QUADRATIC, "algo=relay", "steps=500", codec))) for codec in ("codec=none", "codec=bf16")]
    apart = []
    for _ in range(500):
        for loop in loops:
            loop.advance()
        apart.append(float((loops[0].state.x - loops[1].state.x).abs().max()))
    assert max(apart[300:]) < 2 * max(apart[50:150])


@pytest.mark.parametrize(
    "words",
    [
        ("sgp", "topology=star", "tau=3"),
        ("relay", "tau=2"),
        ("decentlam", "tau=2"),
        ("gradient_tracking",),
        ("scaffold", "tau=3"),
        ("fullsync",),
        ("sgp", "topology=star", "tau=3", "outer=nesterov"),
    ],
)
def test_keeps_every_promise_of_the_contract(process_groups, words):
    check_strategy(*words, "codec=bf16", process_groups=process_groups, processes=(1, 2))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("algo=sgp", "codec=topk"), "codec=topk: sgp says by itself what it sends; use codec=bf16, fp16 or none"),
        (("algo=relay", "codec=sign"), "codec=sign: relay says by itself"),
        (("algo=dpsgd", "correction=gt", "tau=1", "codec=topk"), "correction=gt codec=topk: what a worker takes from others"),
        (("algo=scaffold", "codec=qsgd"), "use codec=bf16, fp16 or none, or correction=proximal"),
        (("algo=decentlam", "codec=bf16", "codec.rule=deepsqueeze"), "codec.rule=deepsqueeze: is of models that W mixes"),
        (("algo=relay", "codec=bf16", "codec.rule=choco"), "codec.rule=choco: neighbours keep copies by one fixed W"),
        (("algo=sgp", "codec=bf16", "codec.feedback=true"), "codec.feedback=True: has no use with rule=choco"),
        (("algo=relay", "codec=bf16", "codec.gamma=0.5"), "codec.gamma=0.5: has no use with rule=rounded"),
        (
            ("algo=sgp", "tau=4", "codec=bf16", "fragments=columns"),
            "fragments=columns: sgp says by itself what it sends; use fragments=none",
        ),
        (("algo=fullsync", "codec=topk"), "codec=topk: fullsync mixes no models"),
        (("algo=fullsync", "codec=bf16", "outer=nesterov"), "outer=nesterov: fullsync mixes no models"),
    ],
)
def test_bad_input(words, says):
    with pytest.raises(ConfigError) as error:
        compose_config(["task=quadratic", *words])
    assert says in str(error.value)
