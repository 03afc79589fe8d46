"""Muon on stacked rows: each hidden matrix of each worker takes a step of its own, many of them in one batched product.

As torch.optim.Muon does it (Keller Jordan et al. 2024), but in the rows' own kind of number. Other columns take AdamW's steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from coopsgd.fleet.block import Block
from coopsgd.optim import Muon

COEFFICIENTS = 3.4445, -4.7750, 2.0315
EPS = 1e-7  # the least norm that is divided by, as in torch.optim.Muon
TOGETHER = 1 << 16  # numbers of the matrices that are worked on at once: they stay in cache, and small ones come by the dozen


def orthogonalised(matrices: Tensor, steps: int) -> Tensor:
    """(n, a, b) each with its singular values brought near 1, to about [0.5, 1.5], by so many steps of Newton-Schulz.

    X <- a X + (b A + c A^2) X with A = X X^T, from X of norm 1: an odd polynomial of X, so singular vectors stay as they are.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices / torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True).clamp_(min=EPS)
    x = x.mT if tall else x
    for _ in range(steps):
        square = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class MuonStep(torch.optim.Optimizer):
    """A torch optimiser of parameters that are rows, (n, d) each; who has no gradient takes no step.

    State of a parameter: `exp_avg` (n, d), the mean gradient (Muon's momentum, Adam's first moment), `exp_avg_sq` (n, d') of
    the d' columns that Adam moves, in their order, `step`.
    blocks: tells what the rows are made of, once a step is taken.
    """

    def __init__(self, parts: Any, settings: Muon, blocks: Callable[[], Sequence[Block]]) -> None:
        super().__init__(parts, {"lr": settings.lr})
        self._settings, self._tell = settings, blocks

    @cached_property
    def _matrices(self) -> list[Block]:
        return sorted(self._settings.chosen(self._tell()), key=lambda block: block.start)

    @cached_property
    def _others(self) -> list[tuple[int, int]]:
        """The columns that Adam moves, as runs [a, b)."""
        d, runs, at = self.param_groups[0]["params"][0].shape[1], [], 0
        for block in self._matrices:
            runs += [(at, block.start)] * (at < block.start)
            at = block.stop
        return runs + [(at, d)] * (at < d)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        group, settings = self.param_groups[0], self._settings
        moving = [p for p in group["params"] if p.grad is not None]
        share = group["lr"] / settings.lr  # both rates move by one schedule
        for p in moving:
            self._average(p)
            self._adam(p, settings.adam_lr * share)
        by_shape: dict[torch.Size, list[_Matrices]] = {}
        for block in self._matrices:
            for p in moving:
                found = _Matrices(*(block.matrices(rows) for rows in (p, p.grad, self.state[p]["exp_avg"])))
                by_shape.setdefault(found.x.shape[1:], []).append(found)
        for shape, every in by_shape.items():
            for some in _together(every, max(1, TOGETHER // shape.numel())):
                self._turn(shape, some, group["lr"])

    def _average(self, p: Tensor) -> None:
        """Move the mean gradient, each column by its own share."""
        state, settings = self.state[p], self._settings
        if not state:
            state |= {"exp_avg": torch.zeros_like(p), "step": torch.tensor(0.0)}
            state["exp_avg_sq"] = p.new_zeros(len(p), sum(b - a for a, b in self._others))
        state["step"] += 1
        mean = state["exp_avg"]
        for block in self._matrices:
            mean[:, block.start : block.stop].lerp_(p.grad[:, block.start : block.stop], 1 - settings.momentum)  # type: ignore[index]
        for a, b in self._others:
            mean[:, a:b].lerp_(p.grad[:, a:b], 1 - settings.adam_beta1)  # type: ignore[index]

    def _adam(self, p: Tensor, lr: float) -> None:
        """AdamW's step of all other columns."""
        state, settings, at = self.state[p], self._settings, 0
        k = float(state["step"])
        rate = lr / (1 - settings.adam_beta1**k)
        root = (1 - settings.adam_beta2**k) ** 0.5
        for a, b in self._others:
            square, grad, x = state["exp_avg_sq"][:, at : at + b - a], p.grad[:, a:b], p[:, a:b]  # type: ignore[index]
            square.mul_(settings.adam_beta2).addcmul_(grad, grad, value=1 - settings.adam_beta2)
            x.mul_(1 - lr * settings.weight_decay)
            x.addcdiv_(state["exp_avg"][:, a:b], (square.sqrt() / root).add_(settings.adam_eps), value=-rate)
            at += b - a

    def _turn(self, shape: torch.Size, some: Sequence[_Matrices], lr: float) -> None:
        """Muon's step of matrices of one shape."""
        settings = self._settings
        mean = torch.cat([one.mean for one in some])
        if settings.nesterov:
            mean = torch.cat([one.grad for one in some]).lerp_(mean, settings.momentum)
        turned, scale = orthogonalised(mean, settings.ns_steps), settings.scale(*shape)
        for one, direction in zip(some, turned.split([len(one.x) for one in some]), strict=True):
            one.x.mul_(1 - lr * settings.weight_decay).sub_(direction, alpha=lr * scale)


class _Matrices(NamedTuple):
    """(n, a, b) views of one block: of the rows, their gradients and their mean gradients."""

    x: Tensor
    grad: Tensor
    mean: Tensor


def _together(every: Sequence[_Matrices], most: int) -> Iterator[list[_Matrices]]:
    """The same in lists of at most so many matrices each."""
    some: list[_Matrices] = []
    room = most
    for one in every:
        at = 0
        while at < len(one.x):
            n = min(room, len(one.x) - at)
            some.append(_Matrices(*(view[at : at + n] for view in one)))
            at, room = at + n, room - n
            if not room:
                yield some
                some, room = [], most
    if some:
        yield some
