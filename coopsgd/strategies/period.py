"""When a communication is due. Not part of any algorithm: every one can be run with every period.

A period answers, at the start of a round, how many local steps it has: only there, so that all workers always agree on it. It
is frozen; what it remembers is a state it returns. loop/rounds.py counts the steps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from coopsgd.mixing.base import is_number
from coopsgd.registry import of_run, option, register
from coopsgd.setup.values import length_of

if TYPE_CHECKING:
    import numpy as np

    from coopsgd.mixing.base import Mixing
    from coopsgd.setup.schema import Config


@register("constant", "period")
@dataclass(frozen=True)
class Period:
    """tau as it is given: one number, or a list [[0, 1], [500, 8]] of (from step, tau), looked up at the start of a round.

    tau: iterations; ValueError unless it is a whole number of at least 1, or such a list that begins at step 0.
    """

    tau: Any = of_run("tau", 1)

    WATCHES: ClassVar[bool] = False  # does it ask for the loss?

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "next" in cls.__dict__:  # what could be foreseen of the parent's rule need not be of its own
            for name in ("foreseen", "largest", "smallest"):
                if name not in cls.__dict__:
                    setattr(cls, name, property(_UNFORESEEN[name]))
            if "at_most" not in cls.__dict__:
                cls.at_most = Period.at_most  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        if not isinstance(self.tau, list):
            _whole("tau", self.tau, ", or a list as in tau=[[0,1],[500,8]], unquoted")
            return
        if not self.tau or not all(isinstance(pair, list) and len(pair) == 2 for pair in self.tau):
            raise ValueError(f"tau: a list must hold pairs [from step, tau], as in tau=[[0,1],[500,8]], got {self.tau}")
        for _, tau in self.tau:
            _whole("tau", tau)
        starts = [start for start, _ in self.tau]
        if (
            any(isinstance(s, bool) or not isinstance(s, int) for s in starts)
            or starts != sorted(set(starts))
            or starts[0] != 0
        ):
            raise ValueError(f"tau: the steps of a list must be whole numbers that begin at 0 and rise, got {starts}")

    @property
    def base(self) -> int:
        """The tau a rule starts from."""
        if isinstance(self.tau, list):
            raise ValueError(
                f"tau: this period moves tau by itself and starts from one number, got {self.tau}; use period=constant"
            )
        return int(self.tau)

    def check(self, config: Config) -> None:
        """ValueError when it cannot work in a run of this config."""

    @property
    def foreseen(self) -> bool:
        """Is tau known without running, from the step alone?"""
        return True

    @property
    def largest(self) -> int | None:
        """The largest tau there will be, as far as it is known without running; None: only a run can say."""
        return max(tau for _, tau in self.tau) if isinstance(self.tau, list) else self.tau

    @property
    def smallest(self) -> int | None:
        """The smallest tau that can be foreseen; None: only a run can say."""
        return min(tau for _, tau in self.tau) if isinstance(self.tau, list) else self.tau

    def at_most(self, s: Any, k: int) -> int | None:
        """The largest that `next` may answer for step k, known before it begins; None: not known yet."""
        return self.next(s, k, math.nan, unknown, unknown)[0] if self.foreseen else None

    def next(self, s: Any, k: int, lr: float, loss: Callable[[], float], now: Callable[[], float]) -> tuple[int, Any]:
        """Local steps of the round that begins at step k with rate lr, and the state; s is None at first.

        loss() is the mean over workers and over the steps since it was last asked: a message, so ask only when needed.
        now() is the time on the cluster's clock, in seconds, the same on every process.
        """
        if isinstance(self.tau, list):
            return next(tau for start, tau in reversed(self.tau) if start <= k), s
        return self.tau, s


def ends(period: Period, schedule: Mixing | None, m: int) -> Iterator[int]:
    """After which step each round ends, for a period that is foreseen; schedule: says who takes how many of its steps."""
    k, r, state = 0, 0, None
    while True:
        tau, state = period.next(state, k, math.nan, unknown, unknown)
        k += length_of_round(None if schedule is None else schedule.work(m, r, tau), tau)
        r += 1
        yield k


def length_of_round(work: np.ndarray | None, tau: int) -> int:
    """Steps of a round: of the worker that takes most."""
    return tau if work is None else max(1, int(work.max()))


_UNFORESEEN: dict[str, Callable[[Any], Any]] = {
    "foreseen": lambda self: False,
    "largest": lambda self: None,
    "smallest": lambda self: None,
}


def _whole(name: str, value: Any, other: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: must be a whole number of at least 1{other}, got {value!r}")


@dataclass(frozen=True)
class Rule(Period):
    """A period that moves tau by itself, from one number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.tau, list):
            raise ValueError(
                f"tau: this period moves tau by itself and starts from one number, got {self.tau}; or period=constant"
            )


