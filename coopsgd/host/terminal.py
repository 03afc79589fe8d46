"""Terminals: lines at the end of a stream that are drawn over, where it is one on which that can be done."""

from __future__ import annotations

import contextlib
import os
import re
import textwrap
from collections.abc import Sequence
from typing import Any

DUMB = ("dumb", "unknown")  # terminals that know no sequences, as TERM names them
CLEAR = "\r\x1b[J"  # from the line of the cursor on
BAR = ("━", "─")  # of what is done, and what is not


def can_draw(stream: Any) -> bool:
    """Is it a terminal that lines can be drawn over on?"""
    try:
        return bool(stream.isatty()) and os.environ.get("TERM", "").lower() not in DUMB
    except (AttributeError, ValueError, OSError):  # there is none, or it is closed
        return False


def coloured() -> bool:
    """May there be colours? See https://no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "").lower() not in DUMB


def size(stream: Any) -> tuple[int, int]:
    """Columns and rows of the stream's terminal; 80 and 24 where nobody knows."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found = os.get_terminal_size(stream.fileno())
        return found.columns or 80, found.lines or 24
    return 80, 24


def cut(text: str, columns: int) -> str:
    """At most so many columns of it."""
    return text if len(text) <= columns else text[: max(0, columns - 1)] + "…"


def wrapped(text: str, stream: Any) -> str:
    """On a terminal, parted between words where it would be parted within them."""
    return textwrap.fill(text, max(20, size(stream)[0] - 1)) if can_draw(stream) else text


def fitted(parts: Sequence[tuple[str, str]], columns: int) -> str:
    """Parts side by side, each given in full and shortened: as many in full as fit, from the first on; else cut."""
    text = ""
    for full in range(len(parts), -1, -1):
        text = "  ".join(one for one in (*(one for one, _ in parts[:full]), *(short for _, short in parts[full:])) if one)
        if len(text) <= columns:
            return text
    return cut(text, columns)


def bar(share: float, columns: int) -> str:
    """How much is done."""
    done = int(columns * min(1.0, max(0.0, share)))
    return BAR[0] * done + BAR[1] * (columns - done)


class Drawing:
    """Lines that are drawn over, at the end of a stream.

    Between two drawings the cursor rests where the first of them begins, so what anybody else writes to the terminal meanwhile
    takes its place, and the next drawing goes below it: nothing that was said is lost. Nothing is drawn elsewhere.
    """

    def __init__(self, stream: Any) -> None:
        self.stream, self.live = stream, can_draw(stream)
        self._drawn = False

    def draw(self, *lines: str) -> None:
        """These in place of those before. Lines are cut where the terminal ends."""
        if not self.live:
            return
        columns, rows = size(self.stream)
        shown = [cut(line, columns - 1) for line in lines[: max(1, rows - 1)]]
        if coloured():
            shown = [re.sub(f"{BAR[0]}+", "\x1b[36m\\g<0>\x1b[0m", line) for line in shown]
        up = f"\x1b[{len(shown) - 1}A" if len(shown) > 1 else ""
        self._write("\r" + "\x1b[K\n".join(shown) + "\x1b[J" + up + "\r")
        self._drawn = True

    def above(self, text: str) -> None:
        """A line that stays."""
        self._write((CLEAR if self.live else "") + text + "\n")
        self._drawn = False

    def close(self) -> None:
        """Take the lines away."""
        if self._drawn:
            self._write(CLEAR)
        self._drawn = False

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a console that is gone is no reason to end
            self.stream.write(text)
            self.stream.flush()
