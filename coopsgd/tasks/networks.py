"""The network of a task's model for its data: one module, a function of the seed alone."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import Module

from coopsgd.streams import seed_of
from coopsgd.tasks.gradients import Bound
from coopsgd.tasks.start import file_of, load


def network(task: Any, seed: int) -> Module:
    """The untrained module, of task.model for task.data; a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "model"))
        module: Module = task.model.build(task.data.SHAPE, task.data.CLASSES)
        return module


def bound(task: Any, seed: int, dtype: Any, device: Any = "cpu", start: str | None = None) -> Bound:
    """That module, ready to be pointed at rows. start: a file, or a run's folder, with the parameters to begin with."""
    channels_last = task.model.channels_last(task.data.SHAPE, task.data.CLASSES)
    module = network(task, seed).to(device=device, dtype=dtype)
    if start is not None:
        load(module, file_of(start))
    return Bound(module, channels_last)
