"""A data set is read once a machine: the mapped cache, and data sets named by import path."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import HANG
from imagefiles import idx
from playing import settle

import coopsgd
from coopsgd.data import cache, custom
from coopsgd.data.custom import Custom
from coopsgd.data.mnist import FILES, MNIST
from coopsgd.run import drawings, progress
from coopsgd.setup.parts import Parts

FORK = multiprocessing.get_context("fork")
BIG = 4 << 20  # bytes, so that pages can be counted


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty cache, and a source of two arrays that counts how often it is read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_last", None)
    (tmp_path / "source").write_bytes(b"one")
    return tmp_path


def reader(place):
    def read():
        with (place / "reads").open("a") as file:
            file.write("x")
        time.sleep(0.1)  # the others come meanwhile
        return {"x": np.arange(BIG, dtype=np.uint8).reshape(-1, 64, 64), "y": np.arange(5) - 2}

    return read


def load(place):
    return cache.shared("thing", [place / "source"], reader(place), lambda held: held["y"].shape == (5,))


def reads(place):
    return len((place / "reads").read_text())


def _visit(place, pipe):
    held = load(place)
    total = int(held["x"].sum(dtype=np.int64)) + int(held["y"].sum())  # touches every page
    pipe.send(total)
    pipe.recv()
    found, inside = {}, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = "arrays/thing" in line
        elif inside:
            name, value = line.split()[:2]
            found[name] = found.get(name, 0) + int(value) if value.isdigit() else 0
    pipe.send(found)


def test_processes_that_start_together_read_once_and_share_the_pages(place):
    pipes, members = [], []
    for _ in range(4):
        ours, theirs = FORK.Pipe()
        members.append(FORK.Process(target=_visit, args=(place, theirs)))
        members[-1].start()
        pipes.append(ours)
    assert all(pipe.poll(HANG) for pipe in pipes)
    totals = [pipe.recv() for pipe in pipes]  # now all have touched all of it
    assert set(totals) == {int(np.arange(BIG, dtype=np.uint8).sum(dtype=np.int64))}
    assert reads(place) == 1
    for pipe in pipes:  # one at a time, so that all are alive while each looks
        pipe.send(None)
        assert pipe.poll(HANG)
        found = pipe.recv()
        if pipe is pipes[0]:
            # resident: all of it; proportional share: a quarter, as four processes have the same pages
            assert found["Rss:"] * 1024 >= BIG and found["Pss:"] <= 0.3 * found["Rss:"], found
    for member in members:
        member.join()


def test_a_mapping_becomes_a_tensor_without_a_copy_or_a_warning(place):
    held = load(place)
    tensor = torch.from_numpy(held["x"])
    assert tensor.data_ptr() == held["x"].ctypes.data
    mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "arrays/thing" in line]
    assert mapped
    tensor[0] += 1  # nobody does, but if someone did, it would stay with him
    cache._last = None
    assert np.array_equal(load(place)["x"].ravel()[:3], [0, 1, 2])


def test_a_source_that_changes_is_read_again_and_takes_its_old_place(place):
    for content, expected in ((b"one", 1), (b"one", 1), (b"three", 2), (b"three", 2)):
        if (place / "source").read_bytes() != content:
            (place / "source").write_bytes(content)
        cache._last = None
        load(place)
        assert reads(place) == expected
    os.utime(place / "source", ns=(1, 1))
    load(place)
    assert reads(place) == 3
    assert len([path for path in (place / "cache" / "coopsgd" / "arrays").iterdir() if path.suffix == ""]) == 1


def test_without_a_place_for_the_cache_all_goes_on(place, monkeypatch):
    (place / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "file"))
    assert load(place)["y"].tolist() == [-2, -1, 0, 1, 2]


# --- data sets by import path -------------------------------------------------------------------------------------------

OWN = '''
import numpy as np, torch
from PIL import Image

class Squares:
    """Two sets, PIL images in colour."""
    def __init__(self, train, n=60, log=None):
        self.items = [(Image.fromarray(np.full((6, 5, 3), (i % 4) * 60, dtype=np.uint8) + np.arange(3, dtype=np.uint8)), i % 4)
                      for i in range(n if train else 12)]
        if log is not None:
            open(log, "a").write("read ")
    def __len__(self): return len(self.items)
    def __getitem__(self, i): return self.items[i]

class Vectors(torch.utils.data.Dataset):
    """One set, float tensors."""
    def __len__(self): return 50
    def __getitem__(self, i): return torch.full((7,), float(i)), torch.tensor(i % 3)

class Split:
    def __init__(self, split): self.n = {"train": 30, "test": 10}[split]
    def __len__(self): return self.n
    def __getitem__(self, i): return torch.full((4, 4), i, dtype=torch.uint8), i % 2

class Endless:
    def __getitem__(self, i): return i, i

class Empty(Vectors):
    def __len__(self): return 0

class Ragged(Vectors):
    def __getitem__(self, i): return torch.zeros(3 + (i == 4)), 0

class Words(Vectors):
    def __getitem__(self, i): return torch.zeros(3), "cat"

class Negative(Vectors):
    def __getitem__(self, i): return torch.zeros(3), -1

class Bare(Vectors):
    def __getitem__(self, i): return torch.zeros(3)
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(custom, "_read", None)
    yield tmp_path
    sys.modules.pop("own_data", None)


def test_items_become_arrays(own):
    data = Custom(path="own_data:Squares")
    images = data.load()
    assert images.train_x.shape == (60, 3, 6, 5) and images.train_x.dtype == np.uint8 and images.test_x.shape[0] == 12
    assert images.train_x[1, :, 0, 0].tolist() == [60, 61, 62] and images.train_y[:5].tolist() == [0, 1, 2, 3, 0]
    assert (data.SHAPE, data.CLASSES) == ((3, 6, 5), 4)
    np.testing.assert_allclose(images.mean, images.train_x.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(images.std, images.train_x.std((0, 2, 3)), rtol=1e-9)
    held = Custom(path="own_data:Vectors").load()  # one set of 17, 17 and 16: two of each class are for testing
    assert held.train_x.shape == (44, 7) and np.bincount(held.test_y).tolist() == [2, 2, 2]
    assert held.train_x.dtype == np.float32 and (held.mean, held.std) == ((0.0,), (1.0,))
    split = Custom(path="own_data:Split", mean=2, std=[0.5]).load()
    assert split.train_x.shape == (30, 1, 4, 4) and (split.mean, split.std) == ((2.0,), (0.5,))
    alone = Custom(path="own_data:Squares", arguments={"n": 30, "train": True}).load()  # the user's word: one set
    assert (len(alone.train_y), len(alone.test_y)) == (26, 4)


def test_a_torchvision_data_set_by_import_path(own, monkeypatch):
    """torchvision's own MNIST class on small files in its format is read item by item to what we read from the files."""
    folder = own / "root" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 10, shape, dtype=np.uint8) for shape in ((20, 28, 28), (20,), (5, 28, 28), (5,))]
    for name, array in zip(FILES, arrays, strict=True):
        (folder / name).write_bytes(idx(array))
    monkeypatch.setenv("COOPSGD_DATA", str(own / "root"))
    images = Custom(path="torchvision.datasets:MNIST", arguments={"download": False}).load()
    assert np.array_equal(images.train_x[:, 0], arrays[0]) and np.array_equal(images.test_y, arrays[3])


