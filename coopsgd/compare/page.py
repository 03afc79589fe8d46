"""A comparison as one HTML page that needs nothing else: curves to hover, axes and runs to choose, a table to sort.

The curves are drawn by plotly's own script, which is in the page (extra `report`); without it the page holds figures as SVG.
"""

from __future__ import annotations

import html
import importlib
import importlib.util
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from coopsgd.compare import formats
from coopsgd.compare.comparison import ALONG, AXES, Comparison
from coopsgd.run import colours

DASHES = {"-": "solid", "--": "dash", ":": "dot"}  # matplotlib's and plotly's


def page(comparison: Comparison, pictures: Mapping[str, bytes], command: str, script: str | None) -> str:
    """The page. pictures: figures as SVG, by name, for a page without script; script: plotly's, None without."""
    parts, rows = formats.columns(comparison), comparison.rows()
    head = "".join(f"<th>{_text(part.head)}</th>" for part in parts)
    body = "".join("<tr>" + "".join(_cell(part.cell(row)) for part in parts) + "</tr>" for row in rows)
    notes = "".join(f"<li>{_text(note)}</li>" for note in comparison.notes)
    title = f"{comparison.metric} of {sum(len(group.entries) for group in comparison.groups)} runs"
    if script is None:
        shown = "".join(f"<figure>{_svg(picture)}</figure>" for picture in pictures.values())
        drawn = f"<p>{_text(WITHOUT)}</p><div class='figures'>{shown}</div>"
        scripts = ""
    else:
        drawn = CONTROLS
        scripts = f"<script>{script}</script><script>const DATA = {_json(_data(comparison))};{CURVES}</script>"
    return PAGE.format(
        title=_text(title),
        command=_text(command),
        drawn=drawn,
        head=head,
        body=body,
        notes=f"<h2>Notes</h2><ul>{notes}</ul>" if notes else "",
        style=STYLE,
        scripts=f"<script>{TABLE}</script>{scripts}",
    )


def plotly_script() -> str | None:
    """The script that plotly brings; None where it is not installed."""
    if importlib.util.find_spec("plotly") is None:
        return None
    offline: Any = importlib.import_module("plotly.offline")
    return str(offline.get_plotlyjs())


def _data(comparison: Comparison) -> dict[str, Any]:
    """Curves of every axis and metric that there are, for CURVES."""
    groups = [group for group in comparison.groups if group.counted]
    styles = colours.each([group.algo for group in groups])
    found: dict[str, dict[str, list[Any]]] = {}
    for metric in dict.fromkeys((comparison.metric, *ALONG)):
        for axis in AXES:
            curves = [comparison.curve(group, axis, metric) for group in groups]
            if any(len(curve.x) > 1 and np.ptp(curve.x) > 0 for curve in curves):
                found.setdefault(metric, {})[axis] = [
                    {name: _short(values) for name, values in curve._asdict().items()} for curve in curves
                ]
    return {
        "curves": found,
        "groups": [
            {"label": group.label, "colour": style.colour, "dash": DASHES[style.dash]}
            for group, style in zip(groups, styles, strict=True)
        ],
        "metric": comparison.metric,
        "axis": comparison.axis,
        "axes": {axis: name for axis, (_, name) in AXES.items()},
        "target": comparison.target,
    }


def _short(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.7g}") if np.isfinite(value) else None for value in values]


def _json(data: Any) -> str:
    """For a script in a page: nothing in it ends the script."""
    return json.dumps(data).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _cell(text: str) -> str:
    return f"<td>{_text(text)}</td>"


def _svg(picture: bytes) -> str:
    """The picture without what stands before it in a file."""
    text = picture.decode()
    return text[text.index("<svg") :]


