"""The network of a task's model for its data: one module, a function of the seed alone."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import Module

from coopsgd.streams import seed_of
from coopsgd.tasks.gradients import Bound


def network(task: Any, seed: int) -> Module:
    """The untrained module, of task.model for task.data; a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "model"))
        module: Module = task.model.build(task.data.SHAPE, task.data.CLASSES)
        return module


def bound(task: Any, seed: int, dtype: Any, device: Any = "cpu") -> Bound:
    """That module, ready to be pointed at rows."""
    channels_last = task.model.channels_last(task.data.SHAPE, task.data.CLASSES)
    return Bound(network(task, seed).to(device=device, dtype=dtype), channels_last)
