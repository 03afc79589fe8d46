"""A terminal of so many columns, as far as tests need one: it interprets what is written to it, and counts lines that wrap."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

SEQUENCE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")


class Screen:
    """What is seen: `lines`, of which those above may have scrolled off a real one. An unknown sequence is a ValueError."""

    def __init__(self, columns: int = 80) -> None:
        self.columns, self.row, self.column = columns, 0, 0
        self.wrapped = 0  # lines that went on in the next
        self.styled = False  # was anything coloured or bold?
        self.hidden = False  # the cursor
        self._cells: list[list[str]] = [[]]

    @property
    def lines(self) -> list[str]:
        """From the first that was ever written to the last that holds anything."""
        found = ["".join(row).rstrip() for row in self._cells]
        while found and not found[-1]:
            found.pop()
        return found

    def feed(self, text: str) -> None:
        """Interpret."""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                found = SEQUENCE.match(text, at)
                if found is None:
                    raise ValueError(f"unknown sequence {text[at : at + 8]!r}")
                self._obey(found[1], found[2])
                at = found.end()
                continue
            self._put(text[at])
            at += 1

    def _put(self, one: str) -> None:
        if one == "\r":
            self.column = 0
        elif one == "\n":
            self.row += 1
        elif one == "\b":
            self.column = max(0, self.column - 1)
        elif one < " ":
            raise ValueError(f"unknown character {one!r}")
        else:
            if self.column == self.columns:
                self.wrapped += 1
                self.row, self.column = self.row + 1, 0
            self._grow()
            row = self._cells[self.row]
            row.extend(" " * (self.column + 1 - len(row)))
            row[self.column] = one
            self.column += 1
        self._grow()

    def _grow(self) -> None:
        while len(self._cells) <= self.row:
            self._cells.append([])

    def _obey(self, given: str, what: str) -> None:
        many = int(given) if given.isdigit() else 1
        if what == "A":
            self.row = max(0, self.row - many)
        elif what == "K" and given in ("", "0", "2"):
            del self._cells[self.row][0 if given == "2" else self.column :]
        elif what == "J" and given in ("", "0"):
            del self._cells[self.row][self.column :]
            del self._cells[self.row + 1 :]
        elif what == "m":
            self.styled = self.styled or given not in ("", "0")
        elif what in "hl" and given == "?25":
            self.hidden = what == "l"
        else:
            raise ValueError(f"unknown sequence {given}{what}")


def on_terminal(
    argv: Sequence[str],
    columns: int = 80,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    limit: float = 60,
) -> tuple[Screen, list[list[str]], int]:
    """Run a program on a terminal of its own: the screen at its end, what it was whenever something came, and the exit code."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    mode = termios.tcgetattr(theirs)
    mode[3] &= ~termios.ECHO
    termios.tcsetattr(theirs, termios.TCSANOW, mode)
    own = {**os.environ, "TERM": "xterm-256color", **(env or {})}
    for name in ("COLUMNS", "LINES", *(name for name, value in own.items() if value is None)):
        own.pop(name, None)
    screen, seen, data = Screen(columns), [], b""
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=own, start_new_session=True) as child:
        os.close(theirs)
        try:
            while select.select([ours], [], [], limit)[0]:
                try:
                    data += os.read(ours, 1 << 16)
                except OSError:  # everybody has left
                    break
                try:
                    text, data = data.decode(), b""
                except UnicodeDecodeError:
                    continue
                screen.feed(text)
                seen.append(screen.lines)
        finally:
            child.kill() if child.poll() is None and not seen else None
            os.close(ours)
        return screen, seen, child.wait(limit)