def test_it_is_read_once_before_the_workers_start(own, cli):
    words = ("data=custom", "data.path=own_data:Squares", "data.arguments={log: log, n: 200}", "workers=4", "processes=4")
    ended = cli("train", *words, "steps=4", "batch_size=4", "algo=pasgd", "hydra.run.dir=here")
    assert ended.code == 0, ended.err
    assert (own / "log").read_text().split() == ["read", "read"]  # the training set and the test set
    assert coopsgd.Run(own / "here").summary["data"]["samples"] == 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), ["data.path", "module:Class", "None"]),
        (("data.path=own_data",), ["data.path", "own_data", "module:Class"]),
        (("data.path=nowhere:Thing",), ["data.path", "nowhere:Thing", "No module"]),
        (("data.path=own_data:Thing",), ["data.path", "own_data:Thing", "no attribute"]),
        (("data.path=own_data:Squares", "data.arguments={size: 3}"), ["data.arguments", "own_data:Squares", "size"]),
        (("data.path=own_data:Endless",), ["own_data:Endless", "len()"]),
        (("data.path=own_data:Empty",), ["own_data:Empty", "no items"]),
        (("data.path=own_data:Ragged",), ["item 4", "(4,)", "(3,)", "alike"]),
        (("data.path=own_data:Words",), ["item 0", "cat"]),
        (("data.path=own_data:Negative",), ["item 0", "-1", "count from 0"]),
        (("data.path=own_data:Bare",), ["item 0", "(image, label)"]),
        (("data.path=own_data:Vectors", "data.std=0"), ["data.std", "positive", "0"]),
        (("data.path=own_data:Squares", "data.mean=[1,2]"), ["data.mean", "3 numbers", "2"]),
        (("data.path=own_data:Vectors", "data.arguments=5"), ["data.arguments", "5"]),
    ],
)
def test_a_data_set_that_is_none(own, cli, words, message):
    ended = cli("show", "data=custom", "batch_size=4", *words)
    assert ended.code == 2 and len(ended.lines) == 1, ended
    for word in message:
        assert word in ended.err, (word, ended.err)


