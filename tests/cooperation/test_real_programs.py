"""What programs do around a Cooperation: each works as in the bare loop, or is refused in a line that says what to do."""

from __future__ import annotations

import copy
import pickle
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hydra.core.config_store import ConfigStore
from programs import network, run
from test_modules import PASGD, gradients, pair, values
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from coopsgd import Cooperation
from coopsgd.errors import ConfigError, RunFailed
from coopsgd.fleet.world import Notices


class Branches(nn.Module):
    """`often` is used in every step, `seldom` in even ones, and by rank 1 in the fifth; `never` by nobody."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.often, self.seldom, self.never = (nn.Linear(3, 3).double() for _ in range(3))

    def forward(self, x: torch.Tensor, k: int, rank: int) -> torch.Tensor:
        y = self.often(x)
        return self.seldom(y) if k % 2 == 0 or (k == 5 and rank == 1) else y


def branching(rank: int) -> Any:
    """The models of DDP and of fullsync, after steps in which not all parameters are used."""
    found = []
    for ours in (False, True):
        model = Branches()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
        called = model if ours else DistributedDataParallel(model, find_unused_parameters=True)
        coop = Cooperation(model, optimizer, "algo=fullsync") if ours else None
        for k in range(7):
            optimizer.zero_grad()
            draw = torch.Generator().manual_seed(10 * k + rank)
            called(torch.randn(4, 3, generator=draw, dtype=torch.float64), k, rank).square().mean().backward()
            if coop is None:
                optimizer.step()
            else:
                coop.step()
        found.append(values(model).numpy().copy())
    return found


def test_parameters_that_nobody_uses_stay_as_with_ddp():
    for said in run(2, branching):
        assert not said.kind, said
        assert np.allclose(*said.answer, atol=1e-14)


def test_parameters_that_nobody_uses_stay_in_one_process():
    models = [Branches() for _ in range(3)]
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.1, weight_decay=0.5) for m in models]
    coop = Cooperation(models, optimizers, "algo=fullsync")
    before = models[0].never.weight.clone()
    for i, model in enumerate(models):
        model(torch.ones(2, 3).double(), 5, i).square().mean().backward()
    coop.step()
    assert models[0].never.weight.grad is None
    assert torch.equal(models[0].never.weight, before)
    assert models[0].seldom.weight.grad is not None  # of worker 1
    assert torch.equal(models[0].seldom.weight, models[2].seldom.weight)


@pytest.mark.parametrize("algo", ["fullsync", "pasgd"])
def test_a_step_that_computes_gradients_of_its_own(algo):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    coop = Cooperation(model, optimizer, f"algo={algo}")

    def closure() -> Any:
        gradients([model])
        return torch.zeros(())

    closure()
    if algo == "pasgd":
        assert coop.step(step=lambda: optimizer.step(closure)) in (True, False)
        return
    with pytest.raises(RunFailed, match=r"^step: the function that takes the step computes gradients of its own"):
        coop.step(step=lambda: optimizer.step(closure))
    gradients([model])  # and the hooks are gone


@pytest.mark.parametrize(("algo", "message"), [("easgd", "easgd"), ("gea", "gea"), ("pasgd", ""), ("fedavg", "")])
def test_weights_that_come_late(algo, message):
    models, _, coop = pair(network, f"algo={algo}", "tau=1", samples=[1, 1])
    state = coop.state_dict()
    five = {name: torch.full_like(x, 5.0) for name, x in models[0].state_dict().items()}
    for model in models:
        model.load_state_dict(five)
        gradients([model])
        for p in model.parameters():
            p.grad.zero_()
    if not message:
        coop.step()
        assert all((values(model) == 5).all() for model in models)
        return
    with pytest.raises(RunFailed, match=rf"auxiliary models of {message} still have those from before; load or initialise"):
        coop.step()
    coop.load_state_dict(state)  # which says what all models are
    coop.step()


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop, torch.optim.NAdam])
def test_every_optimiser_of_torch_tells_what_it_keeps(kind):
    models = [network() for _ in range(2)]
    more = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizers = [kind(m.parameters(), lr=0.1, **more) for m in models]
    coop = Cooperation(models, optimizers, "algo=pasgd", "tau=1", "buffers=average")
    gradients(models)
    coop.step()
    for p, q in zip(*(m.parameters() for m in models), strict=True):
        kept = [o.state[x] for o, x in zip(optimizers, (p, q), strict=True)]
        assert all(torch.equal(x, kept[1][name]) for name, x in kept[0].items() if torch.is_tensor(x))


@dataclass
class Mine:
    lr: float = 0.1


def test_names_of_a_programs_own_in_hydras_store(monkeypatch):
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", copy.deepcopy(store.repo))
    store.store(name="config", node=Mine)
    store.store(group="model", name="mlp", node=Mine)
    store.store(group="optim", name="sgd", node={"zzz": 1})
    before = copy.deepcopy(sorted(store.repo))
    pair(network, "algo=dpsgd", "topology=ring", "tau=4")
    assert sorted(store.repo) == before
    assert set(store.repo["optim"]) == {"sgd.yaml"}


class Cached(nn.Module):
    """A layer with a buffer that a program may do anything with."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.register_buffer("cache", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


