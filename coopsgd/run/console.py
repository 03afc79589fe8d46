"""What a person sees: lines that live on a terminal, plain lines elsewhere, a small table at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from coopsgd.host.files import json_text
from coopsgd.host.terminal import Drawing, bar, coloured, fitted, size
from coopsgd.run import progress
from coopsgd.run.schema import evaluated, label, metric

# what is shown, by the schema's names; each is called by its label there, and shorter only where there is no room for that
EVALS = ("eval/loss", "eval/accuracy")
SCORES = ("eval/r2", "eval/f1")  # of some tasks
OF_AUXILIARY = ("eval/aux_loss", "eval/aux_accuracy")
OWN_TESTS = ("eval/local_accuracy", "eval/local_answer")  # partition.test=local
LEARNED = ("train/loss", *EVALS, *SCORES)
SENT = ("rounds", "bytes", "consensus", "sim_s")
SHORT = {"train/loss": "train", "eval/loss": "test", "eval/accuracy": "acc.", "bytes": "", "consensus": "cons.", "sim_s": "sim"}
FRAME = 0.05  # seconds that a drawing is to be seen, at least
PAUSE = 0.1  # seconds between two plain lines, at least: a run that evaluates often would print nothing else
SHARE, LONGEST = 0.02, 60.0  # and this share of the time so far, but no longer than so many seconds
SILENCE = 30.0  # seconds after which a plain line comes although nothing was evaluated
BAR = 24  # columns
SCREEN = 20  # lines after which a note has scrolled off


def printer(stream: TextIO | None = None, **options: Any) -> Console:
    """One of rich's for text that is no markup; without colours where nobody wants them."""
    how = {"highlight": False, "soft_wrap": True, "markup": False, "emoji": False}
    return Console(file=stream, color_system="auto" if coloured() else None, **(how | options))


class Live:
    """Follows a run of `steps` steps on `stream`; what was last known of it stays to be seen. None: says nothing.

    aside: what comes of it is not what is asked for, so a plain line only tells now and then that it goes on.
    """

    def __init__(self, stream: TextIO | None, steps: int, aside: bool = False) -> None:
        self._screen, self._mute, self._steps, self._aside = Drawing(stream), stream is None, steps, aside
        self._known: dict[str, Any] = {}
        self._first: Mapping[str, Any] | None = None  # line, of this session
        self._begun = time.perf_counter()
        self._told, self._drawn = self._begun if aside else -math.inf, -math.inf
        self._notes: dict[str, int] = {}  # plain lines that came since each
        if self._screen.live and steps:
            self._screen.draw(*self._lines({"step": 0}))

    def log(self, line: dict[str, Any]) -> None:
        """One log point: draw anew, or print it when it is time."""
        self._first = self._first or line
        self._known |= {name: value for name, value in line.items() if value is not None}
        moment = time.perf_counter()
        if self._screen.live:
            if moment - self._drawn >= FRAME and self._steps:
                self._screen.draw(*self._lines(line))
                self._drawn = moment
            return
        pause = max(PAUSE, min(LONGEST, SHARE * (moment - self._begun)))
        last, since = line["step"] == self._steps, moment - self._told
        news = evaluated([line]) and (last or since > pause) and not self._aside
        if not self._mute and (news or since > (progress.EVERY if self._aside else max(pause, SILENCE))):
            self._told = moment
            left = self._left(line)
            more = "" if last or left is None else f"  {progress.duration(left)} left"
            self._screen.above(
                f"{progress.stamp(self._screen.stream)}step {line['step']}/{self._steps}  {describe(self._known)}{more}"
            )
            self._notes = {text: since + 1 for text, since in self._notes.items()}

    def note(self, text: str) -> None:
        """A line of its own, which stays; where many came after it, once more at the end."""
        if not self._mute:
            self._screen.above(text)
            self._notes.setdefault(text, 0)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._screen.close()
        for text, since in self._notes.items():
            if since >= SCREEN:
                self._screen.above(text)
        self._notes = {}

    def _left(self, line: Mapping[str, Any]) -> float | None:
        """Seconds until the last step, at the pace of this session, measuring included."""
        first = self._first
        if first is None or line["step"] <= first["step"]:
            return None
        return float((line["wall_s"] - first["wall_s"]) / (line["step"] - first["step"]) * (self._steps - line["step"]))

    def _lines(self, line: Mapping[str, Any]) -> list[str]:
        """All that is drawn, in as many columns as there are."""
        columns = size(self._screen.stream)[0] - 1
        step, left = line["step"], self._left(line)
        time_left = "" if left is None or step >= self._steps else f"{progress.duration(left)} left"
        share = f"{step / self._steps:.0%}"
        taken = len(f"step {step}/{self._steps}    {share}  {time_left}")
        drawn = bar(step / self._steps, min(BAR, columns - taken)) if columns - taken >= 4 else ""
        head = [(f"step {step}/{self._steps}", f"{step}/{self._steps}"), (drawn, ""), (share, share), (time_left, time_left)]
        lines = [fitted(one, columns) for one in ([part for part in head if part[0]], *numbers(self._known)) if one]
        if progress.sweep is not None:
            spent = 0.0 if self._first is None or left is None else line["wall_s"] - self._first["wall_s"]
            lines.insert(0, fitted(progress.sweep.parts(progress.sweep.left(left, spent)), columns))
        return lines


def tell(found: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]) -> None:
    """Print what a command found: JSON for a program, else as `show` prints it for a person."""
    if as_json:
        print(json_text(found))
    else:
        show(found)


def numbers(known: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What is known of learning and of communication, each in full and shortened."""
    first, second = ([_worded(name, known[name]) for name in names if known.get(name) is not None] for names in (LEARNED, SENT))
    return first, second


def _worded(name: str, value: Any) -> tuple[str, str]:
    """A number with its word, in full and shortened: what can be counted stands before it."""
    text = f"{value:.3g}" if name == "consensus" else metric(name).text(value)
    full, short = (
        f"{text} {word}".strip() if name in ("rounds", "bytes") else f"{word} {text}"
        for word in (label(name), SHORT.get(name, label(name)))
    )
    return full, short


def describe(known: Mapping[str, Any]) -> str:
    """The same in a line."""
    return "  ".join(full for part in numbers(known) for full, _ in part)


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
        *((label(name), metric(name).text(last[name])) for name in EVALS + SCORES + OF_AUXILIARY if last.get(name) is not None),
        *((label(name), _over_workers(last, name)) for name in OWN_TESTS if last.get(name) is not None),
        (label("consensus"), _apart(summary)),
        (label("bytes"), f"{ledger['rounds']} rounds, {ledger['messages']} messages, {metric('bytes').text(ledger['bytes'])}"),
        *((("restarts", str(summary["restarts"])),) if "restarts" in summary else ()),
        ("kept", KEPT[summary["saved"]]),
        (label("train_s"), f"{_seconds(summary, 'train_s')} training, of which {_seconds(ledger, 'comm_s')} in communication"),
        *(((label("sim_s"), f"{summary['sim_s']:.4g} s ({summary['cluster']['about']})"),) if "sim_s" in summary else ()),
    ]
    grid = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows:
        grid.add_row(name, value)
    out = printer()
    out.print(grid)
    out.print(str(folder), style="bold")


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
