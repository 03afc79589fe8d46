"""Grouped convolutions: c rows are c groups of channels of one network, differentiated by autograd.

Channels-last layout and few rows at a time: with the batch in front and rows beside rows in the channels, one group is one
row's convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coopsgd.tasks.engines.base import Engine, Layout, flattened, strangers

ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.GELU, nn.Identity)
SPATIAL = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)  # each channel by itself: grouping changes nothing


class Grouped(Engine):
    """Sequential of Conv2d, GroupNorm, pooling and activations, then Flatten, then Linear layers."""

    name: ClassVar[str] = "grouped"

    def __init__(self, module: nn.Module) -> None:
        self._layers = flattened(module) or []
        self._layout = Layout(module)

    @staticmethod
    def cannot(module: nn.Module) -> str | None:
        """Why it cannot run this module; None when it can."""
        known = (nn.Conv2d, nn.GroupNorm, nn.Flatten, nn.Linear, *ELEMENTWISE, *SPATIAL)
        unknown = strangers(module, known)
        if unknown is not None:
            return unknown
        layers = flattened(module) or []
        flat = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Flatten)]
        if len(flat) != 1 or (layers[flat[0]].start_dim, layers[flat[0]].end_dim) != (1, -1):
            return "it needs exactly one Flatten, of everything"
        for i, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
                return f"it does not know padding_mode={layer.padding_mode}"
            if isinstance(layer, nn.Conv2d) and layer.groups != 1:
                return "it does not know convolutions that are grouped already"
            if isinstance(layer, (nn.Conv2d, nn.GroupNorm, *SPATIAL)) and i > flat[0]:
                return f"it does not know {type(layer).__name__} after Flatten"
            if isinstance(layer, nn.Linear) and i < flat[0]:
                return "it does not know Linear before Flatten"
        return None

    def gradients(self, a: int, b: int, inputs: Tensor, targets: Tensor, seeds: Sequence[int] = ()) -> Tensor:
        losses, grads = self._both(a, b, inputs, targets)
        for into, grad in zip(self._layout.stacked(self._grad[a:b]), grads, strict=True):
            into.copy_(grad)
        return losses

    def descend(self, a: int, b: int, inputs: Tensor, targets: Tensor, lr: float, seeds: Sequence[int] = ()) -> Tensor:
        losses, grads = self._both(a, b, inputs, targets)
        for value, grad in zip(self._layout.stacked(self._x[a:b]), grads, strict=True):
            value.add_(grad, alpha=-lr)
        return losses

    def logits(self, x: Tensor, inputs: Tensor, statistics: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            return self._forward(self._layout.stacked(x), inputs.expand(len(x), *inputs.shape))

    def _both(self, a: int, b: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        parameters = [view.detach().requires_grad_() for view in self._layout.stacked(self._x[a:b].data)]
        logits = self._forward(parameters, inputs)
        each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape).mean(1)
        return each.detach(), torch.autograd.grad(each.sum(), parameters)

    def _forward(self, parameters: list[Tensor], inputs: Tensor) -> Tensor:
        """Logits (c, batch, classes) from inputs (c, batch, channels, height, width)."""
        c = len(inputs)
        rest, h = iter(parameters), inputs
        if inputs.dim() == 5 and not isinstance(self._layers[0], nn.Flatten):
            # (batch, height, width, c * channels) in memory: channels last
            h = inputs.permute(1, 3, 4, 0, 2).flatten(3).permute(0, 3, 1, 2)
        for layer in self._layers:
            if isinstance(layer, nn.Conv2d):
                weight = next(rest).permute(0, 1, 3, 4, 2).flatten(0, 1).permute(0, 3, 1, 2)
                bias = None if layer.bias is None else next(rest).flatten()
                h = F.conv2d(h, weight, bias, layer.stride, layer.padding, layer.dilation, groups=c)
            elif isinstance(layer, nn.GroupNorm):
                scale, shift = (next(rest).flatten(), next(rest).flatten()) if layer.affine else (None, None)
                h = F.group_norm(h, c * layer.num_groups, scale, shift, layer.eps)
            elif isinstance(layer, nn.Flatten):
                # a row's features in the order of its own module: channels, height, width
                h = h.flatten(2) if h.dim() == 5 else h.unflatten(1, (c, -1)).transpose(0, 1).flatten(2)
            elif isinstance(layer, nn.Linear):
                weight = next(rest).transpose(1, 2)
                h = torch.bmm(h, weight) if layer.bias is None else torch.baddbmm(next(rest)[:, None], h, weight)
            else:
                h = layer(h)
        return h
