"""Data sets: what is read, how it is dealt, what happens when it is missing."""

from __future__ import annotations

import gzip
import io
import math
import pickle
import shutil

import numpy as np
import pytest
import torch
from conftest import needs
from imagefiles import cifar_folder, idx, idx_folder
from playing import play, settle

from coopsgd.data import cifar, fashion_mnist
from coopsgd.data.augment import crop_and_flip
from coopsgd.data.cifar import CIFAR10, CIFAR100
from coopsgd.data.digits import Digits
from coopsgd.data.fashion_mnist import DEBIAN, FashionMNIST
from coopsgd.data.gaussian import Gaussian
from coopsgd.data.mnist import BEGIN, FILES, MNIST
from coopsgd.models.base import Model
from coopsgd.models.cnn import CNN
from coopsgd.models.logistic import Logistic
from coopsgd.models.mlp import MLP
from coopsgd.setup.parts import Parts
from coopsgd.streams import seed_of, stream


def test_digits_has_a_fixed_stratified_fifth_for_testing():
    images = Digits().load()
    assert len(images.train_y) == 1433 and len(images.train_y) + len(images.test_y) == 1797
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
    assert images.train_x.mean() == pytest.approx(images.mean[0], abs=0.3)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No data set on this machine."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("COOPSGD_DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("source", "below"),
    [
        (FashionMNIST, ""),
        (FashionMNIST, "fashion-mnist"),
        (FashionMNIST, "FashionMNIST/raw"),
        (MNIST, ""),
        (MNIST, "MNIST/raw"),
    ],
)
def test_idx_files_from_a_folder_of_ones_own(nowhere, monkeypatch, zipped, source, below):
    folder = nowhere / "own" / below
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 9, shape, dtype=np.uint8) for shape in ((20, 28, 28), (20,), (5, 28, 28), (5,))]
    for name, array in zip(FILES, arrays, strict=True):
        raw = idx(array)
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(raw) if zipped else raw)
    monkeypatch.setenv("COOPSGD_DATA", str(nowhere / "own"))
    source().check()
    images = source().load()
    assert np.array_equal(images.train_x[:, 0], arrays[0]) and np.array_equal(images.test_y, arrays[3])
    (folder / (FILES[0] + ".gz" * zipped)).write_bytes(
        gzip.compress(b"\0\0\10\1\0\0\0\11") if zipped else b"\0\0\10\1\0\0\0\11"
    )
    with pytest.raises(ValueError, match="not a whole IDX file"):
        source().check()
    for broken in (b"", b"\x1f\x8b", gzip.compress(idx(arrays[0]))[:-50]):
        (folder / (FILES[0] + ".gz" * zipped)).write_bytes(broken)
        for read in (source().check, source().load):
            with pytest.raises(ValueError, match="not a whole IDX file"):
                read()


def test_one_data_set_is_not_taken_for_another_of_the_same_names(nowhere, monkeypatch):
    """MNIST and Fashion-MNIST have files of the same names, shapes and labels; their first labels tell them apart."""
    for where, name in (("own", "mnist"), ("own/fashion-mnist", "fashion_mnist"), ("debian", "fashion_mnist")):
        folder = idx_folder(nowhere / where)
        labels = np.frombuffer(BEGIN[name] * 15, dtype=np.uint8)
        (folder / FILES[1]).write_bytes(idx(labels))
    monkeypatch.setenv("COOPSGD_DATA", str(nowhere / "own"))
    assert MNIST().find() == nowhere / "own"
    assert FashionMNIST().find() == nowhere / "own" / "fashion-mnist"  # a folder of its own goes before the one above
    monkeypatch.setenv("COOPSGD_DATA", str(nowhere / "own" / "fashion-mnist"))
    assert MNIST().find() is None
    monkeypatch.setenv("COOPSGD_DATA", str(nowhere / "own"))
    shutil.rmtree(nowhere / "own" / "fashion-mnist")
    assert FashionMNIST().find() == nowhere / "debian"


def test_missing_and_no_network_is_one_clear_error(nowhere, monkeypatch):
    torchvision = pytest.importorskip("torchvision")

    def offline(*args, **kwargs):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz\nmore")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", offline)
    with pytest.raises(ValueError, match="COOPSGD_DATA") as message:
        FashionMNIST().check()
    assert "\n" not in str(message.value) and "dataset-fashion-mnist" in str(message.value)


