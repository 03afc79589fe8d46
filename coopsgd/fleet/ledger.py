"""Rounds, messages, bytes: *logical* is what the algorithm asked for, *wire* what this placement really moved.

Logical numbers are the same wherever the rows are; the difference to the wire is what a plan saves or adds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coopsgd.fleet.price import Price


@dataclass
class Ledger:
    """Totals over all workers (and servers) since the start; sent, not received. Bytes are whole vectors times their width."""

    m: int
    v: int
    processes: int
    rounds: int = 0  # communications that were due, however many factors each had
    messages: int = 0
    sent: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (m + v,) logical bytes sent by each worker, and each server
    wire_messages: int = 0
    wire: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (processes,) bytes each handed to the network
    comm_s: float = 0.0  # seconds this process spent in verbs
    paused: bool = False  # measuring is off the ledger

    def __post_init__(self) -> None:
        self.sent, self.wire = np.zeros(self.m + self.v), np.zeros(self.processes)

    def charge(self, price: Price, width: int, wire_vectors: np.ndarray, wire_messages: int) -> None:
        """One verb on vectors of `width` bytes, of which each process handed `wire_vectors` (processes,) to the network."""
        if self.paused:
            return
        self.messages += price.messages
        self.sent[: len(price.sent)] += price.sent * width
        self.wire += wire_vectors * width
        self.wire_messages += wire_messages

    def saved(self) -> dict[str, Any]:
        """What is the same in every process: all but comm_s."""
        return {name: getattr(self, name) for name in ("rounds", "messages", "sent", "wire_messages", "wire")}

    def restore(self, tree: dict[str, Any]) -> None:
        """Go on from it, and comm_s. On another number of processes nobody knows who moved what: each gets an equal share."""
        for name, value in tree.items():
            setattr(self, name, value)
        self.comm_s = float(tree["comm_s"])
        if len(self.wire) != self.processes:
            self.wire = np.full(self.processes, self.wire.sum() / self.processes)

    @property
    def bytes(self) -> int:
        """Logical bytes sent by all workers and servers."""
        return round(float(self.sent.sum()))

    @property
    def wire_bytes(self) -> int:
        """Bytes handed to the network by all processes."""
        return round(float(self.wire.sum()))

    def totals(self) -> dict[str, int]:
        """The numbers of a log line."""
        return {
            "rounds": self.rounds,
            "messages": self.messages,
            "bytes": self.bytes,
            "wire_bytes": self.wire_bytes,
        }

    def summary(self) -> dict[str, Any]:
        """The numbers of summary.json: totals, and bytes per worker (mean, largest), and of the busiest server."""
        workers, servers = self.sent[: self.m], self.sent[self.m :]
        return {
            **self.totals(),
            "bytes_per_worker_mean": float(workers.mean()),
            "bytes_per_worker_max": float(workers.max()),
            **({"bytes_per_server_max": float(servers.max())} if servers.any() else {}),
            "wire_messages": self.wire_messages,
            "wire_bytes_per_process_mean": float(self.wire.mean()),
            "wire_bytes_per_process_max": float(self.wire.max()),
        }
