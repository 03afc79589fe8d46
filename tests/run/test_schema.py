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


def test_tags_are_derived_and_stay_what_they_were(tmp_path, lines):
    before = {
        "lr": "train/lr",
        "tau": "train/tau",
        "epoch": "train/epoch",
        "samples": "train/samples",
        "train_s": "train/seconds",
        "wall_s": "train/wall_seconds",
        "sim_s": "train/sim_seconds",
        "rounds": "comm/rounds",
        "messages": "comm/messages",
        "bytes": "comm/bytes",
        "wire_bytes": "comm/wire_bytes",
        "comm_s": "comm/seconds",
        "consensus": "consensus/distance",
        "consensus_after": "consensus/after_mixing",
        "phase": "comm/phase",
        "step": "",
    }
    for metric in schema.METRICS.values():
        assert metric.tag == before.get(metric.name, metric.name)
    message = []
    files = Files(tmp_path, message.append)
    for line in lines["on a cluster"]:
        files.log(line | {"of/mine": 1.0})
    files.close()
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    some = {name for line in lines["on a cluster"] for name, value in line.items() if value is not None}
    assert set(board.Tags()["scalars"]) == {schema.METRICS[name].tag for name in some - {"step"}} | {"of/mine"}
    assert not message


def test_the_page_has_the_table():
    assert schema.metrics_table() in PAGE


def test_values_are_read_by_names_the_schema_knows(lines):
    assert schema.by_step(lines["network"], "eval/loss").keys() == {0, 4, 8, 10}
    with pytest.raises(KeyError, match="no metric named 'eval/los'; did you mean eval/loss"):
        schema.by_step(lines["network"], "eval/los")
