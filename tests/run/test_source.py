"""The source of a user's own classes and functions is in the run folder, and what goes on or is verified looks at it."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import command
from playing import settle
from test_provenance import git

import coopsgd
from coopsgd import registry, usercode
from coopsgd.commands import compose, show
from coopsgd.errors import ConfigError, DamagedFile
from coopsgd.run import folders, provenance, source
from coopsgd.run.start import as_it_was
from coopsgd.setup.parts import Parts

DIGITS = ("workers=2", "processes=1", "steps=4", "device=cpu", "data=digits", "eval_every=0", "log_every=2")
QUADRATIC = ("task=quadratic", *DIGITS[:4], "eval_every=0", "log_every=2")
NET = """
import torch
from helpers.sizes import WIDTH

class Net(torch.nn.Sequential):
    def __init__(self, classes=10):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, classes))
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder that is importable in this process, where nothing from another test has been imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    sys.path_importer_cache.clear()


def net(folder, width=8):
    (folder / "helpers").mkdir(exist_ok=True)
    (folder / "helpers" / "__init__.py").write_text("")
    (folder / "helpers" / "sizes.py").write_text(f"WIDTH = {width}\n")
    (folder / "mynet.py").write_text(NET)
    return (*DIGITS, "model=custom", "model.path=mynet:Net")


def frozen(words, folder="run"):
    """The source/ of a run of these words."""
    folders.write_config(compose.compose_config(words).config, Path(folder), "coopsgd train")
    return {place: said["path"] for place, said in coopsgd.Run(folder).source.items()}


# what it is made of

PARTS = """
from dataclasses import dataclass
import torch
from coopsgd.strategies.cooperative import Cooperative
from coopsgd.mixing.static import Average
class Set(torch.utils.data.Dataset):
    def __len__(self): return 60
    def __getitem__(self, i): return torch.full((1, 4, 4), i / 60), i % 2
class Net(torch.nn.Sequential):
    def __init__(self, classes=10): super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, classes))
@dataclass(frozen=True)
class Strategy(Cooperative):
    pass
class Mixing(Average):
    pass
def W(m, r): return [[1 / m] * m] * m
def loss(outputs, targets): return torch.nn.functional.cross_entropy(outputs, targets)
def collate(items): return torch.stack([x for x, y in items]), torch.tensor([y for x, y in items])
"""
NAMED = {
    "model.path": (*DIGITS, "model=custom", "model.path=parts:Net"),
    "data.path": (*DIGITS, "data=custom", "data.path=parts:Set", "batch_size=2"),
    "data.collate": (*DIGITS, "data=custom", "data.path=other:Set", "data.collate=parts:collate", "batch_size=2"),
    "task.loss": (*DIGITS, "task.loss=parts:loss"),
    "algo.W": (*QUADRATIC, "algo=cooperative", "algo.W=parts:W"),
    "algo.strategy": (*QUADRATIC, "algo=pasgd", "algo.strategy=parts:Strategy"),
    "algo.mixing": (*QUADRATIC, "algo=pasgd", "algo.mixing=parts:Mixing"),
}


@pytest.mark.parametrize("key", NAMED)
def test_whatever_key_names_it(mine, key):
    (mine / "parts.py").write_text(PARTS)
    (mine / "other.py").write_text(PARTS)
    expected = {"parts.py": str(mine / "parts.py")}
    if key == "data.collate":
        expected["other.py"] = str(mine / "other.py")
    assert frozen(NAMED[key]) == expected
    assert (mine / "run" / "source" / "parts.py").read_text() == PARTS


def test_a_class_of_every_group(mine):
    from test_your_classes import EXAMPLES, IMPORTS

    for group, (words, file, code) in EXAMPLES.items():
        (mine / file).write_text(IMPORTS + code)
        sys.modules.pop(Path(file).stem, None)  # of another test that this process has run
        small = ["task=quadratic"] if group in ("algo", "topology", "period", "optim", "schedule", "cluster") else []
        words = (*words, *small, "workers=4", "steps=4", "eval_every=0")
        assert frozen(words, group) == {file: str(mine / file)}, group


