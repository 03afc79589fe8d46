"""The error bound where the workers' f_i differ. Derived here, not in the paper: docs/drift.md has the proof.

For plain SGD at a constant rate, doubly stochastic W, every f_i L-smooth, and at u_k, the mean of all m + v rows,

    sqrt((1/m) sum_i ||grad f_i - grad F||^2) <= kappa + beta ||grad F||    in the mean square over the run,

let g^2 be (1/K) sum_k E||grad F(u_k)||^2, x = eta_eff L, and Q the largest sum of windows (`window_sum`). Then, with

    T = 2 gap / (eta_eff K) + eta_eff L sigma2 / m                  what fully synchronous SGD has
    s = x (1 + v/m) sqrt(Q)
    B = (x sqrt(sigma2 A / 2) + s kappa) / (1 - s)                  L times the distance between the rows, but for C g:
    C = s beta / (1 - s)
    r = 1 / (1 - v/(m + v) (s / (1 - s))^2 / (1 - x))               1 for v = 0

g^2 <= T + r B^2 for beta = 0, else g is at most the root of g^2 = T + r (B + C g)^2. The condition is x <= 1, s < 1, r > 0
and r C^2 < 1, without equality: at its edge there is no bound. A is the network factor of the bound for one f.
"""

from __future__ import annotations

import math

from coopsgd.predict.theory.bound import Bound
from coopsgd.tasks.known import Known


def window_sum(tau: float, zeta: float) -> float:
    """Q, no unit: the largest sum over k > s of w_sk sum_{s' < k} w_s'k, w = zeta^(mixings from step s on until step k).

    tau (tau - 1) / 2 for zeta = 0, z^2 for tau = 1, z = zeta / (1 - zeta). Infinite at zeta = 1.
    """
    if zeta >= 1:
        return math.inf
    z = zeta / (1 - zeta)
    return (1 + z) * (tau * (tau - 1) / 2 + tau**2 * z) - tau * z


def _factors(x: float, m: int, v: int, Q: float, beta: float) -> tuple[float, float, float] | None:
    """s, C and r at x = eta_eff L; None where the condition fails."""
    s = x * (1 + v / m) * math.sqrt(Q)
    if not (x <= 1 and s < 1):
        return None
    C, r, aux = s * beta / (1 - s), 1.0, v / (m + v) * (s / (1 - s)) ** 2
    if aux:
        if not aux < 1 - x:
            return None
        r = 1 / (1 - aux / (1 - x))
    return (s, C, r) if r * C**2 < 1 else None


def largest_drift_step(m: int, v: int, Q: float, beta: float = 0.0) -> float:
    """The eta_eff L below which the condition holds."""
    low, high = 0.0, 1.0
    if _factors(high, m, v, Q, beta) is not None:
        return high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _factors(middle, m, v, Q, beta) is not None else (low, middle)
    return low


def drift_terms(known: Known, eta_eff: float, steps: float, m: int, v: int, A: float, Q: float) -> Bound | None:
    """The terms after so many steps; None where the step is too large. drift is what the f_i add to the others by differing."""
    x = eta_eff * known.L
    found = _factors(x, m, v, Q, known.beta)
    if found is None:
        return None
    s, C, r = found
    optimisation, noise = 2 * known.gap / (eta_eff * steps), x * known.sigma2 / m
    T, scattered = optimisation + noise, x * math.sqrt(known.sigma2 * A / 2)
    B, left = (scattered + s * known.kappa) / (1 - s), 1 - r * C**2
    g = (r * B * C + math.sqrt(r * B**2 + left * T)) / left
    network = r * (scattered / (1 - s)) ** 2
    return Bound(optimisation, noise, network, max(0.0, g**2 - T - network))
