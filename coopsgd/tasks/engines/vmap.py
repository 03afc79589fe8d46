"""torch.func.vmap over rows: any module whose forward pass is a pure function, at the price of importing torch's compiler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from coopsgd.tasks.engines.base import Engine, Layout, step_

if TYPE_CHECKING:
    from coopsgd.optim import SGDStep

AT_ONCE = 8  # models that look at test samples, which are more than a batch


class Vmap(Engine):
    """vmap(grad(functional_call)). The first call imports torch._dynamo, 1.6 s."""

    name: ClassVar[str] = "vmap"

    def __init__(self, module: nn.Module) -> None:
        self._module, self._layout = module, Layout(module)
        self._all: Any = None

    @staticmethod
    def cannot(module: nn.Module) -> str | None:
        """Why it cannot run this module; None when it can."""
        return None

    def gradients(self, a: int, b: int, inputs: Tensor, targets: Tensor, seeds: Sequence[int] = ()) -> Tensor:
        grads, losses = self._both(self._x[a:b].data, inputs, targets)
        for into, grad in zip(self._layout.stacked(self._grad[a:b]), grads, strict=True):
            into.copy_(grad)
        return losses

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
        grads, losses = self._both(self._x[a:b].data, inputs, targets)
        if step is not None:
            scratch = torch.empty_like(self._x[a:b])
            for into, grad in zip(self._layout.stacked(scratch), grads, strict=True):
                into.copy_(grad)
            step_(
                self._x[a:b].unbind(), scratch.unbind(), () if step.velocity is None else step.velocity[a:b].unbind(), lr, step
            )
            return losses
        for value, grad in zip(self._layout.stacked(self._x[a:b]), grads, strict=True):
            value.add_(grad, alpha=-lr)
        return losses

    def logits(self, x: Tensor, inputs: Tensor, statistics: Tensor | None = None) -> Tensor:
        module = self._module.eval()
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            found = torch.func.vmap(self._forward, in_dims=(0, None), chunk_size=AT_ONCE)(self._named(x), inputs)
        module.train()
        return found

    def _both(self, x: Tensor, inputs: Tensor, targets: Tensor) -> tuple[list[Tensor], Tensor]:
        if self._all is None:
            self._all = torch.func.vmap(torch.func.grad_and_value(self._loss))
        with sdpa_kernel(SDPBackend.MATH):  # vmap would take the models one by one through fused attention
            grads, losses = self._all(self._named(x), inputs, targets)
        return [grads[name] for name in self._layout.names], losses

    def _named(self, x: Tensor) -> dict[str, Tensor]:
        return dict(zip(self._layout.names, self._layout.stacked(x), strict=True))

    def _forward(self, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return torch.func.functional_call(self._module, parameters, (inputs,))

    def _loss(self, parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(self._forward(parameters, inputs), targets)
