"""Every row's loss and gradient: the module's parameters *are* views of the row, its gradients views of the gradient row."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bound:
    """One module pointed at the rows of (r, d) tensors in turn.

    No packing: autograd accumulates straight into the gradient row, the optimiser steps the row, the fleet sends it.
    Weights of convolutions lie channels last in the row, which makes their views channels last too: faster on a CPU.
    """

    def __init__(self, module: nn.Module) -> None:
        if any(b.is_floating_point() for b in module.buffers()):
            raise ValueError("model: running statistics (BatchNorm) are not supported; use GroupNorm")
        self.module = module
        self._parameters = list(module.parameters())
        self._shapes = [p.shape for p in self._parameters]
        self.d = sum(p.numel() for p in self._parameters)
        self._at: tuple[int, int] | None = None
        self._views: list[list[tuple[Tensor, Tensor | None]]] = []
        self.random = any(isinstance(part, nn.modules.dropout._DropoutNd) for part in module.modules())

    def flat(self) -> Tensor:
        """(1, d) copy of the module's own parameters."""
        row = self._parameters[0].detach().new_empty(self.d)
        for p, place in zip(self._parameters, self._split(row), strict=True):
            place.copy_(p.detach())
        return row[None]

    def bind(self, x: Tensor, grad: Tensor) -> None:
        """Rows to point at from now on."""
        self._views = [list(zip(self._split(row), self._split(into), strict=True)) for row, into in zip(x, grad, strict=True)]
        self._at = None

    def row(self, i: int) -> nn.Module:
        """The module at row i, its gradients landing in gradient row i."""
        if self._at != (id(self._views), i):
            for p, (value, into) in zip(self._parameters, self._views[i], strict=True):
                p.data, p.grad = value, into
            self._at = (id(self._views), i)
        return self.module

    def elsewhere(self, model: Tensor) -> nn.Module:
        """The module at a model of its own, (1, d), for looking only."""
        for p, value in zip(self._parameters, self._split(model[0]), strict=True):
            p.data, p.grad = value, None
        self._at = None
        return self.module

    def _split(self, row: Tensor) -> list[Tensor]:
        sizes = [shape.numel() for shape in self._shapes]
        return [_shaped(part, shape) for part, shape in zip(row.split(sizes), self._shapes, strict=True)]


def _shaped(part: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) != 4:
        return part.view(shape)
    out, channels, height, width = shape
    return part.view(out, height, width, channels).permute(0, 3, 1, 2)
