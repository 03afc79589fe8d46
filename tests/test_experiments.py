"""Configurations of other programs, as conf/experiment has them: each trains, and docs/configurations.md has their words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playing import settle

from coopsgd.setup import compose
from coopsgd.setup.parts import Parts

DOCS = (Path(__file__).parents[1] / "docs" / "configurations.md").read_text()
NAMES = re.findall(r"^coopsgd train experiment=(\w+)", DOCS, re.M)
WORDS = {  # of each preset, keys of the table as the config has them
    "fl_bench": {"workers": 100, "rounds": 100, "batch_size": 32, "norm_stats": "local"},
    "fluke_gossip": {"workers": 100, "rounds": 100, "batch_size": 128},
    "decentralizepy": {"workers": 16, "rounds": 80, "batch_size": 8, "tau": 3},
}


def test_each_is_in_the_page():
    assert set(NAMES) == set(WORDS)


@pytest.mark.parametrize("name", WORDS)
def test_it_is_what_the_page_says(name):
    with compose.borrowed():
        said = compose.composed((f"experiment={name}",))
    assert {key: said[key] for key in WORDS[name]} == WORDS[name]
    if name == "fl_bench":
        schedule = Parts(settle((f"experiment={name}",))).strategy.schedule
        assert (schedule.fraction, schedule.epochs, said["partition"]["alpha"]) == (0.1, 5, 0.1)


@pytest.mark.parametrize("name", WORDS)
def test_it_trains(cli, name):
    ended = cli("train", f"experiment={name}", "rounds=2", "eval_every=2rounds", "processes=1", "threads=1")
    assert ended.code == 0, ended.err
    assert "2 rounds" in ended.out


TABLES = re.sub(r"```.*?```", "", DOCS, flags=re.S)
SAID = {
    word for span in re.findall(r"`([^`]+)`", TABLES) for word in span.split() if re.fullmatch(r"[a-z_.]+=[\w.\[\],]+", word)
}
# of a file that is not here; theirs
ELSEWHERE = {"topology=file", "topology.file=regular_16.txt", "graph=regular_16.txt", "iterations=80", "test_after=20"}


@pytest.mark.parametrize("word", sorted(SAID - ELSEWHERE))
def test_every_word_of_the_page_is_one(word):
    """Alone where it can be, else with the choice that has its key."""
    having = {
        "rounds=": ("algo=pasgd",),
        "algo.fraction=": ("algo=fedavg",),
        "algo.epochs=": ("algo=fedavg",),
        "algo.weights=": ("algo=dpsgd",),
        "partition.alpha=": ("partition=dirichlet",),
        "partition.classes=": ("partition=shards",),
        "topology": ("algo=dpsgd",),
        "topology.degree=": ("algo=dpsgd", "topology=random_regular"),
        "model.hidden=": ("model=mlp",),
        "partition.test_share=": ("partition.test=local",),
        "eval_every=": ("algo=dpsgd",),
    }
    more = next((words for key, words in having.items() if word.startswith(key) and key.endswith("=")), ())
    more = more or next((words for key, words in having.items() if word.startswith(key)), ())
    settle((*more, *({"workers=100": ("batch_size=8",), "workers=16": ("batch_size=8",)}.get(word, ())), word))
