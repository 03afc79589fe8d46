"""A run folder that somebody else may have written is read, and nothing in it is run, unless its reader says --trust."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import coopsgd
from coopsgd.commands import compose
from coopsgd.commands.train import command
from coopsgd.errors import ConfigError
from coopsgd.run import folders
from coopsgd.setup import schema
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import GROUPS

QUADRATIC = ("task=quadratic", "workers=2", "processes=1", "steps=2", "eval_every=0")
DIGITS = ("workers=2", "processes=1", "steps=1", "model.hidden=[4]")
# importing it is what leaves the marker; every kind of part is there, in case something takes it
PLANTED = """
import pathlib, sys
pathlib.Path({marker!r}).touch()
import torch
from coopsgd.strategies.cooperative import Cooperative as Strategy
from coopsgd.mixing.static import Average as Mixing
from coopsgd.data.digits import Digits as Data
class Set(torch.utils.data.Dataset):
    def __len__(self): return 40
    def __getitem__(self, i): return torch.full((8,), float(i)), i % 2
class Net(torch.nn.Linear):
    def __init__(self): super().__init__(8, 2)
def W(m, r): return [[1 / m] * m] * m
def handler(**more): import logging; return logging.NullHandler()
"""
PARTS = {  # words of the run, the key that a stranger then writes, its value
    "strategy": (QUADRATIC, "algo.strategy", "planted:Strategy"),
    "mixing": (QUADRATIC, "algo.mixing", "planted:Mixing"),
    "W": ((*QUADRATIC, "algo=cooperative", "algo.W=[[0.5,0.5],[0.5,0.5]]"), "algo.W", "planted:W"),
    "period": (QUADRATIC, "period.name", "planted:Strategy"),
    "topology": ((*QUADRATIC, "algo=dpsgd"), "topology.name", "planted:Strategy"),
    "task": (QUADRATIC, "task.name", "planted:Strategy"),
    "model": (DIGITS, "model.name", "planted:Net"),
    "data": (DIGITS, "data.name", "planted:Data"),
    "partition": (DIGITS, "partition.name", "planted:Strategy"),
    "optim": (QUADRATIC, "optim.name", "planted:Strategy"),
    "schedule": (QUADRATIC, "schedule.name", "planted:Strategy"),
    "cluster": ((*QUADRATIC, "cluster=wan_20m"), "cluster.name", "planted:Strategy"),
    "model.path": (DIGITS, "model", {"name": "custom", "path": "planted:Net", "arguments": {}}),
    "data.path": (DIGITS, "data", {"name": "custom", "path": "planted:Set", "arguments": {}}),
    "model.path of Python": (
        DIGITS,
        "model",
        {"name": "custom", "path": "os:system", "arguments": {"command": "touch marker"}},
    ),
    "data.path of Python": (DIGITS, "data", {"name": "custom", "path": "subprocess:run", "arguments": {"args": ["true"]}}),
}


@functools.cache
def _written(words: tuple[str, ...]) -> str:
    """The config.yaml of a run of these words."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        folders.write_config(compose.compose_config(words).config, Path(folder), "coopsgd train")
        return (Path(folder) / "config.yaml").read_text()


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """stranger(words, {key: value}): a folder `theirs` as a stranger wrote it, and the marker that its code would leave."""
    marker = tmp_path / "marker"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "planted.py").write_text(PLANTED.format(marker=str(marker)))
    sys.modules.pop("planted", None)

    def write(words, changes):
        folder = tmp_path / "theirs"
        folder.mkdir()
        node = OmegaConf.create(_written(words))
        for key, value in changes.items():
            OmegaConf.update(node, key, value, merge=False, force_add=True)
        (folder / "config.yaml").write_text("# coopsgd train\n" + OmegaConf.to_yaml(node))
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 0, "consensus": 0.0}) + "\n")
        return folder, marker

    yield write
    sys.modules.pop("planted", None)


