"""When a communication is due. Not part of any algorithm: every one can be run with every period."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Period:
    """Constant tau: due after every tau-th local step, so that the first mixing follows exactly tau of them.

    tau: iterations. ValueError unless it is a whole number of at least 1.
    """

    tau: Any = 1

    def __post_init__(self) -> None:
        if isinstance(self.tau, bool) or not isinstance(self.tau, int) or self.tau < 1:
            raise ValueError(f"tau: must be a whole number of at least 1, got {self.tau!r}")

    def due(self, k: int) -> bool:
        """Does a communication follow step k (from 0)?"""
        return (k + 1) % self.tau == 0

    def at(self, k: int) -> int:
        """The tau in force at step k."""
        return self.tau
