"""How many jobs a sweep has, by arithmetic: Hydra writes all of them down before it starts the first."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.errors import HydraException

from coopsgd.errors import ConfigError

MOST = 100_000  # jobs: of a third of a second each they take nine hours


def parsed(words: Sequence[str]) -> list[Override]:
    """The overrides as Hydra reads them; none when it cannot, which it says when it comes to it."""
    try:
        return OverridesParser.create().parse_overrides([word for word in words if "=" in word and not word.startswith("-")])
    except (HydraException, ValueError, RecursionError):
        return []


def swept(words: Sequence[str]) -> dict[str, Override]:
    """The overrides that sweep, by their key."""
    return {override.get_key_element(): override for override in parsed(words) if override.is_sweep_override()}


def swept_keys(words: Sequence[str]) -> frozenset[str]:
    """Their keys alone; each job asks for those of the sweep, whose words may name a thousand values."""
    return _swept_keys(tuple(words))


@functools.lru_cache(maxsize=8)
def _swept_keys(words: tuple[str, ...]) -> frozenset[str]:
    return frozenset(swept(words))


def refuse(words: Sequence[str]) -> None:
    """ConfigError when the words of a sweep make no job, or more than anyone waits for; names the key."""
    jobs, longest = 1, ("", 0)
    for key, override in swept(words).items():
        many = _many(override.value())
        if not many:
            raise ConfigError(f"{key}: sweeps over nothing, so there is no job, got {override.input_line}; give it values")
        jobs, longest = jobs * many, max(longest, (key, many), key=lambda pair: pair[1])
    if jobs > MOST:
        count = f"{jobs}" if jobs < 10**12 else f"{jobs:.3g}" if jobs < 10**300 else "endless"
        raise ConfigError(f"{longest[0]}: the sweep has {count} jobs, more than {MOST}; sweep over fewer values")


def _many(values: Any) -> int:
    """How many values a sweep over one key has; 1 where only Hydra can tell."""
    if isinstance(values, ChoiceSweep):
        return len(values.list)
    if not isinstance(values, RangeSweep) or values.start is None or values.stop is None:
        return 1
    try:
        return max(0, math.ceil((values.stop - values.start) / values.step)) if values.step else 0
    except (OverflowError, ValueError):  # of an infinite or undefined end
        return 10**300
