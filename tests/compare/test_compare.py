"""`coopsgd compare`: groups of runs that differ by their seed alone, and what is said of them, against numbers by hand."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import t

import coopsgd
from coopsgd.commands import running
from coopsgd.compare import cache, entries, formats
from coopsgd.compare.comparison import Comparison
from coopsgd.errors import ConfigError

CONFIG = {
    "format": 1,
    "algo": {"name": "pasgd", "strategy": "cooperative", "mixing": "average"},
    "period": {"name": "constant"},
    "topology": None,
    "task": {"name": "classification", "loss": "cross_entropy"},
    "optim": {"name": "sgd", "lr": 0.1},
    "cluster": None,
    "tau": 2,
    "workers": 4,
    "steps": 4,
    "seed": 0,
    "log_every": 1,
    "name": "",
}


def make(folder: Path, losses: Any = (2.0, 1.5, 1.0), status: str | None = "completed", every: int = 1, **keys: Any) -> Path:
    """A run folder as coopsgd leaves it: config, lines of which each `every` is evaluated, a summary unless status is None."""
    config = json.loads(json.dumps(CONFIG))
    for key, value in keys.items():
        at, _, name = key.rpartition("__")
        (config[at] if at else config)[name or key] = value
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "# coopsgd train\n" + yaml.safe_dump(config, sort_keys=False) + "\n# Hydra\nhydra:\n  a: 1\n"
    )
    lines = []
    for k, loss in enumerate(losses):
        line = {"step": k, "samples": 8 * k, "train_s": 0.5 * k, "comm_s": 0.1 * k, "wall_s": 1.0 * k, "rounds": k // 2}
        line |= {"messages": 6 * (k // 2), "bytes": 1000 * config["tau"] * k, "train/loss": loss}
        lines.append(line | ({"eval/loss": loss, "eval/accuracy": 1 - loss / 4} if k % every == 0 else {}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line).replace("NaN", "null") + "\n" for line in lines))
    if status is not None:
        summary = {
            "format": 1,
            "status": status,
            "steps": len(lines) - 1,
            "algo": config["algo"]["name"],
            "seed": config["seed"],
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def compared(folder: Path, **options: Any) -> Comparison:
    return Comparison.of([str(folder)], **options)


def test_runs_that_differ_by_their_seed_are_one_group(tmp_path):
    finals = {0: 1.0, 1: 0.8, 2: 0.9}
    for seed, final in finals.items():
        make(tmp_path / f"a{seed}", (2.0, 1.2, final), seed=seed)
        make(tmp_path / f"b{seed}", (2.0, 1.2, final + 1), seed=seed, tau=16, name=f"called {seed}", log_every=seed + 1)
    make(tmp_path / "c", (2.0, 1.0), tau=4)
    found = compared(tmp_path)
    assert found.differing == ["tau"] and [group.values for group in found.groups] == [
        {"tau": "2"},
        {"tau": "4"},
        {"tau": "16"},
    ]
    first, second, third = found.rows()
    values = np.array(list(finals.values()))
    wide = t.ppf(0.975, 2) * values.std(ddof=1) / math.sqrt(3)
    assert first["final"] == {"mean": pytest.approx(0.9), "half": pytest.approx(wide), "n": 3}
    assert third["final"]["mean"] == pytest.approx(1.9) and third["best"]["mean"] == pytest.approx(np.mean([1.2, 1.2, 1.2]))
    assert second["final"] == {"mean": 1.0, "half": None, "n": 1} and second["runs"] == 1
    assert (first["bytes"], first["rounds"], first["train_s"], first["step"]) == (4000, 1, 1.0, 2)
    assert [group.label for group in found.groups] == ["pasgd tau=2", "pasgd tau=4", "pasgd tau=16"]


def test_a_key_that_an_older_run_lacks_is_what_it_stands_for(tmp_path):
    """A run from before there were such keys is the same as one of now that leaves them alone, and as no other."""
    make(tmp_path / "before", seed=0)
    make(tmp_path / "now", seed=1, merge="kept", buffers_every=1, codec=None, outer=None)
    make(tmp_path / "other", seed=0, merge=0.5, outer={"name": "nesterov"})
    found = compared(tmp_path)
    assert sorted(len(group.entries) for group in found.groups) == [1, 2]
    assert found.differing == ["merge", "outer.name"]


def test_only_keys_that_differ_are_shown_and_of_a_choice_its_own(tmp_path):
    ring = {"name": "ring"}
    torus = {"name": "torus", "rows": 2}
    make(tmp_path / "a", topology=ring, algo={"name": "dpsgd", "strategy": "cooperative", "mixing": "gossip"})
    make(tmp_path / "b", topology=torus, algo={"name": "dpsgd", "strategy": "cooperative", "mixing": "gossip"})
    make(tmp_path / "c", optim__lr=0.2)
    found = compared(tmp_path)
    assert found.differing == ["algo.name", "topology.name", "optim.lr"] or set(found.differing) == {
        "algo.name",
        "topology",
        "topology.name",
        "optim.lr",
    }
    assert "algo.mixing" not in found.differing and "topology.rows" not in found.differing


CROSSING = (2.0, 0.9, 1.5, 0.95, 0.8, 0.7)  # reaches 1, loses it and reaches it again


@pytest.mark.parametrize(
    ("losses", "target", "at"),
    [
        (CROSSING, 1.0, 3),
        (CROSSING, 0.9, 4),
        (CROSSING, 0.5, None),
        (CROSSING, 2.5, 0),
        ((2.0, 0.5, 1.5), 1.0, None),  # reached, and lost at the end
        ((2.0, math.nan, 0.5), 1.0, 2),
    ],
)
def test_a_target_is_reached_where_it_stays_reached(tmp_path, losses, target, at):
    make(tmp_path / "a", losses)
    reached = compared(tmp_path, target=target).rows()[0]["reached"]
    assert (reached["runs"], reached["of"]) == (int(at is not None), 1)
    assert reached["steps"] == at and reached["bytes"] == (None if at is None else 2000 * at)
    accuracy = compared(tmp_path, target=1 - target / 4, metric="eval/accuracy").rows()[0]["reached"]
    assert accuracy["steps"] == at  # of an accuracy at least so much


def test_by_how_many_runs_and_by_those_when(tmp_path):
    make(tmp_path / "a", (2.0, 0.5, 0.4), seed=0)
    make(tmp_path / "b", (2.0, 1.5, 0.4), seed=1)
    make(tmp_path / "c", (2.0, 1.5, 1.4), seed=2)
    make(tmp_path / "d", (2.0, 0.5), seed=3, status="diverged")
    reached = compared(tmp_path, target=1.0).rows()[0]["reached"]
    assert (reached["runs"], reached["of"], reached["steps"], reached["seconds"]) == (2, 4, 1.5, 0.75)
    cells = {
        part.head: part.cell(compared(tmp_path, target=0.1).rows()[0])
        for part in formats.columns(compared(tmp_path, target=1.0))
    }
    assert cells["reach <= 1"] == "0 of 4" and cells["steps to it"] == "not reached"


def test_none_is_dropped_silently(tmp_path):
    make(tmp_path / "done", seed=0)
    make(tmp_path / "other", seed=1)
    make(tmp_path / "copy", (2.0,), seed=1)
    make(tmp_path / "failed", seed=2, status="failed")
    make(tmp_path / "killed", (2.0, 1.9), seed=3, status=None)
    make(tmp_path / "exploded", (2.0, 9.0), seed=4, status="diverged")
    make(tmp_path / "alone", tau=8, status=None)
    (make(tmp_path / "damaged") / "summary.json").write_text("{")
    found = compared(tmp_path)
    group, alone = (next(one for one in found.groups if one.label.endswith(end)) for end in ("tau=2", "tau=8"))
    (damaged,) = (one for one in found.groups if one.status() == "unreadable")
    assert group.status() == "3 completed, 1 diverged, 1 failed, 1 killed"
    assert {entry.name for entry in group.counted} == {"done", "other", "exploded"}
    assert found.row(group)["final"]["n"] == 2  # what diverged has no final value
    assert alone.status() == "killed" and damaged.entries[0].name == "damaged"
    notes = " | ".join(found.notes)
    for word in (
        "damaged cannot be read",
        "1 of 4 runs have a seed of another",
        "failed (failed)",
        "killed (killed)",
        "1 of 3 runs diverged",
    ):
        assert word in notes, notes
    heads = [part.head for part in formats.columns(found)]
    assert "status" in heads


def test_a_run_that_is_under_way_is_called_so(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    folder = make(tmp_path / "a", status=None)
    at_work = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(at_work, fcntl.LOCK_EX)
        assert entries.found([str(tmp_path)])[0].status == "running"
    finally:
        os.close(at_work)
    assert entries.found([str(tmp_path)])[0].status == "killed"


def test_a_curve_is_the_mean_over_seeds_with_its_interval(tmp_path):
    make(tmp_path / "a", (2.0, 1.0, 0.0), seed=0)
    make(tmp_path / "b", (4.0, 3.0, 2.0, 1.0), seed=1)
    (group,) = (found := compared(tmp_path)).groups
    x, mean, low, high, n = found.curve(group)
    assert x.tolist() == [0, 1, 2, 3] and mean.tolist() == [3, 2, 1, 1] and n.tolist() == [2, 2, 2, 1]
    wide = t.ppf(0.975, 1) * math.sqrt(2) / math.sqrt(2)
    np.testing.assert_allclose(high - mean, [wide, wide, wide, 0])
    np.testing.assert_allclose(mean - low, [wide, wide, wide, 0])


def test_seeds_that_were_looked_at_in_other_places_are_interpolated_within_what_was_measured(tmp_path):
    make(tmp_path / "a", (4.0, 2.0, 0.0), seed=0)
    one = make(tmp_path / "b", (4.0, 2.0, 0.0), seed=1)
    text = (one / "metrics.jsonl").read_text()
    (one / "metrics.jsonl").write_text(
        text.replace('"train_s": 0.5', '"train_s": 0.25').replace('"train_s": 1.0', '"train_s": 0.75')
    )
    (group,) = (found := compared(tmp_path)).groups
    x, mean, _, _, n = found.curve(group, "seconds")
    assert x.tolist() == [0, 0.25, 0.5, 0.75, 1] and n.tolist() == [2, 2, 2, 2, 1]
    np.testing.assert_allclose(mean, [4, (3 + 2) / 2, (2 + 1) / 2, (1 + 0) / 2, 0])


def test_the_best_rate_of_each_and_a_note_where_it_is_not_fair(tmp_path):
    for algo, finals in (("pasgd", {0.1: 1.0, 0.2: 0.5, 0.4: 0.9}), ("easgd", {0.1: 0.9, 0.2: 0.8, 0.4: 0.7})):
        for lr, final in finals.items():
            choice = {"name": algo, "strategy": "cooperative", "mixing": algo}
            make(tmp_path / f"{algo}{lr}", (2.0, final), algo=choice, optim__lr=lr)
    found = compared(tmp_path, best_of="optim.lr")
    assert [group.label for group in found.groups] == ["easgd optim.lr=0.4", "pasgd optim.lr=0.2"]
    assert any("easgd optim.lr=0.4: optim.lr is the largest that was tried" in note for note in found.notes)
    assert not any("pasgd" in note for note in found.notes)
    unfair = Comparison.of([str(tmp_path / "pasgd0.1"), str(tmp_path / "easgd0.1")])
    assert any("all algorithms ran at optim.lr=0.1" in note and "--best-of optim.lr" in note for note in unfair.notes)
    assert not any("all algorithms ran" in note for note in compared(tmp_path).notes)


def test_groups_by_a_key_alone(tmp_path):
    for tau in (2, 4):
        for lr in (0.1, 0.2):
            make(tmp_path / f"{tau}{lr}", (2.0, tau + lr), tau=tau, optim__lr=lr, seed=int(10 * lr))
    found = compared(tmp_path, group=["tau"])
    assert [(row["keys"], row["runs"]) for row in found.rows()] == [({"tau": 2}, 2), ({"tau": 4}, 2)]


def test_runs_of_other_source_are_other_runs(tmp_path):
    for name, seed, sha in (("a", 0, "11"), ("b", 1, "11"), ("c", 2, "22")):
        folder = make(tmp_path / name, seed=seed)
        (folder / "source").mkdir()
        kept = {"format": 1, "files": {"mine.py": {"path": "/x/mine.py", "sha256": sha}}}
        (folder / "source" / "files.json").write_text(json.dumps(kept))
    found = compared(tmp_path)
    assert found.differing == ["source"] and sorted(len(group.entries) for group in found.groups) == [1, 2]


def test_settings_that_follow_from_the_seed_are_no_difference(tmp_path, cli):
    """MATCHA's probabilities are computed from the graph, which the seed draws, and stand in the frozen config."""
    words = ("algo=matcha", "topology=erdos_renyi", "topology.p=0.7", "task=quadratic", "workers=6", "steps=2", "processes=1")
    assert cli("train", "-m", *words, "seed=0,1", "hydra.sweep.dir=s").code == 0
    one, other = (entries.found([str(path)])[0].keys for path in sorted((tmp_path / "s").glob("*/")))
    assert any(one[key] != other[key] for key in one if key.startswith("algo.")), "nothing was computed: the test shows nothing"
    assert len(compared(tmp_path / "s").groups) == 1


