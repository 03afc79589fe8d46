"""Lines about work that takes long (a download, a large file), from code without a console; a command sets `listener`."""

from __future__ import annotations

from collections.abc import Callable

listener: Callable[[str], None] | None = None  # None: nobody wants to know, as in a program that uses the library


def tell(text: str) -> None:
    """A line for whoever waits."""
    if listener is not None:
        listener(text)
