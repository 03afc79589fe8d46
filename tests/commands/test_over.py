"""`analyze --over` as somebody without a theory of his task reads it: what was measured, in order, and each reason once."""

from __future__ import annotations

from pathlib import Path

import pytest

from coopsgd.commands import overlay
from coopsgd.compare.entries import below
from coopsgd.errors import ConfigError

SMALL = ("data=digits", "model=logistic", "workers=2", "processes=1", "steps=12", "eval_every=6", "log_every=6", "save=none")


def test_a_sweep_without_known_constants(cli):
    assert cli("train", "-m", *SMALL, "tau=2,10,1", "hydra.sweep.dir=s").code == 0
    ended = cli("analyze", "--over", "s")
    assert ended.code == 0, ended.err
    rows = [line.split() for line in ended.out.splitlines() if line.startswith("s/")]
    assert [row[0] for row in rows] == [f"s/algo=easgd,tau={tau}" for tau in (1, 2, 10)]
    assert all(float(row[-6]) > 0 and row[-5:] == ["-"] * 5 for row in rows)  # measured, and nothing to hold it against
    assert ended.out.count("sigma2 and gap are unknown") == 1 and "3 of 3 runs: " in ended.out


def test_code_that_is_not_trusted_is_told_as_such(cli, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom coopsgd.strategies.cooperative import Cooperative\n\n"
        "@dataclass(frozen=True)\nclass Mine(Cooperative):\n    pass\n"
    )
    (tmp_path / "more" / "algo").mkdir(parents=True)
    (tmp_path / "more" / "algo" / "own.yaml").write_text("strategy: mine:Mine\nmixing: average\ntau: 2\n")
    assert cli("train", "--config-dir", "more", "algo=own", "task=quadratic", "steps=4", "hydra.run.dir=r").code == 0
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^r: .*mine:Mine.*--trust") as error:
        overlay.facts(["r"], None, None)
    assert "holds no run" not in str(error.value)


def test_numbers_in_names_count_as_numbers(tmp_path):
    names = ["algo=a,tau=16", "algo=a,tau=4", "algo=a,tau=1", "b", "10", "9"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    found = [Path(run).name for run in below(tmp_path)]
    assert found == ["9", "10", "algo=a,tau=1", "algo=a,tau=4", "algo=a,tau=16", "b"]
