"""What theory predicts of A(tau, W, v), as functions of tau, zeta, m, v, L and sigma. arXiv:1808.07576.

`bound` holds the error bound, its step sizes and what follows from them; `moments` the exact distance between the workers
under gradient noise, by the second-moment recursion. numpy and small matrices only.
"""

from coopsgd.theory.bound import Bound, Known, largest_steps, linear_speedup, network_factor, terms
from coopsgd.theory.moments import Forecast, drift_consensus, noise_consensus, summed, unread

__all__ = [
    "Bound",
    "Forecast",
    "Known",
    "drift_consensus",
    "largest_steps",
    "linear_speedup",
    "network_factor",
    "noise_consensus",
    "summed",
    "terms",
    "unread",
]
