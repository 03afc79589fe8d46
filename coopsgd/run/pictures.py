"""Who holds how many samples of which class: a table in the terminal, a picture in TensorBoard."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 20  # workers, or classes, that a table has room for
DPI = 100  # pixels of an inch of the picture


def show(console: Console, data: dict[str, Any], dealt: dict[str, Any]) -> None:
    """What is dealt, and to whom: all counts while they fit, else how workers differ."""
    counts, held = np.array(dealt["counts"]), dealt.get("held_out")
    facts = {key: value for key, value in data.items() if not isinstance(value, list | bool)}
    console.print(f"\ndata: {', '.join(f'{value}' if key == 'name' else f'{key} {value}' for key, value in facts.items())}")
    left = f", {dealt['left_over']} left over" if dealt["left_over"] else ""
    console.print(f"partition {dealt['partition']}: samples of {len(counts)} workers by {dealt.get('by', 'class')}{left}")
    if len(counts) <= MOST and counts.shape[1] <= MOST:
        head = ["worker", *map(str, range(counts.shape[1])), "total"]
        lines = [[str(i), *("." if n == 0 else str(n) for n in row), str(row.sum())] for i, row in enumerate(counts)]
        lines.append(["all", *map(str, counts.sum(0)), str(counts.sum())])
        if held is not None:
            head.append("held out")
            lines = [[*line, str(n)] for line, n in zip(lines, [*held, sum(held)], strict=True)]
        if dealt["test"] is not None:
            lines.append(["test", *map(str, dealt["test"]), str(sum(dealt["test"])), *([""] if held is not None else [])])
    else:
        head = ["of a worker", "smallest", "quarter", "median", "3 quarters", "largest"]
        measures = describe(counts) | ({} if held is None else {"held out": np.array(held)})
        spreads = {name: np.quantile(values, [0, 0.25, 0.5, 0.75, 1]) for name, values in measures.items()}
        lines = [[name, *(f"{v:.3g}" if v % 1 else f"{v:.0f}" for v in five)] for name, five in spreads.items()]
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    for line in (head, *lines):
        console.print("  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def describe(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Of every worker: samples, classes that it has any of, share of its most frequent class, and skew.

    Skew is the total variation distance of its mix of classes to that of everyone: 0 when it is the same, near 1 when it
    holds one class of many.
    """
    sizes = counts.sum(1)
    mix = counts / np.maximum(sizes, 1)[:, None]
    skew = np.abs(mix - counts.sum(0) / counts.sum()).sum(1) / 2
    return {"samples": sizes, "classes": (counts > 0).sum(1), "most frequent class": mix.max(1), "skew": skew}


def figure(dealt: dict[str, Any]) -> Figure:
    """The counts, a worker a row and a class a column, the darker the more."""
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    counts = np.array(dealt["counts"])
    workers, classes = counts.shape
    size = max(4.2, min(9, 2 + 0.4 * classes)), max(3, min(8, 1.4 + 0.25 * workers))
    found = Figure(figsize=size, dpi=DPI)
    # margins in inches, for what stands there: a layout that measures it draws everything twice
    left, right, below, above = 0.7 / size[0], 1 - 0.2 / size[0], 0.5 / size[1], 1 - 0.4 / size[1]
    axes = found.subplots(gridspec_kw={"left": left, "right": right, "bottom": below, "top": above})
    # by its root: a few samples are still seen
    cells = axes.imshow(counts, cmap="Blues", aspect="auto", interpolation="nearest", norm=PowerNorm(0.5, vmin=0))
    kept = f", {dealt['left_over']} left over" if dealt["left_over"] else ""
    axes.set(title=f"partition {dealt['partition']}: samples{kept}", xlabel=dealt.get("by", "class"), ylabel="worker")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    found.colorbar(cells)
    return found


def get_ready() -> None:
    """Draw once, for all runs of a sweep: each would import what draws, and look for fonts, at its end, in half a second."""
    picture({"counts": [[1]], "partition": "iid", "left_over": 0})


def picture(dealt: dict[str, Any]) -> tuple[bytes, int, int]:
    """The same as a PNG, and its width and height in pixels."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # the first time ever it tells that it looks for fonts
    image, file = figure(dealt), io.BytesIO()
    image.savefig(file, format="png")
    width, height = image.get_size_inches() * DPI
    return file.getvalue(), int(width), int(height)
