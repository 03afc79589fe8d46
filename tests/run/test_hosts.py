"""Runs of several machines, on emulated hosts: one by its name, one by another, with a switch between them (tests/hosts.py)."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import HANG
from hosts import Hosts, Process, hosts
from running import linux, slow_steps, until
from test_nodes import SLOW

import coopsgd
from coopsgd.run import checkpoints
from coopsgd.run.folders import rewrite_config

pytestmark = linux
WORDS = ("task=quadratic", "dtype=float64", "workers=4", "device=cpu", "log_every=1000", "eval_every=0", "checkpoint_every=0")


def printed(ended) -> list[str]:
    """The words behind `torchrun` of the first line that launch=false prints: the same on each machine."""
    lines = [line for line in ended.out.splitlines() if line.startswith("torchrun --")]
    words = shlex.split(lines[0].replace("HOST:", "h1:"))
    assert words[words.index("--rdzv-backend") + 1] == "c10d"
    return words[1:]


def trained(net: Hosts, n: int, line: list[str], at: list[Path] | None = None) -> list[Process]:
    """torchrun's agent on each host, all with the same line."""
    return [net.start(i, "torch.distributed.run", *line, at=None if at is None else at[i]) for i in range(n)]


def same_run(a: Path, b: Path) -> None:
    """Equal models and ledgers, but for what was moved."""
    one, other = coopsgd.Run(a), coopsgd.Run(b)
    np.testing.assert_allclose(one.rows(), other.rows(), rtol=0, atol=1e-12)
    ours, theirs = one.summary["ledger"], other.summary["ledger"]
    assert {name: ours[name] for name in ("rounds", "messages", "bytes")} == {
        name: theirs[name] for name in ("rounds", "messages", "bytes")
    }
    assert [line["step"] for line in one.metrics()] == [line["step"] for line in other.metrics()]


# The headers of packets are counted by the packet and left out (hosts.Sent). What is left beside the ledger's bytes: 28 vectors
# off the ledger, between two hosts (the start 1, eleven means of log lines and evaluations at 2, three single rows, the rows at
# the end 2), of 2000 and more that are on it: 1.4 % and less; 100 kB a host in which torchrun and gloo find each other; gloo's
# 40 bytes a message; what TCP had to send twice, and ARP.
COUNTED = {
    "a mean": ("algo=pasgd", "tau=1"),
    "a ring": ("algo=dpsgd", "tau=1"),
}
SHARED = ("fleet=shared", "processes=4")  # two workers a host


@pytest.mark.parametrize(
    ("n", "algo"),
    [
        (2, "a ring"),
        *(pytest.param(n, algo, marks=pytest.mark.slow) for n, algo in ((2, "a mean"), (4, "a mean"), (4, "a ring"))),
    ],
)
def test_several_hosts_are_one_run_and_send_what_is_said(cli, tmp_path, n, algo):
    """By the line that launch=false prints."""
    words = (*WORDS, *COUNTED[algo], "task.dim=10000", "steps=1000", f"processes={n}")
    assert cli("train", *words, "fleet=processes", "hydra.run.dir=one").code == 0
    line = printed(cli("train", *words, "launch=false", f"machines={n}", "hydra.run.dir=several"))
    with hosts(n, tmp_path) as net:
        agents = trained(net, n, line)
        ended = [agent.ended() for agent in agents]
        assert not any(one.code for one in ended), ended
        sent = [net.sent(i) for i in range(n)]
    same_run(tmp_path / "several", tmp_path / "one")
    ledger = coopsgd.Run(tmp_path / "several").summary["ledger"]
    payload = sum(one.payload for one in sent)
    assert ledger["wire_bytes"] <= payload < 1.03 * ledger["wire_bytes"], (sent, ledger)
    mean, most = ledger["wire_bytes_per_process_mean"], max(one.payload for one in sent)
    assert most < 1.06 * mean  # no host sends more than its share
    print(algo, n, payload / ledger["wire_bytes"], [one.bytes for one in sent])


