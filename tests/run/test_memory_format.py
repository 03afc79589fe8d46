"""How weights of convolutions lie in a row: measured once, frozen with the run, kept; it moves rounding alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from playing import CNN, play, settle
from refusals import refused

from coopsgd.run import memory_format
from coopsgd.setup.identity import identity
from coopsgd.setup.parts import Parts
from coopsgd.tasks.engines.loop import Loop
from coopsgd.tasks.gradients import Bound
from coopsgd.tasks.networks import bound

LONG = (*CNN, "algo=pasgd", "workers=2", "processes=1", "steps=500")
FASTER = {"channels_last": {"channels_last": 1.0, "contiguous": 0.97}, "contiguous": {"channels_last": 1.0, "contiguous": 0.9}}


@pytest.fixture
def measured(monkeypatch):
    """What a step takes, by format, and how often that was measured."""
    times, asked = dict(FASTER["contiguous"]), []
    monkeypatch.setattr(memory_format, "_found", {})
    monkeypatch.setattr(memory_format, "_seconds", lambda config, task: times)
    monkeypatch.setattr(memory_format, "answer_of", lambda work: asked.append(1) or work())
    return times, asked


def frozen(*words):
    parts, told = memory_format.settled(Parts(settle((*LONG, *words))))
    return parts.task.model.memory_format, told


@pytest.mark.parametrize("name", FASTER)
def test_the_faster_one_is_frozen_and_told(measured, name):
    measured[0].update(FASTER[name])
    assert frozen() == (name, f"model.memory_format={name}: a step of one worker takes " + told(FASTER[name]))
    assert frozen("seed=3", "optim.lr=0.2")[0] == name and len(measured[1]) == 1  # jobs of a sweep that are alike choose alike
    frozen("batch_size=7")
    assert len(measured[1]) == 2


def told(times):
    return ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in times.items())


@pytest.mark.parametrize(
    "words",
    [
        ("model.memory_format=channels_last",),
        ("steps=60",),
        ("engine=vmap",),
        ("model=mlp", "~model.width"),
        ("device=cuda",),
    ],
)
def test_where_there_is_nothing_to_choose_nothing_is_measured(measured, words):
    settings = settle(
        tuple(w for w in LONG if not w.startswith("model.width") or "~model.width" not in words)
        + tuple(w for w in words if not w.startswith(("~", "device")))
    )
    settings = replace(settings, device="cuda") if "device=cuda" in words else settings
    parts, told = memory_format.settled(Parts(settings))
    assert told is None and measured[1] == [] and parts.config == settings


def test_both_are_measured_on_what_the_run_computes(monkeypatch):
    seen, descend = [], Loop.descend

    def noting(self, a, b, inputs, targets, lr, **more):
        seen.append((self._bound.channels_last, tuple(inputs.shape), inputs.dtype))
        return descend(self, a, b, inputs, targets, lr, **more)

    monkeypatch.setattr(Loop, "descend", noting)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(memory_format, "TURNS", 2)
    settings = settle((*LONG, "batch_size=5"))
    times = memory_format._seconds(settings, Parts(settings).task)
    assert times.keys() == {"channels_last", "contiguous"} and min(times.values()) > 0
    assert sorted({last for last, *_ in seen}) == [False, True]
    assert {rest for _, *rest in [(a, b, c) for a, b, c in seen] for rest in [tuple(rest)]} == {
        ((1, 5, 1, 8, 8), torch.float64)
    }
    assert len(seen) in (4, 6)


@pytest.mark.parametrize("more", [(), ("optim.momentum=0.9", "optim.nesterov=true", "optim.weight_decay=0.1"), ("clip=0.5",)])
def test_it_moves_rounding_alone(more):
    words = (*CNN, "model.norm=batch", "workers=3", "steps=12", "algo=pasgd", "tau=4", *more)
    runs = [play(None, 1, *words, f"model.memory_format={name}") for name in ("channels_last", "contiguous")]
    settings = [settle((*words, f"model.memory_format={name}")) for name in ("channels_last", "contiguous")]
    assert identity(settings[0]) == identity(settings[1])
    models = [Parts(one).task.module(one, torch.from_numpy(run.answer)[None]) for one, run in zip(settings, runs, strict=True)]
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
    weights = [next(p for p in model.parameters() if p.dim() == 4 and p.shape[1] > 1) for model in models]
    assert [w.is_contiguous() for w in weights] == [False, True]
    last, plain = (bound(Parts(one).task, 0, torch.float64).places()["parameters"] for one in settings)
    assert [place[:2] for place in last] == [place[:2] for place in plain] and last != plain


def test_gradients_lie_as_their_parameters_do():
    """Also where autograd leaves none, where a weight is shared, and where the network's code permutes it."""

    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.ones(2, 3, 3, 3))
            self.shared = torch.nn.Conv2d(3, 3, 3, padding=1)
            self.turned = torch.nn.Parameter(torch.randn(4, 2, 3, 5))

        def forward(self, x):
            turned = torch.einsum("abcd,nc->nabd", self.turned, x.mean((2, 3)))
            return self.shared(self.shared(x)).flatten(1)[:, :10] + turned.sum((1, 2, 3))[:, None]

    torch.manual_seed(0)
    module, x = Odd().double(), torch.randn(4, 3, 6, 6, dtype=torch.float64)
    for last in (True, False):
        network = Bound(module, last)
        row = network.flat()
        grad, kept = torch.full_like(row, torch.nan), torch.zeros_like(row)
        engine = Loop(network)
        engine.loss = lambda outputs, targets: outputs.square().sum()
        engine.bind(row, grad)
        engine.gradients(0, 1, x[None], x[None])
        network.bind(row, kept)
        network.row(0)(x).square().sum().backward()
        torch.testing.assert_close(grad, kept, rtol=0, atol=1e-9)
        assert grad.count_nonzero() < grad.numel()


def test_it_is_kept_by_a_run_its_resume_and_its_verification(cli, tmp_path):
    words = ("train", *CNN[:3], "model.width=8", "workers=2", "processes=2", "algo=pasgd", "tau=4", "steps=8", "batch_size=8")
    words = (*words, "checkpoint_every=4", "hydra.run.dir=r", "resume=auto")
    ended = cli(*words, "model.memory_format=contiguous")
    assert ended.code == 0, ended
    assert yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["model"]["memory_format"] == "contiguous"
    longer = [word.replace("steps=8", "steps=12") for word in words]
    ended = cli(*longer, "model.memory_format=channels_last")
    assert ended.code == 2 and "model.memory_format: would change what this run has done already" in ended.err, ended
    assert cli(*longer).code == 0  # who says nothing goes on with what there is
    assert yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["model"]["memory_format"] == "contiguous"
    assert cli("verify", "r").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("model=cnn", "model.memory_format=nhwc"), ["model.memory_format", "auto, channels_last, contiguous", "'nhwc'"]),
        (
            ("model=custom", "model.path=nets:Plain", "model.memory_format=channels_last"),
            ["model.memory_format", "nets:Plain", "contiguous"],
        ),
    ],
)
def test_refused_in_one_line(words, said):
    refused(("algo=pasgd", "data=digits", *words), said)


def test_rows_repeat_bit_for_bit():
    words = (*CNN, "workers=2", "steps=6", "algo=pasgd", "model.memory_format=contiguous")
    np.testing.assert_array_equal(play(None, 1, *words).x, play(None, 1, *words).x)
