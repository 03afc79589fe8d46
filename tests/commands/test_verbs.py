"""Verbs and their options: what is meant by one that is none, options anywhere, sweeps behind --over, what show shows."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from coopsgd.cli import cli as commands
from coopsgd.commands import compose, overlay
from coopsgd.commands.runs import expanded
from coopsgd.errors import ConfigError
from coopsgd.setup import catalogue, schema
from coopsgd.verbs import TOLD


def message(*words: str) -> str:
    """The one line of a refusal, in this process."""
    with pytest.raises((click.ClickException, ConfigError)) as error:
        commands.main(list(words), prog_name="coopsgd", standalone_mode=False)
    line = getattr(error.value, "format_message", lambda: str(error.value))()
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("trian", "tau=4"), "did you mean coopsgd train"),
        (("TRAIN",), "did you mean coopsgd train"),
        (("run", "algo=easgd"), "did you mean coopsgd train"),
        (("analyse",), "did you mean coopsgd analyze"),
        (("plot",), "did you mean coopsgd analyze"),
        (("help",), "did you mean coopsgd --help"),
        (("easgd",), "did you mean coopsgd train algo=easgd"),
        (("MATCHA",), "did you mean coopsgd train algo=matcha"),
        (("algo=easgd", "tau=4"), "coopsgd train algo=easgd tau=4"),
        (("-m", "tau=1,2"), "coopsgd train -m tau=1,2"),
        (("gibberish",), "coopsgd --help"),
        (("show", "easgd"), "did you mean algo=easgd"),
        (("show", "-m", "tau=1,2"), "-m: is no option here"),
        (("show", "--config-path", "x"), "--config-path: is no option here"),
        (("show", "--jsn"), "did you mean --json"),
        (("analyze", "--porbe", "x"), "did you mean --probe"),
        (("show", "--tau", "4"), "write tau=4"),
        (("show", "tau=1,2"), "show looks at one config"),
        (("design", "tau=1,2"), "design looks at one config"),
        (("probe", "-cd", "/", "--config-dir", "/tmp"), "given 2 times"),
        (("design", "--budget-seconds"), "--budget-seconds"),
        (("analyze", "outputs/2026-01-01/00-00-00"), "coopsgd analyze --over outputs/2026-01-01/00-00-00"),
        (("list", "algos"), "algo"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_is_meant(words, meant):
    assert meant in message(*words)


@pytest.mark.parametrize(
    "words",
    [
        ("show", "--config-dir", "mine", "algo=own", "--json"),
        ("show", "algo=own", "--json", "-cd", "mine"),
        ("show", "--json", "algo=own", "--config-dir=mine"),
        ("--config-dir", "mine", "show", "algo=own", "--json"),
        ("--json", "-cd", "mine", "show", "algo=own"),
    ],
    ids=" ".join,
)
def test_options_stand_anywhere(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    (tmp_path / "mine" / "algo" / "own.yaml").write_text("# Own\nstrategy: cooperative\nmixing: average\ntau: 3\n")
    ended = CliRunner().invoke(commands, words)
    assert ended.exit_code == 0, ended
    assert json.loads(ended.stdout)["algo"] == "own"


@pytest.mark.parametrize("verb", ["train", "resume", "verify", "show", "analyze", "design", "probe", "list"])
def test_every_verb_has_help_and_a_version(verb):
    for words in ((verb, "--version"), *([] if verb == "train" else [(verb, "-h")])):
        ended = CliRunner().invoke(commands, words)
        assert ended.exit_code == 0 and ("version 0" in ended.stdout or "Usage" in ended.stdout), ended


@pytest.mark.parametrize("verb", sorted(commands.commands))
def test_the_help_of_a_verb_has_an_example_and_says_what_it_prints(verb):
    text = catalogue.TRAIN if verb == "train" else CliRunner().invoke(commands, (verb, "--help")).stdout
    examples = re.findall(rf"coopsgd {verb} \S+|coopsgd {verb}$", text.partition("\n")[2], re.MULTILINE)
    assert examples, text
    told = text if verb == "train" else TOLD.get(verb, "")
    prose = [part for part in told.strip().split("\n\n") if not re.search("^coopsgd", part, re.M) and len(part.split()) >= 8]
    assert prose or verb == "completion", told
    if "-q" in text:
        assert "--quiet" in text


def test_show_notes_what_only_a_run_would_refuse():
    for words, part in (
        (("batch_size=10000",), "batch_size: 10000 is more than"),
        (("device=cuda",), "device: cuda"),
        (
            ("partition=quantity", "partition.alpha=0.1", "partition.min_size=5", "partition.small=refuse"),
            "batch_size: 32 is more",
        ),
    ):
        with pytest.raises(ConfigError):
            compose.compose_config(words, look=False)
        found = compose.compose_config(words, look=True)
        assert any(note.startswith("coopsgd train would refuse this: ") and part in note for note in found.notes), found.notes
    for words in (("tau=0",), ("algo=dpsgd", "topology=torus", "workers=7"), ("optim.lr=-1",)):
        with pytest.raises(ConfigError):
            compose.compose_config(words, look=True)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Folders as a sweep leaves them: two whole runs, one under way, one that failed, one that is empty."""
    root = tmp_path_factory.mktemp("sweeps") / "multirun" / "day" / "time"
    root.mkdir(parents=True)
    (root / "multirun.yaml").write_text("hydra: {}\n")
    for name, status in (("tau=1", "completed"), ("tau=2", "diverged"), ("tau=4", None), ("tau=8", "failed")):
        folder = root / name
        folder.mkdir()
        settings = compose.compose_config([name, "task=quadratic", "steps=2", "processes=1"]).config
        (folder / "config.yaml").write_text(schema.dumps(settings))
        (folder / "metrics.jsonl").write_text('{"step": 0, "consensus": 0.0}\n{"step": 2, "consensus": 0.5}\n')
        if status:
            (folder / "summary.json").write_text(json.dumps({"status": status}))
    (root / "tau=16").mkdir()
    return root


