"""The verbs: everything that crosses rows goes through one of them, and is charged there.

Shapes: `Rows` (r, d), one row per member held in this process; `Common` (1, d), one value every member agrees on. They
broadcast against each other. An auxiliary row may be held by several processes, equal bit by bit.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from coopsgd.fleet import plan as plans
from coopsgd.fleet.block import Described
from coopsgd.fleet.given import matrix_of, refuse_others
from coopsgd.fleet.kept import Kept
from coopsgd.fleet.ledger import Ledger
from coopsgd.fleet.pending import Carried, Pending, alike, width
from coopsgd.fleet.price import Price, average_price, pick_price, price
from coopsgd.fleet.shares import Shares
from coopsgd.fleet.spread import EVERYONE, Routes, everyone, routes, sent_by, spread_price
from coopsgd.fleet.timing import Timing
from coopsgd.fleet.waits import TRAINING
from coopsgd.mixing.matrix import Matrix
from coopsgd.mixing.rounded import in_sum_one

if TYPE_CHECKING:
    from coopsgd.fleet.together import Together

Rows: TypeAlias = Annotated[Tensor, "Rows"]
Common: TypeAlias = Annotated[Tensor, "Common"]


@dataclass(frozen=True)
class _Planned:
    """A matrix made ready."""

    lowered: Any  # for this fleet
    price: Price  # what is charged
    wire: Price  # what this placement hands to the network, by process
    parts: Any  # what the clock makes of it


class Fleet(Described, ABC):
    """m workers and v auxiliary models, some of whose rows are in this process."""

    def __init__(self, layout: plans.Layout, rank: int = 0) -> None:
        self.layout, self.rank = layout, rank
        self.m, self.v = layout.m, layout.v
        self.ledger = Ledger(layout.m, layout.v, layout.processes)
        self.clock: Timing | None = None  # set before the first verb
        self.step, self.activity = 0, TRAINING  # iterations done and what the run is at, for who says what is waited for
        self._carried: Carried | None = None  # waits for the next verb
        self._lends = False  # is what `mean` answers only read, and before the next verb? Then it may be one for all processes
        self.shares: np.ndarray | None = None  # (m,) what each worker weighs in `mean`, in sum 1; None: alike
        self._weighed = Shares(None, range(0), 0)
        self._plans = Kept()

    @property
    def workers(self) -> range:
        """Global rows of the workers held here; they come first in every Rows."""
        return self.layout.workers(self.rank)

    @cached_property
    def local_rows(self) -> int:
        """r, the number of rows held here."""
        return len(self.layout.rows(self.rank))

    # the verbs a strategy may use

    def mix(self, W: Any, *xs: Rows, exact: Sequence[Rows] = ()) -> Any:
        """y_i = sum_j W[i, j] x_j, in place; all xs share one message an edge. Returns y, or a tuple of them.

        exact: more of them, behind, which a codec leaves as they are (a push-sum weight). W: what `Mixing.at` answers, or an
        (m + v, m + v) array. The factors of a Product are applied in order, each charged for itself; what is started with
        `later` starts the first of them, and the others follow when it is waited for.
        """
        return self._mixing(W, *xs, *exact).wait()

    def as_sent(self, x: Rows) -> Rows:
        """x as others read it, when a verb has carried it: rounded, if a codec is between them; here as it is."""
        return x

    def packed(self, x: Rows) -> Tensor:
        """(r, n) the bytes in which x travels, for `spread`: those of its numbers, or a codec's."""
        return x.clone(memory_format=torch.contiguous_format).view(torch.uint8)

    def unpacked(self, packed: Tensor, like: Rows) -> Rows:
        """(q, w) the numbers that these messages say, of the kind and width of `like`."""
        return packed.view(like.dtype)

    @contextmanager
    def carrying(self, *xs: Rows, by: Any = None) -> Iterator[Carried]:
        """Inside, a verb on rows of the same kind takes these Rows along in its message and does to them what it does to its
        own; in place, if it is `mix`.

        by: the matrix that must be the one that mixes them; None: the first verb takes them, whatever it is.
        """
        found = Carried(xs, by)
        self._carried = found if xs else None
        try:
            yield found
        finally:
            self._carried = None

    @contextmanager
    def lending(self, lends: bool = True) -> Iterator[None]:
        """Inside, what `mean` answers is only read, and before the next verb: where processes share a memory it is no copy."""
        self._lends = lends
        try:
            yield
        finally:
            self._lends = False

    def _boarded(self, x: Rows, later: bool, W: Any = None) -> tuple[Carried, tuple[Rows, ...]]:
        """What a verb that begins on x takes along: copies, if what was given may change before it has left."""
        found = self._carried
        if found is None or (found.by is not None and found.by is not W):
            return Carried(()), ()
        if not all(map(partial(alike, x), found.rows)):
            found.unlike = True
            return Carried(()), ()
        self._carried, found.taken = None, True
        return found, tuple(x.clone() for x in found.rows) if later else found.rows

    def mean(self, *xs: Rows) -> Any:
        """The average over the m workers, Common, or a tuple of them, in one message. New tensors, never views of xs.

        Where workers weigh differently (`weights_by`) it is the weighted one.
        """
        return self._averaging(*xs).wait()

    def even_mean(self, x: Rows) -> Common:
        """The average in which all workers count alike, whatever they weigh: of what is measured."""
        return self._averaging(x, even=True).wait()

    def pick(self, x: Rows, i: int) -> Common:
        """Global row i, the same everywhere. A new tensor, never a view of x."""
        return self._picking(x, i).wait()

    def spread(self, W: Any, packed: Tensor) -> Tensor:
        """Packed rows to whoever takes from them: (m + v, n) bytes, row j as its member packed it, to the bit, where a row held
        here takes from j; 0 elsewhere.

        packed: (r, n) bytes, one message a row held here, of a length that all know. W: who takes from whom, as for `mix`; of
        None every worker from every other. Each message is charged by its n bytes, once for every host that takes from it.
        """
        return self._spreading(W, packed).wait()

    def later(self, verb: Callable[..., Any], *args: Any, exact: Sequence[Rows] = ()) -> Pending:
        """Start fleet.mix, mean, pick or spread on today's values; `.wait()` for the answer, as in later(fleet.mix, W, x).

        What is given may change meanwhile. Every process must wait, in the order in which verbs were started.
        """
        # what is sent must stay as it is until it has left
        args = tuple(x.clone() if isinstance(x, Tensor) else x for x in (*args, *exact))
        begun: dict[Any, Callable[..., Pending]] = {
            self.mix: self._mixing,
            self.mean: self._averaging,
            self.pick: self._picking,
            self.spread: self._spreading,
        }
        if verb not in begun:
            raise ValueError(f"later: takes mix, mean, pick or spread of this fleet, got {verb!r}")
        return begun[verb](*args, later=True)

    def _mixing(self, W: Any, *xs: Rows, later: bool = False) -> Pending:
        refuse_others("mix", self.local_rows, *xs)
        carried, more = self._boarded(xs[0], later, W)
        factors = W.factors if isinstance(W, Matrix) else (W,)  # in the order they are applied
        every = (*xs, *more)

        def begun(W: Any) -> tuple[np.ndarray | None, Callable[[], None]]:
            plan = self.planned(W, xs[0])
            ends = self._charge(plan.price, sum(width(x) for x in every), plan.wire.sent, plan.wire.messages, plan.parts)
            return ends, self._mix(plan.lowered, every)

        def over(_: Any) -> Any:
            for W in factors[1:]:
                self._pending(*begun(W), lambda _: None).wait()
            carried.made = more
            return xs[0] if len(xs) == 1 else xs

        return self._pending(*(begun(factors[0]) if factors else (None, lambda: None)), over)

    def weigh(self, shares: Sequence[float] | None) -> None:
        """From now on `mean` takes worker i by shares[i], (m,) in sum 1; of None all alike."""
        self.shares = None if shares is None else np.asarray(shares, dtype=float)
        self._weighed = Shares(shares, self.workers, self.local_rows)

    def _averaging(self, *xs: Rows, later: bool = False, even: bool = False) -> Pending:
        refuse_others("mean", self.local_rows, *xs)
        carried, more = self._boarded(xs[0], later)
        if self.ledger.paused and more:  # nobody counts messages: each has the bits that it has alone
            return self._apart(carried, self._averaging(*xs), [self._averaging(x) for x in more])
        every = (*xs, *more) if even else tuple(map(self._weighed, (*xs, *more)))
        logical, wire = self._average_prices
        parts = self.clock.average() if self.clock else None
        ends = self._charge(logical, sum(width(x) for x in every), wire.sent, wire.messages, parts)

        def over(mean: Tensor) -> Any:
            means = mean.split([x.shape[1] for x in every], dim=1) if len(every) > 1 else (mean,)
            carried.made = means[len(xs) :]
            return means[0] if len(xs) == 1 else means[: len(xs)]

        return self._pending(ends, self._mean(every[0] if len(every) == 1 else torch.cat(every, dim=1)), over)

    def _picking(self, x: Rows, i: int, later: bool = False) -> Pending:
        refuse_others("pick", self.local_rows, x)
        if isinstance(i, bool) or not isinstance(i, int | np.integer) or not 0 <= i < self.m + self.v:
            raise ValueError(f"fleet.pick: there are rows 0 to {self.m + self.v - 1}, got {i!r}")
        carried, more = self._boarded(x, later)
        if self.ledger.paused and more:
            return self._apart(carried, self._picking(x, i), [self._picking(y, i) for y in more])
        every = (x, *more)
        n = self.m + self.v
        movers = self._planned_for
        owner = next(q for q in range(movers.processes) if i in movers.rows(q))
        wire = self._wire(pick_price(movers.processes - 1, owner, movers.processes))
        hosts = self.m if i >= self.m and self.layout.server_owns_aux else self.m - 1
        parts = self.clock.broadcast(i) if self.clock else None
        ends = self._charge(pick_price(hosts, i, n), sum(map(width, every)), wire.sent, wire.messages, parts)

        def over(row: Tensor) -> Common:
            first, *rest = row.split([x.shape[1] for x in every], dim=1)
            carried.made = tuple(rest)
            return first

        return self._pending(ends, self._pick(x if not more else torch.cat(every, dim=1), i), over)

    def _spreading(self, W: Any, packed: Tensor, later: bool = False) -> Pending:
        if packed.ndim != 2 or len(packed) != self.local_rows or packed.dtype != torch.uint8:
            raise ValueError(
                f"fleet.spread: takes bytes of shape ({self.local_rows}, n) in this process, got {tuple(packed.shape)} of "
                f"{packed.dtype}"
            )
        if self._carried is not None:
            self._carried.unlike = True  # numbers cannot travel as bytes of this message
        plan = self._planned_spread(W)
        ends = self._charge(plan.price, packed.shape[1], plan.wire.sent, plan.wire.messages, plan.parts)
        return self._pending(ends, self._spread(plan.lowered, packed), lambda found: found)

    def _apart(self, carried: Carried, first: Pending, more: list[Pending]) -> Pending:
        def wait() -> Any:
            found = first.wait()
            carried.made = tuple(one.wait() for one in more)
            return found

        return Pending(wait)

    def _charge(self, price: Price, width: int, sent: np.ndarray, messages: int, parts: Any) -> np.ndarray | None:
        """Into the ledger; when it ends on the clock, if there is one. Neither while measuring."""
        self.ledger.charge(price, width, sent, messages)
        return self.clock.ends(parts, width) if self.clock and not self.ledger.paused else None

    def account(self, plan: Any, x: Rows) -> None:
        """Charge a communication of x that `together` has done, by this plan of a matrix, or None: a mean."""
        if plan is None:
            (logical, wire), parts = self._average_prices, self.clock.average() if self.clock else None
        else:
            logical, wire, parts = plan.price, plan.wire, plan.parts
        ends = self._charge(logical, width(x), wire.sent, wire.messages, parts)
        self._pending(ends, lambda: None, lambda _: None).wait()

    def _pending(self, ends: np.ndarray | None, finish: Callable[[], Any], answer: Callable[[Any], Any]) -> Pending:
        def wait() -> Any:
            done = finish()
            if self.clock and ends is not None:
                self.clock.reach(ends)
            return answer(done)

        return Pending(wait)

    def _owner(self, i: int) -> int:
        """The process that sends row i: the first that holds it."""
        return next(q for q in range(self.layout.processes) if i in self.layout.rows(q))

    # what the loop and the report use; nothing here is charged

    @contextmanager
    def during(self, activity: str) -> Iterator[None]:
        """Inside, the run is at this activity (waits.ACTIVITIES)."""
        before, self.activity = self.activity, activity
        try:
            yield
        finally:
            self.activity = before

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Inside, verbs are neither charged nor timed; at the end all processes have arrived."""
        was, self.ledger.paused = self.ledger.paused, True
        try:
            yield
            self.barrier()
        finally:
            self.ledger.paused = was

    @abstractmethod
    def rows(self, start: Tensor) -> Rows:
        """Allocate (r, d) rows, each a copy of rank 0's `start` (1, d)."""

    @abstractmethod
    def zeros_like(self, x: Rows) -> Rows:
        """Zeros like x for rows that verbs will be given, such as gradients; they take memory only once they are written to."""

    @abstractmethod
    def total(self, values: Tensor) -> Tensor:
        """Sum of a small tensor over processes, known to all."""

    def one_rate(self, lr: float) -> float:
        """The learning rate that all processes have, of this one's; every process asks. They have one: it is a run's."""
        return lr

    @abstractmethod
    def gather(self, x: Rows) -> Tensor | None:
        """All m + v rows, each once, on rank 0; None elsewhere."""

    @abstractmethod
    def barrier(self) -> None:
        """Return when every process has called it."""

    # each starts, and returns what waits for the end; x is not to be touched in between

    @abstractmethod
    def _mix(self, lowered: Any, xs: tuple[Rows, ...]) -> Callable[[], None]: ...

    @abstractmethod
    def _mean(self, x: Rows) -> Callable[[], Common]: ...

    @abstractmethod
    def _pick(self, x: Rows, i: int) -> Callable[[], Common]: ...

    @abstractmethod
    def _spread(self, routes: Routes, packed: Tensor) -> Callable[[], Tensor]: ...

    @abstractmethod
    def _lowered(self, plan: plans.Plan) -> Any: ...

    @property
    def _planned_for(self) -> plans.Layout:
        """The layout that a matrix is lowered to: who holds which row, of those between whom something is sent."""
        return self.layout

    def _wire(self, price: Price) -> Price:
        """What of this reaches the network."""
        return price

    @cached_property
    def _average_prices(self) -> tuple[Price, Price]:
        """Of an average, and what of it reaches the network."""
        return average_price(self.m), self._wire(average_price(self._planned_for.processes))

    def planned(self, W: Any, x: Rows) -> Any:
        """W made ready for rows like x: `lowered` for this fleet, and what it is charged."""
        double = x.dtype == torch.float64  # else its weights are numbers of float32
        return self._plans.get("mix" if double else "mix in 32 bits", W, lambda: self._plan(W, double))

    def _plan(self, W: Any, double: bool) -> _Planned:
        matrix = matrix_of(W, self.m, self.v)
        # an array that may change is not taken to come again
        again = W.recurring if isinstance(W, Matrix) else isinstance(W, np.ndarray) and not W.flags.writeable
        rounded = matrix if double else in_sum_one(matrix)
        plan, logical = plans.lower(rounded, self._planned_for, again), price(matrix, self.m, self.layout.server_owns_aux)
        return self._made_ready(self._lowered(plan), logical, Price(plan.messages, plan.sent))

    def _planned_spread(self, W: Any) -> _Planned:
        """The same for messages that are passed on as they are."""
        return cast(_Planned, self._plans.get("spread", EVERYONE if W is None else W, lambda: self._plan_spread(W)))

    def _plan_spread(self, W: Any) -> _Planned:
        takes = everyone(self.m) if W is None else matrix_of(W, self.m, self.v).entries_by_row[:2]
        found = routes(takes, self._planned_for)
        logical = spread_price(takes, self.m, self.m + self.v, self.layout.server_owns_aux)
        return self._made_ready(found, logical, Price(len(found), sent_by(found, self._planned_for.processes)))

    def together(self, x: Rows) -> Together | None:
        """What takes steps and communications of these rows in one call; None where nothing does."""
        return None

    def _made_ready(self, lowered: Any, logical: Price, wire: Price) -> _Planned:
        return _Planned(lowered, logical, self._wire(wire), self.clock.parts(logical) if self.clock else None)

    @contextmanager
    def _waiting(self, verb: str) -> Iterator[None]:
        """Seconds inside, at this verb, are seconds waited in communication (on a GPU, those of its stream: processes.py)."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if not self.ledger.paused:
                self.ledger.comm_s += time.perf_counter() - start
