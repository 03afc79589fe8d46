"""When a run is saved, and what becomes of it when somebody asks it to end, or the disk does not take it."""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from running import LONG, endless_step, linux, slow_steps, started, until  # noqa: F401  a fixture
from safetensors.torch import load_file

import coopsgd
from coopsgd.errors import ConfigError
from coopsgd.run import checkpoints, keeper
from coopsgd.run.folders import steps_saved
from coopsgd.setup.values import seconds_of

SLOW = ("task=quadratic", "dtype=float64", "workers=4", "device=cpu", "log_every=50", "eval_every=100", "save=rows")
WORDS = (*SLOW, "algo=easgd", "tau=3", "optim.momentum=0.9", "task.dim=3000", "steps=400", "checkpoint_every=0")


@linux
@pytest.mark.parametrize(("name", "processes"), [("INT", 2), ("TERM", 1), ("HUP", 2)])
def test_the_first_signal_saves_the_run(started, cli, tmp_path, processes, name):  # noqa: F811
    assert cli("train", *WORDS, f"processes={processes}", "hydra.run.dir=whole").code == 0
    slowly = functools.partial(slow_steps, 0.01)
    command = started("train", *WORDS, f"processes={processes}", "hydra.run.dir=r", first=slowly)
    command.at_work(processes)
    (command.send_all if name == "INT" else command.send)(getattr(signal, f"SIG{name}"))
    ended = command.ended(within=5)
    assert ended.code == 128 + getattr(signal, f"SIG{name}")
    (step,) = steps_saved(tmp_path / "r")
    (line,) = ended.lines
    assert f" at step {step} of 400; coopsgd resume {tmp_path / 'r'} goes on from step {step}" in line
    assert command.summary()["status"] == "interrupted"
    command.nothing_left()
    assert cli("resume", "r").code == 0
    one, other = (coopsgd.Run(tmp_path / name) for name in ("whole", "r"))
    assert torch.equal(one.rows(), other.rows())
    assert [line["train/loss"] for line in one.metrics()] == [line["train/loss"] for line in other.metrics()]
    assert other.summary["resumed"] == [{"from": step, "again": 0}]


@linux
def test_a_signal_when_a_step_takes_long_is_acted_on_by_the_second(started, tmp_path):  # noqa: F811
    """The first one waits for the end of the step, a second one does not."""
    command = started("train", *LONG, "processes=2", "hydra.run.dir=r", first=endless_step)
    until((tmp_path / "slept").exists, "a long step")
    command.send(signal.SIGINT)
    time.sleep(0.5)
    assert command.process.is_alive()
    command.send(signal.SIGINT)
    assert command.ended(within=5).code == 130
    command.nothing_left()


@linux
@pytest.mark.parametrize("to", ["command", "worker"])
def test_sigusr1_saves_the_run_and_lets_it_go_on(started, tmp_path, to):  # noqa: F811
    command = started("train", *LONG, "checkpoint_every=0", "processes=2", "hydra.run.dir=r")
    workers = command.at_work(2)
    for _ in range(2):
        before = steps_saved(tmp_path / "r")
        os.kill(command.pid if to == "command" else workers[0], signal.SIGUSR1)
        until(lambda b=before: len(set(steps_saved(tmp_path / "r")) - set(b)) == 1, "a checkpoint")
    until(lambda: len(steps_saved(tmp_path / "r")) == 2, "both")
    command.send(signal.SIGTERM)
    assert command.ended().code == 143


# when


def fake(config, total=lambda message: message, free=10**12):
    """A keeper of a run that saves nothing, and the times at which it would have."""
    report = SimpleNamespace(note=lambda text: None, saved=dict)
    fleet = SimpleNamespace(rank=0, total=total)
    return keeper.Keeper(None, SimpleNamespace(**{"keep": 2, "steps": 10**9, **config}), fleet, report, lambda: None)


def saved_after(kept, seconds_a_step, steps, monkeypatch, cost=0.0):
    """The steps after which it saves, if each step and each save take so long."""
    now = [0.0]
    monkeypatch.setattr(keeper.time, "monotonic", lambda: now[0])
    kept._saved_at = kept._glanced_at = 0.0
    found = []

    def write(loop, evaluator, wanted=False):
        found.append(loop.state.k)
        began, now[0] = now[0], now[0] + cost
        kept._saved_at = now[0]
        if kept._auto:
            kept._interval = max(kept._interval, (now[0] - began) / keeper.SHARE)

    monkeypatch.setattr(kept, "save", write)
    state = SimpleNamespace(k=0, rounds=SimpleNamespace(ended=None))
    loop = SimpleNamespace(state=state, steps=SimpleNamespace(ahead=0))
    for k in range(1, steps + 1):
        now[0] += seconds_a_step
        loop.state.k = k
        kept.after(loop, None)
    return found