def refused(message, code=2):
    """One line that names the way out."""
    lines = [line for line in message.splitlines() if line.strip()]
    assert len(lines) == 1 and "--trust" in lines[0] and "Traceback" not in message, message
    return lines[0]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_a_stranger_names_is_imported_for_trust_alone(stranger, capfd, part):
    words, key, value = PARTS[part]
    folder, marker = stranger(words, {key: value})
    named = value if isinstance(value, str) else value["path"]
    # train --config-path
    assert command.train(["--config-path", "theirs", "--config-name", "config", "hydra.run.dir=again"]) == 2
    line = refused(capfd.readouterr().err)
    assert named in line and key.removesuffix(".name") in line
    # whatever else reads it builds its parts in one room
    read = coopsgd.Run(folder)
    with pytest.raises(ConfigError, match="--trust"):
        Parts(read.config).strategy  # noqa: B018
        for group in GROUPS[1:]:
            if getattr(read.config, group):
                getattr(Parts(read.config), group)
    assert not marker.exists() and "planted" not in sys.modules and not Path("again").exists()
    if "Python" in part:
        return
    read = coopsgd.Run(folder, trust=True)
    with contextlib.suppress(ValueError, TypeError, AttributeError):  # some are no parts of their kind; they were imported
        strategy = Parts(read.config).strategy
        strategy.schedule.factors(2, 0)
        for group in GROUPS[1:]:
            if getattr(read.config, group):
                made = getattr(Parts(read.config), group)
                if part == f"{group}.path":
                    made.fetch() if group == "model" else made.read()
    assert marker.exists(), "the test plants nothing"


def _worker(module: str, *words: str) -> None:
    """What `python -m MODULE WORDS` does, in a process of its own."""
    from importlib import import_module

    sys.argv = [module, *words]
    import_module("coopsgd.worker" if module == "coopsgd.worker" else "coopsgd.commands.probe.worker").main()
    sys.exit(0)


@pytest.mark.parametrize("module", ["coopsgd.worker", "coopsgd.commands.probe"])
def test_the_workers_of_torchrun(stranger, cli, module):
    words, key, value = PARTS["strategy"]
    folder, marker = stranger(words, {key: value})
    (folder / "metrics.jsonl").unlink()
    ended = cli(first=functools.partial(_worker, module, "theirs"))
    assert ended.code == 2 and "planted:Strategy" in refused(ended.err) and not marker.exists()
    ended = cli(first=functools.partial(_worker, module, "--trust", "theirs"))
    assert ended.code == 0 and marker.exists(), ended.err


def test_the_lines_that_are_printed_for_torchrun_say_it(cli, tmp_path):
    for verb in ("train", "probe"):
        ended = cli(verb, *QUADRATIC, "launch=false", f"hydra.run.dir={verb}")
        assert ended.code == 0 and f" --trust {tmp_path}/{verb}" in ended.out


def test_over_and_train_say_it_in_one_line(stranger, cli, capfd):
    words, key, value = PARTS["W"]
    _, marker = stranger(words, {key: value})
    ended = cli("analyze", "--over", "theirs")
    line = refused(ended.err)
    assert ended.code == 2 and "theirs" in line and "algo.W" in line and "planted:W" in line and not marker.exists()
    assert cli("analyze", "--over", "theirs", "--trust").code == 0 and marker.exists()
    marker.unlink()
    for flags in (["--config-path=theirs"], ["-cp", "theirs"], ["-cp=theirs"], ["--config-pa=theirs"], ["-cp=file://theirs"]):
        assert command.train([*flags, "hydra.run.dir=again"]) == 2
        assert not marker.exists() and "planted:W" in refused(capfd.readouterr().err), flags
    assert command.train(["-m", "--config-path", "theirs", "seed=1,2", "hydra.sweep.dir=again"]) == 2
    assert not marker.exists() and "--trust" in capfd.readouterr().err
    ended = cli("train", "--config-path", "theirs", "--trust", "hydra.run.dir=again")
    assert ended.code == 0 and marker.exists(), ended.err


def test_a_word_of_your_own_is_yours(stranger, cli):
    """--config-path FOLDER algo.W=mine:W: the folder is a stranger's, the word is not."""
    words = (*QUADRATIC, "algo=cooperative", "algo.W=[[0.5,0.5],[0.5,0.5]]")
    _, marker = stranger(words, {})
    ended = cli("train", "--config-path", "theirs", "algo.W=planted:W", "hydra.run.dir=again")
    assert ended.code == 0 and marker.exists(), ended.err


def test_trust_without_a_folder_is_refused(cli):
    for words in (("train", *QUADRATIC, "--trust"), ("analyze", *QUADRATIC, "--trust")):
        ended = cli(*words)
        assert ended.code == 2 and len(ended.lines) == 1 and "--trust" in ended.err, ended


