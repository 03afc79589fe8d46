"""What `coopsgd compare` takes of a run besides its last value: budgets, means over a tail, further metrics; by hand."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest
from scipy.stats import t
from test_compare import compared, make

import coopsgd
from coopsgd.compare import drawing, entries, figures, formats, measures
from coopsgd.compare.measures import Budget
from coopsgd.errors import ConfigError
from coopsgd.run import styles

LOSSES = (2.0, 1.6, 1.2, 1.0, 0.8)  # of steps 0 to 4, at 0, 2, 4, 6, 8 kB and 0, 0.5, 1, 1.5, 2 s


def cells(found, label):
    """The table's row of that label: heading -> cell."""
    row = next(row for row in found.rows() if row["label"] == label)
    return {part.head: part.cell(row) for part in formats.columns(found)}


@pytest.mark.parametrize(
    ("every", "budget", "value", "step"),
    [
        (1, "bytes=4kB", 1.2, 2),  # used up at an evaluation
        (1, "bytes=5.9kB", 1.2, 2),  # between two: the one before, nothing interpolated
        (2, "bytes=7kB", 1.2, 2),  # step 3 is within, but was not evaluated
        (1, "bytes=6000", 1.0, 3),
        (1, "bytes=1GB", 0.8, 4),  # never used up: the last
        (1, "bytes=1kB", None, None),  # only the untrained model was evaluated by then
        (2, "bytes=3kB", None, None),
        (1, "seconds=1.2s", 1.2, 2),
        (1, "steps=3", 1.0, 3),
        (1, "samples=16", 1.2, 2),
        (1, "rounds=1", 1.0, 3),
    ],
)
def test_a_budget_buys_what_was_measured_by_then(tmp_path, every, budget, value, step):
    make(tmp_path / "a", LOSSES, every=every)
    (row,) = compared(tmp_path, at=[budget]).rows()
    (got,) = row["at"]
    assert (got["mean"], got["step"], got["n"]) == (value, step, int(value is not None))


def test_a_budget_over_seeds_and_who_does_not_use_it_up(tmp_path):
    make(tmp_path / "a", LOSSES, seed=0)
    make(tmp_path / "b", (2.0, 1.5, 1.4, 0.9), seed=1)
    make(tmp_path / "c", (2.0, 1.3), seed=2)  # ends at 2 kB
    make(tmp_path / "d", (2.0, 1.9, 9.0), seed=3, status="diverged")  # within the budget
    make(tmp_path / "e", (2.0, 1.7, 1.6, 1.5, 9.0), seed=4, status="diverged")  # beyond it
    make(tmp_path / "far", (2.0, 0.5), tau=100)  # its first evaluation is at 100 kB
    found = compared(tmp_path, at=["bytes=5kB", "steps=1"])
    by_bytes, by_steps = next(row for row in found.rows() if row["keys"]["tau"] == 2)["at"]
    values = [1.2, 1.4, 1.3, 1.6]
    half = t.ppf(0.975, 3) * np.std(values, ddof=1) / 2
    assert by_bytes == {
        "axis": "bytes",
        "amount": 5000.0,
        "mean": pytest.approx(np.mean(values)),
        "half": pytest.approx(half),
        "n": 4,
        "step": pytest.approx((2 + 2 + 1 + 2) / 4),
    }
    assert by_steps["mean"] == pytest.approx(np.mean([1.6, 1.5, 1.3, 1.9, 1.7])) and by_steps["n"] == 5
    of = cells(found, "pasgd tau=2")
    assert of["test loss by 5 kB"].endswith("(of 4)")  # of five that count
    assert of["steps by 5 kB"] == "1.8" and "test loss by 1 steps" in of and "steps by 1 steps" not in of
    assert cells(found, "pasgd tau=100")["test loss by 5 kB"] == "-"
    notes = " | ".join(found.notes)
    assert "by 5 kB, ended before it, so their last value: pasgd tau=2 (1 of 5 runs)" in notes
    assert "by 5 kB, not evaluated after the start (eval_every= says how often): pasgd tau=100" in notes


def test_a_target_that_was_reached_by_then_is_met_by_then(tmp_path):
    """The two agree: by x a metric is at the target or beyond it, from the x at which it is reached for good."""
    rng = np.random.default_rng(0)
    for number in range(20):
        make(tmp_path / str(number), np.round(rng.random(8), 2).tolist(), seed=number)
    for target in (0.3, 0.6, 0.9):
        found = compared(tmp_path, target=target)
        for entry in found.groups[0].counted:
            reached = found.reached(entry)
            for steps in range(1, 8):
                value = measures.within(entry, "eval/loss", Budget("steps", steps)).value
                if reached is not None and steps >= reached["steps"]:
                    assert value <= target
            last = [measures.within(entry, "eval/loss", Budget("steps", steps)).value for steps in range(1, 8)]
            assert (reached is None) == (last[-1] > target)


