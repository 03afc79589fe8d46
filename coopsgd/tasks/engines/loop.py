"""One row after another, by autograd on one module whose parameters are views of the row: works for every module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from coopsgd.tasks.engines.base import Engine, step_
from coopsgd.tasks.gradients import Bound, autocast

if TYPE_CHECKING:
    from coopsgd.optim import SGDStep


class Loop(Engine):
    """The module visits the rows. The only engine that can replay dropout: it seeds every row by itself."""

    name: ClassVar[str] = "loop"

    def __init__(self, bound: Bound, amp: str | None = None) -> None:
        self._bound, self._amp = bound, amp
        self._scratch: Tensor | None = None  # a gradient that descend uses up at once
        self._storing: bool | None = None  # are the module's gradients the gradient rows, or the scratch?

    def bind(
        self, x: Tensor, grad: Tensor, statistics: Tensor | None = None, module_buffers: Sequence[Tensor] | None = None
    ) -> None:
        super().bind(x, grad, statistics, module_buffers)
        self._storing = None
        self._bound.module.train()

    def gradients(self, a: int, b: int, inputs: Tensor, targets: Tensor, seeds: Sequence[int] = ()) -> Tensor:
        self._point(storing=True)
        losses = [self._one(i, self._grad[i], inputs[i - a], targets[i - a], seeds[i - a : i - a + 1]) for i in range(a, b)]
        return torch.stack(losses)

    def descend(
        self,
        a: int,
        b: int,
        inputs: Tensor,
        targets: Tensor,
        lr: float,
        seeds: Sequence[int] = (),
        step: SGDStep | None = None,
    ) -> Tensor:
        self._point(storing=False)
        assert self._scratch is not None
        losses = []
        for i in range(a, b):
            losses.append(self._one(i, self._scratch[0], inputs[i - a], targets[i - a], seeds[i - a : i - a + 1]))
            if step is None:
                self._x[i].add_(self._scratch[0], alpha=-lr)
            else:
                step_(self._x, self._scratch, lr, step, i, i + 1)
        return torch.stack(losses)

    def logits(self, x: Tensor, inputs: Tensor, statistics: Tensor | None = None) -> Tensor:
        module, own = self._bound.module.eval(), [None] * len(x) if statistics is None else list(statistics[:, None])
        with torch.no_grad():
            looks = (self._bound.elsewhere(row, with_row) for row, with_row in zip(x[:, None], own, strict=True))
            found = torch.stack([look(inputs) for look in looks])
        module.train()
        return found

    def _one(self, i: int, into: Tensor, inputs: Tensor, targets: Tensor, seed: Sequence[int]) -> Tensor:
        into.zero_()
        if seed:
            torch.manual_seed(seed[0])
        with autocast(self._amp, inputs.device):
            loss = self.loss(self._bound.row(i)(inputs), targets)
        loss.backward()
        return loss.detach()

    def _point(self, storing: bool) -> None:
        if self._storing != storing:
            if not storing and self._scratch is None:
                self._scratch = torch.zeros_like(self._x[:1])
            into = self._grad if storing else self._scratch.expand_as(self._x)  # type: ignore[union-attr]
            self._bound.bind(self._x, into, self._statistics, self._module_buffers)
            self._storing = storing
