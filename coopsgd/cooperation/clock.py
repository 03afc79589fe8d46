"""The clock on the wall, where a run has that of a cluster: for a period that counts seconds (`period.interval=60s`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coopsgd.predict.clock.cluster import Cluster


@dataclass(frozen=True)
class RunningProcesses(Cluster):
    """The processes that run, and their own time: nothing is simulated."""

    def describe(self) -> str:
        return "the processes that run"


class WallClock:
    """Seconds since the first step, in this session and those before it: rank 0's, told to all when one asks.

    agreed(seconds): rank 0's, in every process. Nothing that is charged moves it (fleet/timing.py).
    """

    def __init__(self, agreed: Callable[[float], float]) -> None:
        self._agreed, self._began = agreed, time.monotonic()

    @property
    def now(self) -> float:
        """Seconds, the same in every process, which all must ask."""
        return self._agreed(time.monotonic() - self._began)

    def saved(self) -> float:
        return time.monotonic() - self._began

    def restore(self, saved: float) -> None:
        self._began = time.monotonic() - saved

    def begin(self, k: int, active: Any) -> None:
        """Time passes by itself."""

    def compute(self) -> None:
        """Time passes by itself."""

    def average(self) -> None:
        """Time passes by itself."""

    def broadcast(self, i: int) -> None:
        """Time passes by itself."""

    def parts(self, price: Any) -> None:
        """Time passes by itself."""

    def ends(self, parts: Any, nbytes: int) -> None:
        """Time passes by itself."""

    def reach(self, ends: Any) -> None:
        """Time passes by itself."""