def test_the_end_as_a_mean_over_a_tail(tmp_path):
    curves = {0: [2.0] * 8 + [1.0, 0.5, 0.6], 1: [2.0] * 8 + [0.8, 0.7, 0.9]}  # steps 0 to 10: the last fifth is 9 and 10
    for seed, losses in curves.items():
        make(tmp_path / f"a{seed}", losses, seed=seed)
    make(tmp_path / "lost", (2.0, 9.0), seed=2, status="diverged")
    make(tmp_path / "rare", [2.0] * 8 + [1.0, 7.0, 0.4], tau=4, every=10)  # none but the last in the last fifth
    found = compared(tmp_path, tail=0.2)
    ends = [(0.5 + 0.6) / 2, (0.7 + 0.9) / 2]
    first, second = found.rows()
    half = t.ppf(0.975, 1) * np.std(ends, ddof=1) / math.sqrt(2)
    assert first["final"] == {"mean": pytest.approx(np.mean(ends)), "half": pytest.approx(half), "n": 2}
    assert second["final"]["mean"] == 0.4
    assert "test loss, last 20 %" in cells(found, "pasgd tau=4") and found.facts()["tail"] == 0.2
    whole = compared(tmp_path, tail=1.0).rows()[0]["final"]["mean"]
    assert whole == pytest.approx(np.mean([np.mean(losses[1:]) for losses in curves.values()]))  # all but the start


def test_further_metrics_have_their_end_alone(tmp_path):
    make(tmp_path / "a", LOSSES, seed=0, every=2)
    make(tmp_path / "b", (2.0, 1.0, 1.0, 1.0, 0.4), seed=1, every=2)
    found = compared(tmp_path, metric=["eval/loss", "eval/accuracy", "train/loss"], tail=0.5)
    (row,) = found.rows()
    assert row["final"]["mean"] == pytest.approx((0.8 + 0.4) / 2)
    assert row["more"]["eval/accuracy"]["mean"] == pytest.approx(1 - 0.6 / 4)
    assert row["more"]["train/loss"]["mean"] == pytest.approx(np.mean([(1.0 + 0.8) / 2, (1.0 + 0.4) / 2]))  # of every line
    heads = [part.head for part in formats.columns(found)]
    assert heads[heads.index("test loss, best") + 1 :][:2] == ["test accuracy, last 50 %", "training loss, last 50 %"]
    with pytest.raises(ConfigError, match="--metric: no metric named 'eval/los'"):
        compared(tmp_path, metric=["eval/loss", "eval/los"])


def test_the_best_rate_is_the_best_by_the_first_budget(tmp_path):
    make(tmp_path / "fast", (2.0, 0.9, 0.8), optim__lr=0.4)
    make(tmp_path / "slow", (2.0, 1.5, 0.5), optim__lr=0.1)
    assert [g.keys["optim.lr"] for g in compared(tmp_path, best_of="optim.lr").groups] == [0.1]
    assert [g.keys["optim.lr"] for g in compared(tmp_path, best_of="optim.lr", at=["steps=1"]).groups] == [0.4]


def test_every_format_says_them(tmp_path):
    make(tmp_path / "a", LOSSES)
    found = compared(tmp_path, metric=["eval/loss", "eval/accuracy"], at=["bytes=4kB"])
    (line,) = csv.DictReader(io.StringIO(formats.as_csv(found)))
    assert (line["eval/loss at bytes=4000 mean"], line["eval/loss at bytes=4000 steps"]) == ("1.2", "2.0")
    assert line["eval/accuracy final mean"] == "0.8"
    assert json.loads(formats.as_json(found))["groups"][0]["at"][0]["mean"] == 1.2
    assert "test loss by 4 kB" in formats.markdown(found) and "test loss by 4 kB" in formats.latex(found)
    assert coopsgd.load(tmp_path).compare(metric="eval/loss", at=["bytes=4kB"])["groups"][0]["at"][0]["mean"] == 1.2


@pytest.mark.parametrize(
    ("text", "budget", "words"),
    [
        ("bytes=50MB", ("bytes", 5e7), "50 MB"),
        ("bytes= 2e6", ("bytes", 2e6), "2 MB"),
        ("seconds=90", ("seconds", 90), "90 s"),
        ("sim_seconds=10min", ("sim_seconds", 600), "600 s on the cluster"),
        ("steps=500", ("steps", 500), "500 steps"),
        ("rounds=20", ("rounds", 20), "20 communications"),
    ],
)
def test_budgets_in_words(text, budget, words):
    assert Budget.of(text) == budget and Budget.of(text).words == words
    assert "/" not in Budget.of(text).stem and " " not in Budget.of(text).stem


