"""Between the loop, the task and the optimiser: one gradient and one step, or several of both at once.

Where nobody looks at a gradient, a task that can `descend` takes a step of SGD without storing one, and takes the steps up to
the next communication or log line for a few rows at a time, while those rows are in cache. With momentum or weight decay: if it
is one that KEEPS_VELOCITY.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coopsgd.loop.blocks import each

if TYPE_CHECKING:
    import numpy as np

    from coopsgd.loop.inner import Inner

AHEAD = 64  # steps taken at once at most: their batches and losses are kept


class Steps:
    """The local steps of the rows x (r, d) held here.

    statistics: (r, b) running statistics, or None; module_buffers: (w, ...) others; clip: the largest norm of a worker's
    gradient, or None.
    Of a problem that KEEPS_GRADIENTS where its optimiser finds them there are no rows of them, unless somebody reads them.
    fusing: may steps be fused with their gradients, as far as whoever asks for them is concerned? unwatched(k): how many steps,
    k the first, are then taken before x is mixed or looked at; at least 1. zeros_like: the fleet's, for gradients.
    """

    def __init__(
        self,
        problem: Any,
        inner: Inner,
        x: Tensor,
        statistics: Tensor | None,
        module_buffers: Sequence[Tensor],
        clip: float | None,
        fusing: bool,
        unwatched: Callable[[int], int],
        zeros_like: Callable[[Tensor], Tensor],
    ) -> None:
        self.problem, self._inner, self._x, self._unwatched = problem, inner, x, unwatched
        # where gradients stay in the modules, rows of them are for a strategy that asks for them
        self.grad: Any = None if fusing and getattr(problem, "KEEPS_GRADIENTS", False) else each(zeros_like, x)
        problem.bind(x, self.grad, statistics, module_buffers)
        self._clip = clip
        can = inner.plain or (inner.fusable and getattr(problem, "KEEPS_VELOCITY", False))
        self.fused = fusing and can and clip is None and hasattr(problem, "descend")
        self._taken: deque[Tensor] = deque()  # losses of later steps that x has taken already

    @property
    def ahead(self) -> int:
        """How many steps x has taken already beyond the one that the loop is at."""
        return len(self._taken)

    def descend(self, k: int, active: np.ndarray | None, own: np.ndarray) -> Tensor:
        """Step k of the active workers, after `own` steps each; only where `fused`. (r, 1) losses where x was before it."""
        if not self._taken:
            more = () if self._inner.plain else (self._inner.sgd_step(active),)
            self._taken.extend(self.problem.descend(k, self._inner.rates(self._unwatched(k)), active, own, *more))
        return self._taken.popleft()

    def took(self, losses: Iterable[Tensor]) -> None:
        """x has taken steps with these losses, in some other way."""
        self._taken.extend(losses)

    def gradients(self, k: int, active: np.ndarray | None, own: np.ndarray) -> tuple[Tensor, Tensor]:
        """(r, 1) losses of step k's minibatches and (r, d) gradients, clipped; 0 on auxiliary and idle rows."""
        loss = self.problem.gradients(k, active, own)
        if self._clip is not None:
            clip_(self.grad, self._clip)
        return loss, self.grad

    def step(self, direction: Tensor, active: np.ndarray | None) -> None:
        """One optimiser step of each active worker row of x."""
        self._inner.step(self._x, direction, active)


def clip_(grad: Tensor, limit: float) -> None:
    """Scale down, in place, each row whose norm is above the limit, as torch.nn.utils.clip_grad_norm_ does for one model."""
    norms = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
    grad.mul_((limit / (norms + 1e-6)).clamp_(max=1))
