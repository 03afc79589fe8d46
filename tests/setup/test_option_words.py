"""The words that a key may be: they are completed, they are taken, and others are refused."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from coopsgd.completion import overrides
from coopsgd.errors import ConfigError
from coopsgd.registry import lookup
from coopsgd.setup import build, catalogue, checks
from coopsgd.setup.schema import GROUPS, Config

NEEDS = {  # what else a class must be given
    "cluster.all_reduce": {"groups": 2},
    "stop.metric": {"target": 1.0},
    "data.targets": {"path": "mine:Set"},
    **dict.fromkeys(("task.loss",), dict.fromkeys(("model", "data", "partition"))),
}


def of_classes():
    """GROUP.KEY of each class that a choice names -> the class."""
    found = {}
    for group in GROUPS:
        for choice in catalogue.choices(group):
            for cls in catalogue._classes(group, choice.name, catalogue.settings(group, choice.name), False):
                found |= {(f"{group}.{f.name}", cls): f for f in build.own(cls) if f.metadata.get("words")}
    return found


@pytest.mark.parametrize(("key", "cls"), of_classes(), ids=str)
def test_the_words_of_a_key_are_all_that_it_may_be(key, cls):
    name = key.partition(".")[2]
    more = {"file": "network.gml"} if "file" in {f.name for f in build.own(cls)} else dict(NEEDS.get(key, {}))
    said = next(f for f in fields(cls) if f.name == name).metadata["words"]
    if key == "codec.over" and not cls.SPARSE:  # whose messages hold every coordinate
        with pytest.raises(ValueError, match="every worker sends every coordinate"):
            cls(over="senders")
        said = ("all",)
    for word in said:
        made = cls(**more, **{name: word})
        assert getattr(made, name) == word
        if hasattr(made, "tests_locally"):
            assert made.tests_locally in (True, False)
    if key not in ("partition.small", "partition.test", "model.norm"):  # a task or the model looks at these
        with pytest.raises(ValueError, match="odd"):
            cls(**more, **{name: "odd"})


@pytest.mark.parametrize("key", [f.name for f in fields(Config) if f.metadata.get("words") and f.name != "objective"])
def test_the_words_of_the_runs_own_keys(key):
    config = {f.name: f for f in fields(Config)}[key]
    for word in config.metadata["words"]:
        assert {item.value for item in overrides([f"{key}={word}"])} >= {f"{key}={word}"}
    if key in ("dtype", "save", "engine", "device", "amp"):
        with pytest.raises(ConfigError, match=f"^{key}: must be .*'odd'"):
            checks.scalars(Config(**{key: "odd"}))
        for word in config.metadata["words"]:
            checks.scalars(Config(**{key: word}))


WORDS = {
    "save=": ["save=auto", "save=rows", "save=answer", "save=best", "save=none"],
    "save=b": ["save=best"],
    "schedule.unit=": ["schedule.unit=step", "schedule.unit=epoch", "schedule.unit=round"],
    "schedule=cosine schedule.unit=e": ["schedule.unit=epoch"],
    "partition.f": ["partition.file="],
    "partition=file partition.f": ["partition.file="],
    "partition=iid partition.f": [],
    "partition.users=": ["partition.users=auto", "partition.users=dealt", "partition.users=one"],
    "algo=dpsgd algo.weights=b": ["algo.weights=best_constant"],
    "launch=": ["launch=true", "launch=false"],
    "skip_done=": ["skip_done=false", "skip_done=true"],
    "data=cifar10 data.augment=t": ["data.augment=true"],
    "cluster=wan_100m cluster.all_reduce=h": ["cluster.all_reduce=halving_doubling"],
    "algo=ea": ["algo=easgd"],
}


@pytest.mark.parametrize("words", WORDS)
def test_values_are_completed(words):
    assert [item.value for item in overrides(words.split(" "))] == WORDS[words]


def test_what_lists_words_in_its_help_completes_them():
    """A key whose line says `a, b or c` of what it may be by word alone (its type is str)."""
    lacking = []
    for group in GROUPS:
        for choice in catalogue.choices(group):
            for option in catalogue.options(group, choice.name):
                listed = re.search(r"(?:^|: )(\w+)(?:, \w+)+(?:,? or \w+)?(?:$|, or)", option.help)
                if option.type == "str" and option.group and listed and not option.words:
                    lacking.append(option.full_key)
    assert not lacking
    assert lookup("mixing", "gossip")  # the registry is whole
