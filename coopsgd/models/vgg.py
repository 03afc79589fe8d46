"""VGG for small images: the convolutions of arXiv:1409.1556, then one linear layer instead of three."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from coopsgd.models.base import NORMS, Convolutional, check_images, check_norm, convolved, linear
from coopsgd.registry import option, register

if TYPE_CHECKING:
    from torch.nn import Module

LEAST = 32  # five poolings leave one pixel of it
STAGES = {  # depth -> channels of the convolutions in each stage
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3),
}


@register("vgg", "model")
@dataclass(frozen=True)
class VGG(Convolutional):
    """`depth` 11 or 16: five stages of 3 x 3 convolutions, each ended by pooling, the mean of what is left, one linear layer.

    No biases beside a norm, He initialisation. `norm` is group, batch or none. Images of 28 to 31 are framed with zeros to 32.
    """

    depth: int = option(11, "layers with weights: 11 or 16", unit="layers")
    norm: str = option("group", "group; batch, see norm_stats; or none", words=NORMS)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self.norm)
        if self.depth not in STAGES:
            raise ValueError(f"model.depth: of a vgg must be {' or '.join(map(str, STAGES))}, got {self.depth}")

    def check(self, shape: tuple[int, ...], classes: int, batch_size: int) -> None:
        check_images("vgg", shape, 28, "resnet20")

    def build(self, shape: tuple[int, ...], classes: int) -> Module:
        from torch import nn

        from coopsgd.modules.convolutional import convolution, framed, he_init

        parts: list[Module] = framed(shape[1], shape[2], LEAST)
        before = shape[0]
        for stage in STAGES[self.depth]:
            for after in stage:
                parts += [*convolution(self.norm, before, after), nn.ReLU()]
                before = after
            parts.append(nn.MaxPool2d(2))
        return he_init(nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)))

    def parameters(self, shape: tuple[int, ...], classes: int) -> int:
        widths = [shape[0], *(after for stage in STAGES[self.depth] for after in stage)]
        return sum(convolved(self.norm, *pair) for pair in pairwise(widths)) + linear([widths[-1], classes])

    def statistics(self, shape: tuple[int, ...], classes: int) -> int:
        return sum(2 * after for stage in STAGES[self.depth] for after in stage) if self.norm == "batch" else 0
