"""A value that makes no sense is one line that names its key: not a traceback, and not accepted."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from conftest import command, elsewhere

from coopsgd import registry
from coopsgd.commands import compose
from coopsgd.data import cache, mnist
from coopsgd.errors import ConfigError
from coopsgd.setup import schema

HERE = ("task=quadratic",)
REFUSED = {
    "a wait of thirty million years": (("timeout=1e15", *HERE), "timeout"),
    "a wait that is no number": (("timeout=nan", *HERE), "timeout"),
    "a clip without end": (("clip=inf", *HERE), "clip"),
    "a seed of thirty digits": ((f"seed={10**30}", *HERE), "seed"),
    "steps of thirty digits": ((f"steps={10**30}", *HERE), "steps"),
    "a tau of thirty digits": ((f"tau=[[0,1],[5,{10**30}]]", *HERE), "tau"),
    "a value that is to be given": (("tau=???", *HERE), "tau"),
    "one of a group": (("algo=cooperative", "algo.W=[[1]]", "algo.v=???", *HERE), "algo.v"),
    "a floor that is no number": (("period=adacomm", "period.floor=nan", *HERE), "period.floor"),
    "an alpha without end": (("period=qsr", "period.alpha=inf", *HERE), "period.alpha"),
    "a floor above the rate": (("schedule=cosine", "schedule.floor=0.5", *HERE), "schedule.floor"),
    "a pull that is no number": (("algo.alpha=nan", "algo.allow_unstable=true", *HERE), "algo.alpha"),
    "a weight without end": (("algo=hierarchical", "algo.weight=inf", *HERE), "algo.weight"),
    "a bandwidth of next to nothing": (("cluster=custom", "cluster.bandwidth=1e-320", *HERE), "cluster.bandwidth"),
    "the same in words": (("cluster=custom", "cluster.bandwidth='1e-320 bit/s'", *HERE), "cluster.bandwidth"),
    "the same between sites": (
        ("cluster=two_sites", "cluster.bandwidth=[[1e9,1e-320],[1e9,1e9]]", *HERE),
        "cluster.bandwidth",
    ),
    "a latency of an age": (("cluster=custom", "cluster.latency_s=1e308", *HERE), "cluster.latency_s"),
    "a step of an age": (("cluster=custom", "cluster.step_s=1e308", *HERE), "cluster.step_s"),
    "a tail without end": (("cluster=custom", "cluster.step=pareto", "cluster.tail=inf", *HERE), "cluster.tail"),
    "a noise without end": (("task.sigma=inf", *HERE), "task.sigma"),
    "a noise whose square has no number": (("task.sigma=1e308", *HERE), "task.sigma"),
    # float32 does not hold these: tracebacks of torch, which could not make a float of them
    "a noise beyond float32": (("task.sigma=1e39", *HERE), "task.sigma"),
    "a rate beyond float32": (("optim.lr=1e60", *HERE), "optim.lr"),
    "a decay beyond float32": (("optim.weight_decay=1e60", *HERE), "optim.weight_decay"),
    "centers beyond float32": (("workers=2", "task.centers=[[0,1e39],[1,1]]", *HERE), "task.centers: holds 1e+39 at [0, 1]"),
    "a start beyond float32": (("task.start=[1,-1e300]", *HERE), "task.start: holds -1e+300 at [1]"),
    "a rate of next to nothing": (("optim.lr=1e-320", *HERE), "optim.lr"),
    "a decay that is no number": (("optim.weight_decay=nan", *HERE), "optim.weight_decay"),
    "lists without bottom": (("algo=cooperative", f"algo.W={'[' * 30}1{']' * 30}", *HERE), "algo.W"),
    "an end of a line in a name": (("name='a\nb'", *HERE), "name"),
    "an end of a text in a name": (("name='a\0b'", *HERE), "name"),
    "bytes in a name": (("name='a\udc80b'", *HERE), "name"),
    "a file without a name": (("task=language", "data.file=''"), "data.file"),
    "a group set to a list": (("cluster=[1]", *HERE), "cluster"),
    "a place without a name": (("hydra.run.dir=", *HERE), "hydra.run.dir"),
    "a key that is no word": (("+algo={1:2}", *HERE), "algo"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_one_line_that_names_the_key(case):
    words, message = REFUSED[case]
    with pytest.raises(ConfigError) as error:
        compose.compose_config(words)
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1, error.value


def test_a_long_value_is_not_told_whole():
    with pytest.raises(ConfigError) as error:
        compose.compose_config(["algo=cooperative", f"algo.W=[{','.join(['[1,2]'] * 3000)}]", *HERE])
    assert "algo.W" in str(error.value) and len(str(error.value)) < 2000


@pytest.mark.parametrize(
    "words",
    [("probe", "-o", ""), ("analyze", "--probe", ""), ("show", "--config-dir", ""), ("train", "--config-dir=")],
)
def test_a_place_without_a_name(cli, tmp_path, words):
    ended = cli(*words, "task=quadratic")
    assert ended.code == 2 and len(ended.lines) == 1 and words[1].rstrip("=") in ended.err, ended
    assert not (tmp_path / "probe.json").exists()


# own code

OWN = {
    "raises": ("x = 1\nraise RuntimeError('no luck')\n", "RuntimeError: no luck ({file}:2)"),
    "leaves": ("import sys\n\nsys.exit(3)\n", "SystemExit: 3 ({file}:3)"),
    "stops": ("class Stop(BaseException): ...\nraise Stop\n", "Stop ({file}:2)"),
    "does_not_parse": ("x = 1\ndef f(:\n", "SyntaxError: invalid syntax ({file}:2)"),
    "misses_a_module": ("import nothing_of_the_kind\n", "No module named 'nothing_of_the_kind' ({file}:1)"),
    "calls_wrongly": ("import numpy\nnumpy.linalg.inv('a')\n", "({file}:2)"),
    "without_end": ("def f():\n    f()\nf()\n", "RecursionError"),
    "many_lines": ("raise ValueError('a\\nb')\n", "ValueError: a b ({file}:1)"),
    "field": ("{head}    beta: float\n", "algo.beta: is missing, Thing has no default"),
    "post": (
        "{head}    def __post_init__(self):\n        self.nope\n",
        "AttributeError: 'Thing' object has no attribute 'nope' ({file}:",
    ),
    "annotated": (
        "from __future__ import annotations\n{head}    beta: Nope = 1\n",
        "NameError: name 'Nope' is not defined ({file}",
    ),
}
HEAD = """from dataclasses import dataclass
from coopsgd.strategies.base import Strategy
@dataclass(frozen=True)
class Thing(Strategy):
    def send(self, fleet, t, x, s):
        return fleet.later(fleet.mean, x)

