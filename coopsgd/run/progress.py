"""What a command is at and how far, on stderr: a live line on a terminal, elsewhere a plain one now and then."""

from __future__ import annotations

import contextlib
import sys
import time

PATIENCE = 1.0  # seconds in silence before the first plain line
EVERY = 10.0  # seconds between two


def say(text: str) -> None:
    """A line of its own on stderr, at once. A console that cannot be written is no reason to end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)


class Progress:
    """Counts to `total`: `at(3, "tau=4")` says that 3 are done and the fourth, of that name, is begun.

    Draws nothing by itself: a thread would be in the way of processes that fork.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._next = time.monotonic() + PATIENCE
        self._width = 0
        try:
            self._live = sys.stderr.isatty()
        except (AttributeError, ValueError):  # there is no stderr
            self._live = False

    def at(self, done: int, name: str = "") -> None:
        """So many are done."""
        text = f"{self._what}: {done} of {self._total} done" + (f", now {name}" if name else "")
        if self._live:
            self._draw(text)
        elif time.monotonic() >= self._next and self._total > 1:
            self._next = time.monotonic() + EVERY
            say(text)

    def close(self) -> None:
        """Take the live line away."""
        if self._live and self._width:
            self._draw("")

    def _draw(self, text: str) -> None:
        text = text[:100]
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write("\r" + text.ljust(self._width) + ("" if text else "\r"))
            sys.stderr.flush()
        self._width = len(text)
