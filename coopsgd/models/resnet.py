"""Residual networks for small images. arXiv:1512.03385, section 4.2."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from coopsgd.models.base import NORMS, Convolutional, check_images, check_norm, convolved, linear
from coopsgd.registry import option, register

if TYPE_CHECKING:
    from torch.nn import Module

WIDTHS = (16, 32, 64)


@register("resnet", "model")
@dataclass(frozen=True)
class ResNet(Convolutional):
    """`depth` = 6 n + 2 layers: a convolution, three stages of n blocks of two with 16, 32, 64 channels, a linear layer.

    Shortcuts without parameters, no biases beside a norm, He initialisation. `norm` is group, batch (the paper's) or none;
    without one every block begins as the identity, or the deeper ones would overflow.
    """

    depth: int = option(20, "layers with weights, 6 n + 2", unit="layers")
    norm: str = option("group", "group; batch: as in the paper, see norm_stats; or none", words=NORMS)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self.norm)
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"model.depth: must be 6 n + 2, as 20, 32, 44, 56, 110 are, got {self.depth}")

    def check(self, shape: tuple[int, ...], classes: int, batch_size: int) -> None:
        check_images("resnet", shape, 8, "mlp")

    def build(self, shape: tuple[int, ...], classes: int) -> Module:
        from torch import nn

        from coopsgd.modules.convolutional import Residual, convolution, he_init

        parts: list[Module] = [*convolution(self.norm, shape[0], 16), nn.ReLU()]
        for before, after, stride in self._blocks():
            body = [*convolution(self.norm, before, after, stride), nn.ReLU(), *convolution(self.norm, after, after)]
            parts.append(Residual(nn.Sequential(*body), after - before, stride))
        parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], classes)]
        return he_init(nn.Sequential(*parts), quiet=self.norm == "none")

    def parameters(self, shape: tuple[int, ...], classes: int) -> int:
        pairs = self._convolutions(shape)
        return sum(times * convolved(self.norm, *pair) for pair, times in pairs) + linear([WIDTHS[-1], classes])

    def statistics(self, shape: tuple[int, ...], classes: int) -> int:
        return sum(times * 2 * after for (_, after), times in self._convolutions(shape)) if self.norm == "batch" else 0

    def _blocks(self) -> list[tuple[int, int, int]]:
        """Channels before, channels after, stride of each block."""
        blocks, before = [], WIDTHS[0]
        for after in WIDTHS:
            for _ in range((self.depth - 2) // 6):
                blocks.append((before, after, after // before))
                before = after
        return blocks

    def _convolutions(self, shape: tuple[int, ...]) -> list[tuple[tuple[int, int], int]]:
        """Channels before and after, and how many there are of each kind; a stage has two a block."""
        inside = 2 * ((self.depth - 2) // 6) - 1
        stages = [part for a, b in pairwise((WIDTHS[0], *WIDTHS)) for part in (((a, b), 1), ((b, b), inside))]
        return [((shape[0], WIDTHS[0]), 1), *stages]
