"""What figures of a comparison share: the style of a group, scales and units of axes, a legend that covers nothing, files."""

from __future__ import annotations

import base64
import html
import io
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from coopsgd.compare.groups import Group
from coopsgd.compare.measures import AXES
from coopsgd.host import files
from coopsgd.run import styles
from coopsgd.run.schema import label
from coopsgd.run.styles import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

ENDINGS = ("png", "svg", "pdf")
MANY = 12  # groups, beyond which the legend names algorithms alone and bands are left out
DECADE = 10.0  # positive values whose largest is so many times the smallest are drawn on a logarithmic scale
FLOOR = 1e-6  # of the largest: smaller ones are rounding, and no reason to stretch a logarithmic scale
UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
HEIGHT = 2.05  # inches of the axes of a curve
TARGET: dict[str, Any] = {"color": styles.GREY, "linestyle": (0, (6, 2)), "linewidth": 0.9}
BUDGET: dict[str, Any] = {"color": styles.GREY, "linestyle": (0, (1, 1.5)), "linewidth": 0.9}
ALGO = ("algo", "algo.name")
COMMON = "".join(map(chr, range(32, 127))) + "\u2009\u2212\u00b2\u00d7"  # letters that most figures take
LETTER = 0.052  # inches of one in a legend, about
WORDS = {"tau": "τ, local steps of a round", "optim.lr": "learning rate"}  # of keys; metrics have theirs in the schema


def styles_of(groups: Sequence[Group]) -> dict[Group, Style]:
    """Groups of one algorithm have its colour, from dark to light in the order of the table, its marker, and other dashes."""
    return dict(zip(groups, styles.each([group.algo for group in groups]), strict=True))


def short(groups: Sequence[Group]) -> dict[Group, str]:
    """What each is called in a figure: its label, and how many of its runs have not completed."""
    return {group: group.label + _ended(group) for group in groups}


def _ended(group: Group) -> str:
    """How many of its runs have not completed, in brackets."""
    statuses = [entry.status for entry in group.entries]
    others = [f"{statuses.count(one)} {one}" for one in dict.fromkeys(statuses) if one != "completed"]
    if len(set(statuses)) == 1 and others:
        others = [statuses[0]]
    return f" ({', '.join(others)})" if others else ""


def words_of(name: str) -> str:
    """What an axis of this metric or key is called: for a reader of a paper, where there are words for it."""
    return WORDS.get(name) or label(name)


def stem(name: str) -> str:
    """A metric or key in the name of a file."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name)


# scales


def spans(values: Iterable[float]) -> bool:
    """Are they all positive, and do they span a decade or more?"""
    there = np.array([value for value in values if np.isfinite(value)])
    return bool(len(there) and (there > 0).all() and there.max() >= DECADE * there.min())


def doubles(values: Iterable[float]) -> bool:
    """Are they, as 1, 2, 4, 8, spaced more evenly by their ratios than by their differences, over a factor of eight or more?"""
    there = np.unique(list(values))
    if len(there) < 3 or there[0] <= 0 or there[-1] < 8 * there[0]:
        return False
    gaps, ratios = np.diff(there), np.diff(np.log(there))
    return bool(ratios.std() / ratios.mean() < gaps.std() / gaps.mean())


def ticks(axis: Any, values: Iterable[float], log: bool) -> None:
    """Ticks at these values themselves, where they are few and apart."""
    from matplotlib.ticker import FixedLocator, NullLocator

    there = np.unique(list(values))
    places = np.log(there) if log else there
    if 2 <= len(there) <= 8 and np.diff(places).min() >= 0.07 * (places[-1] - places[0]):
        axis.set_major_locator(FixedLocator(there.tolist()))
        axis.set_minor_locator(NullLocator())


def unit_of(axis: str, largest: float) -> tuple[str, float]:
    """What an axis is called, with its unit, and what its values are divided by."""
    words = AXES[axis][1]
    if axis != "bytes":
        return (f"{words} (s)" if axis.endswith("seconds") else words), 1.0
    unit, by = next((one for one in UNITS if largest >= one[1]), ("bytes", 1.0))
    return (f"{unit} sent" if unit != "bytes" else words), by


def scale(axis: Any, how: str) -> None:
    """A linear or logarithmic scale with plain numbers at its ticks, few of them. axis: axes.xaxis or axes.yaxis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    if how == "log":
        axis._set_axes_scale("log")
        low, high = sorted(axis.get_view_interval())
        decades = np.log10(high / low)
        subs = (1.0, 2.0, 5.0) if decades < 2 else (1.0,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=7))
        axis.set_minor_locator(LogLocator(subs=tuple(range(2, 10)), numticks=20) if decades < 5 else NullLocator())
        axis.set_major_formatter(FuncFormatter(_plain))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(_plain))


def _plain(value: float, place: int | None = None) -> str:
    if value == 0:
        return "0"
    size = abs(value)
    if 1e-3 <= size < 1e5:
        text = f"{value:.6g}"
        return text if size < 1e4 else f"{value:,.0f}".replace(",", "\u2009")
    power = int(np.floor(np.log10(size) + 1e-9))
    front = value / 10.0**power
    return f"$10^{{{power}}}$" if abs(front - 1) < 1e-6 else f"${front:.3g}\\times10^{{{power}}}$"


