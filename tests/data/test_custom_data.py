"""Data of the user's own: no number changes on the way in, and a line says what was taken for training and for testing."""

from __future__ import annotations

import json
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from playing import settle

import coopsgd
from coopsgd.data import custom, items
from coopsgd.data.custom import Custom
from coopsgd.errors import ConfigError

MODULE = """
import numpy as np
from torch.utils.data import Dataset

class Listed(Dataset):
    '''The items it is told of.'''
    classes = None
    def __init__(self, x, y):
        self.x, self.y = x, y
    def __len__(self):
        return len(self.y)
    def __getitem__(self, i):
        return self.x[i], self.y[i]

class Ordered(Listed):
    '''Item i has class i % 10.'''
    def __init__(self, n=200, classes=10):
        rng = np.random.default_rng(0)
        super().__init__(rng.standard_normal((n, 5)).astype("f4"), np.arange(n) % classes)

class Numbers(Listed):
    def __init__(self, labels, inputs="arange"):
        x = np.arange(3 * len(labels), dtype="f4").reshape(-1, 3)
        super().__init__(x if inputs == "arange" else inputs, labels)

def two(a, b):
    return Listed(np.arange(4 * a, dtype="u1").reshape(a, 2, 2), [i % 2 for i in range(a)])

class Base(Ordered):
    def __init__(self, root="r", train=True, download=False, n=40):
        super().__init__(n if train else n // 2)
        assert download is True

class ThroughKwargs(Base):
    '''Like torchvision's EMNIST: what chooses a part goes through **kwargs.'''
    def __init__(self, split, **kwargs):
        assert split in ("letters", "digits"), f"Unknown value '{split}' for argument split"
        super().__init__(**kwargs)

class Valid(Ordered):
    def __init__(self, split="train"):
        if split not in ("train", "val"):
            raise ValueError(f"Unknown value '{split}' for argument split. Valid values are ('train', 'val').")
        super().__init__(60 if split == "train" else 30)

class Mode(Ordered):
    def __init__(self, mode="train"):
        super().__init__({"train": 60, "test": 30}[mode])

class Flagged(Ordered):
    def __init__(self, test=False):
        super().__init__(30 if test else 60)

class Paths(Ordered):
    '''Its arguments are called train and test, and are paths.'''
    def __init__(self, train="a.csv", test="b.csv"):
        assert train == "a.csv"
        super().__init__(60)

class Both(Ordered):
    def __init__(self, train, test="b.csv"):
        super().__init__({"a.csv": 60, "c.csv": 40}[train])

class Ignores(Ordered):
    def __init__(self, train):
        super().__init__(60)

class Folders(Ordered):
    '''As torchvision's ImageFolder numbers the folders it finds.'''
    def __init__(self, root):
        self.names = root.split("+")
        super().__init__(20 * len(self.names), len(self.names))
    @property
    def classes(self):
        return self.names
    @property
    def class_to_idx(self):
        return {name: i for i, name in enumerate(self.names)}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(custom, "_read", None)
    monkeypatch.delenv("COOPSGD_DATA", raising=False)
    yield tmp_path
    sys.modules.pop("mine", None)


def given(x=None, y=None, monkeypatch=None):
    """A data set of these items, read as data=custom would."""
    import mine

    y = [0, 1] * 20 if y is None else y
    x = np.zeros((len(y), 3), dtype=np.float32) if x is None else x
    mine.it = lambda: mine.Listed(x, y)
    custom._read = None
    return Custom(path="mine:it")


# --- labels --------------------------------------------------------------------------------------------------------------

TAKEN = {
    "numbers": [0, 1, 2, 1],
    "whole floats": [0.0, 1.0, 2.0, 1.0],
    "numpy bytes": list(np.array([0, 1, 2, 1], dtype=np.uint8)),
    "numpy floats": list(np.array([0, 1, 2, 1], dtype=np.float16)),
    "tensors": list(torch.tensor([0, 1, 2, 1])),
    "tensors of one": list(torch.tensor([[0], [1], [2], [1]])),
    "float tensors": list(torch.tensor([0, 1, 2, 1], dtype=torch.bfloat16)),
    "arrays of one": list(np.array([[0], [1], [2], [1]])),
}
BAD = {
    "a fraction": 0.3,
    "more than a class": 2.37,
    "nearly whole": 1.0000001,
    "a float of numpy": np.float32(0.5),
    "a tensor": torch.tensor(0.5),
    "not a number": float("nan"),
    "infinite": float("inf"),
    "an exact fraction": Fraction(1, 2),
    "a word": "1",
    "bytes": b"1",
    "a word of numpy": np.str_("1"),
    "nothing": None,
    "complex": 1 + 0j,
    "complex of numpy": np.complex64(1),
    "a list": [1],
    "one-hot": np.eye(3)[1],
    "one-hot tensor": torch.eye(3)[1],
    "an empty array": np.zeros(0),
    "negative": -1,
    "minus a half": -0.5,
    "huge": 2**70,
    "a huge float": 1e300,
    "an object": object(),
    "a date": np.datetime64("2020-01-01"),
    "masked": np.ma.masked,
    "masked, of an array of one": np.ma.array([1], mask=[True]),
}


@pytest.mark.parametrize("form", TAKEN)
def test_labels_that_are_whole_numbers_are_taken_whatever_their_form(form):
    assert [items.label(value) for value in TAKEN[form]] == [0, 1, 2, 1]
    assert [items.label(value) for value in (True, False, np.True_, torch.tensor(False))] == [1, 0, 1, 0]


@pytest.mark.parametrize("form", BAD)
def test_a_label_that_is_no_class_names_its_item(own, form):
    with pytest.raises(ValueError, match=r"^data\.path: item 3 of mine:it has label ") as message:
        given(y=[0, 1, 0, BAD[form], *[0, 1] * 10]).load()
    assert len(str(message.value).splitlines()) == 1 and len(str(message.value)) < 200


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0] * 30, "all 2[0-9] training samples of mine:it have label 0; it takes two classes"),
        ([4] * 30, "label 4"),
        ([0, 10**7] * 10, "2 different labels, but sample [0-9]+ of the training set has label 10000000; .* up to 19"),
        ([0, 1, 255] * 10, "label 255; labels may go up to 29"),
        ([0] * 10 + [20] * 10, "label 20; labels may go up to 19"),
        (list(range(30)), "no class of two"),
    ],
)
def test_labels_that_do_not_number_classes(own, labels, message):
    with pytest.raises(ValueError, match=rf"^data\.path: .*{message}"):
        given(y=labels).load()


def test_gaps_that_are_taken_are_told(own):
    data = given(y=[1, 2, 5] * 20)  # as EMNIST's letters count from 1
    assert data.CLASSES == 6 and any("no sample has label 0, 3, 4: the model gives 6 logits for 3" in n for n in data.notes())
    assert given(y=[0] * 10 + [19] * 10).CLASSES == 20
    assert not any("no sample" in note for note in given().notes())


# --- inputs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        *((kind, "float32") for kind in ("bool", "int8", "int16", "uint16", "int32", "int64", "uint64", "f2", "f4", "f8")),
        ("uint8", "uint8"),
    ],
)
def test_small_numbers_become_bytes_or_float32_and_stay_what_they_were(own, dtype, kept):
    x = np.arange(120).reshape(40, 3).astype(dtype)
    images = given(x).load()
    assert images.train_x.dtype == images.test_x.dtype == kept
    both = np.concatenate([images.train_x, images.test_x])
    assert sorted(both.astype(float).tolist()) == sorted(x.astype(float).tolist())


def test_floats_of_both_sizes_are_alike(own):
    x = [*np.float32([[1, 2, 3]] * 20), *np.float64([[0.1, 2, 3]] * 20)]
    images = given(x).load()
    both = np.concatenate([images.train_x, images.test_x])
    assert both.dtype == np.float64 and (both[:, 0] == 0.1).sum() == 20


@pytest.mark.parametrize("x", [2**24 + 1 + np.arange(120), np.arange(120) / 3, 1.7e9 + np.arange(120), 2**53 - np.arange(120)])
def test_numbers_that_float32_does_not_hold_are_kept_in_float64(own, x):
    images = given(x.reshape(40, 3)).load()
    both = np.concatenate([images.train_x, images.test_x])
    assert both.dtype == np.float64 and sorted(both.ravel().tolist()) == sorted(x.tolist())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full(3, np.nan, "f4"), r"holds nan at \(0\)"),
        (np.array([0, 1, np.inf]), r"holds inf at \(2\)"),
        (torch.tensor([[0.0, -torch.inf]]), r"holds -inf at \(0, 0, 1\)"),
        (np.array([0, np.nan, 1], dtype="f2"), r"holds nan at \(1\)"),
        (np.array([1j, 0, 0]), "complex128"),
        (np.array(["a", "b", "c"]), "<U1"),
        (np.array([1, None, 2]), "object"),
        (np.array([2**60 + 1, 0, 0]), "beyond 2"),
        (np.array([2**63 + 1, 0, 0], dtype=np.uint64), "beyond 2"),
        (np.array([-(2**60), 0, 0]), "beyond 2"),
        (np.zeros(3, dtype=np.longdouble), "float128"),
        (np.zeros((0,)), "without numbers"),
        (np.float32(1), "0 dimensions"),
        (np.zeros((1, 2, 3, 4)), "4 dimensions"),
        (np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0]), "masked"),
        (Image.new("P", (3, 3)), "palette"),
        (Image.new("PA", (3, 3)), "palette"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "datetime64"),
        ({"image": 1}, "dict|object"),
    ],
)
def test_an_input_that_cannot_be_taken_as_it_is_names_its_item(own, value, message):
    like = np.zeros_like(np.asarray(value), dtype="f8") if np.asarray(value).dtype.kind in "f" else np.zeros(3)
    like = np.zeros(3) if like.ndim not in (1, 2, 3) or not like.size else like
    with pytest.raises(ValueError, match=rf"^data\.path: item 7 of mine:it .*({message})") as error:
        given([like] * 7 + [value] + [like] * 32).load()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("item", [{"image": 0, "label": 1}, np.zeros((2, 1)), "ab", (np.zeros(3), 1, 2), torch.zeros(2, 1)])
def test_an_item_is_a_pair(own, item):
    import mine

    class Odd(mine.Listed):
        def __getitem__(self, i):
            return item

    mine.it = lambda: Odd(None, [0] * 9)
    with pytest.raises(ValueError, match=r"^data\.path: item 0 of mine:it is no \(image, label\): it is a "):
        Custom(path="mine:it").load()


def test_an_offset_that_float32_would_lose_is_refused_or_scaled_away(own, cli):
    (own / "stamps.py").write_text(
        "import numpy as np\nfrom mine import Listed\n"
        "def it(): return Listed(1.7e9 + np.arange(600.).reshape(200, 3) / 10, [0, 1] * 100)\n"
    )
    words = ("data=custom", "data.path=stamps:it", "model=logistic", "batch_size=4", "workers=2", "steps=2", "processes=1")
    with pytest.raises(
        ConfigError, match=r"^data: feature \(0\) lies between 1700000000 and 1700000059.* or use dtype=float64$"
    ):
        settle(words)
    settle((*words, "dtype=float64"))
    scaled = cli("train", *words, "data.mean=1700000030", "data.std=17", "hydra.run.dir=b")
    assert scaled.code == 0 and coopsgd.Run(own / "b").summary["eval"]["eval/loss"] < 10, scaled.err


@pytest.mark.parametrize("key", ["mean", "std"])
@pytest.mark.parametrize("value", [True, "0.5", float("nan"), [[1.0]], [True], 10**400, 1e300, [None], {}])
def test_scales_are_numbers(key, value):
    with pytest.raises(ValueError, match=rf"^data\.{key}: must be"):
        Custom(path="a:b", **{key: value})


def test_channels_last_are_pointed_at(own):
    x = np.zeros((40, 8, 8, 3), dtype=np.uint8)
    assert any("8 channels of 8 x 3; if channels come last" in note for note in given(x).notes())
    assert not any("channels" in note for note in given(x.transpose(0, 3, 1, 2)).notes())


class Drawn:
    """A random flip, as torchvision's: every item is another each time it is asked for."""

    def __init__(self, image: bool) -> None:
        self.draw, self.image = np.random.default_rng(0), image

    def __len__(self):
        return 40

    def __getitem__(self, i):
        x = np.arange(3, dtype="f4") + i
        return (x[:: self.draw.choice([-1, 1])], i % 2) if self.image else (x, int(self.draw.integers(2)))


