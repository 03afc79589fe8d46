"""A folder's lock is kept by the workers of a command that was killed until they have ended; who comes meanwhile waits."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from running import linux

import coopsgd
from coopsgd.errors import ConfigError
from coopsgd.host import lock
from coopsgd.run.folders import in_use_by_us

pytestmark = linux
QUICK = ("task=quadratic", "steps=6", "log_every=3", "eval_every=0", "workers=2", "processes=1", "checkpoint_every=3")
# a command takes the lock and forks a worker, which has it too and ends when there is a file `tried`
HOLDER = """
import fcntl, os, sys, time
at = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(at, fcntl.LOCK_EX)
if os.fork() == 0:
    while not os.path.exists("tried"):
        time.sleep(0.01)
    open("worker ended", "w").close()
    os._exit(0)
open("held", "w").close()
time.sleep(1e6)
"""


@pytest.fixture
def held(tmp_path, monkeypatch):
    """held(folder): the command that holds the lock there."""
    monkeypatch.chdir(tmp_path)
    begun = []

    def hold(folder):
        begun.append(subprocess.Popen([sys.executable, "-c", HOLDER, folder]))
        while not Path("held").exists():
            time.sleep(0.01)
        return begun[-1]

    yield hold
    Path("tried").touch()
    for one in begun:
        one.kill()
        one.wait()


def telling() -> None:
    """Who finds the folder locked says so by a file `tried`."""
    import fcntl

    flock = fcntl.flock

    def told(file, how):
        try:
            flock(file, how)
        except BlockingIOError:
            Path("tried").touch()
            raise

    fcntl.flock = told


@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "a zombie"])
def test_who_comes_while_a_killed_command_ends_waits(cli, tmp_path, held, reaped):
    """The worker ends only when somebody has come to the locked folder: without waiting there is no way in."""
    assert cli("train", *QUICK, "hydra.run.dir=r").code == 0
    (tmp_path / "r" / "summary.json").unlink()
    command = held("r")
    command.send_signal(signal.SIGKILL)
    if reaped:
        command.wait()
    ended = cli("resume", "r", first=telling)
    assert ended.code == 0 and (tmp_path / "worker ended").exists(), ended
    assert coopsgd.Run(tmp_path / "r").summary["status"] == "completed"


def test_a_command_that_lives_is_not_waited_for(tmp_path, held, monkeypatch):
    (tmp_path / "r").mkdir()
    held("r")
    monkeypatch.setattr(lock.time, "sleep", None)  # who waits would call it
    with pytest.raises(ConfigError, match="r is in use by another coopsgd"), in_use_by_us(Path("r")):
        pass


@pytest.mark.parametrize("locks", ["", "no table", None], ids=["not named", "unreadable", "no such file"])
def test_a_lock_of_whom_nobody_can_tell(tmp_path, held, monkeypatch, locks):
    """Of another machine, or a system without the table: it is refused, sooner or later."""
    (tmp_path / "r").mkdir()
    held("r")
    monkeypatch.setattr(lock, "DYING", 0.1)
    (tmp_path / "locks").write_text(locks or "") if locks is not None else None
    monkeypatch.setattr(lock, "Path", partial(instead, tmp_path / "locks"))
    with pytest.raises(ConfigError, match="in use"), in_use_by_us(Path("r")):
        pass


def instead(table, name):
    return table if name == "/proc/locks" else Path(name)
