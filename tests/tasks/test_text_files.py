"""task=language on files: a text to validate on, and tokens as tokenisers leave them."""

from __future__ import annotations

import numpy as np
import pytest
from playing import play, settle

from coopsgd.data.text import Text
from coopsgd.errors import ConfigError
from coopsgd.setup.parts import Parts

SMALL = ("task=language", "model.context=8", "model.width=8", "model.heads=2", "model.layers=1", "device=cpu")
SMALL = (*SMALL, "workers=2", "batch_size=4", "steps=2", "processes=1")


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.txt").write_text("abcd" * 100)
    (tmp_path / "valid.txt").write_text("abéd" * 20)
    np.random.default_rng(0).integers(0, 50, 600).astype("<u2").tofile("train.bin")
    np.random.default_rng(1).integers(0, 60, 90).astype("<u2").tofile("valid.bin")
    (tmp_path / "odd.bin").write_bytes(b"abc")
    (tmp_path / "none.bin").write_bytes(b"")


def test_a_text_is_validated_on_another():
    text = Text(file="train.txt", valid="valid.txt").load()
    for part, content in ((text.train, "abcd" * 100), (text.test, "abéd" * 20)):
        assert "".join(text.vocabulary[t] for t in part) == content
    assert text.vocabulary == "abcdé"
    assert len(Text(file="train.txt").load().test) == 40  # as before, the last tenth
    words = (*SMALL, "data.file=train.txt", "data.valid=valid.txt")
    assert np.isfinite(play(None, 1, *words).lines[-1]["eval/loss"])
    config = settle(words)
    assert Parts(config).task.about(config)["test"].endswith("valid.txt")


def test_tokens_are_read_as_they_are():
    tokens = Text(file="train.bin", valid="valid.bin").load()
    assert np.array_equal(tokens.train, np.fromfile("train.bin", "<u2"))
    assert np.array_equal(tokens.test, np.fromfile("valid.bin", "<u2"))
    assert tokens.test.max() + 1 == Text(file="train.bin", valid="valid.bin").CLASSES
    assert Text(file="train.bin", vocabulary=100).CLASSES == 100 and len(Text(file="train.bin").load().test) == 60
    words = (*SMALL, "data.file=train.bin", "data.vocabulary=64")
    assert np.isfinite(play(None, 1, *words).lines[-1]["eval/loss"])
    config = settle(words)
    assert Parts(config).task.about(config)["tokens"] == 600


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("data.file=odd.bin",), ["data.file", "odd.bin", "3 bytes", "uint16"]),
        (("data.file=none.bin",), ["data.file", "none.bin", "empty"]),
        (("data.file=absent.bin",), ["data.file", "absent.bin"]),
        (("data.file=train.bin", "data.valid=absent.bin"), ["data.valid", "absent.bin"]),
        (("data.file=train.bin", "data.valid=valid.txt"), ["data.valid", "not of one kind"]),
        (("data.valid=valid.txt",), ["data.valid", "not of one kind"]),
        (("data.file=train.bin", "data.vocabulary=10"), ["data.vocabulary", "token 49", "10"]),
        (("data.file=train.bin", "data.vocabulary=many"), ["data.vocabulary", "'many'", "auto"]),
        (("data.file=train.txt", "data.vocabulary=300"), ["data.vocabulary", ".bin"]),
        (("data.file=train.txt", "data.valid=valid.txt", "model.context=100"), ["data.valid", "80", "model.context"]),
    ],
)
def test_bad_files_are_told(words, parts):
    with pytest.raises(ConfigError) as refused:
        settle((*SMALL, *words))
    assert all(part in str(refused.value) for part in parts) and "\n" not in str(refused.value)
