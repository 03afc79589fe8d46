"""Rounds, messages, bytes: *logical* is what the algorithm asked for, *wire* what this placement really moved.

Logical numbers are the same wherever the rows are; the difference to the wire is what a plan saves or adds.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    wire_messages: int = 0
    comm_s: float = 0.0  # seconds this process spent in verbs
    paused: bool = False  # measuring is off the ledger

    def __post_init__(self) -> None:
        self._sent, self._wire = np.zeros(self.m + self.v), np.zeros(self.processes)
        self._latest: tuple[np.ndarray, int, np.ndarray] | None = None  # what was charged last, `_times`, and is not added yet
        self._times = 0

    def charge(self, price: Price, width: int, wire_vectors: np.ndarray, wire_messages: int) -> None:
        """One verb on vectors of `width` bytes, of which each process handed `wire_vectors` (processes,) to the network."""
        if self.paused:
            return
        self.messages += price.messages
        self.wire_messages += wire_messages
        latest = self._latest
        if latest is None or latest[0] is not price.sent or latest[1] != width or latest[2] is not wire_vectors:
            self._add()
            self._latest = price.sent, width, wire_vectors
        self._times += 1

    def _add(self) -> None:
        """Add what was charged, one after the other: the sums are what they would be had each been added at once."""
        if self._latest is not None and self._times:
            sent, width, wire = self._latest
            mine, sent, wire = self._sent[: len(sent)], sent * width, wire * width
            for _ in range(self._times):
                mine += sent
                self._wire += wire
        self._times = 0

    @property
    def sent(self) -> np.ndarray:
        """(m + v,) logical bytes sent by each worker, and each server."""
        self._add()
        return self._sent

    @property
    def wire(self) -> np.ndarray:
        """(processes,) bytes that each handed to the network."""
        self._add()
        return self._wire

    def saved(self) -> dict[str, Any]:
        """What is the same in every process: all but comm_s."""
        return {name: getattr(self, name) for name in ("rounds", "messages", "sent", "wire_messages", "wire")}

    def restore(self, tree: dict[str, Any]) -> None:
        """Go on from it, and comm_s. On another number of processes nobody knows who moved what: each gets an equal share."""
        self._add()
        self.rounds, self.messages, self.wire_messages = (tree[name] for name in ("rounds", "messages", "wire_messages"))
        self.comm_s, self._sent, self._wire = float(tree["comm_s"]), tree["sent"], tree["wire"]
        if len(self._wire) != self.processes:
            self._wire = np.full(self.processes, self._wire.sum() / self.processes)

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
