"""How far apart the workers are, at a moment that all algorithms have: when they communicate.

Right after averaging all models are equal, whatever tau is, and one step later they are not: what a log line finds says in
which phase of a round it was written. So the distance is taken *after the last local step before the latest communication*,
and again when that is over. `order=overlap` begins to mix before the last local step of a round, so that is the moment there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from coopsgd.fleet.base import Fleet
    from coopsgd.loop.stepping import Steps
    from coopsgd.strategies.base import Strategy
    from coopsgd.strategies.period import Rounds


class Communications:
    """The latest communication of a run, as the rows x (r, d) were before and after it.

    aside: a context in which looking is neither charged nor timed. next_evaluation(k): after how many steps, k or more, there
    is one. accuracies_of: what is wanted of the rows, before they are mixed, when an evaluation falls on a communication.
    """

    def __init__(
        self,
        fleet: Fleet,
        strategy: Strategy,
        x: Tensor,
        aside: Callable[[], AbstractContextManager[None]],
        next_evaluation: Callable[[int], int],
        accuracies_of: Callable[[Tensor], list[float] | None],
    ) -> None:
        self._fleet, self._x, self._aside = fleet, x, aside
        self._next_evaluation, self._accuracies_of = next_evaluation, accuracies_of
        self._equal, self._mixes_first = strategy.always_equal, strategy.mixes_first
        self.phase = 0  # local steps since the models were mixed, or began
        self._any = self._coming = False  # has there been one; is one due with the next step?
        self._before: float | None = None
        self._after: float | None = None
        self._accuracies: list[float] | None = None
        self._measured = self._evaluated = self._early = False

    def begin(self, done: int, rounds: Rounds, steps: Steps) -> None:
        """One takes place from the coming verb on, or without any; `end` says when it is over.

        done: how many steps will have been taken before the round that follows it. It is measured if an evaluation will be
        one of it and not of the communication that ends that round, or if only that moment can tell how long the round is.
        """
        if self._equal:
            return
        at = self._next_evaluation(done + self._mixes_first)  # one at `done` is over then
        self._evaluated = at == done
        self._measured = self._evaluated or (ahead := rounds.ahead(done)) is None or at < done + ahead
        self._steps, self._fleet.first_verb = steps, self._look

    def _look(self) -> None:
        self._fleet.first_verb, self._early = None, not self._steps.moved
        self._forget()
        if self._measured:
            with self._aside():
                self._before = spread(self._fleet, self._x)
                self._accuracies = self._accuracies_of(self._x) if self._evaluated else None

    def end(self) -> None:
        """The models are what it made of them."""
        if self._equal:
            self._any, self.phase = True, 0
            return
        if self._fleet.first_verb is not None:  # nobody had anything to say
            self._look()
        self.phase, self._coming = int(self._early), False
        if self._measured:
            with self._aside():
                self._after = spread(self._fleet, self._x)

    def owed(self) -> None:
        """One comes when the next step begins: till then the models are what they are before it."""
        self._forget()
        self._coming = True

    def _forget(self) -> None:
        self._any, self._before, self._after, self._accuracies = True, None, None, None

    def seen(self) -> list[float] | None:
        """Accuracies of the workers held here before the communication that this evaluation falls on; None if on none."""
        found, self._accuracies = self._accuracies, None
        return found

    def told(self) -> dict[str, float | None]:
        """consensus and consensus_after, for an evaluation; before the first communication as it is. While measuring."""
        if self._equal:
            return {"consensus": 0.0, "consensus_after": 0.0 if self._any else None}
        if self._coming or not self._any:
            self._before = spread(self._fleet, self._x)
        return {"consensus": self._before, "consensus_after": self._after}


def spread(fleet: Fleet, x: Tensor) -> float:
    """(1/m) sum over workers of ||x_i - mean||^2, summed in float64. Costs an exchange: call it while measuring."""
    mean, mine = fleet.mean(x)[0], x[: len(fleet.workers)]
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    columns = max(1, (1 << 20) // len(mine))  # at a time, so that no second copy of all models is made
    for at in range(0, x.shape[1], columns):
        off = mine[:, at : at + columns] - mean[at : at + columns]
        total += off.double().square_().sum()
    found = float(fleet.total(total.cpu().reshape(1)))
    return found / fleet.m if math.isfinite(found) else math.nan


def finite(fleet: Fleet, x: Tensor) -> bool:
    """Is every number of the rows finite, on all processes? An exchange: call it while measuring."""
    low, high = x.aminmax() if x.numel() else (x.new_zeros(()),) * 2  # either is nan where any number is
    bad = not (math.isfinite(float(low)) and math.isfinite(float(high)))
    return not float(fleet.total(torch.tensor([bad], dtype=torch.float64)))
