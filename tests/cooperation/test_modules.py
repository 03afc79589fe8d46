"""A user's modules, optimisers and scalers as they come: what becomes of each, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from programs import network
from torch import nn

from coopsgd import Cooperation
from coopsgd.cooperation import modules as layout
from coopsgd.errors import RunFailed
from coopsgd.models.base import statistics_of

PASGD = ("algo=pasgd", "tau=1")


def pair(make: Any, *words: str, lr: float = 0.1, **settings: Any) -> tuple[list[Any], list[Any], Cooperation]:
    """Two workers in this process, each with a module of make(), and their cooperation."""
    models = [make() for _ in range(2)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9) for model in models]
    return models, optimizers, Cooperation(models, optimizers, *(words or PASGD), **settings)


def gradients(models: list[Any], k: int = 0, size: int = 4) -> None:
    """Fill them: a function of worker and step."""
    for i, model in enumerate(models):
        draw = torch.Generator().manual_seed(1000 * i + k)
        p = next(model.parameters())
        x = torch.randn(8, size, generator=draw, dtype=torch.float64).to(p.dtype)
        model.zero_grad()
        model(x).float().square().mean().backward()


def values(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().double().reshape(-1) for p in model.parameters()])


def test_parameters_stay_the_objects_that_they_were():
    model, other = network(), network()
    mine = list(model.parameters())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    gradients([model])
    optimizer.step()
    state, before = copy.deepcopy(optimizer.state[mine[0]]), values(model)
    Cooperation([model, other], [optimizer, torch.optim.Adam(other.parameters(), lr=0.1)], *PASGD)
    assert [*model.parameters()] == mine
    assert torch.equal(values(model), before)
    assert torch.equal(values(other), before)  # all start from the first
    assert torch.equal(optimizer.state[mine[0]]["exp_avg"], state["exp_avg"])


def test_a_step_zeroes_no_gradients():
    models, _, coop = pair(network)
    gradients(models)
    before = [p.grad.clone() for p in models[1].parameters()]
    coop.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(models[1].parameters(), before, strict=True))


class Tied(nn.Module):
    """An embedding that is the output layer too, and a frozen layer between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed, self.between, self.out = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(4, 5)
        self.out.weight = self.embed.weight
        self.between.requires_grad_(False)

    def forward(self, x: Any) -> Any:
        return self.embed(x) + self.between(self.out(x))


def test_tied_and_frozen_parameters():
    models, _, coop = pair(Tied)
    for k in range(3):
        gradients(models, k)
        coop.step()
    assert all(model.out.weight is model.embed.weight for model in models)
    assert torch.equal(models[0].embed.weight, models[1].embed.weight)
    assert torch.equal(models[0].between.weight, Tied().between.weight)
    numbers = sum(p.numel() for p in Tied().parameters() if p.requires_grad)
    assert coop.ledger.bytes == 3 * 2 * (2 - 1) * numbers * 4  # neither is sent twice, nor what is frozen at all


def test_what_is_frozen_starts_from_the_first_too():
    def make() -> Any:
        model = Tied()
        nn.init.normal_(model.between.weight)
        return model

    models, *_ = pair(make)
    assert torch.equal(models[0].between.weight, models[1].between.weight)


def unfreeze(models: Any) -> None:
    models[1].between.weight.requires_grad_(True)


def freeze(models: Any) -> None:
    models[0].embed.bias.requires_grad_(False)


def move(models: Any) -> None:
    models[0].double()


def exchange(models: Any) -> None:
    models[1].out = nn.Linear(4, 5)


def replace(models: Any) -> None:
    models[1].load_state_dict(models[0].state_dict(), assign=True)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (unfreeze, "between.weight was frozen when the Cooperation was made"),
        (freeze, "embed.bias was frozen after the Cooperation was made"),
        (move, "embed.weight was replaced or moved after"),
        (replace, "embed.weight was replaced or moved after|parameter embed.weight is new"),
        (exchange, "parameter out.weight is new since the Cooperation was made"),
    ],
)
def test_what_would_not_be_mixed_any_more_is_an_error(harm, message):
    models, _, coop = pair(Tied)
    gradients(models)
    harm(models)
    with pytest.raises(RunFailed, match=message):
        coop.state_dict()
    with pytest.raises(RunFailed, match=message):
        coop.consensus()
    with pytest.raises(RunFailed, match=message):
        coop.step()


def test_a_second_cooperation_takes_the_models_and_the_first_says_so():
    models, _, first = pair(network)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    second = Cooperation(models, optimizers, *PASGD)
    gradients(models)
    with pytest.raises(RunFailed, match="another Cooperation was made of this model since"):
        first.step()
    assert second.step()
    assert torch.equal(values(models[0]), values(models[1]))


