"""What workers tell the command that forked them, in memory they share: no file, which a full disk would not take."""

from __future__ import annotations

import json
import mmap
from enum import IntEnum
from typing import Any

SLOT = 1 << 15  # bytes a worker; pages that nobody writes take no memory


class Phase(IntEnum):
    """How far a worker is."""

    WORKING = 0  # a signal ends it at once
    SAVING = 1  # past the last step: what there is can be kept
    DONE = 2  # nothing of the run is missing, as far as this worker knows


class Board:
    """A slot a worker, written by it alone and read by the command."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._memory = mmap.mmap(-1, SLOT * processes)

    def phase(self, rank: int) -> Phase:
        """What it said last."""
        return Phase(self._memory[rank * SLOT])

    def enter(self, rank: int, phase: Phase) -> None:
        """Say it."""
        self._memory[rank * SLOT] = phase

    @property
    def saving(self) -> bool:
        """Is anybody past the last step?"""
        return any(self.phase(rank) != Phase.WORKING for rank in range(self.processes))

    def tell(self, rank: int, **told: Any) -> None:
        """Leave a few words, such as why this worker fails. Long ones lose their beginning."""
        for name, text in told.items():
            if isinstance(text, str):
                told[name] = text[-SLOT // 8 :]  # a character may take six bytes of JSON
        data = json.dumps(told).encode()[: SLOT - 8]
        at = rank * SLOT
        self._memory[at + 8 : at + 8 + len(data)] = data
        self._memory[at + 4 : at + 8] = len(data).to_bytes(4, "little")  # last: now it counts

    def told(self, rank: int) -> dict[str, Any] | None:
        """Those words."""
        at = rank * SLOT
        length = int.from_bytes(self._memory[at + 4 : at + 8], "little")
        return json.loads(self._memory[at + 8 : at + 8 + length]) if length else None
