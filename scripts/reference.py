"""docs/reference.md anew: every group, choice and key, as `coopsgd list` has them from the dataclasses.

Remake: python scripts/reference.py      (a test holds the page equal to what this prints)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from coopsgd.setup import catalogue
from coopsgd.setup.catalogue import ABOUT, EXPERIMENTS, Option

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
HEAD = """# Every group, choice and key

Made by `python scripts/reference.py` from the code; `coopsgd list` prints the same, `coopsgd list algo=easgd` the keys of one
choice. A group is chosen by a word (`algo=easgd`), a key of it set by another (`algo.alpha=0.1`). How words are written is on
[Words and keys](words.md).
"""


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def shown(value: Any) -> str:
    """A default, as it is typed."""
    if value is MISSING:
        return "(needed)"
    if value is None:
        return "not set"
    return f"`{cell(value if isinstance(value, str) else json.dumps(value, default=str))}`" if value != "" else "empty"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def of_run() -> Iterator[str]:
    yield "\n## Keys of the run itself\n"
    yield "Set as in `workers=8`. `coopsgd list run` prints them.\n"
    yield row("key", "type", "unit", "default", "what it is")
    yield row(*["---"] * 5)
    for one in catalogue.run_options():
        yield row(f"`{one.key}`", cell(one.type), one.unit or "", shown(one.value), cell(one.help))


def keys_of(group: str) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    """Of each key (name, type, unit, line) of a group its default by choice."""
    found: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for choice in catalogue.choices(group):
        options: list[Option] = [] if group == EXPERIMENTS else catalogue.options(group, choice.name)
        for one in options:
            if one.group:
                found.setdefault((one.full_key, one.type, one.unit, one.help), {})[choice.name] = one.value
    return found


def of_group(group: str) -> Iterator[str]:
    choices = catalogue.choices(group)
    default = catalogue.default(group) if group != EXPERIMENTS else None
    yield f"\n## {group}\n"
    yield f"{cell(ABOUT[group])}." + (f" Default: `{group}={default}`." if default else "") + "\n"
    yield row(f"`{group}=`", "what it is", "paper")
    yield row(*["---"] * 3)
    for choice in choices:
        yield row(f"`{choice.name}`", cell(choice.about), cell(choice.paper))
    if keys := keys_of(group):
        yield ""
        yield row("key", "of", "type", "unit", "default", "what it is")
        yield row(*["---"] * 6)
        for (key, kind, unit, text), values in keys.items():
            of = "all" if len(values) == len(choices) > 1 else ", ".join(values)
            by_value: dict[str, list[str]] = {}
            for name, value in values.items():
                by_value.setdefault(shown(value), []).append(name)
            usual, *others = sorted(by_value, key=lambda text: -len(by_value[text]))
            defaults = ", ".join([usual, *(f"{text} of {', '.join(by_value[text])}" for text in others)])
            yield row(f"`{key}`", of, cell(kind), unit or "", defaults, cell(text))


def page() -> str:
    lines = [HEAD.rstrip("\n"), *of_run()]
    for group in ABOUT:
        lines += of_group(group)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
