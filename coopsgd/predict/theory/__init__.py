"""What theory predicts of A(tau, W, v), as functions of tau, zeta, m, v, L and sigma. arXiv:1808.07576.

`bound` holds the error bound, its step sizes and what follows from them; `drift` that of f_i that differ; `windows` the step
condition of a cycle of matrices; `delay` the step below which a delay lets workers agree; `moments` the exact distance between
the workers under gradient noise, by the second-moment recursion; `outer` both with an outer step. numpy and small
matrices only.
"""

from coopsgd.predict.theory.bound import Bound, largest_steps, linear_speedup, network_factor, terms
from coopsgd.predict.theory.delay import contraction, largest_step
from coopsgd.predict.theory.drift import drift_terms, largest_drift_step, window_sum
from coopsgd.predict.theory.moments import (
    Forecast,
    drift_consensus,
    expected_drift,
    expected_noise,
    noise_consensus,
    outcome_noise,
    sampled_consensus,
    summed,
    unread,
)
from coopsgd.predict.theory.outer import cycle_radius, mode_radius, outer_drift, outer_noise, outer_share
from coopsgd.predict.theory.windows import window_constant

__all__ = [
    "Bound",
    "Forecast",
    "contraction",
    "cycle_radius",
    "drift_consensus",
    "drift_terms",
    "expected_drift",
    "expected_noise",
    "largest_drift_step",
    "largest_step",
    "largest_steps",
    "linear_speedup",
    "mode_radius",
    "network_factor",
    "noise_consensus",
    "outcome_noise",
    "outer_drift",
    "outer_noise",
    "outer_share",
    "sampled_consensus",
    "summed",
    "terms",
    "unread",
    "window_constant",
    "window_sum",
]