@pytest.mark.parametrize("image", [True, False])
def test_items_that_are_drawn_anew_are_read_once_and_that_is_told(own, image):
    import mine

    mine.it = lambda: Drawn(image)
    (note,) = [note for note in Custom(path="mine:it").notes() if "each time" in note]
    assert "read once" in note and "random" in note
    assert not any("each time" in note for note in given(np.arange(120.0).reshape(40, 3) / 7).notes())


def test_a_channel_without_spread_is_not_blown_up(own):
    """An alpha channel of 255 everywhere but in one test image: that image would be read as -1e6."""
    import mine

    rgba = np.random.default_rng(0).integers(0, 256, (50, 4, 2, 2), dtype=np.uint8)
    rgba[:, 3] = 255
    test = rgba[:10].copy()
    test[0, 3] = 254
    mine.part = lambda split: {"train": mine.Listed(rgba, [0, 1] * 25), "test": mine.Listed(test, [0, 1] * 5)}[split]
    images = Custom(path="mine:part").load()
    assert images.mean[3] == 255 and images.std[3] == 1 and min(images.std[:3]) > 50


# --- what is held out ----------------------------------------------------------------------------------------------------


def test_ordered_data_is_held_out_by_class_and_not_by_place(own):
    held = Custom(path="mine:Ordered").load()
    assert np.bincount(held.test_y).tolist() == [2] * 10 and np.bincount(held.train_y).tolist() == [18] * 10
    for n, classes in ((203, 10), (200, 2), (100, 7), (1000, 3)):
        custom._read = None
        held = Custom(path="mine:Ordered", arguments={"n": n, "classes": classes}).load()
        counts = np.bincount(np.arange(n) % classes)
        assert np.bincount(held.test_y).tolist() == [max(1, round(c / 10)) for c in counts]
        # nothing is lost, and nothing is in both
        both = np.concatenate([held.train_x, held.test_x])
        assert len(np.unique(both, axis=0)) == n