def test_a_sweep_on_the_command_line(cli, tmp_path):
    words = ("task=quadratic", "workers=4", "steps=8", "log_every=2", "eval_every=4", "processes=1", "optim.lr=0.02")
    assert cli("train", "-m", *words, "algo=pasgd,easgd", "tau=2,4", "seed=0,1", "hydra.sweep.dir=s").code == 0
    ended = cli("compare", "s", "--by", "bytes", "--target", "100", "-o", "out")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0].split()[:3] == ["algo", "tau", "runs"] and [line.split()[:3] for line in lines[1:5]] == [
        ["easgd", "2", "2"],
        ["easgd", "4", "2"],
        ["pasgd", "2", "2"],
        ["pasgd", "4", "2"],
    ]
    found = json.loads((tmp_path / "out" / "table.json").read_text())
    runs = [coopsgd.Run(tmp_path / folder) for folder in found["groups"][0]["folders"]]
    assert found["groups"][0]["final"]["mean"] == pytest.approx(np.mean([run.summary["eval"]["eval/loss"] for run in runs]))
    assert found["groups"][0]["bytes"] == runs[0].summary["ledger"]["bytes"]
    with (tmp_path / "out" / "table.csv").open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == [group["label"] for group in found["groups"]]
    for form in formats.FORMATS:
        printed = cli("compare", "s", "--by", "bytes", "--target", "100", "--format", form)
        assert printed.code == 0 and printed.out == (tmp_path / "out" / f"table.{formats.ENDINGS[form]}").read_text()
    listed = json.loads(cli("runs", "s", "--json").out)
    assert len(listed) == 8 and {one["status"] for one in listed} == {"completed"} and listed[0]["steps"] == 8
    assert cli("time", "s", "cluster=wan_100m").code == 0
    timed = json.loads(cli("compare", "s", "--by", "sim_seconds", "--format", "json").out)
    assert timed["cluster"] == "wan_100m" and all(group["sim_s"] > 0 for group in timed["groups"])


