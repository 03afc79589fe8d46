"""torchrun on machines that come and go: two network namespaces, an agent in each; one is killed and started again."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import HANG, needs
from running import linux, until

import coopsgd
from coopsgd.run import checkpoints
from coopsgd.run.folders import steps_saved

pytestmark = linux
WORDS = (
    *("task=quadratic", "dtype=float64", "workers=4", "algo=easgd", "tau=3", "optim.momentum=0.9", "device=cpu"),
    *("steps=1200", "log_every=20", "eval_every=100", "checkpoint_every=20", "save=rows"),
)
SLOW = """
import sys
import time
from coopsgd.loop.loop import Loop

advance = Loop.advance


def slow(self):
    time.sleep(0.05)
    advance(self)


Loop.advance = slow
from coopsgd.run.elsewhere import main
main()
"""


@contextlib.contextmanager
def namespaces() -> Iterator[list[list[str]]]:
    """Two, joined by a virtual cable: 10.77.0.1 and 10.77.0.2; words before a command that shall run in one of them."""
    needs(shutil.which("ip") is not None, "iproute2")
    names = [f"coopsgd-{os.getpid()}-{n}" for n in (1, 2)]
    ends = [f"cs{os.getpid() % 100000}v{n}" for n in (1, 2)]
    steps = [["netns", "add", name] for name in names]
    steps += [["link", "add", ends[0], "type", "veth", "peer", "name", ends[1]]]
    for n, (name, end) in enumerate(zip(names, ends, strict=True), 1):
        inside = ["-n", name]
        steps += [["link", "set", end, "netns", name], [*inside, "addr", "add", f"10.77.0.{n}/24", "dev", end]]
        steps += [[*inside, "link", "set", one, "up"] for one in (end, "lo")]
    try:
        for step in steps:
            done = subprocess.run(["ip", *step], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"network namespaces cannot be made here: {done.stderr.strip()}")
        device = "GLOO_SOCKET_IFNAME="  # what the name of this machine leads to lies in neither
        yield [["ip", "netns", "exec", name, "env", device + end] for name, end in zip(names, ends, strict=True)]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


class Agents:
    """torchrun's agents on one run folder, each in its namespace."""

    def __init__(self, folder: Path, where: list[list[str]], nodes: str, *more: str) -> None:
        self._folder, self._where, self._nodes, self._more = folder, where, nodes, more
        (folder.parent / "slow.py").write_text(SLOW)

    def start(self, n: int) -> subprocess.Popen[bytes]:
        line = [*self._where[n], sys.executable, "-m", "torch.distributed.run", f"--nnodes={self._nodes}", "--nproc-per-node=1"]
        line += ["--rdzv-backend=c10d", "--rdzv-id=r", "--rdzv-endpoint=10.77.0.1:29411", "--max-restarts=20", *self._more]
        line += [f"--rdzv-conf=is_host={n == 0},last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=10"]
        line += [f"--local-addr=10.77.0.{n + 1}", str(self._folder.parent / "slow.py"), str(self._folder)]
        # else the first agent keeps the address of the first round, and one that comes later never hears of it
        env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        with (self._folder.parent / f"agent{n}.txt").open("ab") as log:
            return subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True)

    def said(self, n: int) -> str:
        return (self._folder.parent / f"agent{n}.txt").read_text()


def saved_by(folder: Path) -> tuple[int, int]:
    """Of the newest checkpoint: the step, and how many processes wrote it."""
    found = checkpoints.newest(folder, lambda line: None)
    return (0, 0) if found is None else (found.step, found.processes)


