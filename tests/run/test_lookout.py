"""Under torchrun no command of ours watches the workers: they name who ends, who hangs, and the link that is dead."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import HANG, WARM, _command
from faults import faulty
from ownership import children
from running import LONG, linux, soon, until
from test_nodes import namespaces
from torch.distributed import TCPStore

from coopsgd.fleet import lookout
from coopsgd.fleet.waits import Waits

pytestmark = linux
FROZEN = ("workers=6", "launch=false", "hydra.run.dir=r", "device=cpu")


class Group:
    """Workers on the frozen run r, each started as torchrun starts it. kept: does rank 0 keep their store, not the agent?

    each: so many are as one machine, which may share a memory.
    """

    def __init__(self, tmp_path, many, kept=False, each=1):
        self.tmp_path = tmp_path
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.store = None if kept else TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
        env = {"WORLD_SIZE": str(many), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        env |= {"FAULT": str(tmp_path / "fault"), "TORCHELASTIC_USE_AGENT_STORE": str(not kept)}
        self.members = []
        for rank in range(many):
            at, own = str(tmp_path / f"rank{rank}"), {**env, "RANK": str(rank)}
            own |= {"LOCAL_WORLD_SIZE": str(each), "LOCAL_RANK": str(rank % each)}
            words = (("--trust", "r"), str(tmp_path), at, own, None, "coopsgd.worker")
            self.members.append(WARM.Process(target=_command, args=words))
            self.members[-1].start()

    def at_work(self):
        lines = self.tmp_path / "r" / "metrics.jsonl"
        until(lambda: lines.exists() and lines.read_bytes().count(b"\n") >= 2, "training")

    def ended(self, *ranks):
        """How these ended, and all that any of them has said."""
        for rank in ranks:
            self.members[rank].join(HANG)
        told = "".join(file.read_text() for end in ("out", "err") for file in sorted(self.tmp_path.glob(f"rank*.{end}")))
        return [self.members[rank].exitcode for rank in ranks], told


WHERE = r"(step \d+|the log line after step \d+)"


@pytest.mark.parametrize("stopped", [2, 0])
def test_a_stopped_worker_is_named(cli, tmp_path, stopped):
    """The first keeps the store by which the others would hear of it: they do not wait for that either."""
    assert cli("train", *LONG, *FROZEN, "processes=3", "timeout=4").code == 0
    group = Group(tmp_path, 3, kept=stopped == 0)
    group.at_work()
    pid = group.members[stopped].pid
    os.kill(pid, signal.SIGSTOP)
    codes, told = group.ended(*{0, 1, 2} - {stopped})
    assert codes == [1, 1] and "Traceback" not in told, told
    name = rf"worker process {stopped} \(pid {pid}\) is stopped, and did not come to the \w+ of {WHERE}, "
    assert re.search(name + r"where others waited 4 s \(timeout\), so the run was ended\n", told), told
    if stopped:
        assert told.count("did not come to") == 1, told
    assert group.ended(stopped)[0] == [1], "it was woken, and hears of the end"


@pytest.mark.parametrize(("how", "code"), [("stays", None), ("raises", 1), ("leaves", 0)])
def test_who_does_not_come_is_named(cli, tmp_path, how, code):
    assert cli(*faulty(tmp_path, how), *FROZEN, "processes=3", "timeout=3").code == 0
    group = Group(tmp_path, 3)
    until((tmp_path / "fault").exists, "the fault")
    if how != "stays":
        soon(lambda: not any(one.is_alive() for one in group.members), 5, "the end of all")
        assert group.members[2].exitcode == code
    codes, told = group.ended(0, 1)
    name = rf"worker process 2 \(pid {group.members[2].pid}\)"
    assert codes == [1, 1], told
    if how == "raises":
        assert told.count("Traceback") == told.count("RuntimeError: a bug of its author's") == 1, told
        assert "worker process 2 failed:" in told and "so the run was ended" not in told, told
    elif how == "leaves":
        assert len(re.findall(rf"{name} has ended, before the mean of step \d, so the run was ended", told)) == 1, told
    else:
        where = (
            r"did not come to the mean of step 4, where others waited 3 s \(timeout\); it hangs, or the network to it is down"
        )
        assert len(re.findall(rf"{name} {where}", told)) == 1 and "Traceback" not in told, told


def test_one_that_never_starts_is_named(cli, tmp_path):
    assert cli("train", *LONG, *FROZEN, "processes=2", "timeout=3").code == 0
    group = Group(tmp_path, 2)
    os.kill(group.members[1].pid, signal.SIGSTOP)
    codes, told = group.ended(0)
    assert codes == [1] and "Traceback" not in told, told
    assert "worker process 1 of 2 did not come to the start of the run, where others waited 3 s (timeout)" in told


@pytest.fixture
def torchrun(tmp_path):
    """torchrun(n, words of its own, before=): a real agent of n workers on the frozen run r."""
    agents = []

    def start(many, *more, before=()):
        line = [*before, sys.executable, "-m", "torch.distributed.run", *more, f"--nproc-per-node={many}"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.path.dirname(__file__) + "/.."}
        env |= {"FAULT": str(tmp_path / "fault")} | ({} if before else {"GLOO_SOCKET_IFNAME": "lo"})
        line += ["-m", "coopsgd.worker", "--trust", str(tmp_path / "r")]
        with (tmp_path / f"agent{len(agents)}").open("wb") as log:
            agents.append(subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True))
        return agents[-1]

    yield start
    for agent in agents:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(agent.pid, signal.SIGKILL)
        agent.wait()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["raises", "stopped"])
def test_torchrun_ends(torchrun, cli, tmp_path, how):
    words = ("train", *LONG) if how == "stopped" else faulty(tmp_path, how)
    assert cli(*words, *FROZEN, "processes=3", "timeout=4").code == 0
    agent = torchrun(3, "--standalone")
    if how == "stopped":
        lines = tmp_path / "r" / "metrics.jsonl"
        until(lambda: lines.exists() and lines.read_bytes().count(b"\n") >= 2, "training")
        os.kill(children(agent.pid)[1], signal.SIGSTOP)
        assert agent.wait(HANG) == 1
        told = (tmp_path / "agent0").read_text()
        assert "is stopped, and did not come to" in told and "forcefully exiting" not in told, told
    else:
        until((tmp_path / "fault").exists, "the fault")
        soon(lambda: agent.poll() is not None, 5, "its end")
        told = (tmp_path / "agent0").read_text()
        assert agent.returncode == 1 and told.count("RuntimeError: a bug of its author's") == 1, told


@pytest.mark.slow
def test_a_dead_link_is_named(torchrun, cli, tmp_path):
    """Two machines, one worker each: each side says what it can know."""
    assert cli("train", *LONG, *FROZEN, "processes=2", "timeout=5").code == 0
    with namespaces() as where:
        more = ["--nnodes=2", "--master-addr=10.77.0.1", "--master-port=29412"]
        agents = [torchrun(1, *more, f"--node-rank={n}", before=where[n]) for n in range(2)]
        lines = tmp_path / "r" / "metrics.jsonl"
        until(lambda: lines.exists() and lines.read_bytes().count(b"\n") >= 2, "training")
        name, end = where[0][3], where[0][-1].rpartition("=")[2]
        subprocess.run(["ip", "-n", name, "link", "set", end, "down"], check=True)
        codes = [agent.wait(HANG) for agent in agents]
    here, there = ((tmp_path / f"agent{n}").read_text() for n in range(2))
    assert codes == [1, 1], (here, there)
    assert re.search(
        rf"worker process 1 \(pid \d+\) did not come to the \w+ of {WHERE}, where others waited 5 s \(timeout\); it hangs, "
        "or the network to it is down, so the run was ended",
        here,
    ), here
    assert re.search(
        rf"worker process 1 waited 5 s \(timeout\) at the \w+ of {WHERE}, and torchrun, at 10.77.0.1:29412, over "
        "which others say what they wait for, does not answer; it hangs, or the network to it is down",
        there,
    ), there


def test_workers_that_are_started_again_are_not_taken_for_those_before(monkeypatch):
    """torchrun's own store outlives them: what was said before counts no more, and each time somebody tells what went wrong."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    coming: list[lookout.Member] = []
    monkeypatch.setattr(lookout.Member, "this", classmethod(lambda cls: coming.pop(0)))

    def attempt(first, falls):
        members = [lookout.Lookout(rank, 2, store, Waits(60), 60) for rank in range(2)]
        coming.extend(lookout.Member("host", "", first + rank) for rank in range(2))
        with ThreadPoolExecutor(2) as pool:
            meeting = [pool.submit(members[0].meet)]
            until(lambda: len(coming) == 1, "the first")
            meeting.append(pool.submit(members[1].meet))
            assert [one.result() for one in meeting] == [None, None]
        waiting = members[0]
        waiting._waits.begin("mix", "training", 4)
        if falls:
            members[1].leave(ValueError("a bug"))
        said = str(waiting.failure(time.monotonic(), RuntimeError("connection reset")))
        for one in members:
            one.close()
        return said

    assert attempt(10, falls=True) == ""  # who left tells it itself
    assert "lost the connection to another at the mix of step 5" in attempt(20, falls=False)
    assert "lost the connection" in attempt(30, falls=False)
    assert attempt(40, falls=True) == ""
