"""Figures of a comparison: what they show, how they look, and which files `-o` leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compare.test_compare import make

from coopsgd.commands.comparing import leave
from coopsgd.compare import drawing, figures
from coopsgd.compare.comparison import ALONG, Comparison
from coopsgd.run import styles


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A folder of runs: two algorithms, two seeds, losses by hand."""
    folder = tmp_path_factory.mktemp("swept")
    for algo, down in (("pasgd", 0.5), ("easgd", 0.25)):
        for tau in (1, 4, 16):
            for seed in (0, 1):
                losses = [2.0 - down * k + 0.1 * seed for k in range(4)]
                make(folder / f"{algo}{tau}{seed}", losses, algo__name=algo, tau=tau, seed=seed)
    return folder


def drawn(comparison: Comparison, name: str):
    """The axes of a figure by its name."""
    with styles.applied():
        return next(one for one in figures.drawings(comparison) if one.name == name).draw().axes[0]


def test_a_colour_is_an_algorithms_own_whatever_else_is_there(swept):
    whole = Comparison.of([str(swept)], also=ALONG)
    part = replace(whole, groups=[group for group in whole.groups if group.algo == "easgd"])
    for comparison in (whole, part):
        looks = drawing.styles_of(comparison.groups)
        assert {looks[group].marker for group in comparison.groups if group.algo == "easgd"} == {"^"}
        first = next(group for group in comparison.groups if group.algo == "easgd")
        assert looks[first].colour == styles.VERMILLION
        assert len({(look.colour, look.marker, look.dash) for look in looks.values()}) == len(looks)


def test_lines_are_the_means_of_the_curves(swept):
    comparison = Comparison.of([str(swept)], also=ALONG, target=1.0)
    axes = drawn(comparison, "by_steps")
    lines = [line for line in axes.lines if len(line.get_xdata()) == 4]
    assert len(lines) == 6
    for line, group in zip(lines, comparison.groups, strict=True):
        np.testing.assert_allclose(line.get_ydata(), comparison.curve(group).mean)
    (level,) = (line for line in axes.lines if list(line.get_ydata()) == [1.0, 1.0])
    assert axes.get_ylim()[0] < 1.0 < axes.get_ylim()[1] and level.get_linestyle() == "--"


def test_files_are_called_the_same_each_time(swept, tmp_path):
    comparison = Comparison.of([str(swept)], also=ALONG)
    paths = leave(replace(comparison, groups=comparison.groups[:2]), tmp_path / "out")
    assert sorted(path.name for path in paths if path.suffix in (".csv", ".md", ".tex", ".json", ".html")) == [
        "report.html",
        "table.csv",
        "table.json",
        "table.md",
        "table.tex",
    ]
    stems = {Path(path).stem for path in paths if path.suffix in (".png", ".svg", ".pdf")}
    assert stems == {"by_steps", "by_samples", "by_bytes", "by_seconds", "by_rounds", "pareto", "final", "time"}
    svg = (tmp_path / "out" / "by_steps.svg").read_text()
    assert ">test loss<" in svg and ">steps<" in svg and "@font-face" in svg
    assert b"FontFile2" in (tmp_path / "out" / "by_steps.pdf").read_bytes()
