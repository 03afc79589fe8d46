"""Machines that do not see one folder: here two working directories of one machine, of which one holds the run."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from conftest import HANG, WARM, _command, command
from playing import written
from running import linux

import coopsgd
from coopsgd.run import checkpoints
from coopsgd.run.folders import rewrite_config

pytestmark = linux
WORDS = ("task=quadratic", "dtype=float64", "workers=4", "processes=2", "device=cpu", "log_every=10", "eval_every=20", "tau=3")


@pytest.fixture
def places(tmp_path):
    """Two folders to work in."""
    for name in "ab":
        (tmp_path / name).mkdir()
    return tmp_path / "a", tmp_path / "b"


def start(places, where, words=("--trust", "r"), module="coopsgd.worker"):
    """One process a place in `where`, as torchrun starts them: exit codes and what each has said."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {"WORLD_SIZE": str(len(where)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    every = []
    for rank, at in enumerate(where):
        said = f"{places[at].parent}/said{rank}"
        for end in ("out", "err"):
            Path(f"{said}.{end}").unlink(missing_ok=True)
        own = {**env, "RANK": str(rank), "TMPDIR": str(places[at])}
        every.append(WARM.Process(target=_command, args=(words, str(places[at]), said, own, None, module)))
        every[-1].start()
    for one in every:
        one.join(HANG)
        assert one.exitcode is not None, "it does not end"
    said = [Path(f"{places[0].parent}/said{rank}.{end}").read_text() for rank in range(len(where)) for end in ("out", "err")]
    return [one.exitcode for one in every], ["".join(said[2 * i : 2 * i + 2]) for i in range(len(where))]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("algo", "first"), [("easgd", 0), ("diloco", 1)])
def test_only_one_machine_has_the_folder(cli, places, algo, first):
    """The other, wherever torchrun begins to count, leaves nothing and goes on to the bit; W is in a file beside the config."""
    words = (*WORDS, f"algo={algo}", "checkpoint_every=20", "save=rows", "optim.momentum=0.9")
    assert cli("train", *words, "steps=40", "fleet=processes", "hydra.run.dir=one").code == 0
    assert cli("train", *words, "steps=20", "launch=false", "hydra.run.dir=a/r").code == 0
    where = [1, 0] if first else [0, 1]
    codes, said = start(places, where)
    assert codes == [0, 0], said
    a, b = places
    assert files(b) == [], "nothing is written where the run is not"
    assert "what is kept goes over the network" in said[first] and "completed after 20 steps" in said[first]
    saved = checkpoints.newest(a / "r", print)
    assert saved.step == 20 and saved.processes == 2
    # it goes on from there, with the other machine and without
    (a / "r" / "summary.json").unlink()
    rewrite_config(a / "r", {"steps": 40})
    shutil.copytree(a / "r", a / "here")
    codes, said = start(places, where)
    one, run = coopsgd.Run(a.parent / "one"), coopsgd.Run(a / "r")
    assert codes == [0, 0] and run.summary["resumed"][0]["from"] == 20, said
    np.testing.assert_array_equal(run.rows(), one.rows())
    assert {line["step"] for line in run.metrics()} == {line["step"] for line in one.metrics()}
    ledgers = [{name: n for name, n in each.summary["ledger"].items() if name != "comm_s"} for each in (run, one)]
    assert ledgers[0] == ledgers[1], "what goes to the first is off the ledger"
    assert files(b) == []
    if first:
        ended = cli("resume", "a/here", "launch=true", "fleet=processes")
        assert ended.code == 0 and "completed after 40 steps" in ended.out, ended
        np.testing.assert_array_equal(coopsgd.Run(a / "here").rows(), one.rows())


def test_a_large_matrix_goes_with_the_config_and_an_older_copy_is_not_used(cli, places):
    """On the other machine lies a folder of that name, of another run."""
    big = 0.5 * np.eye(80) + np.full((80, 80), 0.5 / 80)  # more numbers than config.yaml holds itself
    words = (*WORDS[:2], "workers=80", "processes=2", "device=cpu", "tau=3", "algo=cooperative", written(big), "steps=6")
    assert cli("train", *words, "fleet=processes", "hydra.run.dir=one", "save=rows").code == 0
    assert cli("train", *words, "launch=false", "hydra.run.dir=a/r", "save=rows").code == 0
    assert "algo.W.npy" in files(places[0] / "r")
    assert cli("train", *WORDS, "algo=easgd", "steps=8", "launch=false", "hydra.run.dir=b/r").code == 0
    before = files(places[1])
    codes, said = start(places, [0, 1])
    assert codes == [0, 0], said
    assert files(places[1]) == before
    np.testing.assert_array_equal(coopsgd.Run(places[0] / "r").rows(), coopsgd.Run(places[0].parent / "one").rows())


def test_a_folder_that_all_see_is_written_by_all(cli, places):
    words = (*WORDS, "algo=easgd", "steps=20", "checkpoint_every=10", "launch=false", "hydra.run.dir=a/r")
    assert cli("train", *words).code == 0
    codes, said = start(places, [0, 0])
    assert codes == [0, 0] and "over the network" not in "".join(said), said
    assert not [name for name in files(places[0] / "r") if ".seen" in name]