WITHOUT = "Curves to hover and choose need plotly: pip install 'coopsgd[report]', then make this page again."
CONTROLS = """<p class="controls"><label>metric <select id="metric"></select></label>
<label>over <select id="axis"></select></label>
<label><input type="checkbox" id="logx"> log x</label> <label><input type="checkbox" id="logy"> log y</label>
<span>a click on a name hides its runs, a double click all others</span></p><div id="curves"></div>"""
STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; }
code { background: var(--line); padding: .1em .4em; border-radius: .3em; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { text-align: left; padding: .3em 1em .3em 0; border-bottom: 1px solid var(--line); }
th { cursor: pointer; }
th[aria-sort=ascending]::after { content: " \\25B2"; } th[aria-sort=descending]::after { content: " \\25BC"; }
.controls { display: flex; gap: 1.5em; flex-wrap: wrap; } #curves { height: 32em; background: #fff; }
.figures { display: flex; flex-wrap: wrap; gap: 1em; } figure { margin: 0; background: #fff; }
"""
# cells are sorted by the number that they begin with, in bytes and seconds, else as text
TABLE = """
const UNITS = {B: 1, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12, PB: 1e15, s: 1};
function value(text) {
  const found = text.match(/^(-?[\\d.]+(?:e[+-]?\\d+)?)(?: ([kMGTP]?B|s)\\b)?/);
  return found ? parseFloat(found[1]) * (UNITS[found[2]] || 1) : NaN;
}
document.querySelectorAll("th").forEach((head, column) => head.addEventListener("click", () => {
  const up = head.getAttribute("aria-sort") !== "ascending", body = document.querySelector("tbody");
  document.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.children[column].textContent;
  [...body.rows].sort((a, b) => {
    const x = value(key(a)), y = value(key(b));
    if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1;
    return (up ? 1 : -1) * (isNaN(x) ? key(a).localeCompare(key(b)) : x - y);
  }).forEach(row => body.append(row));
}));
"""
CURVES = """
const by = id => document.getElementById(id);
function fill(select, names, chosen) {
  select.replaceChildren(...names.map(([value, text]) => new Option(text, value, false, value === chosen)));
}
function draw() {
  const metric = by("metric").value, over = DATA.curves[metric];
  const axis = over[by("axis").value] ? by("axis").value : Object.keys(over)[0];
  fill(by("axis"), Object.keys(over).map(name => [name, DATA.axes[name]]), axis);
  const traces = [];
  over[axis].forEach((curve, i) => {
    const group = DATA.groups[i], edge = [...curve.x, ...[...curve.x].reverse()];
    if (!curve.x.length) return;
    traces.push({x: edge, y: [...curve.high, ...[...curve.low].reverse()], fill: "toself", fillcolor: group.colour + "26",
      line: {width: 0}, hoverinfo: "skip", showlegend: false, legendgroup: group.label, mode: "lines"});
    traces.push({x: curve.x, y: curve.mean, name: group.label, legendgroup: group.label, mode: "lines",
      line: {color: group.colour, dash: group.dash, width: 2}, customdata: curve.n,
      hovertemplate: "%{y:.4g} at %{x:.4s} (n = %{customdata})"});
  });
  const shapes = DATA.target === null || metric !== DATA.metric ? [] :
    [{type: "line", xref: "paper", x0: 0, x1: 1, y0: DATA.target, y1: DATA.target, line: {dash: "dot", width: 1}}];
  const kind = id => by(id).checked ? "log" : "linear";
  Plotly.react("curves", traces, {margin: {t: 40}, hovermode: "closest", shapes, legend: {title: {text: ""}},
    xaxis: {title: {text: DATA.axes[axis]}, type: kind("logx"), exponentformat: "SI"},
    yaxis: {title: {text: metric}, type: kind("logy")}}, {responsive: true, displaylogo: false});
}
fill(by("metric"), Object.keys(DATA.curves).map(name => [name, name]), DATA.metric);
fill(by("axis"), Object.keys(DATA.axes).map(name => [name, DATA.axes[name]]), DATA.axis);
["metric", "axis", "logx", "logy"].forEach(id => by(id).addEventListener("change", draw));
draw();
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<link rel="icon" href="data:,"><style>{style}</style></head><body>
<h1>{title}</h1><p><code>{command}</code></p>
{drawn}
<h2>Table</h2><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>
<p>±: half of the 95 % interval of the mean over seeds. A click on a heading sorts.</p>
{notes}
{scripts}
</body></html>
"""
