"""Schedules of one matrix: averaging, gossip, elastic pulls, servers, trees."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from coopsgd.mixing import matrices, spectra
from coopsgd.mixing.base import Mixing, auto_or_number
from coopsgd.mixing.graphs import Graph, Ring
from coopsgd.mixing.groups import GROUPS_HELP, split
from coopsgd.mixing.links import links_of_pairs
from coopsgd.mixing.matrix import Matrix, identity
from coopsgd.registry import of_run, option, register


@register("average", "mixing")
@dataclass(frozen=True)
class Average(Mixing):
    """J: everyone takes the mean of everyone. Periodic averaging (PASGD), local SGD."""

    structured: ClassVar[bool] = True
    WEIGHED: ClassVar[bool] = True

    def matrices(self, m: int, r: int) -> tuple[Matrix, ...]:
        return (matrices.weighted(m, self.sample_shares),)


def takes_mean(schedule: Mixing | None) -> bool:
    """Is every communication the mean over all workers, as `fleet.mean` takes it?"""
    return isinstance(schedule, Average) and not schedule.lazy


@register("identity", "mixing")
@dataclass(frozen=True)
class Identity(Mixing):
    """W = I: nobody talks to anybody. It allows itself to reach no consensus."""

    structured: ClassVar[bool] = True

    def matrices(self, m: int, r: int) -> tuple[Matrix, ...]:
        return (identity(m),)

    def check(self, m: int) -> None:
        pass


@register("gossip", "mixing")
@dataclass(frozen=True)
class Gossip(Mixing):
    """A sparse W on a graph: everyone takes from its neighbours. D-PSGD, decentralised periodic averaging.

    weights: metropolis, uniform (1 / (1 + largest degree)), best_constant or fdla (the smallest zeta of all on this graph).
    """

    weights: str = option(
        "metropolis", "of the links: metropolis, uniform, best_constant or fdla", words=tuple(matrices.WEIGHTS)
    )
    topology: Graph = field(default_factory=Ring)
    seed: int = of_run("seed", 0)

    def __post_init__(self) -> None:
        if self.weights not in matrices.WEIGHTS:
            raise ValueError(f"algo.weights: must be one of {', '.join(matrices.WEIGHTS)}, got {self.weights!r}")

    structured: ClassVar[bool] = True

    def _worker_matrix(self, m: int) -> Matrix:
        """(m, m) W of the workers among themselves."""
        return self.once(("gossip", m), lambda: matrices.WEIGHTS[self.weights](self.topology.links(m, self.seed)))

    def matrices(self, m: int, r: int) -> tuple[Matrix, ...]:
        return (self._worker_matrix(m),)


@register("elastic", "mixing")
@dataclass(frozen=True)
class Elastic(Mixing):
    """W_alpha: workers and one centre pull at each other (EASGD). alpha: auto = 2 / (m + 2), the smallest zeta."""

    structured: ClassVar[bool] = True

    alpha: Any = option("auto", "the pull; auto: 2 / (m + 2), which minimises zeta", unit="", type="float or auto")
    allow_unstable: bool = option(False, "accept an alpha outside the range in which the workers agree")

    def __post_init__(self) -> None:
        auto_or_number("algo.alpha", self.alpha)

    @property
    def num_aux(self) -> int:
        return 1

    def best_alpha(self, m: int) -> float:
        return 2 / (m + 2)

    def matrices(self, m: int, r: int) -> tuple[Matrix, ...]:
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

    structured = Gossip.structured

    alpha: Any = option(
        "auto", "the pull; auto: (1 + zeta) / (m + 1 + zeta), which minimises zeta", unit="", type="float or auto"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        auto_or_number("algo.alpha", self.alpha)

    @property
    def num_aux(self) -> int:
        return 1

    def best_alpha(self, m: int) -> float:
        zeta = spectra.zeta(self._worker_matrix(m))
        return (1 + zeta) / (m + 1 + zeta)

    def matrices(self, m: int, r: int) -> tuple[Matrix, ...]:
        alpha = self.best_alpha(m) if self.alpha == "auto" else float(self.alpha)
        return (matrices.anchored(self._worker_matrix(m), alpha),)


@register("hierarchical", "mixing")
@dataclass(frozen=True)
class Hierarchical(Mixing):
    """A tree: workers pull at their group's model, group models at a root (or at each other), all with one weight.

    W = I - weight * Laplacian of the tree, v = number of groups (+ 1 with a root); weight: auto = 2 / (lambda_2 +
    lambda_max), the smallest zeta. Groups may be uneven. Named by arXiv:1808.07576, whose own matrix was not seen.
    """

    structured: ClassVar[bool] = True

    groups: Any = option(2, "how many; or their sizes; or lists of workers", unit="groups, workers", type="int or list")
    root: bool = option(True, "of the tree; false: the group models talk to each other, all to all")
    weight: Any = option(
        "auto", "of a link; auto: 2 / (lambda_2 + lambda_max) of the tree's Laplacian", unit="", type="float or auto"
    )

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

    def matrices(self, m: int, r: int) -> tuple[Matrix, ...]:
        groups = split(self.groups, m)
        v = len(groups)
        n, root = m + v + self.root, m + v
        of = [(int(i), m + g) for g, members in enumerate(groups) for i in members]
        tops = [(m + g, root) for g in range(v)] if self.root else [(m + g, m + h) for g in range(v) for h in range(g + 1, v)]
        tree = np.array([*of, *tops])
        labels = np.append(np.array(sorted(of))[:, 1] - m, v + np.arange(n - m))  # workers of one group are alike
        if self.weight == "auto":
            W = matrices.best_constant(replace(links_of_pairs(n, tree), labels=labels))
        else:
            W = matrices.of_laplacian(n, tree, float(self.weight), labels)
        return (W,)


Hierarchical.__doc__ = f"{Hierarchical.__doc__}\n    groups: {GROUPS_HELP}\n    "


@register("parameter_server", "mixing")
@dataclass(frozen=True)
class ParameterServer(Mixing):
    """A server takes the mean of the workers, then every worker takes the server's model: J by way of a star, 2 m messages."""

    structured: ClassVar[bool] = True
    WEIGHED: ClassVar[bool] = True

    server_owns_aux: ClassVar[bool] = True

    @property
    def num_aux(self) -> int:
        return 1

    def matrices(self, m: int, r: int) -> tuple[Matrix, ...]:
        everyone = np.ones(m, dtype=bool)
        return matrices.upload(self.worker_shares(m)), matrices.download(everyone)
