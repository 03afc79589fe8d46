"""Schedules of the learning rate, as a config chooses them: `schedule=cosine`, `schedule.unit=epoch`.

They import no torch until a run makes one; loop/inner.py moves it, after every step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from coopsgd.optim import below_one, not_negative, positive
from coopsgd.registry import option, register


def _refuse_above(floor: float, rate: float) -> None:
    if floor > rate:
        raise ValueError(f"schedule.floor: the rate falls to it, so it must be at most optim.lr={rate:g}, got {floor:g}")


UNITS = ("step", "epoch", "round")


def times(where: str, value: Any, unit: int) -> Any:
    """So many units in steps. ValueError unless it is a whole number."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{where}: must be whole numbers of at least 1, got {value!r}")
    return value * unit


def _full_rate(optimizer: Any) -> float:
    (group,) = optimizer.param_groups
    return float(group.get("initial_lr", group["lr"]))  # a warm-up that was made before has lowered the rate already


def _by_formula(optimizer: Any, factor: Callable[[int], float]) -> Any:
    """torch's scheduler that multiplies the rate by factor(k), k steps after it began."""
    from torch.optim import lr_scheduler

    return lr_scheduler.LambdaLR(optimizer, factor)


@register("constant", "schedule")
@dataclass(frozen=True)
class Constant:
    """The rate of the optimiser, unchanged; like every schedule it can begin with a warm-up.

    unit: what its numbers are of: steps, epochs or rounds. What a run goes by is its `in_steps`, of which all but rounds are.

    Step k (from 0) of the first `warmup` steps has the share f + (1 - f) (k + 1) / warmup of the rate, f = `warmup_from`:
    the last of them is the first at the full rate (torch LinearLR, then SequentialLR).
    """

    warmup: int = option(0, "in which the rate rises linearly, with every step", unit="schedule.unit")
    warmup_from: float = option(0.0, "of the rate, that it rises from", unit="share")
    unit: Any = option(
        "step",
        "what warm-up, milestones, every, gamma and decay count: step, epoch, round, or so many steps",
        unit="steps",
        type="step, epoch, round or int",
        words=UNITS,
    )

    KIND: ClassVar[str | None] = None
    WATCHES: ClassVar[bool] = False  # is it told of every evaluation?

    def __post_init__(self) -> None:
        whole = isinstance(self.unit, int) and not isinstance(self.unit, bool) and self.unit >= 1
        if not whole and self.unit not in UNITS:
            raise ValueError(f"schedule.unit: must be step, epoch or round, or a whole number of steps, got {self.unit!r}")
        if self.warmup < 0:
            raise ValueError(f"schedule.warmup: must be a whole number of steps, at least 0, got {self.warmup}")
        below_one("schedule.warmup_from", self.warmup_from)

    def in_steps(self, warmup: int) -> Constant:
        """The same with its numbers in steps, where they are not in rounds; warmup: its warm-up in steps."""
        return replace(self, warmup=warmup, unit="step")

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
        if self.unit != "step":
            return InUnits(self, optimizer.param_groups[0])
        parts: list[Any] = []
        if self.warmup:
            first = self.warmup_from + (1 - self.warmup_from) / self.warmup
            parts.append(lr_scheduler.LinearLR(optimizer, start_factor=first, total_iters=self.warmup - 1))
        if (main := self._main(optimizer, arguments)) is not None:
            parts.append(main)
        return lr_scheduler.SequentialLR(optimizer, parts, [self.warmup]) if len(parts) == 2 else parts[0] if parts else None

    def _main(self, optimizer: Any, arguments: dict[str, Any]) -> Any:
        """What moves the rate after the warm-up."""
        from torch.optim import lr_scheduler

        return None if self.KIND is None else getattr(lr_scheduler, self.KIND)(optimizer, **arguments)

    def factor(self, units: int) -> float:
        """What the rate is multiplied by when so many units have passed since the warm-up, for who counts units."""
        return 1.0