"""


@pytest.mark.parametrize("name", OWN)
def test_own_code_that_breaks_is_named_with_its_file_and_line(tmp_path, monkeypatch, name):
    text, message = OWN[name]
    module = f"own_{name}"
    (tmp_path / f"{module}.py").write_text(text.replace("{head}", HEAD))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ConfigError) as error:
        compose.compose_config(["algo=pasgd", f"algo.strategy={module}:Thing", "algo.mixing=null", *HERE])
    assert message.replace("{file}", str(tmp_path / f"{module}.py")) in str(error.value), error.value
    assert len(str(error.value).splitlines()) == 1
    sys.modules.pop(module, None)


def test_what_a_user_pressed_is_no_mistake_of_the_file(tmp_path, monkeypatch):
    (tmp_path / "own_pressed.py").write_text("raise KeyboardInterrupt\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(KeyboardInterrupt):
        registry.imported("strategy", "own_pressed:Thing")


# the module of a worker


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Frozen for two processes."""
    at = tmp_path_factory.mktemp("frozen")
    assert command(at, "train", "task=quadratic", "processes=2", "launch=false", "hydra.run.dir=run").code == 0
    return at / "run"


def worker(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, **env: str) -> tuple[int, str]:
    from coopsgd.run.elsewhere import main

    monkeypatch.setattr(sys, "argv", ["worker", str(folder)])
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"WORLD_SIZE": "2", "RANK": "5"}, "RANK is 5"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK is -1"),
        ({"WORLD_SIZE": "2", "RANK": "first"}, "RANK is 'first'"),
        ({"WORLD_SIZE": "many", "RANK": "0"}, "WORLD_SIZE is 'many'"),
        ({"WORLD_SIZE": "3", "RANK": "0"}, "WORLD_SIZE is 3"),
    ],
)
def test_a_rank_that_cannot_be(folder, capsys, monkeypatch, env, message):
    code, err = worker(folder, capsys, monkeypatch, **env)
    assert code == 2 and message in err and len(err.splitlines()) == 1, err


