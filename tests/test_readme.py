"""What README.md tells to type works, and so do the examples of its pages; test_pages.py reads and runs those of docs/."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from conftest import HANG
from pages import PAGES, README, ROOT

NEW = (ROOT / "docs" / "new_algorithm.md").read_text()
TABLE = re.compile(r"^\| `algo=` .*\n((?:\|.*\n)+)", re.MULTILINE)


def test_the_readme_is_short_and_leads_to_every_page():
    assert len(README.splitlines()) <= 100
    assert set(re.findall(r"\]\((docs/[\w/]+\.md)\)", README)) >= {
        name for name in PAGES if name not in ("docs/index.md", "docs/drift.md") and name.count("/") == 1
    }


SHORT = {"train": ("steps=2", "processes=1"), "design": ("steps=20", "task=quadratic")}


def test_the_commands_of_the_readme_run(cli):
    """One after another, for a few steps; what comes to compare is there by then."""
    lines = re.findall(r"^coopsgd .*", README, re.MULTILINE)
    assert len(lines) >= 9
    for line in lines:
        _, verb, *words = shlex.split(line, comments=True)
        done = cli(verb, *words, *SHORT.get(verb, ()))
        assert done.code == 0 and done.out, (line, done.err)


@pytest.mark.slow
def test_the_loop_of_the_tutorial_runs(tmp_path):
    (tmp_path / "mine.py").write_text(PAGES["docs/tutorial.md"].partition("```python\n# mine.py")[2].partition("```")[0])
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "mine.py")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=HANG, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"^loss [\d.]+ after 64 steps, 8 rounds, \d+ bytes$", done.stdout, re.MULTILINE), done.stdout


def test_the_tables_of_the_algorithms_are_one_and_name_each(cli):
    (table,) = TABLE.findall(README)
    first, beyond = TABLE.findall(PAGES["docs/algorithms/index.md"])
    assert first == table
    listed = {choice["name"]: choice for choice in json.loads(cli("list", "algo", "--json").out)["algo"]}
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in (table + beyond).splitlines() if "`" in row]
    (paragraph,) = re.findall(r"^\*\*Beyond the paper\*\*.*", README, re.MULTILINE)
    assert not [row[0] for row in rows[len(table.splitlines()) - 1 :] if row[0] not in paragraph]
    assert {row[0].strip("`") for row in rows} == listed.keys()
    for name, tau, _, _, paper in rows:
        choice = listed[name.strip("`")]
        keys = {key["key"]: key["default"] for key in choice["keys"]}
        assert int(tau) == keys.get("tau", 1) and paper.removesuffix(" et al. 2006") in choice["paper"], name


def test_a_partition_of_ones_own_as_on_its_page(cli, tmp_path):
    (tmp_path / "blocks.py").write_text(NEW.partition("```python\n# blocks.py")[2].partition("```")[0])
    (tmp_path / "mine" / "partition").mkdir(parents=True)
    yaml = NEW.partition("# mine/partition/blocks.yaml")[2].partition("```")[0]
    (tmp_path / "mine" / "partition" / "blocks.yaml").write_text("#" + yaml)
    folder = ("--config-dir", "mine", "partition=blocks", "partition.skip=33")
    done = cli("show", *folder, "workers=4")
    assert done.code == 0 and re.search(r"\n +0 .* 350\n", done.out), done.out + done.err
    refused = cli("train", *folder, "partition.step=1")
    assert refused.code == 2 and "partition.step: " in refused.err and "skip" in refused.err


def test_a_strategy_of_ones_own_as_on_its_page(cli, tmp_path):
    (tmp_path / "slow.py").write_text(NEW.partition("```python\n# slow.py")[2].partition("```")[0])
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    yaml = NEW.partition("# mine/algo/slow.yaml")[2].partition("```")[0]
    (tmp_path / "mine" / "algo" / "slow.yaml").write_text("#" + yaml)
    words = ("train", "--config-dir", "mine", "algo=slow", "task=quadratic", "processes=1", "workers=4", "steps=24")
    done = cli(*words, "algo.beta=0.5", "hydra.run.dir=run")
    assert done.code == 0 and '"rounds": 2,' in (tmp_path / "run" / "metrics.jsonl").read_text(), done.err
    refused = cli(*words, "algo.bet=0.5")
    assert refused.code == 2 and "algo.bet: " in refused.err and "beta" in refused.err


def test_what_an_author_imports_is_imported_when_it_is_asked_for():
    code = "import sys, coopsgd; assert 'torch' not in sys.modules; from coopsgd import Strategy, Mixing, Graph, Tick; "
    code += "assert 'torch' not in sys.modules; from coopsgd import Common, Fleet, Pending, Rows"
    subprocess.run([sys.executable, "-c", code], check=True)
