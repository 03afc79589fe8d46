"""Batched matrix products for stacks of linear layers, the backward pass written out.

A layer of c rows is y = x W^T + b as one product of (c, batch, in) and (c, in, out); its gradient g^T x lands where it
belongs, in the gradient rows, or in the weights themselves: `W.baddbmm_(g^T, x, alpha=-lr)` is gradient and update in one
product, and no gradient is ever stored. With momentum it lands in the velocity: `V.baddbmm_(g^T, x, beta=momentum)`.
Where there is a compiled kernel for the same (dense.py), that computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from coopsgd.tasks.engines import losses as known
from coopsgd.tasks.engines.base import Engine, Layout, Views, flattened, step_, strangers
from coopsgd.tasks.engines.dense import Dense, fits

if TYPE_CHECKING:
    import numpy as np

    from coopsgd.host import native
    from coopsgd.optim import SGDStep
    from coopsgd.tasks.engines.samples import Samples

# layer -> (forward, backward): the gradient before the layer from the one after it, the layer's input and its output
ACTIVATIONS: dict[type, tuple[Callable[[Tensor, nn.Module], Tensor], Callable[[Tensor, Tensor, Tensor, nn.Module], Tensor]]] = {
    nn.ReLU: (
        lambda z, layer: torch.relu(z),
        lambda g, z, y, layer: torch.ops.aten.threshold_backward(g, y, 0),
    ),
    nn.Tanh: (
        lambda z, layer: torch.tanh(z),
        lambda g, z, y, layer: torch.ops.aten.tanh_backward(g, y),
    ),
    nn.GELU: (
        lambda z, layer: torch.nn.functional.gelu(z, approximate=str(layer.approximate)),
        lambda g, z, y, layer: torch.ops.aten.gelu_backward(g, z, approximate=str(layer.approximate)),
    ),
}


class Bmm(Engine):
    """Sequential of Flatten, Linear and elementwise activations."""

    name: ClassVar[str] = "bmm"
    intra: ClassVar[bool] = False

    def __init__(self, module: nn.Module) -> None:
        self._layers = _layers(module)
        self._layout = Layout(module)
        self._views = Views(self._layout.stacked)
        self._scratch: Tensor | None = None  # gradients that a step uses up at once
        self._kernel: Dense | None = None  # what computes in place of torch
        self._compiled = Dense(self._layers[::2]) if fits(self._layers) else None  # type: ignore[arg-type]  # all linear, as fits says

    @staticmethod
    def cannot(module: nn.Module) -> str | None:
        """Why it cannot run this module; None when it can."""
        unknown = strangers(module, (nn.Flatten, nn.Linear, nn.Identity, *ACTIVATIONS))
        if unknown is not None:
            return unknown
        layers = flattened(module) or []
        if not layers or not isinstance(layers[-1], nn.Linear):
            return "the last layer must be linear"
        flat = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Flatten)]
        if flat != [0] or (layers[0].start_dim, layers[0].end_dim) != (1, -1):
            return "it needs one Flatten, in front, of everything"
        return None

    @staticmethod
    def compiled(module: nn.Module) -> bool:
        """Is there a kernel for it?"""
        return fits(_layers(module))

    def bind(
        self, x: Tensor, grad: Tensor, statistics: Tensor | None = None, module_buffers: Sequence[Tensor] | None = None
    ) -> None:
        super().bind(x, grad, statistics, module_buffers)
        self._views.clear()
        self._scratch = None
        self._kernel = self._compiled if Dense.takes(x) and Dense.takes(grad) else None

    @torch.no_grad()
    def gradients(self, a: int, b: int, inputs: Tensor, targets: Tensor, seeds: Sequence[int] = ()) -> Tensor:
        if self._kernel is not None and self.loss is known.cross_entropy:
            return self._kernel(self._x[a:b], self._grad[a:b], inputs.flatten(2), targets)
        return self._pass(self._at(a, b), inputs, targets, self._views("gradients", self._grad, (a, b)))

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
        decay, velocity = (0.0, None) if step is None else (step.weight_decay, step.velocity)
        if self._kernel is not None and self.loss is known.cross_entropy:
            return self._kernel(self._x[a:b], None, inputs.flatten(2), targets, lr, _of(step, a, b))
        if step is None or velocity is None:
            return self._pass(self._at(a, b), inputs, targets, self._at(a, b), 1 - lr * decay, -lr)
        if not step.nesterov and not decay:
            moved = self._views("velocity", velocity, (a, b))
            losses = self._pass(self._at(a, b), inputs, targets, moved, step.momentum, 1.0)
            self._x[a:b].add_(velocity[a:b], alpha=-lr)
            return losses
        if self._scratch is None or len(self._scratch) < b - a:
            self._scratch = torch.empty_like(self._x[a:b])
        losses = self._pass(self._at(a, b), inputs, targets, self._layout.stacked(self._scratch[: b - a]))
        step_(self._x[a:b].unbind(), self._scratch[: b - a].unbind(), velocity[a:b].unbind(), lr, step)
        return losses

    def reads(self, samples: Samples) -> bool:
        compiled = self._kernel is not None and self.loss is known.cross_entropy
        return compiled and samples.dtype == self._x.dtype and samples.width == self._layers[0].in_features

    def learn(
        self,
        a: int,
        b: int,
        samples: Samples,
        which: np.ndarray,
        losses: Tensor,
        rates: Sequence[float] | None = None,
        step: SGDStep | None = None,
    ) -> None:
        assert self._kernel is not None, "only where it reads them"
        whole = b - a == self._x.shape[0]  # then there is nothing to cut, which takes as long as a small layer
        x, grad = (self._x, self._grad) if whole else (self._x[a:b], self._grad[a:b])
        if rates is None:
            return self._kernel.steps(x, grad, samples, which, losses)
        return self._kernel.steps(x, None, samples, which, losses, rates, _of(step, a, b))

    def learning(
        self, samples: Samples, which: np.ndarray, losses: Tensor, rates: Sequence[float], step: SGDStep | None, stored: bool
    ) -> native.Learning:
        assert self._kernel is not None, "only where it reads them"
        return self._kernel.learning(self._x, self._grad if stored else None, samples, which, losses, rates, step)

    @torch.no_grad()
    def logits(self, x: Tensor, inputs: Tensor, statistics: Tensor | None = None) -> Tensor:
        flat = inputs.flatten(1)
        return self._forward(self._layout.stacked(x), flat.expand(len(x), *flat.shape))[-1]

    def _at(self, a: int, b: int) -> list[Tensor]:
        return self._views("models", self._x, (a, b))

    def _forward(self, parameters: list[Tensor], h: Tensor) -> list[Tensor]:
        """The input, then what every layer makes of it."""
        made, rest = [h], iter(parameters)
        for layer in self._layers:
            if isinstance(layer, nn.Linear):
                weight = next(rest).transpose(1, 2)
                h = torch.bmm(h, weight) if layer.bias is None else torch.baddbmm(next(rest)[:, None], h, weight)
            else:
                h = ACTIVATIONS[type(layer)][0](h, layer)
            made.append(h)
        return made

    def _pass(
        self,
        parameters: list[Tensor],
        inputs: Tensor,
        targets: Tensor,
        into: list[Tensor],
        keep: float | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """Forward and backward: into <- keep * into + scale * gradient, or the gradient where `keep` is None.

        `into` may be the parameters themselves.
        """
        made = self._forward(parameters, inputs.flatten(2))
        losses, g = self._ends(made[-1], targets)
        at, first = len(parameters), next(i for i, layer in enumerate(self._layers) if isinstance(layer, nn.Linear))
        for i in range(len(self._layers) - 1, first - 1, -1):
            layer, before, after = self._layers[i], made[i], made[i + 1]
            if not isinstance(layer, nn.Linear):
                g = ACTIVATIONS[type(layer)][1](g, before, after, layer)
                continue
            at -= 1 if layer.bias is None else 2
            below = torch.bmm(g, parameters[at]) if i > first else g  # before the weights move
            if keep is None:
                torch.bmm(g.transpose(1, 2), before, out=into[at])
                if layer.bias is not None:
                    torch.sum(g, 1, out=into[at + 1])
            else:
                into[at].baddbmm_(g.transpose(1, 2), before, beta=keep, alpha=scale)
                if layer.bias is not None:
                    bias = into[at + 1] if keep == 1 else into[at + 1].mul_(keep)
                    bias.add_(g.sum(1), alpha=scale)
            g = below
        return losses

    def _ends(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each row, (c,), and its gradient at the outputs (c, batch, classes)."""
        if self.loss is known.cross_entropy:
            return cross_entropy(outputs, targets)
        with torch.enable_grad():
            at = outputs.detach().requires_grad_()
            losses = torch.stack([self.loss(*one) for one in zip(at, targets, strict=True)])
            (g,) = torch.autograd.grad(losses.sum(), at)
        return losses.detach(), g


def _of(step: SGDStep | None, a: int, b: int) -> SGDStep | None:
    """The step of rows [a, b)."""
    return step if step is None or step.velocity is None else step._replace(velocity=step.velocity[a:b])


def _layers(module: nn.Module) -> list[nn.Module]:
    """Those that compute."""
    return [layer for layer in flattened(module) or [] if not isinstance(layer, nn.Flatten | nn.Identity)]


def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy of each row, (c,), and its gradient at the logits (c, batch, classes)."""
    logs = torch.log_softmax(logits, 2)
    where = targets[:, :, None]
    picked = logs.gather(2, where)
    g = logs.exp_()
    g.scatter_add_(2, where, g.new_full((), -1.0).expand(where.shape))
    return picked.mean((1, 2)).neg_(), g.mul_(1 / logits.shape[1])
