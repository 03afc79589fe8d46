"""All rows in one process. What is done with the rows held is the same on every fleet; `processes.py` adds what crosses."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from coopsgd.fleet import compiled
from coopsgd.fleet import plan as plans
from coopsgd.fleet.base import Common, Fleet, Rows
from coopsgd.fleet.entries import Entries, beside
from coopsgd.fleet.local import Combined, Local
from coopsgd.fleet.spread import Routes

PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


@dataclass
class Lowered:
    """A plan made ready for one process; what it was made of is not kept.

    `core` rows are sent and summed; below them lie replicated auxiliary rows, which change by sums alone.
    """

    core: int
    core_local: Local  # extras: the replicated rows, then what arrives
    aux_local: Local | None  # extras: what arrives
    sums: list[tuple[tuple[int, ...], Combined]]  # group, V (k, core): those this process is in
    sends: list[tuple[int, Combined]]  # destination, V (k, core)
    receives: list[tuple[int, int]]  # source, k
    crossing: bool  # does any process send another a message?
    # rows from which on they become sums over the processes where they lie, and what makes this process's part of each, and the
    # new rows before them; None: sums are set aside
    at_once: tuple[int, Local] | None = None


class Stacked(Fleet):
    """Every row in this process; nothing is sent."""

    def rows(self, start: Tensor) -> Rows:
        return start.expand(self.local_rows, -1).clone()

    def zeros_like(self, x: Rows) -> Rows:
        return reserved(x)

    def total(self, values: Tensor) -> Tensor:
        return values

    def gather(self, x: Rows) -> Tensor | None:
        return x.clone()

    def barrier(self) -> None:
        pass

    def _lowered(self, plan: plans.Plan) -> Lowered:
        rows, q = plan.layout.rows(self.rank), self.rank
        core = len(plan.layout.workers(q)) if plan.layout.replicated else len(rows)
        stay = plan.stay(q)
        if plan.layout.processes == 1 and core == len(rows):  # nothing arrives from anywhere
            none = beside([], core)
            return Lowered(core, Local(stay, (none, none)), None, [], [], [], False)
        out, into = plan.edges(q)
        mine = [item for item in plan.sums if q in item.group]
        here = np.array(rows)
        arriving = beside([*(Entries.of(item.U[here]) for item in mine), *(e.U.only(here) for e in into)], len(rows))
        alone = len(rows) == 1 and not np.any(stay) and len(mine) == 1 and not into and not out

        def among(a: slice, b: slice) -> np.ndarray:
            if isinstance(stay, np.ndarray):
                return stay[a, b]
            return stay.block(*(np.arange(len(rows))[part] for part in (a, b)))

        inner, outer = slice(core), slice(core, None)
        inside = stay[inner, inner] if isinstance(stay, np.ndarray) else stay.local(np.arange(core))
        at_once = None
        if alone and arriving.dense().tolist() == [[1.0]]:  # an average of one row each
            at_once = 0, Local(mine[0].V[:, here])
        elif len(rows) <= compiled.FEW and core < len(rows) and len(mine) == 1 and not into and not out:
            (item,) = mine
            wanted = arriving.only(np.arange(core)).rows
            if len(item.group) == plan.layout.processes and len(item.V) == len(rows) - core and not len(wanted):
                whole = np.array(among(slice(None), slice(None)))
                whole[core:, :core] = item.U[here[core:]] @ item.V[:, here[:core]]
                whole[core:, core:] *= q == item.group[0]  # what they keep of themselves is counted once
                at_once = core, Local(whole)
        return Lowered(
            core,
            at_once=at_once,
            crossing=len(plan.links.src) > 0,
            core_local=Local(inside, (Entries.of(among(inner, outer)), arriving.only(np.arange(core)))),
            aux_local=Local(among(outer, outer), (arriving.only(np.arange(core, len(rows))),)) if core < len(rows) else None,
            sums=[(item.group, Combined(Entries.of(item.V[:, here[:core]]))) for item in mine],
            sends=[(e.dst, Combined(e.V.T.only(here[:core]).T)) for e in out],
            receives=[(e.src, e.V.shape[0]) for e in into],
        )

    def _mix(self, lowered: Lowered, xs: tuple[Rows, ...]) -> Callable[[], None]:
        x = xs[0] if len(xs) == 1 else torch.cat(xs, dim=1)  # one message an edge, whatever it carries
        if lowered.at_once is not None:
            first, made = lowered.at_once
            made(x)
            part = x[first:]
            whole = part.contiguous()
            reduced = self._reduce(whole, lowered.sums[0][0])

            def summed() -> None:
                reduced()
                if whole.data_ptr() != part.data_ptr():
                    part.copy_(whole)
                split_back(x, xs)

            return summed
        core, aux = x[: lowered.core], x[lowered.core :]
        arriving, arrived = self._carry(lowered, core)

        def finish() -> None:
            arrived()
            lowered.core_local(core, aux, arriving)
            if lowered.aux_local is not None:
                lowered.aux_local(aux, arriving)
            split_back(x, xs)

        return finish

    def _carry(self, lowered: Lowered, core: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """(k, d): the sums this process is in, then the messages to it; there when what comes with it has been called."""
        sums = sum(V.k for _, V in lowered.sums)
        arriving = core.new_empty(sums + sum(k for _, k in lowered.receives), core.shape[1])
        waits = [self._exchange(lowered, core, arriving[sums:])]
        at = 0
        for group, V in lowered.sums:
            waits.append(self._reduce(V(core, arriving[at : at + V.k]), group))
            at += V.k

        def arrived() -> None:
            for wait in waits:
                wait()

        return arriving, arrived

    def _exchange(self, lowered: Lowered, core: Tensor, arriving: Tensor) -> Callable[[], None]:
        """Start every message; call what it returns to wait for them."""
        return nothing

    def _reduce(self, part: Tensor, group: tuple[int, ...], verb: str = "mix") -> Callable[[], None]:
        """Start to sum over the processes of a group, in place; call what it returns to wait for the sum."""
        return nothing

    def _mean(self, x: Rows) -> Callable[[], Common]:
        mean = x.new_empty(1, x.shape[1])
        rows = x.detach()
        self._mean_of_workers(rows[: self.m] if self.v else rows, mean)
        return lambda: mean

    @cached_property
    def _mean_of_workers(self) -> compiled.Mean:
        return compiled.Mean(np.arange(self.m))

    def _spread(self, routes: Routes, packed: Tensor) -> Callable[[], Tensor]:
        return lambda: packed

    def _pick(self, x: Rows, i: int) -> Callable[[], Common]:
        row = x[i : i + 1].clone()
        return lambda: row


def nothing() -> None:
    """Nothing to wait for."""


def reserved(x: Tensor) -> Tensor:
    """Zeros like x that take memory only once they are written to."""
    if x.device.type != "cpu" or not x.numel():
        return x.new_zeros(x.shape)  # zeros_like of a tensor without numbers would import sympy, a quarter of a second
    return torch.frombuffer(mmap.mmap(-1, x.numel() * x.element_size(), flags=PRIVATE), dtype=x.dtype).view(x.shape)


def split_back(x: Tensor, xs: tuple[Rows, ...]) -> None:
    """Return what several tensors became when they were mixed as one."""
    if len(xs) > 1:
        for y, new in zip(xs, x.split([y.shape[1] for y in xs], dim=1), strict=True):
            y.copy_(new)
