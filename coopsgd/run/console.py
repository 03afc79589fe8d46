"""What a person sees: a live line on a terminal, plain lines elsewhere, a small table at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from coopsgd.host.files import json_text
from coopsgd.run.schema import evaluated, metric

EVALS = (("loss", "eval/loss"), ("accuracy", "eval/accuracy"))  # as the console calls them
SCORES = (("R2", "eval/r2"), ("F1", "eval/f1"))  # of some tasks
OF_AUXILIARY = (("auxiliary loss", "eval/aux_loss"), ("auxiliary accuracy", "eval/aux_accuracy"))
OWN_TESTS = (("own tests", "eval/local_accuracy"), ("answer there", "eval/local_answer"))  # partition.test=local
PAUSE = 0.1  # seconds between two plain lines, at least: a run that evaluates often would print nothing else


class Live:
    """Follows a run of `steps` steps on `stream`."""

    def __init__(self, stream: TextIO, steps: int) -> None:
        self._console, self._steps = Console(file=stream, highlight=False, soft_wrap=True), steps
        self._progress: Progress | None = None
        self._told = -math.inf
        if self._console.is_terminal and steps:
            self._progress = Progress(
                TextColumn("{task.completed}/{task.total}"),
                BarColumn(24),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=self._console,
                auto_refresh=False,  # no thread: it is drawn when there is news
                transient=True,
            )
            self._task = self._progress.add_task("", total=steps)
            self._progress.start()

    def log(self, line: dict[str, Any]) -> None:
        """One log point: redraw, or print the evaluations."""
        words = describe(line)
        if self._progress is not None:
            self._progress.update(self._task, completed=line["step"], description=words)
            self._progress.refresh()
        elif evaluated([line]) and (line["step"] == self._steps or time.perf_counter() - self._told > PAUSE):
            self._told = time.perf_counter()
            left = line["train_s"] / line["step"] * (self._steps - line["step"]) if line["step"] else None
            more = f"  {left:.0f} s left" if left is not None and line["step"] < self._steps else ""
            self._console.print(f"step {line['step']}/{self._steps}  {words}{more}")

    def note(self, text: str) -> None:
        """A line of its own, once."""
        self._console.print(text, markup=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()


def tell(found: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]) -> None:
    """Print what a command found: JSON for a program, else as `show` prints it for a person."""
    if as_json:
        print(json_text(found))
    else:
        show(found)


def describe(line: dict[str, Any]) -> str:
    """A log line in words."""
    named = (("loss", "train/loss"), ("eval", "eval/loss"), ("accuracy", "eval/accuracy"), *SCORES)
    parts = [f"{word} {metric(name).text(line[name])}" for word, name in named if line.get(name) is not None]
    return "  ".join([*parts, f"{line['rounds']} rounds", metric("bytes").text(line["bytes"])])


def number(x: float, error: float | None = None, digits: int = 4) -> str:
    """To so many digits, or to as many as its standard error leaves."""
    if not error:
        return f"{x:.{digits}g}"
    places = max(0, -math.floor(math.log10(error)))
    return f"{x:.{places}f} +- {error:.{places}f}, sampled"


def table(summary: dict[str, Any], folder: Path) -> None:
    """The end of a run in a few rows, and where it is."""
    ledger, last = summary["ledger"], summary["eval"]
    tau = [f"tau {summary['tau']}"] if summary["tau"] is not None else []
    rows = [
        ("run", "  ".join([summary["algo"], *tau, *(f"{name} {summary[name]}" for name in ("workers", "processes"))])),
        ("status", f"{summary['status']} after {summary['steps']} steps"),
        *((word, metric(name).text(last[name])) for word, name in EVALS + SCORES + OF_AUXILIARY if last.get(name) is not None),
        *((word, _over_workers(last, name)) for word, name in OWN_TESTS if last.get(name) is not None),
        ("consensus", _apart(summary)),
        ("sent", f"{ledger['rounds']} rounds, {ledger['messages']} messages, {metric('bytes').text(ledger['bytes'])}"),
        *((("restarts", str(summary["restarts"])),) if "restarts" in summary else ()),
        ("kept", KEPT[summary["saved"]]),
        ("time", f"{_seconds(summary, 'train_s')} training, of which {_seconds(ledger, 'comm_s')} in communication"),
        *((("cluster", f"{summary['sim_s']:.4g} s ({summary['cluster']['about']})"),) if "sim_s" in summary else ()),
    ]
    grid = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows:
        grid.add_row(name, value)
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    console.print(grid)
    console.print(str(folder), style="bold", markup=False, emoji=False)


def _over_workers(last: dict[str, Any], name: str) -> str:
    """A mean over the workers, their spread and their tenth percentile."""
    mean, spread, tenth = (metric(name).text(last[name + end]) for end in ("", "_std", "_p10"))
    return f"{mean} +- {spread}, a tenth below {tenth}"


def _apart(summary: dict[str, Any]) -> str:
    """How far apart the workers are, and when."""
    before, after = summary["consensus"], summary.get("consensus_after")
    if before is None:
        return "not finite" if summary["status"] == "diverged" else "not measured"
    return f"{before:.3g}" + (f" before the last communication, {after:.3g} after it" if after is not None else "")


def _seconds(of: dict[str, Any], name: str) -> str:
    return metric(name).text(of[name])


KEPT = {"rows": "every model and their mean", "answer": "the mean model alone (save=rows keeps all)", "none": "no model"}
