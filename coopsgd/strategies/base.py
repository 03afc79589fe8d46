"""The contract of a strategy: what it is told (Tick) and what it answers (the rows).

A strategy is frozen; everything that changes lives in the rows x and in its state s, both keyed by global row, so that
a run is the same wherever its rows are. Arithmetic inside a row is plain torch; whatever crosses rows is a fleet verb.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from coopsgd.fleet.plan import Layout, choose_layout
from coopsgd.mixing.base import LOOKED_AT, first_negative

if TYPE_CHECKING:
    from coopsgd.fleet.base import Common, Fleet, Rows
    from coopsgd.loop.stepping import Steps
    from coopsgd.mixing.expectation import Expectation, Outcomes
    from coopsgd.optim import Inner


@dataclass(frozen=True)
class Tick:
    """One iteration, as a strategy sees it. Shapes: Rows (r, d), one row per member held in this process."""

    k: int  # iteration, from 0
    round: int  # the communication these steps lead to, from 0
    due: bool  # it comes after this step; period.py alone decides
    lr: float  # step size eta_k
    steps: Steps  # what makes the three below
    inner: Inner  # the inner optimiser, for what happens to its buffers at a communication
    stats: tuple[Rows, ...] = ()  # running statistics (r, b) to mix, in place, with x: fleet.mix(W, x, *tick.stats); if any

    @property
    def loss(self) -> Rows:
        """(r, 1) minibatch loss at x; 0 on auxiliary and idle rows."""
        return self.steps.loss

    @property
    def grad(self) -> Rows:
        """(r, d) stochastic gradient at x; 0 on auxiliary and idle rows."""
        return self.steps.grad

    @property
    def local(self) -> Callable[..., Rows]:
        """local(x[, direction]): one inner-optimiser step on each active worker row."""
        return self.steps.local


class Strategy:
    """How models move between two gradients.

    `local` and `mix` may work in place on the x they are given; what they return is the value, and who needs the old one
    clones it first.
    """

    fixed_tau: ClassVar[int | None] = None  # set by a strategy that decides itself when to communicate
    averages: ClassVar[int | None] = None  # fleet.mean calls in one communication, if that is all it does; for `show`
    answer_lags: ClassVar[bool] = False  # is `answer` what the latest communication left, without local steps since?
    always_equal: ClassVar[bool] = False  # are the workers' models equal after every step, by construction?

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "step" in cls.__dict__ and "plain" not in cls.__dict__:
            cls.plain = False  # type: ignore  # what was true of the parent's step need not be of its own
        if "step" in cls.__dict__ and "always_equal" not in cls.__dict__:
            cls.always_equal = False
        if "step" in cls.__dict__ and "as_matrices" not in cls.__dict__:
            cls.as_matrices = Strategy.as_matrices  # type: ignore

    @property
    def plain(self) -> bool:
        """Does every step begin with `local(x)`, and is that all of it unless a communication is due?"""
        return False

    @property
    def patient(self) -> bool:
        """Does every step ask for its gradient (or for `local`) before it changes x, if it is not plain?

        The gradient is then made when it is asked for, while what was started with `fleet.later` is under way.
        """
        return False

    @property
    def num_aux(self) -> int:
        """v, the number of auxiliary models."""
        return 0

    @property
    def served(self) -> bool:
        """Do the auxiliary models live on a server of their own, rather than wherever is cheapest?"""
        return False

    @property
    def times_itself(self) -> bool:
        """Does `work` say how long a round is, whatever tau is?"""
        return False

    @property
    def mixes_first(self) -> bool:
        """Is a communication that is due done before the next gradient (in `before`) instead of after the step?"""
        return False

    def factors(self, m: int, r: int) -> tuple[np.ndarray, ...]:
        """The matrices communication r applies, for `show` and for placing auxiliary rows; none if it applies no matrix."""
        return ()

    def layout(self, m: int, processes: int) -> Layout:
        """Which rows each of the processes holds: auxiliary rows as suits every communication of the schedule."""
        cycle = self.cycle(m)
        schedule = None if cycle is None else (W for r in range(cycle) for W in self.factors(m, r))
        return choose_layout(schedule, m, self.num_aux, processes, self.served)

    def as_matrices(self, m: int, r: int) -> tuple[np.ndarray, ...]:
        """What communication r does to the models of plain SGD, if matrices say all of it: what theory is about. Else none."""
        return ()

    def cycle(self, m: int) -> int | None:
        """After how many communications its matrices repeat; None when they never do."""
        return 1

    def check(self, m: int) -> None:
        """ValueError when the algorithm cannot work for m workers. Called before any process starts."""

    def negative(self, m: int) -> str | None:
        """A negative weight in its matrices, named; None when there is none, or none in the first of an endless schedule."""
        return first_negative(self.factors(m, r) for r in range(self.cycle(m) or LOOKED_AT))

    def settled(self, m: int) -> dict[str, Any]:
        """Keys of the algo that a run's config must hold as they were found here: other machines could find them otherwise."""
        return {}

    def zeta(self, m: int) -> float | None:
        """What a communication leaves of the disagreement, at worst: 0 is exact averaging. None: no matrix tells."""
        return None

    def expectation(self, m: int) -> Expectation | None:
        """What one communication does to the models in expectation, if it is by lot, independent of all others."""
        return None

    def outcomes(self, m: int, tau: int) -> Outcomes | None:
        """All that one round by lot can be, where it is the rounds that are independent and not the communications, and few."""
        return None

    def init(self, fleet: Fleet, x: Rows) -> Any:
        """The state to begin with; all rows of x are equal."""
        return ()

    def step(self, fleet: Fleet, tick: Tick, x: Rows, s: Any) -> tuple[Rows, Any]:
        """Rows and state after one iteration."""
        raise NotImplementedError

    def before(self, fleet: Fleet, round: int, inner: Inner, stats: tuple[Rows, ...], x: Rows, s: Any) -> tuple[Rows, Any]:
        """Rows and state after communication `round`, if `mixes_first`; stats as in Tick."""
        return x, s

    def work(self, m: int, round: int, tau: int) -> np.ndarray | None:
        """(m,) local steps of each worker towards communication `round`; None: tau for everyone.

        The communication follows the last of them; a worker that has taken its own is idle till then.
        """
        return None

    def answer(self, fleet: Fleet, x: Rows, s: Any) -> Common:
        """The model to evaluate and ship."""
        return self.shipped(fleet, x)

    def shipped(self, fleet: Fleet, rows: Rows) -> Common:
        """Of rows that were mixed as the models were (models, running statistics): what goes with the answer."""
        return fleet.mean(rows)