@pytest.mark.parametrize(
    "text", ["bytes", "bytes=", "bytes=-1", "bytes=0", "bytes=50Mb", "bytes=1e999", "steps=5MB", "seconds=1..2"]
)
def test_a_budget_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="--at"):
        Budget.of(text)


def test_options_are_refused_in_one_line(cli, tmp_path):
    make(tmp_path / "a")
    for words, parts in (
        (("--at", "byte=5"), ["--at", "'byte=5'", "bytes"]),
        (("--tail", "0"), ["--tail", "0.1"]),
        (("--tail", "10"), ["--tail", "at most 1"]),
        (("--at", "sim_seconds=5"), ["sim_seconds", "cluster="]),
        (("--column", "finale"), ["--column", "'finale'", "test loss, final"]),
        (("--column", "tau", "--format", "csv"), ["--column", "csv", "markdown"]),
        (("--tail", "0.1", "--tail", "0.2"), ["--tail", "given 2 times"]),
    ):
        ended = cli("compare", "a", *words)
        assert ended.code == 2 and len(ended.lines) == 1 and all(part in ended.err for part in parts), ended
    several = cli("compare", "a", "--at", "bytes=2kB", "--at", "steps=1", "--metric", "eval/loss", "--metric", "eval/accuracy")
    assert several.code == 0 and "by 2 kB" in several.out, several.err
    assert cli("compare", "a", "--group", "tau", "--group", "optim.lr").code == 0


def test_zeta_is_shown_where_it_differs(tmp_path):
    for alpha, zeta in ((0.1, 0.9), (0.2, 0.8), (0.3, 0.7)):
        choice = {"name": "easgd", "strategy": "cooperative", "mixing": "easgd", "alpha": alpha}
        folder = make(tmp_path / f"{alpha}", (2.0, 1 + zeta), algo=choice)
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | {"zeta": zeta}))
    found = compared(tmp_path)
    assert [cells(found, group.label)["zeta"] for group in found.groups] == ["0.9", "0.8", "0.7"]
    with styles.applied():
        drawn = next(one for one in figures.drawings(found) if one.name == "against_zeta").draw()
    (axes,) = drawn.axes
    assert [text.get_text() for text in axes.texts] == ["0.1", "0.2", "0.3"]
    line = max(axes.lines, key=lambda line: len(line.get_xdata()))
    np.testing.assert_allclose(line.get_xydata(), [(0.9, 1.9), (0.8, 1.8), (0.7, 1.7)])
    alone = compared(tmp_path / "0.1")
    assert "zeta" not in [part.head for part in formats.columns(alone)]
    assert "against_zeta" not in {one.name for one in figures.drawings(alone)}