@register("post_local", "period")
@dataclass(frozen=True)
class PostLocal(Rule):
    """tau = 1 until step `switch`, then tau: post-local SGD. switch: auto is the first drop of the rate. arXiv:1808.07217."""

    switch: Any = option(
        "auto",
        "until when tau is 1; or as in 5epochs, 20rounds; auto: the first drop of the learning rate",
        unit="steps",
        type="int or auto",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.switch != "auto":
            _whole("period.switch", self.switch, ", or as in 5epochs or 20rounds")

    def check(self, config: Config) -> None:
        if self.switch == "auto" and (config.schedule or {}).get("name") == "constant":
            raise ValueError("period.switch: auto waits for the rate to drop, which schedule=constant never does; name a step")

    @property
    def foreseen(self) -> bool:
        return self.switch != "auto"

    @property
    def largest(self) -> int | None:
        return self.tau

    @property
    def smallest(self) -> int | None:
        return 1

    def at_most(self, s: Any, k: int) -> int | None:
        return self.tau if self.switch == "auto" or k >= self.switch else 1

    def next(self, s: Any, k: int, lr: float, loss: Callable[[], float], now: Callable[[], float]) -> tuple[int, Any]:
        if self.switch != "auto":
            return (1 if k < self.switch else self.tau), s
        peak, dropped = (lr, False) if s is None else s
        dropped = dropped or lr < peak * (1 - 1e-9)  # a warm-up ends at the full rate but for rounding
        return (self.tau if dropped else 1), (max(peak, lr), dropped)


@register("qsr", "period")
@dataclass(frozen=True)
class QSR(Rule):
    """Quadratic synchronisation rule: max(tau, floor((alpha / lr)^power)), lr at the start of a round. arXiv:2310.14423.

    While the rate warms up tau stays as it is given. A round that reaches beyond the end of the run is not cut short: the run
    then ends unmixed, unlike in the authors' code.
    """

    alpha: float = option(0.1, "tau is at least (alpha / lr) to the power", unit="")
    power: float = option(2.0, "of alpha / lr: 2 is the quadratic rule, 1 the linear one", unit="")
    warmup: int = of_run("warmup", 0)  # steps

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha >= 0 or not self.power > 0:
            raise ValueError(f"period.alpha must not be negative and period.power positive, got {self.alpha} and {self.power}")

    @property
    def smallest(self) -> int | None:
        return self.tau

    def at_most(self, s: Any, k: int) -> int | None:
        return self.tau if k < self.warmup else None  # the rate of that step is not known before it

    def next(self, s: Any, k: int, lr: float, loss: Callable[[], float], now: Callable[[], float]) -> tuple[int, Any]:
        if k < self.warmup:
            return self.tau, s
        try:
            ratio = (self.alpha / lr) ** self.power
        except (ZeroDivisionError, OverflowError):  # a rate of (next to) nothing
            ratio = math.inf
        return max(self.tau, math.floor(min(ratio, 2.0**53) * (1 + 1e-9))), s  # 0.3 / 0.1 is 3


class _Adapted(NamedTuple):
    """What AdaComm remembers."""

    first: float | None  # loss at the start
    lr0: float
    lr: float  # at the last decision
    at: float  # when it was, in steps, rounds or seconds
    tau: int
    rounds: int = 0  # begun since the first was


@register("adacomm", "period")
@dataclass(frozen=True)
class AdaComm(Rule):
    """Communicate rarely at first, more often as the loss falls: ceil(sqrt(lr_0 / lr * F / F_0) * tau). arXiv:1810.08313.

    Decided at the first round that starts `interval` after the last decision: so many steps, rounds, or, as in 60s, seconds
    of the cluster's clock, as the paper has it. F is the minibatch loss, mean over workers and the steps since then, less
    `floor` (F_inf, if known); F_0 that of the first round. When the rule does not lower tau although the rate is unchanged,
    tau is multiplied by gamma (1: never). While the rate warms up tau stays as it is given; all of this begins after it.
    """

    interval: Any = option(
        100,
        "between two decisions; or as in 1epoch, 5rounds, or 60s: seconds on the cluster's clock",
        unit="steps",
        type="int or text",
    )
    gamma: float = option(0.5, "what tau is multiplied by when the rule would not lower it; 1: never", unit="")
    floor: float = option(0.0, "the least loss there is, if known", unit="loss")
    warmup: int = of_run("warmup", 0)  # steps

    WATCHES: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        whole = isinstance(self.interval, int) and is_number(self.interval) and self.interval >= 1
        if not (whole or self._rounds or (self._seconds or 0) > 0):
            raise ValueError(
                "period.interval: must be a whole number of steps, at least 1, or as in 1epoch, 5rounds or 60s, got "
                f"{self.interval!r}"
            )
        if not 0 < self.gamma <= 1:
            raise ValueError(f"period.gamma: must lie in (0, 1], got {self.gamma}")

    @property
    def _rounds(self) -> int | None:
        """The interval in rounds; None when it is in steps or seconds."""
        found = length_of(self.interval)
        return found[0] if found and found[1] == "round" else None

    @property
    def _seconds(self) -> float | None:
        """The interval on the cluster's clock; None when it counts steps."""
        found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*s\s*", self.interval) if isinstance(self.interval, str) else None
        return float(found[1]) if found else None

    def check(self, config: Config) -> None:
        if self._seconds is not None and config.cluster is None:
            raise ValueError(
                f"period.interval: {self.interval} is time on the clock of a cluster, and there is none; name one, as in "
                "cluster=ethernet_1g, or give a number of steps"
            )

    @property
    def smallest(self) -> int | None:
        return self.tau  # where it starts; only the run can tell how far it falls

    def at_most(self, s: Any, k: int) -> int | None:
        if k < self.warmup or s is None:
            return self.tau
        if self._rounds is not None:
            return s.tau if s.rounds + 1 - s.at < self._rounds else None
        return s.tau if self._seconds is None and k - s.at < self.interval else None

    def next(self, s: Any, k: int, lr: float, loss: Callable[[], float], now: Callable[[], float]) -> tuple[int, Any]:
        if k < self.warmup:
            return self.tau, s
        s = None if s is None else s._replace(rounds=s.rounds + 1)
        at, interval = (k, self.interval) if self._seconds is None else (now(), self._seconds)
        if self._rounds is not None:
            at, interval = 0 if s is None else s.rounds, self._rounds
        if s is None:
            if k:
                loss()  # what was seen in the warm-up is no F_0
            return self.tau, _Adapted(None, lr, lr, at, self.tau)
        seen = None
        if s.first is None:
            seen = max(loss() - self.floor, 0.0)
            s = s._replace(first=seen)
        if at - s.at < interval:
            return s.tau, s
        if seen is None:  # else the first round was as long as the interval: there is nothing newer to ask for
            seen = max(loss() - self.floor, 0.0)
        ratio = seen / s.first if s.first > 0 else 1.0
        rate = s.lr0 / lr if lr > 0 else 1.0
        wanted = math.sqrt(rate * ratio) * self.tau if math.isfinite(ratio) else s.tau
        tau = max(1, math.ceil(wanted - 1e-9))
        if tau >= s.tau and lr == s.lr:
            tau = max(1, math.ceil(self.gamma * s.tau))
        return tau, s._replace(lr=lr, at=at, tau=tau)


def unknown() -> float:
    """What only a run can tell."""
    return math.nan
