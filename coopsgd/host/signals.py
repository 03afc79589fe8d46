"""Signals that ask a command to end. One that was ignored at the start (nohup, a background job of a script) stays ignored.

The command itself raises `Interrupted` wherever it is, once. While workers run, or a summary is being written, signals are
noted instead (`noted`), and whoever watches the workers acts on them. A worker ends at once by the first, unless it is saving
(`finishing`): then by the second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from coopsgd.errors import Interrupted

# whose default action ends a process, apart from faults and SIGKILL
NAMES = ("HUP", "INT", "QUIT", "TERM", "XCPU", "ALRM", "VTALRM", "PROF", "USR1", "USR2", "PWR")
ENDING = tuple(getattr(signal, f"SIG{name}") for name in NAMES if hasattr(signal, f"SIG{name}"))
SAME = 0.2  # seconds: `timeout` and a nervous hand send several; those are one
PATIENCE = 1.0  # seconds in which a command that was asked to end is left to do so

_raised = -PATIENCE  # when
asked: int | None = None  # the first signal that raised: libraries swallow an exception now and then, so it is not forgotten


def name_of(number: int) -> str:
    """Of a signal, as in SIGTERM."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time one
        return f"signal {number}"


def to_act_on() -> list[int]:
    """Those that are neither ignored, since this process began, nor handled by somebody else."""

    def ours(handler: Any) -> bool:
        known = (signal.SIG_DFL, signal.default_int_handler, _raise)
        return handler in known or getattr(handler, "__func__", None) is Noted.add

    return [number for number in ENDING if ours(signal.getsignal(number))]


def raising() -> None:
    """From here on they raise Interrupted, for a command."""
    global asked
    asked = None
    _install(to_act_on(), _raise)


def default() -> None:
    """From here on they end the process without a word, for a worker and for a command that has ended."""
    _install(to_act_on(), signal.SIG_DFL)


def ignore() -> None:
    """From here on they do nothing, for a command that one of them has ended."""
    _install(to_act_on(), signal.SIG_IGN)


def _raise(number: int, frame: FrameType | None) -> None:
    global _raised, asked
    asked = asked or number
    if time.monotonic() - _raised >= PATIENCE:
        _raised = time.monotonic()
        raise Interrupted(number)


class Noted:
    """The signals that came while `noted`."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._times: list[float] = []
        self.at_second: Callable[[], None] | None = None  # called, and may raise, when it is asked again

    def add(self, number: int, frame: FrameType | None = None) -> None:
        """It is a signal handler."""
        self.numbers.append(number)
        self._times.append(time.monotonic())
        if self.twice and self.at_second is not None:
            self.at_second()

    @property
    def first(self) -> int | None:
        """The one that asked to end, if any did."""
        return self.numbers[0] if self.numbers else None

    @property
    def age(self) -> float:
        """Seconds since the first."""
        return time.monotonic() - self._times[0] if self._times else 0.0

    @property
    def twice(self) -> bool:
        """Was it asked again?"""
        return bool(self._times) and self._times[-1] - self._times[0] > SAME


_noted: Noted | None = None


@contextlib.contextmanager
def noted() -> Iterator[Noted]:
    """While inside, signals are noted and nothing is raised; within another such block, in that one's list.

    One that raised before, and yet the command came here, is the first in it.
    """
    global _noted, _raised
    if _noted is not None:
        yield _noted
        return
    handlers, came = [(number, signal.getsignal(number)) for number in to_act_on()], Noted()
    try:
        _noted = came
        _install([number for number, _ in handlers], came.add)
        if asked is not None:
            came.add(asked)
        yield came
    finally:
        if came.numbers:
            _raised = time.monotonic()  # whoever acts on them is not disturbed by one more
        _noted = None
        with contextlib.suppress(ValueError):  # as in _install
            for number, handler in handlers:
                signal.signal(number, handler)


@contextlib.contextmanager
def finishing() -> Iterator[Noted]:
    """While inside, the first signal to this worker is noted, and the second ends it."""
    came = Noted()

    def handler(number: int, frame: FrameType | None) -> None:
        came.add(number)
        if came.twice:
            die_of(number)

    before = _install(to_act_on(), handler)
    try:
        yield came
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def handle(name: str, action: Callable[[], None]) -> dict[int, Any]:
    """From here on a signal calls `action`, in this process and those it forks, unless it is ignored; what it did before."""
    number = getattr(signal, name, None)
    if number is None or signal.getsignal(number) == signal.SIG_IGN:
        return {}
    return _install([number], lambda *_: action())


@contextlib.contextmanager
def handled(name: str, action: Callable[[], None]) -> Iterator[None]:
    """The same, while inside."""
    before = handle(name, action)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def kept() -> Noted:
    """From here on signals to this worker are noted, for somebody to act on."""
    came = Noted()
    _install(to_act_on(), came.add)
    return came


def die_of(number: int) -> None:
    """End this process by a signal's default action."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _install(numbers: list[int], handler: Callable[..., Any] | signal.Handlers) -> dict[int, Any]:
    """Set the handler of each; what they had. Signals are the main thread's: in another nothing is done."""
    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):
        for number in numbers:
            before[number] = signal.signal(number, handler)
    return {number: old if old is not None else signal.SIG_DFL for number, old in before.items()}
