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


ALONE = """
import sys, torch, torch.distributed as dist
from coopsgd import Cooperation
rank, path = int(sys.argv[1]), sys.argv[2]
store = dist.TCPStore("127.0.0.1", 0 if rank == 0 else int(open(path).read()), None, rank == 0, wait_for_workers=False)
if rank == 0:
    import os
    open(path + "_", "w").write(str(store.port))
    os.rename(path + "_", path)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
model = torch.nn.Linear(2, 1)
coop = Cooperation(model, torch.optim.SGD(model.parameters(), lr=0.1), "algo=pasgd", "tau=1", timeout=2)
for k in range(2 if rank else 1):
    model.zero_grad()
    model(torch.ones(1, 2)).sum().backward()
    coop.step()
import os
os._exit(0)
"""


@pytest.mark.slow
def test_nobody_is_named_when_the_store_went_with_its_keeper(tmp_path):
    """Rank 0 ends first, and with it what it would have told; where the store outlives it, it is named (test_faults.py)."""
    path = tmp_path / "port"
    first = subprocess.Popen([sys.executable, "-c", ALONE, "0", str(path)])
    while not path.exists():
        assert first.poll() is None
        time.sleep(0.01)
    second = subprocess.run([sys.executable, "-c", ALONE, "1", str(path)], capture_output=True, text=True, timeout=60)
    assert first.wait(60) == 0
    assert "the process that kept the store of the group (rank 0, where no torchrun keeps it) has gone" in second.stderr
    assert "did not come" not in second.stderr
