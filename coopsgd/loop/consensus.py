"""How far apart the workers are, at a moment that all algorithms have: when they communicate.

Right after averaging all models are equal, whatever tau is, and one step later they are not: what a log line finds says in
which phase of a round it was written. So the distance is taken when the models of the latest communication that has come were
sent, after the last of the local steps that it mixes, and again when it is over.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

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
        accuracies_of: Callable[[Tensor], list[list[float]] | None],
    ) -> None:
        self._aside, self._next_evaluation, self._accuracies_of = aside, next_evaluation, accuracies_of
        self.phase = 0  # local steps since the models were mixed, or began
        self._any = False  # has there been one?
        self._before = Distances()
        self._after: float | None = None
        self._accuracies: list[list[float]] | None = None
        # of the one that began: is it looked at? what was found when it was sent
        self._sent = NOT_LOOKED_AT

    def saved(self) -> dict[str, Any]:
        """What the lines to come depend on (loop/saved.py)."""
        looked, before, accuracies = self._sent

        def rows(found: list[list[float]] | None) -> ByRow | None:
            return None if found is None else ByRow([torch.tensor(found, dtype=torch.float64)])

        return {
            "phase": self.phase,
            "any": self._any,
            "before": tuple(self._before),
            "after": self._after,
            "accuracies": rows(self._accuracies),
            "sent": (looked, tuple(before), rows(accuracies)),
        }

    def restore(self, tree: dict[str, Any]) -> None:
        self.phase, self._any, self._after = (tree[name] for name in ("phase", "any", "after"))
        looked, before, accuracies = tree["sent"]
        self._before = Distances.of(tree["before"])
        self._sent = looked, Distances.of(before), None if accuracies is None else accuracies.tolist()
        self._accuracies = None if (found := tree.get("accuracies")) is None else found.tolist()

    def sends(self, loop: Loop, done: int) -> None:
        """One begins; when it is over, `done` steps will have been taken.

        It is measured if an evaluation will be one of it and not of the communication that ends the next round, or if only
        that moment can tell how long the next round is.
        """
        mixes_first = loop.state.postponed is not None
        # of cta an evaluation at `done` is over then
        at = self._next_evaluation(done + mixes_first, None if mixes_first else loop.state.rounds.r + 1)
        evaluated = at == done
        self._sent = NOT_LOOKED_AT
        if evaluated or (ahead := loop.state.rounds.ahead(done)) is None or at < done + ahead:
            with self._aside():
                accuracies = self._accuracies_of(loop.state.x) if evaluated else None
                self._sent = True, distances(loop.fleet, loop.state.x), accuracies

    def received(self, loop: Loop, late: int) -> None:
        """The models are what it made of them, and of the `late` steps since it was sent."""
        self.phase, self._any = late, True
        measured, self._before, self._accuracies = self._sent
        self._after = None
        if measured:
            with self._aside():
                self._after = distance(loop.fleet, loop.state.x)

    def seen(self) -> list[list[float]] | None:
        """Accuracies of each worker held here before the communication that this evaluation falls on; None if on none."""
        found, self._accuracies = self._accuracies, None
        return found

    def values(self, loop: Loop) -> dict[str, float | None]:
        """consensus, consensus_after and, where there are auxiliary models, eval/aux_distance, for an evaluation.

        Before the first communication as it is. While measuring.
        """
        before, after = self._before, self._after
        if loop.state.postponed is not None:
            before, after = distances(loop.fleet, loop.state.x), None
        elif not self._any:
            before = self._before = distances(loop.fleet, loop.state.x)
        found = {"consensus": before.workers, "consensus_after": after}
        return found | ({"eval/aux_distance": before.auxiliary} if loop.fleet.v else {})


AT_ONCE = 1 << 20  # numbers of the rows held here that are looked at together


class Distances(NamedTuple):
    """Squared distances to the workers' mean; None where they were not looked at, or there are no such models."""

    workers: float | None = None
    auxiliary: float | None = None

    @classmethod
    def of(cls, saved: Any) -> Distances:
        """From a checkpoint; earlier ones hold the workers' alone."""
        return cls(*saved) if isinstance(saved, list | tuple) else cls(saved)


NOT_LOOKED_AT: tuple[bool, Distances, list[list[float]] | None] = False, Distances(), None


def distances(fleet: Fleet, x: Tensor) -> Distances:
    """Of the workers, (1/m) sum ||x_i - mean||^2, and of the auxiliary models, (1/v) sum ||z_a - mean||^2.

    mean: the workers'. Summed in float64; 0 for equal rows. An exchange: call it while measuring.
    """
    w, first = len(fleet.workers), fleet.pick(x, 0)
    totals = torch.zeros(1 + (fleet.v > 0), dtype=torch.float64, device=x.device)
    once = fleet.layout.owned(fleet.rank) == fleet.layout.rows(fleet.rank)  # of replicated rows one process tells
    most = max(len(fleet.layout.rows(rank)) for rank in range(fleet.layout.processes))  # every process takes equal parts
    columns = max(1, AT_ONCE // most)  # at a time, so that no second copy of all models is made
    for at in range(0, x.shape[1], columns):
        off = x[:, at : at + columns] - first[:, at : at + columns]
        off -= fleet.even_mean(off)
        totals[0] += off[:w].double().square_().sum()
        if fleet.v and once:
            totals[1] += off[w:].double().square_().sum()
    found = zip(fleet.total(totals.cpu()).tolist(), (fleet.m, fleet.v), strict=False)
    return Distances(*(total / count if math.isfinite(total) else math.nan for total, count in found))


def distance(fleet: Fleet, x: Tensor) -> float:
    """That of the workers alone."""
    apart = distances(fleet, x).workers
    assert apart is not None
    return apart


def finite(fleet: Fleet, *tensors: Tensor) -> bool:
    """Is every number of these finite, on all processes? An exchange: call it while measuring."""
    bad = not all(map(_finite, tensors))
    return not float(fleet.total(torch.tensor([bad], dtype=torch.float64)))


def _finite(x: Tensor) -> bool:
    low, high = x.aminmax() if x.numel() else (x.new_zeros(()),) * 2  # either is nan where any number is
    return math.isfinite(float(low)) and math.isfinite(float(high))
