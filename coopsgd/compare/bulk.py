"""Columns of numbers from many JSON lines at once, several times faster than by a JSON reader.

Of each line what stands behind a key is picked, and NumPy reads these numbers together. It holds where all lines have the key,
which is counted; whatever is otherwise is refused, not guessed at.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

NUMERIC = b"0123456789+-.eE,nanNaInfity"
FEW = 8  # lines, below which it is not worth it


def columns(text: bytes, names: Sequence[str], ends: Collection[str] = ()) -> dict[str, np.ndarray] | None:
    """(lines,) numbers of each name, nan for null and where the lines have none. None where some lines have it and others not.

    text: whole lines. ends: names that are in all lines or in none, of which the last line's number is enough.
    """
    n, cut = text.count(b"\n"), text.rfind(b"\n", 0, -1) + 1
    if n < FEW:
        return None
    try:
        first, last = json.loads(text[: text.index(b"\n")]), json.loads(text[cut:])
    except (ValueError, RecursionError):
        return None
    if not all(type(line) is dict and type(line.get("step")) is int for line in (first, last)):
        return None
    found: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(names):
        end = _number(last.get(name))
        if name in ends and (name not in last or not math.isnan(end)):
            column = np.full(n, math.nan)
            column[-1] = end
        else:
            read = _column(text, name, n)
            if read is None or not np.array_equal(read[[0, -1]], [_number(first.get(name)), end], equal_nan=True):
                return None
            column = read
        found[name] = column
    return found


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _column(text: bytes, name: str, n: int) -> np.ndarray | None:
    """The number behind this key in each of n lines; where none has it, nan."""
    key = re.escape(json.dumps(name).encode())
    pieces = re.findall(key + rb": ([^,}\n]+).*\n", text)  # to the end of the line: one a line at most
    if not pieces:
        return np.full(n, math.nan)
    numbers = b",".join(pieces).replace(b"null", b"nan")
    if len(pieces) != n or numbers.translate(None, NUMERIC):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # so it says that it could not read to the end
        try:
            column = np.fromstring(numbers.decode(), sep=",")
        except (DeprecationWarning, ValueError):
            return None
    return column if len(column) == n else None
