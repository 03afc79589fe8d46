"""Networks as users write them, for `model=custom model.path=nets:Name`, and a few large images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coopsgd.data.digits import Digits


class Plain(nn.Module):
    """Convolution, BatchNorm, and the .view() that everybody writes, which fails on what lies channels last."""

    def __init__(self, classes: int = 10, width: int = 4) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, width, 3), nn.BatchNorm2d(width)
        self.head = nn.Linear(36 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(x.view(x.size(0), -1))


class Odd(nn.Module):
    """A tied weight, a frozen layer, a scalar, 1-d and 5-d parameters, a buffer made by numpy and one that is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(64, 12, bias=False).requires_grad_(False)
        self.one = nn.Linear(12, 12, bias=False)
        self.two = nn.Linear(12, 12, bias=False)
        self.two.weight = self.one.weight
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.shift = nn.Parameter(torch.zeros(12))
        self.block = nn.Parameter(torch.ones(1, 1, 1, 1, 12))
        self.head = nn.Linear(12, 10)
        self.register_buffer("constant", torch.from_numpy(np.linspace(0.5, 1.5, 12)).float())
        self.register_buffer("mean", torch.zeros(12))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.frozen(x.flatten(1)) * self.constant
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * x.mean(0)  # another tensor in the buffer's place
            self.seen += len(x)
        x = torch.tanh(self.one(x - self.mean)) * self.scale + self.shift
        return self.head(self.two(x) * self.block.flatten())


class Masked(nn.Module):
    """A mask of minus infinities among its buffers, as attention has it."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.norm = nn.Linear(64, 10), nn.BatchNorm1d(10)
        self.register_buffer("mask", torch.tensor([0.0] * 9 + [-torch.inf]))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.norm(self.head(x.flatten(1)))
        return torch.where(torch.isinf(self.mask), logits, logits + self.mask)


class Noisy(nn.Module):
    """Draws its noise from torch's own generator, as F.dropout would."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.dropout(x.flatten(1), 0.5, self.training))


class Counting(Noisy):
    """Keeps a count, and a mean, where nobody looks: in no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.mean, self.width, self.mask = 0, torch.zeros(64), 64, None

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.count += 1
            self.mean = 0.9 * self.mean + 0.1 * x.flatten(1).mean(0).detach()
        self.mask = torch.ones(len(x))  # a cache
        return super().forward(x)


def pair() -> nn.Module:
    """Gives two tensors."""

    class Pair(Noisy):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return super().forward(x), x

    return Pair()


def lazy() -> nn.Module:
    """A size that only training would tell."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


class Detached(Plain):
    """Whose logits remember nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class Doubled(Plain):
    """That only takes doubles."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


def nothing_to_learn() -> nn.Module:
    """No parameters."""
    return nn.Sequential(nn.Flatten())


def number() -> int:
    """No module."""
    return 3


@dataclass(frozen=True)
class Large(Digits):
    """64 digits, and 32 to test on, of 32 x 32: every pixel four by four times."""

    SHAPE = (1, 32, 32)

    def load(self, *arguments: Any) -> Any:
        images, block = super().load(*arguments), np.ones((1, 1, 4, 4), dtype=np.uint8)
        train_x, test_x = np.kron(images.train_x[:64], block), np.kron(images.test_x[:32], block)
        return replace(images, train_x=train_x, train_y=images.train_y[:64], test_x=test_x, test_y=images.test_y[:32])


def tagged(n: int = 120, classes: int = 5) -> list[Any]:
    """Items with several labels: those whose number is large."""
    x = np.random.default_rng(0).standard_normal((n, classes))
    return [(one, (one > 0.3).astype(int)) for one in x]
