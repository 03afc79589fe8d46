"""The house rules: what travels in the wheel, which imports point where, that every yaml and every name works."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from conftest import needs
from imagefiles import cifar_folder, idx_folder
from playing import play
from probes import probe_of

from coopsgd.data.cifar import CIFAR10, CIFAR100
from coopsgd.registry import HOMES, lookup, names, register
from coopsgd.setup import build, catalogue
from coopsgd.setup.build import KINDS
from coopsgd.setup.schema import GROUPS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("compiler", [None, "/bin/false"])
def test_the_wheel_holds_every_module_and_every_yaml(tmp_path, monkeypatch, compiler):
    """Also where nothing can be compiled."""
    if compiler:
        monkeypatch.setenv("CC", compiler)
    source = tmp_path / "source"  # a copy: building leaves a folder behind, and takes in what an earlier one left
    source.mkdir()
    for part in ("coopsgd", "conf", "setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    for built in (source / "coopsgd" / "host").glob("_native*"):
        built.unlink()
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), "."]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    compiled = {name for name in inside if name.startswith("coopsgd/host/_native")}
    assert len(compiled) == (compiler is None and sys.platform == "linux" and shutil.which("cc") is not None)
    inside -= compiled
    tree = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "coopsgd").rglob("*")
        if path.suffix in (".py", ".js", ".css") or path.name == "py.typed"
    }
    tree |= {
        f"coopsgd/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*") if path.suffix in (".yaml", ".py", ".bib")
    }
    assert inside == tree


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def at_start(path: Path) -> set[str]:
    """What importing the file imports: lines of the module itself, those for type checkers left out."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= imported_of(node)
    return found


def imported_of(node: ast.Import | ast.ImportFrom) -> set[str]:
    return {alias.name for alias in node.names} if isinstance(node, ast.Import) else {node.module or ""}


# from the ground up; a module may import what is on its own floor or below. The longest name counts
FLOORS = (
    ("errors", "blame", "usercode", "streams", "host"),
    (
        "registry",
        "setup.__init__",
        "setup.values",
        "setup.exact",
        "setup.yamls",
        "setup.formats",
        "setup.external",
        "setup.returned",
        "setup.schema",
        "run.schema",
    ),
    ("mixing",),
    ("fleet",),
    ("optim", "schedules", "strategies"),
    ("modules", "models", "data", "predict.clock.network", "predict.clock.cluster"),
    ("tasks",),
    ("setup",),
    ("loop",),
    ("predict",),
    ("run", "cooperation"),
    ("compare",),
    ("commands", "completion"),
    ("cli", "verbs", "testing", ""),
)


def floor_of(module: str) -> int:
    found = [(len(name), floor) for floor, names in enumerate(FLOORS) for name in names if f"{module}.".startswith(f"{name}.")]
    return max(found, default=(0, len(FLOORS) - 1))[1]


def holds_code(module: str) -> bool:
    """Is it a module, or a package that exports names of its modules?"""
    at = ROOT / "coopsgd" / module.replace(".", "/")
    return at.with_suffix(".py").exists() or (at.is_dir() and "import" in (at / "__init__.py").read_text())


def test_imports_point_one_way():
    files = {str(path.relative_to(ROOT / "coopsgd")): imported(path) for path in (ROOT / "coopsgd").rglob("*.py")}

    def importers(module: str) -> set[str]:
        return {name for name, found in files.items() if any(i == module or i.startswith(module + ".") for i in found)}

    assert importers("click") == {"cli.py", "completion.py", "verbs.py"}
    composers = {
        "setup/compose.py",
        "commands/train/session.py",
        "commands/train/command.py",
        "commands/train/launching.py",
        "completion.py",
        "commands/resume.py",
    }
    composers |= {"setup/messages.py", "setup/sources.py", "setup/loading.py"}
    grammar = {"setup/words.py", "setup/sweeps.py"}  # they parse words; nothing is composed there
    assert importers("hydra") == composers | grammar
    distributed = {"fleet/processes.py", "fleet/hosts.py", "fleet/world.py", "fleet/lookout.py"}
    assert importers("torch.distributed") == {"run/launch.py", "run/group.py", *distributed, "testing/processes.py"}
    assert importers("coopsgd.fleet.stacked") <= {
        "run/worker.py",
        "fleet/processes.py",
        "cooperation/cooperation.py",
        "testing/by_hand.py",
        "testing/runs.py",
    }
    assert importers("coopsgd.fleet.processes") == {
        *("run/worker.py", "fleet/hosts.py", "fleet/world.py", "testing/runs.py"),
    }
    upwards: dict[str, set[str]] = {}
    for name, found in files.items():
        own = name.removesuffix(".py").removesuffix("__init__").replace("/", ".").strip(".")
        for module in (i.removeprefix("coopsgd.") for i in found if i.startswith("coopsgd.")):
            if floor_of(module) > floor_of(own) and holds_code(module):
                upwards.setdefault(own, set()).add(module.split(".")[0])
    assert not upwards


