"""Sweeps by Hydra's own plugins, as they are: what fails is seen, and does not stop the others. Each has a job that fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

import pytest
import yaml
from conftest import CI, HANG, Ended, elsewhere
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from playing import settle

import coopsgd
from coopsgd.commands.train import command
from coopsgd.commands.train.launching import Launching, at_once
from coopsgd.commands.train.session import Session
from coopsgd.errors import ConfigError, Interrupted
from coopsgd.host import processors
from coopsgd.host.sizes import human_bytes
from coopsgd.run.jobs import DONE, Job
from coopsgd.run.objective import objective
from coopsgd.setup import schema
from coopsgd.setup.messages import one_line
from coopsgd.setup.objective import against, directions
from coopsgd.setup.parts import Parts

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
    table = takewhile(lambda line: not line.startswith("/"), lines[head + 1 :])
    return [(line[:apart].strip(), line[apart:].partition("  ")[0]) for line in table]


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
    assert found[0][1] == found[2][1] == "completed"  # the copy has the other's numbers
    end = ended.err.index("2 of the sweep's jobs failed")
    for text in ("optim.lr: must be", "diverged: "):
        assert text in ended.err[:end], "told as it happens"
        assert text in ended.err[end:], "and at the end"
    assert "Warning" not in ended.err and "Traceback" not in ended.err
    left = {path.name for path in (tmp_path / "s").iterdir()} - {".submitit"}
    assert left in [
        {"multirun.yaml", "algo=pasgd,optim.lr=1e+30", f"algo=pasgd,{name}"} for name in ("optim.lr=0.1", "optim.lr=0.1,2")
    ]
    if launcher != "basic":
        return  # it takes another import of torch for each job
    again = cli("resume", "s")
    assert again.code == 2, "the refused one is tried again; the one that diverged would diverge again"
    assert sorted(rows(again.out)) == sorted(found), again
    assert "pasgd tau=" not in again.out, "what had come to its end was trained again"


def test_cores_are_shared_by_what_runs_at_once(monkeypatch):
    monkeypatch.setattr(processors, "cores", lambda: 8)
    local = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"}
    assert [at_once({"n_jobs": n}, 5) for n in (1, 4, 16, -1, -5)] == [1, 4, 5, 5, 4]
    assert [at_once(local, 3), at_once({}, 3)] == [3, 1]
    assert [schema.place(4, 0, n) for n in (1, 4, 8, 100)] == [4, 4, 2, 1]


STUDY = (
    *("task=quadratic", "steps=12", "eval_every=2", "log_every=12", "save=none", "processes=1", "workers=2"),
    *("hydra/sweeper=optuna", "hydra.sweeper.n_trials=20", "hydra.sweeper.n_jobs=1", "hydra.sweeper.sampler.seed=3"),
    *("algo=choice(pasgd,easgd)", "tau=choice(0,1,4)", "optim.lr=tag(log,interval(0.01,1e20))"),
    *("objective=bytes", "stop.metric=eval/loss", "stop.target=1.85", "hydra.sweep.dir=s"),
)


def test_a_study_goes_on_whatever_becomes_of_a_trial(cli, tmp_path):
    """Twenty trials over algo, tau and lr for the fewest bytes to a loss: refused, diverged and unreached are +inf."""
    needs_plugin("optuna")
    ended = cli("train", "-m", *STUDY)
    assert ended.code == 1, ended
    status = [status for _, status in rows(ended.out)]
    assert len(status) == 20 and {"refused", "diverged", "completed"} <= set(status)
    failed = sum(one in ("refused", "diverged") for one in status)
    assert f"{failed} of the sweep's jobs failed" in ended.err
    assert "Warning" not in ended.err and "Traceback" not in ended.err and "[I " not in ended.err
    spent, unreached = [], 0
    for folder in (tmp_path / "s").iterdir():
        if (folder / "summary.json").is_file() and coopsgd.Run(folder).summary["status"] == "completed":
            reached = [line["bytes"] for line in coopsgd.Run(folder).metrics() if line.get("eval/loss", 9) <= 1.85]
            spent, unreached = spent + reached[:1], unreached + (not reached)
    assert spent and unreached
    best = yaml.safe_load((tmp_path / "s" / "optimization_results.yaml").read_text())
    assert best["best_value"] == min(spent)
    assert f"best bytes: {human_bytes(min(spent))}, job " in ended.out
    again = cli("resume", "s")
    assert again.code == 2, "what diverged is left alone, what was refused is so again"
    assert rows(again.out) == rows(ended.out) and "workers in" not in again.out


def test_a_launcher_that_breaks_is_told_of_and_others_keep_their_results(tmp_path, capsys):
    """As joblib does when a process of a job is killed: what has no end failed, and a study hears of all of them."""
    session = Session([])
    session.sweep_into(tmp_path)
    session.jobs.begin()

    class Launcher:
        def launch(self, overrides, initial_job_idx):
            session.jobs.write(Job(0, "tau=1", str(tmp_path), DONE, objective=0.5, console=session.console))
            session.jobs.write(Job(1, "tau=2", str(tmp_path), console=session.console))
            raise RuntimeError("a process was killed\nby somebody")

    config = OmegaConf.create({"hydra": {"launcher": {"n_jobs": 2}, "runtime": {"choices": {"hydra/launcher": "odd"}}}})
    returns = Launching(Launcher(), session, config).launch([["tau=1"], ["tau=2"], ["tau=3"]], initial_job_idx=0)
    assert [back.return_value for back in returns] == [0.5, float("inf"), float("inf")]
    session.tidy()
    assert [(job.status, job.code) for job in session.ended] == [("done", 0), ("failed", 1), ("failed", 1)]
    message = "did not come to its end; hydra/launcher=odd: a process was killed"
    assert [job.message for job in session.ended[1:]] == [message] * 2
    assert capsys.readouterr().err.count(message) == 2 and not list(tmp_path.iterdir())


def test_jobs_of_a_sweep_that_is_asked_to_end_save_themselves(tmp_path):
    """They hear of it as of a Ctrl-C; no other begins, and the sweep says how it goes on."""
    session = Session([])
    session.sweep_into(tmp_path)
    session.jobs.begin()
    heard = []

    class Launcher:
        def launch(self, overrides, initial_job_idx):
            with subprocess.Popen(["sleep", "100"], preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as job:
                session.jobs.write(Job(0, "tau=1", str(tmp_path), host=socket.gethostname(), pid=job.pid))
                os.kill(os.getpid(), signal.SIGTERM)
                heard.append(job.wait(HANG))
            assert session.jobs.stopped
            raise RuntimeError("a job ended")

    config = OmegaConf.create({"hydra": {"launcher": {}, "runtime": {"choices": {}}}})
    with pytest.raises(Interrupted) as stopped:
        Launching(Launcher(), session, config).launch([["tau=1"], ["tau=2"]], initial_job_idx=0)
    assert heard == [-signal.SIGINT] and stopped.value.number == signal.SIGTERM
    assert f"coopsgd resume {tmp_path} goes on" in stopped.value.note


def asked_twice(tmp_path):
    """Of a sweep whose only job has not said that it begins: how that ended, what is told, whether another would begin."""
    session = Session([])
    session.sweep_into(tmp_path)
    session.jobs.begin()
    found = []

    class Launcher:
        def launch(self, overrides, initial_job_idx):
            found.append(subprocess.Popen(["sleep", "100"]))  # it imports
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.5)
            time.sleep(100)  # for what it will leave

    config = OmegaConf.create({"hydra": {"launcher": {}, "runtime": {"choices": {}}}})
    try:
        Launching(Launcher(), session, config).launch([["tau=1"]], initial_job_idx=0)
    except Interrupted as stopped:
        found.append(stopped.note)
    session.tidy()
    return found[0].wait(HANG), found[1], session.jobs.stopped


def test_jobs_on_their_way_end_too(tmp_path):
    """At the second signal, at once. What comes later than that, when the sweep is over, trains nothing."""
    code, note, stopped = elsewhere(asked_twice, tmp_path)
    assert code == -signal.SIGKILL and f"coopsgd resume {tmp_path} goes on" in note and stopped


def test_a_plugin_that_is_not_installed_is_told_how_to_be():
    error = MissingConfigException("none", "hydra/sweeper/optuna", ["basic"])
    assert one_line(error) == "hydra/sweeper: optuna is a plugin that is not installed; pip install 'coopsgd[sweeps]'"


# what is optimised


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("objective=eval/los",), "objective: no metric named 'eval/los'; did you mean eval/loss?"),
        (("objective=second",), "did you mean seconds?"),
        (("objective=seconds",), "stop.target"),
        (("objective=bytes",), "stop.target"),
        (("objective=eval/accuracy",), "task quadratic has no eval/accuracy"),
        (("objective=sim_s",), "name one, as in cluster=wan_100m"),
        (("objective=3",), "objective: no metric named 3"),
        (("objective=[]",), "objective: is an empty list"),
        (("objective=[eval/loss,eval/accurac]",), "did you mean eval/accuracy?"),
    ],
)
@pytest.mark.parametrize("sweep", [False, True])
def test_a_bad_objective_is_refused_in_one_line(monkeypatch, tmp_path, capsys, words, said, sweep):
    monkeypatch.chdir(tmp_path)
    assert command.train([*(["-m", "tau=1,2"] if sweep else ["tau=1"]), *QUICK, *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert line.startswith("coopsgd: objective: ") and said in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["eval/accuracy", "sim_s"])
def test_one_that_a_run_does_not_have_is_refused(name):
    with pytest.raises(ConfigError, match=f"objective: .*{name}"):
        settle((*QUICK, f"objective={name}"))


def test_what_a_run_came_to(tmp_path):
    lines = [{"step": k, "bytes": 10 * k, "train_s": k / 4, "eval/loss": 4.0 - k, "lr": 0.1} for k in range(4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def found(*words, status="completed"):
        (tmp_path / "summary.json").write_text(json.dumps({"status": status}))
        return objective(tmp_path, Parts(settle((*QUICK, *words))))

    until = ("stop.metric=eval/loss", "stop.target=2.5")
    assert found() == 1.0 and found("objective=bytes", *until) == 20 and found("objective=seconds", *until) == 0.5
    assert found("objective=seconds", "stop.metric=eval/loss", "stop.target=0.5") is None, "it was not reached"
    assert found("objective=[eval/loss,bytes]") == [1.0, 30.0]
    for status in ("failed", "diverged", "interrupted"):
        assert found(status=status) is None


@pytest.mark.parametrize(
    ("direction", "lost"), [("minimize", float("inf")), ("maximize", float("-inf")), (["minimize", "maximize"], None)]
)
def test_the_worst_there_is(direction, lost):
    session = Session([])
    session.maximised = directions({"direction": direction})
    assert session.worth(None) == (lost if lost is not None else [float("inf"), float("-inf")])
    assert session.worth(0.5) == 0.5


def test_a_study_that_looks_the_wrong_way_says_so():
    assert (
        against("eval/loss", [False]) == against("eval/accuracy", [True]) == against("lr", [True]) == against("lr", None) == []
    )
    (note,) = against("eval/accuracy", [False])
    assert "hydra.sweeper.direction=maximize" in note
    with pytest.raises(ConfigError, match="2 names for 1"):
        against(["eval/loss", "bytes"], [False])