def test_the_parent_stays_light(own):
    """Reading happens in a process of its own: what it imports is not left behind."""
    sys.modules.pop("own_data", None)
    data = Custom(path="own_data:Squares")
    data.check()
    assert "own_data" not in sys.modules and len(data.load().train_y) == 60
    assert json.loads(custom._read[0])[0] == "own_data:Squares"


def test_show_and_tensorboard_tell_who_holds_what(tmp_path, cli):
    words = ("partition=dirichlet", "partition.min_size=8", "batch_size=8")
    found = json.loads(cli("show", *words, "--json").out)
    counts = np.array(found["partition"]["counts"])
    settings = settle(words)
    assert Parts(settings).task.sizes(settings) == counts.sum(1).tolist()
    assert counts.shape == (4, 10) and counts.sum() == 1433 and found["data"]["samples"] == 1433
    people = cli("show", *words).out.splitlines()
    at = next(i for i, line in enumerate(people) if line.startswith("partition dirichlet"))
    for worker, line in enumerate(people[at + 2 : at + 6]):
        assert [int(n.replace(".", "0")) for n in line.split()] == [worker, *counts[worker], counts[worker].sum()]
    assert [int(n) for n in people[at + 6].split()[1:]] == [*counts.sum(0), 1433]
    many = cli("show", *words, "workers=40", "processes=1", "partition.min_size=1", "batch_size=1").out
    assert "3 quarters" in many and "most frequent class" in many and "skew" in many
    assert json.loads(cli("show", "task=quadratic", "--json").out)["partition"] is None

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert cli("train", *words, "steps=1", "hydra.run.dir=here").code == 0
    events = EventAccumulator(str(tmp_path / "here"))
    events.Reload()
    (shown,) = events.Images("workers/samples")
    from io import BytesIO

    from PIL import Image

    picture = np.asarray(Image.open(BytesIO(shown.encoded_image_string)).convert("L")).astype(int)
    assert picture.shape == (shown.height, shown.width)
    assert np.ptp(picture) > 150
    held = Parts(settings).task.class_counts(settings)
    np.testing.assert_array_equal(held["counts"], counts)
    many = [drawings.samples({"counts": n, "partition": "iid", "left_over": 0})[1:] for n in (np.eye(2000, 3), np.eye(1, 999))]
    assert max(map(max, many)) < 600, "of more workers or classes than there is room for, several share a cell"
    cell = picture[30 : 30 + 24, 44 : 44 + 46 * counts.shape[1]].reshape(24, -1, 46)[2, :, 2]
    largest = counts.max()
    dark = [int(255 - np.sqrt(n / largest) * (255 - 48)) for n in counts[0]]
    assert np.corrcoef(cell, dark)[0, 1] > 0.99, "the more samples, the darker"


def test_whoever_waits_is_told_of_what_takes_a_while(place, monkeypatch, capsys):
    """Of large files that are read, and of a download; nothing with -q."""
    source = place / "source"
    source.write_bytes(b"x" * 2000)
    monkeypatch.setattr(cache, "LARGE", 1000)
    read = {"x": np.arange(3)}
    assert (cache.shared("large", [source], lambda: read, lambda arrays: True)["x"] == np.arange(3)).all()
    assert capsys.readouterr().err.startswith("data: large is read from 2 kB of files, once")
    cache.shared("large", [source], lambda: read, lambda arrays: True)
    assert not capsys.readouterr().err, "it lies in the cache now"

    monkeypatch.setenv("COOPSGD_DATA", str(place / "none"))
    monkeypatch.setattr(torchvision.datasets, "MNIST", lambda *given, **keys: None)
    monkeypatch.setattr(MNIST, "find", lambda self: None)
    MNIST().check()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and "downloading it into" in told[0] and re.search(r"is there, after \d+ s$", told[1])
    monkeypatch.setattr(progress, "quiet", True)
    MNIST().check()
    assert not capsys.readouterr().err
