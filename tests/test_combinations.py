"""docs/combinations.md is what the code says; CONTRIBUTING.md names the script that remakes it."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "combinations.md").read_text()


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import combinations

    return combinations


def names() -> list[str]:
    """What the rows of both tables are called."""
    return [line.split("|")[1].strip() for line in PAGE.splitlines() if line.startswith("| ") and "---" not in line]


ROWS = [name for name in names() if name and name != "`algo=`"]


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_what_the_code_says(script, name):
    row = script.of_algorithm(name.strip("`")) if name.startswith("`") else script.of_choice(name)
    assert row in PAGE.splitlines(), f"remake it: python scripts/combinations.py ({row})"


def test_every_row_is_there(script):
    assert [f"`{algo}`" for algo in script.ALGOS] + list(script.CHOICES)[:-1] == ROWS


@pytest.mark.slow
def test_the_share_by_lot_is_what_the_code_says(script):
    assert script.share() in " ".join(PAGE.split())
