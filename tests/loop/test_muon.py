"""optim=muon: against torch's, against one matrix at a time in float64, and what must hold for every optimiser."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from playing import CNN, play, settle
from refusals import refused

from coopsgd.fleet.block import Block
from coopsgd.loop.inner import Inner
from coopsgd.loop.muon import orthogonalised
from coopsgd.loop.saved import flatten, homes, inflate
from coopsgd.optim import Muon
from coopsgd.predict import cost
from coopsgd.schedules import Constant, Cosine
from coopsgd.setup.axes import check_blocks
from coopsgd.setup.parts import Parts
from coopsgd.testing.runs import Recorder, make_loop

# a hidden matrix, a vector, a tall convolution that lies channels last, a head, another of the first one's shape
BLOCKS = (
    Block("a", (4, 6), (6, 1), 0, True),
    Block("b", (4,), (1,), 24),
    Block("c", (12, 2, 2, 2), (8, 1, 4, 2), 28, True),
    Block("d", (3, 4), (4, 1), 124),
    Block("e", (4, 6), (6, 1), 136, True),
)
D = 160
HIDDEN = [block.name for block in BLOCKS if block.hidden]
NET = (
    "data=digits",
    "model=mlp",
    "model.hidden=[6,5]",
    "dtype=float64",
    "batch_size=4",
    "device=cpu",
    "eval_every=0",
    "optim=muon",
)


def slowly(matrix: np.ndarray, steps: int = 5) -> np.ndarray:
    """Newton-Schulz as it is written down, on one matrix."""
    x = matrix / np.sqrt((matrix**2).sum())
    x = x.T if len(matrix) > matrix.shape[1] else x
    for _ in range(steps):
        A = x @ x.T
        x = 3.4445 * x + (-4.7750 * A + 2.0315 * A @ A) @ x
    return x.T if len(matrix) > matrix.shape[1] else x


class Hand:
    """One worker's optimiser (d,): one parameter after another, each by Muon's or by AdamW's equations."""

    def __init__(self, settings: Muon, blocks: Sequence[Block] = BLOCKS, hidden: Collection[str] = HIDDEN) -> None:
        self.settings, self.blocks, self.hidden = settings, blocks, hidden
        self.m = self.v = np.zeros(blocks[-1].stop)
        self.k = 0

    def step(self, x: np.ndarray, g: np.ndarray, lr: float) -> np.ndarray:
        settings, x, m, v = self.settings, x.copy(), self.m.copy(), self.v.copy()
        self.k, self.m, self.v = self.k + 1, m, v
        k = self.k
        for block in self.blocks:
            cut = slice(block.start, block.stop)
            if block.name in self.hidden:
                m[cut] = settings.momentum * m[cut] + (1 - settings.momentum) * g[cut]
                n = (1 - settings.momentum) * g[cut] + settings.momentum * m[cut] if settings.nesterov else m[cut]
                rows = block.shape[0]
                columns = block.size // rows
                weight = torch.from_numpy(n).as_strided(block.shape, block.stride).reshape(rows, columns).numpy()
                s = math.sqrt(max(1, rows / columns)) if settings.adjust == "original" else 0.2 * math.sqrt(max(rows, columns))
                moved = torch.from_numpy(x[cut]).as_strided(block.shape, block.stride)
                moved.mul_(1 - lr * settings.weight_decay)
                moved.sub_(torch.from_numpy(lr * s * slowly(weight, settings.ns_steps)).view(block.shape))
            else:
                rate = settings.adam_lr * lr / settings.lr
                m[cut] = settings.adam_beta1 * m[cut] + (1 - settings.adam_beta1) * g[cut]
                v[cut] = settings.adam_beta2 * v[cut] + (1 - settings.adam_beta2) * g[cut] ** 2
                mean, square = m[cut] / (1 - settings.adam_beta1**k), v[cut] / (1 - settings.adam_beta2**k)
                x[cut] = x[cut] * (1 - rate * settings.weight_decay) - rate * mean / (np.sqrt(square) + settings.adam_eps)
        return x


def by_hand(settings: Muon, x: np.ndarray, grads: list[np.ndarray], rates: list[float]) -> np.ndarray:
    """One worker (d,) after these steps."""
    hand = Hand(settings)
    for g, lr in zip(grads, rates, strict=True):
        x = hand.step(x, g, lr)
    return x


