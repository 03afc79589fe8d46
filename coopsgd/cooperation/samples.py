"""How many samples each worker learns from, as every process says of its own."""

from __future__ import annotations

import operator
from typing import Any

from coopsgd.errors import ConfigError


def said(samples: Any) -> Any:
    """What a process says of its samples, or what it is instead; whole numbers of every kind are ints."""
    if isinstance(samples, list | tuple):
        return [said(n) for n in samples]
    if samples is None or isinstance(samples, bool):
        return samples
    try:
        return operator.index(samples)
    except TypeError:
        return repr(samples)


def each(shares: list[Any], models: int) -> list[int] | None:
    """Samples of every worker, of what each process has said of its own. ConfigError when only some have."""
    if all(share is None for share in shares):
        return None
    flat = [[*share] if isinstance(share, list | tuple) else [share] for share in shares]
    for q, mine in enumerate(flat):
        if len(mine) != models or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in mine):
            raise ConfigError(f"samples: a whole number of at least 1 for each model and process, got {shares[q]} in rank {q}")
    return [n for mine in flat for n in mine]