def limits(low: float, high: float, log: bool) -> tuple[float, float]:
    """With a margin."""
    if log:
        margin = (high / low) ** 0.05
        return low / margin, high * margin
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


# legend


def figure_of(height: float, entries: Sequence[tuple[Any, str]]) -> tuple[Figure, Axes]:
    """A figure of a column's width whose axes are so high, in inches, with a legend of these handles below them."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    entries = [(handle, textwrap.fill(text, 58)) for handle, text in entries]
    longest = max((len(line) for _, text in entries for line in text.split("\n")), default=0)
    columns = max(1, min(len(entries), int((styles.COLUMN - 0.1) // (0.42 + LETTER * longest))))
    rows = -(-len(entries) // columns)
    lines = sum(max(text.count("\n") + 1 for _, text in entries[i::rows]) for i in range(rows)) if entries else 0
    size = (styles.COLUMN, height + 0.138 * lines + (0.05 if lines else 0))
    found = Figure(figsize=size, dpi=styles.DPI, layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.02))
    axes = found.subplots()
    if entries:
        handles, texts = zip(*entries, strict=True)
        found.legend(
            handles,
            texts,
            loc="outside lower center",
            ncols=columns,
            handlelength=2.6,
            columnspacing=1.0,
            handletextpad=0.5,
            labelspacing=0.3,
            borderaxespad=0.1,
            borderpad=0.2,
        )
    return found, axes


def legend(names: Mapping[Group, str], looks: Mapping[Group, Style], **more: Any) -> list[tuple[Line2D, str]]:
    """An entry a group, of that name, or, of many, one an algorithm."""
    from matplotlib.lines import Line2D

    groups = list(names)
    if len(groups) <= MANY:
        return [(Line2D([], [], **looks[group].line(**more)), text) for group, text in names.items()]
    many: dict[str, int] = {}
    for group in groups:
        many[group.algo] = many.get(group.algo, 0) + 1
    found = []
    for algo, number in many.items():
        look = styles.look(algo)
        line = Style(look.colour, look.marker, 0).line(**more)
        found.append((Line2D([], [], **line), algo if number == 1 else f"{algo} ({number})"))
    return found


def shading(groups: Sequence[Group]) -> str:
    """What shades mean where the legend names algorithms alone."""
    keys = list(dict.fromkeys(key for group in groups for key in group.values if key not in ALGO))
    if len(groups) <= MANY or not keys:
        return ""
    return f"of one algorithm, dark to light: by {', '.join(keys)}"


def upright(words: str) -> str:
    """What a vertical axis is called, in lines that HEIGHT has room for."""
    return textwrap.fill(words, 32)


def below(words: str, *notes: str, width: int = 58) -> str:
    """What an axis is called, and notes below it, of lines so long."""
    return "\n".join([words, *(textwrap.fill(note, width) for note in notes if note)])


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names with commas, of many the first."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# files


def save(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """The figure as STEM.png, .svg and .pdf. OSError where they cannot be written."""
    paths = []
    for _ in range(2):  # the second time with the ticks of the first
        figure.draw_without_rendering()
    figure.set_layout_engine("none")  # it is laid out: not again for each form
    for ending in ENDINGS:
        path = folder / f"{stem}.{ending}"
        content = svg(figure).encode() if ending == "svg" else drawn(figure, ending)
        files.atomically(path, partial(_put, content))
        paths.append(path)
    return paths


def _put(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def drawn(figure: Figure, form: str) -> bytes:
    """The figure as a file of this form; the same figure is the same file."""
    file = io.BytesIO()
    about = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form, {})
    figure.savefig(file, format=form, dpi=styles.DPI, metadata=about)
    return file.getvalue()


def svg(figure: Figure) -> str:
    """Text that stays text, with those letters of the font in the file that it takes."""
    text = drawn(figure, "svg").decode()
    letters = set(html.unescape("".join(re.findall(r"<(?:text|tspan)[^>]*>([^<]*)<", text))))
    font = _font(COMMON + "".join(sorted(letters - set(COMMON))))
    face = f"@font-face{{font-family:'{styles.FONT}';src:url(data:font/woff;base64,{font})}}"
    return re.sub(r"(<style type=\"text/css\">)", lambda found: found[1] + face, text, count=1)


@cache
def _font(letters: str) -> str:
    """These letters of the font, as WOFF, in base64."""
    import logging

    from fontTools.subset import Options, Subsetter, load_font, save_font
    from matplotlib.font_manager import FontProperties, findfont

    logging.getLogger("fontTools").setLevel(logging.ERROR)
    options = Options(flavor="woff", layout_features=[], notdef_outline=True, hinting=False, recalc_timestamp=False)
    subsetter, file = Subsetter(options), io.BytesIO()
    with load_font(findfont(FontProperties(family=styles.FONT)), options) as font:
        subsetter.populate(text=letters)
        subsetter.subset(font)
        save_font(font, file, options)
    return base64.b64encode(file.getvalue()).decode()