def test_which_are_held_out_depends_on_split_seed_alone(own):
    def test_set(**more):
        custom._read = None
        return Custom(path="mine:Ordered", **more).load(seed=more.get("split_seed", 0) + 7).test_x.tolist()

    assert test_set() == test_set() == test_set(mean=1.0) != test_set(split_seed=1)
    places = [np.flatnonzero(items.held_out(np.arange(200) % 10, seed)) for seed in range(50)]
    drawn = np.bincount(np.concatenate(places), minlength=200)
    assert drawn.min() > 0 or (drawn > 0).mean() > 0.95  # any item may be: a lot, and no pattern


def test_classes_of_few(own):
    data = given(y=[0] * 30 + [1] * 2 + [2])
    assert np.bincount(data.load().test_y, minlength=3).tolist() == [3, 1, 0]
    assert "data: label 2 has no test sample" in data.notes()
    assert np.bincount(data.load().train_y).tolist() == [27, 1, 1]


def test_show_console_and_summary_say_what_is_held_out(own, cli):
    words = ("data=custom", "data.path=mine:Ordered", "model=logistic", "batch_size=4", "workers=2", "steps=2", "processes=1")
    each = "training + test of each class: 0: 18 + 2, 1: 18 + 2"
    says = "180 of 200 samples; test: 20 of 200 samples, a tenth of each class at random (data.split_seed=0), held out"
    found = json.loads(cli("show", *words, "--json").out)
    assert any(says in note for note in found["notes"]) and any(each in note for note in found["notes"])
    assert found["data"]["test_of_each_class"] == found["partition"]["test"] == [2] * 10
    people = cli("show", *words).out
    assert says in people and any(line.split() == ["test", *["2"] * 10, "20"] for line in people.splitlines())
    ended = cli("train", "-m", *words, "seed=0,1", "hydra.sweep.dir=sweep")
    assert ended.code == 0 and ended.err.count(says) == 2 and ended.err.count(each) == 2, ended
    runs = [coopsgd.Run(path.parent).summary["data"] for path in sorted((own / "sweep").glob("*/summary.json"))]
    assert len(runs) == 2 and runs[0] == runs[1]
    assert runs[0]["held_out"] is True and runs[0]["split_seed"] == 0 and runs[0]["train_of_each_class"] == [18] * 10


