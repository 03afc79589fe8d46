"""Every engine against slow torch on separate modules; and what happens where an engine cannot serve."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from playing import CNN, MLP, play, settle
from torch import nn

from coopsgd.errors import ConfigError
from coopsgd.host import native
from coopsgd.optim import SGDStep
from coopsgd.setup.parts import Parts
from coopsgd.strategies.cooperative import Cooperative
from coopsgd.tasks.engines import dense
from coopsgd.tasks.engines.bmm import Bmm
from coopsgd.tasks.engines.choice import CHUNK, Choice, choose, fitted
from coopsgd.tasks.engines.row_pool import RowPool
from coopsgd.tasks.engines.vmap import Vmap
from coopsgd.tasks.gradients import Bound
from coopsgd.tasks.supervised_problem import eval_samples


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 10))


def smooth() -> nn.Module:
    """Activations on the inputs, a layer without bias, both kinds of GELU."""
    hidden = (nn.Linear(64, 12, bias=False), nn.Tanh(), nn.Linear(12, 7), nn.GELU(), nn.Linear(7, 8), nn.GELU("tanh"))
    return nn.Sequential(nn.Flatten(), nn.Tanh(), *hidden, nn.Linear(8, 10))


def logistic() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    block = (nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*block, nn.Flatten(), nn.Linear(128, 12), nn.ReLU(), nn.Linear(12, 10))


def odd() -> nn.Module:
    """Strides, dilation, no bias, no affine, nested, averages."""
    first = nn.Sequential(nn.Conv2d(1, 6, 3, bias=False, stride=2, padding=2), nn.GroupNorm(3, 6, affine=False), nn.Tanh())
    second = nn.Sequential(nn.Conv2d(6, 4, (2, 1), dilation=2), nn.GELU(), nn.AvgPool2d(2, stride=1), nn.AdaptiveAvgPool2d(2))
    return nn.Sequential(first, second, nn.Flatten(), nn.Linear(16, 10, bias=False))


def hooked() -> nn.Module:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    module[1].register_forward_hook(lambda layer, inputs, output: 2 * output)
    return module


def test_a_module_with_hooks_is_called():
    for make in (hooked, lambda: nn.Sequential(nn.Flatten(), torch.nn.utils.weight_norm(nn.Linear(64, 10)))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bound = Bound(make())
        assert choose("auto", bound).name == "loop"
        assert "hooks" in choose("bmm", bound).note


def test_layers_that_draw_are_known():
    assert Bound(nn.Sequential(nn.Linear(3, 3), nn.RReLU())).random
    assert Bound(nn.Sequential(nn.Conv2d(1, 1, 3), nn.FractionalMaxPool2d(2, output_size=2))).random
    assert not Bound(nn.Sequential(nn.Linear(3, 3), nn.ReLU())).random


PAIRS = [("loop", mlp), ("vmap", mlp), ("bmm", mlp), ("bmm", smooth), ("vmap", smooth), ("bmm", logistic)]
PAIRS += [(name, make) for name in ("loop", "vmap") for make in (cnn, odd)]
PAIRS += [("conv", cnn)] if native.in_use() else []
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-12}
ROWS = 7  # not a multiple of a chunk


class Stage:
    """ROWS different models of one kind as rows, and the same models as modules of their own."""

    def __init__(self, make, dtype, name="loop", threads=1):
        torch.manual_seed(0)
        self.modules = [make().to(dtype) for _ in range(ROWS)]
        self.x = torch.cat([Bound(copy.deepcopy(module)).flat() for module in self.modules])
        self.grad = torch.full_like(self.x, torch.nan)  # what an engine does not write, shows
        self.inputs = torch.randn(ROWS, 5, 1, 8, 8, dtype=dtype)
        self.targets = torch.randint(10, (ROWS, 5))
        bound = Bound(make().to(dtype))
        self.pool = RowPool(Choice(name, min(3, CHUNK["cpu"][name])), bound, ROWS, threads)
        self.pool.bind(self.x, self.grad)
        self.losses = torch.full((ROWS,), torch.nan, dtype=dtype)
        self.optimizers = None

    def gradients(self, engine, a, b):
        self.losses[a:b] = engine.gradients(a, b, self.inputs[a:b], self.targets[a:b])

    def descend(self, engine, a, b, step=None):
        self.losses[a:b] = engine.descend(a, b, self.inputs[a:b], self.targets[a:b], 0.3, step=step)

    def separately(self, **more):
        """Losses, gradients as rows, and models after a step of torch.optim.SGD."""
        losses, grads = [], []
        self.optimizers = self.optimizers or [torch.optim.SGD(module.parameters(), lr=0.3, **more) for module in self.modules]
        for module, inputs, targets, optimizer in zip(self.modules, self.inputs, self.targets, self.optimizers, strict=True):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(module(inputs), targets)
            loss.backward()
            carrier = copy.deepcopy(module)
            for parameter, own in zip(carrier.parameters(), module.parameters(), strict=True):
                parameter.data = own.grad.clone()
            grads.append(Bound(carrier).flat())
            losses.append(loss.detach())
            optimizer.step()
        after = torch.cat([Bound(copy.deepcopy(module)).flat() for module in self.modules])
        return torch.stack(losses), torch.cat(grads), after


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(("name", "make"), PAIRS)
def test_every_engine_computes_what_separate_modules_do(name, make, dtype, threads):
    stage = Stage(make, dtype, name, threads)
    close = {"rtol": 0, "atol": CLOSE[dtype]}
    with torch.no_grad():
        wanted = torch.stack([module(stage.inputs[0]) for module in stage.modules])
    found = torch.empty_like(wanted)

    def look(engine, a, b):
        found[a:b] = engine.logits(stage.x[a:b], stage.inputs[0])

    stage.pool.each(look)
    torch.testing.assert_close(found, wanted, **close)
    losses, grads, after = stage.separately()
    stage.pool.each(stage.gradients)
    torch.testing.assert_close(stage.losses, losses, **close)
    torch.testing.assert_close(stage.grad, grads, **close)
    stage.losses.fill_(torch.nan)
    stage.grad.fill_(torch.nan)
    stage.pool.each(stage.descend)
    torch.testing.assert_close(stage.losses, losses, **close)
    torch.testing.assert_close(stage.x, after, **close)
    assert bool(stage.grad.isnan().all()), "a fused step wrote gradients"


@pytest.mark.parametrize("rule", [(0.9, False, 0.0), (0.9, True, 0.0), (0.0, False, 0.2), (0.9, False, 0.2), (0.9, True, 0.2)])
@pytest.mark.parametrize(("name", "make"), [("bmm", smooth), ("loop", cnn), ("vmap", cnn)])
def test_steps_with_momentum_and_weight_decay_are_torchs(name, make, rule):
    momentum, nesterov, decay = rule
    stage = Stage(make, torch.float64, name, threads=2)
    step = SGDStep(momentum, nesterov, decay, torch.zeros_like(stage.x) if momentum else None)
    for _ in range(4):
        losses, _, after = stage.separately(momentum=momentum, nesterov=nesterov, weight_decay=decay)
        stage.pool.each(partial(stage.descend, step=step))
        torch.testing.assert_close(stage.losses, losses, rtol=0, atol=1e-12)
        torch.testing.assert_close(stage.x, after, rtol=0, atol=1e-12)
    assert bool(stage.grad.isnan().all()), "a fused step wrote gradients"


@pytest.mark.parametrize(("name", "make"), [("loop", mlp), ("bmm", mlp), ("vmap", cnn)])
def test_idle_rows_are_left_alone(name, make):
    stage, before = Stage(make, torch.float64, name), Stage(make, torch.float64, name).x
    active = np.array([True, False, True, True, True, True, False])
    stage.pool.each(stage.descend, active)
    after = stage.separately()[2]
    for i in range(ROWS):
        if active[i]:
            torch.testing.assert_close(stage.x[i], after[i], rtol=0, atol=1e-12)
        else:
            assert torch.equal(stage.x[i], before[i]) and bool(stage.losses[i].isnan())


LONG = ("algo=pasgd", "tau=6", "steps=50", "workers=6", "batch_size=8")


@pytest.mark.parametrize(("words", "names"), [((*MLP, *LONG), ("vmap", "bmm", "auto")), ((*CNN, *LONG), ("vmap", "auto"))])
def test_fifty_steps_are_the_same_whichever_engine_takes_them(process_groups, words, names):
    slow = play(process_groups, 1, *words, "engine=loop", "algo.strategy=test_engines:Unfused")
    for name in names:
        fused, stored = (
            play(process_groups, 1, *words, f"engine={name}", *more) for more in ((), ("algo.strategy=test_engines:Unfused",))
        )
        for run in (fused, stored):
            np.testing.assert_allclose(run.x, slow.x, rtol=0, atol=1e-12)
            assert run.lines[-1]["train/loss"] == pytest.approx(slow.lines[-1]["train/loss"], abs=1e-12)


def test_a_run_on_two_threads_repeats_bit_for_bit_and_equals_one_on_one(process_groups):
    def trained(threads):
        torch.set_num_threads(threads)
        try:
            return play(None, 1, *MLP, "dtype=float32", *LONG).x
        finally:
            torch.set_num_threads(1)

    np.testing.assert_array_equal(trained(2), trained(2))
    np.testing.assert_allclose(trained(2), trained(1), rtol=0, atol=1e-6)


def test_threads_share_the_rows_and_an_error_in_one_is_told():
    stage, seen = Stage(mlp, torch.float64, "bmm", threads=3), []
    stage.pool.each(lambda engine, a, b: seen.append((a, b)))
    assert sorted(seen) == [(0, 3), (3, 6), (6, 7)]

    def fails(engine, a, b):
        if a == 3:
            raise FloatingPointError("row 3")

    with pytest.raises(FloatingPointError, match="row 3"):
        stage.pool.each(fails)


def test_what_auto_chooses():
    small = "conv" if native.in_use() else "loop"
    for make, name in ((mlp, "bmm"), (logistic, "bmm"), (smooth, "bmm"), (cnn, small), (odd, "loop")):
        module = make()
        compiled = name == "conv" or (name == "bmm" and Bmm.compiled(module))
        many = dense.chunk(sum(p.numel() for p in module.parameters())) if compiled else CHUNK["cpu"][name]
        assert choose("auto", Bound(module)) == Choice(name, many)
    dropping = nn.Sequential(*mlp(), nn.Dropout(0.5), nn.Linear(10, 10))
    assert choose("auto", Bound(dropping)) == Choice("loop", 1)


def test_what_auto_chooses_on_a_gpu():
    dropping = nn.Sequential(*cnn(), nn.Dropout(0.5), nn.Linear(10, 10))
    cases = (mlp, 1, "bmm"), (mlp, 64, "bmm"), (cnn, 3, "loop"), (cnn, 4, "vmap"), (lambda: dropping, 64, "loop")
    for make, rows, name in cases:
        assert choose("auto", Bound(make()), device="cuda", rows=rows) == Choice(name, CHUNK["cuda"][name])


@pytest.mark.parametrize(("memory", "chunk"), [(1 << 40, 256), (400 << 20, 10), (1, 1)])
def test_vmap_takes_as_many_rows_as_a_gpu_holds(monkeypatch, memory, chunk):
    """A quarter of its memory, in rows of 10 MiB; the fake counts memory as torch.cuda does."""
    taken = [1 << 20, 11 << 20] * 2
    gpu = SimpleNamespace(total_memory=memory)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: taken.pop(0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: taken.pop(0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    batch = torch.randn(1, 4, 1, 8, 8), torch.zeros(1, 4, dtype=torch.int64)
    assert fitted(Choice("vmap", 256), Bound(cnn()), *batch) == Choice("vmap", chunk)


class Reads(nn.Module):
    """Asks for a number in the middle, which vmap cannot give it."""

    def forward(self, x):
        return x * 2 if float(x.detach().sum()) > 0 else x


def test_what_vmap_cannot_run_is_looped_over_saying_so(monkeypatch):
    for name in ("reset_peak_memory_stats", "memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    batch = torch.randn(1, 4, 64), torch.zeros(1, 4, dtype=torch.int64)
    found = fitted(Choice("vmap", 256), Bound(nn.Sequential(nn.Linear(64, 10), Reads())), *batch)
    assert found.name == "loop" and found.chunk == 1 and found.note.startswith("engine=vmap: ") and "looped over" in found.note


def test_attention_of_many_models_is_one_batch():
    """No warning that torch takes them one by one, which the suite would hear."""
    words = ("task=language", "model.layers=1", "model.width=16", "model.heads=2", "model.context=16", "batch_size=4")
    more = ("dtype=float64", "workers=4", "steps=2", "log_every=9", "eval_every=0", "device=cpu", "algo=pasgd")
    one, other = (play(None, 1, *words, *more, f"engine={engine}") for engine in ("vmap", "loop"))
    np.testing.assert_allclose(one.x, other.x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["vmap", "bmm"])
@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2)), "dropout"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2)), "running statistics"),
    ],
)
def test_dropout_and_running_statistics_fall_back_to_the_loop_saying_so(name, module, why):
    choice = choose(name, Bound(module))
    assert choice.name == "loop" and f"engine={name}" in choice.note and why in choice.note


class Own(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * 2


SHARED = nn.Linear(4, 4)
REFUSED = [
    (Bmm, Own(nn.Flatten(), nn.Linear(4, 2)), "Own is no nn.Sequential"),
    (Bmm, nn.Sequential(nn.Flatten(), SHARED, nn.ReLU(), SHARED), "distinct"),
    (Bmm, nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2)), "Sigmoid"),
    (Bmm, nn.Sequential(nn.Linear(4, 2)), "Flatten"),
    (Bmm, nn.Sequential(nn.Flatten(2), nn.Linear(4, 2)), "Flatten"),
    (Bmm, nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.ReLU()), "last"),
]


@pytest.mark.parametrize(("engine", "module", "why"), REFUSED)
def test_what_an_engine_cannot_run_it_names(engine, module, why):
    assert why in engine.cannot(module)
    assert Vmap.cannot(module) is None


def test_dropout_is_the_same_on_one_process_and_on_many_and_says_why_it_loops(process_groups, cli, tmp_path):
    words = (*MLP, "model.dropout=0.4", "algo=pasgd", "tau=4", "steps=12", "workers=4", "batch_size=8")
    runs = [
        play(process_groups, 1, *words, "engine=bmm"),
        play(process_groups, 4, *words),
        play(process_groups, 1, *words, "engine=vmap"),
    ]
    for run in runs[1:]:
        np.testing.assert_allclose(run.x, runs[0].x, rtol=0, atol=1e-12)
    ended = cli("train", "model.dropout=0.4", "engine=bmm", "steps=2", "processes=1", f"hydra.run.dir={tmp_path}/run")
    assert ended.code == 0
    assert "engine=bmm: dropout is drawn row by row; the rows are looped over instead" in ended.out
    assert '"engine": "loop"' in (tmp_path / "run" / "summary.json").read_text()


def test_single_workers_are_measured_on_all_samples_or_on_the_same_few():
    def problem(*more):
        settings = settle((*MLP, "workers=5", "algo=pasgd", *more))
        return Parts(settings).task.build(settings, range(5), torch.device("cpu"))

    whole, part = problem(), problem("eval_samples=90", "engine=loop")
    x = whole.start() + 0.5 * torch.randn(5, whole.start().shape[1], dtype=torch.float64)
    for one in (whole, part):
        one.bind(x, torch.zeros_like(x))
    slow = [whole.evaluate(row[None])["eval/accuracy"] for row in x]
    assert whole.accuracies(x) == pytest.approx(slow, abs=1e-12) and len(set(slow)) > 1
    assert part.facts == {"engine": "loop", "eval_samples": 90}
    few = part._looked_at
    assert len(few) == 90 == len(few.unique())
    part._held_out, part._tests = tuple(half[few] for half in part._held_out), 90  # all there is are now those few
    slow = [part.evaluate(row[None])["eval/accuracy"] for row in x]
    part._looked_at = torch.arange(90)
    assert part.accuracies(x) == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize(("workers", "n", "samples"), [(1, 10_000, 10_000), (32, 10_000, 10_000), (128, 10_000, 2500)])
def test_how_many_samples_auto_looks_at(workers, n, samples):
    assert eval_samples("auto", n, workers) == samples
    assert eval_samples("auto", n, 1024) == 1000 and eval_samples("auto", 364, 1024) == 364
    assert eval_samples(n + 1, n, workers) == n


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("engine=fast", "engine: must be one of auto, loop, vmap, bmm, conv, got 'fast'"),
        ("engine=grouped", "engine: must be one of auto, loop, vmap, bmm, conv, got 'grouped'"),
        ("eval_samples=0", "eval_samples: must be a whole number of at least 1 or auto, got 0"),
    ],
)
def test_a_wrong_word_is_refused(word, message):
    with pytest.raises(ConfigError, match=message):
        settle((*MLP, *word.split()))


class Unfused(Cooperative):
    """Looks at every gradient, so each is stored and used one step at a time."""

    def direction(self, fleet, t, grad, x, s):
        return grad, s
