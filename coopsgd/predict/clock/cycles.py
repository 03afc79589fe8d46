"""What a round costs in the long run where workers wait for their neighbours alone: the maximum cycle mean.

With messages that wait for nobody (ports=parallel), the times at which the hosts are done with a round are a linear map of
those of the round before, in the algebra of max and plus: t(r + 1)_i = max_j (A_ij + t(r)_j). However it begins, the
slowest host then takes, a round, the largest mean of A along any cycle of hosts (Baccelli et al., Synchronization and
Linearity, 1992). A sum over all makes of that mean the maximum: the price of a barrier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from coopsgd.predict.clock.clock import Clock
from coopsgd.setup.parts import Parts

LARGEST = 1024  # hosts whose matrix is made: one rehearsed communication each
LONGEST = 64  # communications of a cycle of matrices


@dataclass(frozen=True)
class Price:
    """Seconds a round, in the long run.

    per_round: the maximum cycle mean; barrier: the same if all waited for the slowest at the end of each round; exact: is every
    step as long as any? Else it is that of mean steps, below which the mean of random ones cannot come. cycle: the hosts of
    a cycle with that mean, each waiting for the next; of a schedule of several matrices, over all of them.
    """

    per_round: float
    barrier: float
    exact: bool
    cycle: tuple[int, ...]


def maximum_cycle_mean(A: np.ndarray) -> float:
    """Of weights A[i, j], -inf where there is no edge; -inf when there is no cycle. Karp 1978, started everywhere at once."""
    n = len(A)
    walks = np.zeros((n + 1, n))  # the heaviest walk of k edges that ends here
    for k in range(n):
        walks[k + 1] = (A + walks[k]).max(1)
    last = walks[n]
    with np.errstate(invalid="ignore"):
        means = (last - walks[:n]) / (n - np.arange(n))[:, None]
    means[~np.isfinite(walks[:n])] = math.inf  # no walk of so many edges ends here
    least = np.where(np.isfinite(last), means.min(0), -math.inf)
    return float(least.max())


def critical_cycle(A: np.ndarray, mean: float) -> tuple[int, ...]:
    """A cycle of that mean, its smallest host first: A[c_0, c_1], A[c_1, c_2], ... are its edges."""
    n = len(A)
    B = A - mean
    h = np.zeros(n)  # the heaviest walk that begins here; it has less than n edges, for no cycle is heavier than 0
    for _ in range(n):
        h = np.maximum(h, (B + h).max(1))
    slack = 1e-9 * max(1.0, float(np.abs(A[np.isfinite(A)]).max(initial=0)))
    tight = [np.flatnonzero(B[i] + h >= h[i] - slack).tolist() for i in range(n)]
    state, path = [0] * n, list[int]()
    for start in range(n):
        stack = [(start, iter(tight[start]))] if not state[start] else []
        path = [start] if stack else []
        state[start] = state[start] or 1
        while stack:
            here, more = stack[-1]
            after = next(more, None)
            if after is None:
                state[here] = 2
                stack.pop()
                path.pop()
            elif state[after] == 1:
                found = path[path.index(after) :]
                first = found.index(min(found))
                return (*found[first:], *found[:first])
            elif not state[after]:
                state[after] = 1
                stack.append((after, iter(tight[after])))
                path.append(after)
    return ()


def product(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Of max and plus: first B, then A."""
    return np.stack([(A + column).max(1) for column in B.T], axis=1)


def price(parts: Parts) -> tuple[Price | None, str]:
    """What a round costs in the long run, or why there is no such number; of checked parts with a cluster."""
    config, schedule, cluster = parts.config, parts.strategy.schedule, parts.cluster
    m = config.workers
    steps = cluster.mean_step_times(m)
    if m < 2:
        return None, "one worker waits for nobody"
    if parts.strategy.send is None:
        return None, f"{config.algo['name']} communicates in every step by itself"
    if schedule is None or not isinstance(config.tau, int) or schedule.times_itself:
        return None, "rounds are not all alike"
    if (config.period or {}).get("name", "constant") != "constant" or schedule.work(m, 0, config.tau) is not None:
        return None, "rounds are not all alike"
    cycle = schedule.cycle(m)
    if cycle is None or cycle > LONGEST:
        return (
            None,
            "its matrices do not come again" if cycle is None else f"its matrices come again after {cycle} rounds alone",
        )
    if steps is None:
        return None, "this cluster does not say how long a step takes in the mean"
    hosts = m + (schedule.num_aux if schedule.server_owns_aux else 0)
    if hosts > LARGEST:
        return None, f"there are {hosts} hosts; it is found for at most {LARGEST}"
    from coopsgd.predict.rehearsal import clock_of

    clock = clock_of(parts)
    assert clock is not None
    if clock.ports != "parallel":
        return None, f"cluster.ports={cluster.ports} has messages queue; cluster.ports=parallel has one"
    late = config.tau if config.delay == "tau" else min(config.delay, config.tau)
    matrices = _matrices(parts, clock, config.tau * steps, late * steps, cycle, hosts)
    whole, slowest = matrices[0], [float(A.max()) for A in matrices]
    for A in matrices[1:]:
        whole = product(A, whole)
    mean = maximum_cycle_mean(whole)
    return Price(mean / cycle, sum(slowest) / cycle, cluster.steady, critical_cycle(whole, mean)), ""


def _matrices(parts: Parts, clock: Clock, steps: np.ndarray, late: np.ndarray, cycle: int, hosts: int) -> list[np.ndarray]:
    """(hosts, hosts) of each communication of a cycle: the clock, started at one host after the other.

    steps, late: (m,) seconds of the steps of a round, and of those of them that are taken while its messages travel.
    """
    from coopsgd.predict.rehearsal import stage

    loop, m = stage(parts, clock), len(steps)
    found = [np.empty((hosts, hosts)) for _ in range(cycle)]
    for r, A in enumerate(found):
        for j in range(hosts):
            clock.t[:] = -math.inf
            clock.t[j] = 0
            over = clock.t.copy()
            over[:m] += steps
            clock.t[:m] += steps - late
            loop.communicate(r)
            A[:, j] = np.maximum(clock.t, over)
    return found