def test_what_theory_says_stands_beside_what_was_measured(tmp_path):
    for tau in (1, 2, 4):
        folder = make(tmp_path / str(tau), (2.0, 1.0, 1.0), tau=tau)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        lines = [line | {"consensus": tau + 0.0, "theory/consensus": 1.5 * tau} for line in lines]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = compared(tmp_path, metric="consensus", tail=0.5)
    with styles.applied():
        drawn = next(one for one in figures.drawings(found) if one.name == "against_tau").draw()
    rings = [line for line in drawn.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert [line.get_xydata().tolist() for line in rings] == [[[1, 1.5]], [[2, 3.0]], [[4, 6.0]]]
    assert [text.get_text() for legend in drawn.legends for text in legend.get_texts()] == ["pasgd", "theory"]


def test_budgets_and_further_metrics_have_figures(tmp_path):
    for seed in (0, 1):
        make(tmp_path / str(seed), LOSSES, seed=seed)
    found = compared(tmp_path, metric=["eval/loss", "eval/accuracy"], at=["bytes=4kB"])
    each = {one.name: one for one in figures.drawings(found)}
    assert {"final", "at_bytes_4kB", "eval_accuracy", "eval_accuracy_final"} <= set(each)
    with styles.applied():
        (axes,) = each["by_bytes"].draw().axes
        (other,) = each["by_steps"].draw().axes
        bar = each["at_bytes_4kB"].draw().axes[0]
    assert [4.0, 4.0] in [list(line.get_xdata()) for line in axes.lines]  # kB
    assert len(other.lines) == 1 and bar.get_xlabel() == "test loss by 4 kB"


def test_differences_within_noise_do_not_fill_a_picture(tmp_path):
    for tau in (1, 2, 4):
        for seed, shift in ((0, -0.1), (1, 0.1)):
            make(tmp_path / f"{tau}{seed}", (2.0, 1.0 + shift + 1e-6 * tau), tau=tau, seed=seed)
    found = compared(tmp_path)
    with styles.applied():
        drawn = next(one for one in figures.drawings(found) if one.name == "against_tau").draw()
    low, high = drawn.axes[0].get_ylim()
    half = found.rows()[0]["final"]["half"]
    assert low < 1 - half and high > 1 + half


def test_lines_with_any_of_the_metrics_are_read(tmp_path):
    make(tmp_path / "a", LOSSES, every=2)
    (entry,) = entries.found([str(tmp_path)])
    entries.read([entry], ["eval/loss", "train/loss"], of=["eval/loss", "train/loss"])
    assert entry.columns["step"].tolist() == [0, 1, 2, 3, 4] and np.isnan(entry.columns["eval/loss"]).sum() == 2


def test_columns_are_chosen_by_their_headings(tmp_path):
    for tau in (1, 2):
        make(tmp_path / str(tau), LOSSES, tau=tau)
    heads = [part.head for part in formats.columns(compared(tmp_path, column=["sent", "tau", "Eval/Loss"], at=["bytes=4kB"]))]
    assert heads == ["sent", "tau", "test loss, final", "test loss, best", "test loss by 4 kB"]
    for typed in ("test loss, best", "eval/loss, best"):
        assert [part.head for part in formats.columns(compared(tmp_path, column=[typed]))] == ["test loss, best"]
    assert [part.head for part in formats.columns(compared(tmp_path, column=["steps"], at=["bytes=4kB"]))] == ["steps"]
    with pytest.raises(ConfigError, match=r"--column: no heading has 'finale'.*test loss, final"):
        formats.columns(compared(tmp_path, column=["finale"]))


def test_the_untrained_model_stretches_no_axis(tmp_path):
    make(tmp_path / "a", (9.0, 1.5, 1.2, 1.1, 1.05, 1.0))
    with styles.applied():
        (axes,) = next(one for one in figures.drawings(compared(tmp_path)) if one.name == "by_steps").draw().axes
    assert 1.5 < axes.get_ylim()[1] < 2 and axes.lines[0].get_ydata()[0] == 9.0  # drawn all the same


def test_a_key_has_its_values_as_ticks_on_the_scale_of_its_steps(tmp_path):
    for lr, tau in ((0.05, 1), (0.1, 2), (0.4, 3)):
        make(tmp_path / f"{lr}", (2.0, 1.0 - lr), optim__lr=lr, tau=tau)
    found = compared(tmp_path)
    with styles.applied():
        each = {one.name: one.draw() for one in figures.drawings(found) if one.name.startswith("against_")}
    for name, how, values in (("against_optim_lr", "log", [0.05, 0.1, 0.4]), ("against_tau", "linear", [1, 2, 3])):
        (axes,) = each[name].axes
        assert axes.get_xscale() == how and axes.xaxis.get_majorticklocs().tolist() == values


def test_labels_of_two_lines_have_room(tmp_path):
    for lr in (0.05, 0.1):
        for seed, status in ((0, "completed"), (1, "failed")):
            choice = {"name": "parameter_server_of_mine", "strategy": "cooperative", "mixing": "average"}
            make(tmp_path / f"{lr}{seed}", (2.0, 1.0 - lr), seed=seed, status=status, algo=choice, optim__lr=lr)
    with styles.applied():
        drawn = next(one for one in figures.drawings(compared(tmp_path)) if one.name == "final").draw()
        drawing.drawn(drawn, "png")
        boxes = [label.get_window_extent() for label in drawn.axes[0].get_yticklabels()]
    assert all("\n" in label.get_text() for label in drawn.axes[0].get_yticklabels())
    assert boxes[0].y0 > boxes[1].y1


def test_who_sends_nothing_is_named_below_a_logarithmic_axis(tmp_path):
    make(tmp_path / "a", LOSSES, tau=1)
    make(tmp_path / "b", LOSSES, tau=100)
    make(tmp_path / "c", LOSSES, tau=0)  # bytes are those of tau in these runs
    with styles.applied():
        drawn = next(one for one in figures.drawings(compared(tmp_path)) if one.name == "by_bytes").draw()
    assert [text.get_text() for legend in drawn.legends for text in legend.get_texts()] == ["pasgd tau=1", "pasgd tau=100"]
    assert "0 all along, so not on this scale: pasgd tau=0" in drawn.axes[0].get_xlabel().replace("\n", " ")
