"""A sweep that nobody waits for is refused by arithmetic, whoever asks for it."""

import pytest

from coopsgd.commands.train import command
from coopsgd.commands.train.session import Session
from coopsgd.setup import sweeps

YAML = "# @package _global_\n# Long\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: {values}\n"


@pytest.mark.parametrize("values", ["range(1000000000)", "range(0,1e12,1)"])
def test_a_yaml_s_endless_sweep_is_refused(tmp_path, monkeypatch, capfd, values):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "long.yaml").write_text(YAML.format(values=values))
    monkeypatch.chdir(tmp_path)
    assert command.train(["--config-dir", "mine", "+experiment=long", "task=quadratic", "steps=2"]) == 2
    message = capfd.readouterr().err
    assert (
        "coopsgd: seed: the sweep has 1" in message and "more than 100000" in message and not (tmp_path / "multirun").exists()
    )


def test_the_words_of_a_sweep_are_parsed_once_whatever_jobs_it_has(monkeypatch):
    parse, seen = sweeps.parsed, []
    monkeypatch.setattr(sweeps, "parsed", lambda words: seen.append(words) or parse(words))
    session = Session(["seed=" + ",".join(map(str, range(500))), "tau=4"])
    session.sweeping = True
    for number in range(500):
        session.expect(number, [f"seed={number}", "tau=4"])
    assert len(seen) == 1 and len(session._names) == 500
