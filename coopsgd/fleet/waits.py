"""What a process of a fleet waits for, and how long it may: derived from what things have taken here so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

VERBS = ("join", "broadcast", "group", "mix", "mean", "pick", "spread", "total", "gather", "barrier")
ACTIVITIES = ("start", "training", "log line", "evaluation", "checkpoint", "last save")
START, TRAINING, LINE, EVALUATION, CHECKPOINT, LAST = ACTIVITIES

FIRST = 600.0  # seconds for what has not been seen here yet
TIMES = 20.0  # how many times the longest stretch so far a wait may last
FLOOR = 60.0  # seconds that it may last in any case: a busy machine is no reason to end a run


class Wait(NamedTuple):
    """A process waits for others at a verb, in an activity, after so many iterations.

    limit: seconds that it may; usual: those of a verb that is known. See Waits.
    """

    verb: str
    activity: str
    step: int
    limit: float
    usual: float

    def __str__(self) -> str:
        """As in 'the mix of step 57'; the first step is 1."""
        if self.activity == TRAINING:
            return f"the {self.verb} of step {self.step + 1}"
        if self.activity not in (START, LAST):
            return f"the {self.verb} of the {self.activity} after step {self.step}"
        return f"the {self.verb} of the {self.activity}"


class Waits:
    """Of one process. `now` is its present wait, or None.

    A wait may last `given` seconds. Where nobody says how many: FIRST at a verb that no earlier activity of this kind has come
    through; else TIMES the longest stretch so far, at least FLOOR. A stretch is a wait, or the time between two: a step, an
    evaluation, the writing of a checkpoint, a round's messages.

    tell(wait): called as a wait begins, and with None as it ends.
    """

    def __init__(self, given: float | None, tell: Callable[[Wait | None], None] = lambda wait: None) -> None:
        self._given, self._tell = given, tell
        self._longest = 0.0
        self._known = set[tuple[str, str]]()
        self._met = set[tuple[str, str]]()  # in the activity under way
        self._since = time.monotonic()
        self._activity = START
        self.now: Wait | None = None

    @property
    def usual(self) -> float:
        """Seconds that a wait may last at what is known."""
        return self._given or max(FLOOR, TIMES * self._longest)

    def begin(self, verb: str, activity: str, step: int) -> None:
        """A wait begins."""
        self._reach(activity)
        limit = self.usual if self._given or (activity, verb) in self._known else max(FIRST, self.usual)
        self.now = Wait(verb, activity, step, limit, self.usual)
        self._tell(self.now)

    def end(self) -> None:
        """It is over."""
        self._stretch()
        if self.now is not None:
            self._arrived(self.now.verb, self.now.activity)
        self.now = None
        self._tell(None)

    def passed(self, verb: str, activity: str) -> None:
        """A verb at which nobody had to be waited for."""
        self._reach(activity)
        self._arrived(verb, activity)

    def _arrived(self, verb: str, activity: str) -> None:
        self._met.add((activity, verb))
        if activity == TRAINING:
            self._known |= self._met

    def again(self) -> None:
        """The process was stopped, and goes on: the stretch under way tells nothing."""
        self._since = time.monotonic()

    def _reach(self, activity: str) -> None:
        if activity != self._activity:
            self._known |= self._met
            self._met = set()
            self._activity, self._since = activity, time.monotonic()
        else:
            self._stretch()

    def _stretch(self) -> None:
        now = time.monotonic()
        if self._activity != START:
            self._longest = max(self._longest, now - self._since)
        self._since = now
