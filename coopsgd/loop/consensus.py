"""How far apart the workers are, at a moment that all algorithms have: when they communicate.

Right after averaging all models are equal, whatever tau is, and one step later they are not: what a log line finds says in
which phase of a round it was written. So the distance is taken when the models of the latest communication that has come were
sent, after the last of the local steps that it mixes, and again when it is over.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coopsgd.loop.saved import ByRow

if TYPE_CHECKING:
    from coopsgd.fleet.base import Fleet
    from coopsgd.loop.loop import Loop


class Communications:
    """The latest communication of a run, as the rows x (r, d) were before and after it.

    aside: a context in which looking is neither charged nor timed. next_evaluation(k, r): after how many steps, k or more,
    there is one; r rounds end after k steps, or none does. accuracies_of: what is wanted of the rows, before they are mixed,
    when an evaluation falls on a communication.
    """

    def __init__(
        self,
        aside: Callable[[], AbstractContextManager[None]],
        next_evaluation: Callable[[int, int | None], int],
        accuracies_of: Callable[[Tensor], list[float] | None],
    ) -> None:
        self._aside, self._next_evaluation, self._accuracies_of = aside, next_evaluation, accuracies_of
        self.phase = 0  # local steps since the models were mixed, or began
        self._any = False  # has there been one?
        self._before: float | None = None
        self._after: float | None = None
        self._accuracies: list[float] | None = None
        # of the one that began: is it looked at? what was found when it was sent
        self._sent: tuple[bool, float | None, list[float] | None] = False, None, None

    def saved(self) -> dict[str, Any]:
        """What the lines to come depend on (loop/saved.py)."""
        looked, before, accuracies = self._sent
        return {
            "phase": self.phase,
            "any": self._any,
            "before": self._before,
            "after": self._after,
            "sent": (looked, before, None if accuracies is None else ByRow([torch.tensor(accuracies, dtype=torch.float64)])),
        }

    def restore(self, tree: dict[str, Any]) -> None:
        self.phase, self._any, self._before, self._after = (tree[name] for name in ("phase", "any", "before", "after"))
        looked, before, accuracies = tree["sent"]
        self._sent = looked, before, None if accuracies is None else accuracies.tolist()

    def sends(self, loop: Loop, done: int) -> None:
        """One begins; when it is over, `done` steps will have been taken.

        It is measured if an evaluation will be one of it and not of the communication that ends the next round, or if only
        that moment can tell how long the next round is.
        """
        mixes_first = loop.state.postponed is not None
        # of cta an evaluation at `done` is over then
        at = self._next_evaluation(done + mixes_first, None if mixes_first else loop.state.rounds.r + 1)
        evaluated = at == done
        self._sent = False, None, None
        if evaluated or (ahead := loop.state.rounds.ahead(done)) is None or at < done + ahead:
            with self._aside():
                accuracies = self._accuracies_of(loop.state.x) if evaluated else None
                self._sent = True, distance(loop.fleet, loop.state.x), accuracies

    def received(self, loop: Loop, late: int) -> None:
        """The models are what it made of them, and of the `late` steps since it was sent."""
        self.phase, self._any = late, True
        measured, self._before, self._accuracies = self._sent
        self._after = None
        if measured:
            with self._aside():
                self._after = distance(loop.fleet, loop.state.x)

    def seen(self) -> list[float] | None:
        """Accuracies of the workers held here before the communication that this evaluation falls on; None if on none."""
        found, self._accuracies = self._accuracies, None
        return found

    def values(self, loop: Loop) -> dict[str, float | None]:
        """consensus and consensus_after, for an evaluation; before the first communication as it is. While measuring."""
        if loop.state.postponed is not None:
            return {"consensus": distance(loop.fleet, loop.state.x), "consensus_after": None}
        if not self._any:
            self._before = distance(loop.fleet, loop.state.x)
        return {"consensus": self._before, "consensus_after": self._after}


def distance(fleet: Fleet, x: Tensor) -> float:
    """(1/m) sum over workers of ||x_i - mean||^2, summed in float64; 0 for equal rows. An exchange: call it while measuring."""
    mine, first = x[: len(fleet.workers)], fleet.pick(x, 0)
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    columns = max(1, (1 << 20) // len(x))  # at a time, so that no second copy of all models is made
    for at in range(0, x.shape[1], columns):
        off = x[:, at : at + columns] - first[:, at : at + columns]
        off -= fleet.mean(off)
        total += off[: len(mine)].double().square_().sum()
    found = float(fleet.total(total.cpu().reshape(1)))
    return found / fleet.m if math.isfinite(found) else math.nan


def finite(fleet: Fleet, *tensors: Tensor) -> bool:
    """Is every number of these finite, on all processes? An exchange: call it while measuring."""
    bad = not all(map(_finite, tensors))
    return not float(fleet.total(torch.tensor([bad], dtype=torch.float64)))


def _finite(x: Tensor) -> bool:
    low, high = x.aminmax() if x.numel() else (x.new_zeros(()),) * 2  # either is nan where any number is
    return math.isfinite(float(low)) and math.isfinite(float(high))
