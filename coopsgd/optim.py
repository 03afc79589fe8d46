"""Inner optimisers, as a config chooses them: `optim=sgd`. How their rate moves: schedules.py.

They import no torch; loop/inner.py puts them to work on the rows of one process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from coopsgd.registry import option, register

if TYPE_CHECKING:
    from torch import Tensor

NOT_ELEMENTWISE = ("lbfgs", "adafactor", "muon", "sparseadam", "shampoo", "lamb", "lars", "adagc")
FUSED = ("lr", "momentum", "nesterov", "weight_decay")  # keys of sgd that a fused step knows
SQUARES = ("exp_avg_sq",)  # buffers that are means of squares


def positive(name: str, value: float) -> None:
    """ValueError, naming the key, unless it is."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: must be a positive number, got {value}")


def not_negative(name: str, value: float) -> None:
    """ValueError, naming the key, unless it is a finite number of at least 0."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: must be a number, not negative, got {value}")


def below_one(name: str, value: float) -> None:
    """ValueError, naming the key, unless it lies in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name}: must lie in [0, 1), got {value}")


class SGDStep(NamedTuple):
    """What a step of SGD does beside x -= lr * gradient, as torch.optim.SGD does it, without dampening.

    velocity: (w, d) the momentum buffers of the worker rows, zero where there were none; None without momentum.
    """

    momentum: float
    nesterov: bool
    weight_decay: float
    velocity: Tensor | None


@register("sgd", "optim")
@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with heavy-ball or Nesterov momentum and L2 weight decay when asked (torch.optim.SGD)."""

    lr: float = option(0.1, "the learning rate", unit="")
    momentum: float = option(0.0, "share of the velocity that stays from step to step (torch.optim.SGD)", unit="share")
    nesterov: bool = option(False, "Nesterov's momentum, looking ahead")
    weight_decay: float = option(
        0.0, "share of the parameter that is added to its gradient; adamw: that is taken off it, times lr", unit=""
    )
    dampening: float = option(0.0, "share of the gradient that momentum leaves out", unit="share")

    KIND: ClassVar[str | None] = "SGD"
    COUNTS: ClassVar[bool] = False  # does its state count steps?

    @property
    def plain(self) -> bool:
        """Is a step x - lr * gradient and nothing more? Then the task may fuse the two."""
        return all(getattr(self, f.name) == f.default for f in fields(self) if f.name != "lr")

    @property
    def fusable(self) -> bool:
        """Is a step what SGDStep can say? Then a task that knows how may fuse it with the gradient."""
        return self.KIND == "SGD" and all(getattr(self, f.name) == f.default for f in fields(self) if f.name not in FUSED)

    @property
    def buffers(self) -> tuple[str, ...]:
        """What torch calls the vectors it keeps."""
        return ("momentum_buffer",) if self.momentum else ()

    def __post_init__(self) -> None:
        positive("optim.lr", self.lr)
        below_one("optim.momentum", self.momentum)
        below_one("optim.dampening", self.dampening)
        not_negative("optim.weight_decay", self.weight_decay)
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("optim.nesterov: needs optim.momentum above 0 and no dampening, as in optim.momentum=0.9")


@register("adam", "optim")
@dataclass(frozen=True)
class Adam:
    """Adam (torch.optim.Adam)."""

    lr: float = option(0.001, "the learning rate", unit="")
    beta1: float = option(0.9, "share of the mean gradient that stays from step to step", unit="share")
    beta2: float = option(0.999, "share of the mean squared gradient that stays from step to step", unit="share")
    eps: float = option(1e-8, "added to the root of the mean squared gradient", unit="")
    weight_decay: float = option(
        0.0, "share of the parameter that is added to its gradient; adamw: that is taken off it, times lr", unit=""
    )

    KIND: ClassVar[str | None] = "Adam"
    COUNTS: ClassVar[bool] = True
    buffers: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")

    def __post_init__(self) -> None:
        positive("optim.lr", self.lr)
        below_one("optim.beta1", self.beta1)
        below_one("optim.beta2", self.beta2)
        positive("optim.eps", self.eps)
        not_negative("optim.weight_decay", self.weight_decay)


@register("adamw", "optim")
@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay, none unless asked (torch.optim.AdamW)."""

    KIND: ClassVar[str | None] = "AdamW"
