"""A step that somebody else takes, as in a framework that steps its optimisers by itself: `coop.step(step=...)`."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from coopsgd import Cooperation
from coopsgd.errors import ConfigError


def trained(rank: int, words: tuple[str, ...], elsewhere: bool, scaled: bool) -> tuple[list[float], int, int]:
    """A model after some steps, how often the function was called, the rounds."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=4.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that fedavg knows no numbers of samples
        coop = Cooperation(model, optimizer, *words)
    draws, calls = torch.Generator().manual_seed(rank), []

    def step() -> None:
        calls.append(scaler.step(optimizer))

    for _ in range(7):
        optimizer.zero_grad()
        scaler.scale(model(torch.randn(4, 3, generator=draws)).square().sum()).backward()
        coop.step(scaler=scaler, step=step if elsewhere else None)
        scaler.update()
    with coop.answer():
        pass
    return [x for p in model.parameters() for x in p.flatten().tolist()], len(calls), coop.ledger.rounds


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("words", [("algo=dpsgd", "tau=2"), ("algo=fullsync",), ("algo=fedavg", "tau=2", "algo.fraction=0.5")])
def test_it_is_the_same_step(process_groups, words, scaled):
    own = process_groups(2)(trained, words, False, scaled)
    others = process_groups(2)(trained, words, True, scaled)
    for (models, _, rounds), (other, calls, other_rounds) in zip(own, others, strict=True):
        assert models == other and rounds == other_rounds >= 3
        assert calls == 7 if "fraction" not in words[-1] else calls < 7, "a client that was not drawn takes none"


def test_one_function_takes_no_steps_of_several_models():
    models: list[Any] = [nn.Linear(2, 1) for _ in range(2)]
    coop = Cooperation(models, [torch.optim.SGD(m.parameters(), lr=0.1) for m in models], "algo=pasgd")
    with pytest.raises(ConfigError, match="step: one function cannot take the steps of several models"):
        coop.step(step=lambda: None)
