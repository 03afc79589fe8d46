"""Verbs that were started and not yet waited for, and rows that travel with their messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from coopsgd.fleet.base import Rows


class Pending:
    """A verb that was started: `wait` for its answer, once."""

    def __init__(self, wait: Callable[[], Any]) -> None:
        self._wait: Callable[[], Any] | None = wait

    def wait(self) -> Any:
        """The answer, when everybody it needs has taken part."""
        if self._wait is None:
            raise RuntimeError("wait: this verb has been waited for already; keep its answer")
        wait, self._wait = self._wait, None
        return wait()


class Carried:
    """Rows that travel with somebody else's message; `made` is what became of them, once its verb was waited for.

    After a mix those are Rows, after a mean or a pick one value each, (1, n). Empty when no verb took them.
    """

    def __init__(self, rows: tuple[Rows, ...], by: Any = None) -> None:
        self.rows, self.by = rows, by
        self.taken = False
        self.unlike = False  # was there a verb that could not take them, on numbers of another kind?
        self.made: tuple[Tensor, ...] = ()


def alike(x: Rows, y: Rows) -> bool:
    """May they be one message?"""
    return x.dtype == y.dtype and x.device == y.device


def width(x: Rows) -> int:
    """Bytes of one row."""
    return x.shape[1] * x.element_size()
