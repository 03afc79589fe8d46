"""All rows in one process: a mixing is one small matrix times a tall pile of numbers, done in place.

What is done with the rows held here is the same on every fleet; `processes.py` adds what crosses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coopsgd.fleet import factors
from coopsgd.fleet import plan as plans
from coopsgd.fleet.base import Common, Fleet, Rows

CHUNK = 1 << 16  # numbers handled at a time, so that a slice of the rows and what is made of it stay in cache


@dataclass
class Local:
    """x <- S x + M_1 e_1 + M_2 e_2 ... in place, for a small (r, r) S and a few extra vectors.

    S as a diagonal plus u v' (averages, elastic pulls) costs two passes over x; any other S a product.
    """

    S: np.ndarray
    extras: Sequence[np.ndarray] = ()  # M_i, (r, k_i)
    _ready: dict[Any, _Tensors] = field(default_factory=dict)

    def __call__(self, x: Tensor, *extras: Tensor) -> None:
        key = (x.dtype, x.device)
        if key not in self._ready:
            self._ready[key] = _Tensors(self, x)
        ready = self._ready[key]
        step = _step(len(self.S))
        for start in range(0, x.shape[1], step):
            part = x[:, start : start + step]
            if ready.dense is not None:
                part.copy_(ready.dense @ part)
            else:
                pulled = None if ready.v is None else ready.v @ part  # before x changes
                if ready.diagonal is not None:
                    part.mul_(ready.diagonal)
                if pulled is not None and ready.u is not None:
                    part.addcmul_(ready.u, pulled)
            for M, extra in zip(ready.extras, extras, strict=True):
                if len(extra) == 1:
                    part.addcmul_(M, extra[:, start : start + step])
                elif len(extra):
                    part.addmm_(M, extra[:, start : start + step])


class _Tensors:
    """The matrices of a Local as tensors of one dtype and device."""

    def __init__(self, local: Local, like: Tensor) -> None:
        def made(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.array(array)).to(like)

        self.extras = [made(M) for M in local.extras]
        self.dense = self.u = self.v = self.diagonal = None
        split = _split(local.S)
        if split is None:
            self.dense = made(local.S)
            return
        diagonal, u, v = split
        if not np.all(diagonal == 1):
            self.diagonal = made(diagonal[:, None])
        if np.any(u) and np.any(v):
            self.u, self.v = made(u[:, None]), made(v[None])


def _split(S: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """diagonal, u, v with S = diag + u v', or None when S is no such matrix."""
    if not (S - np.diag(np.diag(S))).any():
        return np.diag(S), np.zeros(len(S)), np.zeros(len(S))
    found = factors.rank_one(S, np.arange(len(S)))
    if found is None:
        return None
    u, v = found
    diagonal = np.diag(S) - u * v
    diagonal[np.abs(diagonal) < factors.NOISE * np.abs(S).max()] = 0
    return diagonal, u, v


def _step(rows: int) -> int:
    return max(2048, CHUNK // rows)


@dataclass
class Lowered:
    """A plan made ready for one process.

    `core` rows are sent and summed; below them lie replicated auxiliary rows, which change by sums alone.
    """

    plan: plans.Plan
    core: int
    core_local: Local  # extras: the replicated rows, then what arrives
    aux_local: Local | None  # extras: what arrives
    sums: list[tuple[tuple[int, ...], np.ndarray]]  # group, V (k, core): those this process is in
    sends: list[tuple[int, np.ndarray]]  # destination, V (k, core)
    receives: list[tuple[int, int]]  # source, k
    in_place: bool  # one row here, which becomes the sum of everybody's: nothing to set aside


class Stacked(Fleet):
    """Every row in this process; nothing is sent."""

    def rows(self, start: Tensor) -> Rows:
        return start.expand(self.held, -1).clone()

    def total(self, values: Tensor) -> Tensor:
        return values

    def gather(self, x: Rows) -> Tensor | None:
        return x.clone()

    def barrier(self) -> None:
        pass

    def _lowered(self, plan: plans.Plan) -> Lowered:
        rows, q = plan.layout.rows(self.rank), self.rank
        core = len(plan.layout.workers(q)) if plan.layout.replicated else len(rows)
        stay, (out, into) = plan.stay(q), plan.edges(q)
        mine = [item for item in plan.sums if q in item.group]
        arriving = np.hstack([np.zeros((len(rows), 0)), *(item.U[rows] for item in mine), *(e.U[rows] for e in into)])
        alone = len(rows) == 1 and not stay.any() and len(mine) == 1 and not into and not out
        return Lowered(
            plan,
            core,
            in_place=alone and arriving.tolist() == [[1.0]],
            core_local=Local(stay[:core, :core], (stay[:core, core:], arriving[:core])),
            aux_local=Local(stay[core:, core:], (arriving[core:],)) if core < len(rows) else None,
            sums=[(item.group, item.V[:, rows[:core]]) for item in mine],
            sends=[(e.dst, e.V[:, rows[:core]]) for e in out],
            receives=[(e.src, len(e.V)) for e in into],
        )

    def _mix(self, lowered: Lowered, xs: tuple[Rows, ...]) -> None:
        x = xs[0] if len(xs) == 1 else torch.cat(xs, dim=1)  # one message an edge, whatever it carries
        if lowered.in_place:
            ((group, V),) = lowered.sums
            self._reduce(x.mul_(float(V.item())), group)
            return _split_back(x, xs)
        core, aux = x[: lowered.core], x[lowered.core :]
        arriving = self._carry(lowered, core)
        lowered.core_local(core, aux, arriving)
        if lowered.aux_local is not None:
            lowered.aux_local(aux, arriving)
        _split_back(x, xs)

    def _carry(self, lowered: Lowered, core: Tensor) -> Tensor:
        """(k, d): the sums this process is in, then the messages to it."""
        sums = sum(len(V) for _, V in lowered.sums)
        arriving = core.new_empty(sums + sum(k for _, k in lowered.receives), core.shape[1])
        finish = self._exchange(lowered, core, arriving[sums:])
        at = 0
        for group, V in lowered.sums:
            self._reduce(combine(V, core, arriving[at : at + len(V)]), group)
            at += len(V)
        finish()
        return arriving

    def _exchange(self, lowered: Lowered, core: Tensor, arriving: Tensor) -> Callable[[], None]:
        """Start every message; call what it returns to wait for them."""
        return lambda: None

    def _reduce(self, part: Tensor, group: tuple[int, ...]) -> None:
        """Sum over the processes of a group, in place."""

    def _mean(self, x: Rows) -> Common:
        return x[: self.m].mean(0, keepdim=True)


def _split_back(x: Tensor, xs: tuple[Rows, ...]) -> None:
    """Return what several tensors became when they were mixed as one."""
    if len(xs) > 1:
        for y, new in zip(xs, x.split([y.shape[1] for y in xs], dim=1), strict=True):
            y.copy_(new)


def combine(V: np.ndarray, x: Tensor, out: Tensor) -> Tensor:
    """out (k, d) <- V @ x for a (k, r) V, a slice of columns at a time."""
    weights, step = torch.from_numpy(V).to(x), _step(len(x))
    if V.size == 1:
        return torch.mul(x, weights, out=out)
    for start in range(0, x.shape[1], step):
        out[:, start : start + step] = weights @ x[:, start : start + step]
    return out
