"""Who can reach the processes of a run on one machine: nobody but that machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from ownership import children
from playing import QUADRATIC
from running import linux, started, until  # noqa: F401  # a fixture

pytestmark = linux
LISTENS = "0A"  # as /proc/net/tcp says it


def addresses(pids):
    """Where these processes listen."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    inodes.add(os.readlink(f"/proc/{pid}/fd/{number}"))
    found = set()
    for family, name in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == LISTENS and f"socket:[{words[9]}]" in inodes:
                raw = bytes.fromhex(words[1].partition(":")[0])
                whole = b"".join(struct.pack(">I", *struct.unpack("<I", raw[i : i + 4])) for i in range(0, len(raw), 4))
                found.add(socket.inet_ntop(family, whole))
    return found


def family_of(pid):
    """It and all that it has started, and they."""
    found = [pid]
    for one in found:
        found += children(one)
    return found


def test_a_socket_that_all_can_reach_is_seen():
    for address in ("127.0.0.1", "0.0.0.0"):
        with socket.create_server((address, 0)):
            assert address in addresses([os.getpid()])


def listening_of(started, *words):  # noqa: F811
    """Where a command and all that it starts listen, looked at again and again until it ends."""
    command, found = started(*words), set()
    until(lambda: found.update(addresses(family_of(command.pid))) or command.process.exitcode is not None, "the end")
    ended = command.ended()
    assert ended.code == 0, ended
    return found


@pytest.mark.parametrize("where", ["fleet=processes", "fleet=shared", "processes=1"])
def test_a_run_on_one_machine_listens_to_that_alone(started, tmp_path, where):  # noqa: F811
    words = (*QUADRATIC, "workers=4", "steps=100000000", "log_every=100", "hydra.run.dir=r")
    command = started("train", *words, *dict.fromkeys((where, "processes=2" if "fleet" in where else where)))
    until(lambda: (tmp_path / "r" / "metrics.jsonl").exists(), "training")
    found = addresses(family_of(command.pid))
    assert found <= {"127.0.0.1", "::1"} and bool(found) == (where == "fleet=processes"), found


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["probe", "verify", "sweep"])
def test_other_commands_that_start_processes_listen_to_their_machine_alone(cli, started, verb):  # noqa: F811
    words = (*QUADRATIC, "workers=4", "processes=2", "fleet=processes")
    if verb == "verify":
        assert cli("train", *words, "steps=4000", "hydra.run.dir=r").code == 0
    line = {
        "probe": ("probe", *words, "steps=60", "-o", "probe.json"),
        "verify": ("verify", "r"),
        "sweep": ("train", "-m", *words, "steps=4000", "seed=1,2"),
    }[verb]
    found = listening_of(started, *line)
    assert found and found <= {"127.0.0.1", "::1"}, found


def under_torchrun(cli, tmp_path, interface):
    """Two processes of a run of several machines, both here, that are to talk over this interface."""
    words = (*QUADRATIC, "workers=2", "processes=2", "steps=100000000", "log_every=100", "launch=false", "hydra.run.dir=r")
    assert cli("train", *words, f"interface={interface}").code == 0
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if name != "GLOO_SOCKET_IFNAME"}
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}")
    line = (sys.executable, *torchrun, "-m", "coopsgd.worker", str(tmp_path / "r"))
    return subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def interfaces():
    """The addresses of this machine's, by their names."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has none
                answer = fcntl.ioctl(asking, 0x8915, struct.pack("256s", name.encode()))  # SIOCGIFADDR
                found[name] = socket.inet_ntoa(answer[20:24])
    return found


@pytest.mark.parametrize("loopback", [True, False])
def test_what_several_machines_run_keeps_to_the_interface(cli, tmp_path, loopback):
    """Two cases: what gloo finds by itself is one of them."""
    name, address = next(((n, a) for n, a in interfaces().items() if (n == "lo") == loopback), (None, None))
    if name is None:
        pytest.skip("this machine has loopback alone")
    agent = under_torchrun(cli, tmp_path, name)
    until(lambda: (tmp_path / "r" / "metrics.jsonl").exists(), "training")
    workers = [pid for pid in family_of(agent.pid) if pid != agent.pid]  # the store of torchrun's own is open to all
    listening = addresses(workers)
    agent.terminate()
    agent.communicate(timeout=60)
    assert listening == {address}


def test_an_interface_that_a_machine_lacks_is_named_by_its_process(cli, tmp_path):
    agent = under_torchrun(cli, tmp_path, "ib7")
    out, _ = agent.communicate(timeout=120)
    assert "exitcode  : 2" in out, "a mistake of the user's"
    assert agent.returncode and "interface=ib7: the machine of worker process 0" in out and "it has lo" in out, out
    assert "RunFailed" not in out  # a line, and of tracebacks only the one of torchrun's own