def test_missing_is_downloaded_by_torchvision(nowhere, monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    made = []

    def download(root, download):
        made.append((root, download))

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    FashionMNIST().check()
    assert made == [(str(nowhere / "cache" / "coopsgd"), True)]
    assert nowhere / "cache" / "coopsgd" / "FashionMNIST/raw" in FashionMNIST().places()  # where torchvision puts it


@pytest.mark.parametrize("source", [CIFAR10, CIFAR100])
def test_cifar_from_its_python_files(nowhere, monkeypatch, source):
    folder = nowhere / "own" / source.BELOW[0]
    cifar_folder(folder, source)
    made = {name: tuple(np.load(folder / f"{name}.npz").values()) for name in source.FILES}
    monkeypatch.setenv("COOPSGD_DATA", str(nowhere / "own"))
    source().check()
    images = source().load()
    assert images.train_x.shape == (30, 3, 32, 32) and images.test_x.shape == (10, 3, 32, 32) and images.pad == 0
    first, labels = made[source.TRAIN[0]]
    assert np.array_equal(images.train_x[0].ravel(), first[0])  # rows of red, then green, then blue
    assert np.array_equal(images.train_y[: len(labels)], labels) and np.array_equal(images.test_y, made[source.TEST][1])
    assert source(augment=True).load().pad == 4 and len(images.mean) == len(images.std) == 3
    whole = (folder / source.TEST).read_bytes()
    for broken in (b"", whole[:-20], pickle.dumps({"data": first}), pickle.dumps([1])):
        (folder / source.TEST).write_bytes(broken)
        with pytest.raises(ValueError, match=f"{source.TEST} is not a whole Python file of {source.NAME}; get it anew"):
            source().load()


def test_a_pickle_that_runs_something_is_refused(nowhere, monkeypatch):
    """A file that would make a folder when unpickled the usual way."""
    folder = nowhere / "own"
    cifar_folder(folder, CIFAR10)

    class Evil:
        def __reduce__(self):
            import os

            return os.mkdir, (str(nowhere / "done"),)

    (folder / "test_batch").write_bytes(pickle.dumps({"data": Evil(), "labels": [0]}))
    monkeypatch.setenv("COOPSGD_DATA", str(folder))
    with pytest.raises(ValueError, match="test_batch is not a whole Python file"):
        CIFAR10().load()
    assert not (nowhere / "done").exists()
    pickle.loads((folder / "test_batch").read_bytes())
    assert (nowhere / "done").exists()  # the test's own check: it would have


def test_numpy_of_either_name_is_unpickled():
    x = np.arange(6, dtype=np.uint8)
    for protocol in (0, 2, 4, 5):
        raw = pickle.dumps(x, protocol=protocol)
        if protocol < 5:
            other = raw.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")  # as files of before numpy 2 have it
            raws = [raw] if protocol == 4 else [raw, other]
            for one in raws:
                assert np.array_equal(cifar.Numbers(io.BytesIO(one), encoding="latin1").load(), x)


def test_crop_and_flip_is_a_shift_and_a_mirror():
    x = torch.from_numpy(np.random.default_rng(0).integers(1, 256, (64, 3, 10, 12), dtype=np.uint8))
    seen, out = set(), crop_and_flip(x, 2, seed=0, row=3, step=7)
    assert out.dtype == torch.uint8 and out.shape == x.shape
    padded = torch.nn.functional.pad(x, (2,) * 4)
    for i in range(64):
        fits = [
            (down, across, flip)
            for down in range(5)
            for across in range(5)
            for flip in (False, True)
            if torch.equal(out[i].flip(2) if flip else out[i], padded[i, :, down : down + 10, across : across + 12])
        ]
        assert len(fits) == 1
        seen |= set(fits)
    assert {d for d, _, _ in seen} == {a for _, a, _ in seen} == set(range(5)) and {f for _, _, f in seen} == {True, False}
    assert torch.equal(out, crop_and_flip(x, 2, seed=0, row=3, step=7))
    for address in ((1, 3, 7), (0, 4, 7), (0, 3, 8)):
        assert not torch.equal(out, crop_and_flip(x, 2, *address))


def test_augmented_training_is_the_same_wherever_rows_are_and_evaluates_plain_images(nowhere, monkeypatch):
    cifar_folder(nowhere / "own", CIFAR10, train=200, test=40)
    monkeypatch.setenv("COOPSGD_DATA", str(nowhere / "own"))
    words = (
        "data=cifar10",
        "model=logistic",
        "workers=4",
        "batch_size=8",
        "dtype=float64",
        "device=cpu",
        "algo=pasgd",
        "tau=2",
    )

    def problem(rows, *more):
        settings = settle((*words, *more))
        made = Parts(settings).task.build(settings, rows, torch.device("cpu"))
        x = made.start().expand(len(rows), -1).contiguous()
        grad = torch.zeros_like(x)
        made.bind(x, grad)
        for k in (0, 3):
            made.gradients(k, None, np.full(len(rows), k))
        return made, grad

    everyone, all_rows = problem(range(4), "data.augment=true")
    _, two = problem(range(2, 4), "data.augment=true")
    plain, without = problem(range(4))
    assert torch.equal(all_rows[2:], two) and not torch.allclose(all_rows, without)
    start = everyone.start()
    assert everyone.evaluate(start) == plain.evaluate(start)


def test_gaussian_is_as_hard_as_it_says():
    """The nearest mean is the best rule; for two classes it is right with probability Phi(separation / 2)."""
    for classes, separation in ((2, 2.0), (2, 0.5), (5, 3.0)):
        data = Gaussian(classes=classes, dim=8, separation=separation, samples=100_000, test_samples=10)
        images, means = data.load(7), data.means(7)
        gaps = np.linalg.norm(means[:, None] - means[None], axis=2)[~np.eye(classes, dtype=bool)]
        np.testing.assert_allclose(gaps, separation, rtol=1e-12)
        nearest = ((images.train_x[:, None] - means[None]) ** 2).sum(2).argmin(1)
        if classes == 2:
            assert data.bayes_accuracy() == pytest.approx(0.5 + 0.5 * math.erf(separation / 2 / math.sqrt(2)), abs=1e-9)
        assert (nearest == images.train_y).mean() == pytest.approx(data.bayes_accuracy(), abs=0.006)  # 4 sigma
        assert np.ptp(np.bincount(images.train_y)) <= 1
    assert Gaussian(separation=0.0).bayes_accuracy() == pytest.approx(0.1)
    again, other = Gaussian().load(1), Gaussian().load(2)
    assert np.array_equal(again.train_x, Gaussian().load(1).train_x) and not np.array_equal(again.train_x, other.train_x)


def test_learning_reaches_the_best_accuracy_and_not_more(process_groups):
    words = ("data=gaussian", "data.classes=2", "data.separation=2", "data.test_samples=20000", "data.samples=20000")
    run = play(
        process_groups, 1, *words, "model=logistic", "algo=pasgd", "workers=4", "steps=300", "log_every=1000", "eval_every=0"
    )
    best = 0.5 + 0.5 * math.erf(1 / math.sqrt(2))  # 0.8413
    assert run.lines[-1]["eval/accuracy"] == pytest.approx(best, abs=0.012)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"classes": 1}, "data.classes: must be at least 2, got 1"),
        ({"classes": 5, "dim": 4}, "data.dim: 5 means of equal distance need 5 dimensions, got 4"),
        ({"separation": -1.0}, "data.separation: .* got -1"),
        ({"separation": 1e200}, "data.separation: .* got 1e+"),
        ({"samples": 0}, "data.samples"),
    ],
)
def test_gaussian_refuses(wrong, message):
    with pytest.raises(ValueError, match=message):
        Gaussian(**wrong)


@pytest.mark.parametrize("model", [Logistic(), MLP(), MLP(hidden=[30, 20], dropout=0.1), CNN(), CNN(width=8)])
@pytest.mark.parametrize("data", [Digits, FashionMNIST, CIFAR10])
def test_parameters_are_counted_without_building(model, data):
    built = model.build(data.SHAPE, data.CLASSES)
    assert model.parameters(data.SHAPE, data.CLASSES) == sum(p.numel() for p in built.parameters())
    assert Model.parameters(model, data.SHAPE, data.CLASSES) == model.parameters(data.SHAPE, data.CLASSES)


def test_addresses_are_independent():
    draws = {
        float(stream(*address).random())
        for address in ((0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", 1, 2), (0, "a", 12))
    }
    assert len(draws) == 6
    assert stream(0, "a", 1).random() == stream(0, "a", 1).random()
    assert 0 <= seed_of(3, "model") < 2**63
