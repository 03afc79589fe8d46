"""Networks for classification. A dataclass is what a config chooses; `build` makes the module and imports torch.

Normalisation is GroupNorm: it keeps no running statistics that averaging models could miss.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from coopsgd.registry import register

if TYPE_CHECKING:
    from torch.nn import Module


@dataclass(frozen=True)
class Model:
    """A family of networks; `build` is its member for one kind of image."""

    INPUT: ClassVar[str] = "numbers"  # what it reads: numbers, or the tokens of a text

    def build(self, shape: tuple[int, ...], classes: int) -> Module:
        """A module from (batch, *shape) inputs to (batch, classes) logits."""
        raise NotImplementedError

    def parameters(self, shape: tuple[int, ...], classes: int) -> int:
        """d, how many numbers that module learns. A formula where there is one: building it means importing torch."""
        import torch

        with torch.device("meta"):
            return sum(p.numel() for p in self.build(shape, classes).parameters())


def _dropout(rate: float) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"model.dropout: must lie in [0, 1), got {rate}")


@register("logistic", "model")
@dataclass(frozen=True)
class Logistic(Model):
    """Multinomial logistic regression: one linear layer, convex."""

    def build(self, shape: tuple[int, ...], classes: int) -> Module:
        from torch import nn

        return nn.Sequential(nn.Flatten(), nn.Linear(_size(shape), classes))

    def parameters(self, shape: tuple[int, ...], classes: int) -> int:
        return _linear([_size(shape), classes])


@register("mlp", "model")
@dataclass(frozen=True)
class MLP(Model):
    """Fully connected, ReLU between the layers; `hidden` lists their widths."""

    hidden: list[int] = field(default_factory=lambda: [200])
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _dropout(self.dropout)
        if any(isinstance(w, bool) or not isinstance(w, int) or w < 1 for w in self.hidden):
            raise ValueError(f"model.hidden: must list whole numbers of at least 1, got {self.hidden}")

    def build(self, shape: tuple[int, ...], classes: int) -> Module:
        from torch import nn

        layers: list[Any] = [nn.Flatten()]
        widths = [_size(shape), *self.hidden]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
        return nn.Sequential(*layers, nn.Linear(widths[-1], classes))

    def parameters(self, shape: tuple[int, ...], classes: int) -> int:
        return _linear([_size(shape), *self.hidden, classes])


@register("cnn", "model")
@dataclass(frozen=True)
class CNN(Model):
    """Two 3 x 3 convolutions with GroupNorm, ReLU and pooling, then two linear layers (0.42 M parameters on 28 x 28)."""

    width: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _dropout(self.dropout)
        if self.width < 8 or self.width % 8:
            raise ValueError(f"model.width: must be a positive multiple of 8, got {self.width}")

    def build(self, shape: tuple[int, ...], classes: int) -> Module:
        from torch import nn

        channels, height, width = _image(shape)

        def block(before: int, after: int) -> list[Module]:
            return [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.ReLU(), nn.MaxPool2d(2)]

        features = 2 * self.width * (height // 4) * (width // 4)
        layers = [*block(channels, self.width), *block(self.width, 2 * self.width), nn.Flatten()]
        layers += [nn.Linear(features, 128), nn.ReLU()]
        if self.dropout:
            layers.append(nn.Dropout(self.dropout))
        return nn.Sequential(*layers, nn.Linear(128, classes))

    def parameters(self, shape: tuple[int, ...], classes: int) -> int:
        channels, height, width = _image(shape)
        blocks = sum(9 * a * b + 3 * b for a, b in ((channels, self.width), (self.width, 2 * self.width)))
        return blocks + _linear([2 * self.width * (height // 4) * (width // 4), 128, classes])


@register("gpt", "model")
@dataclass(frozen=True)
class GPT(Model):
    """Decoder-only transformer on characters, pre-LayerNorm (1.0 M parameters on about 100 characters). Radford et al. 2019."""

    layers: int = 5
    heads: int = 4
    width: int = 128
    context: int = 128
    dropout: float = 0.0

    INPUT = "tokens"

    def __post_init__(self) -> None:
        _dropout(self.dropout)
        for name in ("layers", "heads", "width", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}: must be at least 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"model.width: must be a multiple of model.heads={self.heads}, got {self.width}")

    def build(self, shape: tuple[int, ...], classes: int) -> Module:
        from coopsgd.tasks import gpt

        return gpt.GPT(classes, self.context, self.layers, self.heads, self.width, self.dropout)

    def parameters(self, shape: tuple[int, ...], classes: int) -> int:
        w = self.width
        block = 2 * 2 * w + _linear([w, 3 * w]) + _linear([w, w]) + _linear([w, 4 * w, w])
        return (2 * classes + self.context) * w + self.layers * block + 2 * w


def _image(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Channels, height and width. ValueError when it is no image, or one too small to be halved twice."""
    if len(shape) != 3 or min(shape[1:]) < 4:
        raise ValueError(f"cnn: needs images of at least 4 x 4, got samples of {' x '.join(map(str, shape))}; use mlp")
    return shape


def _linear(widths: list[int]) -> int:
    """Weights and biases of a chain of linear layers."""
    return sum((before + 1) * after for before, after in pairwise(widths))


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
