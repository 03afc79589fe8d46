"""What kind of matrix an array is: the one place that looks, once, at what a user's code or file hands over."""

from __future__ import annotations

from typing import Any

import numpy as np

from coopsgd.mixing.matrix import SPARSE, WHOLE, Edges, Matrix, frozen
from coopsgd.mixing.structured import Average, Dense


def recognise(W: Any) -> Matrix:
    """What kind of matrix an array is: the average of all, edges where it is large and sparse, else no more than an array."""
    if isinstance(W, Matrix):
        return W
    W = frozen(W)
    n = len(W)
    if n > 1 and W[0, 0] == 1 / n and (1 / n == W).all():
        return Average(n)
    found = Dense(W)
    if n > WHOLE and np.count_nonzero(W) <= SPARSE * n * n:
        return Edges(n, *found.edges.entries)
    return found