def test_every_data_set_says_what_its_test_set_is(cli):
    for words, message in (((), "364 samples, a fixed fifth"), (("data=gaussian",), "2000 samples, drawn besides")):
        assert message in json.loads(cli("show", *words, "--json").out)["data"]["test"]


# --- what is taken for what ----------------------------------------------------------------------------------------------


def sizes(**settings):
    custom._read = None
    data = Custom(**settings)
    images = data.load()
    return (len(images.train_y), len(images.test_y)), " ".join(data.notes())


def test_parts_by_arguments_of_each(own):
    found, message = sizes(path="mine:Mode", train={"mode": "train"}, test={"mode": "test"})
    assert found == (60, 30) and "its own 60 samples (mode=train); test: its own 30 samples (mode=test)" in message
    found, message = sizes(path="mine:Mode", train={}, test={"mode": "test"})
    assert found == (60, 30) and "held out" not in message
    found, message = sizes(path="mine:Valid", train={"split": "train"}, test={"split": "val"})
    assert found == (60, 30)
    # what the user does not say is filled in
    found, message = sizes(path="mine:Base", arguments={"n": 50}, train={"root": "a"}, test={"root": "b"})
    assert (
        found == (50, 25)
        and "(train=true, root=a)" in message
        and "(train=false, root=b)" in message
        and "from a and b" in message
    )
    found, message = sizes(path="mine:Base", train={"train": False}, test={"train": True})
    assert found == (20, 40)


