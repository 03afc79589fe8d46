"""What a run records of where it was computed: cheap, and never in the way of the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from playing import settle

from coopsgd.data.base import Images
from coopsgd.host import native
from coopsgd.run import provenance
from coopsgd.run.provenance import differences
from coopsgd.setup.parts import Parts

QUADRATIC = ("task=quadratic", "steps=2", "processes=1", "device=cpu")


@pytest.fixture(autouse=True)
def anew():
    """Nothing is remembered from another test."""
    for one in (provenance._git, provenance.packages_sha256):
        one.cache_clear()
    provenance._hashed = None


def git(folder, *words):
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "PATH": os.environ["PATH"]}
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *who, *words], cwd=folder, env=own, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder below the top of one, with a commit, which is where we are."""
    git(tmp_path, "init", "-q")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_text("a")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.chdir(tmp_path / "below")
    return tmp_path


def test_the_commit_of_the_working_directory(repository):
    commit = git(repository, "rev-parse", "HEAD")
    (repository / "untracked").write_text("as outputs are")
    assert provenance.git() == {"commit": commit, "dirty": False}
    (repository / "below" / "file").write_text("b")
    assert provenance.git() == {"commit": commit, "dirty": False}, "as it was when the command began"
    provenance._git.cache_clear()
    assert provenance.git() == {"commit": commit, "dirty": True}
    assert not (repository / ".git" / "index.lock").exists()


@pytest.mark.parametrize("how", ["loose", "packed", "detached", "a worktree", "broken"])
def test_without_git_files_are_read_and_nothing_is_started(repository, how, monkeypatch):
    commit, at = git(repository, "rev-parse", "HEAD"), repository / "below"
    if how == "packed":
        git(repository, "pack-refs", "--all")
        assert not (repository / ".git" / "refs" / "heads" / "main").exists()
    elif how == "detached":
        git(repository, "checkout", "-q", "--detach")
    elif how == "a worktree":
        git(repository, "worktree", "add", "-q", "../tree")
        at = repository.parent / "tree" / "below"
    elif how == "broken":
        (repository / ".git" / "HEAD").write_bytes(b"\xff\xfe")
    monkeypatch.chdir(at)
    monkeypatch.setenv("PATH", str(repository / "no programs"))
    monkeypatch.setattr(subprocess, "Popen", None)  # calling it would fail
    assert provenance.git() == {"commit": None if how == "broken" else commit, "dirty": None}


def test_no_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert provenance.git() is None


@pytest.mark.parametrize("does", ["sleep 60", "exit 128", "printf '\\377\\n'", "kill -9 $$"])
def test_a_git_that_does_not_answer(repository, does, monkeypatch, tmp_path):
    program = tmp_path / "programs" / "git"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec 2>/dev/null\n{'exec ' if 'sleep' in does else ''}{does}\n")
    program.chmod(0o755)
    commit = git(repository, "rev-parse", "HEAD")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "PATIENCE", 0.2)
    began = time.monotonic()
    found = provenance.git()
    assert found in ({"commit": commit, "dirty": None}, {"commit": None, "dirty": True}) and time.monotonic() - began < 30


# data


def hash_of(*words):
    return provenance.data_sha256(Parts(settle(words)))


def test_the_data_are_known_by_what_they_hold(monkeypatch):
    digits = hash_of("data=digits", "device=cpu")
    assert len(digits) == 64 and hash_of("data=digits", "device=cpu", "algo=easgd", "partition=shards") == digits
    small = ("data=gaussian", "device=cpu", "data.samples=300")
    assert hash_of(*small) == hash_of(*small) != hash_of(*small, "seed=1")
    assert hash_of(*QUADRATIC) is None


def test_a_hash_is_made_once(monkeypatch):
    made = []
    monkeypatch.setattr(provenance, "_hash", lambda content: made.append(content) or "x" * 64)
    for words in (("data=digits",), ("data=digits", "seed=3"), ("data=digits", "tau=7")):
        hash_of(*words, "device=cpu")
    assert len(made) == 1


@dataclass
class Task:
    images: Images

    def learns_from(self, config):
        return self.images


@dataclass
class FakeParts:
    task: Task
    config: None = None


def images(**changed):
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 255, (40, 3), dtype=np.uint8), draw.integers(0, 5, 40)
    whole = {"train_x": x[:30], "train_y": y[:30], "test_x": x[30:], "test_y": y[30:], "mean": (1.0,), "std": (2.0,)}
    return FakeParts(Task(Images(**{**whole, **changed(whole)} if callable(changed) else {**whole, **changed})))


