"""Steps taken together with the communications between them, in one call, for as long as nobody looks (fleet/together.py).

The loop then goes through these iterations as through any others, charges what each has sent and tells who observes it; the
models are ahead of it meanwhile, as with other fused steps (loop/stepping.py). So this is for algorithms that do nothing but
mix by a matrix, or average gradients for a plain step, and for tasks whose steps compiled code can take.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from torch import Tensor

from coopsgd.loop.stepping import AHEAD

if TYPE_CHECKING:
    import numpy as np

    from coopsgd.fleet.together import Together
    from coopsgd.loop.loop import Loop


class Ahead:
    """Of a loop that has begun: takes its steps, and says of each whether its communication is done."""

    def __init__(self, loop: Loop, together: Together, averages: bool) -> None:
        """averages: gradients, in every step; else models are mixed by the schedule's matrices."""
        self._loop, self._together, self._averages = loop, together, averages
        self._charges: deque[tuple[bool, Any]] = deque()  # of the steps ahead: is its communication done? its plan

    @staticmethod
    def of(loop: Loop, averages: bool, mixes: bool) -> Ahead | None:
        """For a loop that averages gradients, or mixes models, and does nothing else; None where it does neither, or cannot."""
        st, steps = loop.state, loop.steps
        learns = getattr(steps.problem, "learns_by_itself", False) and st.stats is None and isinstance(st.x, Tensor)
        if not learns or not (averages or mixes):
            return None
        together = loop.fleet.together(steps.grad if averages else st.x)
        return None if together is None else Ahead(loop, together, averages)

    def take(self, k: int, own: np.ndarray) -> None:
        """Take step k, of workers that have taken `own` each, and those that can be taken with it.

        Nothing happens where steps are ahead already, or no communication could be with them.
        """
        loop, inner = self._loop, self._loop.state.inner
        if loop.steps.ahead:
            return
        rates = inner.rates(AHEAD)
        charges, kernels = self._coming(k, len(rates))
        if not any(done for done, _ in charges):
            return
        step = None if inner.plain else inner.sgd_step()
        learning = loop.steps.problem.learning(rates[: len(charges)], own, step, stored=self._averages)
        self._together(learning, k, None if self._averages else kernels)
        loop.fleet.step = k
        loop.steps.took(learning.losses)
        self._charges.extend(charges)

    def _coming(self, k: int, most: int) -> tuple[list[tuple[bool, Any]], list[Any]]:
        """Of the steps that can be taken at once, k the first: is a communication done with it, by which plan; what mixes."""
        loop, found, kernels = self._loop, list[tuple[bool, Any]](), list[Any]()
        fleet, st, schedule = loop.fleet, loop.state, loop.strategy.schedule
        for j, r in enumerate(st.rounds.coming(k, most)):
            if r is None and self._averages:
                break
            seen, due = loop.observer.due(k + j + 1, None if r is None else r + 1), r is not None
            done, plan, kernel = self._averages, None, None
            if r is not None and not seen and not self._averages and schedule is not None:
                W: Any = schedule.at(fleet.m, r)
                factors = getattr(W, "factors", (W,))
                plan = fleet.planned(factors[0], st.x) if len(factors) == 1 else None
                kernel = None if plan is None else self._together.kernel(plan.lowered)
                done = kernel is not None
            found.append((done, plan))
            kernels.append(kernel)
            if seen or (due and not done):  # its communication is the loop's
                break
        return found, kernels

    def over(self) -> tuple[bool, Any]:
        """Of the step that the loop is at: is its communication done, and by which plan?"""
        return self._charges.popleft() if self._charges else (False, None)