def test_a_built_in_run_needs_no_trust(stranger, capfd):
    _, marker = stranger(QUADRATIC, {})
    checked = coopsgd.Run("theirs")
    assert checked.parts.strategy is not None and checked.parts.task is not None
    assert not marker.exists()


HYDRA = {  # what a stranger adds for Hydra to act on
    "callbacks": {"hydra.callbacks": {"x": {"_target_": "planted.Strategy"}}},
    "launcher": {"hydra.launcher": {"_target_": "planted.Strategy"}},
    "sweeper": {"hydra.sweeper": {"_target_": "planted.Strategy"}},
    "sweeper params": {"hydra.sweeper": {"params": {"algo.W": "planted:W"}}},
    "logging": {
        "hydra.job_logging": {
            "version": 1,
            "handlers": {"x": {"()": "planted.handler"}},
            "root": {"handlers": ["x"]},
            "disable_existing_loggers": False,
        }
    },
    "a log elsewhere": {
        "hydra.job_logging": {
            "version": 1,
            "handlers": {"x": {"class": "logging.FileHandler", "filename": "marker"}},
            "root": {"handlers": ["x"]},
        }
    },
    "search path": {"hydra.searchpath": ["file://${oc.env:HOME}"]},
    "environment": {"hydra.job.env_set": {"LD_PRELOAD": "/tmp/x.so"}},
    "chdir": {"hydra.job.chdir": True},
    "verbose": {"hydra.verbose": True},
    "defaults": {"defaults": ["schema", "_self_", {"override hydra/launcher": "submitit"}]},
    "defaults elsewhere": {"defaults": ["schema", {"/algo@algo": "evil"}, "_self_"]},
    "an environment variable": {"name": "${oc.env:HOME}"},
    "within a word": {"name": "a ${oc.env:HOME} b"},
    "within a list": {"task.centers": [["${oc.env:HOME}"]]},
    "a file's content": {"data": "${oc.decode:${oc.env:HOME}}"},
    "our own resolvers": {"name": "${coopsgd.fresh:elsewhere}"},
}


@pytest.mark.parametrize("route", HYDRA)
def test_what_hydra_would_act_on_is_refused(stranger, capfd, monkeypatch, route):
    folder, marker = stranger(QUADRATIC, HYDRA[route])
    monkeypatch.setattr(sys, "path", [str(folder.parent), *sys.path])
    for flags in ([], ["-m"]):
        assert command.train([*flags, "--config-path", "theirs", "hydra.run.dir=again", "hydra.sweep.dir=again"]) == 2
        message = capfd.readouterr()
        line = refused(message.err)
        assert next(iter(HYDRA[route])) in line and os.environ["HOME"] not in line + message.out
    assert not marker.exists() and not Path("again").exists() and not Path("elsewhere").exists()


def test_a_rerun_from_a_pickle_is_refused(stranger, cli):
    import pickle

    folder, marker = stranger(QUADRATIC, {})

    class Touch:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    (folder / "config.pickle").write_bytes(pickle.dumps(Touch()))
    for flag in ("--experimental-rerun", "--experimental"):
        ended = cli("train", f"{flag}=theirs/config.pickle")
        assert ended.code == 2 and len(ended.lines) == 1 and not marker.exists(), ended
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "final.pt").write_bytes(pickle.dumps(Touch()))
    (folder / "summary.json").write_text("{}")
    with pytest.raises(Exception):  # noqa: B017  whatever it is, nothing was run
        coopsgd.Run(folder).rows()
    assert not marker.exists()


def test_an_environment_variable_stays_where_it_is_with_a_worker(stranger, cli):
    folder, _ = stranger(QUADRATIC, {"name": "${oc.env:HOME}"})
    (folder / "metrics.jsonl").unlink()
    ended = cli(first=functools.partial(_worker, "coopsgd.worker", "theirs"))
    assert ended.code == 0, ended.err
    assert json.loads((folder / "summary.json").read_text())["name"] == "${oc.env:HOME}"