class InUnits:
    """A rate that rises with every step of the warm-up and then moves once a unit; in place of a scheduler of torch."""

    def __init__(self, schedule: Constant, group: dict[str, Any]) -> None:
        self._schedule, self._group, self._rate = schedule, group, group["lr"]
        self.last_epoch = 0  # steps so far, by torch's name
        self.units = 0  # that are over since the warm-up
        self._set()

    def move(self, ended: bool) -> None:
        """A step is over, and with it a round or not."""
        self.last_epoch += 1
        unit, after = self._schedule.unit, self.last_epoch - self._schedule.warmup
        if after > 0 and (ended if unit == "round" else after % unit == 0):
            self.units += 1
        self._set()

    def _set(self) -> None:
        self._group["lr"] = self._rate * self._share()

    def _share(self) -> float:
        """Of the rate, for the coming step."""
        w, f, k = self._schedule.warmup, self._schedule.warmup_from, self.last_epoch
        return f + (1 - f) * (k + 1) / w if k < w else self._schedule.factor(self.units)


@register("step", "schedule")
@dataclass(frozen=True)
class StepDecay(Constant):
    """The rate times gamma every `every` steps after the warm-up (torch StepLR); every auto: a third of them."""

    every: Any = option("auto", "between two drops; auto: a third of the run", unit="schedule.unit", type="int or auto")
    gamma: float = option(0.1, "what the rate is multiplied by at a drop", unit="")

    KIND: ClassVar[str | None] = "StepLR"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("schedule.gamma", self.gamma)

    def arguments(self, steps: int) -> dict[str, Any]:
        super().arguments(steps)
        every = max(1, (steps - self.warmup) // 3) if self.every == "auto" else self.every
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"schedule.every: must be auto or a whole number of at least 1, got {self.every!r}")
        return {"step_size": every, "gamma": self.gamma}

    def in_steps(self, warmup: int) -> Constant:
        if self.every == "auto" or isinstance(self.unit, str):
            return super().in_steps(warmup) if self.every == "auto" or self.unit == "step" else replace(self, warmup=warmup)
        return replace(self, warmup=warmup, every=times("schedule.every", self.every, self.unit), unit="step")

    def factor(self, units: int) -> float:
        return float(self.gamma ** (units // self.every))

    def drops(self, steps: int) -> list[int] | None:
        return [self.warmup + self.arguments(steps)["step_size"]] if self.unit == "step" else None


@register("multistep", "schedule")
@dataclass(frozen=True)
class MultiStep(Constant):
    """The rate times gamma at each of the `milestones`, in steps from the start of the run (torch MultiStepLR)."""

    milestones: list[int] = option([], "at which the rate drops, as in [500,750]", unit="schedule.unit")
    gamma: float = option(0.1, "what the rate is multiplied by at a drop", unit="")

    KIND: ClassVar[str | None] = "MultiStepLR"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("schedule.gamma", self.gamma)

    def in_steps(self, warmup: int) -> Constant:
        if self.unit == "step":
            return super().in_steps(warmup)
        counts = "rounds" if self.unit == "round" else f"times {self.unit} steps"
        self._refuse(counts)
        if self.unit == "round":  # counted from the end of the warm-up on
            return replace(self, warmup=warmup, milestones=[k - self.warmup for k in self.milestones])
        return replace(
            self, warmup=warmup, milestones=[times("schedule.milestones", k, self.unit) for k in self.milestones], unit="step"
        )

    def _refuse(self, counts: str) -> None:
        """ValueError unless its milestones are, and come after the warm-up."""
        if not self.milestones:
            raise ValueError(
                f"schedule.milestones: name the {counts} at which the rate drops, as in schedule.milestones=[500,750]"
            )
        if any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in self.milestones):
            raise ValueError(f"schedule.milestones: must list whole numbers of at least 1, got {self.milestones}")
        if min(self.milestones) <= self.warmup:
            raise ValueError(f"schedule.milestones: {min(self.milestones)} lies within the warm-up of {self.warmup} {counts}")

    def factor(self, units: int) -> float:
        return float(self.gamma ** sum(k <= units for k in self.milestones))

    def arguments(self, steps: int) -> dict[str, Any]:
        super().arguments(steps)
        if self.unit != "step":
            return {}
        self._refuse("steps")
        return {"milestones": [k - self.warmup for k in self.milestones], "gamma": self.gamma}

    def drops(self, steps: int) -> list[int] | None:
        return sorted(self.milestones) if self.unit == "step" else None


@dataclass(frozen=True)
class _ToFloor(Constant):
    """A rate that falls from the end of the warm-up to the end of the run."""

    floor: float = option(0.0, "what the rate falls to", unit="")

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative("schedule.floor", self.floor)

    def check(self, rate: float, steps: int) -> None:
        super().check(rate, steps)
        _refuse_above(self.floor, rate)

    def drops(self, steps: int) -> list[int]:
        return [self.warmup + 1]


@register("cosine", "schedule")
@dataclass(frozen=True)
class Cosine(_ToFloor):
    """The rate falls, after the warm-up, along half a cosine to `floor` at the end of the run (torch CosineAnnealingLR)."""

    KIND: ClassVar[str | None] = "CosineAnnealingLR"

    def arguments(self, steps: int) -> dict[str, Any]:
        super().arguments(steps)
        return {"T_max": steps - self.warmup, "eta_min": self.floor}


@register("linear", "schedule")
@dataclass(frozen=True)
class Linear(_ToFloor):
    """The rate falls, after the warm-up, along a straight line to `floor` at the end of the run (torch PolynomialLR, for 0)."""

    def arguments(self, steps: int) -> dict[str, Any]:
        super().arguments(steps)
        return {"total": steps - self.warmup}

    def _main(self, optimizer: Any, arguments: dict[str, Any]) -> Any:
        rate, total = _full_rate(optimizer), max(1, arguments["total"])
        end = self.floor / rate
        return _by_formula(optimizer, lambda k: end + (1 - end) * max(0.0, 1 - k / total))


@dataclass(frozen=True)
class _EachUnit(Constant):
    """A rate that moves with every unit after the warm-up."""

    def in_steps(self, warmup: int) -> Constant:
        return replace(self, warmup=warmup, unit="step" if self.unit == 1 else self.unit)

    def _main(self, optimizer: Any, arguments: dict[str, Any]) -> Any:
        return _by_formula(optimizer, self.factor)

    def drops(self, steps: int) -> list[int] | None:
        return None if self.unit == "round" else [self.warmup + (1 if self.unit == "step" else int(self.unit))]


@register("exponential", "schedule")
@dataclass(frozen=True)
class Exponential(_EachUnit):
    """The rate times gamma after every unit that follows the warm-up (torch ExponentialLR, stepped once a unit)."""

    gamma: float = option(0.99, "what the rate is multiplied by after each unit", unit="")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.gamma < 1:
            raise ValueError(f"schedule.gamma: must lie in (0, 1), got {self.gamma}")

    def factor(self, units: int) -> float:
        return float(self.gamma**units)


@register("inverse", "schedule")
@dataclass(frozen=True)
class Inverse(_EachUnit):
    """The rate divided by (1 + decay n)^power, n units after the warm-up: 1 / t, or 1 / sqrt(t) for power = 0.5."""

    decay: float = option(0.01, "the rate is divided by 1 + decay times the units since the warm-up", unit="")
    power: float = option(1.0, "of that divisor; 0.5: the inverse square root", unit="")

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("schedule.decay", self.decay)
        positive("schedule.power", self.power)

    def factor(self, units: int) -> float:
        return float((1 + self.decay * units) ** -self.power)


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
        below_one("schedule.threshold", self.threshold)
        not_negative("schedule.floor", self.floor)

    def check(self, rate: float, steps: int) -> None:
        super().check(rate, steps)
        _refuse_above(self.floor, rate)

    def torch(self, optimizer: Any, steps: int) -> Any:
        self.arguments(steps)
        return OnPlateau(self, optimizer.param_groups[0])


class OnPlateau(InUnits):
    """A plateau's rate: it is told of every evaluation."""

    def __init__(self, schedule: Plateau, group: dict[str, Any]) -> None:
        self.best: float | None = None  # the lowest loss
        self.waited = 0  # evaluations since
        self.fallen = 1.0  # what the rate is multiplied by
        self._plateau = schedule
        super().__init__(replace(schedule, unit=1), group)

    def heard(self, loss: float) -> None:
        """An evaluation, after the step before the coming one."""
        if self.last_epoch < self._plateau.warmup:
            return
        if self.best is None or loss < self.best - self._plateau.threshold * abs(self.best):
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > self._plateau.patience:
            self.fallen, self.waited = self.fallen * self._plateau.gamma, 0
            self._set()

    def _set(self) -> None:
        floor = self._plateau.floor if self.last_epoch >= self._plateau.warmup else 0.0
        self._group["lr"] = max(self._rate * self._share() * self.fallen, floor)
