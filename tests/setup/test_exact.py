"""Arrays of a user's, such as algo.W, are taken as they are, from a file, a list or a function, or refused by name."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from coopsgd.commands import compose
from coopsgd.errors import ConfigError
from coopsgd.mixing.base import load_array
from coopsgd.mixing.written import Written
from coopsgd.tasks.quadratic import Quadratic

HALF = np.full((2, 2), 0.5)
WRONG = {
    "complex": (HALF + 1j, "complex numbers"),
    "complex without imaginary part": (HALF + 0j, "complex numbers"),
    "words": (np.array([["0.5", "0.5"]] * 2), "words|no array of numbers"),
    "bytes": (np.array([[b"1", b"0"], [b"0", b"1"]]), "words|no array of numbers"),
    "dates": (np.zeros((2, 2), "M8[s]"), "dates|no array of numbers"),
    "records": (np.zeros((2, 2), [("a", "f8")]), "not real numbers|no array of numbers"),
    "not a number": (np.array([[1, np.nan], [0, 1]]), r"not a finite number, nan at \[0, 1\]"),
    "infinite": (np.array([[1, 0], [-np.inf, 1]]), r"not a finite number, -inf at \[1, 0\]"),
    "half, infinite": (np.array([[1, 0], [np.inf, 1]], dtype="f2"), r"not a finite number, inf at \[1, 0\]"),
    "beyond 2^53": (np.array([[2**53 + 1, 1], [0, 1]]), "beyond 2"),
    "below": (np.array([[-(2**60) - 1, 1], [0, 1]]), "beyond 2"),
    "unsigned": (np.array([[2**64 - 1, 1], [0, 1]], dtype=np.uint64), "beyond 2"),
}
RIGHT = {
    "whole": np.eye(2, dtype=int)[::-1],
    "bool": np.eye(2, dtype=bool)[::-1],
    "half": HALF.astype("f2"),
    "single": HALF.astype("f4"),
    "of another order": HALF.astype(">f8"),
    "column by column": np.asfortranarray([[0.25, 0.75], [1, 0]]),
    "long": HALF.astype(np.longdouble),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_would_be_converted_with_loss_is_refused(tmp_path, name, monkeypatch):
    array, message = WRONG[name]
    np.save(tmp_path / "a.npy", array)
    monkeypatch.chdir(tmp_path)
    for key in ("algo.W", "task.centers", "task.curvature"):
        with pytest.raises(ValueError, match=rf"^{key}: .*({message})") as error:
            load_array(key, "a.npy")
        assert len(str(error.value).splitlines()) == 1
    for key, read in (
        ("algo.W", lambda: Written(W="a.npy").factors(2, 0)),
        ("task.centers", lambda: Quadratic(centers="a.npy").arrays(2, 0)),
    ):
        with pytest.raises(ValueError, match=rf"^{key}: .*({message})"):
            read()


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_exact_is_taken(tmp_path, name):
    np.save(tmp_path / "a.npy", RIGHT[name])
    found = load_array("algo.W", str(tmp_path / "a.npy"))
    assert found.dtype == np.float64 and np.array_equal(found, RIGHT[name].astype(float))


@pytest.mark.parametrize(
    "value", [[["1", "2"], ["3", "4"]], [[1, math.nan]], [[1, math.inf]], [[1, None]], [[1, 2], [3]], [[1j]]]
)
def test_lists_alike(value):
    with pytest.raises(ValueError, match=r"^task\.centers: "):
        load_array("task.centers", value)


def test_on_the_command_line():
    with pytest.raises(ConfigError, match=r"^task\.centers: .*words"):
        compose.compose_config(["workers=2", "task=quadratic", "task.centers=[['1','2'],['3','4']]"])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("np.full((m, m), 1 / m) + 0.1j", "complex numbers, not real numbers at round 0"),
        ("[['0.5', '0.5']] * 2", "words"),
        ("np.full((m, m), 1 / m) if r < 5 else np.full((m, m), np.nan)", r"nan at \[0, 0\] at round 5"),
        ("None", "no numbers"),
    ],
)
def test_functions_alike(tmp_path, monkeypatch, answer, message):
    (tmp_path / "answers.py").write_text(f"import numpy as np\ndef W(m, r):\n    return {answer}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("answers", None)
    try:
        with pytest.raises(ValueError, match=rf"^algo\.W: .*{message}"):
            Written(W="answers:W").check(2)
    finally:
        sys.modules.pop("answers", None)