def test_text_of_tables_is_escaped(tmp_path):
    make(tmp_path / "a", task={"name": "my_tasks:A|B&C", "loss": "x"})
    make(tmp_path / "b", task={"name": "my_tasks:50%#$", "loss": "x"})
    found = compared(tmp_path)
    text = formats.latex(found)
    assert r"my\_tasks:A|B\&C" in text and r"my\_tasks:50\%\#\$" in text and r"\begin{tabular}{l" in text
    assert r"my\_tasks:A\|B&C" in formats.markdown(found)
    for line in formats.markdown(found).splitlines()[:4]:
        assert line.replace(r"\|", "").count("|") == len(formats.columns(found)) + 1


def test_an_interval_leaves_its_digits():
    assert formats.spread({"mean": 0.81234, "half": 0.0123, "n": 3}, 3) == "0.812 ± 0.012"
    assert formats.spread({"mean": 123.456, "half": 17.0, "n": 3}, 4) == "123 ± 17 (of 3)"
    assert formats.spread({"mean": None, "half": None, "n": 0}, 2) == "-"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("nowhere",), ["nowhere", "no folder"]),
        (("empty",), ["empty", "holds no run"]),
        ((), ["compare", "names no run"]),
        (("a", "--by", "bites"), ["--by", "'bites'", "bytes"]),
        (("a", "--metric", "eval/los"), ["--metric", "eval/los", "eval/loss"]),
        (("a", "--metric", "eval/r2"), ["--metric", "eval/r2", "regression"]),
        (("a", "--group", "tua"), ["--group", "'tua'", "tau"]),
        (("a", "--best-of", "optim.rate"), ["--best-of", "optim.rate"]),
        (("a", "--by", "sim_seconds"), ["sim_seconds: no run has a clock", "cluster="]),
        (("a", "--cluster", "wan"), ["--cluster wan", "coopsgd time"]),
        (("a", "--target", "nan"), ["--target", "finite"]),
        (("a", "--target", "much"), ["--target", "much"]),
        (("a", "--format", "word"), ["--format", "word"]),
        (("a", "-o", "file"), ["-o", "file", "no folder"]),
    ],
)
def test_refused_in_one_line(cli, tmp_path, words, parts):
    make(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    ended = cli("compare", *words)
    assert ended.code == 2 and len(ended.lines) == 1, ended
    assert all(part in ended.err for part in parts), ended.err


def test_what_a_user_logs_himself_is_a_metric(tmp_path):
    folder = make(tmp_path / "a")
    lines = [json.loads(line) | {"of/mine": 3.0} for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = compared(tmp_path, metric="of/mine", target=4.0)
    assert found.rows()[0]["final"]["mean"] == 3.0 and any("of a task of the user's own" in note for note in found.notes)


# reading


def test_torn_lines_are_left_out(tmp_path):
    folder = make(tmp_path / "a", (2.0, 1.5, 1.0))
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 3, "eval/loss": 0.5')
    (entry,) = entries.found([str(tmp_path)])
    entries.read([entry], ["eval/loss"])
    assert entry.columns["eval/loss"].tolist() == [2.0, 1.5, 1.0]
    text = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([text[0], "{torn", *text[1:3], ""]))
    entries.read([entry], ["eval/loss"], of=["eval/loss"])
    assert entry.columns["eval/loss"].tolist() == [2.0, 1.5, 1.0]


def test_what_is_no_number_is_none(tmp_path):
    folder = make(tmp_path / "a", (2.0, 1.5, 1.0))
    text = (folder / "metrics.jsonl").read_text().splitlines()
    odd = [text[0], text[1].replace('"bytes": 2000', '"bytes": "2000"'), text[2].replace('"bytes": 4000', '"bytes": [4000]')]
    (folder / "metrics.jsonl").write_text("\n".join([*odd, ""]))
    (entry,) = entries.found([str(tmp_path)])
    entries.read([entry], ["eval/loss", "bytes", "none"])
    assert entry.columns["eval/loss"].tolist() == [2.0, 1.5, 1.0] and np.isnan(entry.columns["none"]).all()
    assert entry.columns["bytes"][0] == 0 and np.isnan(entry.columns["bytes"][1:]).all()


def test_a_config_is_what_yaml_says_and_alike_blocks_are_parsed_once(tmp_path):
    entries._parsed.cache_clear()
    for seed in range(10):
        make(tmp_path / str(seed), seed=seed)
    found = entries.found([str(tmp_path)])
    for entry in found:
        whole = yaml.safe_load((entry.folder / "config.yaml").read_text())
        del whole["hydra"], whole["format"]
        assert entry.keys == entries.flat(whole)
    assert entries._parsed.cache_info().misses == len(CONFIG) - 1 + 10 - 1  # each block once, and ten seeds


def test_of_lines_without_the_metric_only_the_last_is_parsed(tmp_path, monkeypatch):
    make(tmp_path / "a", [2.0] * 100, every=10)
    parsed = []
    loads = json.loads
    monkeypatch.setattr(
        entries, "json", SimpleNamespace(loads=lambda text: parsed.append(text) or loads(text), dumps=json.dumps)
    )
    (entry,) = entries.found([str(tmp_path)])
    entries.read([entry], ["eval/loss", "bytes"], of=["eval/loss"])
    assert len(parsed) == 1 and parsed[0].count(b"step") == 11
    assert entry.columns["step"].tolist() == [*range(0, 100, 10), 99] and entry.last("bytes") == 198_000


def test_long_files_are_read_once_and_again_when_they_change(tmp_path, monkeypatch):
    folder = make(tmp_path / "a", [2.0] * 30)
    monkeypatch.setattr(cache, "LONG", 100)
    (entry,) = entries.found([str(tmp_path)])
    entries.read([entry], ["eval/loss"])
    assert (folder / cache.NAME).is_file()
    before = entry.columns["eval/loss"]
    monkeypatch.setattr(entries, "_points", lambda *_: pytest.fail("it is read again"))
    entries.read([entry], ["eval/loss"])
    assert entry.columns["eval/loss"].tolist() == before.tolist()
    monkeypatch.undo()
    monkeypatch.setattr(cache, "LONG", 100)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "eval/loss": 0.25}\n')
    entries.read([entry], ["eval/loss"])
    assert entry.columns["eval/loss"].tolist() == [2.0] * 30 + [0.25]
    (folder / cache.NAME).write_bytes(b"PK\x03\x04 no more")
    entries.read([entry], ["eval/loss"])
    assert entry.last("eval/loss") == 0.25


