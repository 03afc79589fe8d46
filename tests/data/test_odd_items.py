"""Files of tokens and images as people have them: what would be read as something else is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from playing import settle

from coopsgd.data import items, tokens
from coopsgd.data.views import View
from coopsgd.errors import ConfigError

TOKENS = np.arange(4000) % 50
GPT = ("task=language", "data=text", "model=gpt", "model.context=16", "workers=2", "batch_size=4")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (TOKENS.astype("<u4").tobytes(), "whole numbers of 4 bytes or more"),
        ((TOKENS * 2000).astype("<u4").tobytes(), "whole numbers of 4 bytes or more"),  # beyond 65535
        (TOKENS.astype("<i8").tobytes(), "whole numbers of 4 bytes or more"),
        (np.r_[20240520, 1, 4000, [0] * 253].astype("<i4").tobytes() + TOKENS.astype("<u2").tobytes(), "header of 1024 bytes"),
    ],
)
def test_what_is_no_file_of_sixteen_bits_is_refused(tmp_path, content, why):
    (tmp_path / "t.bin").write_bytes(content)
    with pytest.raises(ValueError, match=why):
        tokens.read("data.file", str(tmp_path / "t.bin"))


def test_tokens_of_sixteen_bits_are_taken(tmp_path):
    for some in (TOKENS, np.arange(60000), np.array([7, 0] * 20), np.arange(400) % 2):
        some.astype("<u2").tofile(tmp_path / "t.bin")
        assert np.array_equal(tokens.read("data.file", str(tmp_path / "t.bin")), some)
        (tmp_path / "t.bin").unlink()


def test_the_file_with_too_large_a_token_is_named(tmp_path):
    for name, most in (("a.bin", 50), ("b.bin", 70)):
        (np.arange(4000) % most).astype("<u2").tofile(tmp_path / name)
    words = (*GPT, f"data.file={tmp_path}/a.bin", f"data.valid={tmp_path}/b.bin", "data.vocabulary=64")
    with pytest.raises(ConfigError, match=r"64 are too few for token 69 of .*b.bin"):
        settle(words)


@pytest.mark.parametrize(
    ("image", "why"), [(np.ones(5), "no image"), (np.ones((9, 8, 3)), "channels seem to come last"), ("a", "no image")]
)
def test_what_cannot_be_resized_is_told(image, why):
    with pytest.raises(ValueError, match=why):
        items.read(View([(image, 0), (image, 1)], None, 4), "mine:Data")


def test_what_can_be_is():
    for shape in ((9, 8), (3, 9, 8), (1, 8, 3), (3, 4, 4)):
        x, _ = items.read(View([(np.ones(shape), 0), (np.ones(shape), 1)], None, 4), "mine:Data")
        assert x.shape[2:] == (4, 4)
