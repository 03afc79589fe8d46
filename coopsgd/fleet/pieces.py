"""Messages in pieces that travel in step: a process sends a piece once it has received all that come some pieces before it.

Whole messages leave as fast as each connection lets them. Then some are far ahead of others, links idle while one neighbour is
waited for, and queues on the way overflow. In step, all links carry a little of every message at any time: four hosts on a
ring, 100 Mbit/s and 5 ms, take 1.1 of latency + bytes / bandwidth, not 1.4. Numbers are in docs/speed.md.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

TICK = 0.008  # seconds that a piece travels, about: a shorter one costs more processor time, a longer one falls out of step
LEAST, MOST = 1 << 14, 1 << 23  # bytes of a piece
# bytes of a piece where a byte takes fewer seconds than that: processors are the limit, and few large pieces are best
FAST = {4e-9: MOST, 6e-8: 1 << 21}
TRIPS = 2.5  # round trips of the network that are to be under way, beside one piece
BUSY = 0.03  # seconds that are under way in any case: a process may not run at once when something arrives
AT_FIRST = 4, 1 << 16, 64  # before anything is known: pieces under way, bytes of one at least, pieces at most
UNKNOWN = -1.0
PINGS = 9

Part = tuple[Tensor, int]  # numbers, and the process at the other side


class Pace:
    """How large pieces are and how many are under way, from what exchanges took. The same in all processes once they agree."""

    def __init__(self) -> None:
        self.per_byte = UNKNOWN  # seconds, of the slowest process
        self.trip = 0.0  # seconds there and back
        self.exchanges = 0
        self.seen = UNKNOWN  # per byte, the least here since processes agreed

    def piece(self, nbytes: int) -> int:
        """Bytes of one, of a vector of so many: a power of two."""
        _, least, pieces = AT_FIRST
        wanted = max(least, nbytes / pieces)
        if self.per_byte > 0:
            wanted = next((large for below, large in FAST.items() if self.per_byte < below), TICK / self.per_byte)
        return int(2 ** math.floor(math.log2(min(max(wanted, LEAST), MOST))))

    def under_way(self, piece: int) -> int:
        """How many pieces of so many bytes a process sends ahead of what it has received."""
        if self.per_byte <= 0:
            return AT_FIRST[0]
        return min(max(2, math.ceil(1 + max(BUSY, TRIPS * self.trip) / (piece * self.per_byte))), 64)

    def took(self, seconds: float, pieces: int, nbytes: int) -> None:
        """From the first piece's arrival to the last's, so long; all but the last piece had so many bytes."""
        if pieces > 1 and seconds > 0:
            found = seconds / (pieces - 1) / nbytes
            self.seen = found if self.seen == UNKNOWN else min(self.seen, found)

    def due(self) -> bool:
        """Is it time to agree, after one more exchange? In every process at the same: after 1, 4, 16, 64, ..."""
        self.exchanges += 1
        return self.exchanges.bit_count() == 1 and self.exchanges.bit_length() % 2 == 1

    def agree(self, seen: float) -> None:
        """On the largest of what all have seen; UNKNOWN is less than all that is known."""
        if seen > 0:
            self.per_byte = seen
        self.seen = UNKNOWN


def trip(
    receives: list[int], sends: list[int], post: Callable[[list[Part], list[Part]], list[Any]], done: Callable[[Any], None]
) -> float:
    """Seconds there and back, between this process and those it receives from and sends to; each has some of both."""
    word, came = torch.zeros(1 + len(receives)), list[float]()
    Exchange(
        PINGS,
        1,
        lambda i: [(word[1 + at : 2 + at], src) for at, src in enumerate(receives)],
        lambda i: [(word[:1], dst) for dst in sends],
        post,
        lambda i: came.append(time.monotonic()),
    ).run(done)
    return 2 * (came[-1] - came[0]) / (PINGS - 1)  # who is a step ahead of one neighbour hears of two at once


class Exchange:
    """Messages of one mixing. Step i is about the i-th piece of each message.

    receives(i), sends(i): where it comes and what leaves, made once, in this order; post(receives, sends): starts them, and
    answers what is to be waited for. arrived(i): called when all of a step is here and has left. under_way: steps.
    """

    def __init__(
        self,
        steps: int,
        under_way: int,
        receives: Callable[[int], list[Part]],
        sends: Callable[[int], list[Part]],
        post: Callable[[list[Part], list[Part]], list[Any]],
        arrived: Callable[[int], None] = lambda i: None,
    ) -> None:
        self.steps, self.under_way = steps, under_way
        self._receives, self._sends, self._post, self._arrived = receives, sends, post, arrived
        self._coming: dict[int, list[Any]] = {}
        self._leaving: dict[int, tuple[list[Any], list[Part]]] = {}  # with what leaves, kept until it has
        self.seconds = 0.0  # from the arrival of the first step to that of the last
        # receives first: no order of processes can hang, and nobody waits for word that it may send
        for i in range(2 * under_way):
            self._receive(i)
        for i in range(under_way):
            self._send(i)

    def _receive(self, i: int) -> None:
        if i < self.steps:
            self._coming[i] = self._post(self._receives(i), [])

    def _send(self, i: int) -> None:
        if i < self.steps:
            parts = self._sends(i)
            self._leaving[i] = self._post([], parts), parts

    def run(self, done: Callable[[Any], None]) -> None:
        """To its end. done(work) returns when that is done."""
        first = 0.0
        for i in range(self.steps):
            for work in self._coming.pop(i):
                done(work)
            now = time.monotonic()
            first = now if i == 0 else first
            self.seconds = now - first
            self._send(i + self.under_way)
            for work in self._leaving[i][0]:
                done(work)
            del self._leaving[i]
            self._arrived(i)
            self._receive(i + 2 * self.under_way)


class Hidden:
    """An exchange that goes on in a thread while this process computes; to be waited for like what torch.distributed starts."""

    def __init__(self, exchange: Exchange, done: Callable[[Any], None]) -> None:
        self._exchange, self._error = exchange, list[BaseException]()
        self._thread = threading.Thread(target=self._run, args=(done,), daemon=True, name="messages")
        self._thread.start()

    def _run(self, done: Callable[[Any], None]) -> None:
        try:
            self._exchange.run(done)
        except BaseException as error:  # told to whoever waits
            self._error.append(error)

    def wait(self, timeout: timedelta | None = None) -> None:
        """RuntimeError after `timeout`, or if a message failed."""
        self._thread.join(None if timeout is None else timeout.total_seconds())
        if self._thread.is_alive():
            raise RuntimeError(f"Timed out waiting {timeout} for messages")
        if self._error:
            raise self._error[0]
