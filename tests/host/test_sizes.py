"""What a number of the config would take is foreseen by arithmetic: refused before any memory or time is taken."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import arrays
import numpy as np
import pytest

from coopsgd.commands import compose
from coopsgd.errors import ConfigError
from coopsgd.host import news, reading, sizes
from coopsgd.mixing import graphs
from coopsgd.predict import probe_file as probe_file
from coopsgd.setup import schema, yamls

HERE = ("task=quadratic",)
TOO_LARGE = {
    "workers": (("algo=pasgd", "workers=10000000", *HERE), "workers"),
    "workers beside a centre": (("workers=10000000", *HERE), "workers"),
    "models of all workers": (("algo=fullsync", "workers=1000000000", *HERE), "workers"),
    "the dimension of a quadratic": (("task.dim=1000000000", *HERE), "task.dim"),
    "the layers of an mlp": (("model.hidden=[10000000,10000000]",), "model.hidden"),
    "the channels of a cnn": (("model=cnn", "model.width=8000000"), "model.width"),
    "the depth of a resnet": (("model=resnet", "model.depth=600000000000002"), "model.depth"),
    "samples": (("data=gaussian", "data.samples=1000000000000"), "data.samples"),
    "test samples": (("data=gaussian", "data.test_samples=1000000000000"), "data.test_samples"),
    "the dimension of samples": (("data=gaussian", "data.dim=1000000000"), "data.dim"),
    "classes": (("data=gaussian", "data.dim=1000000", "data.classes=1000000"), "data.classes"),
    "a dense graph": (("algo=dpsgd", "topology=erdos_renyi", "topology.p=0.5", "workers=100000", *HERE), "topology"),
    "weights for each edge": (("algo=dpsgd", "algo.weights=fdla", "topology=chain", "workers=100000", *HERE), "algo.weights"),
    "the matchings of a graph": (("algo=matcha", "topology=complete", "workers=100000", *HERE), "workers"),
    "groups": (("algo=hierarchical", "workers=200000", "algo.groups=200000", *HERE), "algo.groups"),
    "a long cycle": (("algo=gossip_pga", "algo.every=1000000000", *HERE), "algo.every"),
    "a longer one": (("algo=gossip_pga", f"algo.every={10**30}", *HERE), "algo.every"),
    "a cycle of two levels": (("algo=two_level", f"algo.tau_2={10**10}", *HERE), "algo.tau_2"),
    "pairs of a communication": (("algo=pairwise", "algo.events=1000000000", *HERE), "algo.events"),
    "processes": (("algo=fullsync", "workers=100000", "processes=100000", *HERE), "processes"),
    "threads": (("threads=1000000", *HERE), "threads"),
    "a round of passes": (("algo=fedavg", f"algo.epochs={2**62}"), "algo.epochs"),
    "passes": ((f"epochs={2**62}",), "epochs"),
    "draws of a partition": (("partition=dirichlet", f"partition.attempts={10**12}"), "partition.attempts"),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_a_size_is_refused_by_arithmetic(case, monkeypatch):
    words, key = TOO_LARGE[case]
    monkeypatch.setattr(sizes, "available", lambda: 64e9)  # the same on every machine
    began = time.process_time()
    with pytest.raises(ConfigError) as error:
        compose.compose_config(words)
    assert key in str(error.value) and len(str(error.value).splitlines()) == 1, error.value
    assert "allocate" not in str(error.value)
    assert time.process_time() - began < 10


def test_the_estimate_the_limit_and_the_way_out_are_told(monkeypatch):
    monkeypatch.setattr(sizes, "available", lambda: 1e9)
    with pytest.raises(ConfigError) as error:
        compose.compose_config(["model.hidden=[20000,20000]"])
    # 64 inputs, two layers of 20000, 10 classes: 401.5 M numbers, with a gradient 3.21 GB in float32
    assert str(error.value) == (
        "model.hidden: a model of 401520010 numbers and its gradient take about 3.21 GB, more than the 1 GB of memory to be "
        "had here; choose a smaller one"
    )


@pytest.mark.slow
def test_what_fits_is_not_refused(monkeypatch):
    monkeypatch.setattr(sizes, "available", lambda: 4e9)
    for words in (
        ("algo=pasgd", "workers=1024", "processes=1", "data=gaussian", "data.samples=60000", "data.dim=784"),
        ("algo=gossip_pga", "algo.every=1000", *HERE),
        ("algo=pairwise", "algo.events=10000", *HERE),
        ("task=language", "optim=adamw"),
        ("task=quadratic", "task.dim=1000000"),
        ("model=resnet", "model.depth=110"),
    ):
        compose.compose_config(words)
    sizes.refuse_square(4097, 4096)


def test_on_several_machines_only_what_this_one_builds_counts(monkeypatch):
    monkeypatch.setattr(sizes, "available", lambda: 1.5e8)
    words = ["model.hidden=[5000,5000]", "processes=4"]
    with pytest.raises(ConfigError, match=r"model\.hidden"):
        compose.compose_config(words)
    compose.compose_config([*words, "launch=false"])


def test_the_limit_is_of_this_machine_and_its_container(tmp_path):
    assert 0 < sizes.available() < 1e15
    for name, text in (("memory.max", "1000"), ("memory.current", "700"), ("memory.stat", "anon 500\nfile 200\n")):
        (tmp_path / name).write_text(text)
    assert list(sizes._left(tmp_path)) == [500]  # 1000 less what is taken, but for 200 of cached files
    (tmp_path / "memory.max").write_text("max\n")
    assert list(sizes._left(tmp_path)) == []


def test_a_size_that_is_refused_is_not_announced(monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(news, "listener", told.append)
    monkeypatch.setattr(graphs, "FEW", 0)
    monkeypatch.setattr(graphs, "PATIENCE", -1)  # everything takes long
    words = ["algo=dpsgd", "topology=random_regular", "task=quadratic"]
    with pytest.raises(ConfigError):
        compose.compose_config([*words, "workers=1e9"])
    assert not told
    compose.compose_config([*words, "workers=1000"])
    assert any("random_regular of 1000 workers is drawn" in line for line in told), told


def test_jobs_of_a_sweep_are_counted(cli, tmp_path):
    for words, message in (
        (("tau=range(0)",), ["tau", "no value"]),
        (("seed=range(1000000000)",), ["seed", "1000000000 jobs"]),
        (("seed=range(1000)", "tau=range(1,1001)"), ["1000000 jobs"]),
        (("tau=range(1,5,0)",), ["tau"]),
    ):
        ended = cli("train", "-m", "task=quadratic", *words)
        assert ended.code == 2 and len(ended.lines) == 1, ended
        assert all(word in ended.err for word in message), ended.err
    assert not (tmp_path / "multirun").exists()


# files


@pytest.fixture
def odd_files(tmp_path):
    """Places that are no files, or are never at an end, by name."""
    made = {"a folder": tmp_path / "folder", "a pipe": tmp_path / "pipe", "a socket": tmp_path / "socket"}
    made["a folder"].mkdir()
    os.mkfifo(made["a pipe"])
    listening = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(tmp_path)  # the name of a socket is short
    listening.bind("socket")
    os.chdir(here)
    yield made | {"a device": Path("/dev/zero")}
    listening.close()


def test_every_reader_of_a_users_file_asks_for_a_regular_one(odd_files, monkeypatch, tmp_path):
    for what, path in odd_files.items():
        for words, key in (
            (("algo=cooperative", f"algo.W={path}", *HERE), "algo.W"),
            (("task=quadratic", f"task.centers={path}"), "task.centers"),
            (("cluster=from_probe", f"cluster.file={path}", *HERE), str(path)),
            (("task=language", f"data.file={path}"), "data.file"),
        ):
            with pytest.raises(ConfigError) as error:
                compose.compose_config(words)
            assert key in str(error.value) and f"is {what}, not a file" in str(error.value), error.value
        for read in (probe_file.load, schema.load, yamls.text):
            with pytest.raises(ConfigError, match="not a file"):
                read(path)


def test_an_array_is_refused_by_its_head(tmp_path, monkeypatch):
    """5 GB on paper: a file with a hole. Only its first page is looked at."""
    path = tmp_path / "w.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (25000, 25000)})
        file.truncate(file.tell() + 25000 * 25000 * 8)
    monkeypatch.setattr(np, "load", lambda *a, **k: pytest.fail("it was read"))
    for words, message in (
        (("algo=cooperative", f"algo.W={path}", *HERE), "25000"),
        (("task=quadratic", f"task.curvature={path}"), "(25000, 25000)"),
    ):
        with pytest.raises(ConfigError, match="must") as error:
            compose.compose_config(words)
        assert message in str(error.value)
    monkeypatch.setattr(sizes, "available", lambda: 1e9)
    with pytest.raises(ConfigError, match="10 GB, more than the 1 GB"):
        reading.array("algo.W", str(path))


@pytest.mark.parametrize(
    "head",
    [
        {"descr": "<f8", "fortran_order": False, "shape": (2**40, 2**40)},
        {"descr": "<f8", "fortran_order": False, "shape": (4, 4)},
        {"descr": "|O", "fortran_order": False, "shape": (4, 4)},
        {"descr": "<f8", "fortran_order": False, "shape": (-4, 4)},
    ],
)
def test_a_crafted_head_is_no_array(tmp_path, head):
    path = tmp_path / "w.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, head)
        file.write(b"\0" * 24)
    with pytest.raises(ConfigError, match=r"algo\.W"):
        reading.array("algo.W", str(path))


def bomb() -> str:
    """Nine levels of ten: 10^9 values in 400 bytes."""
    lines = ["a0: &a0 [1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join(lines) + "\nstrategy: cooperative\nmixing: average\n"


YAMLS = {
    "bomb": (bomb(), "stands for more than"),
    "itself": ("a: &a [*a]\n", "holds itself"),
    "bottomless": ("W: " + "[" * 500 + "]" * 500 + "\n", "within each other"),
    "latin": (b"strategy: cooperative  # caf\xe9\n", "is not UTF-8 (byte 28, line 1)"),
    "tab": ("strategy: cooperative\n\tmixing: average\n", "line 2"),
    "twice": ("strategy: cooperative\nstrategy: cooperative\n", "line 2"),
    "set": ("strategy: !!set {a, b}\n", "set"),
    "nothing": ("null: 3\n", "key"),
    "whole": ("strategy: cooperative\nmixing: average\n1: 2\n", "algo: has the key 1"),
    "python": ("strategy: !!python/object/apply:os.getcwd []\n", "line 1"),
    "missing": ("strategy: cooperative\nmixing: matrix\nW: [[1]]\nv: ???\n", "algo.v: is missing"),
    "looping": ("defaults: [_self_, looping]\nstrategy: cooperative\n", "looping.yaml"),
}


@pytest.mark.parametrize("name", YAMLS)
def test_a_yaml_that_stands_for_too_much_or_for_nothing(tmp_path, name):
    text, message = YAMLS[name]
    at = tmp_path / "algo" / f"{name}.yaml"
    at.parent.mkdir()
    at.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        compose.compose_config([f"algo={name}", *HERE], str(tmp_path))
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1, error.value
    assert str(at) in str(error.value) or name in ("whole", "missing"), error.value


def test_a_yaml_with_a_mark_of_utf_8_and_with_aliases_is_read(tmp_path):
    (tmp_path / "algo").mkdir()
    (tmp_path / "algo" / "own.yaml").write_bytes(
        b"\xef\xbb\xbfstrategy: cooperative\nmixing: matrix\nW: [&r [0.25, 0.25, 0.25, 0.25], *r, *r, *r]\n"
    )
    checked = compose.compose_config(["algo=own", *HERE], str(tmp_path))
    np.testing.assert_array_equal(arrays.factors(checked.strategy.schedule, 4, 0)[0], np.full((4, 4), 0.25))