def inner(settings: Muon, x: torch.Tensor, schedule: Constant | None = None, steps: int = 6) -> Inner:
    return Inner(settings, schedule or Constant(), x, len(x), steps, lambda: BLOCKS)


@pytest.mark.parametrize(
    "settings",
    [
        Muon(),
        Muon(lr=0.1, momentum=0.8, nesterov=False, weight_decay=0.3, ns_steps=3, adjust="match_rms_adamw", adam_lr=0.05),
    ],
)
def test_each_worker_steps_as_one_written_down(settings):
    draw = np.random.default_rng(0)
    x0, grads = draw.standard_normal((3, D)), draw.standard_normal((6, 3, D))
    x = torch.from_numpy(x0.copy())
    schedule = Cosine(warmup=2)
    optimizer, rates = inner(settings, x, schedule), []
    for g in grads:
        rates.append(optimizer.lr)
        optimizer.step(x, torch.from_numpy(g))
        optimizer.advance()
    assert len(set(rates)) > 3
    for i in range(3):
        np.testing.assert_allclose(x[i].numpy(), by_hand(settings, x0[i], list(grads[:, i]), rates), rtol=0, atol=1e-12)


def test_a_step_is_that_of_torch_to_its_bfloat16():
    torch.manual_seed(0)
    start, grads = torch.randn(24, 40), [torch.randn(24, 40) for _ in range(4)]
    for adjust in ("original", "match_rms_adamw"):
        for shape in ((24, 40), (40, 24)):
            p = torch.nn.Parameter(start.reshape(shape).clone())
            theirs = torch.optim.Muon([p], lr=0.1, weight_decay=0.2, momentum=0.9, adjust_lr_fn=adjust)
            x = start.reshape(1, -1).clone()
            ours = Inner(
                Muon(lr=0.1, weight_decay=0.2, momentum=0.9, adjust=adjust), Constant(), x, 1, 4,
                lambda shape=shape: (Block("w", shape, (shape[1], 1), 0, True),),
            )  # fmt: skip
            for g in grads:
                p.grad = g.reshape(shape).clone()
                theirs.step()
                ours.step(x, g.reshape(1, -1))
            moved = (p.detach().flatten() - start.flatten()).norm()
            assert (x[0] - p.detach().flatten()).norm() < 1e-2 * moved


def test_newton_schulz_keeps_singular_vectors():
    """NS(Q n P) = Q NS(n) P; a row is normalised; a multiple of an orthogonal matrix keeps its direction."""
    draw = torch.Generator().manual_seed(1)
    for a, b in ((5, 7), (7, 5), (6, 6)):
        n = torch.randn(4, a, b, generator=draw, dtype=torch.float64)
        Q, P = (torch.linalg.qr(torch.randn(4, k, k, generator=draw, dtype=torch.float64))[0] for k in (a, b))
        torch.testing.assert_close(orthogonalised(Q @ n @ P, 5), Q @ orthogonalised(n, 5) @ P, rtol=0, atol=1e-12)
        values = torch.linalg.svdvals(orthogonalised(n, 8))
        assert values.min() > 0.4 and values.max() < 1.6
        torch.testing.assert_close(orthogonalised(1e3 * n, 5), orthogonalised(n, 5), rtol=0, atol=1e-12)
    Q = torch.linalg.qr(torch.randn(1, 6, 6, generator=draw, dtype=torch.float64))[0]
    found = orthogonalised(3 * Q, 5)
    torch.testing.assert_close(found / found.norm(), Q / Q.norm(), rtol=0, atol=1e-12)
    for shape in ((2, 1, 9), (2, 9, 1)):
        row = torch.randn(shape, generator=draw, dtype=torch.float64)
        found = orthogonalised(row, 5)
        lengths = found.flatten(1).norm(dim=1)
        torch.testing.assert_close(found / lengths[:, None, None], row / row.flatten(1).norm(dim=1)[:, None, None])
        assert ((lengths > 0.5) & (lengths < 1.5)).all()
    assert torch.equal(orthogonalised(torch.zeros(1, 3, 3), 5), torch.zeros(1, 3, 3))  # no gradient, no step


