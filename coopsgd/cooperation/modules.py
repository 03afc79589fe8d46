"""A user's modules as rows: each parameter becomes a view of its row and stays the object that he and his optimiser hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor, nn

from coopsgd.cooperation.refusals import refuse_modules, structure
from coopsgd.errors import ConfigError, RunFailed
from coopsgd.fleet.block import Block
from coopsgd.host.transfer import brought
from coopsgd.loop.blocks import Blocks, blocks_of
from coopsgd.models.base import statistics_of
from coopsgd.models.blocks import hidden
from coopsgd.tasks.gradients import ALIGNMENT

HOLDERS: WeakValueDictionary[int, Modules] = WeakValueDictionary()  # id of a parameter that is trained -> whose rows it is in


@dataclass(eq=False)
class Held:
    """A tensor that a module holds, and where in its row it lies: row[at:] seen with its shape and strides."""

    name: str
    owner: nn.Module
    key: str  # of the owner's parameters or buffers
    tensor: Tensor
    at: int = 0
    stride: tuple[int, ...] = ()
    address: int = 0  # of its view

    def of(self, row: Tensor) -> Tensor:
        """Its view of a row (d,)."""
        return row.as_strided(self.tensor.shape, self.stride, row.storage_offset() + self.at)

    def move(self, row: Tensor) -> None:
        """Make it its view of this row; the row says what it holds."""
        self.tensor.data = self.of(row)
        self.address = self.tensor.data_ptr()


class Modules:
    """What the loop asks of a problem (tasks/base.py), answered by the modules of the workers of this process.

    Parameters that need a gradient are the row, a block of it for each kind of number and device (loop/blocks.py). Numbers
    among the buffers, BatchNorm's running mean and variance, are the row of statistics. All else stays where it is.
    """

    KEEPS_GRADIENTS = True

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        refuse_modules(modules)
        self.modules = modules
        parameters = [_held(module, "_parameters") for module in modules]
        buffers = [_held(module, "_buffers") for module in modules]
        self._known = [{id(held.tensor) for held in every} for every in parameters]
        self._frozen = [[held for held in every if not held.tensor.requires_grad] for every in parameters]
        self.kinds = list(dict.fromkeys(_kind(held.tensor) for held in parameters[0] if held.tensor.requires_grad))
        # of each module, for each kind, what is trained
        self._trained = [
            [_laid([h for h in every if h.tensor.requires_grad and _kind(h.tensor) == kind]) for kind in self.kinds]
            for every in parameters
        ]
        statistics = [{id(buffer) for buffer in statistics_of(module).values()} for module in modules]
        self._kept = [
            _laid([held for held in every if id(held.tensor) in known])
            for every, known in zip(buffers, statistics, strict=True)
        ]
        self._others = [[held for held in every if held not in kept] for every, kept in zip(buffers, self._kept, strict=True)]
        if len({_kind(held.tensor) for held in self._kept[0]}) > 1:
            names = " and ".join(f"{held.name} ({held.tensor.dtype}, {held.tensor.device})" for held in self._kept[0])
            raise ConfigError(
                f"model: its running statistics are of several dtypes or on several devices, {names}; give them one, and "
                "register what is a constant with persistent=False"
            )
        self._x: Any = None
        self._stats: Tensor | None = None
        self._grad: Any = None
        self.losses = torch.zeros(len(modules), 1)  # (r, 1) of the step that is taken
        self.known: list[int] | None = None  # versions of the parameters when they were bound
        self.resting = False  # has this process no more data? Then its gradients are none
        self.unused: set[str] = set()  # parameters of which no worker of this process has a gradient in this step

    @property
    def d(self) -> int:
        """Numbers in a row."""
        return sum(_taken(held.tensor) for part in self._trained[0] for held in part)

    @property
    def b(self) -> int:
        """Running statistics of a module."""
        return sum(_taken(held.tensor) for held in self._kept[0])

    def structure(self) -> list[str]:
        """One line a tensor, the same in every process whose modules are alike."""
        return structure(self.modules[0])

    # what the loop asks

    def start(self) -> Any:
        """The first module's parameters, (1, d), or a block of them of each kind."""
        found = [_joined(part)[None] for part in self._trained[0]]
        return found[0] if len(found) == 1 else Blocks(found)

    def blocks(self) -> tuple[Block, ...] | list[tuple[Block, ...]]:
        """The parameters that a row is made of; a list of them where rows are in blocks."""
        inside = hidden(self.modules[0])
        found = [
            tuple(Block(h.name, tuple(h.tensor.shape), h.stride, h.at, id(h.tensor) in inside) for h in part)
            for part in self._trained[0]
        ]
        return found[0] if len(found) == 1 else found

    def blocks_by_kind(self) -> list[tuple[Block, ...]]:
        """The same, a list always."""
        found = self.blocks()
        return [found] if isinstance(found, tuple) else found

    def statistics(self) -> Tensor | None:
        """The first module's, (1, b)."""
        return _joined(self._kept[0])[None] if self._kept[0] else None

    def module_buffers(self) -> Sequence[Tensor]:
        """None: what else a module keeps is its own."""
        return ()

    def bind(self, x: Any, grad: Any, statistics: Tensor | None = None, module_buffers: Any = None) -> None:
        """Make the parameters of module i views of row i, and its statistics; their values become those of the row."""
        self._x, self._grad, self._stats = x, grad, statistics
        for i in range(len(self.modules)):
            for held, row in self._in_rows(x, i):
                held.move(row)
                HOLDERS[id(held.tensor)] = self
            for held in self._kept[i] if statistics is not None else ():
                held.move(statistics[i])  # type: ignore[index]
                held.owner._buffers[held.key] = held.tensor
        self.known = self.versions()

    def gradients(self, k: int, active: Any, own: Any) -> Tensor:
        """The losses that the user named, and his gradients in rows where a strategy asks for them."""
        self.take_replaced()
        without: list[set[str]] = [set() for _ in self.modules]
        for i in range(len(self.modules)) if self._grad is not None else ():
            for held, row in self._in_rows(self._grad, i):
                grad, into = held.tensor.grad, held.of(row)
                if grad is None or self.resting or (active is not None and not active[i]):
                    into.fill_(-0.0)  # which only sums of nothing else are: so all learn that nobody has a gradient
                    without[i].add(held.name)
                else:
                    into.copy_(grad.to_dense() if grad.is_sparse else grad)
        self.unused = set.intersection(*without)
        idle = [i for i in range(len(self.modules)) if self.resting or (active is not None and not active[i])]
        return self.losses.index_fill(0, brought(np.array(idle), self.losses.device), 0) if idle else self.losses

    # what the cooperation asks

    def copy_unmixed(self, spread: Callable[[Tensor], None] | None) -> None:
        """Make what is in no row (frozen parameters, counters) that of rank 0's first module, as DDP does."""
        rests = [[*frozen, *others] for frozen, others in zip(self._frozen, self._others, strict=True)]
        with torch.no_grad():
            for mine in rests[0] if spread else ():
                spread(mine.tensor.detach())  # type: ignore[misc]
            for other in rests[1:]:
                for mine, first in zip(other, rests[0], strict=True):
                    mine.tensor.copy_(first.tensor)

    def named(self, rows: Any, i: int) -> Iterator[tuple[str, Tensor, Tensor]]:
        """The same with the names of the parameters."""
        for held, row in self._in_rows(rows, i):
            yield held.name, held.tensor, held.of(row)

    def versions(self) -> list[int]:
        """Of the parameters that are trained; others once somebody has written into one."""
        return [held.tensor._version for every in self._trained for part in every for held in part]

    def refuse_new_values(self, algo: str) -> None:
        """RunFailed when somebody has written into parameters since they were bound, as auxiliary models do not know of it."""
        if self.known is not None and self.known != self.versions():
            raise RunFailed(
                "the model was given other weights after the Cooperation was made, and the auxiliary models of "
                f"{algo} still have those from before; load or initialise weights first"
            )

    def views(self, rows: Any, i: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Each parameter of module i that is trained, with its part of these rows, (r, d) or (1, d), or of their blocks."""
        for held, row in self._in_rows(rows, i):
            yield held.tensor, held.of(row)

    def in_place(self) -> None:
        """RunFailed unless every parameter is still the view that it was made; buffers that were replaced are taken in."""
        for i, module in enumerate(self.modules):
            if strangers := {id(p) for p in module.parameters()} - self._known[i]:
                name = next(name for name, p in module.named_parameters() if id(p) in strangers)
                raise RunFailed(
                    f"parameter {name} is new since the Cooperation was made, and would not be mixed; make it afterwards"
                )
            for part in self._trained[i]:
                for held in part:
                    p = held.tensor
                    if HOLDERS.get(id(p)) is not self:
                        raise RunFailed(
                            "another Cooperation was made of this model since, and mixes it; step with the newer one alone"
                        )
                    if held.owner._parameters.get(held.key) is not p or p.data_ptr() != held.address:
                        raise RunFailed(
                            f"parameter {held.name} was replaced or moved after the Cooperation was made, and would not be "
                            "mixed; make the Cooperation after model.to(...), load_state_dict(assign=True) and their like"
                        )
                    if not p.requires_grad:
                        raise RunFailed(f"parameter {held.name} was frozen after the Cooperation was made; freeze it before")
            for held in self._frozen[i]:
                if held.tensor.requires_grad:
                    raise RunFailed(
                        f"parameter {held.name} was frozen when the Cooperation was made, so it is in no message; set "
                        "requires_grad before"
                    )
        self.take_replaced()

    def take_replaced(self) -> None:
        """Statistics that a forward pass has put elsewhere become those of the row."""
        for i in range(len(self.modules)):
            for held in self._kept[i] if self._stats is not None else ():
                now = held.owner._buffers.get(held.key)
                place = held.of(self._stats[i])  # type: ignore[index]
                if now is None or now.shape != place.shape:
                    what = "is no longer there" if now is None else f"has become {tuple(now.shape)}"
                    raise RunFailed(
                        f"buffer {held.name} is mixed with the model as {tuple(place.shape)}, and {what}; keep its shape, or "
                        "register it with persistent=False, so that it is not mixed"
                    )
                if now is not held.tensor or now.data_ptr() != held.address:
                    place.copy_(now)
                    held.tensor.data = place
                    held.owner._buffers[held.key] = held.tensor

    @contextmanager
    def holding(self, model: Any, statistics: Tensor | None) -> Iterator[None]:
        """Inside, every module has this model (1, d) and these statistics (1, b); afterwards its own again, bit for bit."""
        w = len(self.modules)
        places = [block[:w] for block in blocks_of(self._x)] + ([] if self._stats is None else [self._stats[:w]])
        given = [*blocks_of(model), *([] if self._stats is None else [statistics])]
        others = [held for every in self._others for held in every]
        places += [held.tensor for held in others]
        before = [place.clone() for place in places]
        with torch.no_grad():
            for place, value in zip(places, given, strict=False):
                if value is not None:
                    place.copy_(value.expand_as(place))
        try:
            yield
        finally:
            for held in others:
                held.owner._buffers[held.key] = held.tensor
            self.take_replaced()
            with torch.no_grad():
                for place, value in zip(places, before, strict=True):
                    place.copy_(value)

    def _in_rows(self, rows: Any, i: int) -> Iterator[tuple[Held, Tensor]]:
        """What module i trains, each with its row of these, or of their block."""
        for block, part in zip(blocks_of(rows), self._trained[i], strict=True):
            row = block[i if len(block) > 1 else 0]
            for held in part:
                yield held, row


def _held(module: nn.Module, kind: str) -> list[Held]:
    """Every parameter or buffer of a module once, however often it is used."""
    found: dict[int, Held] = {}
    for prefix, part in module.named_modules():
        for key, tensor in getattr(part, kind).items():
            if tensor is not None and id(tensor) not in found:
                found[id(tensor)] = Held(f"{prefix}.{key}".lstrip("."), part, key, tensor)
    return list(found.values())


def _kind(tensor: Tensor) -> tuple[torch.dtype, torch.device]:
    return tensor.dtype, tensor.device


def _laid(every: list[Held]) -> list[Held]:
    """The same, one behind the other in a row, each with its own strides where these leave no holes.

    On a GPU each begins at a multiple of 16 bytes, and so does the row behind: some of cuDNN's kernels take nothing else.
    """
    at = 0
    for held in every:
        x = held.tensor
        last = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
        dense = x.numel() > 0 and last + 1 == x.numel()
        held.at, held.stride = at, x.stride() if dense else torch.empty(x.shape, device="meta").stride()
        at += _taken(x)
    return every


def _taken(x: Tensor) -> int:
    """Numbers of a row that a tensor takes."""
    numbers = max(1, ALIGNMENT // x.element_size()) if x.is_cuda else 1
    return -(-x.numel() // numbers) * numbers


def _joined(every: list[Held]) -> Tensor:
    """(d,) a copy of them."""
    first = every[0].tensor
    row = torch.zeros(sum(_taken(held.tensor) for held in every), dtype=first.dtype, device=first.device)
    for held in every:
        held.of(row).copy_(held.tensor.detach())
    return row