def test_what_it_imports_is_there_too_and_nothing_else(mine):
    """Of its own folder, package or another folder of the user's: at the top, within functions, relatively and by name."""
    lab = mine / "lab" / "nets"
    lab.mkdir(parents=True)
    (mine / "lab" / "__init__.py").write_text("")
    (lab / "__init__.py").write_text("from .blocks import block\n")
    (lab / "blocks.py").write_text("import numpy\nfrom ..sizes import *\ndef block(): return WIDTH\n")
    (mine / "lab" / "sizes.py").write_text("from typing import TYPE_CHECKING\nWIDTH = 3\nif TYPE_CHECKING:\n    import typed\n")
    (lab / "net.py").write_text(
        "import importlib, random, torch\nfrom . import block\nfrom torchvision import models\n"
        "named = importlib.import_module('named')\n"
        "class Net(torch.nn.Sequential):\n"
        "    def __init__(self): super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
        "    def forward(self, x):\n"
        "        import late\n"
        "        return super().forward(x)\n"
        "if __name__ == '__main__':\n    import script\n"
    )
    for name in ("named", "late", "script", "typed", "unused"):
        (mine / f"{name}.py").write_text("")
    found = frozen((*DIGITS, "model=custom", "model.path=lab.nets.net:Net"))
    inside = ("lab/__init__.py", "lab/sizes.py", "lab/nets/__init__.py", "lab/nets/blocks.py", "lab/nets/net.py")
    assert {*found} == {*inside, "named.py", "late.py"}
    assert all(path == str(mine / place) for place, path in found.items())


def test_installed_packages_and_built_in_names_leave_nothing(mine):
    """Their versions are known."""
    found = frozen(
        (*DIGITS, "data=custom", "data.path=torchvision.datasets:FakeData", "data.arguments={size: 60}", "batch_size=2")
    )
    assert found == {} and not (mine / "run" / "source").exists()
    assert provenance.source_sha256(Parts(settle(QUADRATIC))) is None


def test_a_package_that_is_installed_elsewhere_is_not_the_users_own(mine, monkeypatch):
    packages = mine / "venv" / "lib" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "theirs.py").write_text(PARTS)
    monkeypatch.setattr(sys, "path", [*sys.path, str(packages)])
    assert frozen((*QUADRATIC, "algo=cooperative", "algo.W=theirs:W")) == {}


def test_a_name_that_a_package_of_the_users_registers(mine, monkeypatch):
    """By an entry point, of a package that is installed as a link to its sources."""
    (mine / "plugin.py").write_text(PARTS)

    class Point:
        name = "mine"

        def load(self):
            return importlib.import_module("plugin").Mixing

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()] if group == "coopsgd.mixing" else [])
    assert [*frozen((*QUADRATIC, "algo=pasgd", "algo.mixing=mine"))] == ["plugin.py"]


def test_each_run_of_a_process_has_its_own(mine):
    for name in ("one", "two"):
        (mine / f"{name}.py").write_text(PARTS)
    for name in ("one", "two", "one"):
        at = f"{name}{len(list(mine.iterdir()))}"
        assert [*frozen((*QUADRATIC, "algo=cooperative", f"algo.W={name}:W"), at)] == [f"{name}.py"]


def test_it_is_what_was_imported_not_what_lies_there_now(mine):
    (mine / "parts.py").write_text(PARTS)
    words = (*QUADRATIC, "algo=cooperative", "algo.W=parts:W")
    frozen(words, "a")
    (mine / "parts.py").write_text("# edited while a sweep goes on\n")
    frozen(words, "b")
    assert (mine / "b" / "source" / "parts.py").read_text() == PARTS


