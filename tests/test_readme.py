"""What the README tells to type works."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from coopsgd.commands import compose

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"^```(?:\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines() if line.startswith("coopsgd ")]
VERBS = ("train", "show", "analyze", "probe", "design")
WORDS = [words for words in COMMANDS if words[1] in VERBS and "--over" not in words and "--help" not in words]


def test_there_are_commands():
    assert len(WORDS) >= 8


@pytest.mark.parametrize("command", WORDS, ids=" ".join)
def test_a_command_of_the_readme_is_accepted(command, tmp_path, monkeypatch):
    """The first job of a sweep stands for all."""
    monkeypatch.chdir(tmp_path)
    words = [re.sub(r"=([^,]*),.*", r"=\1", word) if "-m" in command else word for word in command[2:] if word != "-m"]
    compose.compose_config([re.sub(r"=range\(.*\)$", "=0", word) for word in words], look=command[1] == "show")


def test_a_partition_of_ones_own_as_in_the_readme(cli, tmp_path):
    (tmp_path / "blocks.py").write_text(README.partition("```python\n# blocks.py")[2].partition("```")[0])
    (tmp_path / "mine" / "partition").mkdir(parents=True)
    yaml = README.partition("# mine/partition/blocks.yaml")[2].partition("```")[0]
    (tmp_path / "mine" / "partition" / "blocks.yaml").write_text("#" + yaml)
    folder = ("--config-dir", "mine", "partition=blocks", "partition.skip=33")
    done = cli("show", *folder, "workers=4")
    assert done.code == 0 and re.search(r"\n +0 .* 350\n", done.out), done.out + done.err
    refused = cli("train", *folder, "partition.step=1")
    assert refused.code == 2 and "partition.step: " in refused.err and "skip" in refused.err


def test_a_strategy_of_ones_own_as_in_the_readme(cli, tmp_path):
    (tmp_path / "slowmo.py").write_text(README.partition("```python\n# slowmo.py")[2].partition("```")[0])
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    yaml = README.partition("# mine/algo/slowmo.yaml")[2].partition("```")[0]
    (tmp_path / "mine" / "algo" / "slowmo.yaml").write_text("#" + yaml)
    words = ("train", "--config-dir", "mine", "algo=slowmo", "task=quadratic", "processes=1", "workers=4", "steps=24")
    done = cli(*words, "algo.beta=0.5", "hydra.run.dir=run")
    assert done.code == 0 and '"rounds": 2,' in (tmp_path / "run" / "metrics.jsonl").read_text(), done.err
    refused = cli(*words, "algo.bet=0.5")
    assert refused.code == 2 and "algo.bet: " in refused.err and "beta" in refused.err


def test_what_an_author_imports_is_imported_when_it_is_asked_for():
    code = "import sys, coopsgd; assert 'torch' not in sys.modules; from coopsgd import Strategy, Mixing, Graph, Tick; "
    code += "assert 'torch' not in sys.modules; from coopsgd import Common, Fleet, Pending, Rows"
    subprocess.run([sys.executable, "-c", code], check=True)
