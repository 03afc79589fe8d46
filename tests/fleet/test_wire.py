"""Bytes on the wire against the kernel's own count: runs in a network namespace where nothing else is sent."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HANG, needs

STEPS = (1, 5)  # what moves beside mixing (start, last evaluation, barriers) is in both, so the difference is mixing alone
WIDE = (
    "task=quadratic",
    "task.dim=50000",
    "workers=4",
    "processes=4",
    "fleet=processes",
    "tau=1",
    "eval_every=0",
    "save=none",
    "log_every=1000",
)

DRIVER = """
import json, os, subprocess, sys
from pathlib import Path

import coopsgd.commands.compose, coopsgd.run.worker  # once, and torch with it; each run below is a fork
from coopsgd.cli import main

def moved():
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    numbers, packets = map(int, line.split(":")[1].split()[8:10])  # transmitted
    return numbers - 66 * packets  # without the headers of Ethernet, IP and TCP, of which a busy machine sends more

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
found = []
for number, words in enumerate(json.loads(sys.argv[1])):
    before, child = moved(), os.fork()
    if not child:
        sys.argv = ["coopsgd", "train", *words, f"hydra.run.dir=run{number}"]
        main()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, words
    summary = json.loads(Path(f"run{number}/summary.json").read_text())
    found.append((moved() - before, summary["ledger"]["wire_bytes"]))
print("found", json.dumps(found))
"""


def isolated(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it in a network namespace of its own; skip where those are refused."""
    for tool, package in (("unshare", "util-linux"), ("ip", "iproute2")):
        needs(shutil.which(tool) is not None, package)
    for how in (["unshare", "--net"], ["unshare", "--net", "--map-root-user"]):
        tried = subprocess.run([*how, "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
        if tried.returncode == 0:
            return subprocess.run([*how, *command], cwd=folder, capture_output=True, text=True, timeout=HANG)
    pytest.skip(f"network namespaces are refused here: {tried.stderr.strip()}")


def counted(tmp_path, algos):
    """(by the kernel, by the ledger) bytes of what each of these sends in the steps between STEPS."""
    runs = [(*WIDE, *algo, f"steps={steps}") for algo in algos for steps in STEPS]
    ended = isolated([sys.executable, "-c", DRIVER, json.dumps(runs)], tmp_path)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(next(line for line in ended.stdout.splitlines() if line.startswith("found"))[6:])
    return [(many[0] - few[0], many[1] - few[1]) for few, many in zip(found[::2], found[1::2], strict=True)]


def test_the_kernel_counts_the_same_bytes(tmp_path):
    algos = [("algo=dpsgd", "topology=ring"), ("algo=pasgd",)]
    for algo, (kernel, ledger), vectors in zip(algos, counted(tmp_path, algos), (8, 6), strict=True):
        # a ring of 4: two neighbours each; an average over 4: 2 (4 - 1); 4 bytes a number
        assert ledger == (STEPS[1] - STEPS[0]) * vectors * 4 * 50_000
        assert kernel == pytest.approx(ledger, rel=0.02), algo


LONG = 1_600_000  # numbers, so that what else a run sends stays small beside a bit each


def test_packed_messages_are_that_small(tmp_path):
    long = (f"task.dim={LONG}", "algo=pasgd")
    signs, largest = counted(tmp_path, [(*long, "codec=sign"), (*long, "codec=topk", "codec.share=0.02")])
    times = (STEPS[1] - STEPS[0]) * 12  # each of 4 sends its message to three others
    assert signs[1] == times * (4 + LONG // 8)
    assert largest[1] == times * (4 * LONG // 50 + -(-21 * (LONG // 50) // 8))  # 2^20 < LONG < 2^21: a place takes 21 bits
    for kernel, ledger in (signs, largest):
        assert kernel == pytest.approx(ledger, rel=0.03)
