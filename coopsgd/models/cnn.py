"""Small convolutional networks: a modern one, and the first one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coopsgd.models.base import NORMS, Convolutional, check_dropout, check_images, check_norm, convolved, linear
from coopsgd.registry import option, register

if TYPE_CHECKING:
    from torch.nn import Module


@register("cnn", "model")
@dataclass(frozen=True)
class CNN(Convolutional):
    """Two 3 x 3 convolutions with normalisation, ReLU and pooling, then two linear layers (0.42 M parameters on 28 x 28)."""

    width: int = option(32, "of the first convolution; the second has twice as many", unit="channels")
    dropout: float = option(0.0, "probability that a number is dropped in training", unit="share")
    norm: str = option("group", "group; batch, see norm_stats; or none", words=NORMS)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_dropout(self.dropout)
        check_norm(self.norm)
        if self.width < 8 or self.width % 8:
            raise ValueError(f"model.width: must be a positive multiple of 8, got {self.width}")

    def check(self, shape: tuple[int, ...], classes: int, batch_size: int) -> None:
        check_images("cnn", shape, 4, "mlp")

    def build(self, shape: tuple[int, ...], classes: int) -> Module:
        from torch import nn

        from coopsgd.modules.convolutional import convolution, relu_of_largest

        channels, height, width = shape

        def block(before: int, after: int) -> list[Module]:
            return [*convolution(self.norm, before, after, groups=8, bias=True), *relu_of_largest()]

        features = 2 * self.width * (height // 4) * (width // 4)
        layers = [*block(channels, self.width), *block(self.width, 2 * self.width), nn.Flatten()]
        layers += [nn.Linear(features, 128), nn.ReLU()]
        if self.dropout:
            layers.append(nn.Dropout(self.dropout))
        return nn.Sequential(*layers, nn.Linear(128, classes))

    def parameters(self, shape: tuple[int, ...], classes: int) -> int:
        channels, height, width = shape
        blocks = ((channels, self.width), (self.width, 2 * self.width))
        own_bias = 0 if self.norm == "none" else 3 * self.width  # its convolutions keep a bias beside the norm's
        convolutions = sum(convolved(self.norm, *block) for block in blocks) + own_bias
        return convolutions + linear([2 * self.width * (height // 4) * (width // 4), 128, classes])

    def statistics(self, shape: tuple[int, ...], classes: int) -> int:
        return 2 * 3 * self.width if self.norm == "batch" else 0


@register("lenet", "model")
@dataclass(frozen=True)
class LeNet(Convolutional):
    """LeNet-5 with ReLU and max pooling (61,706 parameters on 28 x 28); images below 32 x 32 are framed with zeros to that."""

    def check(self, shape: tuple[int, ...], classes: int, batch_size: int) -> None:
        check_images("lenet", shape, 28, "cnn")

    def build(self, shape: tuple[int, ...], classes: int) -> Module:
        from torch import nn

        from coopsgd.modules.convolutional import framed, relu_of_largest

        channels, height, width = shape
        return nn.Sequential(
            *framed(height, width, 32),
            *(nn.Conv2d(channels, 6, 5), *relu_of_largest()),
            *(nn.Conv2d(6, 16, 5), *relu_of_largest()),
            nn.Flatten(),
            *(nn.Linear(self._features(shape), 120), nn.ReLU()),
            *(nn.Linear(120, 84), nn.ReLU()),
            nn.Linear(84, classes),
        )

    def parameters(self, shape: tuple[int, ...], classes: int) -> int:
        convolutions = (25 * shape[0] + 1) * 6 + (25 * 6 + 1) * 16
        return convolutions + linear([self._features(shape), 120, 84, classes])

    def _features(self, shape: tuple[int, ...]) -> int:
        """What two rounds of a 5 x 5 convolution (4 off a side) and pooling (half of it) leave: 16 x 5 x 5 of 32 x 32."""
        height, width = (((max(side, 32) - 4) // 2 - 4) // 2 for side in shape[1:])
        return 16 * height * width
