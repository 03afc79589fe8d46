"""How the weights of convolutions lie in a row: measured, once, before a run starts, and frozen with its config.

Channels last is faster where layers are narrow and images large, the order of the code, contiguous, where layers are wide and
images small. Which it is moves the last bits of a run: so it is chosen in one place, read from config.yaml by every process,
and kept by whoever goes on with the run or repeats it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from coopsgd.host.child import ChildFailed, answer_of
from coopsgd.models.base import FORMATS, Convolutional
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import Config
from coopsgd.tasks.supervised import Supervised

FEW = 200  # steps of one process; in a run of fewer, measuring would take a good part of what it saves
MARGIN = 0.95  # of the time that channels last takes: what contiguous must be below
TURNS, ENOUGH = 7, 1.0  # turns at most; after so many seconds no other begins

_found: dict[str, dict[str, float]] = {}  # what was measured by this command: jobs of a sweep that are alike choose alike


def settled(parts: Parts) -> tuple[Parts, str | None]:
    """The parts with model.memory_format as it is to be frozen, and a line for the user where it was measured."""
    config, task = parts.config, parts.task
    if not _open(parts) or not isinstance(task, Supervised):
        return parts, None
    loss = [getattr(task, name, None) for name in ("loss", "label_smoothing")]
    step = (config.engine, config.batch_size, config.dtype, config.amp, config.threads)
    key = repr((task.model, task.data, loss, step))
    if key not in _found:
        import torch  # noqa: F401  the workers' forks need it anyway, and the child's is this one

        try:
            _found[key] = answer_of(lambda: _seconds(config, task))
        except (ValueError, ChildFailed):  # whatever it is, the run tells more of it
            _found[key] = {}
    times = _found[key]
    if not times:
        return parts, None
    chosen = faster(times)
    told = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in times.items())
    model = {**config.model, "memory_format": chosen}
    return parts.but(
        replace(config, model=model), without=("model", "task")
    ), f"model.memory_format={chosen}: a step of one worker takes {told}"


def faster(seconds: Mapping[str, float]) -> str:
    """Which to take: channels last, unless contiguous is clearly faster."""
    last, plain = seconds["channels_last"], seconds["contiguous"]
    return "contiguous" if plain < MARGIN * last else "channels_last"


def _open(parts: Parts) -> bool:
    """Is there something to choose, here where the run will be, and is the run long enough?"""
    config = parts.config
    task = parts.task
    if not config.launch or config.device != "cpu" or config.engine not in ("auto", "loop", "conv"):
        return False
    if not isinstance(task, Supervised):
        return False
    model, data = task.model, task.data
    if not isinstance(model, Convolutional) or model.memory_format != "auto":
        return False
    steps = config.steps * -(-config.workers // config.processes)
    return steps >= FEW and model.channels_last(data.SHAPE, data.CLASSES)


def _seconds(config: Config, task: Supervised) -> dict[str, float]:
    """The least time of a step of one row in each format, by turns, of the engine that will compute.

    {} for a network without convolutions. Run in a child.
    """
    import torch

    from coopsgd.run.group import keep_freed_memory
    from coopsgd.tasks.engines.choice import choose
    from coopsgd.tasks.engines.row_pool import engine_of
    from coopsgd.tasks.gradients import Bound
    from coopsgd.tasks.networks import network

    torch.set_num_threads(config.threads)
    keep_freed_memory()
    dtype, data = getattr(torch, config.dtype), task.data
    clock = time.process_time if config.threads == 1 else time.perf_counter  # what others compute, the first does not count
    inputs, loss = torch.randn(1, config.batch_size, *data.SHAPE, dtype=dtype), task.made_loss()
    engines: dict[str, Any] = {}
    for name in FORMATS:
        module = network(task, config.seed).to(dtype)
        if not any(p.dim() == 4 and p.requires_grad for p in module.parameters()):
            return {}
        bound = Bound(module, name == "channels_last")
        choice = choose(config.engine, bound, config.amp, loss=loss, batch=config.batch_size)
        engine, targets = engine_of(choice.name, bound, config.amp), torch.zeros(1, config.batch_size, dtype=torch.int64)
        if choice.name == "loop":  # whatever the loss is: it is no great part of a step
            engine.loss, targets = lambda outputs, targets: outputs.float().square().mean(), inputs
        row = bound.flat()
        engine.bind(row, torch.zeros_like(row), bound.statistics(), bound.module_buffers())
        engines[name] = engine, targets
    least, began = dict.fromkeys(engines, float("inf")), time.perf_counter()
    for turn in range(1 + TURNS):
        for name in sorted(engines, reverse=turn % 2 == 1):
            before = clock()
            engine, targets = engines[name]
            engine.descend(0, 1, inputs, targets, 1e-6)
            if turn:  # the first is slower: libraries prepare themselves
                least[name] = min(least[name], clock() - before)
        if turn and time.perf_counter() - began > ENOUGH:
            break
    return least
