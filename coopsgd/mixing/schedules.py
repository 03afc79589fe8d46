"""Which matrices the r-th communication applies. A mixing is a frozen dataclass; its fields are keys of an algo's yaml.

A communication is a list of *factors*, applied in order, so that its price stays honest: federated averaging is "up"
then "down", not the dense product of the two. A field named like a key at the top of the config (`topology`, `seed`)
is filled from there.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coopsgd.mixing import matrices, spectra
from coopsgd.mixing.graphs import Graph, Ring
from coopsgd.registry import register

Factors = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Mixing:
    """A schedule of mixing matrices over m workers (rows first) and `num_aux` auxiliary models (rows last)."""

    allow_disconnected: bool = False  # run although the workers never agree
    _cache: dict[int, Factors] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def num_aux(self) -> int:
        """v, the number of auxiliary models."""
        return 0

    def matrices(self, m: int) -> Factors:
        """The factors of every communication; a subclass whose matrices vary overrides `factors` instead."""
        raise NotImplementedError

    def factors(self, m: int, r: int) -> Factors:
        """The (m + v, m + v) matrices that communication r applies, in order. Read-only; the same arrays each time."""
        if m not in self._cache:
            self._cache[m] = tuple(_frozen(W) for W in self.matrices(m))
        return self._cache[m]

    def cycle(self) -> int:
        """After how many communications the schedule repeats; 1 when it is constant."""
        return 1

    def active(self, m: int, r: int) -> np.ndarray | None:
        """(m,) bool, who computes towards communication r; None when everyone does."""
        return None

    def check(self, m: int) -> None:
        """Build every matrix once. ValueError when the schedule cannot work for m workers."""
        n = m + self.num_aux
        period = np.eye(n)
        for r in range(self.cycle()):
            period = spectra.product(self.factors(m, r), n) @ period
        if not self.allow_disconnected and not spectra.reaches_consensus(period):
            raise ValueError(
                f"no consensus: ||W - J|| over a period is {spectra.zeta(period):.6g}, not below 1, so the workers never "
                "agree; choose another W or topology, or set algo.allow_disconnected=true"
            )


def _frozen(W: np.ndarray) -> np.ndarray:
    W = np.array(W, dtype=np.float64)
    W.setflags(write=False)
    return W


@register("average", "mixing")
@dataclass(frozen=True)
class Average(Mixing):
    """J: everyone takes the mean of everyone. Periodic averaging (PASGD), local SGD."""

    def matrices(self, m: int) -> Factors:
        return (matrices.average(m),)


@register("gossip", "mixing")
@dataclass(frozen=True)
class Gossip(Mixing):
    """A sparse W on a graph: everyone takes from its neighbours. D-PSGD, decentralised periodic averaging.

    weights: metropolis, uniform (1 / (1 + largest degree)) or best_constant.
    """

    weights: str = "metropolis"
    topology: Graph = field(default_factory=Ring)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.weights not in matrices.WEIGHTS:
            raise ValueError(f"gossip: no weights named {self.weights!r}; known: {', '.join(matrices.WEIGHTS)}")

    def matrices(self, m: int) -> Factors:
        return (matrices.WEIGHTS[self.weights](self.topology.adjacency(m, self.seed)),)


@register("elastic", "mixing")
@dataclass(frozen=True)
class Elastic(Mixing):
    """W_alpha: workers and one centre pull at each other (EASGD). alpha: auto = 2 / (m + 2), the smallest zeta."""

    alpha: Any = "auto"
    allow_unstable: bool = False  # accept an alpha outside (0, 2 / (m + 1))

    def __post_init__(self) -> None:
        if self.alpha != "auto" and (isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float)):
            raise ValueError(f"elastic: alpha must be auto or a number, got {self.alpha!r}")

    @property
    def num_aux(self) -> int:
        return 1

    def matrices(self, m: int) -> Factors:
        return (matrices.elastic(m, 2 / (m + 2) if self.alpha == "auto" else float(self.alpha)),)

    def check(self, m: int) -> None:
        if self.alpha == "auto" or 0 < self.alpha < 2 / (m + 1):
            super().check(m)
            return
        why = f"elastic: alpha must lie in (0, 2 / (m + 1)) = (0, {2 / (m + 1):.6g}) for {m} workers, got {self.alpha}"
        if not self.allow_unstable:
            raise ValueError(f"{why}; set algo.allow_unstable=true to run it all the same")
        warnings.warn(f"{why}; it does not converge", stacklevel=2)


@register("matrix", "mixing")
@dataclass(frozen=True)
class Matrix(Mixing):
    """Any W you write: an (m + v, m + v) array, row i = what member i takes, auxiliary rows last.

    W: a .npy file or a list of rows; rows must sum to one.
    """

    W: Any = None
    v: int = 0

    ARRAYS = ("W",)  # frozen into the run folder, so that a run can be repeated without the file

    def __post_init__(self) -> None:
        if self.v < 0:
            raise ValueError(f"matrix: v must be at least 0, got {self.v}")

    @property
    def num_aux(self) -> int:
        return self.v

    def matrices(self, m: int) -> Factors:
        W = load_array("algo.W", self.W)
        n = m + self.v
        if W.ndim != 2 or W.shape[0] != W.shape[1]:
            raise ValueError(f"algo.W: must be square, got shape {tuple(W.shape)}")
        if len(W) != n:
            raise ValueError(
                f"algo.W: must be workers + v = {m} + {self.v} = {n} on a side, got {len(W)}; set workers or algo.v"
            )
        if not np.isfinite(W).all():
            raise ValueError("algo.W: holds an entry that is not a finite number")
        off = np.abs(W.sum(1) - 1)
        if off.max() > 1e-6:
            worst = int(off.argmax())
            raise ValueError(f"algo.W: rows must sum to 1, row {worst} sums to {W[worst].sum():.6g}")
        return (W,)


def load_array(name: str, value: Any) -> np.ndarray:
    """A float64 array from a .npy file's path or a nested list. ValueError, naming `name`, when it is neither."""
    if value is None:
        raise ValueError(f"{name}: is missing; give a .npy file or a list, as in {name}=w.npy")
    try:
        array = np.load(value, allow_pickle=False) if isinstance(value, str) else np.array(value, dtype=np.float64)
        return np.asarray(array, dtype=np.float64)
    except OSError as error:
        raise ValueError(f"{name}: cannot read {value!r} ({error.strerror or error}); give a .npy file or a list") from None
    except (ValueError, TypeError, EOFError):
        raise ValueError(f"{name}: {str(value)[:60]!r} holds no array of numbers; give a .npy file or a list of rows") from None
