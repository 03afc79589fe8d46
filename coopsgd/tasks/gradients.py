"""Every row's loss and gradient: the module's parameters *are* views of the row, its gradients views of the gradient row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from coopsgd.fleet.block import Block
from coopsgd.models.base import statistics_of
from coopsgd.models.blocks import laid, learned
from coopsgd.tasks.base import Place
from coopsgd.tasks.engines.losses import Loss, cross_entropy

ALIGNMENT = 16  # bytes
SMALL = 1 << 16  # numbers of a tensor that is looked at
DRAWING = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)


class Bound:
    """One module pointed at the rows of (r, d) tensors in turn.

    No packing: the optimiser steps the row, the fleet sends it. Autograd accumulates straight into the gradient row, or, where
    there is none, leaves its gradients with the parameters.
    Weights of convolutions lie channels last in the row, which makes their views channels last too, unless
    `channels_last=False`: which is faster depends on the network (run/memory_format.py), and some code cannot take it. What
    needs no gradient (frozen parameters) is in no row.

    Floating-point buffers, BatchNorm's running mean and variance, are a second row (b,) of *statistics*, pointed at in the
    same way: a forward pass in training mode writes into it. Other buffers (`num_batches_tracked`, an attention mask of
    minus infinities) are rows too, each in a tensor (r, ...) of its own that is never mixed.
    """

    def __init__(self, module: nn.Module, channels_last: bool = True) -> None:
        self.module = module
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self.channels_last = channels_last or all(p.dim() != 4 for p in self._parameters)
        self._statistics = list(statistics_of(module).values())
        known = {id(b) for b in self._statistics}
        self._others = [b for b in module.buffers() if id(b) not in known]
        self._owners = [(part, name, b) for part in module.modules() for name, b in part._buffers.items() if b is not None]
        self.d = sum(p.numel() for p in self._parameters)
        self.b = sum(s.numel() for s in self._statistics)
        self._first = _joined(self._statistics) if self.b else None
        self._first_others = [other.clone() for other in self._others]
        norms = {id(x) for norm in _norms(module) for x in (norm.weight, norm.bias, norm.running_mean, norm.running_var)}
        self._of_norms = [id(p) in norms for p in self._parameters]
        self._norms_buffers = norms
        self._apart: list[tuple[Tensor, Tensor]] = []  # statistics that are where cuDNN takes them, and their places in the row
        self._hook: Any = None
        self._at: tuple[int, int] | None = None
        self._views: list[list[tuple[Tensor, Tensor | None]]] = []
        self._beside: list[list[tuple[Tensor, Tensor]]] = []
        self.random = any(_draws(part) for part in module.modules())
        self._plain = _plain(module)

    @property
    def stateful(self) -> bool:
        """May a forward pass leave something behind? Then rows must be visited one by one."""
        return bool(self._owners)

    def flat(self) -> Tensor:
        """(1, d) copy of the module's own parameters."""
        row = self._parameters[0].detach().new_empty(self.d)
        for p, place in zip(self._parameters, self.split(row), strict=True):
            place.copy_(p.detach())
        return row[None]

    def statistics(self) -> Tensor | None:
        """(1, b) the statistics the module was made with; None when it keeps none."""
        return None if self._first is None else self._first.clone()

    def module_buffers(self) -> list[Tensor]:
        """Each (1, ...): the other buffers as the module was made with them."""
        return [first[None].clone() for first in self._first_others]

    def blocks(self) -> tuple[Block, ...]:
        """The parameters that a row is made of."""
        return laid(learned(self.module), self.channels_last)

    def places(self) -> dict[str, list[Place]]:
        """Where in a row each parameter lies, and where in its row each statistic."""
        views = self._split_statistics(torch.empty(self.b, device="meta"))
        return {
            "parameters": [(block.name, block.shape, block.stride, block.start) for block in self.blocks()],
            "statistics": [
                (name, tuple(view.shape), view.stride(), int(view.storage_offset()))
                for name, view in zip(statistics_of(self.module), views, strict=True)
            ],
        }

    def stray(self) -> list[str]:
        """Attributes of the module, CLASS.NAME, that have changed since it was made: what is in no buffer belongs to no row."""
        now = _plain(self.module)
        return sorted(name for name, before in self._plain.items() if name in now and _unlike(before, now[name]))

    def bind(
        self,
        x: Tensor,
        grad: Tensor | None = None,
        statistics: Tensor | None = None,
        module_buffers: Sequence[Tensor] | None = None,
    ) -> None:
        """Rows to point at from now on; `statistics` (r, b) and `module_buffers`, (r, ...) each, where a module has some."""
        none: list[Tensor | None] = [None] * len(self._parameters)
        places: list[Any] = [none] * len(x) if grad is None else [self.split(into) for into in grad]
        self._views = [list(zip(self.split(row), into, strict=True)) for row, into in zip(x, places, strict=True)]
        self._beside = []
        if self.stateful:
            rows = [None] * len(x) if statistics is None else list(statistics)
            others = [None] * len(x) if module_buffers is None else [[b[i] for b in module_buffers] for i in range(len(x))]
            self._beside = [self._state(*pair) for pair in zip(rows, others, strict=True)]
            self._hook = self._hook or self.module.register_forward_hook(self._keep)
        self._at = None

    def row(self, i: int) -> nn.Module:
        """The module at row i, its gradients landing in gradient row i and its statistics in row i of theirs."""
        if self._at != (id(self._views), i):
            apart = False
            for p, (value, into), of_norm in zip(self._parameters, self._views[i], self._of_norms, strict=True):
                p.data, p.grad = aligned(value) if of_norm else value, into
                apart |= p.data_ptr() != value.data_ptr()
            apart |= self._put(self._beside[i] if self._beside else ())
            self._at = None if apart else (id(self._views), i)  # copies are made anew before each forward pass
        return self.module

    def gradients(self) -> list[Tensor]:
        """What the backward pass has left with the parameters, taken from them; numbers of each lie as its parameter's do."""
        found = []
        for p in self._parameters:
            grad, p.grad = p.grad, None
            if grad is None:
                grad = torch.zeros_like(p, requires_grad=False)
            elif grad.stride() != p.stride() or grad.layout is not torch.strided:
                grad = torch.empty_like(p, requires_grad=False).copy_(grad.to_dense() if grad.is_sparse else grad)
            found.append(grad)
        return found

    def views(self, i: int) -> list[Tensor]:
        """The parameters that row i holds."""
        return [value for value, _ in self._views[i]]

    def elsewhere(self, model: Tensor, statistics: Tensor | None = None) -> nn.Module:
        """The module at a model of its own, (1, d), and a copy of its statistics, (1, b), for looking only.

        Without statistics it has those it was made with.
        """
        for p, value, of_norm in zip(self._parameters, self.split(model[0]), self._of_norms, strict=True):
            p.data, p.grad = aligned(value) if of_norm else value, None
        self._put(self._state(None if statistics is None else statistics[0].clone()))
        self._at = None
        return self.module

    def functional(self, model: Tensor, inputs: Tensor) -> Tensor:
        """What the module says of the inputs at a model (1, d), as a function of the model that can be differentiated twice.

        BatchNorm normalises by the batch, as in training; nothing else is random and nothing is left behind: no dropout.
        """
        module = self.elsewhere(model.detach()).eval()
        for norm in _norms(module):
            norm.train()
        names = [name for name, p in module.named_parameters() if p.requires_grad]
        try:
            values = zip(names, self.split(model[0]), self._of_norms, strict=True)
            given = {name: aligned(value) if of_norm else value for name, value, of_norm in values}
            return torch.func.functional_call(module, given, inputs)
        finally:
            module.train()

    def look(self) -> Tensor:
        """(1, b) the statistics the module is at now."""
        return _joined(self._statistics)

    def _put(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> bool:
        """Make these buffers what they are to be; was one of them copied?"""
        self._apart = []
        for buffer, value in pairs:
            buffer.data = aligned(value) if id(buffer) in self._norms_buffers else value
            if buffer.data_ptr() != value.data_ptr():
                self._apart.append((buffer, value))
        return bool(self._apart)

    def _state(self, statistics: Tensor | None, others: Sequence[Tensor] | None = None) -> list[tuple[Tensor, Tensor]]:
        """Each buffer with what it is to be: a view of the row `statistics` (b,), one of `others`, else as it began."""
        pairs: list[tuple[Tensor, Tensor]] = []
        if self._first is not None:
            row = self._first[0].clone() if statistics is None else statistics
            pairs += list(zip(self._statistics, self._split_statistics(row), strict=True))
        own = [first.clone() for first in self._first_others] if others is None else others
        return pairs + list(zip(self._others, own, strict=True))

    def _keep(self, *_: Any) -> None:
        """After a forward pass: a module that put new tensors in the place of its buffers has its values taken into the row."""
        for owner, name, buffer in self._owners:
            now = owner._buffers[name]
            if now is not buffer:
                if now is not None:
                    buffer.data.copy_(now.detach())
                owner._buffers[name] = buffer
        for buffer, place in self._apart:
            place.copy_(buffer.data)

    def split(self, row: Tensor) -> list[Tensor]:
        """Views of a row (d,), or one like it, in the shapes of the parameters that it holds."""
        parts = row.split([p.numel() for p in self._parameters])
        return [self._shaped(part, p.shape) for part, p in zip(parts, self._parameters, strict=True)]

    def _split_statistics(self, row: Tensor) -> list[Tensor]:
        parts = row.split([s.numel() for s in self._statistics])
        return [part.view(s.shape) for part, s in zip(parts, self._statistics, strict=True)]

    def _shaped(self, part: Tensor, shape: torch.Size) -> Tensor:
        if len(shape) != 4 or not self.channels_last:
            return part.view(shape)
        out, channels, height, width = shape
        return part.view(out, height, width, channels).permute(0, 3, 1, 2)


def aligned(value: Tensor) -> Tensor:
    """The view of a row, or a copy where cuDNN's BatchNorm cannot take it: it wants what it is given to begin at 16 bytes."""
    return value.clone() if value.is_cuda and value.data_ptr() % ALIGNMENT else value


def recalibrated(bound: Bound, model: Tensor, statistics: Tensor, batches: Iterable[Tensor]) -> Tensor:
    """(1, b) statistics of `model` (1, d) re-estimated: the mean of what its BatchNorm layers see over the batches.

    All else is as in evaluation (no dropout). Statistics that no BatchNorm layer keeps stay as given.
    """
    module = bound.elsewhere(model, statistics).eval()
    norms = _norms(module)
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a cumulative average
            norm.train()
        with torch.no_grad():
            for batch in batches:
                module(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.train()
    return bound.look()


def hessian_product(
    bound: Bound, model: Tensor, direction: Tensor, inputs: Tensor, targets: Tensor, of: Loss = cross_entropy
) -> Tensor:
    """(1, d) H @ direction; H: the Hessian at `model` (1, d) of a loss. The gradient, differentiated again."""
    model = model.detach().clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        loss = of(bound.functional(model, inputs), targets)
        (gradient,) = torch.autograd.grad(loss, model, create_graph=True)
        return torch.autograd.grad(gradient, model, direction)[0]


def _norms(module: nn.Module) -> list[Any]:
    """The BatchNorm layers that keep running statistics."""
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats]


def autocast(amp: str | None, device: torch.device) -> AbstractContextManager[Any]:
    """Inside, products and convolutions are computed in bfloat16 when `amp` says so; what they belong to stays as it is."""
    return nullcontext() if amp is None else torch.autocast(device.type, dtype=torch.bfloat16)


def _joined(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])[None]


def _plain(module: nn.Module) -> dict[str, Any]:
    """Numbers, text and small tensors that parts of it keep as plain attributes; of torch's own parts none are of interest."""
    return {
        f"{type(part).__name__}.{key}": value.clone() if isinstance(value, Tensor) else value
        for part in module.modules()
        if not type(part).__module__.startswith("torch.")
        for key, value in vars(part).items()
        if (isinstance(value, int | float | str) or (isinstance(value, Tensor) and value.numel() <= SMALL))
        and key != "training"
    }


def _unlike(before: Any, now: Any) -> bool:
    """Of two plain attributes; a tensor of another shape is a cache."""
    if isinstance(before, Tensor) and isinstance(now, Tensor):
        return before.shape == now.shape and not torch.equal(before.cpu(), now.cpu())
    return not isinstance(before, Tensor) and not isinstance(now, Tensor) and before != now


def _draws(part: nn.Module) -> bool:
    """May its forward pass draw random numbers? Dropout and a few others do, and code that is neither torch's nor ours may."""
    home = type(part).__module__
    ours = home.startswith(("torch.nn.", "coopsgd."))
    dropout = getattr(part, "dropout", 0)
    return not ours or isinstance(part, DRAWING) or (isinstance(dropout, float) and dropout > 0)
