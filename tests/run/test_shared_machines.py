"""fleet=shared on several machines, which are as many pairs of processes here: a memory for each pair, the network between."""

from __future__ import annotations

import json
import os
import re
import signal

import numpy as np
import pytest
from faults import faulty
from playing import QUADRATIC
from running import LONG, linux
from test_lookout import WHERE, Group

import coopsgd

pytestmark = linux
TWO = ("processes=4", "machines=2", "fleet=shared", "launch=false", "hydra.run.dir=r", "device=cpu")


@pytest.mark.parametrize("algo", ["easgd", "dpsgd"])
def test_a_run_is_that_of_one_machine_and_goes_on_anywhere(cli, tmp_path, algo):
    """Checkpoints hold rows by their global numbers, and a machine more or less is no matter."""
    words = (*QUADRATIC, f"algo={algo}", "tau=3", "checkpoint_every=12", "save=rows", "optim.momentum=0.9")
    assert cli("train", *words, "processes=4", "hydra.run.dir=one").code == 0
    assert cli("train", *words, *TWO).code == 0
    ended, said = Group(tmp_path, 4, each=2).ended(0, 1, 2, 3)
    assert ended == [0] * 4, said
    run, one = coopsgd.Run(tmp_path / "r"), coopsgd.Run(tmp_path / "one")
    np.testing.assert_allclose(run.rows(), one.rows(), rtol=0, atol=1e-12)
    ledger, alone = run.summary["ledger"], one.summary["ledger"]
    assert all(ledger[name] == alone[name] for name in ("rounds", "messages", "bytes"))
    row, rounds = run.rows().shape[1] * 8, run.summary["ledger"]["rounds"]
    # dpsgd: both ways over two edges of the ring of eight; easgd: the sum of four workers to the centre's host, the centre back
    assert ledger["wire_bytes"] == rounds * row * (4 if algo == "dpsgd" else 2) and alone["wire_bytes"] == 0
    ended = cli("resume", "r", "launch=true", "machines=auto", "fleet=processes", "processes=2", "steps=30")
    assert ended.code == 0, ended
    assert cli("resume", "one", "steps=30").code == 0
    np.testing.assert_allclose(coopsgd.Run(tmp_path / "r").rows(), coopsgd.Run(tmp_path / "one").rows(), rtol=0, atol=1e-12)


def test_machines_that_are_unlike_are_refused(cli, tmp_path):
    assert cli("train", *QUADRATIC, "algo=easgd", *TWO).code == 0
    ended, said = Group(tmp_path, 4, each=3).ended(0, 1, 2, 3)
    assert set(ended) <= {1, 2} and "fleet: shared needs as many processes on every machine" in said, said
    assert "Traceback" not in said


@pytest.mark.parametrize("how", ["raises", "leaves", "stays", "killed"])
def test_who_does_not_come_is_named(cli, tmp_path, how):
    """Some wait for it in the memory, some over the network, and some for those."""
    words = ("train", *LONG) if how == "killed" else faulty(tmp_path, how)
    assert cli(*words, "workers=4", "timeout=4", *TWO).code == 0
    group = Group(tmp_path, 4, each=2)
    if how == "killed":
        group.at_work()
        os.kill(group.members[3].pid, signal.SIGKILL)
    codes, said = group.ended(0, 1, 2)
    assert codes == [1, 1, 1], said
    name = rf"worker process 3 \(pid {group.members[3].pid}\)"
    if how == "raises":
        assert said.count("RuntimeError: a bug of its author's") == said.count("Traceback") == 1, said
    elif how == "stays":
        assert re.search(rf"{name} did not come to .*, where others waited 4 s \(timeout\)", said), said
    else:
        assert re.search(rf"{name} has ended, before the \w+ of {WHERE}, so the run was ended", said), said
    assert "Traceback" not in said or how == "raises", said


def test_show_says_what_crosses(cli):
    words = ("show", "algo=pasgd", "workers=8", "device=cpu", "--json", "launch=false", "processes=8", "machines=2")
    shown = json.loads(cli(*words, "fleet=shared").out)["factors"][0]
    assert shown["wire_vectors"] == 2 and "the rows of each machine lie in one memory" in shown["plan"][0]
    assert json.loads(cli(*words).out)["factors"][0]["wire_vectors"] == 14
