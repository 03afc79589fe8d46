"""One colour for an algorithm, wherever it is drawn and whatever else is in the picture.

The colours are those of Okabe and Ito, told apart by colour-blind readers, without the yellow that paper swallows; a dash and a
marker tell apart what shares one, and what a printer makes grey.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7")
DASHES = ("-", "--", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
KNOWN = (  # in the order of COLOURS, then again with the next dash
    ("fullsync", "pasgd", "easgd", "dpsgd", "fedavg", "one_peer", "matcha"),
    ("parameter_server", "dpa", "gea", "hierarchical", "two_level", "matching", "gossip_pga"),
    ("independent", "pairwise", "cooperative"),
)
PALEST = 0.65  # how far towards white the last of many of one algorithm goes


class Style(NamedTuple):
    """A colour, #rrggbb, a dash and a marker of matplotlib's."""

    colour: str
    dash: str
    marker: str


def of(algo: str) -> Style:
    """The style of an algorithm; one that is none of ours has one by its name."""
    for row, names in enumerate(KNOWN):
        if algo in names:
            return Style(COLOURS[names.index(algo)], DASHES[row], MARKERS[0])
    number = zlib.crc32(algo.encode())
    return Style(COLOURS[number % len(COLOURS)], DASHES[-1], MARKERS[0])


def each(algos: Sequence[str]) -> list[Style]:
    """A style for each of several, in order: those of one algorithm have its colour, paler one by one, and other markers."""
    many = {algo: algos.count(algo) for algo in algos}
    seen: dict[str, int] = {}
    found = []
    for algo in algos:
        number = seen[algo] = seen.get(algo, -1) + 1
        style = of(algo)
        share = PALEST * number / max(1, many[algo] - 1) if many[algo] > 1 else 0.0
        found.append(Style(paler(style.colour, share), style.dash, MARKERS[number % len(MARKERS)]))
    return found


def paler(colour: str, share: float) -> str:
    """That colour, so far on the way to white."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * share):02X}" for part in parts)
