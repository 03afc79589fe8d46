"""Models and optimisers that no Cooperation can be made of, each refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from programs import network
from test_modules import PASGD
from torch import nn

from coopsgd import Cooperation
from coopsgd.cooperation.words import parts_of
from coopsgd.errors import ConfigError


def shared() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight.data = model[0].weight.data
    return model


def foreign() -> Any:
    model, other = network(), network()
    return model, torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1)


def untrained() -> nn.Module:
    return network().requires_grad_(False)


REFUSED: dict[str, tuple[Any, str]] = {
    "no module": (lambda: ("model", None), "model: must be a torch.nn.Module, or a list of them, got str"),
    "no optimizer": (lambda: (network(), None), "optimizer: must be a torch.optim.Optimizer, got NoneType"),
    "another's optimizer": (
        foreign,
        "optimizer: steps a parameter of shape (6, 4) that model does not have, so it would be trained",
    ),
    "shared memory": (shared, "model: parameters 0.weight and 1.weight share memory without being one parameter"),
    "lazy": (lambda: nn.LazyLinear(3), "model: parameter weight has no shape yet (a lazy module)"),
    "meta": (lambda: nn.Linear(3, 3, device="meta"), "model: parameter weight is on the meta device"),
    "complex": (
        lambda: nn.Linear(3, 3, dtype=torch.complex64),
        "model: parameter weight is complex64; only dense real numbers",
    ),
    "frozen": (untrained, "model: no parameter requires a gradient"),
    "lbfgs": (
        lambda: (m := network(), torch.optim.LBFGS(m.parameters())),
        "optimizer: LBFGS computes gradients of its own, between which",
    ),
    "data parallel": (lambda: nn.DataParallel(network()), "model: DataParallel averages gradients by itself; give the module"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what):
    made, line = REFUSED[what]
    given = made()
    model, optimizer = given if isinstance(given, tuple) else (given, None)
    if optimizer is None and what not in ("no module", "no optimizer"):
        optimizer = torch.optim.SGD(list(model.parameters()), lr=0.1)
    with pytest.raises(ConfigError) as caught:
        Cooperation(model, optimizer, "algo=independent")
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_models_of_one_process_must_be_alike_and_apart():
    a, b, c = network(), network(), nn.Linear(4, 3)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (a, b, c)]
    with pytest.raises(ConfigError, match=r"models 0 and 1 differ: .* all workers train the same network"):
        Cooperation([a, c], [optimizers[0], optimizers[2]], *PASGD)
    with pytest.raises(ConfigError, match=r"parameter 0\.weight is in two of the 2 models"):
        Cooperation([a, a], optimizers[:2], *PASGD)
    with pytest.raises(ConfigError, match="one for each model, got 1 for 2"):
        Cooperation([a, b], optimizers[:1], *PASGD)


def test_sharded_parameters_are_refused(process_groups):
    for line in process_groups(2)(_sharded):
        assert (
            "is a DTensor, sharded or replicated over a mesh, so it cannot be a view of one worker's row; not supported" in line
        )


def _sharded(rank: int) -> str:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_module

    model = distribute_module(nn.Linear(4, 4), init_device_mesh("cpu", (2,)))
    with pytest.raises(ConfigError) as caught:
        Cooperation(model, torch.optim.SGD(model.parameters(), lr=0.1), *PASGD)
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("algo=powersgd", "codec.rank=7"), "codec.rank=7: the smallest matrix of the model, 2.weight, is 3 x 6"),
        (("algo=pasgd", "tau=3", "fragments.count=3", "fragments.by=layer"), "fragments.by=layer: the model has 2 layers"),
    ],
    ids=lambda case: case if isinstance(case, str) else " ".join(case),
)
def test_what_does_not_fit_the_models_that_were_given(words, line):
    model = network()
    with pytest.raises(ConfigError) as caught:
        Cooperation(model, torch.optim.SGD(model.parameters(), lr=0.1), *words)
    assert str(caught.value).startswith(line)


def test_models_of_other_machines_are_not_counted_into_the_memory_of_this_one():
    parts, _ = parts_of(["algo=pasgd", "tau=2"], 4096, 10**9, 0, None, tuple)
    assert parts.config.workers == 4096
