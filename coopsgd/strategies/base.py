"""The contract of a strategy: six methods and one fact.

A strategy is frozen; everything that changes lives in the rows x and in its state s, both keyed by global row, so that a run
is the same wherever its rows are. Arithmetic inside a row is plain torch; whatever crosses rows is a verb of the fleet.
Shapes: Rows (r, d), one row a member held in this process, workers first; Common (1, d), one value that all agree on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from coopsgd.mixing.base import Mixing

if TYPE_CHECKING:
    from coopsgd.fleet.base import Common, Fleet, Pending, Rows


@dataclass(frozen=True)
class Tick:
    """Where the run is: what a strategy is given as `t`."""

    k: int  # iteration, from 0
    round: int  # the communication its steps lead to, from 0
    lr: float  # step size of this iteration
    tau: int = 1  # local steps of this round, of the worker that takes most
    late: int = 0  # local steps between what is sent and its answer (delay)


class Strategy:
    """How models move between two gradients. Called by the loop (loop/loop.py), in every process alike, and nowhere else.

    A public method or attribute that is neither here nor a field of the dataclass is refused: a misspelt one would be silent.
    """

    # What it mixes by: v, the matrices and their cycle, zeta, who works, and what is checked are read from here, whatever the
    # class. None: no matrix tells what it does; every worker takes every step, there is no auxiliary model.
    schedule: Mixing | None = None

    def init(self, fleet: Fleet, x: Rows) -> Any:
        """The state to begin with; all rows of x are equal. Once, before the first step; nothing is charged."""
        return ()

    def direction(self, fleet: Fleet, t: Tick, grad: Rows, x: Rows, s: Any) -> tuple[Rows | Common, Any]:
        """What the inner optimiser steps along, and the state. In every iteration, after the gradient and before the step.

        grad: (r, d) at x, 0 on auxiliary and idle rows. Where it is not overridden, steps may be fused with their gradients.
        """
        return grad, s

    def shift(self, fleet: Fleet, t: Tick, x: Rows, s: Any) -> tuple[Rows | Common | None, Any]:
        """What is added to a worker's model after its step, and the state. In every iteration, before a message may leave.

        In units of x, and seen by no inner optimiser; None: nothing. Idle and auxiliary rows do not move. Where it is not
        overridden, steps may be fused with their gradients.
        """
        return None, s

    def send(self, fleet: Fleet, t: Tick, x: Rows, s: Any) -> Pending | tuple[Pending, ...]:
        """A communication begins: start verbs on these values with `fleet.later`; return what waits for them, one or a tuple.

        `delay` local steps before the communication is due; with delay=0 after the last of them. `send = None` in a class: no
        message of its own, `direction` communicates, in every step (fullsync).
        """
        if self.schedule is None:
            raise NotImplementedError(f"{type(self).__name__}: has no schedule to mix by, and no `send`; write one of them")
        return fleet.later(fleet.mix, self.schedule.at(fleet.m, t.round), x)

    def receive(self, fleet: Fleet, t: Tick, x: Rows, heard: Any, s: Any) -> tuple[Rows | Common, Any]:
        """Rows and state after the communication. When it is due, with the answers to what `send` started.

        x: the rows as they were sent; local steps taken since are added by the loop to what is returned.
        """
        return heard, s

    def answer(self, fleet: Fleet, x: Rows, s: Any) -> Common:
        """The model to evaluate and ship. At evaluations and at the end; nothing is charged.

        What its first verb does to the models is done to running statistics too.
        """
        return fleet.mean(x)


def averaging(direction: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a `direction` that is the mean of the gradients and nothing more."""
    direction.averages = True  # type: ignore[attr-defined]
    return direction


@dataclass(frozen=True)
class Around(Strategy):
    """A strategy around that of an algorithm: an axis, which changes what some of its methods do and passes on the others."""

    algorithm: Strategy

    CHANGES: ClassVar[tuple[str, ...]] = ()  # methods that do something of their own
    DELAYS: ClassVar[bool] = True  # may the models that are mixed be older than those it is given?

    @property
    def schedule(self) -> Mixing | None:  # type: ignore[override]
        """The algorithm's."""
        return self.algorithm.schedule

    # what an axis does not change goes on to the algorithm, whose state is the field `own` of the axis's

    def direction(self, fleet: Fleet, t: Tick, grad: Rows, x: Rows, s: Any) -> tuple[Rows | Common, Any]:
        found, own = self.algorithm.direction(fleet, t, grad, x, s.own)
        return found, s._replace(own=own)

    def shift(self, fleet: Fleet, t: Tick, x: Rows, s: Any) -> tuple[Rows | Common | None, Any]:
        found, own = self.algorithm.shift(fleet, t, x, s.own)
        return found, s._replace(own=own)

    def send(self, fleet: Fleet, t: Tick, x: Rows, s: Any) -> Pending | tuple[Pending, ...]:
        return self.algorithm.send(fleet, t, x, s.own)

    def receive(self, fleet: Fleet, t: Tick, x: Rows, heard: Any, s: Any) -> tuple[Rows | Common, Any]:
        y, own = self.algorithm.receive(fleet, t, x, heard, s.own)
        return y, s._replace(own=own)

    def answer(self, fleet: Fleet, x: Rows, s: Any) -> Common:
        return self.algorithm.answer(fleet, x, s.own)


def overrides(strategy: Strategy, method: str) -> bool:
    """Does the method do something of its own, in the algorithm or in an axis around it?"""
    if isinstance(strategy, Around):
        return method in strategy.CHANGES or overrides(strategy.algorithm, method)
    return getattr(type(strategy), method) is not getattr(Strategy, method)


def layers(strategy: Strategy) -> list[Strategy]:
    """The strategy, and what it is around, the algorithm last."""
    return [strategy, *(layers(strategy.algorithm) if isinstance(strategy, Around) else ())]