def test_arguments_that_go_through_kwargs(own):
    found, message = sizes(path="mine:ThroughKwargs", arguments={"split": "letters", "n": 60})
    assert (
        found == (60, 30) and "train=true" in message and "train=false" in message
    )  # and download=true, or it would have refused
    parts = {"train": {"train": True, "n": 80}, "test": {"train": False, "n": 30}}
    assert sizes(path="mine:ThroughKwargs", arguments={"split": "digits"}, **parts)[0] == (80, 15)


def test_one_set_says_why_and_what_might_choose_a_part(own):
    found, message = sizes(path="mine:Mode")
    assert found == (50, 10) and "it takes no train or split" in message
    assert "it takes mode: if that chooses a part, name both by data.train={mode: ...} data.test={mode: ...}" in message
    assert sizes(path="mine:Folders", arguments={"root": "bullet_train+test_tube"})[0] == (36, 4)  # these are things
    assert "it takes test: if that chooses a part, name both" in sizes(path="mine:Flagged")[1]
    found, message = sizes(path="mine:Both", train={"train": "a.csv"}, test={"train": "c.csv"})
    assert found == (60, 40)
    found, message = sizes(path="mine:Paths")  # its train is a path, and not to be filled with true
    assert found == (50, 10) and "it takes train: if that chooses a part" in message
    assert "data.arguments says train=false" in sizes(path="mine:Base", arguments={"train": False})[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "mine:Valid"}, r"split=test was filled in for testing, .* data\.train=\{split: NAME\} data\.test="),
        ({"path": "mine:Valid"}, r"^data\.arguments: mine:Valid cannot be made .*Unknown value 'test'"),
        ({"path": "mine:Ignores"}, r"the same 60 items with train=true and train=false"),
        ({"path": "mine:Mode", "train": {"mode": "train"}}, r"^data\.test: is missing beside data\.train"),
        ({"path": "mine:Mode", "test": {}}, r"^data\.train: is missing beside data\.test"),
        ({"path": "mine:Mode", "train": {}, "test": {}}, r"^data\.test: is the same as data\.train"),
        ({"path": "mine:Mode", "train": {"a": 1}, "test": {"mode": "test"}}, r"^data\.train: mine:Mode cannot be made.*'a'"),
        ({"path": "mine:Mode", "train": {"mode": "train"}, "test": {"b": 1}}, r"^data\.test: mine:Mode cannot be made.*'b'"),
        ({"path": "mine:Valid", "train": {"split": "val"}, "test": {}}, r"^data\.test: says no split, though data\.train does"),
        ({"path": "mine:Mode", "train": [1], "test": {}}, r"^data\.train: must be keys and values"),
        ({"path": "mine:Mode", "train": {1: 2}, "test": {}}, r"^data\.train: must be keys and values"),
        ({"path": "mine:Mode", "split_seed": -1}, r"^data\.split_seed: must be a whole number"),
        ({"path": "mine:Folders", "arguments": {"root": "train+val"}}, r"train and val of train\+val for classes"),
        ({"path": "mine:Folders", "arguments": {"root": "Train+TEST+Val"}}, r"\{root: Train\+TEST\+Val/Train\}"),
        ({"path": "mine:Folders", "arguments": {"root": "train"}}, r"name the folder of its classes: .*\{root: train/train\}"),
        ({"path": "mine:Folders", "arguments": {"root": "labels+training+validation"}}, r"training and validation"),
        (
            {"path": "mine:Folders", "arguments": {"root": "training_set+test_set"}},
            r"training_set and test_set of .* name parts",
        ),
        ({"path": "mine:Folders", "arguments": {"root": "train2017+val2017"}}, r"train2017 and val2017 of .* name parts"),
        ({"path": "mine:Folders", "arguments": {"root": "images-test+images-train"}}, r"images-train and images-test of "),
        ({"path": "mine:Folders", "train": {"root": "a+b+c"}, "test": {"root": "a+c"}}, r"label 1 .* is b in .* and c in"),
        ({"path": "mine:Both"}, r"^data\.arguments: .* missing 1 required positional argument: 'train'"),
        ({"path": "mine:MODULE"}, r"no attribute"),
    ],
)
def test_what_is_not_clear_is_refused(own, settings, message):
    custom._read = None
    with pytest.raises(ValueError, match=message) as error:
        Custom(**settings).load()
    assert len(str(error.value).splitlines()) == 1


