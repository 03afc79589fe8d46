"""However a command ends, it leaves no process, no shared memory and no temporary folder, and it ends soon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from coopsgd.errors import ConfigError
from coopsgd.strategies.base import Strategy

LONG = ("task=quadratic", "task.sigma=0", "steps=100000000", "log_every=1000", "eval_every=0", "tau=1")


def start(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    (tmp_path / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "coopsgd.cli", "train", *words],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def until(true, seconds: float = 60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = true()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def running(tmp_path: Path, process: subprocess.Popen[str], processes: int = 4) -> tuple[Path, list[int]]:
    """Wait until the workers are at work; their folder and pids."""

    def at_work() -> Path | None:
        assert process.poll() is None, process.communicate()
        for path in tmp_path.glob("*/*/*/**/metrics.jsonl"):
            if path.read_text().count("\n") >= 2 and not (path.parent / "summary.json").exists():
                return path.parent
        return None

    folder = until(at_work)
    return folder, until(lambda: len(children(process.pid)) == processes and children(process.pid))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def nothing_left(tmp_path: Path, pids: list[int], before: set[str]) -> None:
    until(lambda: not any(alive(pid) for pid in pids), 5)
    until(lambda: set(os.listdir("/dev/shm")) <= before, 5)  # other tests may come and go
    assert os.listdir(tmp_path / "tmp") == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("sweep", [False, True])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_in_five_seconds(tmp_path, number, code, sweep):
    before = set(os.listdir("/dev/shm"))
    process = start(tmp_path, *LONG, *(("-m", "seed=0,1,2") if sweep else ()))
    folder, pids = running(tmp_path, process)
    asked = time.monotonic()
    # Ctrl-C reaches the whole foreground group, kill -TERM the command alone
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - asked < 5
    assert process.returncode == code, (out, err)
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err, err
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    assert (folder / "metrics.jsonl").read_text()
    assert len(list(tmp_path.glob("*/*/*/**/config.yaml"))) == 1, "the sweep went on"
    nothing_left(tmp_path, pids, before)
    assert os.listdir(folder / "logs") == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_model_being_tried_out_does_not_outlive_the_command(tmp_path):
    (tmp_path / "slow.py").write_text("import time\n\ndef net():\n    open('begun', 'w').close()\n    time.sleep(60)\n")
    before = set(os.listdir("/dev/shm"))
    process = start(tmp_path, "model=custom", "model.path=slow:net")
    until(lambda: (tmp_path / "begun").exists())
    pids = children(process.pid)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert pids and process.returncode == 143, err
    nothing_left(tmp_path, pids, before)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_kill_9_leaves_no_process(tmp_path):
    before = set(os.listdir("/dev/shm"))
    process = start(tmp_path, *LONG)
    _, pids = running(tmp_path, process)
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()
    nothing_left(tmp_path, pids, before)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_worker_fails_the_run(tmp_path):
    before = set(os.listdir("/dev/shm"))
    process = start(tmp_path, *LONG)
    folder, pids = running(tmp_path, process)
    os.kill(pids[2], signal.SIGKILL)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "was killed by SIGKILL" in err and "Traceback" not in err, err  # and not what a survivor said of its connection
    assert json.loads((folder / "summary.json").read_text())["status"] == "failed"
    nothing_left(tmp_path, pids, before)


@dataclass(frozen=True)
class Broken(Strategy):
    """Fails on one process in the fourth step."""

    def step(self, fleet, tick, x, s):
        if tick.k == 3 and fleet.rank == fleet.layout.processes - 1:
            raise RuntimeError("a bug of its author's")
        fleet.mean(x)
        return tick.local(x), s


CONF = "strategy: test_ending:Broken\n"


def test_a_workers_exception_is_shown_once(cli, tmp_path):
    (tmp_path / "more" / "algo").mkdir(parents=True)
    (tmp_path / "more" / "algo" / "broken.yaml").write_text(CONF)
    words = ("algo=broken", "task=quadratic", "steps=9", "tau=3", "processes=4", "hydra.run.dir=run")
    ended = cli("train", "--config-dir", "more", *words)
    assert ended.code == 1
    (told,) = ended.lines
    assert "worker process 3 failed" in told and "test_ending.py:" in told and "a bug of its author's" in told
    assert "Traceback" in (tmp_path / "run" / "logs" / "rank3.err").read_text()


def test_divergence_ends_the_run_and_not_the_sweep(cli, tmp_path):
    words = ("task=quadratic", "task.curvature=[[1],[1]]", "workers=2", "steps=4000", "eval_every=0", "log_every=100")
    ended = cli("train", "-m", *words, "task.sigma=1", "optim.lr=9,0.1", "hydra.sweep.dir=s")
    assert ended.code == 1
    first, second = (json.loads((tmp_path / "s" / f"optim.lr={lr}" / "summary.json").read_text()) for lr in (9, 0.1))
    assert first["status"] == "diverged" and second["status"] == "completed"
    assert first["steps"] % 100 == 0 and first["steps"] - 100 < first["diverged_at"] <= first["steps"]
    assert f"step {first['diverged_at']} " in ended.err and "optim.lr=9" in ended.err
    last = json.loads((tmp_path / "s" / "optim.lr=9" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["train/loss"] is None


def test_signal_handlers_are_put_back(gangs, tmp_path):
    from conftest import WARM

    ours, theirs = WARM.Pipe()
    process = WARM.Process(target=_train_and_look, args=(theirs, str(tmp_path)))
    process.start()
    before, after = ours.recv()
    process.join()
    assert before == after


def _train_and_look(pipe, folder):
    os.chdir(folder)
    from coopsgd.commands import compose

    torch.set_num_threads(1)

    def looked():
        return [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)]

    before = looked()
    code = compose.train(["task=quadratic", "steps=3"])
    pipe.send((before, looked() if code == 0 else code))


def files_are_gone():
    """What a worker reads was there when the command looked."""
    from coopsgd.setup import schema

    words = "data.file: cannot read 'text.txt' (No such file or directory); name a text file"
    source = f"def load(*arguments):\n    raise ConfigError({words!r})\n"  # without a file, so that it is no user's code
    exec(source, vars(schema) | {"ConfigError": ConfigError}, made := {})
    schema.load = made["load"]


def test_a_mistake_that_only_a_worker_meets_is_one_line(cli):
    ended = cli("train", "task=quadratic", "steps=2", "processes=2", first=files_are_gone)
    assert ended.code == 1 and "Traceback" not in ended.err, ended
    assert ended.lines[-1] == "coopsgd: data.file: cannot read 'text.txt' (No such file or directory); name a text file"
