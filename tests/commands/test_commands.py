"""The command line beside runs: show, list, help, completion."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import needs
from running import QUICK

import coopsgd


def test_bare_coopsgd_is_help(cli):
    ended = cli()
    assert ended.code == 0 and ended.out.startswith("Usage: coopsgd") and ended.err == ""


def test_show_is_the_same_for_people_and_programs(cli):
    ended = cli("show", "algo=easgd", "workers=4", "fleet=processes", "--json")
    found = json.loads(ended.out)
    assert found["zeta"] == pytest.approx(4 / 6) and found["aux"] == 1 and found["tau"] == 10
    (factor,) = found["factors"]
    np.testing.assert_allclose(np.array(factor["W"])[-1], [1 / 3] * 4 + [-1 / 3], atol=1e-12)
    assert factor["symmetric"] and factor["doubly_stochastic"] and not factor["nonnegative"]
    np.testing.assert_allclose(sorted(factor["eigenvalues"]), sorted([1, 2 / 3, 2 / 3, 2 / 3, -2 / 3]), atol=1e-12)
    assert [entry["after_step"] for entry in found["schedule"]] == [10, 20, 30]
    assert found["schedule"][0]["messages"] == 6
    d = 64 * 200 + 200 + 200 * 10 + 10
    assert found["parameters"] == d and found["schedule"][0]["bytes_per_worker_mean"] == 6 / 4 * d * 4
    people = cli("show", "algo=easgd", "workers=4", "fleet=processes").out
    for message in ("worker 3", "aux 0", "zeta", "0.666667", "all-reduce", "after step"):
        assert message in people


def test_show_tells_each_way_of_carrying_out(cli):
    assert "messages along edges" in cli("show", "algo=dpsgd", "workers=8", "processes=8", "fleet=processes").out
    assert "all-reduce of the average" in cli("show", "algo=pasgd", "workers=8", "processes=4", "fleet=processes").out
    assert "slice of the columns" in cli("show", "algo=pasgd", "workers=8", "processes=4", "device=cpu").out
    assert "nothing is sent" in cli("show", "algo=pasgd", "workers=8", "processes=1").out
    assert "all-reduce of the average" in cli("show", "algo=fullsync", "fleet=processes").out


def test_flags_are_no_words_of_show(cli):
    for flag in ("-m", "--foo"):
        ended = cli("show", flag)
        assert ended.code == 2 and len(ended.lines) == 1 and f"{flag}: is no option here" in ended.err


MINE = "# Mine\n# paper: none\nstrategy: cooperative\nmixing: matrix\nW: [[0.5, 0.5], [0.5, 0.5]]\ntau: 4\n"


def test_yamls_of_ones_own_are_shown_listed_and_trained(cli, tmp_path):
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    (tmp_path / "mine" / "algo" / "own.yaml").write_text(MINE)
    folder = ("--config-dir", "mine")
    found = json.loads(cli("show", *folder, "algo=own", "workers=2", "--json").out)
    assert found["tau"] == 4 and found["zeta"] == pytest.approx(0)
    assert {"name": "own", "about": "Mine", "paper": "none", "group": "algo"} in json.loads(cli("list", *folder, "--json").out)[
        "algo"
    ]
    assert cli("train", *folder, "algo=own", "workers=2", *QUICK).code == 0


def test_show_counts_buffers_that_travel_along(cli):
    words = ("show", "algo=pasgd", "task=quadratic", "--json")
    plain, momentum, adam = (
        json.loads(cli(*words, *more).out)["schedule"][0]["bytes_per_worker_mean"]
        for more in ((), ("optim.momentum=0.9", "buffers=average"), ("optim=adam", "buffers=average"))
    )
    assert momentum == 2 * plain and adam == 3 * plain


def test_the_pages_strategy_runs_and_is_shown(cli, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "new_algorithm.md").read_text()
    (tmp_path / "slow.py").write_text(page.partition("```python\n# slow.py")[2].partition("```")[0])
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    (tmp_path / "mine" / "algo" / "slow.yaml").write_text("#" + page.partition("# mine/algo/slow.yaml")[2].partition("```")[0])
    lazy = page.partition("```yaml\n# Half")[2].partition("```")[0]
    (tmp_path / "mine" / "algo" / "lazy.yaml").write_text("# Half" + lazy)
    assert cli("train", "--config-dir", "mine", "algo=lazy", *QUICK).code == 0
    slow = cli("train", "--config-dir", "mine", "algo=slow", "tau=4", "algo.beta=0.5", "hydra.run.dir=slow", *QUICK)
    assert slow.code == 0, slow.err
    assert coopsgd.Run(tmp_path / "slow").summary["ledger"]["messages"] == 5 * 6  # five rounds of one average
    (shown,) = json.loads(cli("show", "--config-dir", "mine", "algo=slow", "--json").out)["schedule"][:1]
    assert shown["messages"] == 6  # rehearsed
    # beta 0 and alpha 1 are plain periodic averaging
    more = ("dtype=float64", "tau=4", *QUICK)
    cli("train", "--config-dir", "mine", "algo=slow", "algo.beta=0", "hydra.run.dir=limit", *more)
    cli("train", "algo=pasgd", "hydra.run.dir=plain", *more)
    rows = [coopsgd.Run(tmp_path / name).rows() for name in ("limit", "plain")]
    torch.testing.assert_close(*rows, rtol=0, atol=1e-12)


def test_list_names_everything_with_a_line(cli):
    listed = json.loads(cli("list", "--json").out)
    for group, choices in listed.items():
        files = {path.stem for path in (Path(__file__).parents[2] / "conf" / group).glob("*.yaml")}
        assert {choice["name"] for choice in choices} == files
        assert all(choice["about"] for choice in choices)
    assert all(choice["paper"] for choice in listed["algo"])
    (easgd,) = (choice for choice in json.loads(cli("list", "algo", "--json").out)["algo"] if choice["name"] == "easgd")
    alpha = next(key for key in easgd["keys"] if key["key"] == "algo.alpha")
    assert alpha["default"] == "auto" and "2 / (m + 2)" in alpha["help"]
    wrong = cli("list", "alg")
    assert (wrong.code, len(wrong.lines)) == (2, 1) and "did you mean algo?" in wrong.err
    assert "easgd" in cli("list").out and "arXiv:1412.6651" in cli("list", "algo=easgd").out


def test_help_is_quick_and_light():
    code = "import sys; from coopsgd.cli import cli; cli(['--help'], standalone_mode=False); print(sorted(sys.modules))"
    done, took = None, []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took) < 0.5  # of processor time, of which it has 0.1 s, and waits for nothing
    loaded = done.stdout.splitlines()[-1]
    assert "train" in done.stdout and "'torch'" not in loaded and "'hydra'" not in loaded


def test_a_refusal_does_not_import_torch(tmp_path):
    refused = [["algo=nope"], ["tau=0"], ["wrokers=1"], ["algo=dpsgd", "topology=torus", "workers=7"]]
    asked = f"print(*(command.train(words) for words in {refused}), 'torch' in sys.modules)"
    code = f"import sys; from coopsgd.commands.train import command; {asked}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["2", "2", "2", "2", "False"], done


def test_train_help_lists_groups_and_keys(cli):
    out = cli("train", "--help").out
    for message in ("algo: ", "easgd", "Elastic averaging", "topology: ", "tau ", "batch_size ", "--multirun"):
        assert message in out, message


def test_hydra_flags_are_untouched(cli):
    assert "mixing: elastic" in cli("train", "algo=easgd", "--cfg", "job").out
    assert "Defaults" in cli("train", "--info", "defaults").out
    assert "hydra" in cli("train", "--hydra-help").out.lower()
    assert cli("--version").out.startswith("coopsgd, version")


def test_completion_in_bash(tmp_path):
    script = subprocess.run([sys.executable, "-m", "coopsgd.cli", "completion", "bash"], capture_output=True, text=True).stdout
    (tmp_path / "script").write_text(script)
    (tmp_path / "coopsgd").write_text(f'#!/bin/sh\nexec {sys.executable} -m coopsgd.cli "$@"\n')
    (tmp_path / "coopsgd").chmod(0o755)

    def complete(line: str, words: list[str]) -> list[str]:
        listed = " ".join(f"'{word}'" for word in words)
        asked = (
            f"source {tmp_path}/script; COMP_LINE='{line}' COMP_POINT={len(line)} COMP_WORDS=({listed}) "
            f"COMP_CWORD={len(words) - 1}; _coopsgd_completion coopsgd; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, env=env)
        return done.stdout.split()

    # bash splits at '=', and replaces only what is behind it
    assert set(complete("coopsgd train algo=", ["coopsgd", "train", "algo", "="])) >= {"easgd", "pasgd", "dpsgd"}
    assert complete("coopsgd train algo=ea", ["coopsgd", "train", "algo", "=", "ea"]) == ["easgd"]
    assert complete("coopsgd tr", ["coopsgd", "tr"]) == ["train"]
    # what is offered depends on the words before: the keys of the algo that was chosen
    dependent = complete("coopsgd train algo=dpsgd algo.we", ["coopsgd", "train", "algo", "=", "dpsgd", "algo.we"])
    assert dependent == ["algo.weights="]
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    (tmp_path / "mine" / "algo" / "lazy.yaml").write_text("strategy: cooperative\nmixing: average\n")
    where = f"{tmp_path}/mine"
    own = complete(
        f"coopsgd train --config-dir {where} algo=la", ["coopsgd", "train", "--config-dir", where, "algo", "=", "la"]
    )
    assert own == ["lazy"]
    for asked in ("--config-dir", "--no-such-flag"):  # a flag, or what comes behind it: nothing of Hydra's, and no page of its
        assert complete(f"coopsgd train {asked} ", ["coopsgd", "train", asked, ""]) == []
    assert "topology=" in complete("coopsgd train topo", ["coopsgd", "train", "topo"])


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_in_other_shells(tmp_path, shell):
    needs(shutil.which(shell) is not None, shell)
    python = [sys.executable, "-m", "coopsgd.cli"]
    script = subprocess.run([*python, "completion", shell], capture_output=True, text=True).stdout
    (tmp_path / "script").write_text(script)
    parsed = subprocess.run([shell, "-n", str(tmp_path / "script")], capture_output=True, text=True)
    assert parsed.returncode == 0, parsed.stderr
    env = {**os.environ, "_COOPSGD_COMPLETE": f"{shell}_complete"}
    env |= {"COMP_WORDS": "coopsgd train algo=", "COMP_CWORD": "2" if shell == "zsh" else "algo="}
    offered = subprocess.run(python, capture_output=True, text=True, env=env).stdout
    assert "algo=easgd" in offered and "algo=pasgd" in offered


def test_no_words_at_all_are_the_defaults(cli):
    ended = cli("show")
    assert (ended.code, ended.err) == (0, "") and "easgd" in ended.out