@pytest.mark.parametrize(
    "text",
    ["a: [", "- 1\n- 2\n", "hello\n", "", "workers: many\n", "algo: 3\n", "a: &a [*a]\n", b"name: caf\xe9\n", "processes: 2\n"],
)
def test_a_config_that_is_broken(tmp_path, capsys, monkeypatch, text):
    (tmp_path / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    code, err = worker(tmp_path, capsys, monkeypatch, WORLD_SIZE="2", RANK="0")
    assert code == 2 and "config.yaml" in err and len(err.splitlines()) == 1, err
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        schema.load(tmp_path / "config.yaml")


# somebody else


def as_nobody(function, *arguments):
    """What a function tells of the ConfigError it raises in a child that is nobody, or in this process if it is not root."""
    if os.getuid():
        with pytest.raises(ValueError) as error:
            function(*arguments)
        return str(error.value)
    return elsewhere(refused_to_nobody, function, arguments, {**os.environ})


def refused_to_nobody(function, arguments, environ):
    os.environ.update(environ)  # the fork server's is that of its start
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    try:
        function(*arguments)
    except Exception as error:
        return f"{'' if isinstance(error, ValueError) else type(error).__name__}{error}"
    return "nothing was raised"


@pytest.fixture
def open_path(tmp_path):
    """tmp_path, whose parents anybody may search."""
    for at in (tmp_path, *tmp_path.parents):
        if at.stat().st_uid == os.getuid() and at != Path("/"):
            at.chmod(at.stat().st_mode | 0o055)
    return tmp_path


def test_a_file_that_may_not_be_read_is_not_said_to_be_broken(open_path):
    path = open_path / "file"
    path.write_bytes(b"[]")
    path.chmod(0)
    idx = open_path / mnist.FILES[0]
    idx.write_bytes(b"\0\0\x08\1\0\0\0\1\0")
    idx.chmod(0)
    from coopsgd.host import reading
    from coopsgd.predict import probe_file as probe_file
    from coopsgd.setup import yamls

    for function, *arguments in (
        (reading.array, "algo.W", str(path)),
        (yamls.text, path),
        (schema.load, path),
        (probe_file.load, path),
        (mnist.read_idx, idx),
        (mnist._check_whole, idx),
    ):
        message = as_nobody(function, *arguments)
        assert "Permission denied" in message and "whole" not in message and len(message.splitlines()) == 1, (function, message)


def test_a_folder_that_may_not_be_searched_is_not_said_to_be_empty(open_path, monkeypatch):
    closed = open_path / "closed"
    closed.mkdir(mode=0)
    monkeypatch.setenv("COOPSGD_DATA", str(closed))
    message = as_nobody(mnist.MNIST().find)
    closed.chmod(0o700)
    assert "Permission denied" in message and "COOPSGD_DATA" in message, message


def test_a_user_without_a_home_and_a_name_has_no_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")

    def nameless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nameless)
    assert cache.root().parent == Path(os.devnull)
    (tmp_path / "text").write_text("ab" * 50000)
    compose.compose_config(["task=language", f"data.file={tmp_path / 'text'}"])


@pytest.mark.parametrize("name", ["/", "a/b", "..", "x.y", "", "a b"])
def test_no_module_is_looked_for_by_what_is_no_name_of_one(name, monkeypatch):
    """A program's own import hooks may not bear to be asked."""

    class Hook:
        def find_spec(self, module, path=None, target=None):
            assert not module.endswith(f".{name}"), f"asked for {module!r}"

    monkeypatch.setattr(sys, "meta_path", [Hook(), *sys.meta_path])
    with pytest.raises(KeyError, match="no mixing named"):
        registry.lookup("mixing", name)
