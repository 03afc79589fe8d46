"""Damaged files are not believed: a run's models, and the cache of decompressed arrays."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings

import numpy as np
import pytest
import torch

from coopsgd import Run
from coopsgd.data import cache
from coopsgd.data.text import Text
from coopsgd.errors import DamagedFile
from coopsgd.run import final


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
    "something else": lambda raw: b"not a file of models",
    **{f"a bit at {at:.0%}": lambda raw, at=at: flipped(raw, at) for at in (0.0, 0.1, 0.3, 0.5, 0.7, 0.999)},
}


def test_models_that_were_damaged_are_refused_when_they_are_read(finished):
    path = finished / final.FILE
    whole = path.read_bytes()
    rows, answer = Run(finished).rows(), Run(finished).answer()
    assert Run(finished).summary["checksums"] == {final.FILE.as_posix(): hashlib.sha256(whole).hexdigest()}
    for name, harm in HARM.items():
        path.write_bytes(harm(whole))
        for read in (Run(finished).rows, Run(finished).answer):
            with pytest.raises(DamagedFile, match=r"checkpoints/final\.safetensors is damaged") as message:
                read()
            assert "\n" not in str(message.value), name
    path.write_bytes(whole)
    assert torch.equal(Run(finished).rows(), rows) and torch.equal(Run(finished).answer(), answer)
    path.unlink()
    with pytest.raises(DamagedFile, match=r"final\.safetensors is missing, though the run kept it"):
        Run(finished).rows()


def test_other_models_in_their_place_are_refused(finished, cli, tmp_path):
    """A whole file of another run is not this run's."""
    assert cli("train", "task=quadratic", "steps=4", "workers=2", "processes=1", "seed=1", "hydra.run.dir=other").code == 0
    shutil.copy(tmp_path / "other" / final.FILE, finished / final.FILE)
    with pytest.raises(DamagedFile, match="SHA-256"):
        Run(finished).answer()


def test_a_run_of_a_version_without_checksums_is_read_and_visible_damage_told(finished):
    summary = json.loads((finished / "summary.json").read_text())
    del summary["checksums"]
    (finished / "summary.json").write_text(json.dumps(summary))
    path = finished / final.FILE
    whole = path.read_bytes()
    assert Run(finished).rows().shape == (3, 10)  # two workers and the centre
    for harm in (whole[:-100], b"", b"not a file of models"):
        path.write_bytes(harm)
        with pytest.raises(DamagedFile, match=r"final\.safetensors is damaged"):
            Run(finished).rows()
    path.unlink()
    with pytest.raises(DamagedFile, match="missing"):
        Run(finished).rows()
    torch.save([1, 2], finished / final.OLD)
    with pytest.raises(DamagedFile, match=r"final\.pt is damaged: it holds no models"):
        Run(finished).rows()


def test_what_was_not_kept_is_not_called_damaged(cli, tmp_path):
    assert cli("train", "task=quadratic", "steps=2", "save=none", "processes=1", "hydra.run.dir=run").code == 0
    assert Run(tmp_path / "run").summary["checksums"] == {}
    with pytest.raises(LookupError, match="did not keep its rows"):
        Run(tmp_path / "run").rows()


def test_a_summary_of_odd_checksums(finished):
    summary = json.loads((finished / "summary.json").read_text())
    for odd in ([], "x", 3, {"checkpoints/final.safetensors": 5}):
        (finished / "summary.json").write_text(json.dumps(summary | {"checksums": odd}))
        with pytest.raises(DamagedFile, match=r"final\.safetensors is damaged"):
            Run(finished).rows()


def test_a_summary_that_is_none(finished):
    for content in (b"", b"{", b"[1]", bytes(100), b"\xff\xfe"):
        (finished / "summary.json").write_bytes(content)
        with pytest.raises(DamagedFile, match=r"summary\.json is damaged"):
            _ = Run(finished).summary


# --- the cache of arrays -------------------------------------------------------------------------------------------------