CHANGES = {
    "longer": (lambda m: m.register_buffer("cache", torch.zeros(5)), r"has become \(5,\); keep its shape, or register it with"),
    "one": (lambda m: m.register_buffer("cache", torch.ones(1)), r"has become \(1,\);"),
    "none": (lambda m: setattr(m, "cache", None), "is no longer there;"),
    "gone": (lambda m: delattr(m, "cache"), "is no longer there;"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_buffer_that_cannot_be_mixed_any_more_is_named(what):
    models, _, coop = pair(Cached, *PASGD)
    change, message = CHANGES[what]
    gradients(models)
    change(models[1])
    with pytest.raises(RunFailed, match=r"^buffer cache is mixed with the model as \(4,\), and " + message):
        coop.step()


def test_statistics_of_two_kinds_are_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model.register_buffer("table", torch.linspace(0, 1, 5, dtype=torch.float64))
    line = r"1\.running_mean \(torch.float32, cpu\).* and register what is a constant with persistent=False$"
    with pytest.raises(ConfigError, match=line):
        Cooperation(model, torch.optim.SGD(model.parameters(), lr=0.1), *PASGD)
    model.register_buffer("table", model.table, persistent=False)
    Cooperation(model, torch.optim.SGD(model.parameters(), lr=0.1), *PASGD)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), "x", True])
def test_a_timeout_is_a_time(timeout):
    with pytest.raises(ConfigError, match=r"^timeout: must be seconds, more than 0, got"):
        pair(network, *PASGD, timeout=timeout)


def test_who_fell_is_not_said_to_want_data(monkeypatch):
    store = dist.HashStore()
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(Notices, "made", 0)
    gone = Notices(0, 2, 60.0)
    monkeypatch.setattr(Notices, "made", 0)
    left = Notices(1, 2, 60.0)
    gone.step = 3
    monkeypatch.setattr(sys, "last_value", ValueError("mine"), raising=False)
    gone.leave()
    assert left.where([0], uneven=True) == "rank 0 has ended after step 3 (ValueError)"
    monkeypatch.delattr(sys, "last_value")
    gone.leave()
    assert left.where([0], uneven=True) == (
        "rank 0 has ended after step 3; where some have less data than others, wrap the loop in `with coop.join():`"
    )
    assert left.where([0]) == "rank 0 has ended after step 3"


def test_what_is_no_state_is_refused():
    _, _, coop = pair(network, "algo=easgd")
    state = coop.state_dict()
    for name in ("words", "tree", "tensors", "model"):
        with pytest.raises(ConfigError, match=rf"^load_state_dict: the state has no '{name}', so parts of it are gone"):
            coop.load_state_dict({k: v for k, v in state.items() if k != name})
    tensors = dict(state["tensors"])
    tensors.popitem()
    with pytest.raises(ConfigError, match=r"^load_state_dict: the state has no "):
        coop.load_state_dict(state | {"tensors": tensors})


def test_what_cannot_work_is_refused():
    models, _, coop = pair(network, "algo=pasgd", "period=adacomm", "tau=2")
    gradients(models)
    with pytest.raises(ConfigError, match="step: the loss of a model is one number"):
        coop.step(loss=[torch.ones(2), torch.ones(2)])
    with pytest.raises(ConfigError, match="log_to: writer must be a SummaryWriter at rank 0, got NoneType"):
        coop.log_to(None)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            copied(coop)
    with torch.inference_mode(), pytest.raises(ConfigError, match=r"^load_state_dict: not within torch.inference_mode"):
        coop.load_state_dict({})
    with torch.inference_mode(), pytest.raises(ConfigError, match=r"^Cooperation: not within torch.inference_mode"):
        pair(network, *PASGD)
    embedding = nn.Embedding(4, 2, sparse=True)
    with pytest.raises(ConfigError, match="SparseAdam takes sparse gradients"):
        Cooperation(embedding, torch.optim.SparseAdam(embedding.parameters(), lr=0.1), "algo=fullsync")


def test_a_parameter_that_an_optimiser_is_given_later():
    models, optimizers, coop = pair(network, *PASGD)
    optimizers[0].add_param_group({"params": [nn.Parameter(torch.zeros(7))]})
    gradients(models)
    with pytest.raises(RunFailed, match=r"steps a parameter of shape \(7,\) that came to it after the Cooperation was made"):
        coop.step()


def test_words_as_programs_have_them():
    W = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    for given in (W, W.numpy(), W.tolist()):
        assert pair(network, {"algo": {"name": "cooperative", "W": given}})[2].zeta == pytest.approx(0)
    with pytest.warns(UserWarning, match="algo: none is named, so it is easgd, as on the command line"):
        pair(network, "tau=4")
