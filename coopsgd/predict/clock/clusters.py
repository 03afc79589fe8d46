"""Clusters: how long a local step takes on each worker, and what the links between hosts are. One worker a host.

Presets are yamls; `from_probe` reads what was measured. Times of a step are a pure function of (seed, k),
drawn for all workers at once, so every placement sees the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from coopsgd.mixing.groups import split
from coopsgd.predict.clock.cluster import Cluster
from coopsgd.predict.clock.network import ALL_REDUCES, Network, all_reduce_s
from coopsgd.predict.clock.steps import Steps, bits, seconds
from coopsgd.predict.clock.underlay import Underlay
from coopsgd.registry import of_run, option, register

if TYPE_CHECKING:
    from coopsgd.predict.probe_file import Probe

__all__ = ["FromProbe", "Links", "Underlay", "bits"]


@register("custom", "cluster")
@dataclass(frozen=True)
class Links(Steps):
    """A cluster of your own numbers.

    latency_s: seconds; bandwidth: bit/s, or as "100 Mbit/s". One number for all links, or a matrix [to, from] over groups (over
    workers where there are none). groups: how many sites; or their sizes; or lists of workers. A server is in the first.
    all_reduce: ring, tree, halving_doubling, or two_level: in each group, then over the groups.
    """

    latency_s: Any = option(1e-4, "of a message, or a matrix [to, from] over groups", unit="s", type="float or list")
    bandwidth: Any = option("1 Gbit/s", "of a link, or a matrix likewise", unit="bit/s", type="text or list")
    groups: Any = option(
        None, "of hosts, the sites: how many; or their sizes; or lists of workers", unit="groups, workers", type="int or list"
    )
    all_reduce: str = option("ring", "ring, tree, halving_doubling, two_level", words=ALL_REDUCES)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.all_reduce not in ALL_REDUCES:
            raise ValueError(f"cluster.all_reduce: must be one of {', '.join(ALL_REDUCES)}, got {self.all_reduce!r}")
        if self.all_reduce == "two_level" and self.groups is None:
            raise ValueError("cluster.all_reduce=two_level: needs cluster.groups, as in cluster.groups=2")
        _matrix("latency_s", self.latency_s, seconds)
        _matrix("bandwidth", self.bandwidth, bits)

    def check(self, config: Any) -> tuple[str, ...]:
        super().check(config)
        m = config.workers
        n, what = len(self._sites(m)), "workers" if self.groups is None else "groups"
        for name, read in (("latency_s", seconds), ("bandwidth", bits)):
            array = _matrix(name, getattr(self, name), read)
            if array.ndim and len(array) != n:
                raise ValueError(f"cluster.{name}: is a matrix over {len(array)}, but there are {n} {what}; or give one number")
        return ()

    def _sites(self, m: int) -> list[Any]:
        if self.groups is None:
            return [[i] for i in range(m)]
        try:
            return split(self.groups, m)
        except ValueError as error:
            raise ValueError(str(error).replace("algo.groups", "cluster.groups")) from None

    def network(self, m: int, hosts: int) -> Network:
        site = np.zeros(hosts, dtype=int)
        for s, members in enumerate(self._sites(m)):
            site[list(members)] = s
        latency, bandwidth = _matrix("latency_s", self.latency_s, seconds), _matrix("bandwidth", self.bandwidth, bits)
        shape, links = (hosts, hosts), np.ix_(site, site)
        a = latency[links] if latency.ndim else np.broadcast_to(latency, shape)
        b = 8 / (bandwidth[links] if bandwidth.ndim else np.broadcast_to(bandwidth, shape))
        return Network(a, b, self.ports, lambda group, nbytes: all_reduce_s(self.all_reduce, group, nbytes, a, b, site))

    def describe(self) -> str:
        links = f"{_told(self.bandwidth, bits)}, {_told(self.latency_s, seconds)} s a message"
        return f"{links}, all-reduce by {self.all_reduce}; {self._told_steps()}"


@register("from_probe", "cluster")
@dataclass(frozen=True)
class FromProbe(Cluster):
    """What `coopsgd probe` measured: the median step of each worker, all-reduce and edges by the fitted a + b * bytes.

    own_speeds: each worker keeps its own median, so there must be as many as were measured; false: all take the median of all.
    An all-reduce over g hosts where P were measured scales as a ring does: a by (g - 1) / (P - 1), b by (g - 1) / g over
    (P - 1) / P.
    """

    file: str = option("", "what `coopsgd probe` wrote")
    task: Any = of_run("task", None, kw_only=True, repr=False)
    own_speeds: bool = option(True, "false: every worker takes the median of all")

    FILES: ClassVar[tuple[str, ...]] = ("file",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.file:
            raise ValueError("cluster.file: is missing; name what `coopsgd probe` wrote, as in cluster.file=probe.json")

    @cached_property
    def measured(self) -> Probe:
        """What the file of the probe holds. ConfigError, in one line, when it is none."""
        from coopsgd.predict import probe_file

        return probe_file.load(self.file)

    def check(self, config: Any) -> tuple[str, ...]:
        found, m = self.measured, config.workers
        notes = found.check(config, self.task)
        if self.own_speeds and len(found.workers_s) != m:
            raise ValueError(
                f"cluster.file: {self.file} measured {len(found.workers_s)} workers, but workers={m}; probe as many, or set "
                "cluster.own_speeds=false"
            )
        if m > 1 and found.network is None:
            raise ValueError(f"cluster.file: {self.file} measured no network, one process; probe with processes=2 or more")
        return notes

    def step_times(self, m: int, seed: int, k: int) -> np.ndarray:
        found = self.measured
        return np.array(found.workers_s) if self.own_speeds else np.full(m, found.step_s.value)

    def mean_step_times(self, m: int) -> np.ndarray:
        return self.step_times(m, 0, 0)

    @property
    def steady(self) -> bool:
        return True

    def network(self, m: int, hosts: int) -> Network:
        found = self.measured.network
        if found is None:
            return Network(np.zeros((hosts, hosts)), np.zeros((hosts, hosts)), self.ports, lambda group, nbytes: 0.0)
        P, whole, edge = found.processes, found.all_reduce, found.edge

        def all_reduce(group: np.ndarray, nbytes: float) -> float:
            g = len(group)
            return whole.a.value * (g - 1) / (P - 1) + whole.b.value * nbytes * ((g - 1) / g) / ((P - 1) / P)

        a, b = (np.broadcast_to(one.value, (hosts, hosts)) for one in (edge.a, edge.b))
        return Network(a, b, self.ports, all_reduce)

    def describe(self) -> str:
        found = self.measured
        hosts = found.network.processes if found.network is not None else 1
        return f"as measured in {self.file} ({len(found.workers_s)} workers, {hosts} processes)"


def _matrix(name: str, value: Any, read: Callable[[Any], float]) -> np.ndarray:
    """A number, (), or a square matrix of them, (n, n)."""
    if not isinstance(value, list):
        rows: Any = value
    elif all(isinstance(row, list) and len(row) == len(value) for row in value) and value:
        rows = value
    else:
        raise ValueError(f"cluster.{name}: must be one number or a square matrix, a row for each that receives, got {value}")
    try:
        return np.array([[read(one) for one in row] for row in rows] if isinstance(rows, list) else read(rows))
    except ValueError as error:
        raise ValueError(f"cluster.{name}: {error}") from None


def _told(value: Any, read: Callable[[Any], float]) -> str:
    """A number, or the least and the most of a matrix."""
    if isinstance(value, list):
        ends = [pick((one for row in value for one in row), key=read) for pick in (min, max)]
        return " to ".join(dict.fromkeys(_told(end, read) for end in ends))
    return str(value) if isinstance(value, str) else f"{value:g}"
