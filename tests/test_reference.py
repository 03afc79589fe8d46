"""docs/reference.md is what the dataclasses say; the tables of knobs on the pages of algorithms name keys that are there."""

from __future__ import annotations

import functools
import json
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from coopsgd.commands import compose
from coopsgd.predict import cost
from coopsgd.setup import catalogue
from coopsgd.setup.schema import AXES

ROOT = Path(__file__).parents[1]
FAMILIES = {path.stem: path.read_text() for path in sorted((ROOT / "docs" / "algorithms").glob("*.md")) if path.stem != "index"}


@pytest.fixture
def reference(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import reference

    yield reference
    sys.modules.pop("reference", None)


def rows_below(page: str, head: str) -> list[list[str]]:
    """The cells of the rows of a table, by how its head begins."""
    lines = page.splitlines()
    at = [number for number, line in enumerate(lines) if line.startswith(head)]
    found = []
    for number in at:
        for line in takewhile(lambda line: line.startswith("|"), lines[number + 2 :]):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


options = functools.cache(catalogue.options)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_knob_is_a_key_with_the_default_that_the_page_says(name):
    knobs = rows_below(FAMILIES[name], "| key | symbol |")
    assert knobs
    known = [
        one for group in ("algo", "period", *AXES) for choice in catalogue.choices(group) for one in options(group, choice.name)
    ] + catalogue.run_options()
    for key, _, default, *_ in knobs:
        values = {json.dumps(one.value).strip('"') for one in known if one.full_key == key.strip("`")}
        assert default in values or (key == "`topology`" and default == catalogue.default("topology")), key


@pytest.mark.parametrize("name", [name for name, page in FAMILIES.items() if "| words | messages |" in page])
def test_a_page_says_what_a_communication_sends(name):
    for words, messages, zeta in rows_below(FAMILIES[name], "| words | messages |"):
        parts = compose.compose_config([*words.strip("`").split(), "task=quadratic", "workers=8"], look=True).parts
        found = parts.strategy.schedule.zeta(8)
        assert cost.of_round(parts, 0)["messages"] == int(messages), words
        assert zeta == "none" if found is None else float(zeta) == pytest.approx(found, abs=5e-5), words


@pytest.mark.parametrize("name", FAMILIES)
def test_a_page_names_the_script_of_its_figure(name):
    assert f"]({name}.png)" in FAMILIES[name] and f"scripts/figure_families.py {name}" in FAMILIES[name]


def test_every_algorithm_is_on_the_page_of_a_family():
    whole = "\n".join(FAMILIES.values())
    assert not [
        choice.name
        for choice in catalogue.choices("algo")
        if f"`{choice.name}`" not in whole and f"algo={choice.name}" not in whole
    ]
    assert not [
        choice.name
        for choice in catalogue.choices("period")
        if f"`period={choice.name}`" not in whole and choice.name != "constant"
    ]


def test_the_reference_is_current(reference):
    assert reference.PAGE.read_text() == reference.page(), "remake it: python scripts/reference.py"