def test_what_the_first_refuses_ends_the_others(cli, places):
    assert cli("train", *WORDS, "algo=easgd", "steps=4", "launch=false", "hydra.run.dir=a/r").code == 0
    codes, said = start(places, [0, 1, 1])
    assert codes == [2, 2, 2] and "WORLD_SIZE is 3" in said[0] and "Traceback" not in "".join(said), said
    assert not any(text.endswith("r: \n") for text in said), "who has nothing to say says nothing"
    assert start(places, [0, 1])[0] == [0, 0]
    codes, said = start(places, [0, 1])
    assert codes == [1, 1] and "already holds a run" in said[0] and "Traceback" not in "".join(said), said
    shutil.rmtree(places[0] / "r")
    codes, said = start(places, [0, 1])
    assert codes == [2, 2], said
    assert all(f"no such run on any of {socket.gethostname()}; one of them must have the folder" in one for one in said), said


def test_a_disk_that_is_full_there_is_told_and_the_run_goes_on(cli, places):
    """Rank 0 writes for the other, cannot, and hears it to its end all the same."""
    words = (*WORDS, "algo=easgd", "steps=20", "checkpoint_every=10", "launch=false", "hydra.run.dir=a/r", "save=rows")
    assert cli("train", *words).code == 0
    (places[0] / "r" / "checkpoints").mkdir()
    for step in (10, 20):  # no folder can be made there
        (places[0] / "r" / "checkpoints" / f"step-{step}").write_text("")
        os.chmod(places[0] / "r" / "checkpoints" / f"step-{step}", 0)
    codes, said = start(places, [0, 1])
    assert codes == [0, 0] and "no checkpoint (" in said[0], said


def test_other_data_are_told(cli, places):
    """A path that is there on both machines, and does not lead to the same text; and one that is not there."""
    words = (
        "task=language",
        "data=text",
        "data.file=t.txt",
        "model=gpt",
        "model.context=16",
        "model.width=16",
        "workers=2",
        "processes=2",
        "algo=pasgd",
        "tau=2",
        "steps=4",
        "launch=false",
    )
    a, b = places
    (a.parent / "t.txt").symlink_to("/proc/self/cwd/own.txt")  # each process follows it to where it works
    for at, text in ((a, "to be or not to be "), (b, "to be or not to bee "), (a.parent, "to be or not to be ")):
        (at / "own.txt").write_text(text * 200)
    ended = cli("train", *words, "device=cpu", "hydra.run.dir=a/r")
    assert ended.code == 0, ended
    codes, said = start(places, [0, 1])
    assert codes == [1, 1] and "Traceback" not in "".join(said), said
    assert "other data than" in said[0] and "the same files on all machines" in said[0], said
    (b / "own.txt").unlink()
    codes, said = start(places, [0, 1])
    assert codes == [1, 2] and "Traceback" not in "".join(said), said
    assert "t.txt cannot be read" in said[1] and said[1].count("\n") == 1, said


NET = """
import torch
from {helper} import WIDTH

class Net(torch.nn.Sequential):
    def __init__(self, classes=10):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, WIDTH), torch.nn.Linear(WIDTH, classes))
"""
OWN = ("task=classification", "data=digits", "model=custom", "workers=2", "processes=2", "algo=pasgd", "tau=2", "device=cpu")


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("wide.py", "WIDTH = 8  # of each\n", "wide.py"),
        ("mine.py", NET.format(helper="wider"), "mine.py, wide.py, wider.py"),
    ],
)
def test_other_code_is_told_by_the_files_that_differ(places, file, text, named):
    """On each machine the same modules lie beside the run, but one; what it computes may well be the same."""
    for at in places:
        (at / "wide.py").write_text("WIDTH = 8\n")
        (at / "wider.py").write_text("WIDTH = 8\n")
        (at / "mine.py").write_text(NET.format(helper="wide"))
    words = (*OWN, "model.path=mine:Net", "steps=4", "launch=false", "hydra.run.dir=r")
    assert command(places[0], "train", *words).code == 0
    kept = (places[1] / file).read_text()
    (places[1] / file).write_text(text)
    codes, said = start(places, [0, 1])
    assert codes == [1, 1], said
    here = socket.gethostname()
    line = f"code: {here} has another {named} than {here}; the modules that the config names, and what they import, must be"
    assert said[0].splitlines()[1].startswith(line) and said[0].count("\n") == 2 and not said[1], said  # behind the header
    (places[1] / file).write_text(kept)
    codes, said = start(places, [0, 1])
    assert codes == [0, 0], said


def test_both_begin_where_the_first_says(cli, places):
    """`start` of a run is a file beside its config; the other machine has a folder of that name, with other numbers in it."""
    words = ("data=digits", "model=mlp", "model.hidden=[8]", "workers=2", "processes=2", "algo=pasgd", "tau=2", "device=cpu")
    for seed in (1, 2):
        assert cli("train", *words, f"seed={seed}", "steps=2", "fleet=processes", f"hydra.run.dir=s{seed}").code == 0
    for at, begun in (("one", 1), ("a/r", 1), ("b/r", 2)):
        launch = "fleet=processes" if at == "one" else "launch=false"
        ended = cli("train", *words, "steps=4", "save=rows", f"start=s{begun}", launch, f"hydra.run.dir={at}")
        assert ended.code == 0, ended
    a, b = places
    assert (a / "r" / "start.safetensors").read_bytes() != (b / "r" / "start.safetensors").read_bytes()
    before = files(b)
    codes, said = start(places, [0, 1])
    assert codes == [0, 0], said
    assert files(b) == before
    np.testing.assert_array_equal(coopsgd.Run(a / "r").rows(), coopsgd.Run(a.parent / "one").rows())
