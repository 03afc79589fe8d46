"""What the figures of the experiments share: reading a sweep, means and spread over seeds, a picture and a table."""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import coopsgd

DOCS = Path(__file__).parents[1] / "docs"


def sweep(argument: int = 1) -> list[coopsgd.Run]:
    """The runs of the sweep folder that the command line names."""
    if len(sys.argv) <= argument or not Path(sys.argv[argument]).is_dir():
        sys.exit(f"usage: python {sys.argv[0]} SWEEP_FOLDER   (what `coopsgd train -m experiment=...` left in multirun/)")
    found = [coopsgd.Run(path.parent) for path in sorted(Path(sys.argv[argument]).glob("*/summary.json"))]
    if not found:
        sys.exit(f"{sys.argv[argument]} holds no finished runs")
    return found


def by(runs: Iterable[coopsgd.Run], key: Callable[[coopsgd.Run], Any]) -> dict[Any, list[coopsgd.Run]]:
    """Runs with the same key: those that differ by their seed."""
    groups: dict[Any, list[coopsgd.Run]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return dict(sorted(groups.items()))


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds; a run that diverged makes both infinite."""
    return (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)


def told(values: Sequence[float | None], digits: int = 4) -> str:
    """'0.3123 ± 0.0012', or how many diverged."""
    lost = sum(value is None for value in values)
    if lost:
        return f"{lost} of {len(values)} diverged"
    mean, deviation = spread([value for value in values if value is not None])
    return f"{mean:.{digits}g} ± {deviation:.1g}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def tail(run: coopsgd.Run, key: str, share: float = 0.5) -> float:
    """Mean of a number of the log over the last `share` of the run: what is left when the start is forgotten."""
    lines = run.metrics()
    values = [line[key] for line in lines if line["step"] > (1 - share) * lines[-1]["step"] and line.get(key) is not None]
    return statistics.fmean(values)


def picture(name: str) -> tuple[Any, Callable[[], None]]:
    """Axes to draw on, and a function that saves docs/NAME.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    axes.grid(alpha=0.3)

    def save() -> None:
        DOCS.mkdir(exist_ok=True)
        figure.savefig(DOCS / f"{name}.png", dpi=120)
        print(f"\nwrote docs/{name}.png")

    return axes, save
