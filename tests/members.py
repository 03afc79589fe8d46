"""What users bring along: a schedule as a function, a mixing as a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from coopsgd import Strategy
from coopsgd.mixing.static import Average


def one_peer(m: int, r: int) -> np.ndarray:
    W = np.eye(m) / 2
    for i in range(m):
        W[i, (i - 2 ** (r % 3)) % m] += 1 / 2
    return W


def wrong_at_17(m: int, r: int) -> np.ndarray:
    return np.full((m, m), 1 / m if r != 17 else 1.0)


@dataclass(frozen=True)
class Unequal(Average):
    """Worker 0 takes one step a round, the others five."""

    def work(self, m: int, r: int, tau: int) -> np.ndarray:
        return np.array([1] + [5] * (m - 1))


@dataclass(frozen=True)
class Leader(Strategy):
    """All go on from the model of one worker, another each time."""

    def send(self, fleet: Any, t: Any, x: Any, s: Any) -> Any:
        return fleet.later(fleet.pick, x, t.round % fleet.m)


def leaves(m: int, r: int) -> Any:
    """Ends the process."""
    raise SystemExit(3)


def negative_at(when: int, m: int, r: int) -> np.ndarray:
    """Averages, and once overshoots."""
    J = np.full((m, m), 1 / m)
    return 2 * np.eye(m) - J if r == when else J


def negative_at_900(m: int, r: int) -> np.ndarray:
    return negative_at(900, m, r)


def negative_at_1100(m: int, r: int) -> np.ndarray:
    return negative_at(1100, m, r)
