"""Who can reach the processes of a run on one machine: nobody but that machine."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
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


@pytest.mark.parametrize("fleet", ["processes", "shared"])
def test_a_run_on_one_machine_listens_to_that_alone(started, tmp_path, fleet):  # noqa: F811
    words = (*QUADRATIC, "workers=4", "processes=2", "steps=100000000", "log_every=100", f"fleet={fleet}", "hydra.run.dir=r")
    command = started("train", *words)
    until(lambda: (tmp_path / "r" / "metrics.jsonl").exists(), "training")
    found = addresses(family_of(command.pid))
    assert found <= {"127.0.0.1", "::1"} and bool(found) == (fleet == "processes"), found