SRUN = """#!/bin/bash
# stands for srun: starts the command on each host
while [ "$1" != torchrun ]; do shift; done
for pid in {pids}; do nsenter --net=/proc/$pid/ns/net --uts=/proc/$pid/ns/uts --mount=/proc/$pid/ns/mnt "$@" & done
code=0
for job in $(jobs -p); do wait $job || code=1; done
exit $code
"""


@pytest.mark.slow
@pytest.mark.parametrize("by", ["torchrun", "srun", "TORCH_"])
def test_the_lines_can_be_pasted_as_they_are_printed(cli, tmp_path, by):
    """Into a shell of each host, of which one is called HOST; that of a SLURM job once, under a stand-in for srun."""
    words = (*WORDS, "algo=dpsgd", "tau=2", "steps=40", "processes=4")
    assert cli("train", *words, "fleet=processes", "hydra.run.dir=one").code == 0
    odd = "my run's $HOME, a=b"
    ended = cli("train", *words, "launch=false", "machines=2", f"hydra.run.dir={odd}")
    (line,) = (line for line in ended.out.splitlines() if line.startswith(f"{by} " if by != "TORCH_" else by))
    tools = tmp_path / "tools"
    tools.mkdir()
    with hosts(2, tmp_path) as net:
        table = tmp_path / "etc-hosts"
        table.write_text(table.read_text().replace("1 h1", "1 h1 HOST"))
        pids = [str(host.pid) for host in net._held[:2]]
        for name, text in {"srun": SRUN.replace("{pids}", " ".join(pids)), "scontrol": "#!/bin/sh\necho h1; echo h2\n"}.items():
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        env = {**os.environ, "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        env = {name: value for name, value in env.items() if name != "GLOO_SOCKET_IFNAME"} | {"SLURM_JOB_ID": "7"}
        ns = [
            [f"--{kind}=/proc/{pid}/ns/{name}" for kind, name in (("net", "net"), ("uts", "uts"), ("mount", "mnt"))]
            for pid in pids
        ]
        shells = [["bash", "-c", line]] if by == "srun" else [["nsenter", *of, "bash", "-c", line] for of in ns]
        with (tmp_path / "said").open("w") as said:
            every = [subprocess.Popen(shell, env=env, cwd=tmp_path, stdout=said, stderr=said) for shell in shells]
            codes = [one.wait(HANG) for one in every]
    text = (tmp_path / "said").read_text()
    assert codes == [0] * len(shells) and "4 workers in 4 processes" in text and "completed after 40 steps" in text, text
    same_run(tmp_path / odd, tmp_path / "one")


LOST = (*WORDS, "algo=easgd", "tau=3", "steps=240", "log_every=20", "save=rows", "processes=2")


@pytest.fixture
def alone(cli, tmp_path):
    """The same run on one machine, whole."""
    assert cli("train", *LOST, "fleet=processes", "hydra.run.dir=alone").code == 0
    return tmp_path / "alone"


def saved(folder: Path) -> int:
    """The step of the newest checkpoint that is whole."""
    found = checkpoints.newest(folder, lambda line: None)
    return 0 if found is None else found.step


def test_a_host_that_is_lost_is_named_and_the_run_goes_on_from_its_checkpoint(cli, tmp_path, alone):
    """Both sides end after `timeout`, in a line each, and the next start goes on."""
    words = (*LOST, "checkpoint_every=20", "timeout=3", "launch=false", "machines=2", "hydra.run.dir=r")
    assert cli("train", *words).code == 0
    folder = tmp_path / "r"
    with hosts(2, tmp_path) as net:
        both = net.workers("--trust", str(folder), first=partial(slow_steps, 0.02))
        until(lambda: saved(folder) >= 40 or not both[0].running, "a checkpoint")
        net.cut(1)
        began = time.monotonic()
        ended = [one.ended() for one in both]
        assert time.monotonic() - began < 60
        assert [one.code for one in ended] == [1, 1], ended
        lines = [[line for line in one.lines if not line.startswith("[")] for one in ended]  # those are torch's own
        assert len(lines[0]) == len(lines[1]) == 1, lines
        told = "where others waited 3 s \\(timeout\\); it hangs, or the network to it is down, so the run was ended"
        assert re.fullmatch(rf"worker process 1 \(pid {both[1].pid} on h2\) did not come to .*, {told}", lines[0][0]), lines
        assert re.fullmatch(rf"worker process 0 \(pid {both[0].pid} on h1\) did not come to .*, {told}", lines[1][0]), lines
        net.mend(1)
        at = saved(folder)
        again = net.workers("--trust", str(folder))
        assert [one.ended().code for one in again] == [0, 0], [one.output() for one in again]
    run = coopsgd.Run(folder)
    assert run.summary["resumed"][0]["from"] == at >= 40
    np.testing.assert_array_equal(run.rows(), coopsgd.Run(alone).rows())
    same_run(folder, alone)


def read_only(folder: Path) -> None:
    """The folder, on the machine of this process."""
    for words in (("mount", "--bind", str(folder), str(folder)), ("mount", "-o", "remount,ro,bind", str(folder))):
        subprocess.run(words, check=True)


@pytest.mark.parametrize("host", [0, 1])
def test_a_folder_that_may_not_be_written(cli, tmp_path, host):
    """On the second machine: the first writes for it. On the first: a line, on both."""
    words = (*WORDS, "algo=easgd", "steps=40", "checkpoint_every=20", "processes=2", "launch=false", "machines=2")
    assert cli("train", *words, "hydra.run.dir=r").code == 0
    folder = tmp_path / "r"
    with hosts(2, tmp_path) as net:
        env = {"WORLD_SIZE": "2", "MASTER_ADDR": "h1", "MASTER_PORT": "29400"}
        first = [partial(read_only, folder) if i == host else None for i in range(2)]
        both = [net.start(i, "coopsgd.worker", "--trust", str(folder), first=first[i], RANK=str(i), **env) for i in range(2)]
        ended = [one.ended() for one in both]
    if host:
        assert [one.code for one in ended] == [0, 0], ended
        assert "the folder is not seen on h2, or may not be written there" in ended[0].out + ended[0].err
        assert saved(folder) == 40 and "no checkpoint" not in ended[0].out + ended[0].err
        return
    assert [one.code for one in ended] == [2, 2], ended
    for one in ended:
        lines = [line for line in one.lines if not line.startswith("[")]  # those are torch's own
        assert len(lines) == 1 and lines[0].startswith(f"{folder}: h1 may not write there"), ended


def test_an_interface_that_one_host_lacks_ends_both(cli, tmp_path):
    """The one that has it does not wait for the other until `timeout`."""
    words = (*WORDS, "algo=easgd", "steps=40", "processes=2", "launch=false", "machines=2", "interface=eth1")
    assert cli("train", *words, "hydra.run.dir=r").code == 0
    with hosts(2, tmp_path) as net:
        net._ip(0, "link add eth1 type veth peer name eth2", "link set eth1 up")
        began = time.monotonic()
        ended = [one.ended() for one in net.workers("--trust", str(tmp_path / "r"))]
        assert time.monotonic() - began < 120
    assert [one.code for one in ended] == [2, 2], ended
    for one in ended:
        assert "interface=eth1: the machine of worker process 1, h2, has no such network interface" in one.out + one.err, ended
        assert "Traceback" not in one.out + one.err


@pytest.mark.slow
@pytest.mark.parametrize("algo", COUNTED)
def test_two_hosts_with_a_memory_each_send_what_is_said(cli, tmp_path, algo):
    """Of two workers each: half of what processes would send for a mean, and what crosses hosts of a ring."""
    words = (*WORDS, *COUNTED[algo], "task.dim=10000", "steps=2000")
    assert cli("train", *words, "processes=2", "hydra.run.dir=one").code == 0
    line = printed(cli("train", *words, *SHARED, "launch=false", "machines=2", "hydra.run.dir=several"))
    with hosts(2, tmp_path) as net:
        agents = trained(net, 2, line)
        ended = [agent.ended() for agent in agents]
        assert not any(one.code for one in ended), ended
        payload = sum(net.sent(i).payload for i in range(2))
    same_run(tmp_path / "several", tmp_path / "one")
    wire = coopsgd.Run(tmp_path / "several").summary["ledger"]["wire_bytes"]
    assert wire == 2000 * 80_000 * (2 if algo == "a mean" else 4)
    assert wire <= payload < 1.03 * wire
    print(algo, payload / wire)


@pytest.mark.slow
def test_hosts_that_do_not_see_one_folder(cli, tmp_path):
    """The run lies on the second; rows of the first travel to it, and back when it goes on."""
    words = (*LOST, "checkpoint_every=120", "launch=false", "machines=2")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    line = printed(cli("train", *words, "steps=120", "hydra.run.dir=b/r"))
    line = [*line[:-1], "r"]
    assert cli("train", *LOST, "fleet=processes", "hydra.run.dir=one").code == 0
    with hosts(2, tmp_path) as net:
        for steps in (120, 240):
            if steps > 120:
                (tmp_path / "b" / "r" / "summary.json").unlink()
                rewrite_config(tmp_path / "b" / "r", {"steps": steps})
            agents = trained(net, 2, line, [tmp_path / "a", tmp_path / "b"])
            ended = [agent.ended() for agent in agents]
            assert not any(one.code for one in ended), ended
            said = "".join(one.out + one.err for one in ended)
            assert (
                "the folder is not seen on h1, or may not be written there: what is kept goes over the network to h2" in said
            ), said
    assert not list((tmp_path / "a").rglob("*"))
    assert coopsgd.Run(tmp_path / "b" / "r").summary["resumed"][0]["from"] == 120
    same_run(tmp_path / "b" / "r", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("host", [0, 1])
def test_a_cable_that_is_out_for_20_seconds_is_waited_for(cli, tmp_path, alone, host):
    """TCP sends again what was lost, and torchrun's agents find each other again."""
    line = printed(cli("train", *LOST, "launch=false", "machines=2", "hydra.run.dir=r"))
    folder, script = tmp_path / "r", tmp_path / "slow.py"
    script.write_text(SLOW)
    line = [*line[: line.index("-m")], str(script), str(folder)]
    with hosts(2, tmp_path) as net:
        agents = trained(net, 2, line)
        until(lambda: (folder / "metrics.jsonl").exists() or not agents[0].running, "training")
        net.cut(host)
        time.sleep(20)
        assert all(one.running for one in agents), [one.output() for one in agents]
        net.mend(host)
        began = time.monotonic()
        ended = [one.ended() for one in agents]
        assert not any(one.code for one in ended), ended
        print("ended after", time.monotonic() - began)
    np.testing.assert_array_equal(coopsgd.Run(folder).rows(), coopsgd.Run(alone).rows())
    same_run(folder, alone)
    assert "resumed" not in coopsgd.Run(folder).summary


@pytest.mark.slow
@pytest.mark.parametrize("host", [0, 1])
def test_agents_of_hosts_that_are_lost_end(cli, tmp_path, host):
    """torchrun's too, on both sides: one whose store was on the other would wait for that for ever, and is asked to end."""
    words = (*LOST, "steps=100000", "timeout=5", "launch=false", "machines=2", "hydra.run.dir=r")
    line = printed(cli("train", *words))
    with hosts(2, tmp_path) as net:
        agents = trained(net, 2, line)
        until(lambda: (tmp_path / "r" / "metrics.jsonl").exists() or not agents[0].running, "training")
        net.cut(host)
        began, took = time.monotonic(), [0.0, 0.0]
        while any(one.running for one in agents):
            assert time.monotonic() - began < 100, [one.output() for one in agents]
            took = [time.monotonic() - began if one.running else t for one, t in zip(agents, took, strict=True)]
            time.sleep(0.1)
        print("agents ended after", took)
        for one, other in ((0, 1), (1, 0)):
            said = agents[one].output()
            assert re.search(rf"worker process {other} \(pid \d+ on h{other + 1}\) did not come to|torchrun, at h1", said), said


@pytest.mark.slow
def test_hosts_that_are_slow_or_small_make_the_same_run(cli, tmp_path):
    """Four, one behind a slow cable, one with a slow processor, on unlike numbers of cores: the bits of one machine."""
    words = (*WORDS, "algo=dpsgd", "tau=2", "task.dim=20000", "steps=60", "processes=4")
    assert cli("train", *words, "fleet=processes", "hydra.run.dir=one").code == 0
    assert cli("train", *words, "launch=false", "machines=4", "hydra.run.dir=several").code == 0
    cores = sorted(os.sched_getaffinity(0))
    with hosts(4, tmp_path) as net:
        net.slow(2, "20mbit")
        first = [partial(os.sched_setaffinity, 0, cores[: 1 + i % len(cores)]) for i in range(4)]
        first[1] = partial(slow_steps, 0.05)
        every = [
            net.start(i, "coopsgd.worker", "--trust", "several", first=first[i], RANK=str(i), WORLD_SIZE="4", MASTER_ADDR="h1",
                      MASTER_PORT="29400")
            for i in range(4)
        ]  # fmt: skip
        assert not any(one.ended().code for one in every), [one.output() for one in every]
    np.testing.assert_array_equal(coopsgd.Run(tmp_path / "several").rows(), coopsgd.Run(tmp_path / "one").rows())
    same_run(tmp_path / "several", tmp_path / "one")


def slow_from(step: int, seconds: float) -> None:
    """From this step on each takes so long: a processor that somebody else uses, a disk that swaps."""
    from coopsgd.loop.loop import Loop

    advance = Loop.advance

    def slow(self: Loop) -> None:
        if self.state.k >= step:
            time.sleep(seconds)
        advance(self)

    Loop.advance = slow  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["dpsgd", "pasgd"])
def test_who_is_waited_for_is_the_one_whose_processor_is_slow(cli, tmp_path, algo):
    """Also by those that wait for one that itself waits for it, as in a ring of four, and by the slow one's own line."""
    words = (*WORDS, f"algo={algo}", "tau=1", "steps=4000", "processes=4", "timeout=3", "log_every=10")
    assert cli("train", *words, "launch=false", "machines=4", "hydra.run.dir=r").code == 0
    with hosts(4, tmp_path) as net:
        every = [
            net.start(i, "coopsgd.worker", "--trust", "r", first=partial(slow_from, 20, 15) if i == 2 else None, RANK=str(i),
                      WORLD_SIZE="4", MASTER_ADDR="h1", MASTER_PORT="29400")
            for i in range(4)
        ]  # fmt: skip
        ended = [one.ended() for one in every]
        assert all(one.code == 1 for one in ended), ended
        for i in (0, 1, 3):
            said = ended[i].out + ended[i].err
            named = re.findall(r"worker process (\d) \(pid \d+ on h(\d)\) did not come to", said)
            assert named == [("2", "3")], (i, said)
        assert not re.search(r"worker process \d .* did not come", ended[2].out + ended[2].err), ended[2]


@pytest.mark.slow
def test_nobody_is_named_where_a_cable_is_slow(cli, tmp_path):
    """All have come to the verb; what they wait for is the network, and the line says at what."""
    words = (*WORDS, "algo=pasgd", "tau=1", "task.dim=2000000", "steps=4000", "processes=2", "workers=2", "timeout=3")
    assert cli("train", *words, "launch=false", "machines=2", "hydra.run.dir=r").code == 0
    with hosts(2, tmp_path) as net:
        both = net.workers("--trust", "r")
        until(lambda: "processes" in both[0].output() or not both[0].running, "the start")
        net.slow(1, "2mbit")
        ended = [one.ended() for one in both]
        assert all(one.code == 1 for one in ended), ended
        for one in ended:
            assert re.search(r"workers waited 3 s \(timeout\) for each other at the \w+ of", one.out + one.err), ended
