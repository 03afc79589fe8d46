"""Which engine computes a run on a GPU: measured there, once, before the run starts, and frozen with its config.

What is fastest depends on the network, the batch, how many models lie on the GPU, and on the GPU. Engines differ in the last
bits of a run, so the choice is made in one place, read from config.yaml by every process, and kept by whoever goes on with the
run or repeats it. What is measured are steps of the run's own problem, with all rows of one process; how the weights of
convolutions lie is measured with it, where the loop may take either. On a CPU see tasks/engines/choice.py and memory_format.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from coopsgd.host.child import ChildFailed, answer_of
from coopsgd.models.base import FORMATS, Convolutional
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import ENGINES, Config
from coopsgd.tasks.supervised import Supervised

FEW = 2000  # steps; what measuring takes, with a process that opens the GPU, is more than a shorter run could save
MARGIN = 0.9  # of the time of what is taken without measuring: what another must be below
WARM, TURNS, AT_ONCE = 0.3, 5, 10  # seconds of steps before the first that counts; turns, and steps in each
SMALL = 1e-6  # learning rate: models that are measured do not move far

Clock = Callable[[Callable[[], object]], float]  # the seconds that a piece of work takes on a device
_found: dict[str, dict[str, float]] = {}  # what was measured by this command: jobs of a sweep that are alike choose alike


def settled(parts: Parts) -> tuple[Parts, str | None]:
    """The parts with `engine`, and model.memory_format, as they are to be frozen; a line for the user if they were measured."""
    config, task = parts.config, parts.task
    ways = _ways(parts)
    if len(ways) < 2 or not isinstance(task, Supervised):
        return parts, None
    rows = config.workers // config.processes
    key = repr((task.model, task.data, config.batch_size, config.dtype, config.amp, rows, _fused(config), sorted(ways)))
    if key not in _found:
        import torch  # noqa: F401  the workers' forks need it anyway, and the child's is this one

        try:
            _found[key] = answer_of(lambda: _on_gpu(parts, ways))
        except (ValueError, ChildFailed):  # whatever it is, the run tells more of it
            _found[key] = {}
    times = _found[key]
    if len(times) < 2:
        return parts, None
    chosen = fastest(times)
    engine, memory_format = ways[chosen]
    said = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in times.items())
    found = parts.but(replace(config, engine=engine))
    if memory_format is not None:
        found = parts.but(
            replace(config, engine=engine, model={**config.model, "memory_format": memory_format}), ("model", "task")
        )
    told = f"engine={engine}" + (f" model.memory_format={memory_format}" if memory_format is not None else "")
    return found, f"{told}: a step of {rows} {'workers' if rows > 1 else 'worker'} takes {said}"


def fastest(seconds: Mapping[str, float]) -> str:
    """Which to take: the first, which would be taken without measuring, unless another is clearly faster."""
    first, best = next(iter(seconds)), min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] < MARGIN * seconds[first] else first


def _ways(parts: Parts) -> dict[str, tuple[str, str | None]]:
    """What there is to choose from, by name: engine and memory format (None: as it is). Nothing on a CPU or in a short run."""
    config, task = parts.config, parts.task
    if not config.launch or config.device != "cuda" or config.steps < FEW or not isinstance(task, Supervised):
        return {}
    model, data = task.model, task.data
    both = isinstance(model, Convolutional) and model.memory_format == "auto" and model.channels_last(data.SHAPE, data.CLASSES)
    found: dict[str, tuple[str, str | None]] = {}
    on_gpus = [name for name in ENGINES if name not in ("auto", "conv")]  # conv is of processors
    for name in (name for name in on_gpus if config.engine in ("auto", name)):
        if name == "loop" and both:
            found |= {f"loop {how}": (name, how) for how in FORMATS}
        else:
            found[name] = name, None
    return found


def _on_gpu(parts: Parts, ways: Mapping[str, tuple[str, str | None]]) -> dict[str, float]:
    """`measured`, on the GPU of the first process. Run in a child: this process must not open one."""
    from coopsgd.run.device import ready

    device = ready("cuda")
    return measured(parts, ways, device, clock_of(device))


def clock_of(device: Any) -> Clock:
    """The clock of a device. A GPU's is read by events of its stream, the second of which is waited for."""
    import torch

    def on_gpu(work: Callable[[], object]) -> float:
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)  # what it was asked for before is not counted
        before.record()
        work()
        after.record()
        after.synchronize()
        return float(before.elapsed_time(after)) / 1e3

    def on_processor(work: Callable[[], object]) -> float:
        before = time.perf_counter()
        work()
        return time.perf_counter() - before

    return on_gpu if torch.device(device).type == "cuda" else on_processor


def measured(parts: Parts, ways: Mapping[str, tuple[str, str | None]], device: Any, clock: Clock) -> dict[str, float]:
    """The least seconds of a step of all rows of a process in each way that can compute them, first as without measuring."""
    found: dict[str, float] = {}
    for name, (engine, memory_format) in ways.items():
        try:
            seconds = _seconds(parts, engine, memory_format, device, clock)
        except (RuntimeError, ValueError):  # without room for it, say; torch.OutOfMemoryError is a RuntimeError
            seconds = None
        _give_back(device)
        if seconds is not None:
            found[name] = seconds
    table = _by_the_table(parts, device)
    first = next((name for name in found if ways[name][0] == table and ways[name][1] in (None, FORMATS[0])), None)
    return found if first is None else {first: found[first], **found}


def _by_the_table(parts: Parts, device: Any) -> str:
    """The engine of a run that was not measured."""
    import torch

    from coopsgd.tasks.engines.choice import choose
    from coopsgd.tasks.networks import bound

    config, task = parts.config, parts.task
    assert isinstance(task, Supervised)
    module = bound(task, config.seed, getattr(torch, config.dtype))
    return choose(config.engine, module, config.amp, torch.device(device).type, config.workers // config.processes).name


def _seconds(parts: Parts, engine: str, memory_format: str | None, device: Any, clock: Clock) -> float | None:
    """The least seconds of a step; None where this engine cannot compute this network."""
    import numpy as np
    import torch

    config = replace(parts.config, engine=engine)
    if memory_format is not None:
        config = replace(config, model={**config.model, "memory_format": memory_format})
    rows = range(config.workers // config.processes)
    problem: Any = parts.but(config, without=("model", "task")).task.build(config, rows, device)
    if problem.facts["engine"] != engine:
        return None

    def stacked(one: Any) -> Any:
        return None if one is None else one.expand(len(rows), *one.shape[1:]).clone()

    x = stacked(problem.start())
    problem.bind(x, torch.zeros_like(x), stacked(problem.statistics()), [stacked(one) for one in problem.module_buffers()])
    fused, k = _fused(config), 0

    def steps() -> None:
        nonlocal k
        for _ in range(AT_ONCE):
            own = np.full(len(rows), k)
            problem.descend(k, [SMALL], None, own) if fused else problem.gradients(k, None, own)
            k += 1

    began, warm = time.monotonic(), 0
    while warm < 2 or time.monotonic() - began < WARM:  # libraries prepare themselves, and a GPU's clock rises
        clock(steps)
        warm += 1
    return min(clock(steps) for _ in range(TURNS)) / AT_ONCE


def _fused(config: Config) -> bool:
    """Is a step taken as gradients are computed? Of plain SGD: an optimiser with more wants to see them."""
    return config.optim.get("name") == "sgd" and not any(config.optim.get(name) for name in ("momentum", "weight_decay"))


def _give_back(device: Any) -> None:
    """What was measured gives its memory back to the next."""
    import gc

    import torch

    gc.collect()  # modules and their hooks hold each other
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
