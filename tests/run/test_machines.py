"""Several machines: `machines`, the lines to start on them, and the script of a SLURM job under stand-ins for its commands."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from playing import QUADRATIC, settle

import coopsgd
from coopsgd.commands import compose
from coopsgd.errors import ConfigError
from coopsgd.run.folders import torchrun
from coopsgd.setup.schema import place

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm.sbatch"
FOUR = (*QUADRATIC, "workers=8", "launch=false")
REFUSED = [
    (("workers=8", "machines=2"), "machines=2: .* add launch=false"),
    ((*FOUR, "machines=4", "processes=2"), "machines=4: must share processes=2 evenly; use processes=8"),
    ((*FOUR, "machines=3"), "machines=3: must share workers=8 evenly"),
    ((*FOUR, "machines=0"), "machines: must be a whole number of at least 1 or auto, got 0"),
    (("interface=eth1",), "interface=eth1: what one machine runs talks over loopback; add launch=false"),
    (
        (*FOUR, "interface='eth0,eth1'"),
        "interface: must be the name of one network interface, as in eth1, or auto, got 'eth0,eth1'",
    ),
]


@pytest.mark.parametrize(("words", "why"), REFUSED)
def test_machines_that_cannot_share_are_refused(words, why):
    with pytest.raises(ConfigError, match=why):
        settle(tuple(dict.fromkeys((*QUADRATIC, *words))))


def test_the_processes_of_several_machines(monkeypatch):
    from coopsgd.host import processors

    monkeypatch.setattr(processors, "cores", lambda: 2)
    assert [place(8, 0, machines=n) for n in (1, 2, 4, 8)] == [4, 8, 8, 8]
    assert place(64, 0, machines=2) == 8 and place(64, 8, machines=4) == 32


def test_each_line_starts_as_many_as_were_asked_for():
    from torch.distributed.run import get_args_parser

    config = settle((*FOUR, "machines=4", "processes=8"))
    lines = [line for line in torchrun(config, Path("r"), "coopsgd.worker", elastic=True).splitlines() if "torchrun --" in line]
    assert len(lines) == 3 and lines[1].startswith("srun --nodes 4 --ntasks-per-node 1 --cpu-bind none torchrun ")
    for line, nodes in zip(lines, ("4", "4", "1:4"), strict=True):
        words = shlex.split(line.replace("rank R", "rank 1").replace("port PORT", "port 1"))
        said = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
        assert (said.nnodes, said.nproc_per_node) == (nodes, "2") and said.training_script_args[-2:] == ["--trust", "r"]


def test_a_run_on_gpus_is_frozen_where_there_is_none(monkeypatch):
    """As on the machine that a cluster's jobs are sent from, which cannot know how many the others have."""
    monkeypatch.setattr(compose, "gpu_count", lambda: 0)
    config = compose.compose_config((*FOUR, "machines=2", "processes=8", "device=cuda")).config
    assert (config.device, config.processes) == ("cuda", 8)
    assert "--nnodes 2 --nproc-per-node 4" in torchrun(config, Path("r"), "coopsgd.worker")
    for words, why in (
        ((*FOUR, "machines=2"), "processes: auto is one a GPU, and torch sees none here; say how many"),
        ((*QUADRATIC, "processes=8"), "torch sees no GPU here; use device=cpu"),
        ((*FOUR, "processes=8", "fleet=shared"), "fleet: shared keeps models where the processors are, got device=cuda"),
    ):
        with pytest.raises(ConfigError, match=why):
            compose.compose_config((*words, "device=cuda"))


SRUN = """#!{python}
# stands for srun: every node is this machine; a signal goes to all tasks
import os, signal, subprocess, sys
line = sys.argv[sys.argv.index("torchrun"):]
start = [sys.executable, "-m", "torch.distributed.run", *line[1:]]
tasks = [subprocess.Popen(start) for _ in range(int(os.environ["SLURM_NNODES"]))]
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
sys.exit(max(abs(task.wait()) for task in tasks))
"""
SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> {place}/requeued; fi
"""
LONG = (
    *QUADRATIC,
    "workers=4",
    "processes=2",
    "algo=easgd",
    "tau=4",
    "steps=4000",
    "log_every=10",
    "eval_every=0",
    "checkpoint_every=0",
)


@pytest.mark.slow
def test_a_slurm_job_goes_back_into_the_queue_and_on(cli, tmp_path):
    """Two nodes by stand-ins of srun and scontrol. No SLURM was there."""
    tools = tmp_path / "tools"
    tools.mkdir()
    stands = {"srun": SRUN.format(python=sys.executable), "scontrol": SCONTROL.format(place=tmp_path)}
    for name, text in stands.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "PORT": str(port)}
    env |= {"SLURM_JOB_NODELIST": "here", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    folder = tmp_path / "r"

    def job():
        with (tmp_path / "job.txt").open("ab") as log:
            return subprocess.Popen(["bash", SCRIPT, folder, *LONG], cwd=tmp_path, env=env, stdout=log, stderr=log)

    def said():
        return (tmp_path / "job.txt").read_text()

    first = job()
    end = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() or (folder / "metrics.jsonl").read_bytes().count(b"\n") < 3:
        assert first.poll() is None and time.monotonic() < end, said()
        time.sleep(0.02)
    first.send_signal(signal.SIGUSR1)
    assert first.wait(120) == 0, said()
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    assert coopsgd.Run(folder).summary["status"] == "interrupted"
    second = job()
    assert second.wait(120) == 0, said()
    run = coopsgd.Run(folder)
    assert run.summary["status"] == "completed" and run.summary["resumed"], said()
    assert "easgd tau=4: 4 workers in 2 processes" in said() and "completed after 4000 steps" in said()
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    assert cli("train", *LONG, "fleet=processes", "hydra.run.dir=one").code == 0
    np.testing.assert_array_equal(run.rows(), coopsgd.Run(tmp_path / "one").rows())