def names(found: list[str]) -> list[str]:
    return [Path(folder).name for folder in found]


def test_a_sweeps_folder_is_its_runs(sweep):
    for named in (sweep, sweep.parent, sweep.parents[2]):
        runs, notes = expanded([str(named)], "--over", "")
        assert names(runs) == ["tau=1", "tau=2"]
        assert len(notes) == 2 and "tau=4 (it has no summary" in notes[0] and "tau=8 (failed)" in notes[1]


def test_what_a_shell_makes_of_a_star(sweep):
    runs, notes = expanded([str(path) for path in sorted(sweep.iterdir())], "--over", "")
    assert names(runs) == ["tau=1", "tau=2"]
    assert len(notes) == 3 and any("tau=16 (it holds no run)" in note for note in notes)


def test_runs_named_by_themselves_are_taken_as_they_are(sweep):
    assert names(expanded([str(sweep / "tau=4"), str(sweep / "tau=1")], "--over", "")[0]) == ["tau=4", "tau=1"]
    assert names(expanded([str(sweep / "tau=1"), str(sweep)], "--over", "")[0]) == ["tau=1", "tau=2"], "each once"


def test_a_folder_without_runs(sweep, tmp_path):
    shutil.copytree(sweep / "tau=8", tmp_path / "s" / "tau=8")
    with pytest.raises(ConfigError, match="no run that has ended"):
        expanded([str(tmp_path / "s")], "--over", "")
    with pytest.raises(ConfigError, match="holds no run to read"):
        overlay.facts([str(sweep / "tau=16")], None, None)


def test_a_sweep_over_theory(sweep):
    ended = CliRunner().invoke(commands, ["analyze", "--over", str(sweep), "--json"])
    assert ended.exit_code == 0, ended
    found = json.loads(ended.stdout)
    assert [run["tau"] for run in found["runs"]] == [1, 2] and len(found["notes"]) >= 2
    (sweep / "theory.png").unlink(missing_ok=True)
