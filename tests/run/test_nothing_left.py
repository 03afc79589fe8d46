"""A command that is refused, shows something, or is stopped before it starts leaves the disk as it was."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from coopsgd.commands.train import command, session
from coopsgd.errors import Interrupted
from coopsgd.run import folders

QUICK = ("task=quadratic", "steps=2", "processes=1", "log_every=2", "eval_every=0")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.name.startswith(".cli")}


REFUSED = {
    "a value": ("tau=0",),
    "a word": ("easgd",),
    "a key": ("wrokers=3",),
    "a flag": ("--mulitrun",),
    "a choice": ("algo=easdg",),
    "an interpolation": ("tau=${nope}",),
    "an interpolation in a list": ("model.hidden=[${nope}]",),
    "a folder of interpolations": ("hydra.run.dir=runs/${nope}",),
    "a folder for a run that cannot work": ("tau=0", "hydra.run.dir=a/b/c"),
    "Hydra's own folder": ("tau=0", "hydra.output_subdir=.hydra"),
    "a yaml": ("--config-dir", "mine", "algo=own"),
    "a graph": ("algo=dpsgd", "topology=torus", "workers=7"),
    "a file": ("algo=cooperative", "algo.W=nowhere.npy"),
    "a sweep's values": ("-m", "tau=0,-1"),
    "a sweep's choices": ("-m", "algo=easdg,pasgd"),
    "a sweep's words": ("-m", "tau=1,", "2"),
    "a sweep's folder": ("-m", "tau=1,2", "hydra.sweep.dir=a/${nope}"),
    "a sweep in a folder of its own": ("-m", "tau=0,-1", "hydra.sweep.dir=a/b"),
    "a sweep of interpolations": ("-m", "tau=${nope},0"),
    "a sweep of nothing": ("-m", "tau=range(0)"),
    "a sweep with a folder for each job": ("-m", "tau=0,-1", "hydra.sweep.subdir=x/${hydra.job.num}"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal(monkeypatch, capsys, tmp_path, case):
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    (tmp_path / "mine" / "algo" / "own.yaml").write_text("strategy: a: b")
    before = files(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert command.train(REFUSED[case]) == 2
    assert files(tmp_path) == before
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("typed", [("--cfg", "job"), ("--info", "config"), ("--help",), ("--version",), ("--info", "defaults")])
def test_a_look(monkeypatch, capsys, tmp_path, typed):
    monkeypatch.chdir(tmp_path)
    assert command.train(("tau=3", *typed)) == 0
    assert not files(tmp_path)


@pytest.mark.parametrize(
    "typed",
    [
        ("probe", "tau=0"),
        ("probe", "tau=0", "launch=false"),
        ("probe", "-o", "nowhere/probe.json"),
        ("design", "tau=0"),
        ("design", "workers=1", "cluster=ethernet_1g"),
        ("design", "cluster=ethernet_1g", "hydra.run.dir=a/b", "steps=1"),
        ("design", "cluster=ethernet_1g", "task=quadratic", "steps=32", "--budget-seconds", "1e-9"),
        ("show", "tau=0"),
        ("analyze", "tau=0"),
        ("list",),
    ],
    ids=" ".join,
)
def test_other_verbs(cli, tmp_path, typed):
    ended = cli(*typed)
    assert ended.code == (0 if typed == ("list",) else 2), ended
    assert not files(tmp_path)


def test_what_was_there_stays(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("outputs", "mine/empty", "sweep"):
        (tmp_path / folder).mkdir(parents=True)
    before = files(tmp_path)
    for typed in (("tau=0",), ("tau=0", "hydra.run.dir=mine/empty"), ("-m", "tau=0,-1", "hydra.sweep.dir=sweep")):
        assert command.train(typed) == 2
    assert files(tmp_path) == before, "an empty folder that the user made is the user's"


def test_refused_jobs_of_a_sweep_that_ran(cli, tmp_path):
    ended = cli("train", "-m", *QUICK, "tau=0,2", "hydra.sweep.dir=s")
    assert ended.code == 2
    assert {path.name for path in (tmp_path / "s").iterdir()} == {"multirun.yaml", "algo=easgd,tau=2"}


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), Interrupted(signal.SIGTERM), OSError(28, "No space left on device")])
def test_a_command_that_ends_before_it_starts(monkeypatch, tmp_path, capsys, raised):
    """While its folder is there and nothing in it."""
    monkeypatch.chdir(tmp_path)

    def ends(*args):
        assert list(tmp_path.glob("*run*/**/")) or list(tmp_path.glob("outputs/*/*"))
        raise raised

    monkeypatch.setattr(session, "write_config", ends)
    for typed in ((*QUICK, "tau=2"), (*QUICK, "-m", "tau=2,3"), (*QUICK, "hydra.run.dir=run/a/b")):
        try:
            assert command.train(typed) == 2
        except BaseException as error:
            assert error is raised
        assert not files(tmp_path)


def test_two_in_one_second_do_not_take_each_others_folder_away(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = session.Session([]), session.Session([])
    mine, theirs = one.fresh("outputs/d/t"), other.fresh("outputs/d/t")
    assert (mine, theirs) == ("outputs/d/t", "outputs/d/t-2")
    one.tidy()
    assert files(tmp_path) == {"outputs", "outputs/d", "outputs/d/t-2"}
    other.tidy()
    assert os.path.isdir("outputs/d"), "made by the first, which left it to the second"
    assert folders.fresh("outputs/d/t") == "outputs/d/t"
