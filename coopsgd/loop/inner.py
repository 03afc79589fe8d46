"""The inner optimiser at work: torch.optim on stacked worker rows, of which an elementwise one is r optimisers."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coopsgd.fleet import compiled
from coopsgd.loop.saved import ByRow
from coopsgd.optim import SQUARES, Muon, SGDStep
from coopsgd.optim.torch import Elementwise
from coopsgd.schedules import InUnits

if TYPE_CHECKING:
    import numpy as np

    from coopsgd.fleet.block import Block

BLOCK = 1 << 22  # numbers of one parameter: torch sets a copy or two of a parameter aside in a step


class Inner:
    """One optimiser for the (w, d) worker rows of this process; auxiliary rows are never in it.

    Rows are a parameter by the dozen (all of them where they are small), so that what torch sets aside in a step stays
    small. The first time some are idle they are taken apart, one parameter each, because torch keeps a step count per
    parameter: an idle row keeps model, buffers and count bit for bit.

    steps: of the run; schedule: as Constant.in_steps gives it; blocks: tells what a row is made of, for who asks.
    """

    def __init__(
        self, settings: Any, schedule: Any, x: Tensor, workers: int, steps: int, blocks: Callable[[], Sequence[Block]] = tuple
    ) -> None:
        self._x, self._workers, self._settings = x, workers, settings
        self._divide(max(1, BLOCK // max(1, x.shape[1])))
        self._buffers, self._counts = settings.buffers, settings.COUNTS
        self._scalars: tuple[str, ...] = getattr(settings, "SCALARS", ())  # numbers of its state beside the step count
        self._velocity: Tensor | None = None  # (w, d) momentum buffers of fused steps: the optimiser's are views of it
        self._blocks = blocks
        self._optimizer = _made(settings, self._parts, blocks)
        # the step as torch wrote it, without the wrappers that import the compiler and call profiler hooks
        self._step = inspect.unwrap(type(self._optimizer).step)
        self._no_grad = torch.no_grad
        self._schedule = schedule.torch(self._optimizer, steps)
        self._length = json.dumps(schedule.arguments(steps))  # what the schedule makes of how long the run is
        if self._schedule is not None:
            self._optimizer._opt_called = True  # it would warn that the wrapped step was never called

    @property
    def lr(self) -> float:
        """The step size of the coming step."""
        return float(self._optimizer.param_groups[0]["lr"])

    @cached_property
    def plain(self) -> bool:
        """Is a step x - lr * direction and nothing more?"""
        return bool(getattr(self._settings, "plain", False))

    @property
    def fusable(self) -> bool:
        """Is a step what `sgd_step` can say?"""
        return bool(getattr(self._settings, "fusable", False))

    def sgd_step(self, active: np.ndarray | None = None) -> SGDStep:
        """What the coming step of the active workers does beside x -= lr * gradient; only where `fusable`.

        Its velocity is this optimiser's own state; whoever takes the step moves it in place.
        """
        group = self._optimizer.param_groups[0]  # a scheduler may move momentum, too
        velocity = self._joined_velocity(active) if group["momentum"] else None
        return SGDStep(group["momentum"], group["nesterov"], group["weight_decay"], velocity)

    def rates(self, n: int) -> list[float]:
        """Step sizes of the coming n steps, or of as many as are known already; at least one."""
        return [self.lr] * (n if self._schedule is None else 1)

    def step(self, x: Tensor, direction: Tensor, active: np.ndarray | None = None) -> Tensor:
        """One step of each active worker row of x along -direction, (w or r, d) or (1, d); x itself, changed."""
        if x is not self._x:
            self._x.copy_(x)
        if self.plain:  # what torch does then, without asking what else there could be to do
            self._go(direction, active)
            return self._x
        if direction.shape[0] != self._workers:
            direction = direction[: self._workers].expand(self._workers, -1)
        if active is not None and len(self._parts) < self._workers:
            self._take_apart()
        for (a, b), part in zip(self._bounds, self._parts, strict=True):
            part.grad = direction[a:b] if active is None or active[a] else None
        with self._no_grad():
            self._step(self._optimizer)
        return self._x

    def _go(self, direction: Tensor, active: np.ndarray | None) -> None:
        """x - lr * direction."""
        x, w = self._x, self._workers
        with self._no_grad():
            if active is None:
                _along(x if x.shape[0] == w else x[:w], direction if direction.shape[0] in (1, w) else direction[:w], self.lr)
                return
            for i in active.nonzero()[0].tolist():
                _along(x[i : i + 1], direction[i : i + 1] if direction.shape[0] > 1 else direction, self.lr)

    def advance(self, ended: bool = False) -> None:
        """Move the schedule on; after every iteration, whether or not it stepped. ended: did a round end with it?"""
        if isinstance(self._schedule, InUnits):
            self._schedule.move(ended)
        elif self._schedule is not None:
            self._schedule.step()

    def heard(self, loss: float) -> None:
        """Tell the schedule of an evaluation, the same in every process."""
        self._schedule.heard(loss)

    @property
    def count(self) -> int:
        """How many buffers there are."""
        return len(self._buffers)

    def stacked(self, some: Sequence[int] | None = None) -> list[Tensor]:
        """All buffers, or some by their places, each as (w, d) rows: copies."""
        for part in self._parts:  # one that has not stepped yet has the buffers it will start from
            state = self._optimizer.state[part]
            if not state and self._buffers:
                state |= self._fresh(part)
        names = [self._buffers[at] for at in (range(self.count) if some is None else some)]
        return [torch.cat([self._optimizer.state[p][name] for p in self._parts]) for name in names]

    @cached_property
    def widths(self) -> dict[str, int]:
        """How many numbers of a row each buffer has."""
        d = self._x.shape[1]
        told = getattr(self._settings, "widths", None)
        return dict.fromkeys(self._buffers, d) if told is None else told(d, self._blocks)

    def put(self, stacked: Sequence[Tensor], some: Sequence[int] | None = None) -> None:
        """Make these rows the buffers, all or those at these places, in the order of `stacked`."""
        for name, rows in zip(
            [self._buffers[at] for at in (range(self.count) if some is None else some)], stacked, strict=True
        ):
            for (a, b), part in zip(self._bounds, self._parts, strict=True):
                buffer = self._optimizer.state[part][name].copy_(rows[a:b])
                if name in SQUARES:
                    buffer.clamp_(min=0)  # a sum that cancels can round to less than nothing, and a root is taken of it

    def reset(self) -> None:
        """Forget all buffers and step counts."""
        self._optimizer.state.clear()
        for part in self._parts if getattr(self._settings, "EAGER", False) else ():
            self._optimizer.state[part] |= self._fresh(part)

    def _fresh(self, part: Tensor) -> dict[str, Tensor]:
        """The state of a parameter before its first step."""
        first = getattr(self._settings, "first", {})
        found = {name: part.data.new_full((len(part), width), first.get(name, 0.0)) for name, width in self.widths.items()}
        found |= {name: torch.tensor(first[name]) for name in self._scalars}
        return found | ({"step": torch.tensor(0.0)} if self._counts else {})

    def saved(self) -> dict[str, Any]:
        """Buffers (w, d) and step counts (w, 1) by row, -1 steps where a row has no buffers; the rate and how far it is."""
        states = [self._optimizer.state.get(part, {}) for part in self._parts]
        none = torch.zeros((), dtype=self._x.dtype, device=self._x.device)
        buffers = {
            name: ByRow([s[name] if s else none.expand(len(p), width) for s, p in zip(states, self._parts, strict=True)])
            for name, width in self.widths.items()
        }
        steps = [float(s.get("step", 0)) if s else -1.0 for s in states]
        return {
            "buffers": buffers,
            "scalars": {name: self._by_row([float(s.get(name, 0)) for s in states]) for name in self._scalars},
            "steps": self._by_row(steps),
            "lr": self.lr,
            "schedule": None if self._schedule is None else _moved(self._schedule),
            "length": self._length,
        }

    def _by_row(self, numbers: Sequence[float]) -> ByRow:
        """(w, 1) a number of each parameter, for each of its rows."""
        every = [n for n, (a, b) in zip(numbers, self._bounds, strict=True) for _ in range(a, b)]
        return ByRow([torch.tensor(every, dtype=torch.float64)[:, None]])

    def restore(self, tree: dict[str, Any], k: int) -> None:
        """Go on after k iterations. A schedule that depends on how long the run is, of another length, is played anew."""
        counts = tree["steps"][:, 0].tolist()
        if any(len(set(counts[a:b])) > 1 for a, b in self._bounds):
            self._take_apart()
        self._optimizer.state.clear()
        for part, (a, b) in zip(self._parts, self._bounds, strict=True):
            if counts[a] >= 0:
                state = self._optimizer.state[part]
                state |= {name: rows[a:b].to(self._x.device, copy=True) for name, rows in tree["buffers"].items()}
                state |= {name: torch.tensor(float(rows[a, 0])) for name, rows in tree.get("scalars", {}).items()}
                if self._counts:
                    state["step"] = torch.tensor(counts[a])
        if self._schedule is None:
            return
        if tree["length"] == self._length:
            _put_back(self._schedule, tree["schedule"])
            self._optimizer.param_groups[0]["lr"] = tree["lr"]
        else:
            for _ in range(k):
                self._schedule.step()

    def _joined_velocity(self, active: np.ndarray | None) -> Tensor:
        """(w, d) the momentum buffers in one tensor. Rows that are idle and have none are not given any."""
        if active is not None and len(self._parts) < self._workers:
            self._take_apart()
        if self._velocity is None:
            self._velocity = torch.zeros_like(self._x)
        for (a, b), part in zip(self._bounds, self._parts, strict=True):
            if active is None or active[a]:
                state, mine = self._optimizer.state[part], self._velocity[a:b]
                found = state.get("momentum_buffer")
                if found is None:
                    mine.zero_()
                elif found.data_ptr() != mine.data_ptr():
                    mine.copy_(found)
                state["momentum_buffer"] = mine
        return self._velocity

    def _divide(self, rows: int) -> None:
        """Make every so many rows a parameter."""
        self._bounds = [(a, min(a + rows, self._workers)) for a in range(0, self._workers, rows)]
        self._parts = [torch.nn.Parameter(self._x[a:b]) for a, b in self._bounds]

    def _take_apart(self) -> None:
        """From parameters of several rows to parameters of one row, state and all."""
        bounds, states = self._bounds, [self._optimizer.state.pop(part, {}) for part in self._parts]
        self._divide(1)
        self._optimizer.param_groups[0]["params"] = self._parts
        for state, (a, b) in zip(states, bounds, strict=True):
            for i in range(a, b):
                for name, value in state.items():
                    mine = value[i - a : i - a + 1] if torch.is_tensor(value) and value.dim() == 2 else value
                    self._optimizer.state[self._parts[i]][name] = mine.clone() if torch.is_tensor(mine) else mine


def _along(x: Tensor, direction: Tensor, lr: float) -> None:
    if not compiled.along(x, direction, lr):
        x.add_(direction, alpha=-lr)


def _made(settings: Any, parts: list[Any], blocks: Callable[[], Sequence[Block]]) -> Any:
    """The torch optimiser that these settings name."""
    if isinstance(settings, Muon):
        from coopsgd.loop.muon import MuonStep

        return _without_compiler(partial(MuonStep, settings=settings, blocks=blocks), parts, {})
    arguments = asdict(settings)
    if "beta1" in arguments:
        arguments["betas"] = (arguments.pop("beta1"), arguments.pop("beta2"))
    kind = getattr(torch.optim, settings.KIND)
    if isinstance(settings, Elementwise):  # another version of torch may not know a key that changes nothing
        known = inspect.signature(kind).parameters
        arguments = {name: tuple(v) if isinstance(v, list) else v for name, v in arguments.items() if name in known}
    return _without_compiler(partial(kind, foreach=False), parts, arguments)


def _without_compiler(kind: Any, parts: list[Any], arguments: dict[str, Any]) -> Any:
    """Make a torch optimiser without importing torch._dynamo, which it would for nothing: 2 s in every process."""
    import torch

    adding = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    if not hasattr(adding, "__dynamo_disable"):
        setattr(adding, "__dynamo_disable", adding)
    return kind(parts, **arguments)  # without foreach: one tensor, or rows whose shapes repeat: nothing to batch


# of a torch scheduler or one of ours; all else comes from the config
MOVED = ("last_epoch", "_step_count", "_last_lr", "units", "best", "waited", "fallen")


def _moved(schedule: Any) -> dict[str, Any]:
    """How far a torch scheduler is, and those it is made of."""
    own = {name: getattr(schedule, name) for name in MOVED if hasattr(schedule, name)}
    return {"own": own, "parts": [_moved(one) for one in _made_of(schedule)]}


def _put_back(schedule: Any, tree: dict[str, Any]) -> None:
    for name, value in tree["own"].items():
        setattr(schedule, name, value)
    for one, part in zip(_made_of(schedule), tree["parts"], strict=True):
        _put_back(one, part)


def _made_of(schedule: Any) -> list[Any]:
    return getattr(schedule, "_schedulers", [])
