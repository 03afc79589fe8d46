"""Schedules of one matrix: averaging, gossip, elastic pulls, servers, trees."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from coopsgd.mixing import matrices, spectra
from coopsgd.mixing.base import Factors, Mixing, auto_or_number
from coopsgd.mixing.graphs import Graph, Ring
from coopsgd.mixing.groups import GROUPS_HELP, split
from coopsgd.registry import register


@register("average", "mixing")
@dataclass(frozen=True)
class Average(Mixing):
    """J: everyone takes the mean of everyone. Periodic averaging (PASGD), local SGD."""

    def matrices(self, m: int, r: int) -> Factors:
        return (matrices.average(m),)


@register("identity", "mixing")
@dataclass(frozen=True)
class Identity(Mixing):
    """W = I: nobody talks to anybody. It allows itself to reach no consensus."""

    def matrices(self, m: int, r: int) -> Factors:
        return (np.eye(m),)

    def check(self, m: int) -> None:
        pass


@register("gossip", "mixing")
@dataclass(frozen=True)
class Gossip(Mixing):
    """A sparse W on a graph: everyone takes from its neighbours. D-PSGD, decentralised periodic averaging.

    weights: metropolis, uniform (1 / (1 + largest degree)), best_constant or fdla (the smallest zeta of all on this graph).
    """

    weights: str = "metropolis"
    topology: Graph = field(default_factory=Ring)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.weights not in matrices.WEIGHTS:
            raise ValueError(f"gossip: no weights named {self.weights!r}; known: {', '.join(matrices.WEIGHTS)}")

    def worker_matrix(self, m: int) -> np.ndarray:
        """(m, m) W of the workers among themselves."""
        return matrices.WEIGHTS[self.weights](self.topology.adjacency(m, self.seed))

    def matrices(self, m: int, r: int) -> Factors:
        return (self.worker_matrix(m),)


@register("elastic", "mixing")
@dataclass(frozen=True)
class Elastic(Mixing):
    """W_alpha: workers and one centre pull at each other (EASGD). alpha: auto = 2 / (m + 2), the smallest zeta."""

    alpha: Any = "auto"
    allow_unstable: bool = False  # accept an alpha outside the range in which the workers agree

    def __post_init__(self) -> None:
        auto_or_number("algo.alpha", self.alpha)

    @property
    def num_aux(self) -> int:
        return 1

    def best_alpha(self, m: int) -> float:
        return 2 / (m + 2)

    def matrices(self, m: int, r: int) -> Factors:
        return (matrices.elastic(m, self.best_alpha(m) if self.alpha == "auto" else float(self.alpha)),)

    def check(self, m: int) -> None:
        if self.alpha == "auto" or 0 < self.alpha < 2 / (m + 1):
            super().check(m)
            return
        why = f"algo.alpha: must lie in (0, 2 / (m + 1)) = (0, {2 / (m + 1):.6g}) for {m} workers, got {self.alpha}"
        if not self.allow_unstable:
            raise ValueError(f"{why}; set algo.allow_unstable=true to run it all the same")
        warnings.warn(f"{why}; it does not converge", stacklevel=2)


@register("anchored", "mixing")
@dataclass(frozen=True)
class Anchored(Gossip):
    """Gossip on a graph with an anchor on top that pulls at every worker: generalised elastic averaging. arXiv:1808.07576.

    W' = [[(1 - alpha) W, alpha 1], [alpha 1', 1 - m alpha]]. alpha: auto = (1 + zeta) / (m + 1 + zeta), which takes W's zeta
    down to m zeta / (m + 1 + zeta). On topology=complete W is J and the workers then agree exactly.
    """

    alpha: Any = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        auto_or_number("algo.alpha", self.alpha)

    @property
    def num_aux(self) -> int:
        return 1

    def best_alpha(self, m: int) -> float:
        zeta = spectra.zeta(self.worker_matrix(m))
        return (1 + zeta) / (m + 1 + zeta)

    def matrices(self, m: int, r: int) -> Factors:
        alpha = self.best_alpha(m) if self.alpha == "auto" else float(self.alpha)
        return (matrices.anchored(self.worker_matrix(m), alpha),)


@register("hierarchical", "mixing")
@dataclass(frozen=True)
class Hierarchical(Mixing):
    """A tree: workers pull at their group's model, group models at a root (or at each other), all with one weight.

    W = I - weight * Laplacian of the tree, v = number of groups (+ 1 with a root); weight: auto = 2 / (lambda_2 +
    lambda_max), the smallest zeta. Groups may be uneven. Named by arXiv:1808.07576, whose own matrix was not seen.
    """

    groups: Any = 2
    root: bool = True  # false: the group models talk to each other, all to all
    weight: Any = "auto"

    AUX: ClassVar[str] = "algo.groups"

    def __post_init__(self) -> None:
        auto_or_number("algo.weight", self.weight)

    @property
    def num_aux(self) -> int:
        count = self.groups if isinstance(self.groups, int) else len(self.groups) if isinstance(self.groups, list) else 0
        return int(count) + self.root

    def refuse_size(self, m: int) -> None:
        split(self.groups, m)  # which tells better what is wrong with too many groups
        super().refuse_size(m)

    def matrices(self, m: int, r: int) -> Factors:
        groups = split(self.groups, m)
        v = len(groups)
        n = m + v + self.root
        adjacency = np.zeros((n, n), dtype=bool)
        for g, members in enumerate(groups):
            adjacency[list(members), m + g] = True
        if self.root:
            adjacency[m : m + v, n - 1] = True
        else:
            adjacency[m:, m:] = np.triu(np.ones((v, v), dtype=bool), 1)
        adjacency |= adjacency.T
        if self.weight == "auto":
            return (matrices.best_constant(adjacency),)
        return (np.eye(n) - float(self.weight) * matrices.laplacian(adjacency),)


Hierarchical.__doc__ = f"{Hierarchical.__doc__}\n    groups: {GROUPS_HELP}\n    "


@register("parameter_server", "mixing")
@dataclass(frozen=True)
class ParameterServer(Mixing):
    """A server takes the mean of the workers, then every worker takes the server's model: J by way of a star, 2 m messages."""

    served: ClassVar[bool] = True

    @property
    def num_aux(self) -> int:
        return 1

    def matrices(self, m: int, r: int) -> Factors:
        everyone = np.ones(m, dtype=bool)
        return matrices.upload(everyone / m), matrices.download(everyone)
