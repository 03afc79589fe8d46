"""One row after another, by autograd on one module whose parameters are views of the row: works for every module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from coopsgd.tasks.engines.base import Engine, Views, step_
from coopsgd.tasks.gradients import Bound, autocast

if TYPE_CHECKING:
    from coopsgd.optim import SGDStep


class Loop(Engine):
    """The module visits the rows. The only engine that can replay dropout: it seeds every row by itself."""

    name: ClassVar[str] = "loop"

    def __init__(self, bound: Bound, amp: str | None = None) -> None:
        self._bound, self._amp = bound, amp
        self._views = Views(bound.split)

    def bind(
        self, x: Tensor, grad: Tensor, statistics: Tensor | None = None, module_buffers: Sequence[Tensor] | None = None
    ) -> None:
        super().bind(x, grad, statistics, module_buffers)
        self._views.clear()
        self._bound.bind(x, None, statistics, module_buffers)
        self._bound.module.train()

    @torch.no_grad()
    def gradients(self, a: int, b: int, inputs: Tensor, targets: Tensor, seeds: Sequence[int] = ()) -> Tensor:
        losses = []
        for i in range(a, b):
            loss, grads = self._one(i, inputs[i - a], targets[i - a], seeds[i - a : i - a + 1])
            torch._foreach_copy_(self._views("gradients", self._grad, i), grads)
            losses.append(loss)
        return torch.stack(losses)

    @torch.no_grad()
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
        losses = []
        for i in range(a, b):
            loss, grads = self._one(i, inputs[i - a], targets[i - a], seeds[i - a : i - a + 1])
            x = self._bound.views(i)
            if step is None:
                torch._foreach_add_(x, grads, alpha=-lr)
            else:
                step_(x, grads, () if step.velocity is None else self._views("velocity", step.velocity, i), lr, step)
            losses.append(loss)
        return torch.stack(losses)

    def logits(self, x: Tensor, inputs: Tensor, statistics: Tensor | None = None) -> Tensor:
        module, own = self._bound.module.eval(), [None] * len(x) if statistics is None else list(statistics[:, None])
        with torch.no_grad():
            looks = (self._bound.elsewhere(row, with_row) for row, with_row in zip(x[:, None], own, strict=True))
            found = torch.stack([look(inputs) for look in looks])
        module.train()
        return found

    def _one(self, i: int, inputs: Tensor, targets: Tensor, seed: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """The loss of row i, and its gradient by parameter."""
        if seed:
            torch.manual_seed(seed[0])
        with torch.enable_grad():
            with autocast(self._amp, inputs.device):
                loss = self.loss(self._bound.row(i)(inputs), targets)
            loss.backward()
        return loss.detach(), self._bound.gradients()
