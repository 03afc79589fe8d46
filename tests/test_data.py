"""Data sets: what is read, how it is dealt, what happens when it is missing."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from conftest import needs

from coopsgd.data import fashion_mnist
from coopsgd.data.base import Batches, shares
from coopsgd.data.digits import Digits
from coopsgd.data.fashion_mnist import DEBIAN, FILES, FashionMNIST
from coopsgd.models.base import Model
from coopsgd.models.cnn import CNN
from coopsgd.models.dense import MLP, Logistic
from coopsgd.streams import seed_of, stream


def test_digits_has_a_fixed_stratified_fifth_for_testing():
    images = Digits().load()
    assert len(images.train_y) == Digits.TRAIN and len(images.train_y) + len(images.test_y) == 1797
    for digit in range(10):
        ours = (images.test_y == digit).sum()
        assert ours == -(-(ours + (images.train_y == digit).sum()) // 5)  # every fifth, rounded up
    again = Digits().load()
    assert np.array_equal(images.test_x, again.test_x) and images.train_x.max() == 16


def test_fashion_mnist_from_debian():
    needs(DEBIAN.is_dir(), "dataset-fashion-mnist")
    images = FashionMNIST().load()
    assert images.train_x.shape == (60000, 1, 28, 28) and images.test_x.shape == (10000, 1, 28, 28)
    assert np.bincount(images.train_y).tolist() == [6000] * 10
    assert images.train_x.mean() / 255 == pytest.approx(images.shift, abs=1e-3)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No data set on this machine."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("COOPSGD_DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("below", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_from_a_folder_of_ones_own(nowhere, monkeypatch, zipped, below):
    folder = nowhere / "own" / below
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 9, shape, dtype=np.uint8) for shape in ((20, 28, 28), (20,), (5, 28, 28), (5,))]
    for name, array in zip(FILES, arrays, strict=True):
        raw = idx(array)
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(raw) if zipped else raw)
    monkeypatch.setenv("COOPSGD_DATA", str(nowhere / "own"))
    FashionMNIST().check()
    images = FashionMNIST().load()
    assert np.array_equal(images.train_x[:, 0], arrays[0]) and np.array_equal(images.test_y, arrays[3])
    (folder / (FILES[0] + ".gz" * zipped)).write_bytes(
        gzip.compress(b"\0\0\10\1\0\0\0\11") if zipped else b"\0\0\10\1\0\0\0\11"
    )
    with pytest.raises(ValueError, match="not a whole IDX file"):
        FashionMNIST().check()
    for broken in (b"", b"\x1f\x8b", gzip.compress(idx(arrays[0]))[:-50]):
        (folder / (FILES[0] + ".gz" * zipped)).write_bytes(broken)
        for read in (FashionMNIST().check, FashionMNIST().load):
            with pytest.raises(ValueError, match="not a whole IDX file"):
                read()


def test_missing_and_no_network_is_one_clear_error(nowhere, monkeypatch):
    torchvision = pytest.importorskip("torchvision")

    def offline(*args, **kwargs):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz\nmore")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", offline)
    with pytest.raises(ValueError, match="COOPSGD_DATA") as told:
        FashionMNIST().check()
    assert "\n" not in str(told.value) and "dataset-fashion-mnist" in str(told.value)


def test_missing_is_downloaded_by_torchvision(nowhere, monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    made = []

    def download(root, download):
        made.append((root, download))

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    FashionMNIST().check()
    assert made == [(str(nowhere / "cache" / "coopsgd"), True)]
    assert nowhere / "cache" / "coopsgd" / "FashionMNIST/raw" in FashionMNIST().places()  # where torchvision puts it


@pytest.mark.parametrize("model", [Logistic(), MLP(), MLP(hidden=[30, 20], dropout=0.1), CNN(), CNN(width=8)])
@pytest.mark.parametrize("data", [Digits, FashionMNIST])
def test_parameters_are_counted_without_building(model, data):
    built = model.build(data.SHAPE, data.CLASSES)
    assert model.parameters(data.SHAPE, data.CLASSES) == sum(p.numel() for p in built.parameters())
    assert Model.parameters(model, data.SHAPE, data.CLASSES) == model.parameters(data.SHAPE, data.CLASSES)


def test_a_deal_is_even_and_a_function_of_the_seed():
    dealt = shares(103, 4, seed=1)
    assert dealt.shape == (4, 25) and len(set(dealt.ravel().tolist())) == 100
    assert np.array_equal(dealt, shares(103, 4, seed=1)) and not np.array_equal(dealt, shares(103, 4, seed=2))


def test_batches_are_a_function_of_row_and_step():
    dealt = shares(100, 4, seed=0)
    everyone, one = Batches(dealt, range(4), 8, 0), Batches(dealt, range(2, 3), 8, 0)
    for k in (7, 0, 5, 3, 2):  # in any order
        assert np.array_equal(everyone.at(k)[2], one.at(k)[0])
    epoch = np.concatenate([everyone.at(k)[1] for k in range(3)])  # 25 samples: three batches of 8, the last one dropped
    assert len(set(epoch)) == 24 and set(epoch) <= set(dealt[1])
    assert not np.array_equal(everyone.at(0), everyone.at(3))


def test_addresses_are_independent():
    draws = {
        float(stream(*address).random())
        for address in ((0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", 1, 2), (0, "a", 12))
    }
    assert len(draws) == 6
    assert stream(0, "a", 1).random() == stream(0, "a", 1).random()
    assert 0 <= seed_of(3, "model") < 2**63
