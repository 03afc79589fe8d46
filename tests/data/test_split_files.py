"""Splits as people write them: a line says what the file was taken for, and nothing of it is dropped."""

from __future__ import annotations

import json

import numpy as np
import pytest
from playing import settle

from coopsgd.data import heldout
from coopsgd.data.partitions import Dirichlet, File
from coopsgd.errors import ConfigError
from coopsgd.setup.parts import Parts

N = 12
LABELS = np.zeros(N, dtype=np.int64)
USERS = ["ann", "bob", "ann", "cid", "bob", "ann", "dan", "dan", "cid", "ann", "bob", "eve"]


def notes(path, workers, **keys):
    part = File(str(path), **keys)
    return part.notes(N, part.deal(LABELS, workers, 0))


def test_a_line_says_what_users_were_taken_for(tmp_path):
    path = tmp_path / "u.json"
    path.write_text(json.dumps(USERS))
    assert notes(path, 2) == ("partition.file: 5 users are dealt to 2 workers, 2 to 3 each",)
    assert notes(path, 5) == ("partition.file: each worker is one of 5 users",)
    one = notes(path, 3, users="one")
    assert one[0] == "partition.file: each worker is one of 5 users, drawn at random" and "are nobody's" in one[1]
    path.write_text(json.dumps([[0, 1], [2, 3], [4, 5]]))
    assert notes(path, 3) == ("partition.file: 6 of 12 training samples are nobody's",)  # lists are workers
    assert notes(path, 2, users="dealt")[0] == "partition.file: 3 lists are dealt to 2 workers, 1 to 2 each"


def test_words_in_bytes_are_words(tmp_path):
    np.save(tmp_path / "b.npy", np.array([user.encode() for user in USERS]))
    np.save(tmp_path / "w.npy", np.array(USERS))
    for one, other in zip(*(File(str(tmp_path / name)).deal(LABELS, 2, 0) for name in ("b.npy", "w.npy")), strict=True):
        assert np.array_equal(one, other)


BAD = {
    "a user twice": ("s.json", '{"ann": [0], "bob": [1], "ann": [2], "cid": [3]}', "names ann twice"),
    "not in 64 bits": ("s.npz", [[2**63 + 5], [1], [2]], f"list 0 has sample {2**63 + 5}; the"),
    "objects": ("s.npz", [np.array(["ann"], dtype=object)], "holds Python objects.*astype"),
    "objects of one": ("s.npy", np.array(["ann"], dtype=object), "holds Python objects.*astype"),
    "words and numbers": ("s.json", '["ann", 3]', "holds 3 where"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_would_be_lost_is_refused(tmp_path, kind):
    name, content, why = BAD[kind]
    path = tmp_path / name
    if isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, list):
        np.savez(path, *(np.array(one, dtype=np.uint64 if isinstance(one, list) else object) for one in content))
    else:
        np.save(path, content)
    with pytest.raises(ConfigError, match=why) as refused:
        settle(("workers=3", "batch_size=1", "partition=file", f"partition.file={path}"))
    assert "\n" not in str(refused.value)


def test_a_draw_that_leaves_less_than_a_batch_to_train_on_is_noted():
    """With test=local a worker must be dealt more than a batch, so that one is left."""
    part = Dirichlet(alpha=0.1, test="local", test_share=0.2, batch_size=16)
    assert part.one_batch(16) == heldout.enough(16, 0.2) == 20
    shares = [np.arange(18), np.arange(18, 60)]
    assert part.notes(60, shares) and not part.notes(60, [np.arange(20), np.arange(20, 60)])


def test_what_is_said_of_files_is_in_the_parts(tmp_path):
    path = tmp_path / "u.json"
    path.write_text(json.dumps([f"user {i % 7}" for i in range(1433)]))
    config = settle(("workers=4", "partition=file", f"partition.file={path}", "data=digits"))
    assert any("7 users are dealt to 4 workers" in note for note in Parts(config).task.notes(config))
