"""Several processes of one host, whose rows lie in one memory: a verb is a pass over that, and sends nothing.

Each process computes its rows, and at a verb a slice of the *columns* of all rows, between two meetings. So any W costs one
pass over the memory, and the sums are those that one process would make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coopsgd.fleet import compiled
from coopsgd.fleet import plan as plans
from coopsgd.fleet.base import Common, Fleet, Rows
from coopsgd.fleet.local import Local
from coopsgd.fleet.memory import Meeting, Memory
from coopsgd.fleet.price import Price
from coopsgd.fleet.spread import Routes
from coopsgd.fleet.together import Together
from coopsgd.fleet.waits import FIRST, Waits
from coopsgd.host import processors
from coopsgd.mixing.matrix import WHOLE

ALIGNED = 16  # numbers: slices of columns begin at multiples of it
SPINS = 20  # looks before a process sleeps, where each has a core


@dataclass
class _Lent:
    """All rows of what a verb is about, (n, d) in the order of the processes; `mine` of them belong to x, which may be them."""

    all: Tensor
    x: Tensor | None  # what is to be copied back; None where x lies there itself
    mine: Tensor


class Shared(Fleet):
    """An equal share of the workers in each process of this host; each auxiliary row has one owner."""

    def __init__(
        self, layout: plans.Layout, rank: int, memory: Memory, waits: Waits | None = None, here: range | None = None
    ) -> None:
        """here: the processes that share the memory; None: all."""
        super().__init__(replace(layout, replicated=not layout.v), rank)
        self._memory, self._waits = memory, waits or Waits(FIRST)
        self._processes_here = range(layout.processes) if here is None else here
        self._place = rank - self._processes_here.start
        self._meeting = Meeting(memory, self._place, SPINS if len(self._processes_here) <= processors.cores() else 0)
        self._order = np.array([row for q in self._processes_here for row in self.layout.rows(q)])
        at = sum(len(self.layout.rows(q)) for q in self._processes_here if q < rank)
        self._here = slice(at, at + self.local_rows)
        self._whole: dict[int, Tensor] = {}  # address of the rows here -> all of them
        self._free: dict[Any, list[Tensor]] = {}

    # where rows lie

    def rows(self, start: Tensor) -> Rows:
        first = self._taken("pick", 1, start.shape[1], start.dtype)
        if self._place == 0:
            first.copy_(start)
        self._meet("broadcast")
        x = self.zeros_like(start.expand(self.local_rows, -1))
        x.copy_(first)
        self._meet("broadcast")
        self._given_back("pick", first)
        return x

    def zeros_like(self, x: Rows) -> Rows:
        everything = self._memory.room(len(self._order), x.shape[1], x.dtype)
        mine = everything[self._here]
        self._whole[mine.data_ptr()] = everything
        return mine

    def _lent(self, x: Rows, back: bool) -> _Lent:
        found = self._whole.get(x.data_ptr())
        if found is not None and found.dtype == x.dtype and (mine := found[self._here]).shape == x.shape and x.is_contiguous():
            return _Lent(found, None, mine)
        everything = self._taken("rows", len(self._order), x.shape[1], x.dtype)
        mine = everything[self._here]
        mine.copy_(x.detach())
        return _Lent(everything, x.detach() if back else None, mine)

    def _returned(self, lent: _Lent) -> None:
        if lent.x is not None:
            lent.x.copy_(lent.mine)
        if lent.mine.data_ptr() not in self._whole:
            self._given_back("rows", lent.all)

    def _taken(self, use: str, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """Shared room that is not in use; what is in it is undefined.

        Each use has its own, since they differ in when others may still read it: of "rows" each process reads its own at last,
        a "mean" is read to the end but written only after a meeting, "pick" and "total" end with a meeting.
        """
        free = self._free.setdefault((use, rows, columns, dtype), [])
        return free.pop() if free else self._memory.room(rows, columns, dtype)

    def _given_back(self, use: str, room: Tensor) -> None:
        rows, columns = room.shape
        self._free[use, rows, columns, room.dtype].append(room)

    # meeting

    def _meet(self, verb: str) -> None:
        self._meeting.arrive()
        self._met(verb)

    def _met(self, verb: str) -> None:
        if self._meeting.soon():
            self._waits.passed(verb, self.activity)
            return
        with self._may_wait(verb):
            self._meeting.meet()

    @contextmanager
    def _may_wait(self, verb: str) -> Iterator[None]:
        """Inside, this process may have to wait for another."""
        self._waits.begin(verb, self.activity, self.step)
        try:
            yield
        finally:
            self._waits.end()

    def _slice(self, d: int) -> slice:
        """The columns of d that are this process's at a verb."""
        share = -(-d // (ALIGNED * len(self._processes_here))) * ALIGNED
        return slice(min(d, self._place * share), min(d, (self._place + 1) * share))

    # verbs

    def _lowered(self, plan: plans.Plan) -> Local:
        inside = plan.rest.local(self._order)
        return Local(inside.dense() if len(self._order) <= WHOLE else inside)

    @cached_property
    def _planned_for(self) -> plans.Layout:
        return replace(self.layout, processes=1, replicated=False)

    def _wire(self, price: Price) -> Price:
        return Price(0, np.zeros(self.layout.processes))

    def _mix(self, lowered: Local, xs: tuple[Rows, ...]) -> Callable[[], None]:
        with self._waiting("mix"):
            lent = list[_Lent]()
            for x in xs:
                one = self._lent(x, back=True)
                if not any(one.all is other.all for other in lent):  # else given twice, and mixed where it lies: once
                    lent.append(one)
            self._meeting.arrive()

        def finish() -> None:
            with self._waiting("mix"):
                self._met("mix")
                self._pass(lowered, tuple(one.all[:, self._slice(one.all.shape[1])] for one in lent))
                self._meet("mix")
                for one in lent:
                    self._returned(one)

        return finish

    def _pass(self, lowered: Any, slices: tuple[Tensor, ...]) -> None:
        """Mix these columns of all rows, where they lie."""
        for x in slices:
            lowered(x)

    def _mean_of(self, rows: Tensor, out: Tensor) -> None:
        """Into out (1, d) the mean of the workers among these rows."""
        self._mean_of_workers(rows, out)

    def _picked(self, row: Tensor, i: int) -> None:
        """Row i (1, d) of the memory is filled; return when it is so for all hosts."""

    def _mean(self, x: Rows) -> Callable[[], Common]:
        with self._waiting("mean"):
            lent, mean = self._lent(x, back=False), self._taken("mean", 1, x.shape[1], x.dtype)
            self._meeting.arrive()

        def finish() -> Common:
            with self._waiting("mean"):
                self._met("mean")
                columns = self._slice(x.shape[1])
                if columns.stop > columns.start:
                    self._mean_of(lent.all[:, columns], mean[:, columns])
                self._meet("mean")
                found = mean if self._lends else mean.clone()  # it is written again after another meeting
                self._returned(lent)
                self._given_back("mean", mean)
                return found

        return finish

    def together(self, x: Rows) -> Together | None:
        every = self._whole.get(x.data_ptr())
        if every is None or every.dtype != x.dtype or every[self._here].shape != x.shape or not x.is_contiguous():
            return None
        if not Together.can(every):
            return None
        columns = self._slice(x.shape[1])
        room = partial(self._taken, "mean", 1, x.shape[1], x.dtype), partial(self._given_back, "mean")
        return Together(self._meeting, every, columns, self._workers, room, self._wait_at, self._come_to, self._spent)

    def _wait_at(self, verb: str, step: int) -> None:
        """Of the step that `together` is at, for somebody who has not come."""
        self.step = step
        with self._waiting(verb), self._may_wait(verb):
            self._meeting.meet()

    def _come_to(self, verb: str, step: int) -> None:
        """`together` is as far as that, and nobody was waited for."""
        self.step = step
        self._waits.passed(verb, self.activity)

    def _spent(self, seconds: float) -> None:
        """By `together`, in communication."""
        self.ledger.comm_s += seconds

    def _spread(self, routes: Routes, packed: Tensor) -> Callable[[], Tensor]:
        with self._waiting("spread"):
            lent = self._lent(packed, back=False)
            self._meeting.arrive()

        def finish() -> Tensor:
            with self._waiting("spread"):
                self._met("spread")
                found = torch.empty_like(lent.all)
                found[torch.from_numpy(self._order)] = lent.all
                self._meet("spread")
                self._returned(lent)
                return found

        return finish

    @cached_property
    def _workers(self) -> np.ndarray:
        """Where among the rows of this host the workers are."""
        return np.flatnonzero(self._order < self.m)

    @cached_property
    def _mean_of_workers(self) -> compiled.Mean:
        return compiled.Mean(self._workers)

    def _pick(self, x: Rows, i: int) -> Callable[[], Common]:
        row = self._taken("pick", 1, x.shape[1], x.dtype)
        owner = self._owner(i)
        with self._waiting("pick"):
            if owner == self.rank:
                row.copy_(x.detach()[self.layout.rows(owner).index(i)])
            self._meeting.arrive()

        def finish() -> Common:
            with self._waiting("pick"):
                self._met("pick")
                self._picked(row, i)
                found = row.clone()
                self._meet("pick")
                self._given_back("pick", row)
                return found

        return finish

    def total(self, values: Tensor) -> Tensor:
        parts = self._taken("total", self.layout.processes, values.numel(), values.dtype)
        parts[self.rank] = values.detach().flatten()
        self._meet("total")
        summed = parts.sum(0).view(values.shape)
        self._meet("total")
        self._given_back("total", parts)
        return summed

    def gather(self, x: Rows) -> Tensor | None:
        lent = self._lent(x, back=False)
        self._meet("gather")
        found = None
        if self.rank == 0:
            found = torch.empty_like(lent.all)
            found[torch.from_numpy(self._order)] = lent.all
        self._meet("gather")
        self._returned(lent)
        return found

    def barrier(self) -> None:
        self._meet("barrier")
