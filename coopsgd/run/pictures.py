"""Who holds how many samples of which class: a table in the terminal, a picture in TensorBoard."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from rich.console import Console

MOST = 20  # workers, or classes, that a table has room for
MARGIN, LINE = 60, 14  # pixels around the picture's cells, and of a line of text
DARK, LIGHT = np.array([8, 48, 107]), np.array([247, 251, 255])


def show(console: Console, data: dict[str, Any], held: dict[str, Any]) -> None:
    """What is dealt, and to whom: all counts while they fit, else how workers differ."""
    counts = np.array(held["counts"])
    told = {key: value for key, value in data.items() if not isinstance(value, list | bool)}
    console.print(f"\ndata: {', '.join(f'{value}' if key == 'name' else f'{key} {value}' for key, value in told.items())}")
    left = f", {held['left_over']} left over" if held["left_over"] else ""
    console.print(f"partition {held['partition']}: samples of {len(counts)} workers by class{left}")
    if len(counts) <= MOST and counts.shape[1] <= MOST:
        head = ["worker", *map(str, range(counts.shape[1])), "total"]
        lines = [[str(i), *("." if n == 0 else str(n) for n in row), str(row.sum())] for i, row in enumerate(counts)]
        lines.append(["all", *map(str, counts.sum(0)), str(counts.sum())])
        if held["test"] is not None:
            lines.append(["test", *map(str, held["test"]), str(sum(held["test"]))])
    else:
        head = ["of a worker", "smallest", "quarter", "median", "3 quarters", "largest"]
        spreads = {name: np.quantile(values, [0, 0.25, 0.5, 0.75, 1]) for name, values in describe(counts).items()}
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


def picture(held: dict[str, Any]) -> tuple[bytes, int, int]:
    """A PNG of the counts, a worker a row and a class a column, the darker the more; and its width and height in pixels."""
    from PIL import Image, ImageDraw

    counts = np.array(held["counts"])
    workers, classes = counts.shape
    tall, wide = (max(1, min(most, 800 // n)) for most, n in ((24, workers), (48, classes)))
    shade = (counts / max(1, counts.max()))[:, :, None]
    cells = (LIGHT + np.sqrt(shade) * (DARK - LIGHT)).astype(np.uint8)  # by its root: a few samples are still seen
    cells = cells.repeat(tall, axis=0).repeat(wide, axis=1)
    height, width = cells.shape[0] + MARGIN + 3 * LINE, max(cells.shape[1] + 2 * MARGIN, 420)
    image = Image.new("RGB", (width, height), "white")
    image.paste(Image.fromarray(cells), (MARGIN, MARGIN))
    draw = ImageDraw.Draw(image)
    draw.text((8, 8), f"partition {held['partition']}: samples of {workers} workers (rows) by class (columns)", fill="black")
    fit = f"{counts.min()} (light) to {counts.max()} (dark) a cell; {held['left_over']} left over; totals on the right"
    draw.text((8, 8 + LINE), fit, fill="black")
    for row in range(0, workers, -(-LINE // tall)):
        middle = MARGIN + row * tall + tall // 2
        draw.text((MARGIN - 6, middle), str(row), fill="black", anchor="rm")
        draw.text((MARGIN + cells.shape[1] + 6, middle), str(counts[row].sum()), fill="black", anchor="lm")
    for c in range(0, classes, -(-24 // wide)):
        draw.text((MARGIN + c * wide + wide // 2, MARGIN - 4), str(c), fill="black", anchor="mb")
    if wide >= 32 and tall >= LINE:
        for (row, c), n in np.ndenumerate(counts):
            ink = "white" if shade[row, c, 0] > 0.3 else "black"
            draw.text((MARGIN + c * wide + wide // 2, MARGIN + row * tall + tall // 2), str(n), fill=ink, anchor="mm")
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue(), width, height
