"""300 runs in one folder: a real TensorBoard in a real browser draws, colours and lists them."""

from __future__ import annotations

import json
import math
import random
import re
import time
from dataclasses import replace
from pathlib import Path

import browser
import pytest
import tensorboards
from conftest import needs
from playing import MLP, settle
from tensorboards import TEXT

from coopsgd.run import cockpit
from coopsgd.run.folders import write_config
from coopsgd.run.metrics import Files
from coopsgd.run.naming import of_job
from coopsgd.setup.parts import Parts

PAGE = (Path(__file__).parents[2] / "docs" / "tensorboard.md").read_text()
LINK = re.search(r"http://localhost:6006/\?(\S+)", PAGE)[1]
ALGORITHMS = ("fullsync", "pasgd", "easgd", "dpsgd")
PATIENCE = 300.0  # seconds for a page, of a machine with much else to do

# elements of a page that are seen, those within components too: for Page.evaluate
SEEN = """(selector => {
  const found = [];
  const walk = node => {
    if (node.shadowRoot) walk(node.shadowRoot);
    if (node.matches && node.matches(selector) && node.getClientRects().length) found.push(node);
    node.childNodes.forEach(walk);
  };
  walk(document.body);
  return found;
})"""
CHARTS = f"{SEEN}('line-chart').map(chart => chart.querySelectorAll('svg path').length)"  # lines of each chart


def write(root: Path) -> int:
    """300 runs of 1000 steps, as 75 jobs of a sweep over rates and seeds for each algorithm; bytes of all files of events."""
    for algo in ALGORITHMS:
        base = settle((f"algo={algo}", *MLP, "workers=4", "steps=1000"))
        parts = Parts(base)
        pictures = list(cockpit.images(parts, [0.9, 0.8, 0.85, 0.95]))
        for number in range(75):
            lr, seed = round(0.01 * (1 + number // 5), 3), number % 5
            words = [f"optim.lr={lr}", f"seed={seed}"]
            folder = root / of_job(words, number, algo)
            config = replace(base, seed=seed, optim={**base.optim, "lr": lr})
            write_config(config, folder, "coopsgd train", True, words=words)
            files, draw = Files(folder, pytest.fail), random.Random(f"{algo}{number}")
            files.events.row(cockpit.row(folder, config))
            for step in range(0, 1001, 20):
                files.log(line(step, 2.3 * math.exp(-step * lr / 60) + 0.1 + 0.02 * draw.random()))
            for tag, about, picture in pictures:
                files.events.image(tag, about, *picture)
            for tag, about, text in cockpit.texts(folder, parts):
                files.events.text(tag, about, text)
            files.events.end("completed")
            files.close()
    return sum(file.stat().st_size for file in root.rglob("events.*"))


def line(step: int, loss: float) -> dict[str, float]:
    """A line of metrics, every fifth of an evaluation, with the names that runs have."""
    found = {"step": step, "epoch": step / 11, "samples": 128 * step, "train_s": step / 50, "wall_s": step / 40, "lr": 0.1}
    found |= {"comm_s": step / 200, "rounds": step // 10, "messages": 6 * step, "bytes": 4000 * step, "tau": 10, "phase": 0}
    found |= {"wire_bytes": 0, "train/loss": loss}
    if step % 100 == 0:
        found |= {"eval/loss": 1.1 * loss, "consensus": loss / 10, "consensus_after": loss / 20, "eval/accuracy": 1 - loss / 3}
        found |= {"eval/accuracy_worst": 0.9 - loss / 3, "eval/accuracy_best": 1 - loss / 4}
    return found


@pytest.mark.slow
def test_three_hundred_runs_are_usable(tmp_path):
    needs(browser.found() is not None, "chromium")
    seconds, began = {}, time.monotonic()
    size = write(tmp_path / "s")
    assert size < 300 * 150_000
    seconds["written"] = time.monotonic() - began
    began = time.monotonic()
    with tensorboards.tensorboards(tmp_path / "s", fast=True) as (address,), browser.opened(1400, 900) as page:
        seconds["read"] = time.monotonic() - began

        def shows(name, tab, there):
            start = time.monotonic()
            page.go("about:blank")  # an address that differs behind # alone would load nothing
            page.go(f"{address}?darkMode=false&{LINK}#{tab}")
            page.wait(there, PATIENCE)
            seconds[name] = time.monotonic() - start
            page.screenshot(tmp_path / f"{name}.png")

        shows("curves", "timeseries", f"(charts => charts.length >= 2 && charts[0] >= 300 && charts[1] >= 300)({CHARTS})")
        colours = f"new Set({SEEN}('line-chart')[0].querySelectorAll('svg path').values().map(one => one.style.stroke))"
        drawn = page.evaluate(f"[...{colours}].filter(colour => colour)")
        assert len(ALGORITHMS) <= len(drawn) <= len(ALGORITHMS) + 2, f"one an algorithm, and those of the grid: {drawn}"
        shows("table", "hparams", f"['Trial ID', 'session groups: 300'].every(word => ({TEXT}).includes(word))")
        # the tabs of an older make tick none of more than 40 runs: filter, then toggle all
        shows("pictures", "images", f"({TEXT}).includes('Write a regex to filter runs')")
        assert page.errors == []
    print(json.dumps({"bytes a run": size // 300, **{name: round(value, 1) for name, value in seconds.items()}}))