@pytest.mark.slow
def test_a_node_leaves_and_comes_back(cli, tmp_path):
    assert cli("train", *WORDS, "processes=1", "hydra.run.dir=one").code == 0
    assert cli("train", *WORDS, "processes=2", "launch=false", "hydra.run.dir=r").code == 0
    folder = tmp_path / "r"
    with namespaces() as where:
        agents = Agents(folder, where, "1:2")
        first, second = agents.start(0), agents.start(1)
        try:
            until(lambda: saved_by(folder)[1] == 2 or first.poll() is not None, "a checkpoint of two nodes")
            assert first.poll() is None, agents.said(0)
            os.kill(second.pid, signal.SIGKILL)  # the agent, whose worker dies with it
            second.wait()
            until(lambda: saved_by(folder)[1] == 1 or first.poll() is not None, "the first to go on alone")
            assert first.poll() is None, agents.said(0)
            second = agents.start(1)
            assert first.wait(HANG) == 0, agents.said(0)
            assert second.wait(HANG) == 0, agents.said(1)
        finally:
            for agent in (first, second):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(agent.pid, signal.SIGKILL)
                agent.wait()
    run, one = coopsgd.Run(folder), coopsgd.Run(tmp_path / "one")
    assert run.summary["status"] == "completed" and len(run.summary["resumed"]) >= 2, run.summary["resumed"]
    assert run.summary["processes"] == 2, "the second has come back"
    np.testing.assert_allclose(run.rows(), one.rows(), rtol=0, atol=1e-12)
    assert [line["step"] for line in run.metrics()] == [line["step"] for line in one.metrics()]
    assert run.summary["ledger"]["bytes"] == one.summary["ledger"]["bytes"]
    print(run.summary["resumed"], run.summary["processes"])


SHORT = ("steps=120", *WORDS[-4:])


@pytest.fixture
def on_this_machine(cli, tmp_path):
    """Start an agent of two workers on a frozen run here; (its process, what it has said)."""
    assert cli("train", *WORDS[:-5], *SHORT, "processes=2", "launch=false", "hydra.run.dir=r").code == 0
    (tmp_path / "slow.py").write_text(SLOW)

    def start():
        line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        line += [str(tmp_path / "slow.py"), str(tmp_path / "r")]
        with (tmp_path / "agent.txt").open("wb") as log:
            return subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True)

    return start


def workers(agent: subprocess.Popen[bytes]) -> list[int]:
    from ownership import children

    return children(agent.pid)


@pytest.mark.slow
def test_signals_under_torchrun(on_this_machine, cli, tmp_path):
    """SIGUSR1 to a worker saves the run, SIGTERM to torchrun saves and ends it; started again it goes on."""
    folder = tmp_path / "r"
    rewrite = (folder / "config.yaml").read_text().replace("checkpoint_every: 20", "checkpoint_every: 0")
    (folder / "config.yaml").write_text(rewrite)
    agent = on_this_machine()
    until(lambda: (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").read_bytes().count(b"\n") >= 2, "training")
    assert not steps_saved(folder)
    os.kill(workers(agent)[-1], signal.SIGUSR1)
    saved = until(lambda: steps_saved(folder), "a checkpoint")[0]
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(HANG) != 0
    at = steps_saved(folder)[0]
    assert at > saved
    summary = coopsgd.Run(folder).summary
    assert summary["status"] == "interrupted" and summary["steps"] <= at
    said = (tmp_path / "agent.txt").read_text()
    assert re.search(rf"stopped at step {at}; torchrun on \S+ goes on from there", said), said
    again = on_this_machine()
    assert again.wait(HANG) == 0, (tmp_path / "agent.txt").read_text()
    run = coopsgd.Run(folder)
    assert run.summary["status"] == "completed" and run.summary["resumed"][-1]["from"] == at
    assert cli("train", *WORDS[:-5], *SHORT, "processes=2", "fleet=processes", "hydra.run.dir=one").code == 0
    assert (run.rows() == coopsgd.Run(tmp_path / "one").rows()).all()


def test_the_lines_that_are_printed_are_torchruns(cli, tmp_path):
    """One for machines that stay, one for machines that come and go; probe needs all of them."""
    from torch.distributed.run import get_args_parser

    for verb, many in (("train", 3), ("probe", 2)):
        ended = cli(verb, *WORDS, "processes=4", "launch=false", f"hydra.run.dir={verb}")
        assert ended.code == 0, ended
        lines = [
            shlex.split(line.replace("rank R", "rank 1").replace("port PORT", "port 1"))
            for line in ended.out.splitlines()
            if "torchrun --" in line
        ]
        assert len(lines) == many
        for line in lines:
            said = get_args_parser().parse_args(line[line.index("torchrun") + 1 :])
            assert said.training_script_args[-2:] == ["--trust", str(tmp_path / verb)], line
            assert said.nproc_per_node == "2" and said.module
        if many == 3:
            assert lines[-1][0] == "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"
            assert (said.nnodes, said.rdzv_backend, said.rdzv_id, said.max_restarts) == ("1:2", "c10d", "train", 9)