def test_values_that_are_loaded_in_place_are_taken():
    models, _, coop = pair(network)
    models[0].load_state_dict(network(seed=7).state_dict())
    models[1].load_state_dict(network(seed=8).state_dict())
    mean = (values(models[0]) + values(models[1])) / 2
    for model in models:
        model.zero_grad()
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
    coop.step()
    assert torch.allclose(values(models[1]), mean, atol=1e-15)


def test_strides_stay():
    def make() -> Any:
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
        return layers.to(memory_format=torch.channels_last)

    models, _, _ = pair(make)
    fresh = make()
    assert torch.equal(models[1][0].weight, fresh[0].weight)
    assert models[1][0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_row_with_gaps(monkeypatch):
    """As modules lie on a GPU, each from a multiple of 16 bytes on: values are what they are without the gaps."""
    monkeypatch.setattr(layout, "_taken", lambda x: -(-x.numel() // 4) * 4)
    models, _, coop = pair(normed, "algo=dpsgd", "topology=ring", "tau=2")
    monkeypatch.undo()
    others, _, other = pair(normed, "algo=dpsgd", "topology=ring", "tau=2")
    for k in range(5):
        for pair_of, one in ((models, coop), (others, other)):
            gradients(pair_of, k)
            one.step()
    for model, same in zip(models, others, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(model.state_dict().values(), same.state_dict().values(), strict=True))
    assert coop.ledger.bytes > other.ledger.bytes


class Mixed(nn.Module):
    """bfloat16, float32 and float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.norm, self.b = nn.Linear(4, 6).bfloat16(), nn.BatchNorm1d(6), nn.Linear(6, 3).double()

    def forward(self, x: Any) -> Any:
        return self.b(self.norm(self.a(x.bfloat16()).float()).double())


@pytest.mark.parametrize(
    "words", [PASGD, ("algo=fullsync",), ("algo=pasgd", "tau=2", "delay=1"), ("algo=easgd", "tau=2", "norm_stats=local")]
)
def test_numbers_of_several_kinds(words):
    """Each kind is a row of its own: what a kind becomes is what it becomes in a model of that kind alone."""
    models, _, coop = pair(Mixed, *words)
    everywhere = [copy.deepcopy(model) for model in models]
    steps = 4
    for k in range(steps):
        gradients(models, k)
        coop.step()
    assert [p.dtype for p in models[0].parameters()] == [p.dtype for p in everywhere[0].parameters()]
    if coop.config.algo["name"] != "easgd" and not coop.config.delay:
        assert torch.equal(values(models[0]), values(models[1]))
    sizes = {torch.bfloat16: 30, torch.float32: 12, torch.float64: 21}
    a_round = sum(n * dtype.itemsize for dtype, n in sizes.items()) + (12 * 4 if coop.config.norm_stats == "average" else 0)
    if words == PASGD:
        assert coop.ledger.bytes == steps * 2 * a_round
        assert coop.ledger.messages == steps * 2 * 3  # an average of two, of each kind
        assert torch.equal(models[0].norm.running_var, models[1].norm.running_var)
        mean = [(a + b) / 2 for a, b in zip(*by_hand(everywhere, 1), strict=True)]
        again, _, coop = pair(Mixed, *words)
        gradients(again, 0)
        coop.step()
        for found, expected in zip(again[0].parameters(), mean, strict=True):
            assert torch.allclose(found.double(), expected.double(), rtol=2e-2 if found.dtype == torch.bfloat16 else 1e-6)
    with coop.answer(), pytest.raises(ZeroDivisionError):
        1 / 0  # noqa: B018
    tree = coop.state_dict()
    before = [values(model) for model in models]
    gradients(models, 9)
    coop.step()
    coop.load_state_dict(tree)
    if words != PASGD:
        assert all(torch.equal(values(model), row) for model, row in zip(models, before, strict=True))


def by_hand(models: list[Any], steps: int) -> list[list[Any]]:
    """Parameters of each after plain steps of its own."""
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in models]
    for k in range(steps):
        gradients(models, k)
        for optimizer in optimizers:
            optimizer.step()
    return [[p.detach().clone() for p in model.parameters()] for model in models]


class Replacing(nn.Module):
    """Puts a new tensor in the place of its buffer, as some people write a running mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Any) -> Any:
        if self.training:
            self.seen = 0.5 * self.seen + x.detach().mean(0)
        return self.linear(x)


@pytest.mark.parametrize("words", [PASGD, ("algo=fullsync",), ("algo=pasgd", "tau=1", "delay=1")])
def test_buffers_that_are_replaced_are_mixed(words):
    models, _, coop = pair(Replacing, *words)
    gradients(models)
    mean = (models[0].seen + models[1].seen) / 2
    assert not torch.equal(models[0].seen, models[1].seen)
    coop.step()
    if not coop.config.delay:
        assert all(torch.allclose(model.seen, mean) for model in models)
    gradients(models, 1)
    told = coop.state_dict()
    kept = [model.seen.clone() for model in models]
    gradients(models, 2)
    coop.step()
    coop.load_state_dict(told)
    assert all(torch.equal(model.seen, was) for model, was in zip(models, kept, strict=True))
    with coop.answer():
        models[0](torch.ones(3, 4))
    assert all(torch.equal(model.seen, was) for model, was in zip(models, kept, strict=True))


def test_what_is_done_to_a_model_within_an_answer_hides_nothing():
    models, _, coop = pair(network, "algo=dpsgd", "topology=ring", "tau=5")
    gradients(models)
    coop.step()
    before = [values(model) for model in models]
    with pytest.raises(KeyError), coop.answer():
        models[0].requires_grad_(False)
        raise KeyError
    assert all(torch.equal(values(model), was) for model, was in zip(models, before, strict=True))


def normed() -> nn.Sequential:
    return network(nn.BatchNorm1d(6).double())


def test_the_answer_comes_and_goes():
    models, _, coop = pair(normed, "algo=dpsgd", "topology=ring", "tau=5", "delay=1")
    for k in range(3):
        gradients(models, k)
        coop.step()
    before = [copy.deepcopy(model.state_dict()) for model in models]
    mean = (values(models[0]) + values(models[1])) / 2
    charged = coop.ledger.totals()
    with pytest.raises(ZeroDivisionError), coop.answer() as inside:
        assert inside is models
        assert torch.allclose(values(models[0]), mean, atol=1e-15)
        assert torch.equal(values(models[0]), values(models[1]))
        assert torch.allclose(models[0][1].running_mean, (before[0]["1.running_mean"] + before[1]["1.running_mean"]) / 2)
        models[0](torch.randn(5, 4).double())  # in training mode: statistics and their count move
        1 / 0  # noqa: B018
    for model, was in zip(models, before, strict=True):
        assert all(torch.equal(value, was[name]) for name, value in model.state_dict().items())
    assert coop.ledger.totals() == charged
    for k in range(3, 9):  # and the message under way arrives
        gradients(models, k)
        coop.step()
    assert coop.ledger.rounds == 1


class Odd(nn.Module):
    """What is in no row: a frozen convolution channels last, and buffers of all kinds."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear, self.frozen = (
            nn.Linear(2, 2),
            nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last).requires_grad_(False),
        )
        self.register_buffer("mask", torch.rand(5) > 0.5)
        self.register_buffer("count", torch.tensor(seed))
        self.register_buffer("nothing", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("waves", torch.randn(3, dtype=torch.complex64))
        self.register_buffer("never", torch.full((2,), -torch.inf))
        self.register_buffer("table", torch.rand(7), persistent=False)


def odd(rank: int) -> dict[str, Any]:
    model = Odd(rank)
    Cooperation(model, torch.optim.SGD(model.linear.parameters(), lr=0.1), *PASGD)
    return {name: x.numpy() for name, x in [*model.state_dict().items(), ("table", model.table)]}


def test_what_is_in_no_row_is_that_of_the_first_process(process_groups):
    first = Odd(0)
    expected = {name: x.numpy() for name, x in [*first.state_dict().items(), ("table", first.table)]}
    for found in process_groups(2)(odd):
        assert all(np.array_equal(found[name], x) for name, x in expected.items())


def test_one_worker_alone_is_as_if_there_were_no_cooperation():
    model, reference = network(), network()
    optimizer, other = (torch.optim.Adam(m.parameters(), lr=0.1) for m in (model, reference))
    coop = Cooperation(model, optimizer, "algo=pasgd", "tau=2")
    for k in range(5):
        gradients([model], k)
        coop.step()
        gradients([reference], k)
        other.step()
    assert np.array_equal(values(model), values(reference))


def test_a_table_that_is_no_state_is_not_sent():
    models, _, coop = pair(lambda: Odd(0), *PASGD)
    assert statistics_of(models[0]) == {}
    models[1].table.add_(1)
    for p in [*models[0].linear.parameters(), *models[1].linear.parameters()]:
        p.grad = torch.ones_like(p)
    assert coop.step()
    assert torch.equal(models[1].table, models[0].table + 1)
    assert coop.ledger.bytes == 2 * 4 * sum(p.numel() for p in models[0].linear.parameters())
