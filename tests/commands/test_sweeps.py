"""Sweeps by Hydra's own plugins, as they are: what fails is seen, and does not stop the others. Each has a job that fails."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import CI, HANG, Ended

from coopsgd.commands.train.launching import at_once
from coopsgd.setup import schema

QUICK = ("task=quadratic", "steps=6", "log_every=6", "eval_every=0", "save=none", "algo=pasgd", "workers=2", "processes=1")
LAUNCHERS = {
    "basic": (),
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=4"),
    "submitit": ("hydra/launcher=submitit_local",),
}


def needs_plugin(name: str) -> None:
    """Skip without a plugin of the extra `sweeps`, but not in CI."""
    there = {
        "basic": "hydra",
        "joblib": "hydra_plugins.hydra_joblib_launcher",
        "submitit": "hydra_plugins.hydra_submitit_launcher",
        "optuna": "hydra_plugins.hydra_optuna_sweeper",
    }
    try:
        found = find_spec(there[name]) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        assert not CI, f"{name} is missing, though the extra `dev` should have installed it"
        pytest.skip("pip install 'coopsgd[sweeps]'")


def whole(cwd: Path, *words: str) -> Ended:
    """The command in an interpreter of its own: joblib's processes are let go by what runs at an interpreter's end."""
    ended = subprocess.run([sys.executable, "-m", "coopsgd.cli", *words], cwd=cwd, capture_output=True, text=True, timeout=HANG)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def rows(out: str) -> list[tuple[str, str]]:
    """The table at the end: of each job what distinguishes it, and its status."""
    lines = out.splitlines()
    head = next(at for at, line in enumerate(lines) if line.split()[:2] == ["job", "status"])
    apart = lines[head].index("status")
    return [(line[:apart].strip(), line[apart:].partition("  ")[0]) for line in lines[head + 1 : -1]]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_tells_of_what_failed(cli, tmp_path, launcher):
    """One diverges, one is refused; another comes to its end, and its copy is not trained."""
    needs_plugin(launcher)
    cli = partial(whole, tmp_path) if launcher == "joblib" else cli
    ended = cli("train", "-m", *QUICK, *LAUNCHERS[launcher], "optim.lr=0.1,1e30,0.1,-1", "hydra.sweep.dir=s")
    assert ended.code == 1, ended
    found = rows(ended.out)
    assert [lr for lr, _ in found] == ["optim.lr=0.1", "optim.lr=1e+30", "optim.lr=0.1", "optim.lr=-1"]
    assert found[1][1] == "diverged" and found[3][1] == "refused"
    assert {found[0][1], found[2][1]} == {"completed", "not trained"}
    end = ended.err.index("2 of the sweep's jobs failed")
    for text in ("optim.lr: must be", "diverged: the loss of step"):
        assert text in ended.err[:end], "told as it happens"
        assert text in ended.err[end:], "and at the end"
    assert "Warning" not in ended.err and "Traceback" not in ended.err
    left = {path.name for path in (tmp_path / "s").iterdir()} - {".submitit"}
    assert left in [{"multirun.yaml", "optim.lr=1e+30", name} for name in ("optim.lr=0.1", "optim.lr=0.1,2")]
    if launcher != "basic":
        return  # it takes another import of torch for each job
    again = cli("resume", "s")
    assert again.code == 2, "the refused one is tried again; the one that diverged would diverge again"
    assert sorted(rows(again.out)) == sorted(found), again
    assert "pasgd tau=" not in again.out, "what had come to its end was trained again"


def test_cores_are_shared_by_what_runs_at_once(monkeypatch):
    monkeypatch.setattr(schema.os, "sched_getaffinity", lambda pid: set(range(8)))
    local = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"}
    assert [at_once({"n_jobs": n}, 5) for n in (1, 4, 16, -1, -5)] == [1, 4, 5, 5, 4]
    assert [at_once(local, 3), at_once({}, 3)] == [3, 1]
    assert [schema.place(4, 0, n) for n in (1, 4, 8, 100)] == [4, 4, 2, 1]
