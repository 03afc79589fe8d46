"""The contract of a model, and the arithmetic that several of them share.

Normalisation is GroupNorm unless asked otherwise: it keeps no running statistics that averaging models could miss.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, ClassVar

from coopsgd.registry import option

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from coopsgd.fleet.block import Block

NORMS = ("group", "batch", "none")
FORMATS = ("channels_last", "contiguous")  # how the weights of a convolution may lie in a row


@dataclass(frozen=True)
class Model:
    """A family of networks; `build` is its member for one kind of image."""

    INPUT: ClassVar[str] = "numbers"  # what it reads: numbers, or the tokens of a text

    def check(self, shape: tuple[int, ...], classes: int, batch_size: int) -> None:
        """ValueError when there is no member for these images; before any process starts."""

    def unfit(self, shape: tuple[int, ...], classes: int, dtype: str) -> str | None:
        """Why it cannot be trained in numbers of this dtype; None: as far as one knows it can."""
        return None

    def build(self, shape: tuple[int, ...], classes: int) -> Module:
        """A module from (batch, *shape) inputs to (batch, classes) logits."""
        raise NotImplementedError

    def parameters(self, shape: tuple[int, ...], classes: int) -> int:
        """d, how many numbers that module learns. A formula where there is one: building it means importing torch."""
        import torch

        with torch.device("meta"):
            return sum(p.numel() for p in self.build(shape, classes).parameters() if p.requires_grad)

    def statistics(self, shape: tuple[int, ...], classes: int) -> int:
        """b, how many running statistics it keeps: BatchNorm's means and variances. 0 when it keeps none."""
        return 0

    def channels_last(self, shape: tuple[int, ...], classes: int) -> bool:
        """Do the weights of its convolutions lie channels last in a row?"""
        return True

    def blocks(self, shape: tuple[int, ...], classes: int) -> tuple[Block, ...]:
        """The parameters that a row is made of. Imports torch."""
        import torch

        from coopsgd.models.blocks import laid, learned

        with torch.device("meta"):
            return laid(learned(self.build(shape, classes)), self.channels_last(shape, classes))


@dataclass(frozen=True)
class Convolutional(Model):
    """One that may have convolutions, whose weights lie in a row as `memory_format` says.

    auto: `coopsgd train` measures which is faster for the run's own shapes and freezes it; elsewhere channels last, unless the
    network's own code cannot take that.
    """

    memory_format: str = option(
        "auto",
        "of convolutions' weights: auto, the faster one, measured before the run starts; channels_last; contiguous",
        words=("auto", *FORMATS),
        kw_only=True,
    )

    def __post_init__(self) -> None:
        if self.memory_format not in ("auto", *FORMATS):
            raise ValueError(f"model.memory_format: must be one of auto, {', '.join(FORMATS)}, got {self.memory_format!r}")

    def channels_last(self, shape: tuple[int, ...], classes: int) -> bool:
        return self.memory_format != "contiguous"


def check_dropout(rate: float) -> None:
    """ValueError unless it is a share."""
    if not 0 <= rate < 1:
        raise ValueError(f"model.dropout: must lie in [0, 1), got {rate}")


def check_norm(norm: str) -> None:
    """ValueError unless it is a normalisation we know."""
    if norm not in NORMS:
        raise ValueError(f"model.norm: must be one of {', '.join(NORMS)}, got {norm!r}")


def check_images(name: str, shape: tuple[int, ...], least: int, instead: str) -> None:
    """ValueError unless these are images of at least `least` x `least`."""
    if len(shape) != 3:
        raise ValueError(f"{name}: needs images (channels, height, width), got samples of shape {tuple(shape)}; use mlp")
    if min(shape[1:]) < least:
        raise ValueError(f"{name}: needs images of at least {least} x {least}, got {shape[1]} x {shape[2]}; use {instead}")


def linear(widths: list[int]) -> int:
    """Weights and biases of a chain of linear layers."""
    return sum((before + 1) * after for before, after in pairwise(widths))


def size(shape: tuple[int, ...]) -> int:
    """Numbers in one sample."""
    return prod(shape)


def groups(channels: int) -> int:
    """Groups of GroupNorm: eight channels each, but 32 groups at most (2 for 16 channels, 8 for 64, 32 for 512)."""
    return min(32, max(1, channels // 8))


def convolved(norm: str, before: int, after: int) -> int:
    """Parameters of a 3 x 3 convolution and its norm; a norm brings the bias, without one the convolution has its own."""
    return 9 * before * after + after * (1 if norm == "none" else 2)


def statistics_of(module: Module) -> dict[str, Tensor]:
    """A module's buffers that are running statistics, which may be mixed, by name.

    Numbers that belong to its state are. What is made with persistent=False is a constant (a table of positions), what is not
    finite a mask.
    """
    constant = {id(part._buffers[key]) for part in module.modules() for key in part._non_persistent_buffers_set}
    return {
        name: buffer
        for name, buffer in module.named_buffers()
        if buffer.is_floating_point() and id(buffer) not in constant and bool(buffer.isfinite().all())
    }
