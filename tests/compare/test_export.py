"""`coopsgd export`: what another tracker reads back is what the run folders hold."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from test_compare import make

READ = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
from mlflow.tracking import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1])
found = []
for experiment in client.search_experiments():
    for run in client.search_runs([experiment.experiment_id]):
        history = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "eval/loss")]
        found.append([experiment.name, run.info.run_name, run.info.status, run.data.params, history])
print(json.dumps(found))
"""
SCAN = """
import json, struct, sys
from wandb.proto import wandb_internal_pb2
data = open(sys.argv[1], "rb").read()
config, history, whole, at = {}, [], b"", 7  # behind the file's own head: records as in the log of LevelDB
while at + 7 <= len(data):
    if 32768 - at % 32768 < 7:  # too small for a head: the block is filled up
        at += 32768 - at % 32768
        continue
    _, length, kind = struct.unpack_from("<IHB", data, at)
    whole += data[at + 7 : at + 7 + length]
    at += 7 + length
    if kind not in (1, 4):  # whole, or the last part
        continue
    record, whole = wandb_internal_pb2.Record.FromString(whole), b""
    if record.HasField("run"):
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    if record.HasField("history"):
        history.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item})
print(json.dumps([config, history]))
"""


def installed(package: str) -> None:
    """In another interpreter: these packages start threads, and warn of things of their own."""
    if subprocess.run([sys.executable, "-c", f"import {package}"], capture_output=True).returncode:
        pytest.skip(f"pip install 'coopsgd[export]' for {package}")


def other(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_mlflow_reads_back_what_the_folders_hold(tmp_path):
    installed("mlflow")
    make(tmp_path / "sweep" / "a", (2.0, 1.5, 1.0))
    make(tmp_path / "sweep" / "b", (2.0, math.nan), tau=4, status=None)
    for _ in range(2):  # again: in its place
        words = ("-m", "coopsgd.cli", "export", "--to", "mlflow", str(tmp_path / "sweep"), "-o", str(tmp_path / "store"))
        assert "2 runs in" in other(*words)
    found = {run[1]: run for run in json.loads(other("-c", READ, (tmp_path / "store").as_uri()))}
    assert set(found) == {"a", "b"} and found["a"][0] == "sweep"
    assert (found["a"][2], found["a"][4]) == ("FINISHED", [[0, 2.0], [1, 1.5], [2, 1.0]])
    assert (found["b"][2], found["b"][4], found["b"][3]["tau"]) == ("KILLED", [[0, 2.0]], "4")
    assert found["a"][3]["optim.lr"] == "0.1" and found["a"][3]["topology"] == "null"


def test_wandb_holds_what_the_folder_holds(tmp_path):
    installed("wandb")
    make(tmp_path / "sweep" / "a", (2.0, 1.5, 1.0))
    other("-m", "coopsgd.cli", "export", "--to", "wandb", str(tmp_path / "sweep"), "-o", str(tmp_path / "store"))
    (file,) = (tmp_path / "store").rglob("*.wandb")
    config, history = json.loads(other("-c", SCAN, str(file)))
    assert config["optim.lr"] == 0.1 and config["tau"] == 2
    assert [(line["_step"], line["eval/loss"]) for line in history] == [(0, 2.0), (1, 1.5), (2, 1.0)]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--to", "mlflow"), ["names no run"]),
        (("--to", "tensorboard", "a"), ["--to", "tensorboard", "mlflow"]),
        (("a",), ["--to"]),
        (("--to", "wandb", "nowhere"), ["nowhere", "no folder"]),
    ],
)
def test_refused_in_one_line(cli, tmp_path, words, parts):
    make(tmp_path / "a")
    ended = cli("export", *words)
    assert ended.code == 2 and len(ended.lines) == 1, ended
    assert all(part in ended.err for part in parts), ended.err


def test_without_the_package_it_says_how_to_get_it(cli, tmp_path):
    make(tmp_path / "a")
    ended = cli("export", "--to", "mlflow", "a", first=hide)
    assert ended.code == 2 and "pip install 'coopsgd[export]'" in ended.err and len(ended.lines) == 1


def hide() -> None:
    sys.modules["mlflow"] = None  # type: ignore[assignment]
