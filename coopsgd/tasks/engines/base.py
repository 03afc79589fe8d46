"""What an engine is: a way to take the losses and gradients of neighbouring rows, each row a whole model.

Inputs carry the row in front, (c, batch, ...) for c rows, targets (c, batch, ...); `loss` is a mean over them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from coopsgd.tasks.engines.losses import Loss, cross_entropy

if TYPE_CHECKING:
    import numpy as np

    from coopsgd.host import native
    from coopsgd.optim import SGDStep
    from coopsgd.tasks.engines.samples import Samples


class Views:
    """Views of every parameter in some rows of a tensor, made once for as long as it is the same tensor."""

    def __init__(self, split: Callable[[Tensor], list[Tensor]]) -> None:
        self._split = split  # the views of rows
        self._kept: dict[str, tuple[Tensor, dict[Any, list[Tensor]]]] = {}

    def __call__(self, what: str, rows: Tensor, at: int | tuple[int, int]) -> list[Tensor]:
        """Of row `at`, or of rows [a, b) for a pair. what: which tensor it is; another one takes the earlier one's place."""
        held = self._kept.get(what)
        if held is None or held[0] is not rows:
            held = self._kept[what] = rows, {}
        found = held[1].get(at)
        if found is None:
            found = held[1][at] = self._split(rows[slice(*at)] if isinstance(at, tuple) else rows[at])
        return found

    def clear(self) -> None:
        """Forget them: the tensors are bound anew."""
        self._kept.clear()


class Engine(ABC):
    """Rows [a, b) of the bound (w, d) tensors at a time. One engine serves one thread."""

    name: ClassVar[str]
    intra: ClassVar[bool] = True  # do torch's own threads help it?
    answers_itself: ClassVar[bool] = False  # is `logits` quicker than the module's own forward pass?
    loss: Loss = staticmethod(cross_entropy)  # of one row's outputs and targets
    channels_last: bool = True  # do weights of convolutions lie so in a row?

    def bind(
        self, x: Tensor, grad: Tensor, statistics: Tensor | None = None, module_buffers: Sequence[Tensor] | None = None
    ) -> None:
        """Take the (w, d) rows to work on, their gradient rows, and what they have of statistics (w, b) and module buffers."""
        self._x, self._grad, self._statistics, self._module_buffers = x, grad, statistics, module_buffers

    @abstractmethod
    def gradients(self, a: int, b: int, inputs: Tensor, targets: Tensor, seeds: Sequence[int] = ()) -> Tensor:
        """Fill gradient rows [a, b) and return the losses, (b - a,). seeds: one a row where the module draws numbers."""

    @abstractmethod
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
        """x -= lr * gradient on rows [a, b), leaving no gradient behind; the losses before it, (b - a,).

        step: what is done beside that, where there is momentum or weight decay; its velocity moves in place.
        """

    def reads(self, samples: Samples) -> bool:
        """Can it take batches of these samples by itself, as `learn` does?"""
        return False

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
        """`descend` once for each of the rates, or `gradients` where there are none: step j on the samples which[j].

        which: (steps, c, batch) sample numbers. losses: (steps, c or more), of which it fills the first c of each.
        """
        raise NotImplementedError

    def learning(
        self, samples: Samples, which: np.ndarray, losses: Tensor, rates: Sequence[float], step: SGDStep | None, stored: bool
    ) -> native.Learning:
        """What `learn` does with all rows, for compiled code that does it; stored: its gradients are, and no step is taken."""
        raise NotImplementedError

    @abstractmethod
    def logits(self, x: Tensor, inputs: Tensor, statistics: Tensor | None = None) -> Tensor:
        """(c, n, ..., classes) of the models x (c, d) with their statistics, each on the same n inputs; for looking only."""


Tensors = tuple[Tensor, ...] | list[Tensor]


def step_(x: Tensors, grad: Tensors, velocity: Tensors, lr: float, step: SGDStep) -> None:
    """Each x takes a step of SGD along its gradient, in one pass over its numbers; velocity: () where there is none.

    All three lie alike. It is torch.optim.SGD's step but for how the last few numbers are rounded.
    """
    torch._fused_sgd_(
        x,
        grad,
        velocity,
        weight_decay=step.weight_decay,
        momentum=step.momentum if velocity else 0.0,
        lr=lr,
        dampening=0.0,
        nesterov=step.nesterov,
        maximize=False,
        is_first_step=False,
    )


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Layout:
    """Where the parameters of a module lie in a row."""

    def __init__(self, module: nn.Module) -> None:
        self.names = [name for name, _ in module.named_parameters()]
        self.shapes = [p.shape for p in module.parameters()]
        self._sizes = [shape.numel() for shape in self.shapes]

    def stacked(self, rows: Tensor, channels_last: bool = True) -> list[Tensor]:
        """Views (c, *shape) of every parameter in rows (c, d); do weights of convolutions lie channels last in a row?"""
        return [
            _stacked(part, shape, channels_last)
            for part, shape in zip(rows.split(self._sizes, dim=1), self.shapes, strict=True)
        ]


def _stacked(part: Tensor, shape: torch.Size, channels_last: bool) -> Tensor:
    if len(shape) != 4 or not channels_last:
        return part.view(len(part), *shape)
    out, channels, height, width = shape
    return part.view(len(part), out, height, width, channels).permute(0, 1, 4, 2, 3)


def flattened(module: nn.Module) -> list[nn.Module] | None:
    """The layers of plain nested nn.Sequential in order; None for any other module, or when a layer comes twice."""
    if type(module) is not nn.Sequential:
        return None
    layers: list[nn.Module] = []
    for part in module:
        inner = flattened(part) if type(part) is nn.Sequential else [part]
        if inner is None:
            return None
        layers += inner
    return layers if len({id(layer) for layer in layers}) == len(layers) else None


def strangers(module: nn.Module, known: tuple[type, ...]) -> str | None:
    """What keeps a module from being a Sequential of the `known` layers; None when nothing does."""
    layers = flattened(module)
    if layers is None:
        return f"{type(module).__name__} is no nn.Sequential of distinct layers"
    if any(getattr(part, hooks) for part in module.modules() for hooks in HOOKS):
        return "a layer has hooks, which only calling it runs"
    return next((f"it does not know {type(layer).__name__}" for layer in layers if type(layer) not in known), None)
