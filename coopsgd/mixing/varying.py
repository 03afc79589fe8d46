"""Schedules whose matrix changes from one communication to the next, by rule or at random.

Random choices are functions of the run's seed and the number of the communication, so that all
processes make the same ones without a message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np

from coopsgd.host import sizes
from coopsgd.mixing import matrices
from coopsgd.mixing.base import Mixing
from coopsgd.mixing.expectation import Expectation, everybody_alike, pair_averages, random_matching, repeated
from coopsgd.mixing.graphs import Graph, Ring
from coopsgd.mixing.groups import GROUPS_HELP, split
from coopsgd.mixing.links import Links, links_of_pairs
from coopsgd.mixing.matrix import FOLLOWED, WHOLE, Edges, Matrix, Modes, identity
from coopsgd.mixing.static import Gossip
from coopsgd.mixing.structured import circulant
from coopsgd.registry import of_run, option, register
from coopsgd.streams import stream

FORMS = ("exponential", "hypercube")


@register("one_peer", "mixing")
@dataclass(frozen=True)
class OnePeer(Mixing):
    """One neighbour a communication, 1, 2, 4, ... places away in turn: a power of two workers agree exactly after log2(m).

    form: exponential, worker i takes half of i - 2^t (any m, not symmetric); or hypercube, i and i XOR 2^t average (a power
    of two, symmetric). arXiv:2110.13363.
    """

    structured: ClassVar[bool] = True

    form: str = option("exponential", "of the cycle: exponential; or hypercube: pairs, for a power of two workers", words=FORMS)

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"one_peer: form must be exponential or hypercube, got {self.form!r}")

    def cycle(self, m: int) -> int:
        return max(1, (m - 1).bit_length())  # ceil(log2 m)

    def matrices(self, m: int, r: int) -> tuple[Matrix, ...]:
        if self.form == "hypercube" and m & (m - 1):
            raise ValueError(
                f"one_peer: form=hypercube needs a power of two workers, got {m}; form=exponential takes any number"
            )
        if m == 1:
            return (identity(1),)
        i, hop = np.arange(m), 1 << r
        if self.form == "hypercube":
            peer, modes = i ^ hop, Modes(("walsh", m), np.where(i & hop, 0.0, 1.0))
        else:
            peer, modes = (i - hop) % m, circulant(m, [0, hop], [0.5, 0.5])
        return (Edges.of(m, np.append(i, i), np.append(i, peer), np.full(2 * m, 0.5), modes),)


@register("matching", "mixing")
@dataclass(frozen=True)
class Matching(Mixing):
    """A new random matching of the topology's edges each communication; the two of a pair take their mean.

    Edges are tried in random order and kept when both ends are free: a maximal matching. On topology=complete of even m
    everyone has a partner. The synchronous form of Boyd et al. 2006.
    """

    in_pairs: ClassVar[bool] = True
    structured: ClassVar[bool] = True

    topology: Graph = field(default_factory=Ring)
    seed: int = of_run("seed", 0)

    def cycle(self, m: int) -> None:
        return None

    def _links(self, m: int) -> Links:
        return cast(Links, self.once(("links", m), lambda: self.topology.links(m, self.seed)))

    def matrices(self, m: int, r: int) -> tuple[Matrix, ...]:
        links, draw = self._links(m), stream(self.seed, "matching", r)
        if links.complete and m > WHOLE:  # as likely as by trying the edges, of which there are too many
            return (matrices.pairs(m, draw.permutation(m)[: m - m % 2].reshape(-1, 2)),)
        return (matrices.pairs(m, links.pairs[_matching(links.pairs, m, draw)]),)

    def negative(self, m: int) -> None:
        """Means of two have none."""
        return None

    def expectation(self, m: int) -> Expectation | None:
        """Exact where that takes a moment, else from a sample of matchings, the same for every seed."""
        return cast(Expectation, self.once(("expectation", m), lambda: self._expected(m)))

    def _expected(self, m: int) -> Expectation:
        links, draw = self._links(m), stream(0, "matching-sample")
        if links.complete and m > 2:
            return everybody_alike(m, 1 / (m - 1 + m % 2))
        alike = links.eigenvalues if links.alike else None
        return random_matching(m, links.pairs, lambda: _matching(links.pairs, m, draw), alike)


def _matching(edges: np.ndarray, m: int, draw: np.random.Generator) -> np.ndarray:
    """Numbers of the edges kept when they are tried in random order, each if both its ends are still free.

    All at once: whoever comes first at both its ends will be kept, whatever happens before it. Then those they touch are out.
    """
    left, free, kept = draw.permutation(len(edges)), np.ones(m, dtype=bool), []
    while len(left):
        a, b = edges[left].T
        at = np.arange(len(left))
        first = np.full((2, m), len(left))
        first[0, a[::-1]], first[1, b[::-1]] = at[::-1], at[::-1]  # of several at one place the last written stays
        first = first.min(0)
        now = (first[a] == at) & (first[b] == at)
        kept.append(left[now])
        free[a[now]] = free[b[now]] = False
        left = left[free[a] & free[b]]
    return np.concatenate(kept) if kept else left


@register("pairwise", "mixing")
@dataclass(frozen=True)
class Pairwise(Matching):
    """Randomised gossip: a worker drawn at random averages with a neighbour drawn at random, `events` times a communication.

    Boyd, Ghosh, Prabhakar & Shah 2006. On a complete graph an event leaves 1 - 1 / (m - 1) of the mean square.
    """

    structured: ClassVar[bool] = True

    events: int = option(1, "pairs a communication, one after the other", unit="pairs")

    def __post_init__(self) -> None:
        if self.events < 1:
            raise ValueError(f"algo.events: must be at least 1, got {self.events}")

    negative = Matching.negative

    def refuse_size(self, m: int) -> None:
        super().refuse_size(m)
        one = 24.0 * (m + 2) + sizes.OBJECT
        sizes.refuse("algo.events", 2 * self.events * one, f"{self.events} matrices a communication", "lower it")

    def matrices(self, m: int, r: int) -> tuple[Matrix, ...]:
        draw, links, chosen = stream(self.seed, "gossip", r), self._mutual(m), []
        for _ in range(self.events if m > 1 else 0):
            i = int(draw.integers(m))
            if links.complete:
                k = int(draw.integers(m - 1))
                chosen.append((i, k + (k >= i)))
            else:
                chosen.append((i, int(draw.choice(links.columns[slice(*np.searchsorted(links.rows, (i, i + 1)))]))))
        return tuple(matrices.pairs(m, [pair]) for pair in chosen)

    def expectation(self, m: int) -> Expectation | None:
        """Exact; None for many workers and so many events that telling it would take too long."""
        return cast("Expectation | None", self.once(("expectation", m), lambda: self._of_events(m)))

    def _of_events(self, m: int) -> Expectation | None:
        links, given = self._mutual(m), self._links(m)
        if links.complete and m > FOLLOWED:
            return repeated(everybody_alike(m, 2 / (m * (m - 1))), self.events)
        edges, degree = links.pairs, np.maximum(links.degrees, 1)
        share = (1 / degree[edges[:, 0]] + 1 / degree[edges[:, 1]]) / m
        return repeated(pair_averages(m, edges, share, alike=given.eigenvalues if given.undirected else None), self.events)

    def _mutual(self, m: int) -> Links:
        """The topology's links, each in both directions."""
        links = self._links(m)
        return links if links.complete else cast(Links, self.once(("mutual", m), lambda: links_of_pairs(m, links.pairs)))


