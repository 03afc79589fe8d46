"""Virtual seconds, one number a host, moved on by what an algorithm really waits for.

A local step moves its worker on. A verb is played on the *logical* plan, one worker a host, whatever carries it out: a sum
lets its group go on when the last has come and the all-reduce is over; a message lets its receiver go on when it is there.
`later` asks for the times at which something ends, and a host goes on when both that and what it did meanwhile are over.

The parts of one mixing are played one after another: its sums, then its messages. A sender goes on when its bytes have left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from coopsgd.fleet.price import Price
from coopsgd.predict.clock.network import Network

REMEMBERED = 4096  # prices of all-reduces: a random schedule must not fill the memory


@dataclass(frozen=True)
class Messages:
    """Single messages, by receiver. R hosts receive, from at most D others each; what is padded arrives at -inf."""

    into: np.ndarray  # (R,) receivers
    src: np.ndarray  # (R, D)
    latency: np.ndarray  # (R, D) seconds, 0 where padded
    begin: np.ndarray  # (R, D) 0, or -inf where padded
    hold: np.ndarray  # (R, D) seconds of the link for a vector of one byte
    sends: np.ndarray  # (hosts,) the same of all that a host sends
    calls: np.ndarray  # (hosts,) latencies of all that a host sends
    widest: np.ndarray  # (hosts,) the longest single message of a host, as hold


@dataclass(frozen=True)
class Parts:
    """A plan made ready for the clock: sums over groups of hosts, k vectors each, then messages."""

    sums: tuple[tuple[np.ndarray, int], ...]
    messages: Messages | None = None


class Clock:
    """The times t (hosts,) of m workers and, behind them, of v servers if the auxiliary models have hosts of their own."""

    def __init__(self, cluster: Any, m: int, v: int, server_owns_aux: bool, seed: int) -> None:
        self.m, self.seed, self._cluster = m, seed, cluster
        self._servers, self._v = v if server_owns_aux else 0, v
        self.t = np.zeros(m + self._servers)
        self._network: Network = cluster.network(m, len(self.t))
        self._prices: dict[Any, float] = {}
        self._step: tuple[int, np.ndarray | None] | None = None
        self._everyone = Parts(((np.arange(m), 1),))

    @property
    def ports(self) -> str:
        """How messages of one host share its link."""
        return self._network.ports

    @property
    def now(self) -> float:
        """sim_s: the time of the worker that is latest."""
        return float(self.t[: self.m].max())

    def saved(self) -> np.ndarray:
        """(hosts,) between two iterations it is no more than its times."""
        return self.t.copy()

    def restore(self, t: np.ndarray) -> None:
        self.t[:] = t

    def begin(self, k: int, active: np.ndarray | None) -> None:
        """Iteration k, in which the workers `active` (m,) compute (None: all), as soon as `compute` is called."""
        self._step = k, active

    def compute(self) -> None:
        """The local step of this iteration is taken; once, however often it is called."""
        if self._step is None:
            return
        (k, active), self._step = self._step, None
        times = self._cluster.step_times(self.m, self.seed, k)
        self.t[: self.m] += times if active is None else np.where(active, times, 0)

    def ends(self, parts: Parts, nbytes: int) -> np.ndarray:
        """(hosts,) when each could go on if a verb on vectors of so many bytes began now; moves nothing."""
        t = self.t.copy()
        for group, k in parts.sums:
            t[group] = t[group].max() + self._all_reduce(group, k * nbytes)
        return t if parts.messages is None else self._delivered(parts.messages, nbytes, t)

    def reach(self, ends: np.ndarray) -> None:
        """Let time pass until then, on each host."""
        np.maximum(self.t, ends, out=self.t)

    def average(self) -> Parts:
        """The mean over all workers."""
        return self._everyone

    def broadcast(self, i: int) -> Parts:
        """Row i, sent to everyone."""
        host = i if i < len(self.t) else (i - self.m) * self.m // self._v
        counts = np.zeros((len(self.t), len(self.t)))
        counts[: self.m, host] = 1
        counts[host, host] = 0
        return Parts((), self._messages(counts))

    def parts(self, price: Price) -> Parts:
        """What is charged, of one worker a host."""
        sums = tuple((group, k) for group, k in price.sums if len(group) > 1)
        counts = np.zeros((len(self.t), len(self.t)))
        counts[price.links.dst, price.links.src] = price.links.vectors
        return Parts(sums, self._messages(counts))

    def _all_reduce(self, group: np.ndarray, nbytes: int) -> float:
        key = group.tobytes(), nbytes
        if key not in self._prices:
            if len(self._prices) >= REMEMBERED:
                self._prices.clear()
            self._prices[key] = self._network.all_reduce(group, nbytes)
        return self._prices[key]

    def _messages(self, counts: np.ndarray) -> Messages | None:
        """counts: (hosts, hosts) vectors that column sends to row."""
        into = np.flatnonzero(counts.any(1))
        if not len(into):
            return None
        a, b = self._network.a, self._network.at_once(counts > 0)
        most = int(np.count_nonzero(counts, axis=1).max())
        shape = len(into), most
        src, there = np.zeros(shape, dtype=int), np.zeros(shape, dtype=bool)
        for row, host in enumerate(into):
            found = np.flatnonzero(counts[host])
            src[row, : len(found)], there[row, : len(found)] = found, True
        links = into[:, None], src
        hold = counts * b
        return Messages(
            into,
            src,
            latency=np.where(there, a[links], 0),
            begin=np.where(there, 0, -np.inf),
            hold=np.where(there, hold[links], 0),
            sends=hold.sum(0),
            calls=((counts > 0) * a).sum(0),
            widest=hold.max(0),
        )

    def _delivered(self, some: Messages, nbytes: int, t: np.ndarray) -> np.ndarray:
        """(hosts,) when each has what was sent to it, all having begun at t (hosts,)."""
        ports = self._network.ports
        begun = t[some.src] + some.begin
        if ports == "parallel":
            there = (begun + some.latency + some.hold * nbytes).max(1)
            sent = some.widest * nbytes
        else:
            # what a host receives comes in one after another, as soon as it may; what it sends leaves together
            hold, sent = some.hold * nbytes, some.sends * nbytes
            if ports == "one":
                hold, sent, release = hold + some.latency, sent + some.calls, begun
            else:
                release = begun + some.latency
            order = np.argsort(-release, axis=1, kind="stable")
            queue = np.take_along_axis(release, order, 1) + np.take_along_axis(hold, order, 1).cumsum(1)
            there = np.maximum(queue.max(1), (release + sent[some.src]).max(1))
        ends = t + sent
        ends[some.into] = np.maximum(ends[some.into], there)
        return ends
