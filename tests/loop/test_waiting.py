"""Between two looks nobody waits for a GPU: every algorithm, axis, engine and optimiser, tried where there is none.

Models lie on meta, whose tensors have no numbers: each operation of some steps is looked at (tests/waiting.py). What a run logs
is as far away as it can be, so a number that is read is one that was not to be read. Codecs are tried in test_devices.py: on
meta they pack nothing.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
import torch
from playing import CNN, MLP, ONE_STEP, QUADRATIC, Lines, settle, with_tau, written
from waiting import watched

from coopsgd.fleet.plan import layout_of
from coopsgd.fleet.stacked import Stacked
from coopsgd.host.transfer import brought
from coopsgd.loop.evaluation import Evaluator
from coopsgd.loop.loop import Loop
from coopsgd.setup import catalogue
from coopsgd.setup.parts import Parts
from coopsgd.tasks import gradients
from coopsgd.tasks.engines import choice

ALGOS = [one.name for one in catalogue.choices("algo")]
META = torch.device("meta")
LONG = ("workers=8", "steps=1000", "tau=3", "batch_size=8")
FEW = ("workers=3", "steps=1000", "tau=2", "batch_size=2")  # where rows are visited one by one, in Python's own time
BATCHNORM = (*CNN, "model.norm=batch")
GPT = ("task=language", "model.layers=1", "model.width=16", "model.heads=2", "model.context=16", *QUADRATIC[1:])


@pytest.fixture(autouse=True)
def a_gpu_without_numbers(monkeypatch):
    """Engines are chosen on meta as on a GPU; whether a network's buffers are finite is not asked."""
    for table in (choice.CHUNK, choice.BEST):
        monkeypatch.setitem(table, "meta", table["cuda"])
    found = lambda module: {name: x for name, x in module.named_buffers() if x.is_floating_point()}  # noqa: E731
    monkeypatch.setattr(gradients, "statistics_of", found)


def waits(*words):
    """What is waited for in some steps, with two communications, of a run of these words, after its first; and its engine."""
    parts = Parts(settle(words))
    fleet = Stacked(layout_of(parts.strategy.schedule, parts.config.workers, 1))
    problem = parts.task.build(parts.config, fleet.workers, META)
    evaluator = Evaluator(parts, problem, Lines(), None)
    loop = Loop(parts, fleet, problem, observer=evaluator)
    evaluator._loop = loop
    while not loop.state.rounds.r or loop.steps.ahead:
        loop.advance()
    begun, rounds = loop.state.k, loop.state.ledger.rounds
    with watched() as seen:
        while loop.state.k < begun + 4 or (parts.strategy.send is not None and loop.state.ledger.rounds < rounds + 2):
            loop.advance()
    assert loop.state.x.is_meta
    return sorted(set(seen)), problem.facts.get("engine") if hasattr(problem, "facts") else None


def algo(name):
    fits = ("tau=1",) if name in ONE_STEP else with_tau(name, 3)
    return (f"algo={name}", *fits, *((written(np.eye(8) / 2 + np.roll(np.eye(8), 1, 0) / 2),) if name == "cooperative" else ()))


@pytest.mark.parametrize("name", ALGOS)
def test_no_algorithm_waits(name):
    assert waits(*MLP, *LONG, *algo(name))[0] == []


ENGINES = {
    "mlp, bmm": (*MLP, "engine=bmm"),
    "mlp, vmap": (*MLP, "engine=vmap"),
    "mlp, loop": (*MLP, "engine=loop"),
    "cnn, vmap": (*CNN, "engine=vmap"),
    "cnn, loop": (*CNN, "engine=loop"),
    "batchnorm, loop": BATCHNORM,
    "dropout, loop": (*CNN, "model.dropout=0.1"),
    "gpt, vmap": (*GPT, "engine=vmap"),
    "gpt, loop": (*GPT, "engine=loop"),
    "quadratic, ": QUADRATIC,
}


OPTIMISERS = {"sgd": ("algo=easgd", "algo.alpha=0.1"), "adam, clip": ("algo=pasgd", "optim=adam", "clip=1", "schedule=cosine")}
OPTIMISERS["idle"] = ("algo=fedavg", "algo.fraction=0.5")


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_no_engine_waits(name, optimiser):
    fast = name.endswith(("bmm", " "))
    seen, engine = waits(*ENGINES[name], *(LONG if fast else FEW), *OPTIMISERS[optimiser])
    assert seen == [] and (engine or "") == name.split(", ")[1]


AXES = {
    "momentum": ("algo=easgd", "optim.momentum=0.9", "clip=1"),
    "averaged buffers, delay": ("algo=pasgd", "optim=adamw", "buffers=average", "delay=2"),
    "delay of a round": ("algo=dpsgd", "delay=tau", "merge=0.5"),
    "combine, then adapt": ("algo=dpsgd", "order=cta"),
    "muon": ("algo=pasgd", "optim=muon", "model.hidden=[8,8]"),
    "muon, idle": ("algo=fedavg", "algo.fraction=0.5", "optim=muon", "model.hidden=[8,8]", "tau=2"),
    "gossip of many": ("algo=dpsgd", "workers=24"),
    "fragments": ("algo=pasgd", "fragments=columns", "tau=4"),
    "fragments, merged": ("algo=pasgd", "fragments=columns", "tau=4", "merge=0.5", "delay=1"),
    "outer adam": ("algo=pasgd", "outer=adam"),
    "unlike shares": ("algo=fedavg", "weights_by=samples", "partition=quantity"),
    "scaffold, idle": ("algo=scaffold", "algo.fraction=0.5"),
    "fednova, idle": ("algo=fednova", "algo.fraction=0.5"),
    "proximal": ("algo=pasgd", "correction=proximal"),
    "on a clock": ("algo=easgd", "cluster=wan_100m"),
}


@pytest.mark.parametrize("name", AXES)
def test_no_axis_waits(name):
    assert waits(*MLP, *LONG, *AXES[name])[0] == []


def test_what_is_waited_for_is_seen():
    """Each of these would be waited for, and nothing else would."""
    x, mask = torch.zeros(4, 3, device=META), torch.zeros(4, dtype=torch.bool)
    for bad in (
        lambda: float(x.sum().to("cpu")),
        lambda: x.to("cpu"),
        lambda: torch.zeros(3).to(META),
        lambda: x.copy_(torch.zeros(4, 3)),
        lambda: x.new_tensor([1.0, 2.0]),
        lambda: torch.tensor(1.0, device=META),
        lambda: x[torch.tensor([0, 1])],
        lambda: x.index_put_((torch.tensor([0, 1]),), x[:2]),
        lambda: x.__setitem__(mask.to(META, non_blocking=True), 0.0),
    ):
        with watched() as seen, suppress(NotImplementedError, RuntimeError):  # meta tensors have no numbers to read
            bad()
        assert seen, bad
    with watched() as seen:
        brought(np.zeros(3), META)
        x.mul_(2.0).add_(torch.tensor(1.0)).index_select(0, brought(np.array([1]), META))
        x[1:].copy_(x[:-1].clone())
        torch.zeros(3)[torch.tensor([1])].tolist()
    assert seen == []
