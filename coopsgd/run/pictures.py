"""Who holds how many samples of which class: a table in the terminal."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console

MOST = 20  # workers, or classes, that a table has room for


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
