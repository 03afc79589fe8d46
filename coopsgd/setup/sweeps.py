"""How many jobs a sweep has, by arithmetic: Hydra writes all of them down before it starts the first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, RangeSweep
from hydra.errors import HydraException

from coopsgd.errors import ConfigError

MOST = 100_000  # jobs: of a third of a second each they take nine hours


def refuse(words: Sequence[str]) -> None:
    """ConfigError when the words of a sweep make no job, or more than anyone waits for; names the key."""
    try:
        parsed = OverridesParser.create().parse_overrides([w for w in words if "=" in w and not w.startswith("-")])
    except (HydraException, ValueError, RecursionError):
        return  # which Hydra tells when it comes to it
    jobs, longest = 1, ("", 0)
    for override in {o.get_key_element(): o for o in parsed if o.is_sweep_override()}.values():
        key, many = override.get_key_element(), _many(override.value())
        if not many:
            raise ConfigError(f"{key}: sweeps over nothing, so there is no job, got {override.input_line}; give it values")
        jobs, longest = jobs * many, max(longest, (key, many), key=lambda pair: pair[1])
    if jobs > MOST:
        told = f"{jobs}" if jobs < 10**12 else f"{jobs:.3g}" if jobs < 10**300 else "endless"
        raise ConfigError(f"{longest[0]}: the sweep has {told} jobs, more than {MOST}; sweep over fewer values")


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
