"""`coopsgd list`: every key there is can be found, with its type, unit, default and a line."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass

import pytest
from click.testing import CliRunner

from coopsgd import registry
from coopsgd.cli import cli as commands
from coopsgd.commands import listing
from coopsgd.completion import listed, overrides
from coopsgd.data.partitions import Partition
from coopsgd.setup import catalogue
from coopsgd.setup.schema import AXES, GROUPS, KEYS
from coopsgd.verbs import TOLD

CHOICES = [(group, choice.name) for group in GROUPS for choice in catalogue.choices(group)]
EVERY = [(catalogue.RUN, option) for option in catalogue.run_options()]
EVERY += [(f"{group}={name}", option) for group, name in CHOICES for option in catalogue.options(group, name)]


def lacking(option: catalogue.Option, stated: bool) -> list[str]:
    """What a reader would miss of a key. stated: does its dataclass say a unit, if only that there is none?"""
    found = [] if option.help else ["a line"]
    found += [] if option.type not in ("", "any") else ["a type"]
    return found + (["a unit"] if re.search(r"\b(int|float)\b", option.type) and not stated else [])


def stated_units() -> set[tuple[str, str]]:
    """(group, key) of every key whose dataclass says a unit."""
    from dataclasses import fields

    from coopsgd.setup.build import own
    from coopsgd.setup.schema import Config

    found = {(catalogue.RUN, f.name) for f in fields(Config) if f.metadata.get("unit") is not None}
    for group in GROUPS:
        for kind in catalogue.KINDS.get(group, (group,)):
            for name in registry.names(kind):
                found |= {(group, f.name) for f in own(registry.lookup(kind, name)) if f.metadata.get("unit") is not None}
    return found


def test_every_key_of_every_choice_has_a_type_a_unit_and_a_line():
    stated = stated_units() | {(group, key) for group in GROUPS for key in KEYS}
    missing = {
        f"{of} {option.key}": lacks
        for of, option in EVERY
        if (lacks := lacking(option, (of.partition("=")[0], option.key) in stated))
    }
    assert not missing
    assert len(EVERY) > 150 and {"steps", "eval_every", "timeout", "resume"} <= {option.key for _, option in EVERY}


def test_a_key_that_says_nothing_is_noticed():
    @dataclass(frozen=True)
    class Bare:
        size: int = 3
        told: int = registry.option(3, "of it", unit="samples")

    size, told = (catalogue._option(f, f.default) for f in Bare.__dataclass_fields__.values())
    assert lacking(size, False) == ["a line", "a unit"] and lacking(told, True) == []


def test_a_choice_is_listed_with_type_unit_default_and_a_line(cli):
    ended = cli("list", "cluster=custom")
    (line,) = (one for one in ended.out.splitlines() if "cluster.step_s " in one)
    assert line.split()[:4] == ["cluster.step_s", "float", "s", "0.01"] and "mean time of a local step" in line
    found = json.loads(cli("list", "cluster=wan_100m", "--json").out)
    keys = {one["key"]: one for one in found["keys"]}
    assert keys["cluster.latency_s"]["default"] == 0.01 and keys["cluster.latency_s"]["unit"] == "s"
    assert found["about"] and keys["cluster.step_s"]["type"] == "float"


def test_the_run_itself_and_single_keys_are_listed(cli):
    people = cli("list", "run").out
    for key in ("steps", "eval_every", "timeout", "skip_done"):
        assert re.search(rf"^  {key} ", people, re.MULTILINE), key
    assert {"key": "timeout", "unit": "s"}.items() <= json.loads(cli("list", "timeout", "--json").out)["run"][0].items()
    assert "of cluster=wan_20m:" in cli("list", "step_s").out and "of optim=sgd:" in cli("list", "optim.lr").out
    assert "coopsgd list GROUP, GROUP=NAME, KEY, run;" in cli("list").out
    assert "algo.alpha" in cli("list", "experiment=alpha").out


@pytest.mark.parametrize(
    ("words", "said"),
    {
        ("optm",): "did you mean optim?",
        ("cluster=custm",): "did you mean custom?",
        ("clutser=custom",): "did you mean cluster?",
        ("cluster.stp_s",): "did you mean cluster.step_s?",
        ("learning_rate",): "did you mean optim.lr?",
        ("easgd",): "did you mean algo=easgd?",
        ("algo", "easgd"): "coopsgd list algo=easgd",
        ("algo.easgd",): "did you mean algo=easgd?",
        ("algo=",): "known: bmuf, choco, cocod, cooperative",
        ("",): "groups: algo",
        ("partition=nowhere:Nothing",): "No module named 'nowhere'",
    }.items(),
)
def test_what_is_not_there_is_refused_with_what_may_be_meant(cli, words, said):
    ended = cli("list", *words)
    assert (ended.code, len(ended.lines)) == (2, 1) and said in ended.err, ended


def test_keys_of_other_choices_and_groups_are_suggested(cli):
    said = cli("show", "algo=easgd", "algo.weights=fdla").err
    assert "it is a key of algo=choco, algo=d2," in said and "algo=qg_dsgdm" in said
    assert "did you mean outer.lr or optim.lr?" in cli("show", "algo.lr=0.1").err
    assert "did you mean cluster.step_s?" in cli("show", "step_s=0.1").err
    for other, ours in (("num_rounds", "rounds"), ("join_ratio", "algo.fraction"), ("local_epochs", "algo.epochs or tau")):
        assert f"did you mean {ours}?" in cli("show", f"{other}=1").err


MINE = """
from dataclasses import dataclass
from coopsgd.data.partitions import Partition
from coopsgd.registry import option

@dataclass(frozen=True)
class Blocks(Partition):
    skip: int = 0
    gap: float = option(1.5, "between blocks", unit="samples")

    def deal(self, labels, workers, seed, epoch=0):
        return []
