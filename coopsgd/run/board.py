"""Messages between workers and the command that forked them, in shared memory: no file, which a full disk would not take."""

from __future__ import annotations

import json
import mmap
import struct
from enum import IntEnum
from typing import Any

from coopsgd.fleet.waits import ACTIVITIES, VERBS, Wait

SLOT = 1 << 16  # bytes a worker; pages that nobody writes take no memory
PACKED = struct.Struct("<BBqdd")  # a wait, its words by their places
WAIT = range(4, 4 + PACKED.size)  # where it lies in the slot
MESSAGE = 40  # and where the text begins
NOTES = 1 << 16  # bytes for the notes of a run


class Phase(IntEnum):
    """How far a worker is."""

    WORKING = 0  # a signal ends it at once
    TRAINING = 1  # it can be asked to save the run and to end
    SAVING = 2  # past the last step: what there is can be kept
    DONE = 3  # nothing of the run is missing, as far as this worker knows
    STOPPED = 4  # it was asked to end before the last step


class Board:
    """A slot a worker, written by it alone and read by the command; notes; and what the command asks of all."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._memory = mmap.mmap(-1, SLOT * processes + NOTES + 2)

    def clear(self) -> None:
        """As if nobody had written."""
        self._memory[:] = bytes(len(self._memory))

    def ask_to_stop(self) -> None:
        """Ask the workers to save the run and to end."""
        self._memory[-1] = 1

    @property
    def asked_to_stop(self) -> bool:
        return bool(self._memory[-1])

    def ask_to_save(self) -> None:
        """Ask them to save the run and to go on."""
        self._memory[-2] = 1

    def asked_to_save(self) -> bool:
        """Have they been asked since this was called last?"""
        asked, self._memory[-2] = bool(self._memory[-2]), 0
        return asked

    def phase(self, rank: int) -> Phase:
        """What it said last."""
        return Phase(self._memory[rank * SLOT])

    def enter(self, rank: int, phase: Phase) -> None:
        """Say it."""
        self._memory[rank * SLOT] = phase

    def wait(self, rank: int, wait: Wait | None) -> None:
        """Say that it waits for other workers from now on, or no longer."""
        at = rank * SLOT
        if wait is not None:
            self._memory[at + 2] = (self._memory[at + 2] + 1) % 256
            what = VERBS.index(wait.verb), ACTIVITIES.index(wait.activity), wait.step, wait.limit, wait.usual
            self._memory[at + WAIT.start : at + WAIT.stop] = PACKED.pack(*what)
        self._memory[at + 1] = wait is not None

    def wait_of(self, rank: int) -> tuple[int, Wait] | None:
        """Its present wait, and a number that distinguishes it from the one before; None when it waits for nobody."""
        return (self._memory[rank * SLOT + 2], self._last(rank)) if self._memory[rank * SLOT + 1] else None

    def usual(self, rank: int) -> float:
        """Seconds that it may wait, as far as it knows."""
        return self._last(rank).usual

    def _last(self, rank: int) -> Wait:
        at = rank * SLOT
        verb, activity, *numbers = PACKED.unpack(self._memory[at + WAIT.start : at + WAIT.stop])
        return Wait(VERBS[verb], ACTIVITIES[activity], *numbers)

    @property
    def saving(self) -> bool:
        """Is anybody past the last step?"""
        return any(self.phase(rank) in (Phase.SAVING, Phase.DONE) for rank in range(self.processes))

    def all_in(self, phase: Phase) -> bool:
        """Are all workers in it?"""
        return all(self.phase(rank) == phase for rank in range(self.processes))

    def tell(self, rank: int, time: float, what: str, text: str) -> None:
        """Leave a text, such as why this worker fails. A long one loses its beginning.

        `message` gives it back as {"time": time, what: text}.
        """
        self._put(
            rank * SLOT + MESSAGE, {"time": time, what: text[-(SLOT // 16) :]}
        )  # a character may take twelve bytes of JSON

    def message(self, rank: int) -> dict[str, Any] | None:
        """What it left; None when it left nothing."""
        return self._get(rank * SLOT + MESSAGE)

    def keep(self, notes: list[str]) -> None:
        """Leave the notes of this run for a summary that it does not come to write itself. One process calls it, once."""
        if len(json.dumps(notes)) <= NOTES - 4:
            self._put(SLOT * self.processes, notes)

    @property
    def notes(self) -> list[str] | None:
        """What was kept; None when nobody came so far."""
        return self._get(SLOT * self.processes)

    def _put(self, at: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self._memory[at + 4 : at + 4 + len(data)] = data
        self._memory[at : at + 4] = len(data).to_bytes(4, "little")  # last: now it counts

    def _get(self, at: int) -> Any:
        length = int.from_bytes(self._memory[at : at + 4], "little")
        return json.loads(self._memory[at + 4 : at + 4 + length]) if length else None