def test_a_mean_of_gradients_and_their_sum_make_the_same_step():
    """m <- beta m + (1 - beta) g, n = (1 - beta) g + beta m, beside m <- beta m + g, n = g + beta m: of one direction."""
    draw, mean, whole = torch.Generator().manual_seed(2), 0.0, 0.0
    for _ in range(5):
        g = torch.randn(2, 4, 6, generator=draw, dtype=torch.float64)
        mean, whole = 0.9 * mean + 0.1 * g, 0.9 * whole + g
        found = [orthogonalised(n, 5) for n in (0.1 * g + 0.9 * mean, g + 0.9 * whole)]
        torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_an_idle_row_keeps_everything_bit_for_bit():
    torch.manual_seed(0)
    x = torch.randn(3, D, dtype=torch.float64)
    alone = [x[i : i + 1].clone() for i in range(3)]
    optimizer, each = inner(Muon(), x), [inner(Muon(), one) for one in alone]
    took = [(1, 1, 1), (1, 0, 1), (0, 0, 1), (1, 1, 0)]
    for active in map(np.array, took):
        direction = torch.randn_like(x)
        before = x.clone()
        kept = {name: torch.cat([*rows.parts]).clone() for name, rows in optimizer.saved()["buffers"].items()}
        optimizer.step(x, direction, active.astype(bool))
        now = optimizer.saved()
        for i in range(3):
            if active[i]:
                each[i].step(alone[i], direction[i : i + 1])
            else:
                assert torch.equal(x[i], before[i])
                assert all(torch.equal(torch.cat([*now["buffers"][name].parts])[i], kept[name][i]) for name in kept)
        torch.testing.assert_close(x, torch.cat(alone), rtol=0, atol=1e-12)
    assert torch.cat([*optimizer.saved()["steps"].parts])[:, 0].tolist() == [3, 2, 3]


@pytest.mark.parametrize("buffers", ["keep", "average", "reset"])
def test_a_run_goes_on_from_what_was_saved(buffers):
    algo = ("algo=dpsgd",) if buffers == "average" else ("algo=fedavg", "algo.fraction=0.5")
    words = (*NET, *algo, "workers=4", "tau=2", "steps=8", "schedule=cosine", f"buffers={buffers}")
    config = settle(words)
    whole, half = make_loop(config, observer=Recorder()), make_loop(config, observer=Recorder())
    for _ in range(8):
        whole.advance()
    for _ in range(5):
        half.advance()
    skeleton, leaves = flatten(half.saved())
    tensors = {at: torch.cat([*leaf.parts]) if hasattr(leaf, "parts") else leaf.tensor for at, leaf in leaves.items()}
    saved = inflate(skeleton, lambda at, kind: tensors[at].clone(), homes(half.strategy, half.parts.period))
    other = make_loop(config, observer=Recorder(), saved=saved)
    for _ in range(3):
        other.advance()
    assert torch.equal(whole.state.x, other.state.x)


def test_the_mean_square_has_the_columns_of_adam_alone():
    x = torch.zeros(2, D)
    optimizer = inner(Muon(), x)
    assert optimizer.widths == {"exp_avg": D, "exp_avg_sq": 4 + 12}
    assert [rows.shape for rows in optimizer.stacked()] == [(2, D), (2, 16)]
    optimizer.step(x, torch.ones_like(x))
    assert [rows.shape for rows in optimizer.stacked()] == [(2, D), (2, 16)]


def test_what_is_foretold_of_averaged_buffers_is_what_is_sent():
    config = settle((*NET, "workers=4", "algo=pasgd", "tau=2", "steps=4", "buffers=average"))
    loop = make_loop(config, observer=Recorder())
    loop.advance()
    assert loop.fleet.ledger.bytes == 0
    loop.advance()
    told = cost.of_round(Parts(config), 0)
    matrices = 64 * 6 + 6 * 5
    width = 8 * (3 * loop.state.x.shape[1] - matrices)  # the model, the mean gradient, the mean square of what is no matrix
    assert loop.fleet.ledger.bytes == 4 * told["bytes_per_worker_mean"] == 2 * 3 * width


def watched(config):
    """The loop of a config, and a list that its gradient rows are put into, step by step."""
    loop, seen = make_loop(config, observer=Recorder()), []
    direction = loop._direction
    loop._direction = lambda t, grad: direction(t, seen.append(grad.clone().numpy()) or grad)
    return loop, seen


