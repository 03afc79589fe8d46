"""What verbs are given: checked before anything is sent."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from coopsgd.mixing.matrix import Matrix
from coopsgd.mixing.recognise import recognise


def refuse_others(verb: str, rows: int, *xs: Tensor) -> None:
    """ValueError unless these are Rows, so many in this process."""
    for x in xs:
        if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[0] != rows or not x.is_floating_point():
            got = f"{tuple(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"fleet.{verb}: takes Rows, real numbers of shape ({rows}, n) in this process, got {got}")


def matrix_of(W: Any, m: int, v: int) -> Matrix:
    """What is given as W, recognised; ValueError when it is no matrix of m workers and v auxiliaries."""
    n = m + v
    shape = W.shape if isinstance(W, Matrix) else (W := np.asarray(W)).shape
    if isinstance(W, np.ndarray) and (W.dtype.kind not in "fiu" or not np.isfinite(W).all()):
        raise ValueError(f"mix: W must hold finite real numbers, got {W.dtype}")
    if shape != (n, n):
        raise ValueError(f"mix: W must be ({n}, {n}) for {m} workers and {v} auxiliaries, got {shape}")
    return recognise(W)
