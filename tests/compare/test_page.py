"""The page of `coopsgd compare`, in a real browser that has no network: axis, metric, runs on and off, the table sorted."""

from __future__ import annotations

import importlib.util
import json

import browser
import numpy as np
import pytest
from test_compare import compared, make
from test_drawings import sweep

from coopsgd.compare import page

# stands for plotly where it is not installed: what is to be drawn is kept, as plotly keeps it
STUB = """window.Plotly = {react: (name, traces, layout) => {
  const plot = document.getElementById(name); plot.data = traces; plot.layout = layout;}};"""
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="60"><text y="20">steps</text></svg>'
NAMES = "document.getElementById('plot').data.filter(trace => trace.name).map(trace => trace.name)"


def choose(opened: browser.Page, name: str, value: str) -> None:
    code = f"(e => {{e.value = {json.dumps(value)}; e.dispatchEvent(new Event('change'));}})"
    opened.evaluate(f"{code}(document.getElementById({json.dumps(name)}))")


def sorted_by(opened: browser.Page, head: str) -> list[str]:
    """Click on a heading; the cells of its column."""
    heads = "[...document.querySelectorAll('#table thead tr > *')]"
    number = opened.evaluate(f"{heads}.findIndex(one => one.textContent === {json.dumps(head)})")
    opened.click(f"#table thead tr > :nth-child({number + 1}) button")
    cells = f"[...document.querySelectorAll('#table tbody tr')].map(row => row.children[{number}].textContent)"
    return list(opened.evaluate(cells))


@pytest.mark.parametrize("script", ["plotly", "stub"])
def test_curves_are_chosen_and_the_table_is_sorted(tmp_path, script):
    if script == "plotly" and importlib.util.find_spec("plotly") is None:
        pytest.skip("pip install 'coopsgd[report]'")
    comparison = compared(sweep(tmp_path / "s", taus=(2, 16)), target=0.6, at=["bytes=5kB"])
    whole = page.page(comparison, "coopsgd compare s -o out", {}, page.plotly_script() if script == "plotly" else STUB)
    (tmp_path / "page.html").write_text(whole)
    with browser.opened() as opened:
        opened.go((tmp_path / "page.html").as_uri())
        opened.wait("document.getElementById('plot').data && document.getElementById('plot').data.length")
        assert opened.evaluate(NAMES) == [group.label for group in comparison.groups]
        assert opened.evaluate("document.getElementById('plot').layout.shapes[0].y0") == 0.6
        choose(opened, "axis", "bytes")
        choose(opened, "metric", "eval/accuracy")
        told = opened.evaluate("document.getElementById('plot').layout")
        assert (told["xaxis"]["title"]["text"], told["yaxis"]["title"]["text"]) == ("kB sent", "test accuracy")
        (budget,) = told["shapes"]  # and no target, which is of another metric
        assert (budget["x0"], budget["x1"]) == (5, 5)
        traces = opened.evaluate("document.getElementById('plot').data.filter(t => t.name).map(t => [[...t.x], [...t.y]])")
        for group, (x, y) in zip(comparison.groups, traces, strict=True):
            curve = comparison.curve(group, "bytes", "eval/accuracy")
            np.testing.assert_allclose(x, curve.x / 1000, rtol=1e-5)
            np.testing.assert_allclose(y, curve.mean, rtol=1e-5)
        opened.click("#table tbody tr:nth-child(2) input")
        assert opened.evaluate(NAMES) == [group.label for i, group in enumerate(comparison.groups) if i != 1]
        opened.click("#all")
        assert opened.evaluate(NAMES) == ([] if not opened.evaluate("document.getElementById('all').checked") else None)
        opened.click("#all")
        assert len(opened.evaluate(NAMES)) == 6
        assert sorted_by(opened, "sent") == ["8 kB"] * 3 + ["64 kB"] * 3
        assert sorted_by(opened, "sent") == ["64 kB"] * 3 + ["8 kB"] * 3
        assert sorted_by(opened, "tau") == ["2"] * 3 + ["16"] * 3
        opened.screenshot(tmp_path / "page.png", whole=True)
        assert "eval/" not in opened.evaluate("document.body.innerText"), "numbers are called as in the figures"
        assert opened.errors == []
        assert [one for one in opened.asked if not one.startswith(("data:", "blob:", (tmp_path / "page.html").as_uri()))] == []
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_without_plotly_the_page_holds_figures_and_the_table(tmp_path):
    comparison = compared(sweep(tmp_path / "s", algos=("pasgd",)))
    whole = page.page(comparison, "coopsgd compare s", {"by_steps": ("test loss against steps", SVG)}, None)
    (tmp_path / "page.html").write_text(whole)
    with browser.opened() as opened:
        opened.go((tmp_path / "page.html").as_uri())
        assert opened.wait("document.images.length === 1 && document.images[0].naturalWidth") == 90
        assert sorted_by(opened, "sent") == ["8 kB", "64 kB"] and sorted_by(opened, "sent") == ["64 kB", "8 kB"]
        assert "coopsgd[report]" in opened.evaluate("document.body.textContent") and opened.errors == []


def test_nothing_in_the_runs_ends_the_script_or_is_taken_for_markup(tmp_path):
    make(tmp_path / "a", task={"name": "mine:</script><img src=x>", "loss": "x"})
    make(tmp_path / "b", task={"name": "mine:B", "loss": "x"})
    comparison = compared(tmp_path)
    for script in (None, STUB):
        whole = page.page(comparison, "coopsgd compare '<a>'", {}, script)
        assert "<img src=x>" not in whole and "connect-src" not in whole and "default-src 'none'" in whole
        assert whole.count("</script>") == (2 if script is None else 3)
        assert "coopsgd compare &#x27;&lt;a&gt;&#x27;" in whole


def test_plotlys_own_script_is_taken_where_it_is_installed():
    offline = pytest.importorskip("plotly.offline", reason="pip install 'coopsgd[report]'")
    assert page.plotly_script() == offline.get_plotlyjs()
