"""Columns that are picked from many lines at once are those of a JSON reader, to the bit, or are refused."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest

from coopsgd.compare import bulk

NAMES = ("step", "eval/loss", "bytes", "train_s", "last", "none")


def lines(n, draw):
    """As a run writes them: the same keys in the same order."""
    numbers = (0.1, 1e-300, -2.5e17, 3, 0, None, 1 / 3, math.pi * 1e12)
    return [
        {"step": k, "eval/loss": draw.choice(numbers), "bytes": 2**60 + k, "train_s": k / 7, "last": draw.random()}
        for k in range(n)
    ]


def written(points):
    return "".join(json.dumps(point) + "\n" for point in points).encode()


def by_hand(points, name):
    values = [point.get(name) for point in points]
    return np.array([math.nan if value is None else float(value) for value in values])


def test_they_are_those_of_a_json_reader(seed=0):
    points = lines(300, random.Random(seed))
    found = bulk.columns(written(points), NAMES)
    assert list(found) == list(NAMES)
    for name in NAMES:
        assert np.array_equal(found[name], by_hand(points, name), equal_nan=True), name
    points[-1]["train_s"] = 5.0
    short = bulk.columns(written(points), NAMES, ends=("bytes", "train_s", "none"))
    assert short["train_s"][-1] == 5 and np.isnan(short["train_s"][:-1]).all() and np.isnan(short["none"]).all()
    points[-1]["train_s"] = None  # the last number is an earlier one
    assert np.array_equal(bulk.columns(written(points), NAMES, ends=("train_s",))["train_s"], by_hand(points, "train_s"), True)


@pytest.mark.parametrize(
    "spoilt",
    {
        "a key that one line lacks": lambda points: points[7].pop("eval/loss"),
        "a key that the last line lacks": lambda points: points[-1].pop("eval/loss"),
        "a key in other keys": lambda points: points[7].update({"eval/loss": {"eval/loss": 2}}),
        "a key in the first line's others": lambda points: [p.update({"a": {"eval/loss": 1}, "eval/loss": 2}) for p in points],
        "a word": lambda points: points[7].update({"eval/loss": "1.0"}),
        "a truth": lambda points: points[7].update({"eval/loss": True}),
        "a list": lambda points: points[7].update({"eval/loss": [1, 2]}),
        "no step": lambda points: points[0].pop("step"),
        "a step of another kind": lambda points: points[-1].update(step=1.5),
    }.values(),
)
def test_what_is_otherwise_is_refused_or_right(spoilt):
    points = lines(20, random.Random(1))
    spoilt(points)
    found = bulk.columns(written(points), NAMES)
    assert found is None or all(np.array_equal(found[name], by_hand(points, name), equal_nan=True) for name in NAMES)


@pytest.mark.parametrize(
    "torn", [b"", b"{}\n", b'{"step": 3\n' * 20, b"\x00" * 50 + b"\n" * 20, b"[1, 2]\n" * 20, b'{"step": 1}{\n' * 9]
)
def test_what_is_no_log_is_refused(torn):
    assert bulk.columns(torn, NAMES) is None
    mixed = written(lines(20, random.Random(2)))
    cut = len(mixed) // 2
    assert torn == b"" or bulk.columns(mixed[:cut] + torn + mixed[cut:], NAMES) is None
