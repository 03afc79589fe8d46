"""Each class of docs/your_classes.md is chosen by the words beside it, and a run with it takes some steps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from playing import play

from coopsgd.setup.schema import GROUPS

TEXT = (Path(__file__).parents[1] / "docs" / "your_classes.md").read_text()
IMPORTS = "from dataclasses import dataclass\n\nimport numpy as np\n\n"
EXAMPLES = {
    group: (shlex.split(line)[2:], file, code)
    for group, line, file, code in re.findall(
        r"^\*\*`(\w+)`\*\*: [^`]*`(coopsgd train [^`]*)`.*?^```python\n# (\w+\.py)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE
    )
}


def test_every_group_has_one():
    assert {*EXAMPLES} == {*GROUPS} - {"stop"}
    for group, (_, _, code) in EXAMPLES.items():
        body = code.partition("@dataclass(frozen=True)\n")[2]
        assert len([line for line in body.splitlines() if line.strip()]) <= 11, group


@pytest.mark.parametrize("group", EXAMPLES)
def test_a_class_of_ones_own_trains(process_groups, monkeypatch, tmp_path, group):
    words, file, code = EXAMPLES[group]
    (tmp_path / file).write_text(IMPORTS + code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    small = ["task=quadratic"] if group in ("algo", "topology", "period", "correction", "optim", "schedule", "cluster") else []
    played = play(process_groups, 1, *words, *small, "workers=4", "steps=4", "log_every=1", "eval_every=0")
    assert len(played.lines) == 5 and (group != "cluster" or played.lines[-1]["sim_s"] > 0)
