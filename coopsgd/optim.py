"""Inner optimisers and schedules of the rate, as a config chooses them: `optim=sgd`, `schedule=cosine`.

They import no torch; loop/inner.py puts them to work on the rows of one process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from coopsgd.registry import option, register

NOT_ELEMENTWISE = ("lbfgs", "adafactor", "muon", "sparseadam", "shampoo", "lamb", "lars", "adagc")
SQUARES = ("exp_avg_sq",)  # buffers that are means of squares


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: must be a positive number, got {value}")


def _not_negative(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: must be a number, not negative, got {value}")


def _share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name}: must lie in [0, 1), got {value}")


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
    def buffers(self) -> tuple[str, ...]:
        """What torch calls the vectors it keeps."""
        return ("momentum_buffer",) if self.momentum else ()

    def __post_init__(self) -> None:
        _positive("optim.lr", self.lr)
        _share("optim.momentum", self.momentum)
        _share("optim.dampening", self.dampening)
        _not_negative("optim.weight_decay", self.weight_decay)
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
        _positive("optim.lr", self.lr)
        _share("optim.beta1", self.beta1)
        _share("optim.beta2", self.beta2)
        _positive("optim.eps", self.eps)
        _not_negative("optim.weight_decay", self.weight_decay)


@register("adamw", "optim")
@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay, none unless asked (torch.optim.AdamW)."""

    KIND: ClassVar[str | None] = "AdamW"


@register("constant", "schedule")
@dataclass(frozen=True)
class Constant:
    """The rate of the optimiser, unchanged; like every schedule it can begin with a warm-up.

    Step k (from 0) of the first `warmup` steps has the share f + (1 - f) (k + 1) / warmup of the rate, f = `warmup_from`:
    the last of them is the first at the full rate (torch LinearLR, then SequentialLR).
    """

    warmup: int = option(0, "in which the rate rises linearly", unit="steps")
    warmup_from: float = option(0.0, "of the rate, that it rises from", unit="share")

    KIND: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"schedule.warmup: must be a whole number of steps, at least 0, got {self.warmup}")
        _share("schedule.warmup_from", self.warmup_from)

    def check(self, rate: float, steps: int) -> None:
        """ValueError when it cannot move this rate over so many steps."""
        self.arguments(steps)

    def arguments(self, steps: int) -> dict[str, Any]:
        """Keyword arguments of the torch scheduler for a run of this many steps; it starts when the warm-up ends."""
        if self.warmup and self.warmup >= steps:
            raise ValueError(f"schedule.warmup: {self.warmup} steps leave nothing of a run of {steps}; lower it")
        return {}

    def drops(self, steps: int) -> list[int] | None:
        """From which steps on the rate is lower than before, the first of them at least; None: it does not say."""
        return None

    def torch(self, optimizer: Any, steps: int) -> Any:
        """The torch scheduler for a run of this many steps; None for a rate that stays."""
        from torch.optim import lr_scheduler

        arguments = self.arguments(steps)
        parts: list[Any] = []
        if self.warmup:
            first = self.warmup_from + (1 - self.warmup_from) / self.warmup
            parts.append(lr_scheduler.LinearLR(optimizer, start_factor=first, total_iters=self.warmup - 1))
        if self.KIND is not None:
            parts.append(getattr(lr_scheduler, self.KIND)(optimizer, **arguments))
        return lr_scheduler.SequentialLR(optimizer, parts, [self.warmup]) if len(parts) == 2 else parts[0] if parts else None


@register("step", "schedule")
@dataclass(frozen=True)
class StepDecay(Constant):
    """The rate times gamma every `every` steps after the warm-up (torch StepLR); every auto: a third of them."""

    every: Any = option("auto", "between two drops; auto: a third of the run", unit="steps", type="int or auto")
    gamma: float = option(0.1, "what the rate is multiplied by at a drop", unit="")

    KIND: ClassVar[str | None] = "StepLR"

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("schedule.gamma", self.gamma)

    def arguments(self, steps: int) -> dict[str, Any]:
        super().arguments(steps)
        every = max(1, (steps - self.warmup) // 3) if self.every == "auto" else self.every
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"schedule.every: must be auto or a whole number of at least 1, got {self.every!r}")
        return {"step_size": every, "gamma": self.gamma}

    def drops(self, steps: int) -> list[int]:
        return [self.warmup + self.arguments(steps)["step_size"]]


@register("multistep", "schedule")
@dataclass(frozen=True)
class MultiStep(Constant):
    """The rate times gamma at each of the `milestones`, in steps from the start of the run (torch MultiStepLR)."""

    milestones: list[int] = option([], "at which the rate drops, as in [500,750]", unit="steps")
    gamma: float = option(0.1, "what the rate is multiplied by at a drop", unit="")

    KIND: ClassVar[str | None] = "MultiStepLR"

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("schedule.gamma", self.gamma)

    def arguments(self, steps: int) -> dict[str, Any]:
        if not self.milestones:
            raise ValueError("schedule.milestones: name the steps at which the rate drops, as in schedule.milestones=[500,750]")
        if any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in self.milestones):
            raise ValueError(f"schedule.milestones: must list whole numbers of at least 1, got {self.milestones}")
        super().arguments(steps)
        if min(self.milestones) <= self.warmup:
            raise ValueError(f"schedule.milestones: {min(self.milestones)} lies within the warm-up of {self.warmup} steps")
        return {"milestones": [k - self.warmup for k in self.milestones], "gamma": self.gamma}

    def drops(self, steps: int) -> list[int]:
        return sorted(self.milestones)


@register("cosine", "schedule")
@dataclass(frozen=True)
class Cosine(Constant):
    """The rate falls, after the warm-up, along half a cosine to `floor` at the end of the run (torch CosineAnnealingLR)."""

    floor: float = option(0.0, "what the rate falls to", unit="")

    KIND: ClassVar[str | None] = "CosineAnnealingLR"

    def __post_init__(self) -> None:
        super().__post_init__()
        _not_negative("schedule.floor", self.floor)

    def check(self, rate: float, steps: int) -> None:
        super().check(rate, steps)
        if self.floor > rate:
            raise ValueError(
                f"schedule.floor: the rate falls to it, so it must be at most optim.lr={rate:g}, got {self.floor:g}"
            )

    def arguments(self, steps: int) -> dict[str, Any]:
        super().arguments(steps)
        return {"T_max": steps - self.warmup, "eta_min": self.floor}

    def drops(self, steps: int) -> list[int]:
        return [self.warmup + 1]
