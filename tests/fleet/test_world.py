"""Processes of a program that is not ours: they wait for each other in silence, and end as they should."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from coopsgd.fleet.world import Notices


def test_who_waits_says_nothing(monkeypatch, capfd):
    """torch writes two lines to stderr for each wait of its store that ends in vain, as one of every half second did."""
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    notices = Notices(0, 2, 60.0)
    began = time.monotonic()
    assert not notices._all_there("round 1") and time.monotonic() - began >= 0.5
    store.set(f"coopsgd/{notices.number}/round 1/1", "here")
    assert notices._all_there("round 1")
    said = capfd.readouterr()
    assert said.err == "" and said.out == ""


ENDS = """
import atexit, sys
import torch, torch.distributed as dist
atexit.register(lambda: print("a group is left:", dist.is_initialized()))  # runs after those that were registered later
if "own" in sys.argv:
    dist.init_process_group("gloo")
from coopsgd import Cooperation
model = torch.nn.Linear(2, 1)
Cooperation(model, torch.optim.SGD(model.parameters(), lr=0.1), "algo=pasgd")
"""


@pytest.mark.parametrize("whose", [pytest.param("own", marks=pytest.mark.slow), "ours"])
def test_a_group_that_was_made_here_is_ended_here(whose):
    """One that outlives the interpreter ended 2 of 11 programs by SIGABRT, when all was done, on a busy machine."""
    started = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    line = [sys.executable, "-c", ENDS, whose]
    done = subprocess.run(line, env={**os.environ, **started}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"a group is left: {whose == 'own'}\n", done.stdout + done.stderr
