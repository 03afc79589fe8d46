"""Figures of `coopsgd compare`: what they show, how they look in print, and which files `-o` leaves."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_compare import compared, make

from coopsgd.commands.comparing import leave
from coopsgd.compare import drawing, ends, figures
from coopsgd.compare.comparison import Comparison
from coopsgd.errors import ConfigError
from coopsgd.run import styles
from coopsgd.setup import catalogue

ALGOS = ("pasgd", "easgd", "dpsgd")


def sweep(folder: Path, taus: tuple[int, ...] = (2, 16), algos: tuple[str, ...] = ALGOS) -> Path:
    for (a, algo), tau, seed in product(enumerate(algos), taus, (0, 1)):
        losses = [2 / (1 + k) + 0.1 * a + 0.01 * tau + 0.001 * seed for k in range(5)]
        choice = {"name": algo, "strategy": "cooperative", "mixing": algo}
        make(folder / f"{algo}{tau}{seed}", losses, tau=tau, seed=seed, algo=choice)
    return folder


def figure(comparison: Comparison, name: str) -> Any:
    """The figure of that name."""
    with styles.applied():
        return next(one for one in figures.drawings(comparison) if one.name == name).draw()


def texts(figure: Any) -> list[str]:
    """Of its legend."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_every_file_has_its_name_and_text_stays_text(tmp_path, monkeypatch):
    for seed, tau in product((0, 1), (2, 16)):
        make(tmp_path / "s" / f"{tau}{seed}", (2.0, 1.5, 1.0 + seed), tau=tau, seed=seed)
    comparison = compared(tmp_path / "s", target=1.8)
    every = list(figures.drawings(comparison))
    axes = {f"by_{axis}" for axis in ("steps", "samples", "bytes", "seconds", "rounds")}
    assert {one.name for one in every} == {*axes, "pareto", "final", "time"}
    names = ("by_bytes", "pareto")  # of all, the others are written by the same lines
    monkeypatch.setattr(figures, "drawings", lambda _: [one for one in every if one.name in names])
    paths = leave(comparison, tmp_path / "out")
    assert {path.name for path in paths} == {path.name for path in (tmp_path / "out").iterdir()}
    assert {path.name for path in paths} - {f"{n}.{end}" for n in names for end in ("png", "svg", "pdf")} == {
        *(f"table.{end}" for end in ("md", "csv", "json", "tex")),
        "report.html",
    }
    for path in paths:
        start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}.get(path.suffix, b"")
        assert path.read_bytes().startswith(start), path
    text = (tmp_path / "out" / "by_bytes.svg").read_text()
    for said in ("pasgd tau=16", "test loss", "kB sent", "target 1.8"):
        assert f">{said}</text>" in text, said
    assert "@font-face" in text and "http://" not in re.sub(
        r'(xmlns|rdf|dc|cc)[^=]*="[^"]*"|<!DOCTYPE[^>]*>|<metadata.*?</metadata>', "", text, flags=re.S
    )
    pdf = (tmp_path / "out" / "pareto.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Subtype /Type3" not in pdf


def test_without_a_folder_nothing_is_written_and_a_bad_one_is_refused(tmp_path):
    make(tmp_path / "s" / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"-o .*file/out: cannot be written"):
        leave(compared(tmp_path / "s"), tmp_path / "file" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "s"]


def test_lines_are_the_curves_and_a_band_is_their_interval(tmp_path):
    comparison = compared(sweep(tmp_path), target=0.6)
    drawn = figure(comparison, "by_steps")
    (axes,) = drawn.axes
    looks = drawing.styles_of(comparison.groups)
    lines = {line.get_color(): line for line in axes.lines}
    for group in comparison.groups:
        x, mean, low, high, _ = comparison.curve(group)
        np.testing.assert_array_equal(lines[looks[group].colour].get_xydata(), np.c_[x, mean])
    band = axes.collections[-1].get_paths()[0].vertices
    assert {round(float(y), 9) for y in band[:, 1]} >= {round(float(y), 9) for y in (*low, *high)}
    assert any(list(line.get_ydata()) == [0.6, 0.6] for line in axes.lines)
    assert texts(drawn) == [*(group.label for group in comparison.groups), "target 0.6"]


def test_no_label_covers_another_nor_leaves_the_figure(tmp_path):
    comparison = compared(sweep(tmp_path), target=0.6)
    for name in ("by_bytes", "final", "time"):
        with styles.applied():
            drawn = figure(comparison, name)
            drawing.drawn(drawn, "png")
            whole = drawn.bbox
            assert drawn.get_size_inches()[0] == 3.4
            (axes,) = drawn.axes
            labels = [axes.xaxis.label, axes.yaxis.label]
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                labels += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            labels += [text for legend in drawn.legends for text in legend.get_texts()]
            boxes = [label.get_window_extent() for label in labels if label.get_text() and label.get_visible()]
        boxes = [box for box in boxes if box.width]
        for i, box in enumerate(boxes):
            assert whole.x0 - 1 <= box.x0 and box.x1 <= whole.x1 + 1 and whole.y0 - 1 <= box.y0, (name, box)
            for other in boxes[:i]:
                across = min(box.x1, other.x1) - max(box.x0, other.x0)
                along = min(box.y1, other.y1) - max(box.y0, other.y0)
                assert across <= 2 or along <= 2, (name, box, other)


def test_what_diverged_is_marked_and_spoils_no_mean(tmp_path):
    make(tmp_path / "a", (2.0, 1.0, 0.5), seed=0)
    make(tmp_path / "b", (2.0, 9.0), seed=1, status="diverged")
    drawn = figure(compared(tmp_path), "by_steps")
    (axes,) = drawn.axes
    (cross,) = (line for line in axes.lines if line.get_marker() == "x")
    _, high = axes.get_ylim()
    assert cross.get_xydata().tolist() == [[1, high]] and high < 9  # at the edge
    assert axes.lines[0].get_ydata().tolist() == [2.0, 1.0, 0.5]
    assert texts(drawn)[-1] == "a run diverges" and "(1 diverged)" in texts(drawn)[0]


def test_all_that_diverged_is_drawn_and_named_where_it_has_no_value(tmp_path):
    make(tmp_path / "a", (2.0, 1.0, 0.5), tau=1)
    make(tmp_path / "b", (2.0, 9.0), tau=4, status="diverged")
    comparison = compared(tmp_path)
    assert "no such value: pasgd tau=4 (diverged)" in figure(comparison, "final").axes[0].get_xlabel().replace("\n", " ")
    assert "pasgd tau=4 (diverged)" in texts(figure(comparison, "by_steps"))


def test_sixty_groups_stay_legible(tmp_path):
    comparison = compared(sweep(tmp_path, taus=tuple(range(1, 21))))
    assert len(comparison.groups) == 60
    drawn = figure(comparison, "by_steps")
    assert texts(drawn) == [f"{algo} (20)" for algo in sorted(ALGOS)]
    assert "dark to light: by tau" in drawn.axes[0].get_xlabel() and not drawn.axes[0].collections


def test_a_scale_is_logarithmic_where_values_span_a_decade(tmp_path):
    for tau, last in ((1, 0.1), (100, 0.2)):
        make(tmp_path / f"{tau}", (2.0, 1.0, last), tau=tau)
    comparison = compared(tmp_path)
    (axes,) = figure(comparison, "by_bytes").axes
    assert axes.get_xscale() == axes.get_yscale() == "log"  # 2 kB and 200 kB, 2 and 0.1
    (axes,) = figure(comparison, "by_steps").axes
    assert axes.get_xscale() == "linear"
    (axes,) = figure(replace(comparison, metric="eval/accuracy"), "by_steps").axes
    assert axes.get_yscale() == "linear"


def test_a_metric_against_a_key_has_a_point_a_value(tmp_path):
    comparison = compared(sweep(tmp_path, taus=(1, 4, 16)))
    drawn = figure(comparison, "against_tau")
    assert texts(drawn) == sorted(ALGOS) and ends.numeric(comparison) == ["tau"]
    line = drawn.axes[0].lines[0]
    values = [comparison.row(group)["final"]["mean"] for group in comparison.groups if group.algo == "dpsgd"]
    assert line.get_xdata().tolist() == [1, 4, 16]
    np.testing.assert_allclose(line.get_ydata().astype(float), values)


def test_the_front_is_what_no_other_beats_in_both():
    rng = np.random.default_rng(0)
    for rises in (False, True):
        sent, values = rng.integers(0, 12, (2, 30)).tolist()
        points = list(zip(sent, values, strict=True))
        better = (lambda a, b: a >= b) if rises else (lambda a, b: a <= b)
        beaten = [p for p in points if any(q != p and q[0] <= p[0] and better(q[1], p[1]) for q in points)]
        assert [points[i] for i in ends.front(sent, values, rises)] == sorted(set(points) - set(beaten))


def test_an_algorithm_has_one_look_whatever_else_is_there(tmp_path):
    assert {choice.name for choice in catalogue.choices("algo")} >= set(
        styles.LOOKS
    )  # those beyond the paper look like a user's
    assert len(set(styles.LOOKS.values())) == len({look.marker for look in styles.LOOKS.values()}) == len(styles.LOOKS)
    assert {look.marker for look in styles.LOOKS.values()} | set(styles.OTHERS[1]) <= set(styles.WEB_MARKERS)
    assert styles.look("my_lab:Gossip") == styles.look("my_lab:Gossip")
    assert styles.look("my_lab:Gossip").colour not in {look.colour for look in styles.LOOKS.values()}
    assert styles.shade("#000000", 0, 3) == "#000000" and styles.shade("#0072B2", 1, 2) > "#0072B2"
    comparison = compared(sweep(tmp_path))
    whole = drawing.styles_of(comparison.groups)
    assert len(set(whole.values())) == len(whole)
    for algo in ALGOS:
        some = [group for group in comparison.groups if group.algo == algo]
        assert drawing.styles_of(some) == {group: whole[group] for group in some}
        assert whole[some[0]].colour == styles.LOOKS[algo].colour