def test_a_folder_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    make(tmp_path / "a", [2.0] * 30)
    monkeypatch.setattr(cache, "LONG", 100)

    def refused(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(cache.files, "atomically", refused)
    (entry,) = entries.found([str(tmp_path)])
    entries.read([entry], ["eval/loss"])
    assert entry.last("eval/loss") == 2.0


# runs, load


def test_runs_says_how_far_each_is(cli, tmp_path):
    make(tmp_path / "outputs" / "a", (2.0, 1.5))
    make(tmp_path / "multirun" / "b", (2.0,), status=None, tau=4)
    ended = cli("runs")
    assert ended.code == 0 and [line.split()[:3] for line in ended.out.splitlines()[1:]] == [
        ["outputs/a", "completed", "1/4"],
        ["multirun/b", "killed", "0/4"],
    ]
    assert cli("runs", "--json", "--watch").code == 2
    (tmp_path / "elsewhere").mkdir()
    assert cli("runs", "elsewhere").code == 2
    assert [running.ago(seconds) for seconds in (None, 5, 119, 7300, 200_000)] == ["-", "5 s", "2 min", "2 h", "2 d"]


def test_load_gives_runs_and_one_table(tmp_path, monkeypatch):
    for tau in (2, 4):
        make(tmp_path / f"t{tau}", (2.0, 1.0), tau=tau)
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setattr("coopsgd.compare.loading.importlib.util.find_spec", lambda name: None)
    runs, table = coopsgd.load(tmp_path)
    assert [run.folder.name for run in runs] == ["t2", "t4"] and len(table) == 4
    assert table[3] | {"algo.name": "pasgd", "tau": 4, "seed": 0, "run": "t4", "step": 1, "eval/loss": 1.0} == table[3]
    assert coopsgd.load([tmp_path / "t2"], tmp_path / "t4").table == table
    with pytest.raises(TypeError, match="column"):
        coopsgd.load(tmp_path).compare(column=["tau"])  # of a table, which this is not
    with pytest.raises(ConfigError, match="holds no run"):
        (tmp_path / "none").mkdir()
        coopsgd.load(tmp_path / "none")


def test_load_gives_a_data_frame_where_pandas_is(tmp_path, monkeypatch):
    made = []
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows: made.append(rows) or "a frame"))
    monkeypatch.setattr("coopsgd.compare.loading.importlib.util.find_spec", lambda name: name)
    make(tmp_path / "a")
    assert coopsgd.load(tmp_path).table == "a frame" and len(made[0]) == 3
