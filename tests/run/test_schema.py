"""What run folders hold is said in one place, coopsgd/run/schema.py, and runs hold just that."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playing import MLP, play
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coopsgd.commands import running
from coopsgd.commands.design import advice
from coopsgd.compare import drawing, formats
from coopsgd.run import console, schema, sweep
from coopsgd.run.metrics import Files

PAGE = (Path(__file__).parents[2] / "docs" / "run_folder.md").read_text()
SHOWN = ("log_every=2", "eval_every=4", "steps=10", "workers=2", "tau=2")
RUNS = {
    "quadratic": ("algo=dpsgd", "task=quadratic", "task.heterogeneity=0", "optim.lr=0.02", *SHOWN),
    "on a cluster": ("algo=easgd", "task=quadratic", "cluster=wan_100m", "optim.lr=0.02", *SHOWN),
    "network": ("algo=pasgd", *MLP, *SHOWN),
    "numbers": ("algo=pasgd", "task=regression", *MLP[1:], *SHOWN),
    "several labels": (
        "algo=pasgd",
        "data=custom",
        "data.path=nets:tagged",
        "data.targets=labels",
        "task.loss=bce",
        *MLP[1:],
        *SHOWN,
    ),
    "local tests": ("algo=easgd", *MLP, "batch_size=16", "partition.test=local", *SHOWN),
    "network on a cluster": ("algo=fedavg", *MLP, "batch_size=16", "cluster=two_sites", *SHOWN),
}
CAN_FAIL = ("theory/bound", "theory/consensus")  # there where theory has something to say


@pytest.fixture(scope="module")
def lines():
    return {name: play(None, 1, *words).lines for name, words in RUNS.items()}


@pytest.mark.parametrize("name", RUNS)
def test_a_line_has_the_names_that_the_schema_says_and_no_other(lines, name):
    for line in lines[name]:
        looked = line["step"] % 4 == 0 or line["step"] == 10
        known = "quadratic" in " ".join(RUNS[name])
        there = {
            schema.ALWAYS: True,
            schema.EVALUATED: looked,
            schema.SIMULATED: "cluster" in name,
            schema.AUXILIARY: looked and ("algo=easgd" in RUNS[name] or "algo=fedavg" in RUNS[name]),
            schema.LOCAL: looked and "local" in name,
            schema.NUMBERS: looked and name == "numbers",
            schema.SEVERAL: looked and name == "several labels",
            schema.KNOWN: known,
            schema.KNOWN_EVALUATED: known and looked,
        }
        wanted = {metric.name for metric in schema.METRICS.values() if there[metric.when]}
        assert wanted - set(CAN_FAIL) <= set(line) <= wanted


def test_every_name_of_the_schema_is_on_some_line(lines):
    assert {name for found in lines.values() for line in found for name in line} == set(schema.METRICS)


def test_a_tag_is_the_name_behind_its_group(tmp_path, lines):
    for metric in schema.METRICS.values():
        assert metric.tag in ("", metric.name, f"{metric.section}/{metric.name}") and (metric.tag or metric.name == "step")
    message = []
    files = Files(tmp_path, message.append)
    for line in lines["on a cluster"]:
        files.log(line | {"of/mine": 1.0})
    files.close()
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    some = {name for line in lines["on a cluster"] for name, value in line.items() if value is not None}
    found = {tag for tag in board.Tags()["scalars"] if not tag.startswith("vs_")}
    assert found == {schema.METRICS[name].tag for name in some - {"step"}} | {"yours/of/mine"}
    over = {axis.tag(name) for axis in schema.AXES for name in schema.OVER if name in some}
    assert set(board.Tags()["scalars"]) - found == over and len(over) == 6
    assert not message


def test_eval_and_train_are_the_groups_that_tensorboard_opens():
    tags = {schema.tag(name) for name in (*schema.METRICS, "eval/mine", "of/mine", "Mine")} - {""}
    tags |= {axis.tag(name) for axis in schema.AXES for name in schema.OVER} | {f"{schema.WORKERS}/W"}
    groups = sorted({tag.split("/")[0] for tag in tags})
    assert groups == ["eval", "train", "transfer", "vs", "vs_kB", "vs_ms", "vs_sim_ms", "workers", "yours"]


def test_the_page_has_the_table():
    assert schema.metrics_table() in PAGE


def test_values_are_read_by_names_the_schema_knows(lines):
    assert schema.by_step(lines["network"], "eval/loss").keys() == {0, 4, 8, 10}
    with pytest.raises(KeyError, match="no metric named 'eval/los'; did you mean eval/loss"):
        schema.by_step(lines["network"], "eval/los")


def test_a_number_is_called_the_same_wherever_a_person_reads_it(capsys):
    """Console, live view, the end of a run and of a sweep, `runs`, `design`, `compare`: every heading is the schema's label."""
    labels = {metric.label for metric in schema.METRICS.values()}
    assert len(labels) == len(schema.METRICS) and "" not in labels
    value = {metric.name: 1 if metric.unit in ("", "bytes", "steps") else 0.5 for metric in schema.METRICS.values()}
    parts = [full for part in console.numbers(value) for full, _ in part]
    told = {" ".join(word for word in full.split(" ") if not re.fullmatch(r"[\d.]+|[kMGT]?B|s", word)) for full in parts}
    assert told == {schema.label(name) for name in (*console.LEARNED, *console.SENT)}
    assert {*console.SHORT} <= {*console.LEARNED, *console.SENT}
    last = {name: number for name, number in value.items() if name.startswith("eval/")}
    ended = {name: value[name] for name in ("consensus", "consensus_after", "sim_s", "train_s")}
    ended |= {"eval": last, "ledger": value, "tau": 1, "saved": "rows", "cluster": {"about": "a cluster"}, "algo": "pasgd"}
    console.table(ended | dict.fromkeys(("workers", "processes", "status", "steps"), 1), Path("folder"))
    heads = {re.split("  +", line.strip())[0] for line in capsys.readouterr().out.splitlines() if line[0] != " "}
    own = {"run", "status", "kept", "folder"}  # rows that are no number
    assert heads - own <= labels, heads - own - labels
    assert len(heads - own) >= 12
    assert {*sweep.COLUMNS} - {"job", "status", "folder"} <= labels
    found = {"name": "a", "status": "completed", "steps": 1, "planned": 1, "age": 1.0} | value
    grid = running.grid([found])
    assert {str(column.header) for column in grid.columns} - {"run", "status", "age"} <= labels
    assert {*advice.COLUMNS} & {"steps", "test loss"} == {schema.label("step"), schema.label("eval/loss")}
    assert {head for _, _, head in formats.OVERALL} <= labels
    for name, metric in schema.METRICS.items():
        assert name == "tau" or drawing.words_of(name) == metric.label
        assert schema.about(name).startswith(f"{metric.label}, `{name}`")


def test_pages_show_what_is_printed():
    """Samples of output have today's words."""
    for page in sorted((Path(__file__).parents[2] / "docs").rglob("*.md")):
        for block in re.findall(r"^```text\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            for line in block.splitlines():
                cells = re.split("  +", line.strip())
                if cells[0] == "job":
                    assert cells == [*sweep.COLUMNS[: len(cells)]], page
                elif re.match(r"step \d+/\d+", line):
                    words = [re.sub(r"^[\d.]+ (?:[kMG]?B )?| [\d.e-]+$", "", cell) for cell in cells[1:]]
                    assert {*words} <= {metric.label for metric in schema.METRICS.values()}, (page, words)
