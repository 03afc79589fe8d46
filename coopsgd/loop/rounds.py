"""Rounds: whose turn it is to take a local step, when a message leaves, and which step a communication follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from coopsgd.strategies.period import Period, length_of_round, unknown

if TYPE_CHECKING:
    from coopsgd.mixing.base import Mixing


class Rounds:
    """Counts local steps: whose turn it is, and which step a communication follows.

    loss, now: see Period.next. rate(lr): the learning rate of all processes, of this one's.
    """

    def __init__(
        self,
        period: Period,
        schedule: Mixing | None,
        m: int,
        loss: Callable[[], float] = unknown,
        now: Callable[[], float] = unknown,
        rate: Callable[[float], float] = float,
    ) -> None:
        self._period, self._schedule, self._m, self._loss, self._now, self._rate = period, schedule, m, loss, now, rate
        self._state: Any = None
        self._work: np.ndarray | None = None
        self._asked: tuple[int, int, np.ndarray | None] | None = None  # the latest answer of schedule.work, and to what
        self._taken = 0  # steps of this round done
        self.r = -1  # the communication the steps lead to, from 0
        self.tau = 0  # local steps of this round, of the worker that takes most
        self.own = np.zeros(m, dtype=np.int64)  # local steps that each worker has taken

    def begin(self, k: int, lr: float) -> None:
        """Before step k: start a round if the last one is over."""
        if self._taken < self.tau:
            return
        rate = lr if self._period.foreseen else self._rate(lr)
        tau, self._state = self._period.next(self._state, k, rate, self._loss, self._now)
        self.r, self._work = self.r + 1, self._worked(self.r + 1, tau)
        self._taken, self.tau = 0, length_of_round(self._work, tau)

    def ahead(self, k: int) -> int | None:
        """So many steps will the next round take at most, which begins at step k; None: nobody can tell yet."""
        tau = self._period.at_most(self._state, k)
        return None if tau is None else length_of_round(self._worked(self.r + 1, tau), tau)

    def _worked(self, r: int, tau: int) -> np.ndarray | None:
        """The schedule's `work`, asked once."""
        if self._schedule is None:
            return None
        if self._asked is None or self._asked[:2] != (r, tau):
            self._asked = r, tau, self._schedule.work(self._m, r, tau)
        return self._asked[2]

    def coming(self, k: int, n: int) -> Iterator[int | None]:
        """Which communication follows each of n steps, k the first, or None; as far as it is foreseen.

        Only for a schedule that does not say who works.
        """
        r, left, state = self.r, self.left, self._state
        for j in range(n):
            left -= 1
            yield None if left else r
            if not left:
                if not self._period.foreseen:
                    return
                r += 1
                left, state = self._period.next(state, k + j + 1, math.nan, unknown, unknown)

    def saved(self) -> dict[str, Any]:
        return {"r": self.r, "tau": self.tau, "taken": self._taken, "own": self.own, "work": self._work, "period": self._state}

    def restore(self, tree: dict[str, Any]) -> None:
        self.r, self.tau, self._taken, self.own = tree["r"], tree["tau"], tree["taken"], tree["own"]
        self._work, self._state = tree["work"], tree["period"]

    @property
    def active(self) -> np.ndarray | None:
        """(m,) bool, who takes the coming step; None when every worker does."""
        if self._work is None:
            return None
        active = self._work > self._taken
        return None if active.all() else active

    @property
    def steady(self) -> int:
        """For how many steps, the coming one first, the same workers compute and nothing is communicated in between."""
        if self._work is None:
            return self.left
        return min([self.left, *(self._work[self._work > self._taken] - self._taken).tolist()])

    @property
    def left(self) -> int:
        """Local steps till the communication, the coming one counted."""
        return self.tau - self._taken

    @property
    def due(self) -> bool:
        """Does a communication follow the coming step?"""
        return self.left == 1

    @property
    def ended(self) -> int | None:
        """Which round, from 1, the step before ended; None when it was not the last of one."""
        return None if self.left else self.r + 1

    def end(self, active: np.ndarray | None) -> None:
        """After a step that `active` took."""
        self._taken += 1
        self.own += 1 if active is None else active
