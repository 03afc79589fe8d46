"""Files that a config names: read in whatever format, by their content a run's own, and in its folder from then on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import io, sparse

import coopsgd
from coopsgd.commands import compose
from coopsgd.errors import ConfigError
from coopsgd.host import arrays
from coopsgd.run import folders
from coopsgd.setup.identity import identity
from coopsgd.setup.parts import Parts

W = np.array([[0.5, 0.5, 0], [0.25, 0.5, 0.25], [0, 0.5, 0.5]])
Q = ("task=quadratic", "algo=cooperative", "workers=3")


def text(separator, A=W):
    return "\n".join(separator.join(f"{x:g}" for x in row) for row in A)


WRITE = {
    "w.npy": lambda path: np.save(path, W),
    "w.npz": lambda path: np.savez(path, W=W, other=np.ones(2)),
    "sparse.npz": lambda path: sparse.save_npz(path, sparse.csr_array(W)),
    "only.npz": lambda path: np.savez(path, W),
    "w.mat": lambda path: io.savemat(path, {"W": W, "n": 3}),
    "only.mat": lambda path: io.savemat(path, {"mixing": W}),
    "sparse.mat": lambda path: io.savemat(path, {"W": sparse.csr_matrix(W)}),
    "w.csv": lambda path: path.write_text(text(",")),
    "semicolons.csv": lambda path: path.write_text(text("; ") + "\n"),
    "w.txt": lambda path: path.write_text("% rows\n\n" + text("  ") + "  # the last\n"),
    "w.tsv": lambda path: path.write_text(text("\t")),
}


@pytest.mark.parametrize("name", WRITE)
def test_w_is_read_from_every_format(tmp_path, name):
    path = tmp_path / name
    WRITE[name](path)
    checked = compose.compose_config([*Q, f"algo.W={path}"])
    assert np.array_equal(checked.strategy.schedule.at(3, 0).dense(), W)
    before = identity(checked.config)
    folders.write_config(checked.config, tmp_path / "run", "coopsgd train")
    path.unlink()
    frozen = coopsgd.Run(tmp_path / "run").config
    assert frozen.algo["W"] == W.tolist() and identity(frozen) == before


BAD = {
    "words.csv": ("1,a\n0,1", "line 1: 'a' is no number"),
    "ragged.txt": ("# W\n1 0\n1", "line 3 has 1 numbers and line 2 has 2"),
    "empty.txt": ("# W\n", "holds no numbers"),
    "torn.npz": (b"PK\x03\x04", "is no .npz file"),
    "two.npz": (lambda path: np.savez(path, A=W, B=W), "holds A, B; it must hold one array, or one that is called W"),
    "torn.mat": (b"no mat", "is no .mat file that scipy reads"),
    "cell.mat": (lambda path: io.savemat(path, {"W": np.array([W, "x"], dtype=object)}), "must be square, got shape"),
    "new.mat": (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(64), "is of MATLAB's version 7.3"),
    "none.csv": (None, "cannot read"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_holds_no_w_is_refused_in_a_line(tmp_path, name):
    content, why = BAD[name]
    path = tmp_path / name
    if callable(content):
        content(path)
    elif content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError, match=why) as refused:
        compose.compose_config([*Q, f"algo.W={path}"])
    assert "\n" not in str(refused.value) and str(refused.value).startswith("algo.W: ")


@pytest.mark.parametrize(
    ("A", "hint"),
    [
        ([[0.5, 0.25, 0], [0.5, 0.5, 0.5], [0, 0.25, 0.5]], "its columns do.*give the transpose, W.T; a W of push-sum"),
        ([[0, 1, 0], [1, 0, 1], [0, 1, 0]], "as an adjacency does: give that as topology=file"),
        ([[0.5, 0.5, 0.5], [0.2, 0.5, 0.2], [0, 0, 0.1]], "row 2 sums to 0.1$"),
    ],
)
def test_what_w_may_have_been_meant_to_be(A, hint):
    with pytest.raises(ConfigError, match=hint):
        compose.compose_config([*Q, f"algo.W={A}"])


def test_a_name_is_a_file_or_a_function():
    assert [arrays.named(one) for one in ("w.npy", "a/b.csv", "C:/w.mat", "mine:W", 3, None)] == [True] * 3 + [False] * 3


LINES = "".join(f"edge [ source {a} target {b} latency_ms {{0}} ] " for a, b in ((0, 1), (1, 2)))
NETWORK = f"graph [ node [ id 0 ] node [ id 1 ] node [ id 2 ] {LINES}]"
FILES = {
    "partition.file": ("s.json", json.dumps([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]), json.dumps([[0], [1], [2]])),
    "topology.file": ("g.txt", "0 1\n1 2\n", "0 1\n1 2\n2 0\n"),
    "cluster.file": ("n.gml", NETWORK.format(1), NETWORK.format(2)),
}
WORDS = (
    "workers=3",
    "batch_size=1",
    "algo=dpsgd",
    "topology=file",
    "partition=file",
    "model=logistic",
    "steps=4",
    "cluster=graph",
)


@pytest.fixture
def at(tmp_path, monkeypatch):
    """A folder with the files, and the words that name them."""
    monkeypatch.chdir(tmp_path)
    for name, content, _ in FILES.values():
        Path(name).write_text(content)
    return [*WORDS, *(f"{key}={name}" for key, (name, _, _) in FILES.items())]


def facts(config):
    parts = Parts(config)
    return (
        [share.tolist() for share in parts.task.shares(config)],
        parts.topology.links(3).pairs.tolist(),
        parts.cluster.network(3, 3).a.tolist(),
    )


def test_a_run_keeps_what_its_files_held(at, tmp_path, monkeypatch):
    checked = compose.compose_config(at)
    before, known = identity(checked.config), facts(checked.config)
    folders.write_config(checked.config, Path("run"), "coopsgd train")
    for name, _, other in FILES.values():
        Path(name).write_text(other)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    frozen = coopsgd.Run("../run").config
    assert identity(frozen) == before and facts(frozen) == known
    assert identity(compose.compose_config([word.replace(".file=", ".file=../") for word in at]).config) != before


@pytest.mark.parametrize("key", FILES)
def test_a_run_is_what_its_files_hold_not_what_they_are_called(at, key):
    before = identity(compose.compose_config(at).config)
    name, content, other = FILES[key]
    for text, same in ((content, True), (other, False)):
        Path(f"copy-of-{name}").write_text(text)
        words = [word.replace(f"={name}", f"=copy-of-{name}") for word in at]
        assert (identity(compose.compose_config(words).config) == before) == same


@pytest.mark.slow
def test_names_are_of_the_folder_where_the_command_was_given(at, cli, tmp_path):
    """hydra.job.chdir=true has each job of a sweep begin in its own folder."""
    ended = cli("train", "-m", *at, "seed=0,1", "processes=1", "hydra.job.chdir=true", "hydra.sweep.dir=sweep")
    assert ended.code == 0, ended.err
    for name, _, _ in FILES.values():
        Path(name).unlink()
    assert cli("verify", "sweep/algo=dpsgd,seed=1").code == 0
    ended = cli("resume", "sweep/algo=dpsgd,seed=0", "steps=8")
    assert ended.code == 0 and coopsgd.Run(tmp_path / "sweep/algo=dpsgd,seed=0").summary["steps"] == 8, ended.err


def test_a_folder_that_nobody_vouches_for_names_no_file_outside(at, cli):
    checked = compose.compose_config(at)
    folders.write_config(checked.config, Path("run"), "coopsgd train")
    file = Path("run/config.yaml")
    file.write_text(file.read_text().replace("topology.file.txt", str(Path("g.txt").resolve())))
    ended = cli("train", "--config-path", "run", "--config-name", "config", "hydra.run.dir=again")
    assert ended.code == 2 and "topology.file: " in ended.err and "is a file outside the run folder" in ended.err
