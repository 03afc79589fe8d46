"""Where there is no GPU: would everything lie on it that should, and would the processor wait for it?

Torch's fake tensors have a device and no numbers. An operation on tensors of two devices fails as on a GPU, and so does
whatever asks for a number, for which a processor would have to wait. What they cannot do is a backward pass on a GPU that is
not there; `bmm` needs none.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from playing import MLP, OF_MATRICES, ONE_STEP, QUADRATIC, settle, with_tau, written
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from waiting import staged, watched

from coopsgd.fleet.plan import layout_of
from coopsgd.fleet.stacked import Stacked
from coopsgd.loop.loop import Loop
from coopsgd.loop.saved import flatten, homes, inflate
from coopsgd.setup import catalogue
from coopsgd.setup.parts import Parts
from coopsgd.tasks import networks
from coopsgd.tasks.gradients import Bound

GPU = torch.device("cuda", 0)
ALGOS = [choice.name for choice in catalogue.choices("algo")]
RING = np.eye(8) / 2 + np.roll(np.eye(8), 1, 0) / 2
LONG = ("workers=8", "steps=1000", "tau=3", "batch_size=8")


def on_gpu(task: Any, seed: int, dtype: Any, device: Any, start: Any) -> Bound:
    """networks.bound, of a module without numbers."""
    with unset_fake_temporarily():
        module = networks.network(task, seed)
    for part in module.modules():
        for name, p in part._parameters.items():
            part._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=dtype, device=device))
    return Bound(module)


def begun(parts: Parts, saved: Any = None) -> Loop:
    fleet = Stacked(layout_of(parts.strategy.schedule, parts.config.workers, 1))
    return Loop(parts, fleet, parts.task.build(parts.config, fleet.workers, GPU), saved=saved)


def read_again(loop: Loop) -> Any:
    """What a checkpoint would hold, as it is read: on the processor's side. What is to be read as a number is one."""
    skeleton, leaves = flatten(loop.saved())

    def read(at: str, kind: str) -> torch.Tensor:
        pieces = getattr(leaves[at], "parts", None) or [leaves[at].tensor]
        return torch.zeros(sum(map(len, pieces)), *pieces[0].shape[1:], dtype=pieces[0].dtype)

    with unset_fake_temporarily():
        tree = inflate(skeleton, read, homes(loop.strategy, loop.parts.period))
        tree["inner"]["steps"] = np.ones((len(loop.fleet.workers), 1))
        tree["ledger"]["comm_s"] = 0.0
        return tree


MORE = {
    "momentum": ("algo=easgd", "optim.momentum=0.9", "clip=1"),
    "averaged buffers, delay": ("algo=pasgd", "optim=adam", "buffers=average", "delay=2", "schedule=cosine"),
    "idle clients": ("algo=fedavg", "algo.fraction=0.5", "optim.momentum=0.9"),
    "combine, then adapt": ("algo=dpsgd", "order=cta"),
    "gossip of many": ("algo=dpsgd", "workers=24"),
    "state of its own": ("algo=pasgd", "~algo.mixing", "algo.strategy=written:SlowMo"),
    "qsgd": ("algo=pasgd", "codec=qsgd"),
    "randk": ("algo=dpsgd", "codec=randk"),
    "tracking": ("algo=pasgd", "algo.strategy=written:GradientTracking", "tau=1"),
}


def went_on(rank: int, words: tuple[str, ...]) -> tuple[str, int, int]:
    """Take some steps, write down and read the state, go on from it; where the rows are then, and after how many steps."""
    parts = Parts(settle(words))
    # what it checks are numbers, before the first step
    patched = mock.patch.object(Loop, "_check_savable", lambda loop: None), mock.patch.object(networks, "bound", on_gpu)
    with patched[0], patched[1], staged(), FakeTensorMode(allow_non_fake_inputs=True):
        loop = begun(parts)
        delay = parts.config.delay
        apart = delay != "tau" and delay > 1  # else no message is under way after a step with none ahead
        while loop.state.k < 10 or loop.steps.ahead or (apart and loop.state.flight is None):
            loop.advance()
        again = begun(parts, read_again(loop))
        for _ in range(4):  # plans are made
            again.advance()
        with watched() as seen:
            for _ in range(6):
                again.advance()
        assert not seen, sorted(set(seen))
        return str(again.state.x.device), loop.state.k, again.state.k


@pytest.mark.parametrize("task", [MLP, QUADRATIC], ids=["mlp", "quadratic"])
@pytest.mark.parametrize("name", [*ALGOS, *MORE])
def test_nothing_lies_elsewhere_and_nobody_waits(process_groups, name, task):
    """In a process of its own, for one that has seen a GPU cannot fork."""
    if task is QUADRATIC and name in OF_MATRICES:
        pytest.skip("it needs matrices")
    fits = ("tau=1",) if name in ONE_STEP else with_tau(name, 3)
    words = MORE.get(name, (f"algo={name}", *fits, *((written(RING),) if name == "cooperative" else ())))
    ((device, before, after),) = process_groups(1)(went_on, (*task, *LONG, *words))
    assert device == "cuda:0" and after == before + 10
