"""The error bound of cooperative SGD, its conditions and corollaries. Wang & Joshi, arXiv:1808.07576.

With eta_eff = lr m / (m + v) and u_k the mean of all m + v rows, under a condition on the step size,

    (1/K) sum_k E||grad F(u_k)||^2 <= 2 gap / (eta_eff K) + eta_eff L sigma2 / m + eta_eff^2 L^2 sigma2 A
    A = (1 + v/m)^2 [tau (1 + zeta^2) / (1 - zeta^2) - 1]

for one F, L-smooth, sampled by every worker without bias, plain SGD at a constant rate, and a symmetric W whose rows sum to 1.

The condition is eta_eff L + c eta_eff^2 L^2 [(1 + v/m) tau / (1 - zeta)]^2 <= 1. c = 5, "published", is the paper's as it is
remembered; c = 2, "derived", follows from the same steps of the proof and lets rates be larger. What is asked by default is
c = 5, the careful one; the tests hold the bound against measurement under both. Of a cycle of several matrices the proof
carries what its windows carry (windows.py): a condition that asks less than that is not one of the cycle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from coopsgd.mixing.spectra import EXACT
from coopsgd.tasks.known import Known

CONSTANTS = {"published": 5.0, "derived": 2.0}  # c of the condition on the step


@dataclass(frozen=True)
class Bound:
    """The terms of the bound on the mean of ||grad F(u_k)||^2 over K steps."""

    optimisation: float  # of where it started; falls as 1 / K
    noise: float  # of fully synchronous SGD with m minibatches
    network: float  # of models that noise drives apart; zero for tau = 1, zeta = 0
    drift: float = 0.0  # of f_i that differ (drift.py)

    @property
    def total(self) -> float:
        """The right side."""
        return self.optimisation + self.noise + self.network + self.drift


def network_factor(tau: float, zeta: float, m: int, v: int = 0) -> float:
    """A, no unit. tau is real here: a mean or a trial value will do. Infinite at zeta = 1."""
    if zeta >= 1:
        return math.inf
    return (1 + v / m) ** 2 * ((1 + zeta**2) / (1 - zeta**2) * tau - 1)


def terms(known: Known, eta_eff: float, steps: float, m: int, A: float) -> Bound:
    """The terms after so many steps."""
    return Bound(
        2 * known.gap / (eta_eff * steps),
        eta_eff * known.L * known.sigma2 / m,
        (eta_eff * known.L) ** 2 * known.sigma2 * A,
    )


def _root(q: float) -> float:
    """The x > 0 with x + q x^2 = 1."""
    return 2 / (1 + math.sqrt(1 + 4 * q))


def largest_steps(tau: int, zeta: float, m: int, v: int = 0, windows: float | None = None) -> dict[str, float]:
    """The largest eta_eff L by each condition that applies; 0 where zeta is 1.

    published and derived always; pasgd (zeta = 0, v = 0): x + x^2 tau (tau - 1) <= 1; dpsgd (tau = 1, v = 0):
    x + 2 x^2 zeta^2 / (1 - zeta)^2 <= 1.

    windows: c' of a cycle of several matrices, whose steps are tau and whose product has zeta. Its own condition, "computed",
    is x + c' x^2 <= 1; the others count only where they ask for as much.
    """
    if zeta >= 1:
        return dict.fromkeys(CONSTANTS, 0.0)
    reach = (1 + v / m) * tau / (1 - zeta)
    required = {name: c * reach**2 for name, c in CONSTANTS.items()}
    if v == 0 and zeta < EXACT:
        required["pasgd"] = float(tau * (tau - 1))
    if v == 0 and tau == 1:
        required["dpsgd"] = 2 * (zeta / (1 - zeta)) ** 2
    if windows is not None:
        required = {name: q for name, q in required.items() if q >= windows * (1 - 1e-9)} | {"computed": windows}
    return {name: _root(q) for name, q in required.items()}


def linear_speedup(m: int, A: float, largest: float) -> int:
    """The K from which eta_eff = sqrt(m / K) / L meets the condition and makes the network term at most sigma2 / sqrt(m K).

    The bound then is at most 2 (L gap + sigma2) / sqrt(m K): m workers need m times fewer steps. K >= m^3 A^2 and K >= m /
    largest^2, `largest` being the eta_eff L of the condition.
    """
    return math.ceil(max(m**3 * A**2, m / largest**2) * (1 - 1e-12))
