"""Rounds, messages, bytes: *logical* is what the algorithm asked for, *wire* what this placement really moved.

Logical numbers are the same wherever the rows are; the difference to the wire is the lowering's merit or blame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coopsgd.fleet.plan import Price


@dataclass
class Ledger:
    """Totals over all workers since the start; sent, not received. Bytes are whole vectors times their width."""

    m: int
    rounds: int = 0  # communications that were due, however many factors each had
    messages: int = 0
    sent: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (m,) logical bytes sent by each worker
    wire_bytes: float = 0.0  # handed to the network by all processes
    comm_s: float = 0.0  # seconds this process spent in verbs
    paused: bool = False  # measuring is off the ledger

    def __post_init__(self) -> None:
        self.sent = np.zeros(self.m)

    def charge(self, price: Price, width: int, wire_vectors: float) -> None:
        """One verb on vectors of `width` bytes; `wire_vectors` were handed to the network by all processes together."""
        if self.paused:
            return
        self.messages += price.messages
        self.sent += price.sent * width
        self.wire_bytes += wire_vectors * width

    @property
    def bytes(self) -> int:
        """Logical bytes sent by all workers."""
        return round(float(self.sent.sum()))

    def totals(self) -> dict[str, int]:
        """The numbers of a log line."""
        return {
            "rounds": self.rounds,
            "messages": self.messages,
            "bytes": self.bytes,
            "wire_bytes": round(self.wire_bytes),
        }

    def summary(self) -> dict[str, Any]:
        """The numbers of summary.json: totals, and bytes per worker (mean and largest)."""
        return {
            **self.totals(),
            "bytes_per_worker_mean": float(self.sent.mean()),
            "bytes_per_worker_max": float(self.sent.max()),
            "comm_s": self.comm_s,
        }
