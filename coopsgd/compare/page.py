"""One HTML page of a comparison that needs no network: curves to look into, the table to sort, notes, and the command.

Curves are drawn by plotly's own script, which is put into the page (4.8 MB) where the Python package plotly is installed, the
extra `report`. Without it the page shows the figures as SVG. The page itself forbids that anything is fetched.
"""

from __future__ import annotations

import html
import importlib
import importlib.util
import json
import math
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import coopsgd
from coopsgd.compare import curves as lines
from coopsgd.compare import drawing, formats
from coopsgd.compare.comparison import ALONG, Comparison, Curve
from coopsgd.compare.measures import AXES
from coopsgd.run import styles

POINTS = 200  # of a curve, at most
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"


def plotly_script() -> str | None:
    """plotly's, None where it is not installed."""
    if importlib.util.find_spec("plotly") is None:
        return None
    offline: Any = importlib.import_module("plotly.offline")
    return str(offline.get_plotlyjs())


def page(comparison: Comparison, command: str, pictures: Mapping[str, tuple[str, str]], plotly: str | None = None) -> str:
    """The page. pictures: name -> what it shows, and its SVG; plotly: its script, without which these are shown."""
    here = Path(__file__)
    css, code = (here.with_name(f"page.{ending}").read_text() for ending in ("css", "js"))
    facts = _facts(comparison, curves=plotly is not None)
    runs = sum(len(group.entries) for group in comparison.groups)
    title = f"{drawing.words_of(comparison.metric)} of {runs} runs" + (
        f", {len(comparison.groups)} groups" if len(comparison.groups) < runs else ""
    )
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{css}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="about">coopsgd {coopsgd.__version__}, {time.strftime("%Y-%m-%d")}</p>',
        f"<pre><code>{html.escape(command)}</code></pre>",
    ]
    if plotly is not None:
        parts += [_controls(comparison, facts), '<div id="plot"></div>']
    parts += ["<h2>Table</h2>", _table(comparison, picks=plotly is not None)]
    notes = [*_words(comparison), *comparison.notes]
    if plotly is None:
        notes.append("for curves to look into: pip install 'coopsgd[report]', and make this page again")
    parts += ['<ul class="notes">', *(f"<li>{html.escape(note)}</li>" for note in notes), "</ul>"]
    if plotly is None:
        parts += ['<h2>Figures</h2><div class="figures">', *(_figure(*one) for one in pictures.values()), "</div>"]
    else:
        parts.append(f"<script>{plotly}</script>")
    told = json.dumps(facts, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts += [f'<script id="data" type="application/json">{told}</script>', f"<script>{code}</script>", "</body></html>\n"]
    return "\n".join(parts)


def _words(comparison: Comparison) -> list[str]:
    found = []
    if any(len(group.counted) > 1 for group in comparison.groups):
        found.append(f"{formats.PLUS_MINUS} and bands: 95 % interval of the mean over seeds")
    if comparison.tail is not None:
        found.append(f"last {100 * comparison.tail:g} %: of each run the mean over that part of its steps")
    if comparison.budgets:
        words = ", ".join(budget.words for budget in comparison.budgets)
        found.append(f"by {words} (dotted): the last evaluation within the budget, and the steps that were taken by then")
    if comparison.target is not None:
        sign = ">=" if comparison.known.rises else "<="
        reached = f"{drawing.words_of(comparison.metric)} {sign} {comparison.target:g}"
        found.append(f"the target, {reached}, is reached where it is kept to the end")
    return found


def _facts(comparison: Comparison, curves: bool) -> dict[str, Any]:
    """What the page's script reads: values to sort by and, with `curves`, what is drawn of each group."""
    rows, columns = comparison.rows(), formats.columns(comparison)
    found: dict[str, Any] = {
        "metric": comparison.metric,
        "target": comparison.target,
        "values": [[_sorted_by(column.value(row)) for column in columns] for row in rows],
        "groups": [{} for _ in rows],
        "metrics": [],
        "budgets": {},
        "logarithmic": {},
    }
    if not curves:
        return found
    looks, names = drawing.styles_of(comparison.groups), drawing.short(comparison.groups)
    units = {axis: _unit(comparison, axis) for axis in AXES}
    for budget in comparison.budgets:
        found["budgets"].setdefault(budget.axis, []).append(_short(budget.most / units[budget.axis][1]))
    found["axes"] = {axis: words for axis, (words, _) in units.items()}
    for metric in dict.fromkeys((comparison.metric, *comparison.more, *ALONG)):
        of = replace(comparison, metric=metric)
        each = {group: {axis: lines.curve_of(of, group, axis) for axis in AXES} for group in comparison.groups}
        if not any(len(curve.x) for some in each.values() for curve in some.values()):
            continue
        found["metrics"].append(metric)
        ends = [y for some in each.values() for y in some["steps"].mean]
        positive = [y for y in ends if y > drawing.FLOOR * max(ends)] if metric == "consensus" else ends
        found["logarithmic"][metric] = of.known.unit != "share" and drawing.spans(positive)
        for number, group in enumerate(comparison.groups):
            about = found["groups"][number]
            about |= {"name": names[group], "colour": looks[group].colour, "dash": styles.WEB_DASHES[looks[group].dash]}
            about["symbol"] = styles.WEB_MARKERS[looks[group].marker]
            of_metric = {axis: _points(curve, units[axis][1]) for axis, curve in each[group].items()}
            about.setdefault("curves", {})[metric] = of_metric
            lost = {axis: list(lines.diverged(of, group, axis)) for axis in AXES}
            about.setdefault("diverged", {})[metric] = {
                axis: [[_short(x / units[axis][1]), _short(y)] for x, y in some] for axis, some in lost.items() if some
            }
    return found


def _unit(comparison: Comparison, axis: str) -> tuple[str, float]:
    column = AXES[axis][0]
    ends = [end for group in comparison.groups for entry in group.counted if math.isfinite(end := entry.last(column))]
    return drawing.unit_of(axis, max(ends, default=0.0))


def _sorted_by(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or (isinstance(value, int | float) and not isinstance(value, bool)) else str(value)


def _short(value: float) -> float | None:
    """To six digits: what a screen shows."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _points(curve: Curve, unit: float) -> dict[str, list[float | None]] | None:
    """A curve as lists, of a long one some points, the last among them; None without any."""
    if not len(curve.x):
        return None
    some = np.unique(np.linspace(0, len(curve.x) - 1, min(POINTS, len(curve.x))).round().astype(int))
    found: dict[str, list[float | None]] = {"x": [_short(x / unit) for x in curve.x[some]]}
    for name in ("mean", "low", "high"):
        found[name] = [_short(y) for y in getattr(curve, name)[some]]
    return found | {"n": [int(n) for n in curve.n[some]]}


# parts of the page


def _controls(comparison: Comparison, facts: Mapping[str, Any]) -> str:
    there = [
        axis for axis in AXES if any(curve[axis] for group in facts["groups"] for curve in group.get("curves", {}).values())
    ]
    axes = [(axis, facts["axes"][axis]) for axis in there]
    metrics = [(metric, drawing.words_of(metric)) for metric in facts["metrics"]]
    return "\n".join(
        (
            '<div class="controls">',
            f"<label>axis {_select('axis', axes, comparison.axis)}</label>",
            f"<label>metric {_select('metric', metrics, comparison.metric)}</label>",
            '<label><input type="checkbox" id="scale_x"> logarithmic axis</label>',
            '<label><input type="checkbox" id="scale"> logarithmic metric</label>',
            '<label><input type="checkbox" id="bands"> 95 % bands</label>',
            "</div>",
        )
    )


def _select(name: str, options: Sequence[tuple[str, str]], chosen: str) -> str:
    each = "".join(
        f'<option value="{html.escape(value)}"{" selected" if value == chosen else ""}>{html.escape(words)}</option>'
        for value, words in options
    )
    return f'<select id="{name}">{each}</select>'


def _table(comparison: Comparison, picks: bool) -> str:
    columns, rows = formats.columns(comparison), comparison.rows()
    looks = drawing.styles_of(comparison.groups)
    text = [any(isinstance(_sorted_by(column.value(row)), str) for row in rows) for column in columns]
    kinds = [' class="text"' if one else "" for one in text]
    head = '<th class="pick"><input type="checkbox" id="all" aria-label="all" checked></th>' if picks else ""
    head += "".join(
        f'<th class="sorts{" text" if one else ""}" scope="col"><button type="button">{html.escape(column.head)}</button></th>'
        for column, one in zip(columns, text, strict=True)
    )
    lines = []
    for number, (group, row) in enumerate(zip(comparison.groups, rows, strict=True)):
        cells = [html.escape(column.cell(row)) for column in columns]
        cells[0] = f'<span class="swatch" style="color:{looks[group].colour}"></span> {cells[0]}'
        pick = f'<td class="pick"><input type="checkbox" aria-label="{html.escape(group.label)}" checked></td>' if picks else ""
        body = "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, cells, strict=True))
        lines.append(f'<tr data-group="{number}">{pick}{body}</tr>')
    rest = "\n".join(lines)
    return f'<div class="frame"><table id="table"><thead><tr>{head}</tr></thead><tbody>{rest}</tbody></table></div>'


def _figure(about: str, svg: str) -> str:
    image = b64encode(svg.encode()).decode()
    words = html.escape(about)
    return f'<figure><img alt="{words}" src="data:image/svg+xml;base64,{image}"><figcaption>{words}</figcaption></figure>'