def test_where_it_lay_and_what_the_commit_was(mine):
    provenance._git.cache_clear()
    words = net(mine)
    git(mine, "init", "-q")
    git(mine, "add", "mynet.py")
    git(mine, "commit", "-qm", "first")
    (mine / "mynet.py").write_text(NET + "# more\n")
    assert [*frozen(words)] == ["mynet.py", "helpers/__init__.py", "helpers/sizes.py"]
    said = coopsgd.Run("run").source["mynet.py"]
    assert said["path"] == str(mine / "mynet.py") and said["bytes"] == len(NET) + 7 and said["kept"]
    assert said["git"] == {"commit": git(mine, "rev-parse", "HEAD"), "dirty": True}
    found = show.facts(compose.compose_config(words).parts, ())["own_code"]
    assert found == coopsgd.Run("run").source


def test_files_that_are_too_large_are_named(mine, monkeypatch):
    words = net(mine)
    (mine / "helpers" / "sizes.py").write_text("WIDTH = 3\n" + "#" * 3000)
    monkeypatch.setattr(usercode, "LARGEST", 2000)
    checked = compose.compose_config(words)
    assert any("helpers/sizes.py (2.9 KiB)" in note or "helpers/sizes.py (3" in note for note in checked.notes), checked.notes
    frozen(words)
    assert not (mine / "run" / "source" / "helpers" / "sizes.py").exists()
    said = coopsgd.Run("run").source["helpers/sizes.py"]
    assert not said["kept"] and said["bytes"] == 3010 and len(said["sha256"]) == 64


def test_all_of_them_have_room_for_so_much(mine, monkeypatch):
    words = net(mine)
    monkeypatch.setattr(usercode, "ALL", len(NET) + 3)
    compose.compose_config(words)
    assert [file.content is not None for file in usercode.of(["mynet:Net"]).values()] == [True, True, False]


# how it is written


def test_a_folder_that_is_no_runs_stays(mine):
    words = net(mine)
    (mine / "run" / "source").mkdir(parents=True)
    (mine / "run" / "source" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"run/source is there, and no run's; .*choose another hydra.run.dir"):
        frozen(words)
    assert [path.name for path in (mine / "run").rglob("*")] == ["source", "thesis.txt"]
    (mine / "run" / "source" / "thesis.txt").unlink()
    (mine / "run" / "source").rmdir()
    (mine / "run" / "source").symlink_to(mine)
    with pytest.raises(ConfigError, match="is a link"):
        frozen(words)


def test_a_command_that_was_killed_before_there_was_a_run_is_no_hindrance(mine):
    words = net(mine)
    frozen(words)
    (mine / "run" / "config.yaml").unlink()
    (mine / "run" / "source.999999.part").mkdir()
    frozen(words)
    assert sorted(path.name for path in (mine / "run").iterdir()) == ["config.yaml", "source"]


FULL = {"a copy": (source.newfile, "create"), "the list": (source.files, "write_json"), "the end": (Path, "rename")}


@pytest.mark.parametrize("at", FULL)
def test_a_disk_that_is_full_leaves_nothing(mine, monkeypatch, at):
    words = net(mine)
    checked = compose.compose_config(words).config

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*FULL[at], full)
    with pytest.raises(ConfigError, match=r"run cannot be written .No space left on device\)"):
        folders.write_config(checked, mine / "run", "coopsgd train")
    assert list((mine / "run").iterdir()) == []


