"""partition=file: the split that the file means, or one line that says why not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from playing import settle

from coopsgd.data.partitions import File
from coopsgd.errors import ConfigError
from coopsgd.setup.parts import Parts

N = 12
LABELS = np.zeros(N, dtype=np.int64)
SHARES = [[3, 1, 5], [0, 2], [4, 6, 7, 11]]  # samples 8, 9, 10 are nobody's
USERS = ["ann", "bob", "ann", "cid", "bob", "ann", "dan", "dan", "cid", "ann", "bob", "eve"]


def saved(folder, name, content):
    path = folder / name
    if path.suffix == ".json":
        path.write_text(json.dumps(content))
    elif path.suffix == ".npy":
        np.save(path, np.array(content))
    else:
        arrays = content if isinstance(content, dict) else {f"arr_{i}": np.array(one) for i, one in enumerate(content)}
        np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize("name", ["s.json", "s.npz"])
def test_lists_are_the_workers_in_their_order(tmp_path, name):
    part = File(saved(tmp_path, name, SHARES))
    found = part.deal(LABELS, 3, seed=1)
    assert [share.tolist() for share in found] == SHARES
    assert part.notes(N, found) == ("partition.file: 3 of 12 training samples are nobody's",)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("u.json", USERS),
        ("u.npy", USERS),
        ("u.npz", {"users": np.array(USERS)}),
        ("m.json", {name: [i for i, user in enumerate(USERS) if user == name] for name in dict.fromkeys(USERS)}),
        ("n.json", [sorted(set(USERS)).index(user) for user in USERS]),
    ],
)
def test_users_are_dealt_whole_or_one_each(tmp_path, name, content):
    theirs = {tuple(i for i, user in enumerate(USERS) if user == one) for one in USERS}
    path = saved(tmp_path, name, content)
    assert {tuple(share.tolist()) for share in File(path).deal(LABELS, 5, 0)} == theirs  # one each
    dealt = File(path).deal(LABELS, 2, 0)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(N))
    held = [sum(set(user) <= set(share.tolist()) for user in theirs) for share in dealt]
    assert held == [3, 2]  # whole users, as many each as can be
    one = [tuple(share.tolist()) for share in File(path, users="one").deal(LABELS, 2, 0)]
    assert len({*one}) == 2 and {*one} <= theirs
    again = [File(path, users="one").deal(LABELS, 2, seed) for seed in range(8)]
    assert len({tuple(map(tuple, some)) for some in again}) > 1  # the seed says which


def test_lists_are_users_where_that_is_asked_for(tmp_path):
    path = saved(tmp_path, "s.json", SHARES)
    dealt = File(path, users="dealt").deal(LABELS, 2, 0)
    assert sorted(np.concatenate(dealt).tolist()) == sorted(one for share in SHARES for one in share)


BAD = {
    "lists": ("s.json", [[0], [1]], "holds 2 lists, but workers=3; set workers=2, or partition.users=dealt"),
    "users": ("s.json", {"a": [0], "b": [1]}, "holds 2 users, but workers=3; set workers to 2 or less"),
    "beyond": ("s.json", [[0], [1797], [2]], r"list 1 has sample 1797; the \d+ training samples are 0 to"),
    "negative": ("s.json", [[0], [-1], [2]], "list 1 has sample -1"),
    "twice": ("s.json", [[0, 0], [1], [2]], "list 0 has sample 0 twice"),
    "shared": ("s.json", [[0], [1, 0], [2]], "list 1 and list 0 both have sample 0"),
    "none": ("s.json", [[0], [], [2]], "list 1 has no sample"),
    "words": ("s.json", [["a"], [1], [2]], "list 0 holds .* not a list of sample numbers"),
    "floats": ("s.json", [[0.5], [1], [2]], "list 0 holds .* not a list of sample numbers"),
    "bools": ("s.json", [[True], [1], [2]], "list 0 holds .* not a list of sample numbers"),
    "deep": ("s.json", [[[0]], [1], [2]], "list 0 holds .* not a list of sample numbers"),
    "ragged": ("s.json", [[0, [1]], [1], [2]], "list 0 holds .* not a list of sample numbers"),
    "huge": ("s.json", [[10**30], [1], [2]], "list 0 holds .* not a list of sample numbers"),
    "mixed": ("s.json", [[0], 1, [2]], "holds 1 where a list"),
    "number": ("s.json", 3, "holds 3; give lists"),
    "nothing": ("s.json", [], r"holds \[\]; give lists"),
    "short": ("s.json", ["a", "b"], r"names the user of 2 samples, but \d+ are trained on"),
    "float users": ("u.npy", np.zeros(4), "holds float64, not users"),
    "cube": ("u.npy", np.zeros((2, 2, 2), dtype=int), r"an array of shape \(2, 2, 2\)"),
    "both": ("u.npz", {"users": np.zeros(4), "a": np.zeros(4)}, "holds users and 1 other"),
    "ending": ("s.txt", None, "ends in .txt, not in .json, .npz, .npy"),
    "torn": ("s.npz", None, "is no .npz file"),
    "no json": ("j.json", None, "is not JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_no_split_for_the_run_is_refused_in_a_line(tmp_path, kind):
    name, content, why = BAD[kind]
    path = str(tmp_path / name)
    if content is None:
        (tmp_path / name).write_bytes(b"[[1, 2")
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        saved(tmp_path, name, content)
    with pytest.raises(ConfigError, match=why) as refused:
        settle(("workers=3", "batch_size=1", "partition=file", f"partition.file={path}"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("partition.file=''", "partition.file: is missing"),
        ("partition.file=nowhere.json", "cannot read .*nowhere.json"),
        ("partition.users=some", "partition.users: must be one of auto, dealt, one"),
    ],
)
def test_keys_of_the_partition_refuse_what_they_cannot_be(tmp_path, word, why):
    path = saved(tmp_path, "s.json", SHARES)
    with pytest.raises(ConfigError, match=why):
        settle(("workers=3", "batch_size=1", "partition=file", f"partition.file={path}", word))


def test_a_file_that_changes_is_read_again(tmp_path):
    path = saved(tmp_path, "s.json", SHARES)
    words = ("workers=3", "batch_size=1", "partition=file", f"partition.file={path}")
    parts = Parts(settle(words))
    assert parts.task.sizes(parts.config) == [3, 2, 4]
    saved(tmp_path, "s.json", [[0], [1, 2, 3], [4, 5]])
    assert parts.task.sizes(parts.config) == [1, 3, 2]
