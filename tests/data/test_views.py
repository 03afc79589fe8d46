"""data.collate and data.resize: items of other kinds, and images of unequal sizes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from playing import play, settle

from coopsgd.data.views import View, resized
from coopsgd.errors import ConfigError
from coopsgd.setup.parts import Parts

OWN = """import numpy as np

class Dicts:
    def __len__(self):
        return 60

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        return {"pixels": rng.integers(0, 255, (3, 8 + i % 3, 9), dtype=np.uint8), "y": i % 2, "name": str(i)}

def pairs(batch):
    return [one["pixels"] for one in batch], np.array([one["y"] for one in batch])

def triple(batch):
    return 1, 2, 3

def broken(batch):
    return [one["pixel"] for one in batch], [0]

def two(batch):
    return [0, 1], [0, 1]
"""
WORDS = ("data=custom", "data.path=my_items:Dicts", "model=logistic", "workers=2", "batch_size=8", "steps=2", "device=cpu")


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "my_items.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_dictionaries_of_unequal_images_are_learned_from():
    words = (*WORDS, "data.collate=my_items:pairs", "data.resize=[6,5]")
    config = settle(words)
    images = Parts(config).task.data.load()
    assert images.train_x.shape[1:] == (3, 6, 5) and images.train_x.dtype == np.uint8
    assert np.isfinite(play(None, 1, *words).lines[-1]["eval/loss"])


def test_both_kinds_of_images_are_resized_alike():
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    by_pil = np.asarray(resized(Image.fromarray(pixels), (8, 12))).transpose(2, 0, 1).astype(int)
    by_torch = resized(pixels.transpose(2, 0, 1), (8, 12))
    assert by_torch.dtype == np.uint8 and by_torch.shape == by_pil.shape == (3, 8, 12)
    assert np.abs(by_pil - by_torch).max() <= 1
    assert resized(np.ones((5, 4)), (2, 2)).shape == (2, 2)
    assert View([(np.zeros((5, 4)), 1)], None, [3])[0][0].shape == (3, 3)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((), ["item 0", "dict", "data.collate"]),
        (("data.collate=my_items:pairs",), ["item 1", "all must be alike", "data.resize"]),
        (("data.collate=my_items:triple",), ["item 0", "data.collate=triple", "(images, labels)"]),
        (("data.collate=my_items:broken",), ["item 0", "KeyError", "pixel"]),
        (("data.collate=my_items:two",), ["item 0", "batch of one"]),
        (("data.collate=my_items:nothing",), ["data.collate", "nothing"]),
        (("data.collate=pairs",), ["data.collate", "module:function", "'pairs'"]),
        (("data.resize=0",), ["data.resize", "[height, width]", "0"]),
        (("data.resize=[3,4,5]",), ["data.resize", "[3, 4, 5]"]),
        (("data.resize=big",), ["data.resize", "'big'"]),
    ],
)
def test_bad_values_are_told(words, parts):
    with pytest.raises(ConfigError) as refused:
        settle((*WORDS, *words))
    assert all(part in str(refused.value) for part in parts) and "\n" not in str(refused.value)
