"""The network that a config names: one module, a function of the seed alone."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import Module

from coopsgd.streams import seed_of
from coopsgd.tasks.base import Given
from coopsgd.tasks.gradients import Bound


def network(given: Given) -> Module:
    """The untrained module of this config, a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(given.config.seed, "model"))
        data = given.data
        return given.model.build(data.SHAPE, data.CLASSES)


def bound(given: Given, dtype: Any, device: Any = "cpu") -> Bound:
    """That module, ready to be pointed at rows."""
    data = given.data
    channels_last = given.model.channels_last(data.SHAPE, data.CLASSES)
    return Bound(network(given).to(device=device, dtype=dtype), channels_last)
