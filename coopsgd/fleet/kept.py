"""Which plans a fleet keeps: those of matrices that come again, and, while there is room, of what may come again.

A matrix that recurs is known by its address, as an object of the schedule; any other by its content, so that a schedule that
makes the same few matrices anew each round has each of them planned once. All processes keep the same, for they see the same
matrices in the same order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from coopsgd.mixing.matrix import Matrix

PLANS = 16, 64  # matrices whose plans are kept, of those that recur: at least, at most
ROOM = 1 << 24  # numbers in them: a schedule that never repeats must not fill the memory
FORGOTTEN = 256  # lookups after which what was not asked for again goes first


class Kept:
    """Plans by their matrices, in two parts, so that what passes by does not drive out what recurs.

    Of a full part the newest goes, so that most of a longer cycle stays; of what does not recur first what was long not asked
    for, so that a cycle that begins late is learned.
    """

    def __init__(self) -> None:
        self._recurring: dict[Hashable, tuple[Any, Any]] = {}  # the matrix, whose address stays its own, and its plan
        self._passing: dict[Hashable, list[Any]] = {}  # when it was asked for last, numbers that it holds, its plan; by when
        self._asked = self._numbers = 0
        self._newest: Hashable = None

    def __len__(self) -> int:
        return len(self._recurring) + len(self._passing)

    def get(self, use: str, W: Any, make: Callable[[], Any]) -> Any:
        """The plan of W, which `make` makes where it is not here."""
        if (isinstance(W, Matrix) and W.recurring) or (isinstance(W, np.ndarray) and not W.flags.writeable):
            key: Hashable = use, id(W)
            if key not in self._recurring:
                made = make()
                if len(self._recurring) >= max(PLANS[0], min(PLANS[1], ROOM // max(1, len(W)) ** 2)):
                    self._recurring.popitem()
                self._recurring[key] = W, made
            return self._recurring[key][1]
        content, numbers = known_by(W)
        key = use, content
        self._asked += 1
        found = self._passing.pop(key, None)
        if found is None:
            found = [0, numbers, make()]
            while self._passing and (len(self._passing) >= PLANS[1] or self._numbers + numbers > ROOM):
                self._let_go()
            self._numbers, self._newest = self._numbers + numbers, key
        found[0], self._passing[key] = self._asked, found
        return found[2]

    def _let_go(self) -> None:
        last = next(iter(self._passing))
        stale = self._asked - self._passing[last][0] > FORGOTTEN
        if not stale and self._newest in self._passing:
            last = self._newest
        self._numbers -= self._passing.pop(last)[1]


def known_by(W: Any) -> tuple[bytes, int]:
    """What tells this matrix, or array, from others, to the bit; and how many numbers say it."""
    if not isinstance(W, Matrix):
        W = np.asarray(W)
        parts, kind = [W], f"{W.dtype} {W.shape}"
    elif (array := getattr(W, "array", None)) is not None:
        parts, kind = [array], f"{W.n} {array.dtype} array"
    else:
        e = W.edges
        parts = [*e.entries, *(part for outer in W.outers for part in outer)]
        kind = f"{type(W).__name__} {W.n} {len(e.rows)} {[len(outer.rows) for outer in W.outers]}"
    found = hashlib.blake2b(kind.encode(), digest_size=20)
    for part in parts:
        found.update(part.tobytes())
    return found.digest(), sum(part.size for part in parts)