@register("gossip_pga", "mixing")
@dataclass(frozen=True)
class GossipPGA(Gossip):
    """Gossip, but every `every`-th communication averages everyone. Chen et al., ICML 2021 (arXiv:2105.09080)."""

    every: int = option(6, "so many communications, the last of which averages everyone", unit="rounds")

    CYCLE = "algo.every"
    structured = Gossip.structured

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1:
            raise ValueError(f"algo.every: must be at least 1, got {self.every}")

    def cycle(self, m: int) -> int:
        return self.every

    def matrices(self, m: int, r: int) -> tuple[Matrix, ...]:
        if r == self.every - 1:
            return (self.once(("average", m), lambda: matrices.average(m)),)
        return (self._worker_matrix(m),)


@register("two_level", "mixing")
@dataclass(frozen=True)
class TwoLevel(Mixing):
    """Averages within groups every tau steps and over all workers every tau_2 steps; no auxiliary model. arXiv:1808.07217.

    A global average makes the group average of the same moment redundant, so it replaces it. tau_2: auto = 4 tau, or a
    multiple of tau. When the period moves, it is every (tau_2 / tau)-th communication that is global.
    """

    structured: ClassVar[bool] = True
    WEIGHED: ClassVar[bool] = True

    groups: Any = option(2, "how many; or their sizes; or lists of workers", unit="groups, workers", type="int or list")
    tau_2: Any = option(
        "auto", "between averages of everyone, a multiple of tau; auto: 4 tau", unit="steps", type="int or auto"
    )
    tau: Any = of_run("tau", 10)

    CYCLE = "algo.tau_2"

    def cycle(self, m: int) -> int:
        if self.tau_2 == "auto":
            return 4
        if isinstance(self.tau, list):
            raise ValueError(f"algo.tau_2: counts steps, so tau must be one number, got tau={self.tau}; or set algo.tau_2=auto")
        if isinstance(self.tau_2, bool) or not isinstance(self.tau_2, int) or self.tau_2 < 1 or self.tau_2 % self.tau:
            raise ValueError(f"algo.tau_2: must be auto or a multiple of tau = {self.tau}, got {self.tau_2!r}")
        return self.tau_2 // self.tau

    def matrices(self, m: int, r: int) -> tuple[Matrix, ...]:
        within = self.once(("groups", m), lambda: self._within(m))  # checked even when it is never used
        return (matrices.weighted(m, self.sample_shares) if r == self.cycle(m) - 1 else within,)

    def _within(self, m: int) -> Matrix:
        return matrices.weighted(m, self.sample_shares, split(self.groups, m))


TwoLevel.__doc__ = f"{TwoLevel.__doc__}\n    groups: {GROUPS_HELP}\n    "
