"""A comparison as a table: for the terminal, a paper, a colleague, a spreadsheet, a program."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

from coopsgd.compare.comparison import Comparison
from coopsgd.compare.groups import said, word
from coopsgd.compare.measures import AXES, Budget, amount
from coopsgd.errors import ConfigError
from coopsgd.registry import did_you_mean
from coopsgd.run.schema import label

FORMATS = ("markdown", "csv", "json", "latex")
ENDINGS = {"markdown": "md", "csv": "csv", "json": "json", "latex": "tex"}
PLUS_MINUS = "±"


class Column(NamedTuple):
    """A heading, the text of a row's cell, what it is sorted by, and the heading with a metric's name as it is typed."""

    head: str
    cell: Callable[[dict[str, Any]], str]
    value: Callable[[dict[str, Any]], Any]
    typed: str = ""


def columns(comparison: Comparison) -> list[Column]:
    """What the table for a reader holds: only what differs, only what is there."""
    rows = comparison.rows()

    def key(name: str) -> Column:
        return Column(word(name), lambda row: said(row["keys"].get(name)), lambda row: row["keys"].get(name))

    def measured(metric: str, when: str, value: Callable[[dict[str, Any]], dict[str, Any]]) -> Column:
        return Column(
            label(metric) + when,
            lambda row: spread(value(row), row["runs"]),
            lambda row: value(row)["mean"],
            typed=metric + when,
        )

    def bought(number: int, budget: Budget) -> list[Column]:
        value = measured(comparison.metric, f" by {budget.words}", lambda row: row["at"][number])
        steps = Column(
            f"steps by {budget.words}",
            lambda row: _amount("steps", row["at"][number]["step"], "-"),
            lambda row: row["at"][number]["step"],
        )
        return [value] if budget.axis == "steps" else [value, steps]

    def until(axis: str, head: str) -> Column:
        return Column(head, lambda row: _amount(axis, row["reached"][axis], "not reached"), lambda row: row["reached"][axis])

    def total(name: str, axis: str, head: str) -> Column:
        return Column(head, lambda row: _amount(axis, row[name], "-"), lambda row: row[name])

    found = [key(name) for name in comparison.differing] or [Column("algo", lambda row: str(row["algo"]), itemgetter("algo"))]
    if any(row["status"] != "completed" for row in rows):
        found.append(Column("status", lambda row: str(row["status"]), itemgetter("status")))
    found.append(Column("runs", lambda row: str(row["runs"]), itemgetter("runs")))
    if len({row["zeta"] for row in rows} - {None}) > 1:
        found.append(Column("zeta", lambda row: "-" if row["zeta"] is None else f"{row['zeta']:.4g}", itemgetter("zeta")))
    last = end(comparison)
    found += [
        measured(comparison.metric, f", {last}", itemgetter("final")),
        measured(comparison.metric, ", best", itemgetter("best")),
    ]
    found += [measured(name, f", {last}", partial(of_more, name)) for name in comparison.more]
    for number, budget in enumerate(comparison.budgets):
        found += bought(number, budget)
    if comparison.target is not None:
        sign = ">=" if comparison.known.rises else "<="
        head = f"reach {sign} {comparison.target:g}"
        many = Column(head, lambda row: "{runs} of {of}".format(**row["reached"]), lambda row: row["reached"]["runs"])
        found += [many, *(until(*one) for one in UNTIL if any(row["reached"][one[0]] is not None for row in rows))]
    found += [total(*one) for one in OVERALL if any(row[one[0]] is not None for row in rows)]
    return _chosen(found, comparison.columns) if comparison.columns else found


def _chosen(found: Sequence[Column], wanted: Sequence[str]) -> list[Column]:
    """Those that are called so, in words or by the metric's name, in the order wanted; what is no heading stands for all that
    hold it. ConfigError where one is in none.
    """
    kept: list[Column] = []
    for part in wanted:
        some = [one for one in found if part and part in (one.head, one.typed)]
        some = some or [one for one in found if part.lower() in one.head.lower() or part.lower() in one.typed.lower()]
        if not some or not part:
            heads = [one.head for one in found]
            near = did_you_mean(part, heads)
            raise ConfigError(f"--column: no heading has {part!r}{near}; there are: {'; '.join(heads)}")
        kept += [one for one in some if one not in kept]
    return kept


def end(comparison: Comparison) -> str:
    """What the end of a run is called in a heading: `final`, or `last 10 %` where it is a mean."""
    return "final" if comparison.tail is None else f"last {100 * comparison.tail:g} %"


# axis, heading
UNTIL = (("steps", "steps to it"), ("bytes", "sent to it"), ("seconds", "time to it"), ("sim_seconds", "simulated time to it"))
OVERALL = (  # of a row, axis, heading
    ("step", "steps", label("step")),
    ("rounds", "rounds", label("rounds")),
    ("messages", "rounds", label("messages")),
    ("bytes", "bytes", label("bytes")),
    ("train_s", "seconds", label("train_s")),
    ("sim_s", "sim_seconds", label("sim_s")),
)


def spread(value: dict[str, Any], runs: int) -> str:
    """Mean and half of its 95 % interval, to the digits that the interval leaves; of fewer runs than there are, of how many."""
    mean, half, n = value["mean"], value["half"], value["n"]
    if mean is None:
        return "-"
    text = f"{mean:.4g}" if half is None else f"{mean:.{_digits(half)}f} {PLUS_MINUS} {half:.{_digits(half)}f}"
    return text if n == runs else f"{text} (of {n})"


def _digits(half: float) -> int:
    """Decimals that two digits of an error have, at most 6."""
    if half <= 0:
        return 4
    decimals = 0
    while half * 10**decimals < 10 and decimals < 6:
        decimals += 1
    return decimals


def of_more(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """What a row of the table has of a further metric."""
    return dict(row["more"][name])


def _amount(axis: str, value: float | None, nothing: str) -> str:
    return nothing if value is None else amount(axis, value)


def markdown(comparison: Comparison) -> str:
    """A table of GitHub's markdown, with the notes below it."""
    parts = columns(comparison)
    cells = [[_markdown(part.cell(row)) for part in parts] for row in comparison.rows()]
    lines = [[_markdown(part.head) for part in parts], ["---"] * len(parts), *cells]
    notes = [f"{PLUS_MINUS}: 95 % interval of the mean over seeds."] if _wide(comparison) else []
    notes += [f"Note: {_markdown(note)}." for note in comparison.notes]
    return "\n\n".join(["\n".join(f"| {' | '.join(line)} |" for line in lines), *notes]) + "\n"


