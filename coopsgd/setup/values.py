"""What no value of a config may be, whatever its key: numbers without end, text that cannot be shown, lists without bottom.

Each part checks the range of its own keys; it may rely on what is refused here. A field that may be infinite says so,
`field(metadata={"infinite": True})`. What lies in a mapping is handed to somebody else's code and is theirs to judge.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from coopsgd.errors import ConfigError

LARGEST = 2**63 - 1  # of a whole number, either side of 0
TINY, HUGE = 1e-100, 1e30  # of a number that is not 0: its square and its inverse are numbers, too, and float32 holds it
DEEPEST = 20  # lists in lists
UNSHOWN = ("Cc", "Cs", "Zl", "Zp")  # control characters, bytes that are not UTF-8, ends of lines


def refuse_odd(where: str, value: Any, infinite: bool = False, depth: int = 0) -> None:
    """ConfigError, naming `where`, the full key."""
    if isinstance(value, str):
        _refuse_text(where, value)
    elif isinstance(value, bool):
        return
    elif isinstance(value, int):
        if abs(value) > LARGEST:
            raise ConfigError(f"{where}: must lie within 2^63 of 0, got {_digits(value)}")
    elif isinstance(value, float):
        _refuse_number(where, value, infinite, alone=not depth)
    elif isinstance(value, list | dict):
        if depth == DEEPEST:
            raise ConfigError(f"{where}: has more than {DEEPEST} lists within each other; make it flatter")
        if isinstance(value, dict):
            refuse_keys(where, value)
        for part in value if isinstance(value, list) else value.values():
            if isinstance(value, list) or isinstance(part, list | dict):
                refuse_odd(where, part, infinite or isinstance(value, dict), depth + 1)


def refuse_keys(where: str, node: dict[Any, Any]) -> None:
    """ConfigError when a key is not a word, which a yaml may say: 1, true, null."""
    for name in node:
        if not isinstance(name, str):
            raise ConfigError(f"{where}: has the key {name!r}, which yaml takes for no word; put it in quotes or take it out")


def _refuse_text(where: str, text: str) -> None:
    if text == "???":
        raise ConfigError(f"{where}: is missing, ??? stands for a value to be given; give it, as in {where}=VALUE")
    odd = next((c for c in text if unicodedata.category(c) in UNSHOWN), None)
    if odd is not None:
        raise ConfigError(f"{where}: holds {odd!r}, which cannot be shown, in {text[:60]!r}; leave it out")


def _refuse_number(where: str, value: float, infinite: bool, alone: bool) -> None:
    if math.isnan(value) or (math.isinf(value) and not infinite):
        raise ConfigError(f"{where}: must be a finite number, got {value}")
    if alone and value and not infinite and not TINY <= abs(value) <= HUGE:
        raise ConfigError(f"{where}: must be 0 or between {TINY:g} and {HUGE:g} in size, got {value:g}")


def _digits(value: int) -> str:
    return str(value) if value.bit_length() < 200 else f"a number of {round(value.bit_length() * math.log10(2))} digits"


UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}  # seconds


def seconds_of(where: str, text: str) -> float:
    """90 for 90s or 1.5min. ConfigError, naming `where`, when it is no positive time."""
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(s|min|h)\s*", text)
    if found is None or not float(found[1]) > 0:
        raise ConfigError(
            f"{where}: must be a time as in 30s, 10min or 2h, or a length as in 500 (steps), 1epoch or 5rounds, got {text!r}"
        )
    return float(found[1]) * UNITS[found[2]]


def length_of(value: Any) -> tuple[int, str] | None:
    """(2, "epoch") for 2epochs: how many of step, epoch or round, at least one; None for whatever is no such text."""
    found = re.fullmatch(r"\s*(\d+)\s*(step|epoch|round)s?\s*", value) if isinstance(value, str) else None
    return (int(found[1]), found[2]) if found and int(found[1]) else None


def comes(every: Any, step: int, ended: int | None) -> bool:
    """Is it time for what comes so often, after `step` steps, of which the last ended round `ended` (from 1; None: none)?

    every: steps, 0 for never, or rounds as in 2rounds.
    """
    if isinstance(every, int):
        return every > 0 and step % every == 0
    length = length_of(every)
    return length is not None and ended is not None and ended % length[0] == 0


def steps_of_pass(samples: Any, batch_size: int) -> Any:
    """Steps of a pass over so many samples: whole batches, the ragged end dropped; fewer samples than a batch are one."""
    return samples // batch_size + (samples < batch_size)