def test_folders_of_train_and_val(own):
    """torchvision's own ImageFolder, on a folder of parts."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 6), ("val", 3)):
        for name in ("cat", "dog"):
            folder = own / "pets" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    path, pets = "torchvision.datasets:ImageFolder", str(own / "pets")
    with pytest.raises(ValueError, match=rf"data\.train={{root: {pets}/train}} data\.test={{root: {pets}/val}}"):
        Custom(path=path, arguments={"root": pets}).load()
    data = Custom(path=path, train={"root": f"{pets}/train"}, test={"root": f"{pets}/val"})
    assert data.load().train_x.shape == (12, 3, 8, 8)
    assert (data.about()["train_of_each_class"], data.about()["test_of_each_class"]) == ([6, 6], [3, 3])
    assert data.about()["held_out"] is False and f"from {pets}/train and {pets}/val" in data.notes()[0]
    custom._read = None
    with pytest.raises(ValueError, match="root"):  # no folder is guessed for a class that downloads nothing
        Custom(path=path).load()


def test_parts_on_the_command_line(own, cli):
    words = ("data=custom", "data.path=mine:Mode", "model=logistic", "batch_size=2", "workers=2")
    found = json.loads(cli("show", *words, "data.train={mode: train}", "data.test={mode: test}", "--json").out)
    assert found["data"]["train"] == "its own 60 samples (mode=train)" and found["data"]["held_out"] is False
    ended = cli("show", *words, "data.train={mode: train}")
    assert ended.code == 2 and len(ended.lines) == 1 and "data.test: is missing" in ended.err


def test_test_samples_that_are_trained_on_are_told(own):
    import mine

    x, y = np.arange(120, dtype="f4").reshape(40, 3), [0, 1] * 20
    parts = {"train": mine.Listed(x, y)}
    mine.part = lambda split: parts[split]
    for test, message in ((x[30:], "10 of the 10"), (np.concatenate([x[:5], -x[1:6]]), "5 of the 10"), (-x[1:11], None)):
        parts["test"] = mine.Listed(test, [0, 1] * 5)
        custom._read = None
        found = [note for note in Custom(path="mine:part").notes() if "in the training set, too" in note]
        assert found == ([] if message is None else [f"data: {message} test samples are in the training set, too"])
    # every sample five times, as who oversamples has them: what is held out is trained on
    (note,) = [note for note in given(np.repeat(x[:8], 5, axis=0), y).notes() if "in the training set, too" in note]
    assert note.startswith("data: 4 of the 4 test samples")


def test_parts_of_which_classes_differ(own):
    import mine

    mine.part = lambda split: given_part[split]
    given_part = {
        "train": mine.Listed(np.zeros((40, 3)), [0, 1] * 20),
        "test": mine.Listed(np.ones((9, 3)), [0, 1, 2] * 3),
    }
    data = Custom(path="mine:part")
    assert (
        data.CLASSES == 3 and "data: label 2 is in the test set and not in training, where it cannot be learned" in data.notes()
    )
    given_part["test"] = mine.Listed(np.ones((9, 3)), [2, 3, 4] * 3)
    custom._read = None
    with pytest.raises(ValueError, match=r"have labels 2, 3, 4, none of which occurs in training \(0, 1\)"):
        Custom(path="mine:part").load()
