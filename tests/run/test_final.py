"""The final models as a file: read by run.model, by anybody who has safetensors and torch, and as earlier versions wrote it."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors import safe_open

import coopsgd
from coopsgd.run import final

SHORT = ("steps=7", "tau=2", "workers=2", "log_every=3", "batch_size=8", "processes=1")
CNN = ("model=cnn", "model.width=8", "model.norm=batch")
TEXT = ("task=language", "model.layers=1", "model.width=16", "model.heads=2")
NETWORKS = {"mlp": ("model.hidden=[16]",), "cnn": (*CNN, "norm_stats=local"), "text": TEXT}


def state_dict(path, row=None):
    """What docs/run_folder.md tells people who have torch and safetensors only."""
    with safe_open(path, framework="pt") as file:
        places = {kind: json.loads(text) for kind, text in file.metadata().items() if kind != "format"}
        names = ("answer", "answer_stats") if row is None else ("rows", "stats")
        found = {}
        for kind, name in zip(("parameters", "statistics"), names, strict=True):
            if places[kind]:
                x = file.get_tensor(name)[row or 0]
                found |= {key: x[at:].as_strided(shape, stride) for key, shape, stride, at in places[kind]}
    return found


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_file_is_a_state_dict_to_anybody(cli, tmp_path, kind):
    assert cli("train", "algo=pasgd", *SHORT, *NETWORKS[kind], "hydra.run.dir=r").code == 0
    run = coopsgd.Run(tmp_path / "r")
    for row in (None, 0, 1):
        ours = run.model(row)
        parts = run.parts
        theirs = parts.task.model.build(parts.task.data.SHAPE, parts.task.data.CLASSES)
        assert not torch.equal(next(theirs.parameters()), next(ours.parameters()))
        missing, unexpected = theirs.load_state_dict(state_dict(tmp_path / "r" / final.FILE, row), strict=False)
        assert not unexpected and all("num_batches_tracked" in name or kind == "text" for name in missing), missing
        tensors = (*theirs.named_parameters(), *theirs.named_buffers())
        wanted = dict((*ours.named_parameters(), *ours.named_buffers()))
        for name, x in tensors:
            assert "num_batches" in name or torch.equal(x, wanted[name]), name
        inputs = torch.rand(4, *parts.task.data.SHAPE) if kind != "text" else torch.randint(0, 50, (4, 16))
        torch.testing.assert_close(ours.eval()(inputs), theirs.eval()(inputs))
    models = [torch.cat([p.reshape(-1) for p in run.model(row).parameters()]) for row in (0, 1)]
    assert not torch.equal(*models)


def test_a_row_that_is_not_there(cli, tmp_path):
    assert cli("train", *SHORT, "hydra.run.dir=r").code == 0
    run = coopsgd.Run(tmp_path / "r")
    for row in (3, -1):
        with pytest.raises(LookupError, match=f"has the models 0 to 2, got row={row}"):  # two workers and the centre
            run.model(row)
    assert cli("train", *SHORT, "save=answer", "hydra.run.dir=a").code == 0
    with pytest.raises(LookupError, match="did not keep its rows"):
        coopsgd.Run(tmp_path / "a").model(0)


def test_a_task_without_a_module_has_no_places(cli, tmp_path):
    assert cli("train", "task=quadratic", "steps=4", "workers=2", "processes=1", "hydra.run.dir=r").code == 0
    with safe_open(tmp_path / "r" / final.FILE, framework="pt") as file:
        assert file.metadata() == {"format": "pt"} and set(file.keys()) == {"answer", "rows"}


def test_a_run_of_a_version_that_used_torch_save_is_read(cli, tmp_path):
    assert cli("train", *SHORT, *CNN, "hydra.run.dir=r").code == 0
    run = coopsgd.Run(tmp_path / "r")
    rows, stats, answer = run.rows(), run.stats(), run.answer()
    content, names = final.read(run.folder, run.summary, ("rows", "stats", "answer", "answer_stats"))
    assert sorted(content) == sorted(names) == ["answer", "answer_stats", "rows", "stats"]
    old = tmp_path / "r" / final.OLD
    torch.save(content, old)
    (tmp_path / "r" / final.FILE).unlink()
    summary = tmp_path / "r" / "summary.json"
    sums = {"checkpoints/final.pt": hashlib.sha256(old.read_bytes()).hexdigest()}
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"checksums": sums}))
    again = coopsgd.Run(tmp_path / "r")
    assert torch.equal(again.rows(), rows) and torch.equal(again.stats(), stats) and torch.equal(again.answer(), answer)
    assert torch.equal(next(again.model().parameters()), next(run.model().parameters()))
