"""The quota of a container counts in how many processes and threads are chosen: fake trees of /proc and cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coopsgd.host import processors
from coopsgd.setup import schema

V2 = "31 23 0:28 {within} {at} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "34 31 0:31 {within} {at} rw,relatime - cgroup cgroup rw,cpu,cpuacct"
OTHER = "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n22 1 8:1 / / rw - ext4 /dev/sda rw"


def tree(root: Path, ours: str, mounts: str, files: dict[str, str]) -> Path:
    """A machine as seen from a process: its groups, its mounts, and the limits of the groups."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(ours + "\n")
    (root / "proc" / "self" / "mountinfo").write_text(f"{mounts}\n{OTHER}\n")
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def two(within: str = "/", at: str = "/sys/fs/cgroup") -> str:
    return V2.format(within=within, at=at)


def one(within: str = "/", at: str = "/sys/fs/cgroup/cpu,cpuacct") -> str:
    return V1.format(within=within, at=at)


G, CPU = "sys/fs/cgroup", "sys/fs/cgroup/cpu,cpuacct"


def v1(quota: str, group: str = "", period: str = "100000") -> dict[str, str]:
    return {f"{CPU}{group}/cpu.cfs_quota_us": quota, f"{CPU}{group}/cpu.cfs_period_us": period}


TREES = {
    "version 2, a namespace of its own": ("0::/", two(), {f"{G}/cpu.max": "250000 100000"}, 2.5),
    "version 2, no limit": ("0::/", two(), {f"{G}/cpu.max": "max 100000"}, None),
    "version 2, the period left out": ("0::/", two(), {f"{G}/cpu.max": "300000"}, 3.0),
    "version 2, the machine's root has no cpu.max": ("0::/user.slice", two(), {}, None),
    "version 2, nested: the least of all above": (
        "0::/kube/pod/app",
        two(),
        {
            f"{G}/kube/cpu.max": "800000 100000",
            f"{G}/kube/pod/cpu.max": "150000 50000",
            f"{G}/kube/pod/app/cpu.max": "max 100000",
        },
        3.0,
    ),
    "version 2, a limit beside us is another's": ("0::/a", two(), {f"{G}/b/cpu.max": "100000 100000"}, None),
    "version 2, only our part is mounted": ("0::/docker/f00", two("/docker/f00"), {f"{G}/cpu.max": "400000 100000"}, 4.0),
    "version 2, our group lies outside the mount": ("0::/../x", two(), {f"{G}/cpu.max": "400000 100000"}, 4.0),
    "version 2, a place with a space": ("0::/", two("/", r"/my\040groups"), {"my groups/cpu.max": "200000 100000"}, 2.0),
    "version 1": ("4:cpu,cpuacct:/", one(), v1("200000"), 2.0),
    "version 1, no limit": ("4:cpu,cpuacct:/", one(), v1("-1"), None),
    "version 1, nested": (
        "4:cpu,cpuacct:/docker/f00\n3:memory:/elsewhere",
        one(),
        {**v1("600000", "/docker"), **v1("25000", "/docker/f00", "50000")},
        0.5,
    ),
    "both, of which version 1 has the processors": (
        "4:cpu,cpuacct:/docker/f00\n0::/docker/f00",
        f"{two('/', '/sys/fs/cgroup/unified')}\n{one('/docker/f00')}",
        v1("500000"),
        5.0,
    ),
    "what cannot be read limits nothing": ("0::/", two(), {f"{G}/cpu.max": "a lot"}, None),
    "no such group": ("", "", {}, None),
}


@pytest.mark.parametrize("name", TREES)
def test_the_quota_of_a_container(name, tmp_path):
    ours, mounts, files, expected = TREES[name]
    assert processors.quota(tree(tmp_path, ours, mounts, files)) == expected


def test_without_proc_there_is_no_quota(tmp_path):
    assert processors.quota(tmp_path) is None


@pytest.mark.parametrize(("limit", "may", "expected"), [("250000", 8, 2), ("800000", 4, 4), ("50000", 8, 1), ("max", 3, 3)])
def test_it_counts_in_processes_and_threads(limit, may, expected, tmp_path, monkeypatch):
    """The workers' processes are at most two a core; what is above that is stacked."""
    monkeypatch.setattr(processors, "ROOT", tree(tmp_path, "0::/", two(), {f"{G}/cpu.max": f"{limit} 100000"}))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(may)), raising=False)
    assert processors.cores() == expected
    assert schema.place(64, 0) == max(p for p in range(1, 2 * expected + 1) if 64 % p == 0)
