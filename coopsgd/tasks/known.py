"""The constants of a task that theory is about."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Known:
    """What theory needs to know of a task."""

    L: float  # smoothness of every worker's f_i: the proof asks it of each, in the term of workers that differ
    sigma2: float  # E||g - grad f_i||^2 of one worker's minibatch gradient, over all coordinates
    gap: float  # F(u_1) - inf F
    kappa2: float = 0.0  # (1/m) sum_i ||grad f_i - grad F||^2; 0: one f for all workers
    L_F: float | None = field(default=None, compare=False)  # smoothness of their mean F alone, at most L; only reported