def test_every_so_many_steps(monkeypatch):
    assert saved_after(fake({"checkpoint_every": 7}), 0.001, 30, monkeypatch) == [7, 14, 21, 28]


def test_every_so_often(monkeypatch):
    found = saved_after(fake({"checkpoint_every": "10s"}), 0.01, 5000, monkeypatch)
    assert len(found) == 4 and all(abs(step - 1000 * (i + 1)) <= 250 for i, step in enumerate(found))


def test_by_itself_after_five_minutes(monkeypatch):
    assert saved_after(fake({"checkpoint_every": "auto"}), 1.0, 299, monkeypatch) == []
    found = saved_after(fake({"checkpoint_every": "auto"}), 1.0, 1000, monkeypatch)
    assert found == [300, 600, 900]


def test_by_itself_it_takes_a_hundredth_of_the_time(monkeypatch):
    found = saved_after(fake({"checkpoint_every": "auto"}), 1.0, 5000, monkeypatch, cost=10.0)
    assert found[:1] == [300] and all(b - a >= 990 for a, b in pairwise(found)), found


@pytest.mark.parametrize("value", ["-1", "1.5", "soon", "0s", "'10'", "[1]", "true", "-5min", "5m"])
def test_what_is_no_interval(cli, value):
    ended = cli(
        "train", "task=quadratic", f"checkpoint_every={value}" if value != "10" else "checkpoint_every='10'", "hydra.run.dir=r"
    )
    assert ended.code == 2 and len(ended.lines) == 1 and "checkpoint_every" in ended.err, ended


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("1.5min", 90), (" 2 h ", 7200), (".5s", 0.5)])
def test_times(text, seconds):
    assert seconds_of("key", text) == seconds
    with pytest.raises(ConfigError, match=r"^key: must be a time as in 30s"):
        seconds_of("key", text + "x")


# files


def test_parts_are_one_tensor(tmp_path):
    x = torch.randn(7, 5)
    parts = {
        "x": [x[:3], x[3:]],
        "constant": [torch.zeros(()).expand(2, 4)],
        "across": [x.t()],
        "one": [torch.tensor(3.5, dtype=torch.float64)],
        "flags": [torch.tensor([True, False])],
        "half": [torch.ones(3, dtype=torch.bfloat16)],
        "none": [torch.zeros(0, 3)],
        "count": [torch.arange(4)],
    }
    size, digest = checkpoints.write(tmp_path / "f.safetensors", parts)
    found = load_file(tmp_path / "f.safetensors")
    assert size == (tmp_path / "f.safetensors").stat().st_size and len(digest) == 64
    for name, tensors in parts.items():
        whole = torch.cat(tensors) if tensors[0].ndim else tensors[0]
        assert torch.equal(found[name], whole) and found[name].dtype == whole.dtype, name


def test_a_checkpoint_takes_no_second_copy_of_the_models(tmp_path):
    """Rows are written some at a time."""
    import resource

    x = torch.ones(4, 10_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    checkpoints.write(tmp_path / "f.safetensors", {"x": [x]})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 80_000  # kB, of 160 MB


def test_models_that_are_no_numbers_are_not_saved(cli, tmp_path):
    words = (
        "task=quadratic",
        "optim.lr=1e6",
        "steps=400",
        "log_every=400",
        "eval_every=0",
        "checkpoint_every=1",
        "processes=1",
    )
    ended = cli("train", *words, "hydra.run.dir=r")
    assert ended.code == 1 and "diverged" in ended.err, ended
    newest = steps_saved(tmp_path / "r")[0]
    manifest = json.loads((tmp_path / "r" / "checkpoints" / f"step-{newest}" / "manifest.json").read_text())
    assert manifest["step"] == newest < 399
    (file,) = (tmp_path / "r" / "checkpoints" / f"step-{newest}").glob("rows-*.safetensors")
    assert torch.isfinite(load_file(file)[".state.loop.x"]).all()


def test_a_run_in_use_is_not_resumed(started, cli):  # noqa: F811
    command = started("train", *LONG, "processes=1", "hydra.run.dir=r")
    command.at_work(1)
    ended = cli("resume", "r")
    assert ended.code == 2 and "r is in use by another coopsgd" in ended.err, ended
    assert command.process.is_alive()
    command.send(signal.SIGTERM)
    assert command.ended().code == 143
