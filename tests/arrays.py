"""The matrices that have a name, as numpy arrays: for tests that compute with them by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from coopsgd.mixing import matrices as named
from coopsgd.mixing.recognise import recognise


def _as_array(make: Callable[..., Any]) -> Callable[..., np.ndarray]:
    return lambda *arguments: np.array(make(*arguments))


average, elastic, anchored, upload = (_as_array(getattr(named, x)) for x in ("average", "elastic", "anchored", "upload"))
download, pairs, laplacian = (_as_array(getattr(named, x)) for x in ("download", "pairs", "laplacian"))
WEIGHTS = {name: _as_array(make) for name, make in named.WEIGHTS.items()}
metropolis, uniform, best_constant, fdla = WEIGHTS.values()


def factors(source: Any, m: int, r: int) -> tuple[np.ndarray, ...]:
    """What communication r of a mixing or a strategy applies, in order, read-only."""
    return tuple(recognise(W).dense() for W in source.factors(m, r))
