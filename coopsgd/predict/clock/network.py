"""The alpha-beta model: a message of n bytes takes a + n b, a seconds of latency and b seconds a byte, by link.

An all-reduce is a list of rounds in each of which pairs exchange a share of the vector; a round takes as long as its slowest
pair. With one kind of link that is, for p hosts (Thakur, Rabenseifner & Gropp 2005):

* ring              2 (p - 1) a + 2 (p - 1) / p n b
* tree              2 ceil(log2 p) (a + n b), binomial, up and down
* halving_doubling  2 ceil(log2 p) a + 2 (p - 1) / p n b; for any p, since partners are found by halving the distance
* two_level         a ring within each group, then one over the groups, on the links between them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

ALL_REDUCES = ("ring", "tree", "halving_doubling", "two_level")


@dataclass(frozen=True)
class Network:
    """Links between hosts, workers first. a, b: (hosts, hosts), [to, from]. all_reduce: (group, bytes) -> seconds.

    shared: from who sends to whom at once, (hosts, hosts) bool, [to, from], the b of each while they share what they have in
    common; None: they have nothing in common, but for the ports.
    """

    a: np.ndarray
    b: np.ndarray
    ports: str
    all_reduce: Callable[[np.ndarray, float], float]
    shared: Callable[[np.ndarray], np.ndarray] | None = None

    def at_once(self, who: np.ndarray) -> np.ndarray:
        """(hosts, hosts) b of messages that all begin together."""
        return self.b if self.shared is None else self.shared(who)


def all_reduce_s(algorithm: str, group: np.ndarray, nbytes: float, a: np.ndarray, b: np.ndarray, site: np.ndarray) -> float:
    """Seconds of one all-reduce of n bytes over the hosts in `group`. a, b: as in Network; site: (hosts,) the group of each."""
    if algorithm != "two_level":
        return _played(algorithm, group, nbytes, a, b)
    inside = [group[site[group] == s] for s in np.unique(site[group])]
    across = np.array([members[0] for members in inside])
    return max(_played("ring", members, nbytes, a, b) for members in inside) + _played("ring", across, nbytes, a, b)


def _played(algorithm: str, group: np.ndarray, nbytes: float, a: np.ndarray, b: np.ndarray) -> float:
    return played(algorithm, group, nbytes, a, lambda links: b[links])


def played(
    algorithm: str, group: np.ndarray, nbytes: float, a: np.ndarray, rate: Callable[[tuple[Any, Any]], np.ndarray]
) -> float:
    """Seconds of an all-reduce of n bytes. rate: from the pairs of one round, (to, from), to their b."""
    total = 0.0
    for times, senders, receivers, share in _rounds(algorithm, len(group)):
        links = group[receivers], group[senders]
        total += times * float((a[links] + nbytes * share * rate(links)).max())
    return total


def _rounds(algorithm: str, p: int) -> Iterator[tuple[int, Any, Any, float]]:
    """How often a round is played, who sends, who receives, and what share of the vector."""
    i = np.arange(p)
    if algorithm == "ring" and p > 1:
        yield 2 * (p - 1), i, (i + 1) % p, 1 / p
    elif algorithm == "tree":
        for level in range((p - 1).bit_length()):
            parents = np.arange(0, p - (1 << level), 2 << level)
            children = parents + (1 << level)
            yield 1, children, parents, 1.0  # up
            yield 1, parents, children, 1.0  # and, when all is summed, down
    elif algorithm == "halving_doubling":
        left = p
        while left > 1:
            skip = (left + 1) // 2
            yield 2, i, (i + skip) % p, (left - skip) / p
            left = skip
