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
from conftest import HANG
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


def test_on_one_machine_the_line_needs_no_name():
    line = torchrun(settle((*FOUR, "machines=1", "processes=8")), Path("r"), "coopsgd.worker", elastic=True)
    assert "--nnodes 1 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint localhost:29400 " in line and "HOST" not in line


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


STANDS = {
    "coopsgd": """#!/bin/sh
echo "$@" >> {place}/frozen
[ ! -e {place}/wait ] || { touch {place}/waiting; sleep 2; }
[ ! -e {place}/refuse ] || exit 2
mkdir -p r && [ -e r/config.yaml ] || echo "processes: 4" > r/config.yaml
""",
    "srun": '#!/bin/sh\necho srun "$@" >> {place}/started\n',
    "scontrol": '#!/bin/sh\nif [ $1 = show ]; then echo n1; echo n2; else echo "$@" >> {place}/requeued; fi\n',
}


@pytest.fixture
def job(tmp_path):
    """The script in a job of two nodes, with stand-ins for all that it starts: process, and what they were asked."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in STANDS.items():
        (tools / name).write_text(text.replace("{place}", str(tmp_path)))
        (tools / name).chmod(0o755)
    slurm = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]"}

    def start(*words, **env):
        env = {"PATH": f"{tools}:/usr/bin:/bin", **slurm, **env}
        env = {name: value for name, value in env.items() if value is not None}
        with (tmp_path / "said").open("w") as said:
            return subprocess.Popen(["bash", SCRIPT, *words], cwd=tmp_path, env=env, stdout=said, stderr=said)

    def asked(name):
        found = (tmp_path / name).read_text().splitlines() if (tmp_path / name).exists() else []
        (tmp_path / name).unlink(missing_ok=True)
        return found

    return start, asked


def test_the_script_of_a_job_freezes_checks_and_starts(job, tmp_path):
    """A new folder is frozen; one that is there must be of these words, unless SLURM starts the job again or none are given."""
    start, asked = job
    srun = (
        "srun --ntasks-per-node 1 --cpu-bind none torchrun --nnodes 2 --nproc-per-node 2 --rdzv-backend c10d "
        "--rdzv-endpoint n1:29500 --rdzv-id 7 -m coopsgd.worker --trust r"
    )
    for words, env, freezes in (
        (("r", "tau=4"), {}, True),
        (("r", "tau=4"), {}, True),
        (("r", "tau=4"), {"SLURM_RESTART_COUNT": "1"}, False),
        (("r",), {}, False),
    ):
        assert start(*words, **env).wait(60) == 0
        line = "train tau=4 machines=2 launch=false resume=auto hydra.run.dir=r"
        assert (asked("frozen"), asked("started")) == ([line] if freezes else [], [srun])
    (tmp_path / "refuse").touch()
    assert start("r", "tau=5").wait(60) == 2 and asked("started") == []
    (tmp_path / "refuse").unlink()
    (tmp_path / "r" / "summary.json").write_text('{"status": "completed"}')
    assert start("r", "tau=4").wait(60) == 0 and asked("started") == []


@pytest.mark.parametrize(
    ("words", "env", "code", "line"),
    [
        (("r",), {"SLURM_NNODES": None}, 1, "SLURM_NNODES: is not set: this is the script of a job, started by sbatch"),
        ((), {}, 1, "the folder of the run, which all nodes see"),
        (("r", "tau=4"), {"SLURM_NNODES": "3"}, 2, "r: its processes=4 cannot be shared by 3 nodes evenly"),
        (("r", "tau=4"), {"SLURM_NNODES": "8"}, 2, "r: its processes=4 cannot be shared by 8 nodes evenly"),
    ],
)
def test_the_script_of_a_job_refuses_in_a_line(job, words, env, code, line):
    start, asked = job
    assert start(*words, **env).wait(60) == code
    (said,) = asked("said")
    assert line in said and asked("started") == []


def test_a_job_whose_time_is_over_before_it_has_begun_goes_back_into_the_queue(job, tmp_path):
    start, asked = job
    (tmp_path / "wait").touch()
    process, end = start("r", "tau=4"), time.monotonic() + 60
    while not (tmp_path / "waiting").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 0
    assert (asked("started"), asked("requeued")) == ([], ["requeue 7"])


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

    def job(**more):
        with (tmp_path / "job.txt").open("ab") as log:
            return subprocess.Popen(["bash", SCRIPT, folder, *LONG], cwd=tmp_path, env=env | more, stdout=log, stderr=log)

    def said():
        return (tmp_path / "job.txt").read_text()

    first = job()
    end = time.monotonic() + HANG
    while not (folder / "metrics.jsonl").exists() or (folder / "metrics.jsonl").read_bytes().count(b"\n") < 3:
        assert first.poll() is None and time.monotonic() < end, said()
        time.sleep(0.02)
    first.send_signal(signal.SIGUSR1)
    assert first.wait(HANG) == 0, said()
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    assert coopsgd.Run(folder).summary["status"] == "interrupted"
    second = job(SLURM_RESTART_COUNT="1")
    assert second.wait(HANG) == 0, said()
    run = coopsgd.Run(folder)
    assert run.summary["status"] == "completed" and run.summary["resumed"], said()
    assert "easgd tau=4: 4 workers in 2 processes" in said() and "completed after 4000 steps" in said()
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    assert cli("train", *LONG, "fleet=processes", "hydra.run.dir=one").code == 0
    np.testing.assert_array_equal(run.rows(), coopsgd.Run(tmp_path / "one").rows())
