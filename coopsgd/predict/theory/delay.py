"""What a delay does under curvature: when the models no longer contract."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

ROUNDING = 1e-12  # of eigenvalues: at the smallest rates a mode that grows by less would seem to contract


def contraction(values: np.ndarray, x: float, tau: int, delay: int) -> float:
    """What a round of tau steps leaves of a disagreement at worst, on a quadratic: the largest |factor| of a mode.

    values: eigenvalues of W; x = eta h, step times curvature. The last `delay` steps go along gradients of models that are not
    mixed yet: a mode obeys q <- (lambda + (1 - x)^delay - 1) (1 - x)^(tau - delay) q.
    """
    kept = 1 - x
    return float(np.abs((values + kept**delay - 1) * kept ** (tau - delay)).max())


def largest_step(values: np.ndarray, tau: int, delay: int) -> float:
    """The largest eta h below which every mode contracts; at most 2, the bound of gradient descent itself.

    values: eigenvalues of W, that of consensus left out, for its factor is (1 - x)^tau.
    """
    if not len(values):
        return 2.0
    return least_bad(lambda x: contraction(values, x, tau, delay), 2000)


def least_bad(left: Callable[[float], float], parts: int) -> float:
    """The largest eta h in (0, 2] below which `left`, what a round leaves at worst, is under 1; looked for in so many parts."""

    def bad(x: float) -> bool:
        return left(x) >= 1 - ROUNDING

    grid = np.linspace(0, 2, parts + 1)[1:-1]
    places = np.flatnonzero([bad(float(x)) for x in grid])
    if not len(places):
        return 2.0
    low, high = (float(grid[places[0] - 1]) if places[0] else 0.0), float(grid[places[0]])
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if bad(middle) else (middle, high)
    return low
