"""What a test starts dies with it, however it ends: shown by a pytest in a pytest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import HANG, OWNER
from running import linux, until

TESTS = '''
import functools, json, os, subprocess, sys, time
from pathlib import Path
from conftest import WARM
from running import LONG, alive, slow_steps

NEEDED = ["coopsgd.commands.train.command", "coopsgd.run.launch", "conftest", "running"]
WARM.set_forkserver_preload(NEEDED)

DAEMON = """
import os, sys, time
for _ in range(2):
    if os.fork():
        os._exit(0)
    os.setsid()
open("daemon", "w").write(f"{os.getpid()}\\\\n")
time.sleep(1e9)
"""

def start(started, tmp_path):
    """An endless run in 4 processes, a daemon with a session of its own, a fork of pytest, and the command."""
    slowly = functools.partial(slow_steps, 0.003)
    command = started("train", *LONG, "processes=4", "hydra.run.dir=r", first=slowly)
    workers = command.at_work()
    subprocess.run([sys.executable, "-S", "-c", DAEMON], cwd=tmp_path, check=True)
    while not ((tmp_path / "daemon").exists() and (tmp_path / "daemon").read_text().endswith("\\n")):
        time.sleep(0.01)
    fork = os.fork()
    if not fork:
        time.sleep(1e9)
    pids = [command.pid, *workers, int((tmp_path / "daemon").read_text()), fork]
    assert all(map(alive, pids)) and len(set(pids)) == 7
    return pids

SEEN = Path(__file__).parent / "seen.json"

def test_1_fails(started, tmp_path):
    SEEN.write_text(json.dumps(start(started, tmp_path)))
    assert False, "as it should"

def test_2_nothing_of_it_is_left_and_again(started, tmp_path):
    pids = json.loads(SEEN.read_text())
    assert not any(map(alive, pids)), pids
    pids = start(started, tmp_path)
    (SEEN.parent / "part").write_text(json.dumps([os.getpid(), *pids]))
    (SEEN.parent / "part").rename(SEEN.parent / "ready.json")
    time.sleep(1e9)
'''


@linux
@pytest.mark.parametrize(("how", "number"), [((), signal.SIGKILL), ((), signal.SIGINT), (("-n1",), signal.SIGKILL)])
def test_nothing_outlives_a_test_that_fails_nor_a_pytest_that_is_killed(tmp_path, how, number):
    (tmp_path / "test_within.py").write_text(TESTS)
    words = ["-q", "-p", "conftest", "-p", "running", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "temp"), *how]
    more = ["--max-worker-restart=0"] if how else []
    with (tmp_path / "said").open("w") as said:
        within = subprocess.Popen(
            [sys.executable, "-m", "pytest", *words, *more, "test_within.py"], cwd=tmp_path, stdout=said, stderr=said
        )
    ready = tmp_path / "ready.json"
    until(lambda: ready.exists() or within.poll() is not None, "the tests within")
    assert ready.exists(), (tmp_path / "said").read_text()
    pytest_, *pids = json.loads(ready.read_text())
    assert (pytest_ == within.pid) == (not how)
    assert set(pids) <= set(OWNER.left())
    os.kill(pytest_, number)
    code = within.wait(HANG)
    assert code == {signal.SIGKILL: 1 if how else -signal.SIGKILL, signal.SIGINT: 2}[number]
    until(lambda: not OWNER.left(), "the end of all that they started")
    if number == signal.SIGINT:
        assert "1 failed" in (tmp_path / "said").read_text()  # the first test, and not the second for what the first had left
