"""Between the loop, the task and the optimiser: gradients made when asked for, and plain steps fused with their gradient.

A plain step is x <- x - lr * gradient. A task that can `descend` takes it without storing a gradient, and takes the steps
up to the next communication or log line for a few rows at a time, while those rows are in cache. Whoever may look between
two steps gets them one by one.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coopsgd.optim import clip_

if TYPE_CHECKING:
    import numpy as np

    from coopsgd.optim import Inner

PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
AHEAD = 64  # steps taken at once at most: their batches and losses are kept


class Steps:
    """The local steps of the rows x (r, d) held here.

    statistics: (r, b) running statistics; clip: the largest norm of a worker's gradient. Either may be None.
    plain: does the strategy begin every step with `local(x)` and ask for no gradient? Only then is anything put off or
    fused: another one may change x in place before it asks, so its gradients are there when its step begins.
    unwatched(k): so many steps, k the first, are taken before x is mixed or looked at; at least 1.
    patient: does it ask for the gradient before it changes x? Then nothing is fused, but the gradient can wait till asked for.
    asked: told whenever the step is asked for, once or more often: from then on its time passes.
    """

    def __init__(
        self,
        problem: Any,
        inner: Inner,
        x: Tensor,
        statistics: Tensor | None,
        clip: float | None,
        plain: bool,
        unwatched: Callable[[int], int],
        patient: bool = False,
        asked: Callable[[], None] = lambda: None,
    ) -> None:
        self._patient, self._asked = patient, asked
        self._problem, self._inner, self._x, self._plain, self._unwatched = problem, inner, x, plain, unwatched
        self._grad = reserved(x)
        problem.bind(x, self._grad, statistics)
        self._clip = clip
        self._fusing = plain and inner.plain and clip is None and hasattr(problem, "descend")
        self._taken: deque[Tensor] = deque()  # losses of later steps that x has taken already
        self._loss: Tensor | None = None
        self._moved = False

    @property
    def moved(self) -> bool:
        """Has this iteration's step been taken?"""
        return self._moved

    def begin(self, k: int, active: np.ndarray | None, own: np.ndarray) -> None:
        """Iteration k, in which the workers held here compute that are `active` (None: all), after `own` steps each."""
        self._k, self._active, self._own = k, active, own
        self._fused, self._moved = bool(self._taken), False
        self._loss = self._taken.popleft() if self._taken else None
        if not (self._plain or self._patient):
            _ = self.loss

    @property
    def loss(self) -> Tensor:
        """(r, 1) losses of this step's minibatches, where x was when it began."""
        self._asked()
        if self._loss is None:
            self._loss = self._problem.gradients(self._k, self._active, self._own)
            if self._clip is not None:
                clip_(self._grad, self._clip)
        return self._loss

    @property
    def grad(self) -> Tensor:
        """(r, d) gradients there."""
        if self._fused:
            raise RuntimeError("a strategy that declares itself plain asks for a gradient; leave `plain` False")
        _ = self.loss  # made together
        return self._grad

    def local(self, x: Tensor, direction: Tensor | None = None) -> Tensor:
        """One optimiser step of each active worker row of x, along -direction or the gradient."""
        self._asked()
        simple = direction is None and x is self._x and not self._moved
        self._moved = True
        if simple and self._fusing and self._loss is None:
            rates = self._inner.rates(self._unwatched(self._k))
            self._loss, *later = self._problem.descend(self._k, rates, self._active, self._own)
            self._taken.extend(later)
            self._fused = True
        if simple and self._fused:
            return x  # it has taken this step already
        grad = self.grad  # also when the direction is another: the loss belongs to where x is now
        return self._inner.step(x, grad if direction is None else direction, self._active)


def reserved(x: Tensor) -> Tensor:
    """Zeros like x that take memory only once they are written to: a fused run never does."""
    if x.device.type != "cpu" or not x.numel():
        return torch.zeros_like(x)
    return torch.frombuffer(mmap.mmap(-1, x.numel() * x.element_size(), flags=PRIVATE), dtype=x.dtype).view(x.shape)
