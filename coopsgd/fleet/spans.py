"""Seconds of a GPU's own time, by events of its stream that are read once they are over: nobody waits for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Spans:
    """What the stream of this process spends between two points of the program, added up."""

    def __init__(self) -> None:
        self._under_way: deque[tuple[Any, Any]] = deque()  # events before and after

    @contextmanager
    def span(self, counted: bool = True) -> Iterator[None]:
        """Inside, what the stream does, and waits for, is one span. counted: unless nobody asks for it."""
        if not counted:
            yield
            return
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        try:
            yield
        finally:
            after.record()
            self._under_way.append((before, after))

    def over(self) -> float:
        """Seconds of the spans that have ended since this was last asked; behind a synchronisation of all of them."""
        seconds = 0.0
        while self._under_way and self._under_way[0][1].query():
            before, after = self._under_way.popleft()
            seconds += before.elapsed_time(after) / 1e3
        return seconds
