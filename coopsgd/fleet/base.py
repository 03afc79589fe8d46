"""The verbs: everything that crosses rows goes through one of them, and is charged there.

Shapes: `Rows` (r, d), one row per member held in this process; `Common` (1, d), one value every member agrees on. They
broadcast against each other. An auxiliary row may be held by several processes, equal bit by bit.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from coopsgd.fleet import plan as plans
from coopsgd.fleet.ledger import Ledger

Rows: TypeAlias = Tensor
Common: TypeAlias = Tensor


class Fleet(ABC):
    """m workers and v auxiliary models, some of whose rows are in this process."""

    def __init__(self, layout: plans.Layout, rank: int = 0) -> None:
        self.layout, self.rank = layout, rank
        self.m, self.v = layout.m, layout.v
        self.ledger = Ledger(layout.m, layout.v, layout.processes)
        self._plans: dict[Any, tuple[Any, Any, plans.Price]] = {}

    @property
    def workers(self) -> range:
        """Global rows of the workers held here; they come first in every Rows."""
        return self.layout.workers(self.rank)

    @property
    def held(self) -> int:
        """r, the number of rows held here."""
        return len(self.layout.rows(self.rank))

    # the verbs a strategy may use

    def mix(self, W: Any, *xs: Rows) -> Any:
        """y_i = sum_j W[i, j] x_j, in place; all xs share one message an edge. Returns y, or a tuple of them.

        W: (m + v, m + v) array; the arrays a Mixing hands out are planned once.
        """
        lowered, price = self._planned(W)
        self.ledger.charge(price, sum(_width(x) for x in xs), lowered.plan.sent, lowered.plan.messages)
        self._mix(lowered, xs)
        return xs[0] if len(xs) == 1 else xs

    def mean(self, x: Rows) -> Common:
        """The average over the m workers, known to all. A new tensor, never a view of x."""
        return self.means(x)[0]

    def means(self, *xs: Rows) -> tuple[Common, ...]:
        """The averages of several Rows, in one message."""
        wire = plans.average_price(self.layout.processes)
        self.ledger.charge(plans.average_price(self.m), sum(_width(x) for x in xs), wire.sent, wire.messages)
        if len(xs) == 1:
            return (self._mean(xs[0]),)
        return self._mean(torch.cat(xs, dim=1)).split([x.shape[1] for x in xs], dim=1)

    def pick(self, x: Rows, i: int) -> Common:
        """Global row i, told to all. A new tensor, never a view of x."""
        n = self.m + self.v
        wire = plans.pick_price(self.layout.processes - 1, self._owner(i), self.layout.processes)
        hosts = self.m if i >= self.m and self.layout.served else self.m - 1
        self.ledger.charge(plans.pick_price(hosts, i, n), _width(x), wire.sent, wire.messages)
        return self._pick(x, i)

    def _owner(self, i: int) -> int:
        """The process that tells row i; the first that holds it."""
        return next(q for q in range(self.layout.processes) if i in self.layout.rows(q))

    # what the loop and the report use; nothing here is charged

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
    def total(self, values: Tensor) -> Tensor:
        """Sum of a small tensor over processes, known to all."""

    @abstractmethod
    def gather(self, x: Rows) -> Tensor | None:
        """All m + v rows, each once, on rank 0; None elsewhere."""

    @abstractmethod
    def barrier(self) -> None:
        """Return when every process has called it."""

    @abstractmethod
    def _mix(self, lowered: Any, xs: tuple[Rows, ...]) -> None: ...

    @abstractmethod
    def _mean(self, x: Rows) -> Common: ...

    @abstractmethod
    def _pick(self, x: Rows, i: int) -> Common: ...

    @abstractmethod
    def _lowered(self, plan: plans.Plan) -> Any: ...

    def _planned(self, W: Any) -> tuple[Any, plans.Price]:
        frozen = isinstance(W, np.ndarray) and not W.flags.writeable
        # a frozen array is known by its address (it is kept below, so the address stays its own), others by content
        key = id(W) if frozen else np.asarray(W).tobytes()
        if key not in self._plans:
            array = np.asarray(W, dtype=np.float64)
            n = self.m + self.v
            if array.shape != (n, n):
                raise ValueError(f"mix: W must be ({n}, {n}) for {self.m} workers and {self.v} auxiliaries, got {array.shape}")
            if len(self._plans) >= 64:  # a schedule that never repeats must not fill the memory
                self._plans.pop(next(iter(self._plans)))
            lowered = self._lowered(plans.lower(array, self.layout))
            self._plans[key] = (W, lowered, plans.price(array, self.m, self.layout.served))
        return self._plans[key][1:]

    @contextmanager
    def _clock(self) -> Iterator[None]:
        """Seconds inside are seconds waited in communication (on CUDA, those of handing it over)."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if not self.ledger.paused:
                self.ledger.comm_s += time.perf_counter() - start


def _width(x: Rows) -> int:
    """Bytes of one row."""
    return x.shape[1] * x.element_size()
