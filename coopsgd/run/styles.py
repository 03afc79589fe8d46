"""How all pictures look: one colour and one marker for an algorithm, whatever else is in the figure, told apart in grey too.

Colours are those of Okabe and Ito (2008), which readers with any common colour blindness tell apart, without their yellow,
which paper swallows. There are more algorithms than colours: those that share one differ in their marker, and no marker is
given twice. Runs of one algorithm keep its colour and marker, and differ in shade and in how their line is broken.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
BLACK, GREY = "#000000", "#7F7F7F"
COLUMN = 3.4  # inches: a column of a paper with two
DPI = 300
FONT = "DejaVu Sans"  # matplotlib brings it along


class Look(NamedTuple):
    """Of an algorithm: its colour, and matplotlib's letter of its marker."""

    colour: str
    marker: str


LOOKS = {
    "fullsync": Look(BLACK, "o"),
    "pasgd": Look(BLUE, "s"),
    "easgd": Look(VERMILLION, "^"),
    "dpsgd": Look(GREEN, "D"),
    "fedavg": Look(ORANGE, "v"),
    "one_peer": Look(SKY, "P"),
    "gossip_pga": Look(PURPLE, "X"),
    "independent": Look(GREY, "p"),
    "dpa": Look(BLUE, "<"),
    "parameter_server": Look(VERMILLION, ">"),
    "hierarchical": Look(ORANGE, "h"),
    "gea": Look(PURPLE, "8"),
    "matcha": Look(GREEN, "*"),
    "matching": Look(SKY, "d"),
    "pairwise": Look(BLACK, "H"),
    "two_level": Look(GREY, "+"),
    "cooperative": Look(BLACK, "x"),
}
# of algorithms of the user's own: five of Paul Tol's muted colours, which none of the tool's own has
OTHERS = ("#882255", "#332288", "#999933", "#44AA99", "#CC6677"), ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ((0, ()), (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
WEB_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")  # plotly's words for them
WEB_MARKERS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
    "p": "pentagon",
    "<": "triangle-left",
    ">": "triangle-right",
    "h": "hexagon",
    "8": "octagon",
    "*": "star",
    "d": "diamond-tall",
    "H": "hexagon2",
    "+": "cross-thin-open",
    "x": "x-thin-open",
}
RC: dict[Any, Any] = {
    "font.family": FONT,
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "#DDDDDD",
    "axes.axisbelow": True,
    "lines.linewidth": 1.1,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # fonts are embedded as they are, and text can be found and copied
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "coopsgd",  # the same picture is the same file
    "mathtext.default": "regular",
}


def look(algo: str) -> Look:
    """Of one of the tool's own what is written above; of one of the user's, by its name alone: the same in every figure."""
    if algo in LOOKS:
        return LOOKS[algo]
    (colours, markers), number = OTHERS, zlib.crc32(algo.encode())
    return Look(colours[number % len(colours)], markers[number // len(colours) % len(markers)])


class Style(NamedTuple):
    """Of a line: colour, marker, how it is broken (number among DASHES)."""

    colour: str
    marker: str
    dash: int

    def line(self, **more: Any) -> dict[str, Any]:
        """Keywords of matplotlib's plot."""
        found = {"color": self.colour, "marker": self.marker, "linestyle": DASHES[self.dash], "markersize": 3.2}
        return found | {"markeredgewidth": 0.6, "markeredgecolor": self.colour} | more


def each(algos: Sequence[str]) -> list[Style]:
    """Of several lines, in order: those of one algorithm have its colour, from dark to light, its marker, and other dashes."""
    many = {algo: algos.count(algo) for algo in algos}
    seen = dict.fromkeys(algos, -1)
    found = []
    for algo in algos:
        number = seen[algo] = seen[algo] + 1
        known = look(algo)
        found.append(Style(shade(known.colour, number, many[algo]), known.marker, number % len(DASHES)))
    return found


def shade(colour: str, number: int, of: int) -> str:
    """The colour of the number-th of so many: the first is the colour itself, the last is lighter by half."""
    light = 0.0 if of < 2 else 0.55 * number / (of - 1)
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * light):02X}" for part in parts)


@contextmanager
def applied() -> Iterator[None]:
    """Figures made and saved in this block look so; matplotlib's own settings, a notebook's say, stay as they are."""
    import logging

    import matplotlib

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # the first time ever it tells that it looks for fonts
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield
