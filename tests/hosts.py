"""Emulated hosts: each with a network, a name and mounts of its own, all on one switch (Linux, root, iproute2).

A host is a process that holds three namespaces and waits for the end of its input. Nothing of it has a name in the file system:
when that process ends, as it does with the test or with pytest, the kernel takes namespaces, cables and switch away.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import HANG, WARM, Ended, _command, needs
from running import in_turn

NAMESPACES = {"net": 0x40000000, "uts": 0x04000000, "mnt": 0x00020000}  # the numbers of setns
# of each packet that leaves: Ethernet 14, IP 20, TCP 20 and its time stamps 12
HEADERS = 14 + 20 + 20 + 12
PORT = 29400


class Sent(NamedTuple):
    """By one interface since it was made."""

    bytes: int
    packets: int

    @property
    def payload(self) -> int:
        """What TCP carried: each packet is counted with its headers, and one without a payload is nothing but these."""
        return self.bytes - HEADERS * self.packets


class Hosts:
    """host 0, 1, ...: named h1, h2, ..., at 10.77.0.1, 10.77.0.2, ..., each with an interface eth0 and loopback."""

    def __init__(self, n: int, folder: Path) -> None:
        self._held: list[subprocess.Popen[bytes]] = []
        self._folder, self._count = folder, count()
        names = [f"h{i + 1}" for i in range(n)]
        table = folder / "etc-hosts"
        table.write_text("127.0.0.1 localhost\n" + "".join(f"{self.address(i)} {name}\n" for i, name in enumerate(names)))
        try:
            for name in (*names, "switch"):
                self._hold(f"hostname {name} && mount --bind {table} /etc/hosts")
            self._ip(n, "link add name switch type bridge", "link set switch up")
            for i, host in enumerate(self._held[:n]):
                self._ip(n, f"link add name port{i} type veth peer name eth0 netns {host.pid}")
                self._ip(n, f"link set port{i} master switch up")
                self._ip(i, f"addr add {self.address(i)}/24 dev eth0", "link set eth0 up", "link set lo up")
        except BaseException:
            self.close()
            raise

    def _hold(self, first: str) -> None:
        """A process with namespaces of its own, once it has them."""
        line = ["unshare", "--net", "--uts", "--mount", "sh", "-c", f"{first} && echo made && exec cat"]
        held = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._held.append(held)
        if held.stdout.readline() != b"made\n":
            pytest.skip(f"namespaces cannot be made here: {held.stderr.read().decode().strip()}")

    def close(self) -> None:
        """They end, and whatever runs in them has nobody to talk to."""
        for held in self._held:
            held.kill()
            held.communicate()

    @staticmethod
    def address(host: int) -> str:
        return f"10.77.0.{host + 1}"

    def _ip(self, host: int, *lines: str) -> str:
        """Of `ip LINE` there, or `tc LINE`, what each says."""
        said = ""
        for line in lines:
            words = line.split() if line.startswith("tc ") else ["ip", *line.split()]
            words = ["nsenter", f"--net=/proc/{self._held[host].pid}/ns/net", *words]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode and line.startswith("link add"):
                pytest.skip(f"networks cannot be emulated here: {line}: {done.stderr.strip()}")
            assert done.returncode == 0, (line, done.stderr)
            said += done.stdout
        return said

    # what happens to a host

    def cut(self, host: int) -> None:
        """Its cable is pulled out."""
        self._ip(len(self._held) - 1, f"link set port{host} down")

    def mend(self, host: int) -> None:
        """It is plugged in again."""
        self._ip(len(self._held) - 1, f"link set port{host} up")

    def slow(self, host: int, rate: str) -> None:
        """What it sends leaves no faster than so, as in 20mbit."""
        self._ip(host, f"tc qdisc add dev eth0 root tbf rate {rate} burst 64kb latency 400ms")

    def sent(self, host: int) -> Sent:
        """By eth0."""
        found = json.loads(self._ip(host, "-s -j link show eth0"))[0]["stats64"]["tx"]
        return Sent(found["bytes"], found["packets"])

    # what runs on a host

    def start(
        self, host: int, module: str, *words: str, at: Path | None = None, first: Callable[[], None] | None = None, **env: str
    ) -> Process:
        """`python -m module WORDS` there, in a fork of the warm server; its folder is `at`. first: called before."""
        said = self._folder / f".host{host}-{next(self._count)}"
        before = partial(in_turn, partial(enter, self._held[host].pid, str(at or self._folder)), first)
        return Process(words, at or self._folder, said, env, before, module)

    def workers(self, *words: str, **more: Any) -> list[Process]:
        """One on each host, of the run that `words` name, as torchrun would start them; the first keeps the store.

        more: for `start`.
        """
        n = len(self._held) - 1
        common = {"WORLD_SIZE": str(n), "MASTER_ADDR": "h1", "MASTER_PORT": str(PORT), **more}
        return [self.start(i, "coopsgd.worker", *words, RANK=str(i), **common) for i in range(n)]


def enter(pid: int, at: str) -> None:
    """This process goes to the host that `pid` holds, into the folder `at` there."""
    libc = ctypes.CDLL(None, use_errno=True)
    os.environ.pop("GLOO_SOCKET_IFNAME", None)  # what the name of this machine leads to is there no more
    files = {name: os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in NAMESPACES}
    for name, file in files.items():
        if libc.setns(file, NAMESPACES[name]):
            raise OSError(ctypes.get_errno(), f"setns {name}")
        os.close(file)
    os.chdir(at)


class Process:
    """One that was started on a host."""

    def __init__(
        self, words: Sequence[str], at: Path, said: Path, env: dict[str, str], first: Callable[[], None], module: str
    ) -> None:
        self._said = said
        env = {"OMP_NUM_THREADS": "1", **env}
        self._process: Any = WARM.Process(target=_command, args=(tuple(words), str(at), str(said), env, first, module))
        self._process.start()

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    @property
    def running(self) -> bool:
        return bool(self._process.exitcode is None)

    def output(self) -> str:
        """What it has said so far."""
        files = (Path(f"{self._said}.{end}") for end in ("out", "err"))
        return "".join(file.read_text() for file in files if file.exists())

    def kill(self) -> None:
        self._process.kill()

    def ended(self) -> Ended:
        """How it ended, once it has."""
        self._process.join(HANG)
        assert self._process.exitcode is not None, f"it does not end: {self.output()}"
        out, err = (Path(f"{self._said}.{end}").read_text() for end in ("out", "err"))
        return Ended(self._process.exitcode, out, err)


@contextlib.contextmanager
def hosts(n: int, folder: Path) -> Iterator[Hosts]:
    """So many; the test is skipped, with the reason, where there can be none."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("emulated hosts need Linux and root")
    needs(all(map(shutil.which, ("ip", "tc"))), "iproute2")
    needs(all(map(shutil.which, ("unshare", "nsenter"))), "util-linux")
    made = Hosts(n, folder)
    try:
        yield made
    finally:
        made.close()
