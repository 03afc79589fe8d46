"""The contract of a cluster: what a clock asks of whoever has hosts and links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from coopsgd.predict.clock.network import Network
from coopsgd.registry import option

PORTS = ("nic", "one", "parallel")


@dataclass(frozen=True)
class Cluster:
    """What every cluster has.

    ports: how the messages of one host share its link. nic: the latency once, the bytes after one another, in each direction on
    its own; one: one message after another, latency and all; parallel: each as if it were alone.
    """

    ports: str = option("nic", "how messages share a host's link: nic, one, parallel", words=PORTS)

    FILES: ClassVar[tuple[str, ...]] = ()  # fields that name a file the run must keep

    def __post_init__(self) -> None:
        if self.ports not in PORTS:
            raise ValueError(f"cluster.ports: must be one of {', '.join(PORTS)}, got {self.ports!r}")

    def check(self, config: Any) -> tuple[str, ...]:
        """ValueError when this is no cluster for a run of this config; else notes for its user."""
        return ()

    @property
    def places(self) -> tuple[str, ...] | None:
        """(m,) what the place of each worker is called; None where places have no names."""
        return None

    def step_times(self, m: int, seed: int, k: int) -> np.ndarray:
        """(m,) seconds of local step k on each worker."""
        raise NotImplementedError

    def mean_step_times(self, m: int) -> np.ndarray | None:
        """(m,) seconds of a local step on each worker, in the mean; None: nobody knows."""
        return None

    @property
    def steady(self) -> bool:
        """Does every step of a worker take its mean time?"""
        return False

    def network(self, m: int, hosts: int) -> Network:
        """The links between so many hosts, workers first, then servers."""
        raise NotImplementedError

    def describe(self) -> str:
        """One line for `show`."""
        raise NotImplementedError
