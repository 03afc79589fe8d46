"""Python's collector of cyclic garbage while a command starts.

What is imported stays. Looking through it again and again, as it grows, took a seventh of the time until a run begins; and a
look at it from a fork copies the pages that parent and child could share. The looks that Python takes when it ends took 55 ms
of the 740 of `coopsgd show`.
"""

from __future__ import annotations

import gc

SELDOM = 1_000_000  # new objects between two looks, more than a command imports: what never wakes it is still collected
_usual: tuple[int, int, int] | None = None


def rest() -> None:
    """Until `wake`, hardly look for garbage."""
    global _usual
    if _usual is None:
        _usual = gc.get_threshold()
        gc.set_threshold(SELDOM)


def wake() -> None:
    """All that is there stays: from now on look, as usual, at what comes after it. Nothing where it has not rested."""
    global _usual
    if _usual is not None:
        gc.freeze()
        gc.set_threshold(*_usual)
        _usual = None
