"""What `make test` leaves to `make test-all` exists, and what it keeps has every value."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import drawn
import pytest

HERE = Path(__file__).parent


class Item:
    def __init__(self, name: str, **params: Any) -> None:
        self.nodeid, self.callspec, self.marks = f"tests/{name}[{params}]", SimpleNamespace(params=params), []

    def get_closest_marker(self, name: str) -> Any:
        return next((mark for mark in self.marks if mark.name == name), None)

    def add_marker(self, mark: Any) -> None:
        self.marks.append(mark)


@pytest.mark.parametrize("name", [*drawn.CASES, *sorted(drawn.LONG)])
def test_it_is_a_test(name):
    file, _, test = name.partition("::")
    assert f"def {test}(" in (HERE / file).read_text()


def test_each_value_is_kept_once_and_others_are_slow(monkeypatch):
    monkeypatch.setattr(drawn, "CASES", {"test_a.py::test_b": drawn.COVER, "test_a.py::test_c": 3})
    grid = [Item("test_a.py::test_b", algo=algo, tau=tau) for algo in "abcdef" for tau in range(4)]
    line = [Item("test_a.py::test_c", algo=algo) for algo in "abcdefg"]
    other = [Item("test_a.py::test_d", algo=algo) for algo in "ab"]
    monkeypatch.setattr(drawn, "LONG", {"test_a.py::test_e"})
    long = [Item("test_a.py::test_e")]
    drawn.mark([*grid, *line, *other, *long])
    assert [mark.name for mark in long[0].marks] == ["slow"]
    kept = [item for item in grid if not item.marks]
    assert {item.callspec.params["algo"] for item in kept} == set("abcdef")
    assert {item.callspec.params["tau"] for item in kept} == set(range(4))
    assert 6 <= len(kept) <= 9
    assert len([item for item in line if not item.marks]) == 3 and not any(item.marks for item in other)
    again = [Item("test_a.py::test_b", **item.callspec.params) for item in reversed(grid)]
    drawn.mark(again)
    assert {item.nodeid for item in again if not item.marks} == {item.nodeid for item in kept}