def test_every_number_counts():
    plain = images().task.images
    hashes = [provenance.data_sha256(images())]
    for name in ("train_x", "train_y", "test_x", "test_y"):
        other = getattr(plain, name).copy()
        other[-1] += 1
        hashes.append(provenance.data_sha256(images(**{name: other})))
    hashes += [provenance.data_sha256(images(mean=(1.5,))), provenance.data_sha256(images(pad=4))]
    assert len(set(hashes)) == len(hashes) and provenance.data_sha256(images()) == hashes[0]


def test_of_very_large_data_blocks_are_hashed(monkeypatch):
    monkeypatch.setattr(provenance, "LARGEST", 40)
    monkeypatch.setattr(provenance, "BLOCK", 8)
    assert provenance.data_sha256(images()).endswith(f" of every {-(-(40 * 3 + 40 * 8 + 8 * 3 + 0) // 40)}th MiB")


def test_data_that_cannot_be_read_do_not_matter():
    class Odd:
        def learns_from(self, config):
            raise RuntimeError("gone")

    assert provenance.data_sha256(FakeParts(Odd())) is None


# packages, and all of it


def test_packages_are_known_by_their_versions(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "gone")])
    found = []
    for name in ("torch-1.0.dist-info", "torch-1.1.dist-info", "other.py"):
        (tmp_path / name).mkdir()
        provenance.packages_sha256.cache_clear()
        found.append(provenance.packages_sha256())
    assert found[0] != found[1] == found[2]


def test_what_a_run_and_its_checkpoints_record(cli, tmp_path):
    git(tmp_path, "init", "-q")
    words = ("data=digits", "device=cpu", "steps=4", "checkpoint_every=2", "processes=2", "threads=1", "algo=pasgd", "tau=2")
    assert cli("train", *words, "hydra.run.dir=r").code == 0
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    manifest = json.loads((tmp_path / "r" / "checkpoints" / "step-4" / "manifest.json").read_text())
    assert manifest["environment"] == summary["environment"] and manifest["versions"] == summary["versions"]
    found = summary["environment"]
    assert (
        found["threads"] == 1
        and found["native"] == native.in_use()
        and found["cpu_capability"]
        and found["git"] == {"commit": None, "dirty": False}
    )
    assert found["data_sha256"] == hash_of("data=digits", "device=cpu") and len(found["packages_sha256"]) == 64
    assert set(summary["versions"]) == {"coopsgd", "torch", "numpy", "python"}
    assert manifest["settings"]["processes"] == 2 and manifest["settings"]["steps"] == 4


def failing():
    """Workers that fail."""
    from coopsgd.loop.loop import Loop

    def advance(self):
        raise RuntimeError("no such luck")

    Loop.advance = advance


def test_a_run_that_failed_records_it_too(cli, tmp_path):
    assert cli("train", *QUADRATIC, "hydra.run.dir=r", first=failing).code == 1
    found = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert found["status"] == "failed" and found["environment"]["packages_sha256"]


def test_going_on_with_other_data_is_told(cli, tmp_path):
    words = ("data=gaussian", "device=cpu", "steps=9", "checkpoint_every=4", "processes=1", "save=none")
    assert cli("train", *words, "hydra.run.dir=r").code == 0
    (tmp_path / "r" / "summary.json").unlink()
    file = tmp_path / "r" / "checkpoints" / "step-9" / "manifest.json"
    found = json.loads(file.read_text())
    found["environment"] |= {"data_sha256": "0" * 64, "packages_sha256": "1" * 64}
    file.write_text(json.dumps(found))
    ended = cli("resume", "r")
    assert ended.code == 0 and "the bits may be others than without a stop: data_sha256: 0000000000000000 then, " in ended.out
    assert "packages" not in ended.out, "which changes for a hundred harmless reasons"


def test_differences():
    one = {"versions": {"torch": "1", "numpy": "2"}, "environment": {"threads": 1, "git": None, "gpu": "a"}}
    assert differences(one, one) == {} == differences({}, one) == differences(one, {})
    other = {"versions": {"torch": "3"}, "environment": {"threads": 2, "git": {"commit": "c" * 40, "dirty": True}}}
    assert differences(one, other) == {"torch": "torch: 1 then, 3 now", "threads": "threads: 1 then, 2 now"}
    third = {"environment": {"git": {"commit": "d" * 40, "dirty": False}}}
    said = differences(third, other)["git"]
    assert said == f"git: {'d' * 12} then, {'c' * 12} with changes that are not committed now"


def test_it_takes_no_time():
    """Milliseconds of processor time, without what a process before has loaded."""
    code = (
        "import time\nfrom coopsgd.run import provenance\n"
        "began = time.process_time()\nprovenance.git(), provenance.packages_sha256(), provenance.processor()\n"
        "provenance.versions()\nprint(time.process_time() - began)"
    )
    took = [
        float(subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=True).stdout)
        for _ in range(2)
    ]
    assert min(took) < 0.1
