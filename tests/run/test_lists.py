"""Sweeps with other words in one folder: the words of each stay, and a resume goes on with the jobs of all."""

from __future__ import annotations

import time
from functools import partial

import pytest
import yaml
from omegaconf import OmegaConf
from running import linux, started  # noqa: F401  a fixture

import coopsgd
from coopsgd.errors import ConfigError
from coopsgd.run import lists

QUICK = ("task=quadratic", "steps=6", "log_every=6", "eval_every=0", "save=none", "algo=pasgd", "workers=2", "processes=1")
SWEEP = ("train", "-m", *QUICK, "hydra.sweep.dir=s")


def swept(folder):
    """Of each list the swept word."""
    found = {file.name: [word for word in lists.words_of(file)[0] if "," in word] for file in lists.there(folder)}
    return {name: words[0] for name, words in found.items()}


@pytest.mark.slow
def test_each_sweep_has_its_own_and_all_go_on(cli, tmp_path):
    at = tmp_path / "s"
    for words in (("seed=0,1",), ("seed=0,1",), ("tau=2,3",), ("optim.lr=0.1,0.2",), ("tau=2,3", "resume=auto")):
        ended = cli(*SWEEP, *words)
        assert ended.code == (2 if words == ("seed=0,1",) and len(swept(at)) == 1 and "already holds" in ended.err else 0), (
            ended
        )
    names = ["multirun.yaml", "multirun-2.yaml", "multirun-3.yaml"]
    assert swept(at) == dict(zip(names, ["seed=0,1", "tau=2,3", "optim.lr=0.1,0.2"], strict=True))
    for name in ("algo=pasgd,seed=1", "algo=pasgd,tau=2"):
        (at / name / "summary.json").unlink()
    ended = cli("resume", "s")
    assert ended.code == 0 and all(f"{name}: " in ended.out for name in names), ended
    assert (
        ended.out.count("nothing is left to do") == 4 and ended.out.count("goes on from") + ended.err.count("starts over") == 2
    )
    assert all(coopsgd.Run(at / name).summary["status"] == "completed" for name in ("algo=pasgd,seed=1", "algo=pasgd,tau=2"))
    assert {path.name for path in at.glob("*.yaml")} == {*names}, "and nothing of Hydra's"
    assert cli("verify", "s").err.endswith("is a sweep; name one of its runs\n")


def test_a_sweep_that_left_nothing_leaves_no_words(cli, tmp_path):
    assert cli(*SWEEP, "seed=0,1").code == 0
    assert cli(*SWEEP, "tau=0,-1").code == 2
    assert swept(tmp_path / "s") == {"multirun.yaml": "seed=0,1"}


def together(begin):
    time.sleep(max(0.0, begin - time.time()))


@linux
def test_two_that_begin_at_the_same_moment(started, tmp_path):  # noqa: F811
    first = partial(together, time.time() + 1.5)
    commands = [started(*SWEEP, words, first=first) for words in ("seed=0,1", "tau=2,3", "optim.lr=0.1,0.2")]
    assert [command.ended().code for command in commands] == [0] * 3
    found = swept(tmp_path / "s")
    assert {*found} == {"multirun.yaml", "multirun-2.yaml", "multirun-3.yaml"}
    assert {*found.values()} == {"seed=0,1", "tau=2,3", "optim.lr=0.1,0.2"}


def config(*words):
    return OmegaConf.create(
        {"hydra": {"overrides": {"task": list(words), "hydra": ["hydra.mode=MULTIRUN", "hydra.verbose=true"]}}}
    )


def test_what_is_no_list_stays(tmp_path):
    (tmp_path / "multirun.yaml").write_text("hydra: {}\n")
    (tmp_path / "multirun-2.yaml").write_text("a: [")
    (tmp_path / "multirun-x.yaml").write_text("")
    assert lists.claimed(tmp_path, config("tau=${oc.env:NOWHERE}")) == (tmp_path / "multirun-3.yaml", True)
    assert lists.claimed(tmp_path, config("tau=${oc.env:NOWHERE}")) == (tmp_path / "multirun-3.yaml", False)
    assert lists.claimed(tmp_path, config("tau=1")) == (tmp_path / "multirun-4.yaml", True)
    assert lists.words_of(tmp_path / "multirun-4.yaml") == (["tau=1"], ["hydra.verbose=true"])
    assert [file.name for file in lists.there(tmp_path)] == ["multirun.yaml", *(f"multirun-{n}.yaml" for n in (2, 3, 4))]
    for name in ("multirun.yaml", "multirun-2.yaml"):
        with pytest.raises(ConfigError, match=name):
            lists.words_of(tmp_path / name)
    assert yaml.safe_load((tmp_path / "multirun.yaml").read_text()) == {"hydra": {}}


def test_what_is_followed_whoever_wrote_it():
    """Hydra's well-known plugins and numbers for them; nothing by which code, a shell's command or a file could be named."""
    safe = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=-1", "hydra/launcher=submitit_slurm", "hydra.launcher.mem_gb=8"]
    safe += ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=20", "hydra.sweeper.direction=[minimize,maximize]"]
    safe += ["hydra/sweeper/sampler=tpe", "hydra.sweeper.sampler.seed=3", "+hydra.launcher.timeout=null"]
    odd = [
        "hydra/launcher=mine",
        "hydra.launcher._target_=os.system",
        "hydra.launcher.setup=[rm]",
        "hydra.launcher.submitit_folder=x",
    ]
    odd += [
        "hydra.sweeper.custom_search_space=mine.f",
        "hydra.sweeper.storage=sqlite:///x",
        "hydra.sweeper.sampler._target_=mine.F",
    ]
    odd += [
        "hydra.launcher.n_jobs=${mine:}",
        "hydra.callbacks.a=b",
        "hydra/job_logging=mine",
        "hydra.launcher.pre_dispatch=f()",
    ]
    odd += [
        "hydra.launcher.n_jobs=1\n2",
        "hydra.searchpath=[file:///x]",
        "hydra/hydra_logging=default",
        "~hydra.launcher.n_jobs",
    ]
    assert [word for word in safe if not lists.is_safe(word)] == []
    assert [word for word in odd if lists.is_safe(word)] == []