TEXT = (
    "task=language",
    "model.width=8",
    "model.layers=1",
    "model.heads=1",
    *QUADRATIC[1:-1],
    "batch_size=2",
    f"data.file={__file__}",
)
FILES = {
    "data.file": (TEXT, "data.file"),
    "a matrix": ((*QUADRATIC, "algo=cooperative", "algo.W=[[0.5,0.5],[0.5,0.5]]"), "algo.W"),
    "an array of the task": (QUADRATIC, "task.start"),
    "a probe": ((*QUADRATIC, "cluster=wan_20m"), "cluster"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("way", ["absolute", "relative", "link"])
def test_files_outside_the_folder_are_not_read(stranger, tmp_path, capfd, kind, way):
    words, key = FILES[kind]
    (tmp_path / "secret").write_text("a secret " * 500)
    at = {"absolute": str(tmp_path / "secret"), "relative": "theirs/../secret", "link": "theirs/cluster.file.json"}[way]
    folder, _ = stranger(words, {key: {"name": "from_probe", "file": at} if key == "cluster" else at})
    if way == "link":
        (folder / "cluster.file.json").symlink_to(tmp_path / "secret")
    assert command.train(["--config-path", "theirs", "hydra.run.dir=again"]) == 2
    said = refused(capfd.readouterr().err)
    assert at in said or (way == "relative" and str(tmp_path / "secret") in said)
    assert not Path("again").exists()


KINDS = {
    "model": ["os:system", "subprocess:run", "builtins:exec", "pickle:loads", "shutil:rmtree", "collections:OrderedDict"],
    "data": ["os:system", "subprocess:run", "builtins:exec", "builtins:list", "collections:UserList", "builtins:range"],
}


@pytest.mark.parametrize(("group", "path"), [(group, path) for group, paths in KINDS.items() for path in paths])
def test_not_even_your_own_word_makes_a_model_of_python_itself(group, path):
    with pytest.raises(ConfigError, match=path) as error:
        compose.compose_config([f"{group}=custom", f"{group}.path={path}"])
    assert len(str(error.value).splitlines()) == 1 and f"{group}.path" in str(error.value)


MINE = """
import functools, os, torch
from os import system
from subprocess import Popen
class Net(torch.nn.Sequential):
    def __init__(self, classes=10): super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, classes))
def make(): return Net()
partly = functools.partial(Net, 10)
kept = functools.lru_cache(make)
class Maker:
    def __call__(self): return Net()
maker = Maker()
class Bare: pass
number = 3
run = functools.partial(os.system, "touch marker")
"""


def test_models_are_classes_and_functions_of_the_right_kind(tmp_path, monkeypatch):
    (tmp_path / "mine_kinds.py").write_text(MINE)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    from coopsgd.models.external import Custom

    for name in ("Net", "make", "partly", "kept", "maker"):
        assert isinstance(Custom(path=f"mine_kinds:{name}").build((1, 8, 8), 10), torch.nn.Module), name
    for name in ("system", "Popen", "Bare", "number", "run", "os", "functools"):
        with pytest.raises(ValueError, match=f"mine_kinds:{name}"):
            Custom(path=f"mine_kinds:{name}").fetch()
    assert not Path("marker").exists()


def test_a_file_beside_you_takes_nobody_elses_place(cli, tmp_path):
    """random.py and scipy.py beside you, and a W of yours: they are not what our modules import."""
    for name in ("random", "scipy", "networkx"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not me')\n")
    (tmp_path / "mine.py").write_text("def W(m, r): return [[1 / m] * m] * m\n")
    ended = cli("train", *QUADRATIC, "algo=cooperative", "algo.W=mine:W", "hydra.run.dir=here")
    assert ended.code == 0, ended.err
    ended = cli("train", *QUADRATIC, "algo=cooperative", "algo.W=random:W")
    assert ended.code == 2 and len(ended.lines) == 1 and "random.py" in ended.err
    ended = cli("train", *QUADRATIC, "algo=cooperative", "algo.W=networkx:W")
    assert ended.code == 2 and len(ended.lines) == 1 and "rename" in ended.err


def test_every_part_that_imports_says_so():
    """`imported` is called by parts that declare what they import, which build.py asks about before it makes one.

    And by the catalogue, which imports what somebody asks it to list.
    """
    root = Path(schema.__file__).parents[1]
    using = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if "imported(" in path.read_text()}
    parts = {"models/external.py", "mixing/written.py", "data/custom.py", "tasks/arrays.py"}
    helpers = {"data/parts.py", "data/views.py", "tasks/engines/losses.py"}  # of the last two
    assert using == {"registry.py", "setup/catalogue.py", "models/external.py", "mixing/written.py", *helpers}
    for name in parts:
        assert "IMPORTS = (" in (root / name).read_text(), name
    safe = 'LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)\n'
    texts = [path.read_text() for path in root.rglob("*.py")]
    text = "\n".join(one.replace("yaml.load(block, LOADER)", "") if safe in one else one for one in texts)
    for unsafe in ("allow_pickle=True", "weights_only=False", "yaml.load(", "pickle.load(", "eval(", "exec("):
        found = text.replace(".eval(", "").replace("quick_eval(", "")
        assert unsafe not in found, unsafe


def test_arrays_in_a_folder_are_no_pickles(stranger, capfd):
    folder, marker = stranger((*QUADRATIC, "algo=cooperative", "algo.W=[[0.5,0.5],[0.5,0.5]]"), {"algo.W": "algo.W.npy"})

    class Touch:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    np.save(folder / "algo.W.npy", np.array([Touch()], dtype=object), allow_pickle=True)
    assert command.train(["--config-path", "theirs", "hydra.run.dir=again"]) == 2
    assert "algo.W" in capfd.readouterr().err and not marker.exists()


# links that somebody has put where a run is about to write


def test_a_planted_link_is_not_followed(cli, tmp_path):
    """In a folder that others can write to; what the links point to stays what it was."""
    mine = tmp_path / "mine"
    mine.write_text("mine")
    shared = tmp_path / "shared"
    for name in (
        "metrics.jsonl",
        "summary.json",
        "checkpoints/final.safetensors",
        "logs/rank0.err",
        "logs/rank0.out",
        "logs/store",
    ):
        (shared / name).parent.mkdir(parents=True, exist_ok=True)
        (shared / name).symlink_to(mine)
    (tmp_path / "chatty.py").write_text(
        "import sys\nprint('out')\nprint('err', file=sys.stderr)\ndef W(m, r): print(r); return [[1 / m] * m] * m\n"
    )
    ended = cli("train", *QUADRATIC, "algo=cooperative", "algo.W=chatty:W", "hydra.run.dir=shared")
    assert ended.code == 0, ended.err
    assert mine.read_text() == "mine" and coopsgd.Run(shared).rows().shape == (2, 10)
    assert not any(path.is_symlink() for path in shared.rglob("*"))
    (shared / "theory.png").symlink_to(mine)
    assert cli("analyze", "--over", "shared", "--trust").code == 0 and mine.read_text() == "mine"


@pytest.mark.parametrize("name", ["logs", "checkpoints", "config.yaml"])
def test_a_link_in_place_of_what_a_run_makes_first_is_refused(tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "shared").mkdir()
    if name != "config.yaml":
        elsewhere.mkdir()
    (tmp_path / "shared" / name).symlink_to(elsewhere)
    with pytest.raises(ConfigError, match=r"choose another hydra\.run\.dir"):
        folders.write_config(compose.compose_config(QUADRATIC).config, tmp_path / "shared", "coopsgd train")
    assert not elsewhere.exists() or not list(elsewhere.iterdir())


def test_halves_and_locks_are_files_of_our_own(tmp_path):
    from coopsgd.data import cache
    from coopsgd.host import files

    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / f"x.json.{os.getpid()}.part").symlink_to(mine)
    (tmp_path / "x.json").symlink_to(mine)
    files.write_json(tmp_path / "x.json", {"a": 1})
    assert mine.read_text() == "mine" and json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert not (tmp_path / "x.json").is_symlink()
    (tmp_path / "lock").symlink_to(tmp_path / "made by the lock")
    with cache.locked(tmp_path / "lock"):
        assert not (tmp_path / "made by the lock").exists()
    W = np.full((70, 70), 1 / 70)
    np.save(tmp_path / "w.npy", W)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "algo.W.npy").symlink_to(mine)
    words = ("task=quadratic", "algo=cooperative", f"algo.W={tmp_path}/w.npy", "workers=70", "processes=1")
    folders.write_config(compose.compose_config(words).config, tmp_path / "shared", "coopsgd train")
    assert mine.read_text() == "mine" and np.array_equal(np.load(tmp_path / "shared" / "algo.W.npy"), W)
