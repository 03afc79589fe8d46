"""`start=FILE`: models begin where a file says, the same on every placement, and a run keeps what it began with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from playing import play
from safetensors.torch import save_file

from coopsgd import Run
from coopsgd.commands import compose
from coopsgd.errors import ConfigError
from coopsgd.setup.identity import identity

MLP = ("data=digits", "model=mlp", "model.hidden=[8]", "workers=2", "tau=2", "device=cpu", "log_every=4", "eval_every=4")
NORMED = ("data=digits", "model=cnn", "model.width=8", "model.norm=batch", *MLP[3:])


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def network(words=MLP, seed=7):
    """The module of these words, with parameters that no run has."""
    from coopsgd.tasks.networks import network

    torch.manual_seed(seed)
    module = network(compose.compose_config([*words, "processes=1"]).parts.task, 3)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return module


def saved(kind, module):
    """A file of each kind that may be given."""
    state = {name: value.detach().clone().contiguous() for name, value in module.state_dict().items()}
    if kind == "safetensors":
        save_file(state, "m.safetensors")
        return "m.safetensors"
    content = {
        "pt": state,
        "wrapped": {f"module.{name}": value for name, value in state.items()},
        "trainer": {"epoch": 3, "model": state, "optimizer": {"lr": 0.1}},
    }[kind]
    torch.save(content, f"{kind}.pt")
    return f"{kind}.pt"


@pytest.mark.parametrize("kind", ["safetensors", "pt", "wrapped", "trainer"])
def test_every_kind_of_file_gives_the_same_start(kind):
    module = network()
    played = play(None, 1, *MLP, "steps=2", "optim.lr=1e-30", f"start={saved(kind, module)}")
    mine = torch.cat([p.detach().flatten() for p in module.parameters()])
    assert np.array_equal(played.answer, mine.double().numpy())
    assert (played.x == played.answer).all(), "auxiliary models begin there too"


@pytest.mark.parametrize("words", [MLP, (*NORMED, "dtype=float64", "algo=pasgd")])
def test_placements_agree(process_groups, words):
    words = (*words, "steps=5", f"start={saved('pt', network(words))}")
    alone, apart = play(None, 1, *words), play(process_groups, 2, *words)
    assert np.abs(alone.x - apart.x).max() < (1e-12 if "dtype=float64" in words else 1e-5)
    assert np.abs(alone.x - play(None, 1, *words[:-1]).x).max() > 1e-2


def test_a_run_goes_on_from_anothers_answer_and_keeps_what_it_began_with(cli):
    words = (*NORMED, "processes=1", "steps=4", "checkpoint_every=2", "keep=9")
    assert cli("train", *words, "hydra.run.dir=a").code == 0
    last = Run("a").metrics()[-1]
    assert cli("train", *words, "start=a", "seed=1", "hydra.run.dir=b").code == 0
    first = Run("b").metrics()[0]
    assert all(first[name] == last[name] for name in ("eval/loss", "eval/accuracy")), "statistics too"
    assert cli("train", *words, "start=a/checkpoints/final.safetensors", "seed=1", "hydra.run.dir=c").code == 0
    assert torch.equal(Run("c").rows(), Run("b").rows())
    assert identity(Run("b").config) == identity(Run("c").config) != identity(Run("a").config)
    Path("a").rename("gone")
    assert Path("b/start.safetensors").read_bytes() == Path("gone/checkpoints/final.safetensors").read_bytes()
    verified = cli("verify", "b")
    assert verified.code == 0 and "same: " in verified.out, verified.err
    assert cli("resume", "b", "steps=6").code == 0
    Path("b").rename("d")
    assert cli("verify", "d", "--steps", "3").code == 0, "wherever it lies"
    assert Run("d").model() is not None
    for other in ("start=gone", "start=null"):
        ended = cli("resume", "d", other, "steps=8")
        assert ended.code == 2 and "start: would change what this run has done" in ended.err


def test_a_damaged_answer_is_refused(cli):
    assert cli("train", *MLP, "processes=1", "steps=2", "hydra.run.dir=a").code == 0
    at = Path("a/checkpoints/final.safetensors")
    data = bytearray(at.read_bytes())
    data[-1] ^= 1
    at.write_bytes(data)
    with pytest.raises(ConfigError, match=r"^start: a/checkpoints/final.safetensors is damaged"):
        compose.compose_config([*MLP, "start=a"])


def bad_files():
    state = network().state_dict()
    torch.save({**state, "5.weight": torch.ones(1)}, "more.pt")
    torch.save(dict(list(state.items())[1:]), "less.pt")
    torch.save({**state, "1.weight": torch.ones(2, 2)}, "shape.pt")
    torch.save({name: value * float("nan") for name, value in state.items()}, "nan.pt")
    torch.save([1, 2], "list.pt")
    torch.save({"a": 1}, "numbers.pt")
    torch.save(network(), "module.pt")
    Path("text.pt").write_text("hello")
    Path("empty.pt").write_bytes(b"")
    whole = Path("less.pt").read_bytes()
    Path("torn.pt").write_bytes(whole[:-9])
    Path("bits.pt").write_bytes(whole.replace(b"OrderedDict", b"OrderedDicT"))
    torch.save(state, "before.pt", _use_new_zipfile_serialization=False)
    Path("old.pt").write_bytes(Path("before.pt").read_bytes()[:-9])
    save_file({name: value.contiguous() for name, value in state.items()}, "whole.safetensors")
    Path("torn.safetensors").write_bytes(Path("whole.safetensors").read_bytes()[:-9])
    Path("folder").mkdir()
    Path("run").mkdir()
    Path("run/config.yaml").write_text("format: 1\n")


BAD = {
    "more.pt": "it has unknown 5.weight",
    "less.pt": "it lacks 1.weight",
    "shape.pt": "it has of another shape 1.weight [2, 2] for [8, 64]",
    "nan.pt": "not finite in 1.weight",
    "list.pt": "holds a list that is no state_dict",
    "numbers.pt": "holds a dict that is no state_dict",
    "module.pt": "could run code: save model.state_dict()",
    "text.pt": "'text.pt' begins with b'hello', as no such file does; give a run's folder",
    "empty.pt": "'empty.pt' is empty; give",
    "torn.pt": "'torn.pt' is cut short, or damaged: it is no whole archive of torch.save; give",
    "bits.pt": "'bits.pt' is damaged: less/data.pkl in it has not its checksum; give",
    "old.pt": "'old.pt' is damaged, or cut short; give",
    "torn.safetensors": "damaged or no safetensors file",
    "nowhere.pt": "cannot read 'nowhere.pt' (No such file",
    "folder": "is a folder that holds no run",
    "run": "has kept no model",
    "3": "must be a path, got 3",
    "[a]": "must be a path",
    "''": "must be a path",
    "/dev/null": "is a device, not a file",
}


def test_what_is_no_start_is_refused_in_a_line():
    bad_files()
    for value, said in BAD.items():
        with pytest.raises(ConfigError) as error:
            compose.compose_config([*MLP, f"start={value}"])
        text = str(error.value)
        assert text.startswith("start: ") and "\n" not in text, text
        assert any(one in text for one in said.split("|")), (value, text)


def test_tasks_without_a_network(cli):
    ended = cli("train", "task=quadratic", "start=a")
    assert ended.code == 2 and "start: task quadratic has no network" in ended.err and "task.start" in ended.err
    assert len(ended.lines) == 1


def test_a_foreign_folder_reads_no_other_file(cli):
    path = saved("pt", network())
    assert cli("train", *MLP, "processes=1", "steps=2", f"start={path}", "hydra.run.dir=a").code == 0
    assert json.loads(Path("a/summary.json").read_text())["status"] == "completed"
    config = Path("a/config.yaml")
    config.write_text(config.read_text().replace("start: start.pt", f"start: {Path(path).resolve()}"))
    ended = cli("verify", "a")
    assert ended.code == 2 and "is a file outside the run folder" in ended.err and len(ended.lines) == 1
