"""How long a local step takes on each worker, for clusters of given numbers; and numbers with units."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from coopsgd.mixing.base import is_number
from coopsgd.predict.clock.cluster import Cluster
from coopsgd.registry import option
from coopsgd.setup.values import HUGE, TINY
from coopsgd.streams import stream

STEPS = ("constant", "exponential", "pareto")


@dataclass(frozen=True)
class Steps(Cluster):
    """A cluster whose steps take given times.

    step: how long a local step takes, of mean step_s seconds: constant; exponential, a shift and an exponential straggling;
    pareto, with a tail that falls as t^-tail. jitter: the share of the mean that is random. speeds: one number a worker, 0.5
    always takes twice as long.
    """

    step: str = option("constant", "how the time of a local step is spread: constant, exponential, pareto", words=STEPS)
    step_s: float = option(0.01, "mean time of a local step", unit="s")
    jitter: float = option(1.0, "of that time, what is random", unit="share")
    tail: float = option(2.5, "of pareto: above 1, smaller is heavier", unit="")
    speeds: Any = option(None, "a number a worker; 0.5 takes twice as long", unit="", type="list or null")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step not in STEPS:
            raise ValueError(f"cluster.step: must be one of {', '.join(STEPS)}, got {self.step!r}")
        if not 0 <= self.step_s < math.inf:
            raise ValueError(f"cluster.step_s: must be seconds, not negative, got {self.step_s}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"cluster.jitter: a share of the mean, must lie in [0, 1], got {self.jitter}")
        if not self.tail > 1:
            raise ValueError(f"cluster.tail: must be above 1, else a step has no mean, got {self.tail}")
        if self.speeds is not None and not (
            isinstance(self.speeds, list) and self.speeds and all(is_number(s) and 0 < s < math.inf for s in self.speeds)
        ):
            raise ValueError(f"cluster.speeds: must list a positive number a worker, got {self.speeds!r}")

    def check(self, config: Any) -> tuple[str, ...]:
        if self.speeds is not None and len(self.speeds) != (m := config.workers):
            raise ValueError(f"cluster.speeds: names {len(self.speeds)} workers, but workers={m}; give one speed for each")
        return ()

    def step_times(self, m: int, seed: int, k: int) -> np.ndarray:
        times = np.full(m, self.step_s)
        if self.step != "constant":
            draw = stream(seed, "step time", k)
            if self.step == "exponential":
                unit = draw.standard_exponential(m)
            else:
                unit = (1 + draw.pareto(self.tail, m)) * (self.tail - 1) / self.tail
            times *= 1 - self.jitter + self.jitter * unit
        return times if self.speeds is None else times / self.speeds

    def mean_step_times(self, m: int) -> np.ndarray:
        return np.full(m, self.step_s) if self.speeds is None else self.step_s / np.array(self.speeds)

    @property
    def steady(self) -> bool:
        return self.step == "constant" or not self.jitter or not self.step_s

    def _told_steps(self) -> str:
        return f"steps of {self.step_s:g} s, {self.step}" + ("" if self.speeds is None else ", some workers slower")


UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


def bits(value: Any) -> float:
    """Bit/s of a positive number, or of words like "100 Mbit/s". ValueError for anything else."""
    # bit/s or bps, but not B/s: that is eight times as many
    pattern = r"\s*(-?[\d.]+(?:[eE][+-]?\d+)?)\s*([kKmMgGtT]?)(?:[bB]it(?:/s)?|b/s|bps)\s*"
    words = re.fullmatch(pattern, value) if isinstance(value, str) else None
    try:
        speed = float(words[1]) * UNITS[words[2].lower()] if words else float(value) if is_number(value) else math.nan
    except ValueError:
        speed = math.nan
    if not TINY <= speed <= HUGE:
        raise ValueError(f"must be a positive number of bit/s, or as '100 Mbit/s', got {value!r}")
    return speed


def seconds(value: Any) -> float:
    if not is_number(value) or not (value == 0 or TINY <= value <= HUGE):
        raise ValueError(f"must be a number of seconds, not negative, got {value!r}")
    return float(value)
