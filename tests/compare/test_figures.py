"""Figures and the page of `coopsgd compare`: what is in them, and that the page works in a browser that has no network."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from itertools import product
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from conftest import CI, HANG
from test_compare import compared, make

from coopsgd.compare import figures, page
from coopsgd.run import colours
from coopsgd.setup import catalogue

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
ALGOS = ("pasgd", "easgd", "dpsgd")


def sweep(folder: Path, taus: tuple[int, ...] = (2, 16), algos: tuple[str, ...] = ALGOS) -> Path:
    for (a, algo), tau, seed in product(enumerate(algos), taus, (0, 1)):
        losses = [2 / (1 + k) + 0.1 * a + 0.01 * tau + 0.001 * seed for k in range(5)]
        choice = {"name": algo, "strategy": "cooperative", "mixing": algo}
        make(folder / f"{algo}{tau}{seed}", losses, tau=tau, seed=seed, algo=choice)
    return folder


def test_every_axis_has_its_figure_in_every_form(tmp_path):
    found = figures.files_of(compared(sweep(tmp_path), target=0.6))
    names = {name.rpartition(".")[0] for name in found}
    assert names == {f"eval-loss-by-{axis}" for axis in ("steps", "samples", "bytes", "seconds", "rounds")} | {
        "pareto",
        "seconds",
    }
    for name, content in found.items():
        start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[name.rpartition(".")[2]]
        assert content.startswith(start), name
    text = found["eval-loss-by-bytes.svg"].decode()
    for said in ("pasgd tau=16", "test loss", "sent", "kB"):
        assert f">{said}" in text or said in re.sub("<[^>]+>", " ", text), said  # text stays text
    assert b"/Type /Font" in found["pareto.pdf"] and b"/Subtype /Type3" not in found["pareto.pdf"]


def test_lines_are_the_curves_and_a_band_is_their_interval(tmp_path):
    comparison = compared(sweep(tmp_path), target=0.6)
    with mpl.rc_context(figures.LOOK):
        (axes,) = figures.all_of(comparison)["eval-loss-by-steps"]().axes
    lines = {line.get_color(): line for line in axes.lines}
    styles = colours.each([group.algo for group in comparison.groups])
    for group, style in zip(comparison.groups, styles, strict=True):
        x, mean, low, high, _ = comparison.curve(group)
        np.testing.assert_array_equal(lines[style.colour].get_xydata(), np.c_[x, mean])
    band = axes.collections[-1].get_paths()[0].vertices
    assert {round(float(y), 9) for y in band[:, 1]} >= {round(float(y), 9) for y in (*low, *high)}
    assert any(line.get_ydata()[0] == 0.6 and line.get_xdata() == [0, 1] for line in axes.lines)  # the target
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [group.label for group in comparison.groups]


def test_what_diverged_is_marked_where_it_did(tmp_path):
    make(tmp_path / "a", (2.0, 1.0, 0.5), seed=0)
    make(tmp_path / "b", (2.0, 9.0), seed=1, status="diverged")
    (axes,) = figures.all_of(compared(tmp_path))["eval-loss-by-steps"]().axes
    (cross,) = (line for line in axes.lines if line.get_marker() == "x")
    assert cross.get_xydata().tolist() == [[1, 9]]


def test_sixty_groups_stay_legible(tmp_path):
    comparison = compared(sweep(tmp_path, taus=tuple(range(1, 21))))
    assert len(comparison.groups) == 60
    (axes,) = figures.all_of(comparison)["eval-loss-by-steps"]().axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == sorted(ALGOS)


def test_the_front_is_what_no_other_beats_in_both():
    rng = np.random.default_rng(0)
    for rises in (False, True):
        points = [(float(x), float(y)) for x, y in rng.integers(0, 12, (30, 2))]
        better = (lambda a, b: a >= b) if rises else (lambda a, b: a <= b)
        beaten = [p for p in points if any(q != p and q[0] <= p[0] and better(q[1], p[1]) for q in points)]
        assert figures.pareto(points, rises) == sorted(set(points) - set(beaten))


def test_an_algorithm_has_one_colour_whatever_else_is_there():
    known = [choice.name for choice in catalogue.choices("algo")]
    assert sorted(known) == sorted(name for row in colours.KNOWN for name in row)
    styles = [colours.of(name) for name in known]
    assert len({(style.colour, style.dash) for style in styles}) == len(known)
    assert colours.each(["pasgd"])[0].colour == colours.each(["easgd", "pasgd", "mine"])[1].colour == colours.of("pasgd").colour
    several = colours.each(["pasgd", "easgd", "pasgd", "pasgd"])
    assert len({style.colour for style in several}) == 4 and len({several[i].marker for i in (0, 2, 3)}) == 3
    assert colours.of("my_lab:Gossip") == colours.of("my_lab:Gossip")
    assert colours.paler("#000000", 1.0) == "#FFFFFF" and colours.paler("#0072B2", 0.0) == "#0072B2"


# the page

CLICKS = """
<script>
const told = {errors: [], heads: [...document.querySelectorAll("th")].map(head => head.textContent)};
window.onerror = message => told.errors.push(message);
const column = told.heads.indexOf("sent"), rows = () => [...document.querySelectorAll("tbody tr")];
const tell = () => rows().map(row => row.children[column].textContent);
document.querySelectorAll("th")[column].click();
told.up = tell();
document.querySelectorAll("th")[column].click();
told.down = tell();
const choice = document.getElementById("axis");
if (choice) {
  choice.value = "bytes";
  choice.dispatchEvent(new Event("change"));
  told.label = PLOTTED[1].xaxis.title.text;
  told.traces = PLOTTED[0].filter(trace => trace.name).map(trace => [trace.name, trace.x, trace.y]);
}
document.body.dataset.told = JSON.stringify(told);
</script>
"""
PLOTLY = "const PLOTTED = []; const Plotly = {react: (id, traces, layout) => { PLOTTED[0] = traces; PLOTTED[1] = layout; }};"


def looked_at(text: str, folder: Path) -> dict:
    """What CLICKS found in the page, in a Chromium without network."""
    if CHROMIUM is None:
        assert not CI, "chromium is missing, though .ci/run should have installed it"
        pytest.skip("apt-get install chromium")
    (folder / "page.html").write_text(text.replace("</body>", CLICKS + "</body>"))
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder}/profile"]
    offline = ["--proxy-server=127.0.0.1:9", "--virtual-time-budget=5000", "--dump-dom"]
    command = [CHROMIUM, *quiet, *offline, (folder / "page.html").as_uri()]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=HANG, env={"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    )
    found = re.search(r'data-told="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("script", [None, PLOTLY], ids=["without plotly", "with plotly"])
def test_the_page_works_in_a_browser(tmp_path, script):
    comparison = compared(sweep(tmp_path / "s"))
    pictures = figures.files_of(comparison, ("svg",))
    told = looked_at(page.page(comparison, pictures, "coopsgd compare s", script), tmp_path)
    assert told["errors"] == []
    assert told["up"] == ["8 kB"] * 3 + ["64 kB"] * 3 and told["down"] == ["64 kB"] * 3 + ["8 kB"] * 3
    if script is not None:
        assert told["label"] == "bytes sent"
        for group, (name, x, y) in zip(comparison.groups, told["traces"], strict=True):
            curve = comparison.curve(group, "bytes")
            assert name == group.label and x == curve.x.tolist()
            np.testing.assert_allclose(y, curve.mean, rtol=1e-6)


def test_the_page_asks_for_nothing_and_its_data_cannot_end_its_script(tmp_path):
    make(tmp_path / "a", task={"name": "mine:</script><img src=x>", "loss": "x"})
    make(tmp_path / "b", task={"name": "mine:B", "loss": "x"})
    comparison = compared(tmp_path)
    for script in (None, PLOTLY):
        text = page.page(comparison, figures.files_of(comparison, ("svg",)), "coopsgd compare '<a>'", script)
        outside = re.findall(r"""(?:src|href)=["'](?!data:|#)([^"']*)""", text)
        assert not outside and "<img src=x>" not in text and "@import" not in text
        assert text.count("</script>") == (1 if script is None else 3)
        assert "coopsgd compare &#x27;&lt;a&gt;&#x27;" in text


def test_plotlys_own_script_is_taken_where_it_is_installed():
    offline = pytest.importorskip("plotly.offline", reason="pip install 'coopsgd[report]'")
    assert page.plotly_script() == offline.get_plotlyjs()
