"""What the docs say of themselves: their tables are remade in place, and what CONTRIBUTING names is there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.fixture
def figures(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import figures

    yield figures
    sys.modules.pop("figures", None)


def test_a_table_takes_the_place_of_the_one_of_its_name(figures):
    text = (ROOT / "docs" / "results.md").read_text()
    for name in figures.NAMES:
        line = figures.stamp(name)
        found = figures.replaced(text, name, line, figures.table_of("said\n| a |\n| --- |\n| 1 |\n\nmore | of it\n"))
        assert f"\n{line}\n\n| a |\n| --- |\n| 1 |\n\n" in found and f"*{name}: " in text
        gone = re.search(rf"^\*{name}: .*\n\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
        assert gone not in found
    with pytest.raises(LookupError, match="0 tables named nix"):
        figures.replaced(text, "nix", "", "")
    with pytest.raises(LookupError, match="no table"):
        figures.table_of("nothing")


def test_every_table_of_the_results_says_what_it_was_made_with(figures):
    text = (ROOT / "docs" / "results.md").read_text()
    tables = re.findall(r"(?:^.*\n\n)(?=\|)", text, re.MULTILINE)
    assert len(tables) == len(figures.NAMES) + 1
    for line in tables:
        assert re.fullmatch(r"\*\w+: [0-9a-f]{7,}(-dirty)?, \d{4}-\d\d-\d\d, \d+ cores of .+, torch [\d.]+\S*\*\n\n", line), (
            line
        )
    for name in figures.EXPERIMENTS:
        assert (ROOT / "conf" / "experiment" / f"{name}.yaml").exists() and (ROOT / "docs" / f"{name}.png").exists()


def test_what_contributing_names_is_there():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([a-z-]+)", CONTRIBUTING)) <= set(targets)
    for path in re.findall(r"`((?:conf|tests|scripts|docs|setup|run)/[\w./]+)`", CONTRIBUTING):
        at = ROOT / path
        assert at.exists() or (ROOT / "coopsgd" / path).exists(), path
    quick = re.search(r"^QUICK := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert all((ROOT / "tests" / f"{name}.py").exists() for name in quick)
