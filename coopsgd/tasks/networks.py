"""The network that a config names: one module, a function of the seed alone."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import Module

from coopsgd.setup.build import make
from coopsgd.setup.schema import Config
from coopsgd.streams import seed_of
from coopsgd.tasks.gradients import Bound


def network(config: Config) -> Module:
    """The untrained module of this config, a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, "model"))
        data = make(config, "data")
        return make(config, "model").build(data.SHAPE, data.CLASSES)


def bound(config: Config, dtype: Any, device: Any = "cpu") -> Bound:
    """That module, ready to be pointed at rows."""
    data = make(config, "data")
    channels_last = make(config, "model").channels_last(data.SHAPE, data.CLASSES)
    return Bound(network(config).to(device=device, dtype=dtype), channels_last)
