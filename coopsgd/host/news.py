"""Lines about work that takes long (a download, a large file), from code without a console; a command sets `listener`."""

from __future__ import annotations

from collections.abc import Callable

listener: Callable[[str], None] | None = None  # None: nobody wants to know, as in a program that uses the library


def tell(text: str) -> None:
    """A line for whoever waits."""
    if listener is not None:
        listener(text)


def duration(seconds: float) -> str:
    """A time that somebody waits, as he would say it."""
    s = round(seconds)
    if s < 60:
        return f"{max(1, s)} s"
    if s < 3600:
        return f"{s // 60} min {s % 60:02d} s"
    if s < 86400:
        return f"{s // 3600} h {s % 3600 // 60:02d} min"
    return f"{s // 86400} d {s % 86400 // 3600} h"
