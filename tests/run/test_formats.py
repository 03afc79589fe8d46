"""Run folders that were written before keep their meaning; summaries say the same however a run ended."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from playing import settle
from running import LONG, started  # noqa: F401

import coopsgd
from coopsgd.errors import ConfigError
from coopsgd.run import schema
from coopsgd.setup import catalogue, formats, yamls
from coopsgd.setup.identity import identity

OLD = Path(__file__).parent / "format0"
NEWER = formats.FORMAT + 1


def copied(name: str, to: Path) -> Path:
    return Path(shutil.copytree(OLD / name, to / name))


@pytest.mark.parametrize("name", [path.name for path in sorted(OLD.iterdir())])
def test_a_folder_without_a_format_is_read(cli, tmp_path, name):
    run = coopsgd.Run(copied(name, tmp_path))
    assert "format" not in run.summary and "format" not in yamls.keys(run.folder / "config.yaml")
    assert run.config.algo["name"] == run.summary["algo"] and run.config.workers == run.summary["workers"]
    assert schema.by_step(run.metrics(), "consensus")
    if name != "interrupted":
        ended = cli("analyze", "--over", name, "--json")
        assert ended.code == 0, ended.err
        assert json.loads(ended.out)["runs"][0]["last"] == run.summary["steps"]


def test_models_of_a_folder_without_a_format(tmp_path):
    run = coopsgd.Run(copied("overlap", tmp_path))
    assert run.rows().shape == (4, 10) and run.answer().shape == (1, 10)


@pytest.mark.parametrize("trust", [(), ("--trust",)])
@pytest.mark.parametrize("name", ["overlap", "cta", "grouped"])
def test_a_run_without_a_format_is_repeated_from_its_folder(cli, tmp_path, name, trust):
    old = coopsgd.Run(copied(name, tmp_path))
    again = ("train", "--config-path", name, "--config-name", "config", *trust, "hydra.run.dir=again", "save=rows")
    ended = cli(*again)
    assert ended.code == 0, ended.err
    run = coopsgd.Run(tmp_path / "again")
    assert yamls.keys(run.folder / "config.yaml")["format"] == run.summary["format"] == formats.FORMAT
    assert run.summary["eval"]["eval/loss"] == pytest.approx(old.summary["eval"]["eval/loss"], rel=1e-5)
    for name in ("messages", "bytes"):
        assert run.summary["ledger"][name] == old.summary["ledger"][name]
    if (old.folder / "checkpoints").exists():
        np.testing.assert_allclose(run.rows(), old.rows(), rtol=1e-4, atol=1e-6)
    ended = cli("train", "--config-path", "again", "--config-name", "config", *trust, "hydra.run.dir=third")
    assert ended.code == 0, ended.err


WEIGHTED = {"uniform": "weights_by=uniform", "proportional": "algo.drawn=proportional"}


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_of_a_folder_of_format_one_are_keys_of_today(cli, tmp_path, name):
    shutil.copytree(OLD.with_name("format1") / name, tmp_path / name)
    words = f"algo=fedavg {WEIGHTED[name]} task=quadratic optim.lr=0.02 tau=4 workers=4 steps=40 seed=3"
    assert identity(coopsgd.Run(tmp_path / name).config) == identity(settle(words.split()))
    ended = cli("train", "--config-path", name, "--config-name", "config", "hydra.run.dir=again")
    assert ended.code == 0, ended.err
    old, new = (coopsgd.Run(tmp_path / one).summary["eval"]["eval/loss"] for one in (name, "again"))
    assert new == pytest.approx(old, rel=1e-5)


VALUES = [pytest.param(*row, id=f"{row[0][0]}={row[0][1]}") for step in formats.UPGRADES for row in step.values.items()]


@pytest.mark.parametrize(("old", "now"), VALUES)
def test_a_value_that_is_gone_has_one_of_today(old, now):
    key, value = old
    *group, name = key.split(".")
    now = {k: v for k, v in now.items() if "." not in k or k.split(".")[:1] == group}  # of a group that is there
    before = {group[0]: {name: value, "mine": 3}} if group else {name: value, "mine": 3}
    for found in (formats.upgrade(before, 0), formats.upgrade(formats.upgrade(before, 0), formats.FORMAT)):
        inner = found[group[0]] if group else found
        assert inner["mine"] == 3
        assert {f"{group[0]}.{k}" if group else k: v for k, v in inner.items() if k != "mine"}.items() >= now.items()
    assert before[group[0]][name] == value if group else before[name] == value, "upgrade changed what it was given"


@pytest.mark.parametrize("format", [NEWER, "abc", -1, True, 1.5])
def test_a_folder_of_a_newer_format_or_of_none_is_refused_in_a_line(cli, tmp_path, format):
    folder = copied("overlap", tmp_path)
    message = "written by a newer coopsgd" if format == NEWER else "not a whole number"
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"format": format}))
    with pytest.raises(ConfigError, match=f"summary.json.*{message}"):
        coopsgd.Run(folder).summary  # noqa: B018
    (folder / "config.yaml").write_text(f"format: {json.dumps(format)}\n{(folder / 'config.yaml').read_text()}")
    with pytest.raises(ConfigError, match=f"config.yaml.*{message}"):
        coopsgd.Run(folder).config  # noqa: B018
    commands = [("analyze", "--over", "overlap")]
    commands += [("train", "--config-path", "overlap", "--config-name", "config", *trust) for trust in ((), ("--trust",))]
    for words in commands if format in (NEWER, "abc") else ():
        ended = cli(*words)
        assert (ended.code, len(ended.lines)) == (2, 1) and message in ended.err, ended.err
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"overlap"}


def test_format_is_no_key_of_the_command_line(cli):
    ended = cli("train", f"format={formats.FORMAT}")
    assert (ended.code, len(ended.lines)) == (2, 1)


def said(summary: dict, status: str, *ways: str) -> None:
    """A summary has the keys that the schema says, in its order."""
    assert summary["status"] == status and summary["format"] == formats.FORMAT
    assert list(summary) == [key for key in schema.SUMMARY if schema.SUMMARY[key][0] in (schema.ALL, *ways)]
    assert {"rounds", "messages", "bytes", "wire_bytes", "comm_s"} <= set(summary["ledger"])


DIVERGED = schema.SUMMARY["diverged_at"][0]
NETWORKS = (schema.SUMMARY["data"][0], schema.SUMMARY["engine"][0])
LATE = ("schedule=multistep", "schedule.milestones=[200000000]")  # a note


def test_the_summary_of_a_run_that_came_to_its_end(cli, tmp_path):
    words = ("algo=pasgd", "model.hidden=[8]", "steps=4", "workers=2", "processes=1", "eval_every=0", "cluster=wan_100m", *LATE)
    assert cli("train", *words, "hydra.run.dir=r").code == 0
    summary = coopsgd.Run(tmp_path / "r").summary
    said(summary, "completed", schema.ENDED, schema.SIMULATED, *NETWORKS)
    frozen = yamls.keys(tmp_path / "r" / "config.yaml")  # every key, though yamls hold only what they change
    chosen = {"algo": "pasgd", "model": "mlp", "data": "digits", "optim": "sgd", "schedule": "multistep", "cluster": "wan_100m"}
    for group, name in {**chosen, "partition": "iid", "period": "constant", "task": "classification"}.items():
        keys = {option.key: option.value for option in catalogue.options(group, name)}
        keys = {key: value for key, value in keys.items() if key not in frozen} | {
            "model": {"hidden": [8]},
            "schedule": {"milestones": [200000000]},
        }.get(group, {})
        assert keys.items() <= frozen[group].items(), group
    assert len(summary["notes"]) == 2 and "schedule.milestones" in summary["notes"][1]


def test_the_summary_of_a_run_that_diverged(cli, tmp_path):
    words = ("task=quadratic", "optim.lr=1e6", "steps=60", "workers=2", "processes=1", "eval_every=5", "hydra.run.dir=r")
    assert cli("train", *words).code == 1
    said(coopsgd.Run(tmp_path / "r").summary, "diverged", schema.ENDED, DIVERGED)


@pytest.mark.parametrize("how", ["interrupted", "failed"])
def test_the_summary_of_a_run_that_did_not_come_to_its_end(started, tmp_path, how):  # noqa: F811
    command = started("train", *LONG, *LATE, "algo=pasgd", "workers=2", "processes=2", "hydra.run.dir=r")
    workers = command.at_work(2)
    if how == "interrupted":
        command.send(signal.SIGINT)
    else:
        import os

        os.kill(workers[1], signal.SIGKILL)
    assert command.ended().code == (130 if how == "interrupted" else 1)
    summary, last = command.summary(), coopsgd.Run(tmp_path / "r").metrics()[-1]
    said(summary, how)
    assert len(summary["notes"]) == 1 and "schedule.milestones" in summary["notes"][0]
    assert summary["steps"] == last["step"] > 0 and summary["ledger"]["bytes"] == last["bytes"] > 0
    assert summary["eval"]["eval/loss"] > 0 and summary["saved"] == "none"
    command.nothing_left()


SAID_TODAY = {
    "overlap": "algo=dpsgd delay=1 optim.momentum=0.9 task=quadratic optim.lr=0.02 tau=4 workers=4 steps=40 seed=3",
    "cta": "algo=easgd order=cta buffers=reset optim.momentum=0.9 task=quadratic optim.lr=0.02 tau=4 workers=4 steps=40 seed=3",
    "grouped": "algo=pasgd model=cnn model.width=8 cluster=wan_100m workers=2 steps=6 tau=3 optim.lr=0.05",
}


@pytest.mark.parametrize("name", SAID_TODAY)
def test_a_run_without_a_format_is_the_run_that_todays_words_say(name):
    assert identity(coopsgd.Run(OLD / name).config) == identity(settle(SAID_TODAY[name].split()))
