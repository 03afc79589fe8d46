"""However a command ends, it leaves no process, no shared memory and no temporary folder, and it ends soon."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from conftest import elsewhere
from faults import faulty
from running import LONG, NEVER, children, linux, started, until  # noqa: F401  a fixture

from coopsgd.errors import ConfigError


@linux
@pytest.mark.parametrize("sweep", [False, True])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_in_five_seconds(started, tmp_path, number, code, sweep):  # noqa: F811
    folder = "s/algo=easgd,seed=0" if sweep else "r"
    more = ("-m", "seed=0,1,2", "hydra.sweep.dir=s") if sweep else ("hydra.run.dir=r",)
    command = started("train", *LONG, "processes=4", *more)
    command.at_work(4, folder)
    # Ctrl-C reaches the whole foreground group, kill -TERM the command alone
    (command.send_all if number == signal.SIGINT else command.send)(number)
    ended = command.ended(within=5)
    assert ended.code == code, ended
    assert len(ended.lines) == 1 and "Traceback" not in ended.err, ended
    assert command.summary(folder)["status"] == "interrupted"
    assert (tmp_path / folder / "metrics.jsonl").read_text()
    assert len(list(tmp_path.rglob("config.yaml"))) == 1, "the sweep went on"
    command.nothing_left()
    assert os.listdir(tmp_path / folder / "logs") == []


@linux
def test_a_model_being_tried_out_does_not_outlive_the_command(started, tmp_path):  # noqa: F811
    source = f"import time\n\ndef net():\n    open('begun', 'w').close()\n    time.sleep({NEVER})\n"
    (tmp_path / "slow.py").write_text(source)
    command = started("train", "model=custom", "model.path=slow:net")
    until((tmp_path / "begun").exists)
    command.seen = children(command.pid)
    command.send(signal.SIGTERM)
    ended = command.ended()
    assert command.seen and ended.code == 143, ended
    command.nothing_left()


@linux
def test_kill_9_leaves_no_process(started):  # noqa: F811
    command = started("train", *LONG, "processes=4", "hydra.run.dir=r")
    command.at_work()
    command.send(signal.SIGKILL)
    assert command.ended().code == -signal.SIGKILL
    command.nothing_left()


@linux
def test_a_killed_worker_fails_the_run(started):  # noqa: F811
    command = started("train", *LONG, "processes=4", "hydra.run.dir=r")
    os.kill(command.at_work()[2], signal.SIGKILL)
    ended = command.ended()
    assert ended.code == 1
    assert "was killed by SIGKILL" in ended.err and "Traceback" not in ended.err, ended  # and not what a survivor said of it
    assert command.summary()["status"] == "failed"
    command.nothing_left()


def test_a_workers_exception_is_shown_once(cli, tmp_path):
    ended = cli(*faulty(tmp_path, "raises"), "processes=4")
    assert ended.code == 1
    (message,) = ended.lines
    assert "worker process 3 failed" in message and "faults.py:" in message and "a bug of its author's" in message
    assert "Traceback" in (tmp_path / "r" / "logs" / "rank3.err").read_text()


def a_bug_of_ours():
    """In the last process, without a line of a user's."""
    from coopsgd.loop.loop import Loop

    code = (
        "def finish(self):\n"
        "    if self.state.k == 3 and self.fleet.rank == 3:\n"
        "        FAULT.touch()\n"
        "        1 / 0\n"
        "    real(self)\n"
    )
    exec(code, made := {"FAULT": Path("fault"), "real": Loop.finish})
    Loop.finish = made["finish"]


@linux
@pytest.mark.parametrize("whose", ["user's", "ours"])
def test_one_that_fails_ends_the_run_at_once(started, tmp_path, whose):  # noqa: F811
    words = faulty(tmp_path, "raises") if whose == "user's" else ("train", *LONG, "hydra.run.dir=r")
    first = a_bug_of_ours if whose == "ours" else None
    command = started(*words, "processes=4", env={"FAULT": str(tmp_path / "fault")}, first=first)
    until((tmp_path / "fault").exists, "the fault")
    ended = command.ended(within=5)
    assert ended.code == 1 and ended.err.count("worker process 3 failed") == 1, ended
    shown = ended.err + (tmp_path / "r" / "logs" / "rank3.err").read_text() if whose == "user's" else ended.err
    assert shown.count("Traceback") == 1, "of a user's code it is in the log"
    command.nothing_left()


def test_divergence_ends_the_run_and_not_the_sweep(cli, tmp_path):
    words = ("task=quadratic", "task.curvature=[[1],[1]]", "workers=2", "steps=4000", "eval_every=0", "log_every=100")
    ended = cli("train", "-m", *words, "task.sigma=1", "optim.lr=9,0.1", "hydra.sweep.dir=s")
    assert ended.code == 1
    first, second = (json.loads((tmp_path / "s" / f"algo=easgd,optim.lr={lr}" / "summary.json").read_text()) for lr in (9, 0.1))
    assert first["status"] == "diverged" and second["status"] == "completed"
    assert first["steps"] % 100 == 0 and first["steps"] - 100 < first["diverged_at"] <= first["steps"]
    assert f"step {first['diverged_at']} " in ended.err and "optim.lr=9" in ended.err
    last = json.loads((tmp_path / "s" / "algo=easgd,optim.lr=9" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["train/loss"] is None


def test_signal_handlers_are_put_back(tmp_path):
    before, after = elsewhere(train_and_look, tmp_path)
    assert before == after


def train_and_look(folder):
    os.chdir(folder)

    torch.set_num_threads(1)

    def looked():
        return [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)]

    from coopsgd.commands.train import command

    before = looked()
    code = command.train(["task=quadratic", "steps=3"])
    return before, looked() if code == 0 else code


def files_are_gone():
    """What a worker reads was there when the command looked."""
    from coopsgd.run import worker

    words = "data.file: cannot read 'text.txt' (No such file or directory); name a text file"
    source = f"def parts(*arguments):\n    raise ConfigError({words!r})\n"  # without a file, so that it is no user's code
    exec(source, vars(worker) | {"ConfigError": ConfigError}, made := {})
    worker.Parts = made["parts"]


def test_a_mistake_that_only_a_worker_meets_is_one_line(cli):
    ended = cli("train", "task=quadratic", "steps=2", "processes=2", first=files_are_gone)
    assert ended.code == 1 and "Traceback" not in ended.err, ended
    assert ended.lines[-1] == "coopsgd: data.file: cannot read 'text.txt' (No such file or directory); name a text file"