X, Y = np.arange(40_000, dtype=np.uint8).reshape(-1, 4), np.arange(10_000) % 7


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """An entry of two arrays, its place, and `again()`: open it as a process that comes later would."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_last", None)
    source = tmp_path / "source"
    source.write_bytes(b"1")
    reads = []

    def again():
        cache._last = None
        return cache.shared("thing", [source], lambda: reads.append(1) or {"x": X, "y": Y}, fits)

    def fits(held):
        x, y = held["x"], held["y"]
        return x.dtype == np.uint8 and x.shape[1:] == (4,) and y.dtype == np.int64 and len(x) == len(y) and y.max() < 7

    again()
    (place,) = (path for path in (tmp_path / "cache" / "coopsgd" / "arrays").iterdir() if path.suffix == "")
    assert len(reads) == 1 and np.array_equal(again()["x"], X) and len(reads) == 1
    return place, again, reads


def crafted(raw: bytes, *, believable: bool = False, arrays=None, **head) -> bytes:
    """An entry with another first line; believable: with the checksum that belongs to what it then says."""
    line = raw.partition(b"\n")[0]
    said = json.loads(line) | head
    if arrays is not None:
        said["arrays"] = arrays
    if believable:
        digest = hashlib.sha256(json.dumps([said["key"], said["arrays"]]).encode())
        at = cache.ALIGN
        for kind, shape in said["arrays"].values():
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            digest.update(raw[at : at + size])
            at += size + -size % cache.ALIGN
        said["sha256"] = digest.hexdigest()
    new = json.dumps(said).encode() + b"\n"
    return new + bytes(cache.ALIGN - len(new)) + raw[cache.ALIGN :]


WHOLE = {"x": ["|u1", [10_000, 4]], "y": ["<i8", [10_000]]}
CACHES = {
    "zeros in place of the data": lambda raw: raw[: cache.ALIGN] + bytes(len(raw) - cache.ALIGN),
    "zeros from the start": lambda raw: bytes(len(raw)),
    "one bit": lambda raw: flipped(raw, 0.3),
    "one bit of a label": lambda raw: flipped(raw, 0.99),
    "one bit of the key": lambda raw: flipped(raw, 4 / len(raw)),
    "cut short": lambda raw: raw[:-5000],
    "one byte short": lambda raw: raw[:-1],
    "longer": lambda raw: raw + b"\0",
    "empty": lambda raw: b"",
    "no head": lambda raw: b"{}\n",
    "no json": lambda raw: b"\xff" * 90 + b"\n",
    "a list": lambda raw: b"[1]\n" + raw,
    "nested": lambda raw: b"[" * 50_000 + b"\n" + raw,
    "a huge shape": lambda raw: crafted(raw, arrays=WHOLE | {"x": ["|u1", [10**15, 4]]}),
    "an overflowing shape": lambda raw: crafted(raw, arrays=WHOLE | {"x": ["|u1", [2**62, 4]]}),
    "empty and huge": lambda raw: crafted(raw, arrays=WHOLE | {"x": ["|u1", [0, 2**80]]}),
    "a negative shape": lambda raw: crafted(raw, arrays=WHOLE | {"x": ["|u1", [-1, 4]]}),
    "shape of a fraction": lambda raw: crafted(raw, arrays=WHOLE | {"x": ["|u1", [2.5, 4]]}),
    "shape of a word": lambda raw: crafted(raw, arrays=WHOLE | {"x": ["|u1", "44"]}),
    "no shape": lambda raw: crafted(raw, arrays=WHOLE | {"x": ["|u1", 4]}),
    "objects": lambda raw: crafted(raw, arrays={"x": ["|O", [5000]], "y": ["<i8", [10_000]]}),
    "records": lambda raw: crafted(raw, arrays={"x": [[["a", "|O"]], [5000]], "y": ["<i8", [10_000]]}),
    "another shape": lambda raw: crafted(raw, arrays=WHOLE | {"x": ["|u1", [20_000, 2]]}),
    "another type": lambda raw: crafted(raw, arrays=WHOLE | {"y": ["<f8", [10_000]]}),
    "fewer": lambda raw: crafted(raw, arrays={"x": WHOLE["x"]}),
    "no arrays": lambda raw: crafted(raw, arrays={}),
    "arrays of a list": lambda raw: crafted(raw, arrays=[1]),
    "no checksum": lambda raw: crafted(raw, sha256=None),
    # whoever makes the checksum fit as well still cannot say what the reader would not have read
    "another shape, believable": lambda raw: crafted(raw, believable=True, arrays=WHOLE | {"x": ["|u1", [20_000, 2]]}),
    "another type, believable": lambda raw: crafted(raw, believable=True, arrays=WHOLE | {"y": ["<f8", [10_000]]}),
    "other names, believable": lambda raw: crafted(raw, believable=True, arrays={"a": WHOLE["x"], "b": WHOLE["y"]}),
    "labels out of range, believable": lambda raw: crafted(raw[:-8] + b"\7" + bytes(7), believable=True),
}


@pytest.mark.parametrize("name", CACHES)
def test_a_damaged_cache_is_made_anew_and_told(cached, name):
    place, again, reads = cached
    whole = place.read_bytes()
    place.write_bytes(CACHES[name](whole))
    why = "it holds something else" if name.endswith("believable") else ".*"
    with pytest.warns(UserWarning, match=rf"arrays/thing-[0-9a-f]+ is damaged \({why}\); it is made anew"):
        held = again()
    assert np.array_equal(held["x"], X) and np.array_equal(held["y"], Y) and held["y"].dtype == np.int64
    assert len(reads) == 2 and place.read_bytes() == whole
    again()  # and is whole: nothing is read, nothing told
    assert len(reads) == 2


def test_an_entry_of_another_version_or_of_changed_sources_is_no_damage(cached):
    place, again, reads = cached
    place.write_bytes(b'{"key": "[1, \\"thing\\"]", "arrays": {"x": ["|u1", [4]]}}\n' + bytes(9000))
    again()
    assert len(reads) == 2


def test_what_is_no_file_is_not_opened(cached):
    """A pipe in its place would be waited for without end."""
    place, again, _ = cached
    place.unlink()
    os.mkfifo(place)
    assert np.array_equal(again()["x"], X)
    assert place.is_file()  # replaced


def test_a_command_tells_of_a_damaged_cache_in_one_line_and_goes_on(cli, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question " * 200)
    words = ("show", "task=language", "data=text", "data.file=text.txt", "model=gpt", "model.context=16", "workers=2", "--json")
    home = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    first = cli(*words, env=home)
    (place,) = (path for path in (tmp_path / "cache" / "coopsgd" / "arrays").iterdir() if path.suffix == "")
    place.write_bytes(flipped(place.read_bytes(), 0.5))
    second, third = (json.loads(cli(*words, env=home).out) for _ in range(2))
    assert any("is damaged (its checksum is another); it is made anew" in note for note in second.pop("notes"))
    assert third.pop("notes") == [] and second == third == {k: v for k, v in json.loads(first.out).items() if k != "notes"}


def test_the_texts_own_reading_is_what_its_cache_may_hold(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for text in ("abc" * 20, "".join(map(chr, range(1, 1000))), "\U0001f600 é" * 9):
        (tmp_path / "text").write_text(text, encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(2):
                monkeypatch.setattr(cache, "_last", None)
                held = Text(file=str(tmp_path / "text")).load()
        assert "".join(held.vocabulary[t] for t in (*held.train, *held.test)) == text


# --- what others installed or made ---------------------------------------------------------------------------------------


def test_digits_that_are_not_whole(tmp_path):
    import gzip

    from coopsgd.data.digits import Digits, _read

    lines = gzip.decompress(Digits()._path().read_bytes()).decode().splitlines()
    assert len(_read(Digits()._path()).train_y) == 1433
    value = lines[5].split(",")
    wrong = (["300", *value[1:]], ["0.5", *value[1:]], ["-1", *value[1:]], ["nan", *value[1:]], [*value[:-1], "10"], value[:-1])
    contents = ["\n".join([*lines[:5], ",".join(line), *lines[6:]]) for line in wrong]
    moved = "\n".join([*lines[:5], lines[5] + ",0", ",".join(lines[6].split(",")[1:]), *lines[7:]])  # as many numbers in all
    for content in (*contents, moved, "\n".join(lines[:-1]), "", "words"):
        (tmp_path / "digits.csv.gz").write_bytes(gzip.compress(content.encode(), 1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, of an empty file
            with pytest.raises(ValueError, match="not the whole file of digits; reinstall scikit-learn"):
                _read(tmp_path / "digits.csv.gz")
    for raw in (b"\x1f\x8b", Digits()._path().read_bytes()[:-50]):
        (tmp_path / "digits.csv.gz").write_bytes(raw)
        with pytest.raises(ValueError, match="not the whole file of digits"):
            _read(tmp_path / "digits.csv.gz")


def test_arrays_that_do_not_belong_together():
    from coopsgd.data.base import Images

    x, y = np.zeros((4, 3), dtype=np.float32), np.zeros(4, dtype=np.int64)
    for wrong in (
        {"train_x": x[:3]},
        {"train_y": y.astype(float)},
        {"test_x": x.astype(int)},
        {"test_x": x[:, :2]},
        {"test_x": x[:0], "test_y": y[:0]},
    ):
        with pytest.raises(ValueError, match=r"^data: (train|test) "):
            Images(**{"train_x": x, "train_y": y, "test_x": x, "test_y": y, "mean": (0.0,), "std": (1.0,)} | wrong)


def test_cifar_rows_of_another_length(tmp_path, monkeypatch):
    """Two labels a row of half the length: as many numbers, and every image of two halves."""
    import pickle

    from coopsgd.data.cifar import CIFAR10

    held = {"data": np.zeros((8, 1536), dtype=np.uint8), "labels": [0, 9] * 4}
    for name in CIFAR10.FILES:
        (tmp_path / name).write_bytes(pickle.dumps(held, protocol=2))
    monkeypatch.setenv("COOPSGD_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="not a whole Python file of cifar10"):
        CIFAR10().load()


def test_a_text_of_one_character(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text").write_text("a" * 1000)
    with pytest.raises(ValueError, match="holds one character alone, 'a'"):
        Text(file=str(tmp_path / "text")).check()