def _wide(comparison: Comparison) -> bool:
    return any(row["final"]["half"] is not None for row in comparison.rows())


def _markdown(text: str) -> str:
    for sign in "\\|*_`<>[]":
        text = text.replace(sign, "\\" + sign)
    return text.replace("\n", " ")


def latex(comparison: Comparison) -> str:
    """A tabular in booktabs' form, which takes \\usepackage{booktabs}."""
    parts, rows = columns(comparison), comparison.rows()
    words = {"status", *map(word, comparison.differing)}
    kinds = "".join("l" if part.head in words else "r" for part in parts)
    cells = [[part.head for part in parts], *([part.cell(row) for part in parts] for row in rows)]
    head, *body = (" & ".join(map(_latex, line)) + r" \\" for line in cells)
    lines = [f"% {' '.join(note.split())}" for note in comparison.notes]
    lines += [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines)


def _latex(text: str) -> str:
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", PLUS_MINUS: r"$\pm$"}
    signs |= {sign: "\\" + sign for sign in "&%$#_{}"}
    return "".join(signs.get(sign, sign) for sign in text).replace("<=", r"$\leq$").replace(">=", r"$\geq$")


def as_csv(comparison: Comparison) -> str:
    """A line a group, numbers as they are, units in the headings; empty where there is none."""
    metric, file = comparison.metric, io.StringIO()
    heads = ["label", *map(word, comparison.differing), "status", "runs", "zeta"]
    last = end(comparison)
    budgets = [f"{metric} at {budget.axis}={budget.most:g}" for budget in comparison.budgets]
    for which in (f"{metric} {last}", f"{metric} best", *(f"{name} {last}" for name in comparison.more)):
        heads += _three(which)
    for which in budgets:
        heads += [*_three(which), f"{which} steps"]
    heads += ["steps", "rounds", "messages", "bytes", "train (s)", "communication (s)", "wall (s)", "simulated (s)"]
    if comparison.target is not None:
        units = {"bytes": "bytes to target", "seconds": "seconds to target (s)", "sim_seconds": "simulated to target (s)"}
        heads += ["runs that reach target", *(units.get(axis, f"{axis} to target") for axis in AXES)]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(heads)
    for row in comparison.rows():
        line = [row["label"], *(said(row["keys"].get(key)) for key in comparison.differing), row["status"], row["runs"]]
        line.append(row["zeta"])
        for value in (row["final"], row["best"], *row["more"].values()):
            line += [value["mean"], value["half"], value["n"]]
        for value in row["at"]:
            line += [value["mean"], value["half"], value["n"], value["step"]]
        line += [row[name] for name in ("step", "rounds", "messages", "bytes", "train_s", "comm_s", "wall_s", "sim_s")]
        if comparison.target is not None:
            line += [row["reached"]["runs"], *(row["reached"][axis] for axis in AXES)]
        writer.writerow(["" if cell is None else cell for cell in line])
    return file.getvalue()


def _three(which: str) -> list[str]:
    return [f"{which} mean", f"{which} 95% half width", f"{which} n"]


def as_json(comparison: Comparison) -> str:
    """All of it."""
    return json.dumps(comparison.facts(), indent=2, default=str) + "\n"


WRITERS: dict[str, Callable[[Comparison], str]] = {"markdown": markdown, "csv": as_csv, "json": as_json, "latex": latex}
