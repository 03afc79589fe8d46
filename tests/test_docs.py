"""What the docs say of themselves: how the results were made, and what CONTRIBUTING names is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from coopsgd.cli import cli
from coopsgd.compare.measures import Budget
from coopsgd.run.schema import METRICS

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


RESULTS = (ROOT / "docs" / "results.md").read_text()
FIGURES = (ROOT / "scripts" / "figures.sh").read_text()


def commands(text: str) -> list[str]:
    """Those of coopsgd that begin a line, each in one."""
    return [line for line in text.replace("\\\n  ", "").splitlines() if line.startswith("coopsgd ")]


def test_every_table_of_the_results_says_what_it_was_made_with():
    for line in re.findall(r"(?:^.*\n\n)(?=\|)", RESULTS, re.MULTILINE):
        assert re.fullmatch(
            r"\*\w+: [0-9a-f]{7,}( to [0-9a-f]{7,})?, \d{4}-\d\d-\d\d, \d+ cores of .+, torch [\d.]+\S*\*\n\n", line
        ), line


def test_the_results_are_made_by_commands_that_stand_there():
    made = commands(FIGURES)
    assert [line for line in commands(RESULTS) if line.split()[1] in ("train", "compare")] == made and len(made) == 10
    for line in made:
        _, verb, *words = shlex.split(line)
        if verb == "train":
            name = words[1].removeprefix("experiment=")
            assert (ROOT / "conf" / "experiment" / f"{name}.yaml").exists() and f"docs/{name}.png" in FIGURES
            assert f"]({name}.png)" in RESULTS and f"*{name}: " in RESULTS
        else:
            options = cli.commands[verb].make_context(verb, words).params
            assert set(options["metric"]) <= set(METRICS) and all(map(Budget.of, options["at"]))
            assert options["output"] == f"build/figures/{Path(options['folders'][0]).name}"


def test_what_contributing_names_is_there():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([a-z-]+)", CONTRIBUTING)) <= set(targets)
    for path in re.findall(r"`((?:conf|tests|scripts|docs|setup|run)/[\w./]+)`", CONTRIBUTING):
        at = ROOT / path
        assert at.exists() or (ROOT / "coopsgd" / path).exists(), path
    quick = re.search(r"^QUICK := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert all((ROOT / "tests" / f"{name}.py").exists() for name in quick)