def test_muloco_is_muon_by_hand_and_an_outer_nesterov_step_written_down():
    """Every worker's rows from the gradients of the run: Muon's equations, and after 3 steps the mean, from which z steps."""
    config = settle((*(word for word in NET if word != "optim=muon"), "algo=muloco", "workers=2", "tau=3", "steps=10"))
    parts = Parts(config)
    blocks = parts.task.blocks(config)
    hidden = [block.name for block in parts.optim.chosen(blocks)]
    loop, seen = watched(config)
    x = list(loop.state.x.clone().numpy())
    z, b = x[0].copy(), np.zeros_like(x[0])
    hands = [Hand(parts.optim, blocks, hidden) for _ in x]
    for k in range(config.steps):
        loop.advance()
        x = [hand.step(row, grad, 0.02) for hand, row, grad in zip(hands, x, seen[k], strict=True)]
        if k % 3 == 2:
            away = z - (x[0] + x[1]) / 2
            b = 0.6 * b + away
            z = z - 0.7 * (away + 0.6 * b)
            x = [z, z]
        np.testing.assert_allclose(loop.state.x.numpy(), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("algo", ["muloco", "pasgd", "dpsgd", "fullsync"])
def test_workers_that_see_the_same_are_one(algo):
    """Whoever is given the same gradients: three workers walk as one does alone."""
    words = (*NET, f"algo={algo}", *(() if algo == "fullsync" else ("tau=2",)), "steps=8")
    loops = [watched(settle((*words, f"workers={m}")))[0] for m in (1, 3)]
    same: list[np.ndarray] = []
    for loop in loops:
        taken = iter(list(same))
        direction = loop._direction

        def alike(t, grad, direction=direction, taken=taken):
            one = next(taken, None)
            if one is None:
                one = grad[:1].clone()
                same.append(one)
            grad.copy_(one.expand_as(grad))
            return direction(t, grad)

        loop._direction = alike
        for _ in range(8):
            loop.advance()
    one, three = (loop.state.x.numpy() for loop in loops)
    np.testing.assert_allclose(three, np.repeat(one, 3, axis=0), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("processes", "words"),
    [
        (4, (*NET, "algo=dpsgd")),
        (2, (*NET, "algo=muloco")),
        (2, (*CNN, "optim=muon", "algo=dpsgd", "buffers=average", "model.norm=batch", "batch_size=8", "fleet=shared")),
    ],
)
def test_on_every_placement_the_same(process_groups, processes, words):
    words = (*words, "workers=4", "tau=2", "steps=6", "log_every=1000", "optim.lr=0.01")
    alone = play(None, 1, *(word for word in words if not word.startswith("fleet")))
    np.testing.assert_allclose(play(process_groups, processes, *words).x, alone.x, rtol=0, atol=1e-12)


def test_which_matrices():
    def names(**settings):
        return [block.name for block in Muon(**settings).chosen(BLOCKS)]

    assert names() == ["a", "c", "e"]
    assert names(matrices="all") == ["a", "c", "d", "e"]
    assert names(matrices=["d", "[ae]"]) == ["a", "d", "e"]


REFUSED = [
    (("optim=muon", "task=quadratic"), ["muon", "adamw"]),
    (("optim=muon", "model=logistic"), ["hidden", "optim.matrices=[1.weight]", "adamw"]),
    (("optim=muon", "model.hidden=[]"), ["hidden"]),
    (("optim=muon", "optim.matrices=[1.wieght]"), ["'1.wieght'", "1.weight"]),
    (("optim=muon", "optim.matrices=some"), ["optim.matrices", "auto"]),
    (("optim=muon", "optim.adjust=orginal"), ["optim.adjust", "original"]),
    (("optim=muon", "optim.ns_steps=0"), ["optim.ns_steps", "5"]),
    (("optim=muon", "optim.momentum=1"), ["optim.momentum"]),
    (("optim=muon", "optim.beta1=0.9"), ["beta1", "adam_beta1"]),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: " ".join(case[0]))
def test_refused_in_one_line(case):
    refused(*case)


def test_a_task_whose_blocks_say_nothing_is_refused():
    parts = SimpleNamespace(optim=Muon(), task=SimpleNamespace(THEIRS=False), config=None, codec=None, fragments=None)
    with pytest.raises(ValueError, match="needs matrices"):
        check_blocks(parts, lambda: [(Block("x", (3,), (1,), 0),)])


def test_a_single_layer_is_orthogonalised_when_asked():
    config = settle(("data=digits", "model=logistic", "optim=muon", "optim.matrices=[1.weight]", "workers=2", "steps=2"))
    assert [block.name for block in Parts(config).optim.chosen(Parts(config).task.blocks(config))] == ["1.weight"]
