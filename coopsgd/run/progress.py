"""What a command is at, how far and how long still, on stderr: a line that lives on a terminal, elsewhere one now and then."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TextIO

from coopsgd.host import news, stdio
from coopsgd.host.news import duration
from coopsgd.host.terminal import CLEAR, Drawing, can_draw

PATIENCE = 1.0  # seconds in silence before the first line
ENOUGH = 0.05  # of the work, before which what it took says little of the rest: the first of many warms up
EVERY = 10.0  # seconds between two that are not drawn over

quiet = False  # -q: nothing is said but what went wrong. Forks inherit it
sweep: Sweep | None = None  # the job under way is one of these


def silence() -> None:
    """From here on say nothing but what went wrong."""
    global quiet
    quiet = True


def tell(text: str) -> None:
    """A line of what was found, on standard output, unless nothing is to be said."""
    if not quiet:
        print(text, flush=True)


def say(text: str) -> None:
    """A line of its own on stderr, at once, unless nothing is to be said. One that cannot be written is no reason to end."""
    if not quiet:
        warn(text)


def warn(text: str) -> None:
    """The same of what is said in any case. On a terminal it takes the place of lines that are drawn over."""
    try:
        print((CLEAR if can_draw(sys.stderr) else "") + text, file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        return


news.listener = say  # what is told below the commands is said as all else


def listener(console: int | None) -> TextIO | None:
    """Who hears of a run as it goes: standard output, or another file descriptor; None when nothing is to be said."""
    return None if quiet else sys.stdout if console is None else stdio.stream(console)


def stamp(stream: TextIO | None) -> str:
    """When it is, as lines begin with it that are read later; nothing on a terminal."""
    return "" if can_draw(stream) else time.strftime("%Y-%m-%d %H:%M:%S  ")


@dataclass(frozen=True)
class Sweep:
    """Where a sweep stands when one of its jobs begins: jobs before it, and those to come as far as they are known."""

    number: int  # of the job, from 1
    total: int | None
    failed: int
    trained: tuple[int, float] = (0, 0.0)  # how many of those before, and how many seconds they took

    def left(self, own: float | None = None, spent: float = 0.0) -> float | None:
        """Seconds until all are over, if they take as long as those so far; own, spent: those of this one, left and taken."""
        many, seconds = self.trained
        if own is not None:
            many, seconds = many + 1, seconds + spent + own
        if self.total is None or not many:
            return None
        rest = self.total - self.number + (own is None)
        return seconds / many * rest + (own or 0.0)

    def parts(self, left: float | None) -> list[tuple[str, str]]:
        """Which job it is, what failed and what is left, in full and shortened."""
        of = "" if self.total is None else f" of {self.total}"
        found = [(f"job {self.number}{of}", f"job {self.number}{of.replace(' of ', '/')}")]
        found += [(f"{self.failed} failed", f"{self.failed} failed")] if self.failed else []
        if left is not None:
            found.append((f"about {duration(left)} left of the sweep", f"{duration(left)} left"))
        return found

    def words(self) -> str:
        """What is known when the job begins, in brackets; nothing of a first job."""
        more = [full for full, _ in self.parts(self.left())[1:]]
        return f" ({', '.join(more)})" if more else ""


class Progress:
    """Counts to `total`: `at(3, "tau=4")` says that 3 are done and the fourth, of that name, is begun.

    Draws nothing by itself: a thread would be in the way of processes that fork. share: of the whole work that so many are,
    where they do not take equally long.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._began = time.monotonic()
        self._next = self._began + PATIENCE
        self._screen = Drawing(None if quiet else sys.stderr)

    def at(self, done: int, name: str = "", share: float | None = None) -> None:
        """So many are done."""
        moment = time.monotonic()
        if quiet or moment < self._next or self._total < 2:
            return
        share = done / self._total if share is None else share
        left = f", about {duration((moment - self._began) * (1 - share) / share)} left" if share >= ENOUGH else ""
        text = f"{self._what}: {done} of {self._total} done{left}" + (f", now {name}" if name else "")
        if self._screen.live:
            self._screen.draw(text)
        else:
            self._next = moment + EVERY
            say(text)

    def close(self) -> None:
        """Take the live line away."""
        self._screen.close()
