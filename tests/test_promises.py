"""docs/promises.md names tests that are there, each promise at least one, and the README leads to it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from drawn import LONG

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "promises.md").read_text()
TABLE = re.compile(r"^\| promise \| held by \|\n\| --- \| --- \|\n((?:\|.*\n)+)", re.MULTILINE)


def promises(page: str) -> dict[str, list[str]]:
    """The tests that a page names, as file::name, by promise; `::name` is of the file before."""
    found = {}
    for line in "".join(TABLE.findall(page)).splitlines():
        what, names = line.strip("| ").split(" | ")
        file, found[what] = "", []
        for name in names.split(", "):
            at, _, test = name.partition("::")
            file = at or file
            found[what].append(f"{file}::{test}")
    return found


def missing(page: str) -> list[str]:
    """Those that are not there."""
    return [test for tests in promises(page).values() for test in tests if not there(*test.split("::"))]


def there(file: str, name: str) -> bool:
    """Is it a function at the top of that file that pytest would run?"""
    if not re.fullmatch(r"tests/(\w+/)*test_\w+\.py", file) or not (ROOT / file).is_file():
        return False
    functions = (node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef))
    return name.startswith("test_") and name in functions


def test_every_test_that_is_named_is_there():
    assert missing(PAGE) == []


def test_none_of_them_is_left_to_make_test_all():
    assert not [test for tests in promises(PAGE).values() for test in tests if test.removeprefix("tests/") in LONG]


def test_every_promise_names_one():
    kept = promises(PAGE)
    assert len(kept) >= 25 and all(kept.values())
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and "::" in line]
    assert len(lines) == len(kept), "a promise stands twice, or a line is none"


def test_one_that_is_not_there_is_noticed():
    head = "| promise | held by |\n| --- | --- |\n"
    good = "tests/test_promises.py::test_every_promise_names_one"
    assert missing(f"{head}| a | {good}, ::test_every_test_that_is_named_is_there |\n") == []
    for bad in (
        f"{good}s",
        "tests/test_promise.py::test_a",
        "tests/test_promises.py::missing",
        "coopsgd/cli.py::main",
        "a hope",
    ):
        assert missing(f"{head}| a | {good}, {bad} |\n"), bad


def test_the_readme_leads_to_it():
    assert "(docs/promises.md)" in (ROOT / "README.md").read_text()
