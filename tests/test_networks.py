"""What docs/networks.md tells to type says what its table has."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from coopsgd.commands import compose
from coopsgd.commands.design.command import design
from coopsgd.predict.clock.cycles import price

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "networks.md").read_text()
COMMANDS = [shlex.split(line)[2:] for line in TEXT.splitlines() if line.startswith("coopsgd analyze")]
ROWS = [row.split(" | ") for row in re.findall(r"^\| (\w.* \| [\d.]+ \| [\d.]+) \|$", TEXT, re.MULTILINE)]


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_the_table_is_what_the_commands_say(monkeypatch, number):
    monkeypatch.chdir(ROOT / "examples" / "gaia")
    # the gigabytes of five quadratics are not needed: a hundredth of the bytes on lines of a hundredth takes as long
    words = [word.replace("dim=1340000", "dim=13400") for word in COMMANDS[number]]
    words += ["cluster.capacity=10 Mbit/s", "cluster.access=100 Mbit/s"]
    found, _ = price(compose.compose_config(words).parts)
    assert len(COMMANDS) == len(ROWS) and found.exact
    assert [f"{found.per_round:.4f}", f"{found.barrier:.4f}"] == ROWS[number][1:]


def test_design_prices_the_long_run(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    network = ["cluster=graph", f"cluster.file={ROOT}/examples/gaia/network.gml", "workers=11", "task=quadratic"]
    words = [*network, "algo=dpsgd", "topology=star", "tau=2", "optim.lr=0.01", "steps=20", "delay=0"]
    goal = {"probe": None, "budget_seconds": None, "target_loss": None, "top": 30, "check": 0, "theory": True}
    design(words, None, True, **goal)
    found = json.loads(capsys.readouterr().out)["ranking"]
    expected, _ = price(compose.compose_config(words).parts)
    assert found[0]["cycle_mean_per_step"] == pytest.approx(expected.per_round / 2)
    design(words, None, False, **goal)
    assert "long run: of a step, by the maximum cycle mean" in capsys.readouterr().out