def test_what_refuses_a_config_imports_no_torch():
    heavy = ("torch", "torchvision", "tensorboard")
    light = [f"setup/{path.name}" for path in (ROOT / "coopsgd" / "setup").glob("*.py")]
    light += [f"predict/{path.name}" for path in (ROOT / "coopsgd" / "predict").glob("*.py") if path.name != "rehearsal.py"]
    light += [f"host/{name}.py" for name in ("reading", "sizes", "signals", "newfile")]
    light += [f"run/{name}.py" for name in ("reader", "final", "folders", "start")]
    light += [f"commands/{name}.py" for name in ("compose", "analyze", "overlay", "probe/__init__", "probe/command")]
    light += [f"commands/train/{name}.py" for name in ("command", "session")]
    light += [
        "cli.py",
        "verbs.py",
        "registry.py",
        "streams.py",
        "optim/__init__.py",
        "optim/torch.py",
        "schedules.py",
        "fleet/plan.py",
        "loop/norm_stats.py",
    ]
    light += [f"strategies/{name}.py" for name in ("base", "cooperative", "fullsync", "period")]
    light += [f"tasks/{name}.py" for name in ("quadratic", "supervised", "classification", "language")]
    light += [
        str(path.relative_to(ROOT / "coopsgd"))
        for room in ("predict/clock", "predict/theory", "mixing", "models", "data")
        for path in (ROOT / "coopsgd" / room).glob("*.py")
    ]
    for name in light:
        assert not {i for i in at_start(ROOT / "coopsgd" / name) if i.split(".")[0] in heavy}, name


def test_matplotlib_is_imported_when_something_is_drawn():
    for path in (ROOT / "coopsgd").rglob("*.py"):
        assert not {i for i in at_start(path) if i.split(".")[0] == "matplotlib"}, path


USUAL = """
import gc
import sys
from importlib import metadata
usual, scan, scans = gc.get_threshold(), metadata.entry_points, []
metadata.entry_points = lambda **which: scans.append(which) or scan(**which)
from coopsgd.cli import main
LOOK = (["show", "algo=dpsgd"], ["analyze", "algo=easgd"], ["analyze", "algo=pasgd"], ["show", "algo=fullsync"], ["list"])
for words in (*LOOK, ["train", "task=quadratic", "steps=3", "processes=1", "hydra.run.dir=r"]):
    sys.argv = ["coopsgd", *words]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, ended.code
    assert words[0] == "train" or "torch" not in sys.modules, f"{words} imports torch"
assert scans.count({}) <= 2, f"installed packages were looked through {scans.count({})} times"  # torch has scans of its own
heavy = {"scipy", "networkx", "sklearn", "matplotlib", "torchvision", "sympy"}
found = sorted({name.partition(".")[0] for name in sys.modules} & heavy)
assert not found, found
looks = [one["collections"] for one in gc.get_stats()]
assert looks[1] < 10 and looks[2] == 0, f"the collector looked through what was imported: {looks} times"
assert gc.get_freeze_count() > 100_000 and gc.get_threshold() == usual, "the collector sleeps on, or looks at everything"
"""


