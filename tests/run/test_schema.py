"""What run folders hold is said in one place, coopsgd/run/schema.py, and runs hold just that."""

from __future__ import annotations

from pathlib import Path

import pytest
from playing import MLP, play
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coopsgd.run import schema
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
