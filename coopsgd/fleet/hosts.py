"""Several hosts of several processes each: one memory in a host, the network between them.

At a verb each process works on a slice of the *columns* of its host's rows, as in `Shared`, and exchanges that slice with those
who have the same on other hosts. Together they send what one process a host would: of an average one sum a host, of any other W
the rows that cross hosts, each once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from coopsgd.errors import ConfigError
from coopsgd.fleet import plan as plans
from coopsgd.fleet.base import Rows
from coopsgd.fleet.lookout import Lookout
from coopsgd.fleet.memory import Memory
from coopsgd.fleet.price import Price
from coopsgd.fleet.processes import Processes
from coopsgd.fleet.shared import Shared
from coopsgd.fleet.spread import Routes
from coopsgd.fleet.waits import FIRST, Waits

GLANCE = 0.5  # seconds between two looks at whether those who are waited for still live


@dataclass(frozen=True)
class HostLayout(plans.Layout):
    """Rows by host, in the order in which they lie in its memory. within: by process."""

    within: plans.Layout | None = None

    def _processes(self, host: int) -> range:
        assert self.within is not None
        each = self.within.processes // self.processes
        return range(host * each, (host + 1) * each)

    def aux(self, q: int) -> list[int]:
        """The global rows of the auxiliary models on host q."""
        assert self.within is not None
        return [row for p in self._processes(q) for row in self.within.aux(p)]

    def rows(self, q: int) -> list[int]:
        """All global rows on host q."""
        assert self.within is not None
        return [row for p in self._processes(q) for row in self.within.rows(p)]


class Slice(Processes):
    """What crosses hosts of one slice of the columns: a fleet of one process a host, those in the same place of each.

    places: the ranks of the processes in each place, a host after the other.
    """

    def __init__(
        self,
        layout: HostLayout,
        host: int,
        places: list[list[int]],
        at: int,
        timeout: float,
        waits: Waits,
        lookout: Lookout | None,
    ) -> None:
        super().__init__(layout, host, timeout, waits, lookout)
        self._places, self._at = places, at
        self._groups = {}
        self.everyone = tuple(range(layout.processes))
        self._need_group(self.everyone)

    def _made_group(self, hosts: tuple[int, ...]) -> Any:
        made = [super(Slice, self)._made_group(tuple(ranks[q] for q in hosts)) for ranks in self._places]
        return made[self._at]

    def _rank_of(self, q: int) -> int:
        return self._places[self._at][q]


class Hosts(Shared):
    """An equal share of the workers in each process; each auxiliary row has one owner. here: the processes of this host."""

    def __init__(
        self,
        layout: plans.Layout,
        rank: int,
        memory: Memory,
        waits: Waits | None = None,
        lookout: Lookout | None = None,
        timeout: float = FIRST,
        here: range = range(1),
    ) -> None:
        """memory: of the processes of this host. lookout, timeout: see Processes."""
        waits = waits or Waits(timeout)
        super().__init__(layout, rank, memory, waits, here)
        each = len(here)
        self._every = Processes(self.layout, rank, timeout, waits, lookout)
        self._lookout, self._timeout, self._began, self._looked = lookout, timeout, 0.0, 0.0
        places = [list(range(at, layout.processes, each)) for at in range(each)]
        self._slice_fleet = Slice(self._planned_for, here.start // each, places, rank - here.start, timeout, waits, lookout)
        self._meeting.look = self._look

    @cached_property
    def _planned_for(self) -> HostLayout:
        made = self.layout
        hosts = made.processes // len(self._processes_here)
        return HostLayout(made.m, made.v, hosts, made.replicated, made.server_owns_aux, within=made)

    def _wire(self, price: Price) -> Price:
        """Of hosts: each process of one hands over its slice, an equal share but for the last columns."""
        each = len(self._processes_here)
        return Price(price.messages * each, np.repeat(price.sent / each, each))

    def together(self, x: Rows) -> None:
        """Nothing: between hosts there are messages."""
        return None

    @property
    def _across(self) -> Slice:
        self._slice_fleet.activity, self._slice_fleet.step = self.activity, self.step
        return self._slice_fleet

    @property
    def _all(self) -> Processes:
        self._every.activity, self._every.step = self.activity, self.step
        return self._every

    # waiting in the memory

    @contextmanager
    def _may_wait(self, verb: str) -> Iterator[None]:
        self._waits.begin(verb, self.activity, self.step)
        self._began = self._looked = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            if self._lookout is None:
                raise
            raise self._lookout.failure(self._began, error) from error
        finally:
            self._waits.end()

    def _look(self) -> None:
        """RuntimeError where nobody is to be waited for any more; called now and then by who waits in the memory."""
        now, wait = time.monotonic(), self._waits.now
        if self._lookout is None or wait is None or now - self._looked < GLANCE:
            return
        self._looked = now
        if now - self._began > min(wait.limit, self._timeout):
            raise RuntimeError("waited in vain")
        if self._lookout.gone():
            raise RuntimeError("another process of this machine has ended")

    # verbs

    def rows(self, start: Tensor) -> Rows:
        first = start.clone()
        with self._all._may_wait("broadcast"):
            self._all._done(dist.broadcast(first, 0, async_op=True))
        return super().rows(first)

    def _lowered(self, plan: plans.Plan) -> Any:
        return self._across._lowered(plan)

    def _pass(self, lowered: Any, slices: tuple[Tensor, ...]) -> None:
        if sum(x.shape[1] for x in slices):
            self._across._mix(lowered, slices)()

    def _mean_of(self, rows: Tensor, out: Tensor) -> None:
        across = self._across
        workers = rows[torch.from_numpy(self._workers)] if self.v else rows
        mine = workers.sum(0, keepdim=True)
        across._reduce(mine, across.everyone, "mean")()
        out.copy_(mine.div_(self.m))

    def _picked(self, row: Tensor, i: int) -> None:
        """The row (1, d) of this host's memory is filled where its owner is; now it is everywhere."""
        across, columns = self._across, self._slice(row.shape[1])
        part = row[:, columns]
        if part.shape[1] and len(across.everyone) > 1:
            with across._may_wait("pick"):
                owner = across._rank_of(self._owner(i) // len(self._processes_here))
                across._done(dist.broadcast(part, owner, group=across.group(across.everyone), async_op=True))
        self._meet("pick")

    def _spread(self, routes: Routes, packed: Tensor) -> Callable[[], Tensor]:
        across = self._across
        with self._waiting("spread"):
            lent = self._lent(packed, back=False)
            everything = self._taken("spread", self.layout.n, packed.shape[1], packed.dtype)
            self._meeting.arrive()
        place = {row: at for at, row in enumerate(self._order.tolist())}

        def finish() -> Tensor:
            with self._waiting("spread"):
                self._met("spread")
                columns = self._slice(packed.shape[1])
                mine, found = lent.all[:, columns], everything[:, columns]
                found.zero_()
                found[torch.from_numpy(self._order)] = mine
                if mine.shape[1]:
                    into = [(r, mine.new_empty(len(r), mine.shape[1]), src) for src, dst, r in routes if dst == across.rank]
                    out = [(mine[[place[row] for row in r]], dst) for src, dst, r in routes if src == across.rank]
                    across._wait(across._posting()([(part, src) for _, part, src in into], out), "spread")
                    for rows, part, _ in into:
                        found[rows] = part
                self._meet("spread")
                copy = everything.clone()
                self._meet("spread")
                self._returned(lent)
                self._given_back("spread", everything)
                return copy

        return finish

    def total(self, values: Tensor) -> Tensor:
        return self._all.total(values)

    def gather(self, x: Rows) -> Tensor | None:
        return self._all.gather(x)

    def barrier(self) -> None:
        self._all.barrier()

    def hand(self, piece: Any, to: int) -> None:
        """See Processes."""
        self._all.hand(piece, to)

    def taken(self, by: int) -> memoryview:
        """See Processes."""
        return self._all.taken(by)


def shared_memory(fleet: Processes, each: int) -> Memory:
    """The memory of this host's processes, `each` a host, of which the first makes it and the others open it.

    OSError in all processes where one of them cannot.
    """
    hosts, host, place = fleet.layout.processes // each, fleet.rank // each, fleet.rank % each
    said, memory, failed = torch.zeros(hosts, 2, dtype=torch.float64), None, None
    if place == 0:
        try:
            memory = Memory(each)
            said[host] = torch.tensor([float(x) for x in memory.path.split("/") if x.isdigit()], dtype=torch.float64)
        except OSError as error:
            failed = error
    pid, file = fleet.total(said)[host].long().tolist()
    if place and pid:
        try:
            memory = Memory(each, f"/proc/{pid}/fd/{file}")
        except OSError as error:
            failed = error
    bad = fleet.total(torch.tensor([memory is None], dtype=torch.float64))
    if float(bad) or memory is None:
        raise failed or OSError(0, "another process cannot open it")
    return memory


def of_machines(layout: plans.Layout, rank: int, timeout: float, waits: Waits, lookout: Lookout | None) -> Hosts:
    """The fleet of this process on its machine, as torchrun has started it. ConfigError where machines are unlike."""
    every = Processes(layout, rank, timeout, waits, lookout)
    each, place = int(os.environ.get("LOCAL_WORLD_SIZE", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    wrong = not each or layout.processes % each or rank % each != place
    found = every.total(torch.tensor([float(wrong), each], dtype=torch.float64)).tolist()
    if found[0] or found[1] != each * layout.processes:
        raise ConfigError(
            "fleet: shared needs as many processes on every machine, side by side, as torchrun starts them (it sets "
            "LOCAL_WORLD_SIZE and LOCAL_RANK); use fleet=processes"
        )
    try:
        memory = shared_memory(every, each)
    except OSError as error:
        raise ConfigError(
            f"fleet: shared needs a memory file on every machine ({error.strerror}); use fleet=processes"
        ) from None
    return Hosts(layout, rank, memory, waits, lookout, timeout, range(rank - place, rank - place + each))
