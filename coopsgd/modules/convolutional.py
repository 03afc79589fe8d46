"""Convolutions with their normalisation, frames, residual blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from coopsgd.models import base


def convolution(
    norm: str, before: int, after: int, stride: int = 1, groups: int | None = None, bias: bool = False
) -> list[nn.Module]:
    """A 3 x 3 convolution and its normalisation, whose shift makes a bias superfluous (`bias` keeps one all the same)."""
    layers: list[nn.Module] = [nn.Conv2d(before, after, 3, stride, padding=1, bias=bias or norm == "none")]
    if norm == "group":
        layers.append(nn.GroupNorm(groups or base.groups(after), after))
    elif norm == "batch":
        layers.append(nn.BatchNorm2d(after))
    return layers


def relu_of_largest() -> list[nn.Module]:
    """ReLU and 2 x 2 max pooling, in the order in which ReLU sees a quarter of the numbers: the same to the bit."""
    return [nn.MaxPool2d(2), nn.ReLU()]


class Residual(nn.Module):
    """relu(body(x) + x). Where the body halves the image and adds channels, x is every other pixel and zeros beyond.

    That is shortcut A of arXiv:1512.03385: it has no parameters.
    """

    def __init__(self, body: nn.Module, more: int, stride: int) -> None:
        super().__init__()
        self.body, self.more, self.stride = body, more, stride

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.more:
            x = functional.pad(x, (0, 0, 0, 0, 0, self.more))
        return torch.relu(y + x)


def he_init(module: nn.Module, quiet: bool = False) -> nn.Module:
    """Normal weights of variance 2 / fan out for every convolution (arXiv:1502.01852), zero biases.

    quiet: the last convolution of every residual body begins at zero (arXiv:1901.09321).
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for part in module.modules() if quiet else ():
        if isinstance(part, Residual):
            nn.init.zeros_([inner for inner in part.body.modules() if isinstance(inner, nn.Conv2d)][-1].weight)
    return module


def framed(height: int, width: int, least: int) -> list[nn.Module]:
    """A layer that frames images with zeros to `least` x `least`; none when they are large enough."""
    down, right = max(0, least - height), max(0, least - width)
    return [nn.ZeroPad2d((right // 2, right - right // 2, down // 2, down - down // 2))] if down or right else []


class Coloured(nn.Module):
    """A network for colour images that is shown grey ones: each channel gets the same picture."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.expand(-1, 3, -1, -1))
