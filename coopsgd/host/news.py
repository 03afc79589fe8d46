"""What takes a while below the commands, as a download, tells of it here; a command says who hears it."""

from __future__ import annotations

from collections.abc import Callable

listener: Callable[[str], None] | None = None  # None: nobody wants to know, as in a program that uses the library


def tell(text: str) -> None:
    """A line for whoever waits."""
    if listener is not None:
        listener(text)
