"""Damaged files are not believed: a run's models, and the cache of decompressed arrays."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import torch

from coopsgd import Run, checkpoint
from coopsgd.errors import DamagedFile


@pytest.fixture
def finished(cli, tmp_path):
    """A run that kept every model."""
    ended = cli("train", "task=quadratic", "steps=4", "workers=2", "processes=1", "hydra.run.dir=run")
    assert ended.code == 0, ended.err
    return tmp_path / "run"


def flipped(raw: bytes, at: float) -> bytes:
    """One bit of one byte, this far in."""
    changed = bytearray(raw)
    changed[int(at * len(raw))] ^= 0x10
    return bytes(changed)


HARM = {
    "cut short": lambda raw: raw[:-100],
    "half of it": lambda raw: raw[: len(raw) // 2],
    "empty": lambda raw: b"",
    "zeros in the middle": lambda raw: raw[:400] + bytes(200) + raw[600:],
    "longer": lambda raw: raw + b"\0",
    "something else": lambda raw: b"not a file of torch",
    **{f"a bit at {at:.0%}": lambda raw, at=at: flipped(raw, at) for at in (0.0, 0.1, 0.3, 0.5, 0.7, 0.999)},
}


def test_models_that_were_damaged_are_refused_when_they_are_read(finished):
    path = finished / checkpoint.FILE
    whole = path.read_bytes()
    rows, answer = Run(finished).rows(), Run(finished).answer()
    assert Run(finished).summary["checksums"] == {"checkpoints/final.pt": hashlib.sha256(whole).hexdigest()}  # sha256sum agrees
    for name, harm in HARM.items():
        path.write_bytes(harm(whole))
        for read in (Run(finished).rows, Run(finished).answer):
            with pytest.raises(DamagedFile, match=r"checkpoints/final\.pt is damaged") as told:
                read()
            assert "\n" not in str(told.value), name
    path.write_bytes(whole)
    assert torch.equal(Run(finished).rows(), rows) and torch.equal(Run(finished).answer(), answer)
    path.unlink()
    with pytest.raises(DamagedFile, match=r"final\.pt is missing, though the run kept it"):
        Run(finished).rows()


def test_other_models_in_their_place_are_refused(finished, cli, tmp_path):
    """A whole file of another run is not this run's."""
    assert cli("train", "task=quadratic", "steps=4", "workers=2", "processes=1", "seed=1", "hydra.run.dir=other").code == 0
    shutil.copy(tmp_path / "other" / checkpoint.FILE, finished / checkpoint.FILE)
    with pytest.raises(DamagedFile, match="SHA-256"):
        Run(finished).answer()


def test_a_run_of_a_version_without_checksums_is_read_and_visible_damage_told(finished):
    summary = json.loads((finished / "summary.json").read_text())
    del summary["checksums"]
    (finished / "summary.json").write_text(json.dumps(summary))
    path = finished / checkpoint.FILE
    whole = path.read_bytes()
    assert Run(finished).rows().shape == (3, 10)  # two workers and the centre
    for harm in (whole[:-100], b"", b"not a file of torch"):
        path.write_bytes(harm)
        with pytest.raises(DamagedFile, match=r"final\.pt is damaged"):
            Run(finished).rows()
    torch.save([1, 2], path)
    with pytest.raises(DamagedFile, match="holds no models"):
        Run(finished).rows()
    path.unlink()
    with pytest.raises(DamagedFile, match="missing"):
        Run(finished).rows()


def test_what_was_not_kept_is_not_called_damaged(cli, tmp_path):
    assert cli("train", "task=quadratic", "steps=2", "save=none", "processes=1", "hydra.run.dir=run").code == 0
    assert Run(tmp_path / "run").summary["checksums"] == {}
    with pytest.raises(LookupError, match="did not keep its rows"):
        Run(tmp_path / "run").rows()


def test_a_summary_that_is_none(finished):
    for content in (b"", b"{", b"[1]", bytes(100), b"\xff\xfe"):
        (finished / "summary.json").write_bytes(content)
        with pytest.raises(DamagedFile, match=r"summary\.json is damaged"):
            _ = Run(finished).summary