"""


def test_classes_of_ones_own_are_listed(cli, tmp_path):
    (tmp_path / "own_blocks.py").write_text(MINE)
    (tmp_path / "mine" / "partition").mkdir(parents=True)
    (tmp_path / "mine" / "partition" / "blocks.yaml").write_text("# Mine\nname: own_blocks:Blocks\ngap: 3\n")
    for words in (("partition=own_blocks:Blocks",), ("--config-dir", "mine", "partition=blocks")):
        found = {one["key"]: one for one in json.loads(cli("list", *words, "--json").out)["keys"]}
        assert found["partition.skip"] == {"key": "partition.skip", "type": "int", "unit": "", "help": "", "default": 0}
        gap = 1.5 if len(words) == 1 else 3
        assert {"unit": "samples", "default": gap, "help": "between blocks"}.items() <= found["partition.gap"].items()
    assert "blocks  Mine" in re.sub(" +", "  ", cli("list", "--config-dir", "mine", "partition").out)


def test_it_fits_a_screen_and_says_more_when_asked(cli):
    lines = cli("list").out.splitlines()
    assert len(lines) <= 24 and all(len(line) < 80 for line in lines)
    words = set(re.findall(r"[\w/]+", "\n".join(lines)))
    every = [choice for group in catalogue.ABOUT for choice in catalogue.choices(group) if group != catalogue.EXPERIMENTS]
    brings = [choice for choice in every if choice.group == "algo" and listing._of_axes(choice)]  # have a list of their own
    every = [choice for choice in every if choice.group not in AXES or not listing._is_preset(choice)]
    assert {choice.name for choice in every if choice not in brings} | set(catalogue.ABOUT) <= words
    assert f"and {len(brings)} with axes" in "\n".join(lines)
    assert "[easgd]" in lines[0] and "arXiv" not in "\n".join(lines)
    for told in (cli("list", "-v").out, cli("list", "algo", "--verbose").out):
        assert "paper: arXiv:1905.09435" in told and "  Elastic averaging: workers and a centre" in told


@pytest.mark.parametrize("verb", sorted(set(commands.commands) - {"train", "completion"}))
def test_help_has_an_example_and_what_it_prints(verb):
    told = CliRunner().invoke(commands, [verb, "--help"]).output
    assert f"coopsgd {verb} " in told and all(len(line) < 122 for line in told.splitlines()), told
    examples = [shlex.split(line.split("   ")[0]) for line in TOLD.get(verb, "").splitlines() if line.startswith("coopsgd ")]
    assert examples and examples[0][1] == verb
    for _, _, *words in examples:
        if verb in ("show", "analyze", "design", "probe", "cite") and "=" in words[0]:
            options = {"--probe": 2, "-o": 2, "--target-loss": 2, "--check": 2}
            while flags := [at for at, word in enumerate(words) if word in options]:
                del words[flags[0] : flags[0] + 2]
            assert all(re.fullmatch(r"[a-z_]+(\.\w+)?=\S+", word) for word in words)
            known = {(choice.group, choice.name) for group in GROUPS for choice in catalogue.choices(group)}
            for group, _, name in (word.partition("=") for word in words):
                assert group not in GROUPS or (group, name) in known


class Point:
    """An entry point of a package."""

    name, value, dist = "stripes", "pack:Stripes", None

    def load(self):
        @dataclass(frozen=True)
        class Stripes(Partition):
            """Every so many."""

            width: int = 7

            def deal(self, labels, workers, seed, epoch=0):
                return []

        return Stripes


def test_what_packages_register_is_listed(monkeypatch, capsys):
    from coopsgd.commands import listing

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()] if group == "coopsgd.partition" else [])
    listing.show("partition", as_json=False)
    assert "stripes    of pack:Stripes; for a yaml of your own: name: stripes" in capsys.readouterr().out
    listing.show("partition=stripes", as_json=True)
    keys = {key["key"]: key["default"] for key in json.loads(capsys.readouterr().out)["keys"]}
    every = {"partition.small", "partition.test", "partition.test_share"}  # what every partition has
    assert keys.pop("partition.width") == 7 and keys.keys() == every


def test_help_says_where_keys_are_and_shows_one():
    text = catalogue.help_text()
    assert "coopsgd list GROUP=NAME" in text and "coopsgd list run" in text
    assert re.search(r"^  optim\.momentum +float +share +0\.0 ", text, re.MULTILINE)


def test_completion_knows_every_key():
    assert {item.value for item in listed("", None)} >= {"algo", "run", "algo=easgd", "cluster.step_s", "steps", "skip_done"}
    assert "cluster.step_s=" in {item.value for item in overrides(["cluster.st"])}  # whichever cluster it will be
    assert "resume=" in {item.value for item in overrides(["resu"])} and "eval_every=" in {
        item.value for item in overrides(["eval_e"])
    }


def test_nothing_heavy_is_imported():
    code = "import sys; from coopsgd.commands import listing\n"
    code += "for what in ('model', 'model=gpt', 'lr', 'run'): listing.show(what, False)\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_key_that_is_called_like_one_of_the_run_is_its_own(cli):
    assert "\n  algo.epochs" in cli("list", "algo=fedavg").out
    assert "\n  algo.epochs" in cli("list", "algo.epochs").out
    assert "\n  epochs" in cli("list", "epochs").out


def test_an_experiment_tells_what_it_chooses(cli):
    assert '  chooses: {"algo": "fedavg", "model": "cnn", "partition": "dirichlet"}' in cli("list", "experiment=fl_bench").out
    found = json.loads(cli("list", "experiment=fl_bench", "--json").out)
    assert found["chooses"]["algo"] == "fedavg" and found["sets"]["rounds"] == 100
