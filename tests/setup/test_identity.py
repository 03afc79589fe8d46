"""What a run is, not where it ran: one function, by which sweeps and means know a copy."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from playing import settle

import coopsgd
from coopsgd.commands import compose
from coopsgd.commands.train import command, launching, session
from coopsgd.run import folders
from coopsgd.setup.identity import identity, placement
from coopsgd.setup.schema import GROUPS, Config

Q = ("task=quadratic", "workers=4", "processes=1")
FAST = (*Q, "steps=4", "log_every=2", "eval_every=2")

# one pair of settings a key: where they are part of what is trained the runs differ
VALUES = {
    "algo": ("algo=easgd", "algo=pasgd"),
    "period": ("period=constant", "period=qsr"),
    "topology": ("topology=ring", "topology=star"),
    "task": ("task=quadratic", "task=classification"),
    "model": ("model.hidden=[4]", "model.hidden=[5]"),
    "data": ("data=gaussian", "data=digits"),
    "partition": ("partition=iid", "partition=dirichlet"),
    "optim": ("optim.lr=0.1", "optim.lr=0.2"),
    "schedule": ("schedule=constant", "schedule=cosine"),
    "cluster": ("cluster=wan_20m", "cluster=wan_100m"),
    "tau": ("tau=2", "tau=3"),
    "outer": ("outer=none", "outer=nesterov"),
    "correction": ("correction=none", "correction=proximal"),
    "codec": ("codec=none", "codec=bf16"),
    "fragments": ("fragments=none", "fragments.count=2"),
    "order": ("order=atc", "order=cta"),
    "delay": ("delay=0", "delay=1"),
    "merge": ("merge=kept", "merge=0.5"),
    "buffers": ("buffers=keep", "buffers=reset"),
    "buffers_every": ("buffers_every=1", "buffers_every=2"),
    "weights_by": ("weights_by=uniform", "weights_by=samples"),
    "start": ("start=null", None),
    "workers": ("workers=2", "workers=4"),
    "processes": ("processes=1", "processes=2"),
    "threads": ("threads=1", "threads=2"),
    "steps": ("steps=4", "steps=5"),
    "epochs": ("epochs=1", "epochs=2"),
    "rounds": ("rounds=1", "rounds=2"),
    "batch_size": ("batch_size=8", "batch_size=9"),
    "seed": ("seed=0", "seed=1"),
    "dtype": ("dtype=float32", "dtype=float64"),
    "device": ("device=cpu", None),  # there may be no other here
    "log_every": ("log_every=1", "log_every=2"),
    "norm_stats": ("norm_stats=local", "norm_stats=average"),
    "clip": ("clip=1", "clip=2"),
    "amp": ("amp=null", "amp=bf16"),
    "eval_every": ("eval_every=1", "eval_every=2"),
    "eval_samples": ("eval_samples=10", "eval_samples=20"),
    "engine": ("engine=loop", "engine=bmm"),
    "fleet": ("fleet=shared", "fleet=processes"),
    "save": ("save=rows", "save=none"),
    "checkpoint_every": ("checkpoint_every=5", "checkpoint_every=0"),
    "keep": ("keep=1", "keep=3"),
    "max_restarts": ("max_restarts=0", "max_restarts=3"),
    "objective": ("objective=eval/loss", "objective=lr"),
    "stop": ("stop.bytes=1000", "stop.bytes=2000"),
    "name": ("name=a", "name=b"),
    "timeout": ("timeout=10", "timeout=20"),
    "launch": ("launch=true", "launch=false"),
    "machines": ("machines=auto", "machines=1"),
    "interface": ("interface=auto", "interface=eth1"),
}
WHERE = {
    "processes",
    "threads",
    "device",
    "log_every",
    "eval_every",
    "eval_samples",
    "engine",
    "fleet",
    "save",
    "checkpoint_every",
    "keep",
    "max_restarts",
    "objective",
    "name",
    "timeout",
    "launch",
    "machines",
    "interface",
}


def test_every_key_says_whether_it_is_part_of_what_is_trained():
    assert all(f.metadata["identity"] is (f.name not in WHERE) for f in fields(Config))
    assert {f.name for f in fields(Config)} == VALUES.keys(), "a new key needs a pair of settings here"
    from coopsgd.setup.schema import key

    with pytest.raises(TypeError):
        key(1, "a new one, which nobody has thought about")


@pytest.mark.parametrize("name", VALUES)
def test_a_key_makes_another_run_or_the_same_one_elsewhere(name):
    small = ("data=digits", "model=cnn", "model.width=8", "model.norm=batch")
    small = small if name == "norm_stats" else ("data=gaussian", "model.hidden=[4]")
    small += ("tau=2",) if name == "fragments" else ()
    small += ("optim.momentum=0.9",) if name in ("buffers", "buffers_every") else ()
    small += ("buffers=average",) if name == "buffers_every" else ()
    small += ("launch=false",) if name == "interface" else ()
    one, other = VALUES[name]
    algo = "algo=pasgd" if name == "weights_by" else "algo=dpsgd"
    base = (algo, *small, "workers=4", "processes=1", *(["steps=4"] if name not in ("epochs", "rounds") else []))
    base = tuple(word for word in base if word.split("=")[0] != one.split("=")[0])
    a = settle((*base, one))
    b = settle((*base, other)) if other else replace(a, **{"device": {"device": "cuda"}, "start": {"start": __file__}}[name])
    assert (identity(a) == identity(b)) == (name in WHERE)
    assert identity(a) == identity(settle((one, *base)))
    if name in WHERE - {"name", "objective"}:
        assert placement(a) != placement(b)
    assert (identity(a, seed=False) == identity(b, seed=False)) == (name in WHERE | {"seed"})


SAME = {
    "tau by default": (("algo=easgd",), ("algo=easgd", "tau=10")),
    "tau that has no use": (("algo=fullsync", "tau=1"), ("algo=fullsync", "tau=4")),
    "tau of clients that count epochs": (
        ("algo=fedavg", "task=classification", "algo.epochs=1", "tau=3"),
        ("algo=fedavg", "task=classification", "algo.epochs=1", "tau=4"),
    ),
    "tau that does not move": (("algo=pasgd", "tau=4"), ("algo=pasgd", "tau=[[0,4]]")),
    "tau that moves to where it is": (("algo=pasgd", "tau=[[0,4],[9,2]]"), ("algo=pasgd", "tau=[[0,4],[5,4],[9,2]]")),
    "a topology that has no use": (("algo=easgd", "topology=star"), ("algo=easgd", "topology=ring")),
    "a model that has no use": (("model=cnn",), ("model=mlp",)),
    "a batch that has no use": (("batch_size=3",), ("batch_size=4",)),
    "statistics that are not there": (
        ("task=classification", "norm_stats=local"),
        ("task=classification", "norm_stats=average"),
    ),
    "a default": (("optim.momentum=0",), ()),
    "whole and not": (("optim.lr=1", "task.sigma=0"), ("optim.lr=1.0", "task.sigma=0.0")),
    "clip whole and not": (("clip=1",), ("clip=1.0",)),
    "in quotes": (("optim.lr='0.5'",), ("optim.lr=0.5",)),
    "an order of words": (("optim.lr=0.5", "seed=3"), ("seed=3", "optim.lr=0.5")),
    "epochs in steps": (
        ("task=classification", "epochs=2"),
        ("task=classification", "steps=22"),
    ),
    "steps by default": ((), ("steps=1000",)),
    "rounds in steps": (("algo=pasgd", "tau=4", "rounds=5"), ("algo=pasgd", "tau=4", "steps=20")),
    "a unit that is a step": (("schedule=cosine", "schedule.unit=1"), ("schedule=cosine", "schedule.unit=step")),
    "a unit that counts nothing": (("schedule.unit=round",), ()),
    "two names of one algorithm": (("algo=dpsgd", "tau=4"), ("algo=dpa", "tau=4")),
    "alpha by its number": (("algo=easgd", "workers=2"), ("algo=easgd", "workers=2", "algo.alpha=0.5")),
    "groups by their members": (("algo=two_level", "algo.groups=2"), ("algo=two_level", "algo.groups=[[0,1],[2,3]]")),
    "buffers that are not there": (("algo=pasgd", "buffers=reset"), ("algo=pasgd", "buffers=keep")),
    "a delay of a round": (("algo=pasgd", "tau=4", "delay=tau"), ("algo=pasgd", "tau=4", "delay=4")),
    "an order by default": (("order=auto", "delay=auto"), ("order=atc", "delay=0")),
    "where a warm-up that is not there begins": (("schedule.warmup_from=0.5",), ()),
    "a class by its path": (("optim.name=coopsgd.optim:SGD",), ()),
    "a matrix in whole numbers": (
        ("algo=cooperative", "workers=2", "algo.W=[[1,0],[0.5,0.5]]"),
        ("algo=cooperative", "workers=2", "algo.W=[[[1.0,0.0],[0.5,0.5]]]"),
    ),
    "a matrix in a file": (
        ("algo=cooperative", "workers=2", "algo.W=[[1,0],[0.5,0.5]]"),
        ("algo=cooperative", "workers=2", "algo.W=w.npy"),
    ),
    "files of one content": (("task=language", "data.file=a.txt"), ("task=language", "data.file=b.txt")),
}
OTHER = {
    "gradients or models": (("algo=fullsync",), ("algo=pasgd", "tau=1")),
    "a bool is no number": (("optim.momentum=0.5",), ("optim.momentum=0.5", "optim.nesterov=true")),
    "momentum has buffers": (
        ("algo=pasgd", "optim.momentum=0.5", "buffers=reset"),
        ("algo=pasgd", "optim.momentum=0.5", "buffers=keep"),
    ),
    "a matrix in files": (
        ("algo=cooperative", "workers=2", "algo.W=w.npy"),
        ("algo=cooperative", "workers=2", "algo.W=v.npy"),
    ),
    "files of two contents": (("task=language", "data.file=a.txt"), ("task=language", "data.file=c.txt")),
    "a topology that is used": (("algo=dpsgd", "topology=star"), ("algo=dpsgd", "topology=ring")),
}


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("w.npy", np.array([[1, 0], [0.5, 0.5]], dtype=np.float32))
    np.save("v.npy", np.array([[0.5, 0.5], [0.5, 0.5]]))
    for name, letter in (("a", "x y "), ("b", "x y "), ("c", "z y ")):
        Path(f"{name}.txt").write_text(letter * 8000)


@pytest.mark.parametrize("case", [*SAME, *OTHER])
def test_what_means_the_same_is_the_same(at, case):
    one, other = ((SAME | OTHER)[case][i] for i in (0, 1))
    base = () if any("language" in w or "classification" in w for w in one) else ("task=quadratic",)
    found = [compose.compose_config([*base, *words]).config for words in (one, other)]
    assert (identity(found[0]) == identity(found[1])) == (case in SAME)
    for n, settings in enumerate(found):  # and what a folder holds of it is the same again
        before = identity(settings)
        folders.write_config(settings, Path(f"run{n}"), "coopsgd train")
        assert before == identity(coopsgd.Run(f"run{n}", trust=True).config)
        assert ":" in str(settings.optim["name"]) or before == identity(coopsgd.Run(f"run{n}").config)


def test_what_follows_from_the_seed_is_no_other_run():
    words = ("algo=matcha", "topology=erdos_renyi", "workers=6", *Q[:1])
    a, b = settle((*words, "seed=0")), settle((*words, "seed=3"))
    assert a.algo["probabilities"] != b.algo["probabilities"]
    assert identity(a, seed=False) == identity(b, seed=False) and identity(a) != identity(b)
    given = replace(a, algo=a.algo | {"probabilities": [1 - p for p in a.algo["probabilities"]], "budget": 0.5})
    assert identity(given, seed=False) != identity(a, seed=False)  # given by hand


def test_code_that_nobody_vouches_for_is_compared_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, path in (("a", "no_such_thing:W"), ("b", "no_such_thing:W"), ("c", "another:W")):
        settings = settle((*Q, "algo=cooperative", "algo.W=[[1]]", "workers=1"))
        settings.algo["W"], settings.optim["name"] = path, "no_such_thing:SGD"
        folders_yaml(settings, Path(name))
    a, b, c = (identity(coopsgd.Run(name).config) for name in "abc")
    assert a == b != c


def folders_yaml(settings, folder):
    from coopsgd.setup.schema import dumps

    folder.mkdir()
    (folder / "config.yaml").write_text(dumps(settings))


# sweeps


def sweep(cli, *words):
    return cli("train", "-m", *FAST, *words, "hydra.sweep.dir=s")


def test_a_sweep_trains_each_run_once(cli, tmp_path):
    ended = sweep(cli, "algo=fullsync,pasgd", "tau=1,4")
    assert ended.code == 0, ended.err
    assert {p.name for p in (tmp_path / "s").iterdir() if p.is_dir()} == {
        "algo=fullsync,tau=1",
        "algo=pasgd,tau=1",
        "algo=pasgd,tau=4",
    }
    message = [line for line in ended.out.splitlines() if "the same run as" in line]
    assert len(message) == 1 and message[0].startswith("the same run as job 1, ") and "s/algo=fullsync,tau=1" in message[0]


def test_one_that_is_asked_to_run_elsewhere_is_run_there(cli, tmp_path):
    ended = sweep(cli, "processes=1,2", "name=a,b")
    assert ended.code == 0 and ended.out.count("the same run as") == 2  # by another name it is the same
    assert len([p for p in (tmp_path / "s").iterdir() if p.is_dir()]) == 2


def test_a_copy_has_the_objective_of_the_first(tmp_path, monkeypatch, capfd):
    """As sweepers that look for the best are told; also of one that diverged, while one that broke is tried again."""
    from coopsgd.errors import Diverged, RunFailed

    monkeypatch.chdir(tmp_path)
    ends, message = iter([0.25, Diverged("diverged: the loss"), RunFailed("no room"), 0.5]), []

    def start(folder, settings):
        end = next(ends)
        if isinstance(end, Exception):
            (folder / "summary.json").write_text("{}")
            raise end
        (folder / "summary.json").write_text(json.dumps({"status": "completed"}))
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "eval/loss": end}))

    launch = launching.Launching.launch

    def noted(self, *arguments, **more):
        returns = launch(self, *arguments, **more)
        message.extend(back.return_value for back in returns)
        return returns

    monkeypatch.setattr(session, "start", start)
    monkeypatch.setattr(launching.Launching, "launch", noted)
    assert command.train(["-m", *FAST, "seed=0,0,1,1,2,2", "hydra.sweep.dir=s"]) == 1
    assert message == [0.25, 0.25, np.inf, np.inf, np.inf, 0.5]
    ended = capfd.readouterr()
    assert ended.out.count("the same run as") == 2 and "2 of the sweep's jobs failed" in ended.err
    assert sorted(p.name for p in Path("s").iterdir() if p.is_dir()) == [
        "algo=easgd,seed=0",
        "algo=easgd,seed=1",
        "algo=easgd,seed=2",
        "algo=easgd,seed=2,5",
    ]


# analyze --over


def test_copies_are_no_seeds(cli, tmp_path):
    words = (*FAST, "algo=pasgd", "tau=2", "dtype=float64")
    for name, more in {
        "a0": ("seed=0",),
        "a1": ("seed=1",),
        "copy0": ("seed=0", "processes=2", "name=again"),
        "longer1": ("seed=1", "log_every=1"),
        "other": ("seed=2", "optim.lr=0.2"),
    }.items():
        assert cli("train", *words, *more, f"hydra.run.dir={name}").code == 0
    ended = cli("analyze", "--over", "a0", "copy0", "a1", "longer1", "other")
    assert ended.code == 0, ended.err
    assert "mean of the 2 seeds (2 copies left out)" in ended.out
    assert "copy0: left out, a copy of a0 (the same config and seed 0)" in ended.out
    assert "longer1: left out, a copy of a1 (the same config and seed 1)" in ended.out
    found = json.loads(cli("analyze", "--over", "a0", "copy0", "a1", "longer1", "other", "--json").out)
    (mean,) = found["means"]
    assert mean["folders"] == ["a0", "a1"] and mean["copies"] == ["copy0", "longer1"] and mean["seeds"] == [0, 1]
    each = {run["folder"]: run["consensus"]["measured"] for run in found["runs"]}
    assert mean["consensus"]["measured"] == [(x + y) / 2 for x, y in zip(each["a0"], each["a1"], strict=True)]
    # one seed and its copy are one run, not two seeds; the one that went further counts
    lines = (tmp_path / "a0" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "a0" / "metrics.jsonl").write_text("".join(lines[:-1]))
    found = json.loads(cli("analyze", "--over", "a0", "copy0", "--json").out)
    assert found["means"] == [] and [run["copy_of"] for run in found["runs"]] == ["copy0", None]


def test_keys_are_all_groups():
    assert set(GROUPS) <= {f.name for f in fields(Config) if f.metadata["identity"]}
