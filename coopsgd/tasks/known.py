"""The constants of a task that theory is about."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Known:
    """What theory needs to know of a task."""

    L: float  # smoothness of every worker's f_i: the proof asks it of each, in the term of workers that differ
    sigma2: float  # E||g - grad f_i||^2 of one worker's minibatch gradient, over all coordinates
    gap: float  # F(u_1) - inf F
    kappa2: float = 0.0  # (1/m) sum_i ||grad f_i - grad F||^2; 0: one f for all workers
    L_F: float | None = field(default=None, compare=False)  # smoothness of their mean F alone, at most L; only reported
    # how they differ everywhere: sqrt of kappa2 at x <= sqrt(kappa2_best) + beta ||grad F(x)||; None where only kappa2 is known
    kappa2_best: float | None = field(default=None, compare=False)
    beta: float = field(default=0.0, compare=False)

    @property
    def differ(self) -> bool:
        """Have the workers different f_i?"""
        return self.kappa2 > 0 or bool(self.kappa2_best) or self.beta > 0

    @property
    def kappa(self) -> float:
        """That of the bound: at the optimum of F, with beta; else the root of kappa2, taken for its mean over the run."""
        return math.sqrt(self.kappa2 if self.kappa2_best is None else self.kappa2_best)