# who looks at it


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A run of mynet.py that has come to its end, with checkpoints, and what lies beside it."""
    at = tmp_path_factory.mktemp("trained")
    assert command(at, "train", *net(at), "checkpoint_every=2", "hydra.run.dir=run").code == 0
    return at


@pytest.fixture
def trained(mine, once):
    """A copy of it."""
    shutil.copytree(once, mine, dirs_exist_ok=True)
    return mine


def taking(place):
    """What PYTHONPATH=PLACE does, in a fork."""
    sys.path.insert(0, str(Path(place).resolve()))


def killed():
    from coopsgd.run import launch

    launch.run = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_has_it(mine, cli):
    assert cli("train", *net(mine), "hydra.run.dir=run", first=killed).code == -signal.SIGKILL
    assert (mine / "run" / "source" / "mynet.py").read_text() == NET
    assert {*coopsgd.Run("run").source} == {"mynet.py", "helpers/__init__.py", "helpers/sizes.py"}


def test_verify_names_what_is_not_as_it_was_and_compares(trained, cli):
    found = json.loads((trained / "run" / "summary.json").read_text())["environment"]["source"]
    assert found == {place: said["sha256"] for place, said in coopsgd.Run("run").source.items()} and len(found) == 3
    (trained / "mynet.py").write_text(NET + "# a comment\n")
    ended = cli("verify", "run", "--trust")
    assert ended.code == 0 and re.search("^not as it was: mynet.py: [0-9a-f]{16} then, [0-9a-f]{16} now$", ended.out, re.M)
    assert "bit for bit, though mynet.py differs" in ended.out
    (trained / "mynet.py").write_text(NET.replace("ReLU", "Tanh"))
    ended = cli("verify", "run", "--trust")
    assert ended.code == 1 and "not as it was: mynet.py" in ended.out and "\ndifferent: step " in ended.out


def test_a_run_goes_on_with_its_own_source(trained, cli):
    net(trained, width=8)
    (trained / "mynet.py").write_text(NET.replace("ReLU", "Tanh"))
    refused = cli("resume", "run", "--trust", "steps=6")
    assert refused.code == 2 and len(refused.lines) == 1 and refused.err.startswith("coopsgd: mynet.py: not as it was")
    assert "PYTHONPATH=run/source" in refused.err and "--changed-source" in refused.err
    assert cli("resume", "run", "--trust", "steps=6", first=partial(taking, "run/source")).code == 0
    again = cli("train", *net(trained)[:-2], "model=custom", "model.path=mynet:Net", "hydra.run.dir=whole", "steps=6")
    assert again.code == 0 and torch.equal(coopsgd.Run("whole").rows(), coopsgd.Run("run").rows())


def test_or_with_what_there_is_now_where_it_is_told(trained, cli):
    done = coopsgd.Run(trained / "run").summary["steps"]  # it is saved after its last step
    (trained / "mynet.py").write_text(NET.replace("ReLU", "Tanh"))
    ended = cli("resume", "run", "--trust", "steps=6", "--changed-source")
    assert ended.code == 0 and "the bits may be others than without a stop: mynet.py: " in ended.out, ended
    assert "Tanh" in (trained / "run" / "source" / "mynet.py").read_text()
    assert (trained / "run" / f"source-until-step-{done}" / "mynet.py").read_text() == NET
    assert cli("resume", "run", "--trust", "steps=8").code == 0, "it is as it was now"


def test_the_same_command_again(mine, cli):
    words = ("train", *net(mine), "checkpoint_every=2", "hydra.run.dir=run", "resume=auto")
    assert cli(*words).code == 0
    (mine / "run" / "summary.json").unlink()
    (mine / "helpers" / "sizes.py").write_text("WIDTH = 8  # still\n")
    refused = cli(*words)
    assert refused.code == 2 and "helpers/sizes.py: not as it was" in refused.err
    assert cli(*words, "--changed-source").code == 0
    refused = cli("train", *QUADRATIC, "--changed-source")
    assert (
        refused.code == 2
        and refused.err == "coopsgd: --changed-source: is about a run that goes on, by resume=auto; leave it out\n"
    )


def test_a_file_that_is_gone_is_in_the_run(trained, cli, monkeypatch):
    (trained / "mynet.py").unlink()
    for verb in (("resume", "run", "steps=6"), ("verify", "run")):
        ended = cli(*verb, "--trust")
        assert (
            ended.code == 2 and len(ended.lines) == 1 and "the run's own mynet.py is used by PYTHONPATH=run/source" in ended.err
        ), ended
    assert cli("verify", "run", "--trust", first=partial(taking, "run/source")).code == 0


@pytest.mark.parametrize("key", NAMED)
def test_what_a_folder_names_and_is_gone_is_told_in_a_line(mine, key, monkeypatch):
    """Also what is imported late, by those who read the data or train."""
    (mine / "other.py").write_text(PARTS)
    (mine / "parts.py").write_text(PARTS)
    frozen(NAMED[key])
    (mine / "parts.py").unlink()
    for loaded in ("parts", "other"):
        sys.modules.pop(loaded, None)
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match=r"; the run's own parts\.py is used by PYTHONPATH=run/source$") as told:
        as_it_was(Path("run"), trust=True)
    assert str(told.value).count("PYTHONPATH") == 1 and "parts" in str(told.value).partition(";")[0]


def test_a_run_that_is_read_takes_the_code_of_today_and_says_so(trained):
    assert coopsgd.Run("run", trust=True).model()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    (trained / "helpers" / "sizes.py").write_text("WIDTH = 8  # still\n")
    for name in ("mynet", "helpers", "helpers.sizes"):
        sys.modules.pop(name)
    run = coopsgd.Run("run", trust=True)
    with pytest.warns(UserWarning, match="not as it was: helpers/sizes.py; what run began with is in run/source"):
        run.model()
    with pytest.raises(ConfigError, match="--trust"):
        coopsgd.Run("run").model()


def test_a_config_that_is_repeated_says_so(trained, cli):
    (trained / "mynet.py").write_text(NET + "# a comment\n")
    ended = cli("train", "--config-path", "run", "--trust", "hydra.run.dir=again")
    assert ended.code == 0 and "not as it was: mynet.py; what " in ended.err


def torchrun():
    sys.argv = ["coopsgd.worker", "--trust", "run"]
    from coopsgd.run import elsewhere

    elsewhere.main()
    sys.exit(0)


def test_a_run_that_is_frozen_first_and_started_later_says_so(mine, cli):
    assert cli("train", *net(mine), "launch=false", "hydra.run.dir=run").code == 0
    assert (mine / "run" / "source" / "mynet.py").read_text() == NET
    (mine / "mynet.py").write_text(NET + "# a comment\n")
    ended = cli(first=torchrun)
    assert ended.code == 0 and "not as it was: mynet.py; what run began with is in run/source" in ended.out, ended
    assert any("not as it was: mynet.py" in note for note in coopsgd.Run("run").summary["notes"])


def test_whoever_compares_runs_says_so_and_does_not_mix_them(mine, cli):
    (mine / "parts.py").write_text(PARTS)
    words = (*QUADRATIC, "algo=cooperative", "algo.W=parts:W", "tau=1", "eval_every=2")
    assert cli("train", "-m", *words, "seed=0,1", "hydra.sweep.dir=s").code == 0
    (mine / "parts.py").write_text(PARTS.replace("1 / m]", "1 / m + 0.0]"))
    again = cli("train", "-m", *words, "seed=0,1", "skip_done=true", "hydra.sweep.dir=s")
    assert (
        again.code == 0
        and "done already in s/algo=cooperative,seed=1 (not as it was: parts.py), so it is not run again" in again.out
    )
    assert cli("train", *words, "seed=2", "hydra.run.dir=other").code == 0
    found = cli("analyze", "--over", "s/algo=cooperative,seed=0", "s/algo=cooperative,seed=1", "other", "--trust", "--json")
    said = json.loads(found.out)
    assert [mean["seeds"] for mean in said["means"]] == [[0, 1]] and "Warning" not in found.err
    assert [note for note in said["notes"] if note.startswith("not as it was: parts.py; what s/algo=cooperative,seed=0")]
    timed = cli("time", "s/algo=cooperative,seed=0", "cluster=wan_100m", "--trust")
    assert timed.code == 0 and "not as it was: parts.py; what s/algo=cooperative,seed=0 began with" in timed.out + timed.err
    assert "Warning" not in timed.err


def test_a_record_that_is_damaged_is_told(trained, cli):
    (trained / "run" / "source" / "files.json").write_text('{"files": 3}')
    with pytest.raises(DamagedFile, match=r"source/files.json is damaged"):
        coopsgd.Run("run").source  # noqa: B018
    ended = cli("resume", "run", "steps=6", "--trust")
    assert ended.code == 2 and len(ended.lines) == 1 and "files.json is damaged" in ended.err, ended


def test_without_trust_nothing_of_it_is_read(trained, cli):
    with pytest.raises(ConfigError, match="--trust"):
        as_it_was(trained / "run", trust=False)
