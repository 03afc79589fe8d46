"""Inner optimisers and schedules of the rate, as a config chooses them: `optim=sgd`, `schedule=cosine`.

They import no torch; loop/inner.py puts them to work on the rows of one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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


def _refuse_above(floor: float, rate: float) -> None:
    if floor > rate:
        raise ValueError(f"schedule.floor: the rate falls to it, so it must be at most optim.lr={rate:g}, got {floor:g}")


UNITS = ("step", "epoch", "round")


@register("constant", "schedule")
@dataclass(frozen=True)
class Constant:
    """The rate of the optimiser, unchanged; like every schedule it can begin with a warm-up.

    Every schedule counts in units, and the rate moves when one is over, as torch's scheduler does that is stepped once a unit:
    after every step, epoch (a number of steps that is known before) or round.

    Unit n (from 0) of the first `warmup` has the share f + (1 - f) (n + 1) / warmup of the rate, f = `warmup_from`:
    the last of them is the first at the full rate (torch LinearLR, then SequentialLR).

    `length` is that of the run, in units; None where only the run can tell how many rounds it has.
    """

    warmup: int = option(0, "in which the rate rises linearly", unit="schedule.unit")
    warmup_from: float = option(0.0, "of the rate, that it rises from", unit="share")
    unit: Any = option(
        "step",
        "what warm-up and milestones count, and how often the rate moves: step, epoch, round, or so many steps",
        unit="steps",
        type="step, epoch, round or int",
    )

    KIND: ClassVar[str | None] = None
    WATCHES: ClassVar[bool] = False  # is it told of every evaluation?

    def __post_init__(self) -> None:
        whole = isinstance(self.unit, int) and not isinstance(self.unit, bool) and self.unit >= 1
        if not whole and self.unit not in UNITS:
            raise ValueError(f"schedule.unit: must be step, epoch or round, or a whole number of steps, got {self.unit!r}")
        if self.warmup < 0:
            raise ValueError(f"schedule.warmup: must be a whole number of steps, at least 0, got {self.warmup}")
        _share("schedule.warmup_from", self.warmup_from)

    @property
    def moves_every(self) -> int | None:
        """Steps of a unit; None for rounds. Of an epoch it is in the config that was checked."""
        return {"step": 1, "epoch": 1, "round": None}[self.unit] if isinstance(self.unit, str) else int(self.unit)

    @property
    def counts(self) -> str:
        """What its numbers are of, in words."""
        return {"step": "steps", "epoch": "epochs", "round": "rounds"}.get(self.unit, f"times {self.unit} steps")

    def check(self, rate: float, length: int | None) -> None:
        """ValueError when it cannot move this rate over such a run."""
        self.arguments(length)

    def arguments(self, length: int | None) -> dict[str, Any]:
        """What the part after the warm-up is made with, as keyword arguments of its torch scheduler if it has one."""
        if self.warmup and length is not None and self.warmup >= length:
            raise ValueError(f"schedule.warmup: {self.warmup} {self.counts} leave nothing of a run of {length}; lower it")
        return {}

    def drops(self, length: int) -> list[int] | None:
        """From which units on the rate is lower than before, the first of them at least; None: it does not say."""
        return None

    def torch(self, optimizer: Any, length: int | None) -> Any:
        """The scheduler for such a run, to be stepped once a unit; None for a rate that stays."""
        from torch.optim import lr_scheduler

        arguments, parts = self.arguments(length), list[Any]()
        if self.warmup:
            first = self.warmup_from + (1 - self.warmup_from) / self.warmup
            parts.append(lr_scheduler.LinearLR(optimizer, start_factor=first, total_iters=self.warmup - 1))
        if (main := self._after_warmup(optimizer, arguments)) is not None:
            parts.append(main)
        return lr_scheduler.SequentialLR(optimizer, parts, [self.warmup]) if len(parts) == 2 else parts[0] if parts else None

    def _after_warmup(self, optimizer: Any, arguments: dict[str, Any]) -> Any:
        from torch.optim import lr_scheduler

        return None if self.KIND is None else getattr(lr_scheduler, self.KIND)(optimizer, **arguments)

    def _rest(self, length: int | None) -> int:
        """Units after the warm-up. ValueError where the run does not know how many it has."""
        if length is None:
            raise ValueError(
                "schedule.unit: this schedule depends on how many rounds the run has, which is decided as it runs; use "
                "schedule.unit=step or epoch"
            )
        return length - self.warmup


@register("step", "schedule")
@dataclass(frozen=True)
class StepDecay(Constant):
    """The rate times gamma every `every` units after the warm-up (torch StepLR); every auto: a third of them."""

    every: Any = option("auto", "between two drops; auto: a third of the run", unit="schedule.unit", type="int or auto")
    gamma: float = option(0.1, "what the rate is multiplied by at a drop", unit="")

    KIND: ClassVar[str | None] = "StepLR"

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("schedule.gamma", self.gamma)

    def arguments(self, length: int | None) -> dict[str, Any]:
        super().arguments(length)
        every = max(1, self._rest(length) // 3) if self.every == "auto" else self.every
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"schedule.every: must be auto or a whole number of at least 1, got {self.every!r}")
        return {"step_size": every, "gamma": self.gamma}

    def drops(self, length: int) -> list[int]:
        return [self.warmup + self.arguments(length)["step_size"]]


@register("multistep", "schedule")
@dataclass(frozen=True)
class MultiStep(Constant):
    """The rate times gamma at each of the `milestones`, in units from the start of the run (torch MultiStepLR)."""

    milestones: list[int] = option([], "at which the rate drops, as in [500,750]", unit="schedule.unit")
    gamma: float = option(0.1, "what the rate is multiplied by at a drop", unit="")

    KIND: ClassVar[str | None] = "MultiStepLR"

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("schedule.gamma", self.gamma)

    def arguments(self, length: int | None) -> dict[str, Any]:
        if not self.milestones:
            raise ValueError(
                f"schedule.milestones: name the {self.counts} at which the rate drops, as in schedule.milestones=[500,750]"
            )
        if any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in self.milestones):
            raise ValueError(f"schedule.milestones: must list whole numbers of at least 1, got {self.milestones}")
        super().arguments(length)
        if min(self.milestones) <= self.warmup:
            raise ValueError(
                f"schedule.milestones: {min(self.milestones)} lies within the warm-up of {self.warmup} {self.counts}"
            )
        return {"milestones": [k - self.warmup for k in self.milestones], "gamma": self.gamma}

    def drops(self, length: int) -> list[int]:
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

    def check(self, rate: float, length: int | None) -> None:
        super().check(rate, length)
        _refuse_above(self.floor, rate)

    def arguments(self, length: int | None) -> dict[str, Any]:
        super().arguments(length)
        return {"T_max": self._rest(length), "eta_min": self.floor}

    def drops(self, length: int) -> list[int]:
        return [self.warmup + 1]


@register("exponential", "schedule")
@dataclass(frozen=True)
class Exponential(Constant):
    """The rate times gamma after every unit that follows the warm-up (torch ExponentialLR)."""

    gamma: float = option(0.99, "what the rate is multiplied by after each unit", unit="")

    KIND: ClassVar[str | None] = "ExponentialLR"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.gamma <= 1:
            raise ValueError(f"schedule.gamma: must lie in (0, 1], got {self.gamma}")

    def arguments(self, length: int | None) -> dict[str, Any]:
        super().arguments(length)
        return {"gamma": self.gamma}

    def drops(self, length: int) -> list[int]:
        return [self.warmup + 1] if self.gamma < 1 else []


@dataclass(frozen=True)
class Formula(Constant):
    """The rate times a function of the units since the warm-up (torch LambdaLR)."""

    def _after_warmup(self, optimizer: Any, arguments: dict[str, Any]) -> Any:
        from torch.optim import lr_scheduler

        (group,) = optimizer.param_groups
        rate = group.get("initial_lr", group["lr"])  # a warm-up that was made before has lowered the rate already
        return lr_scheduler.LambdaLR(optimizer, self._factor(rate, **arguments))

    def _factor(self, rate: float, **arguments: Any) -> Callable[[int], float]:
        """What the rate is multiplied by n units after the warm-up."""
        raise NotImplementedError

    def drops(self, length: int) -> list[int]:
        return [self.warmup + 1]


@register("linear", "schedule")
@dataclass(frozen=True)
class Linear(Formula):
    """The rate falls, after the warm-up, along a straight line to `floor` at the end of the run (torch PolynomialLR for 0)."""

    floor: float = option(0.0, "what the rate falls to", unit="")

    def __post_init__(self) -> None:
        super().__post_init__()
        _not_negative("schedule.floor", self.floor)

    def check(self, rate: float, length: int | None) -> None:
        super().check(rate, length)
        _refuse_above(self.floor, rate)

    def arguments(self, length: int | None) -> dict[str, Any]:
        super().arguments(length)
        return {"total": self._rest(length)}

    def _factor(self, rate: float, **arguments: Any) -> Callable[[int], float]:
        end, total = self.floor / rate, max(1, arguments["total"])
        return lambda n: end + (1 - end) * max(0.0, 1 - n / total)


@register("inverse", "schedule")
@dataclass(frozen=True)
class Inverse(Formula):
    """The rate divided by (1 + decay n)^power, n units after the warm-up: 1 / t, or 1 / sqrt(t) for power = 0.5."""

    decay: float = option(0.01, "the rate is divided by 1 + decay times the units since the warm-up", unit="")
    power: float = option(1.0, "of that divisor; 0.5: the inverse square root", unit="")

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("schedule.decay", self.decay)
        _positive("schedule.power", self.power)

    def _factor(self, rate: float, **arguments: Any) -> Callable[[int], float]:
        return lambda n: (1 + self.decay * n) ** -self.power


@register("plateau", "schedule")
@dataclass(frozen=True)
class Plateau(Constant):
    """The rate times gamma when more than `patience` evaluations in a row have not lowered eval/loss (torch ReduceLROnPlateau).

    An evaluation lowers it when it is below the lowest by more than the share `threshold` of it. Those of eval_every count,
    without those of the warm-up, the one at the start, and one at the end alone. What was seen is part of the state of the run.
    """

    gamma: float = option(0.1, "what the rate is multiplied by", unit="")
    patience: int = option(10, "without a lower eval/loss that are borne; the next one lowers the rate", unit="evaluations")
    threshold: float = option(1e-4, "of the lowest eval/loss, by which it must be lower", unit="share")
    floor: float = option(0.0, "what the rate falls to at most", unit="")

    WATCHES: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.gamma < 1:
            raise ValueError(f"schedule.gamma: must lie in (0, 1), got {self.gamma}")
        if self.patience < 0:
            raise ValueError(f"schedule.patience: must be a whole number of evaluations, at least 0, got {self.patience}")
        _share("schedule.threshold", self.threshold)
        _not_negative("schedule.floor", self.floor)

    def check(self, rate: float, length: int | None) -> None:
        super().check(rate, length)
        _refuse_above(self.floor, rate)

    def torch(self, optimizer: Any, length: int | None) -> Any:
        self.arguments(length)
        return _Plateau(self, optimizer.param_groups[0])


class _Plateau:
    """A plateau's rate in a group of an optimiser; stepped once a unit, and told of every evaluation."""

    def __init__(self, schedule: Plateau, group: dict[str, Any]) -> None:
        self._schedule, self._group, self._rate = schedule, group, group["lr"]
        self.last_epoch = 0  # units so far, by torch's name
        self.best: float | None = None  # the lowest loss
        self.waited = 0  # evaluations since
        self.factor = 1.0
        self._move()

    def step(self) -> None:
        """A unit is over."""
        self.last_epoch += 1
        self._move()

    def heard(self, loss: float) -> None:
        """An evaluation, after the step before the coming one."""
        if self.last_epoch < self._schedule.warmup:
            return
        if self.best is None or loss < self.best - self._schedule.threshold * abs(self.best):
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > self._schedule.patience:
            self.factor, self.waited = self.factor * self._schedule.gamma, 0
            self._move()

    def _move(self) -> None:
        w, f, n = self._schedule.warmup, self._schedule.warmup_from, self.last_epoch
        rise = f + (1 - f) * (n + 1) / w if n < w else 1.0
        floor = self._schedule.floor if n >= w else 0.0
        self._group["lr"] = max(self._rate * rise * self.factor, floor)