def test_what_a_usual_command_imports(tmp_path):
    """Each of these takes a tenth of a second or more to import, and each look through what was imported another."""
    done = subprocess.run([sys.executable, "-c", USUAL], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


NAMED = """
import gc
import sys
from coopsgd import registry
from coopsgd.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print(sorted({thing.__module__ for known in registry._known.values() for thing in known.values()}))
print(registry._entry_points.cache_info().misses, gc.get_freeze_count())
"""
BASES = sorted({base.__module__ for base in build.BASES.values()})  # with the names beside them, if there are any
BESIDE_BASES = ["coopsgd.mixing.static", "coopsgd.optim", "coopsgd.setup.stop"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["show", "algo=easgd"], ["strategies.cooperative", "tasks.classification"]),
        (["analyze", "algo=dpsgd", "topology=ring"], ["strategies.cooperative", "tasks.classification"]),
        (["show", "algo=matcha", "model=logistic"], ["mixing.matcha", "models.logistic"]),
    ],
)
def test_what_a_config_names_is_imported_and_no_other_choice(words, named):
    """Nor are installed packages looked through; and what was imported is not, when the command ends."""
    done = subprocess.run([sys.executable, "-c", NAMED, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules, counts = done.stdout.splitlines()[-2:]
    found = set(ast.literal_eval(modules))
    usual = {f"coopsgd.{name}" for name in ("models.mlp", "data.digits", "tasks.classification", "strategies.cooperative")}
    wanted = {f"coopsgd.{name}" for name in named}
    assert wanted <= found and found <= {*BASES, *BESIDE_BASES, *usual, *wanted}, found
    scans, frozen = map(int, counts.split())
    assert scans == 0 and frozen > 50_000, counts


BESIDE = {  # what refuses D-PSGD at every step, with what it is for
    ("correction", "d2"): {"algo.lazy=true"},
    ("correction", "led"): {"algo.lazy=true"},
    ("correction", "scaffold"): {"algo=pasgd", "tau=1"},
    ("correction", "fednova"): {"algo=pasgd", "tau=1"},
    ("codec", "demo"): {"algo=pasgd", "tau=1"},
    ("codec", "sparseloco"): {"algo=pasgd", "tau=1"},
    ("fragments", "columns"): {"tau=2"},
    ("fragments", "sparta"): {"tau=2", "fragments.count=2"},
}
YAMLS = [(group, choice.name) for group in GROUPS for choice in catalogue.choices(group)]


@pytest.mark.parametrize(("group", "name"), YAMLS)
def test_every_yaml_composes_builds_and_takes_two_steps(process_groups, monkeypatch, tmp_path, group, name):
    # small files in the format of the real ones
    small = {
        "mnist": lambda: (idx_folder(tmp_path), set()),
        "cifar10": lambda: (cifar_folder(tmp_path, CIFAR10, train=150), set()),
        "cifar100": lambda: (cifar_folder(tmp_path, CIFAR100, train=150), set()),
        "custom": lambda: (
            idx_folder(tmp_path / "MNIST" / "raw").parents[1],
            {"data.path=torchvision.datasets:MNIST", "data.arguments={download: false}"},
        ),
    }
    words = {"algo=dpsgd", "workers=4", "steps=2", "model.hidden=[8]", f"{group}={name}"}
    if group == "model":
        words -= {"model.hidden=[8]"}
    if group == "algo":
        words -= {"algo=dpsgd"}
    if name == "cooperative":
        words = words - {"workers=4"} | {"algo.W=[[0.5,0.5],[0.5,0.5]]", "workers=2"}
    if name == "post_local":
        words |= {"period.switch=1"}
    if name == "multistep":
        words |= {"schedule.milestones=[1]"}
    if name in ("text", "gpt", "language"):
        (tmp_path / "a.txt").write_text("a text " * 3000)
        words = words - {f"{group}={name}"} | {"task=language", f"data.file={tmp_path}/a.txt", "model.layers=1", "batch_size=4"}
        words -= {"model.hidden=[8]"}
    if name == "diabetes":
        words.add("task=regression")
    if beside := BESIDE.get((group, name)):
        words = words - ({"algo=dpsgd"} if "algo=pasgd" in beside else set()) | beside
    if group == "data" and name in small:
        folder, more = small[name]()
        monkeypatch.setenv("COOPSGD_DATA", str(folder))
        words |= more
    if (group, name) == ("model", "custom"):
        words |= {"model.path=nets:Plain"}
    if name == "from_probe":
        (tmp_path / "probe.json").write_text(probe_of("model.hidden=[8]"))
        words.add(f"cluster.file={tmp_path}/probe.json")
    if (group, name) == ("topology", "file"):
        (tmp_path / "g.txt").write_text("0 1\n1 2\n2 3\n")
        words.add(f"topology.file={tmp_path}/g.txt")
    if (group, name) == ("cluster", "graph"):
        lines = "".join(f"edge [ source 0 target {i} distance 100 ] " for i in (1, 2, 3))
        (tmp_path / "n.gml").write_text("graph [ " + "".join(f"node [ id {i} ] " for i in range(4)) + lines + "]")
        words.add(f"cluster.file={tmp_path}/n.gml")
    if (group, name) == ("partition", "file"):
        (tmp_path / "s.json").write_text(str([list(range(40 * i, 40 * i + 40)) for i in range(4)]))
        words.add(f"partition.file={tmp_path}/s.json")
    if name in ("lenet", "vgg11", "vgg16"):  # too many poolings for images of 8 x 8
        words |= {"data.name=nets:Large", "batch_size=2", "eval_every=0"}
    if name == "fashion_mnist":
        needs(lookup("data", name)().find() is not None, "dataset-fashion-mnist")
    assert len(play(process_groups, 1, *sorted(words)).lines) == 2


@pytest.mark.parametrize("kind", HOMES)
def test_every_name_has_a_frozen_dataclass_with_a_docstring(kind):
    for name in names(kind):
        cls = lookup(kind, name)
        assert is_dataclass(cls) and cls.__dataclass_params__.frozen, name
        assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("), name


def test_every_choice_of_a_kind_has_a_yaml():
    for group, kind in (
        ("topology", "graph"),
        ("task", "task"),
        ("model", "model"),
        ("data", "data"),
        ("partition", "partition"),
        ("optim", "optim"),
        ("cluster", "cluster"),
    ):
        yamls = catalogue.choices(group)
        assert {catalogue.settings(group, choice.name)["name"] for choice in yamls} == set(names(kind))


@pytest.mark.parametrize(("group", "name"), YAMLS)
def test_a_yaml_says_only_what_it_changes(group, name):
    """Defaults are the dataclasses'; `tau` is for every algorithm to say."""
    said = catalogue.settings(group, name)
    kinds = ("strategy", "mixing") if group == "algo" else (KINDS[group],)
    for kind in kinds:
        named = said.get(kind if group == "algo" else "name")
        for f in fields(lookup(kind, named)) if named else ():
            assert f.name == "tau" or f.name not in said or said[f.name] != f.default, f"{group}.{f.name} is the default"


def test_keys_and_what_they_mean_are_listed():
    keys = {key.key: key for key in catalogue.options("algo", "easgd")}
    assert keys["alpha"].value == "auto" and "2 / (m + 2)" in keys["alpha"].help and keys["tau"].value == 10
    assert {key.key: key.value for key in catalogue.options("model", "resnet56")} == {
        "depth": 56,
        "norm": "group",
        "memory_format": "auto",
    }
    for group, name in YAMLS:
        hidden = {"topology", "seed", "sizes", "batch_size", "mixing"} & {key.key for key in catalogue.options(group, name)}
        assert not hidden, "keys that are filled in by the run"


def test_keys_of_strategies_and_mixings_never_collide():
    for strategy in names("strategy"):
        mine = {f.name for f in fields(lookup("strategy", strategy))} - {"mixing"}
        for mixing in names("mixing"):
            assert not mine & {f.name for f in fields(lookup("mixing", mixing)) if f.init}, (strategy, mixing)


def test_a_name_is_taken_once():
    with pytest.raises(KeyError, match="taken"):
        register("ring", "graph")(type("Other", (), {}))
    with pytest.raises(KeyError, match="no kind"):
        register("x", "thing")


TOP = {"coopsgd", "conf", "scripts", "tests", "setup.cfg", "Makefile", "README.md", "docs", "examples", "pyproject.toml"}
TOP |= {"LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", ".ci", ".gitignore", "MANIFEST.in", "mkdocs.yml", "ruff.toml", "setup.py"}


def test_no_two_files_of_tests_have_one_name():
    """pytest takes them for one module, and collects neither."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)


def test_what_belongs_at_the_top_is_there_and_nothing_else():
    assert {path.name for path in ROOT.iterdir()} >= TOP - {".ci", ".gitignore"}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:  # not where the tree is an unpacked archive
        assert {name.partition("/")[0] for name in listed.stdout.splitlines()} == TOP
