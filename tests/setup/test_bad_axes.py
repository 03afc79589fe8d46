"""Bad values of the axes beside any algorithm, drawn by lot: taken and two steps run, or one line that names what was said.

More of them: LOTS=40 is so many of each algorithm.
"""

from __future__ import annotations

import os
import random
from dataclasses import fields, replace

import pytest
import torch
from playing import settle

from coopsgd.commands import compose
from coopsgd.errors import ConfigError
from coopsgd.setup import build, catalogue
from coopsgd.setup.schema import ABSENT, AXES, GROUPS
from coopsgd.testing.runs import make_loop

ALGOS = [choice.name for choice in catalogue.choices("algo")]
TASKS = [
    ("task=quadratic",),
    ("data=digits", "model=mlp", "model.hidden=[8]", "batch_size=4", "eval_samples=10"),
    ("data=digits", "model=cnn", "model.width=8", "batch_size=4", "eval_samples=10"),
]
RUN = {
    "tau": ("1", "2", "4", "6", "0", "-1", "2.5", "[[0,1],[5,2]]"),
    "delay": ("0", "1", "tau", "5", "-1", "1.5", "true", "half"),
    "merge": ("kept", "0", "0.5", "1.1", "-0.1", "nan", "overwrite"),
    "weights_by": ("samples", "uniform", "tokens", "1"),
    "order": ("atc", "cta"),
    "buffers": ("keep", "reset", "average", "x"),
    "buffers_every": ("[1,2]", "[3,6]", "0", "[1,2,3]", "x"),
    "topology": ("ring", "star", "chain", "tree", "complete", "grid", "hypercube"),
    "workers": ("1", "2", "3", "5", "8"),
    "period": ("adacomm", "post_local", "qsr"),
}
NUMBERS = ("0", "1", "-1", "0.5", "1.5", "2", "7", "1e9", "nan", "inf", "1e-320", "1e39", "true", "word", "''", "[]", "[1]")
WORDS = {  # what a key may be, and what is near it
    "share": ("0.01", "1", "0", "1.01"),
    "bits": ("1", "2", "8", "16", "17", "0"),
    "rank": ("1", "2", "64", "0"),
    "per": ("tensor", "chunk", "row", "column"),
    "rule": ("auto", "slow", "choco", "deepsqueeze", "x"),
    "over": ("all", "senders"),
    "feedback": ("auto", "true", "false"),
    "count": ("1", "2", "4", "3", "999999"),
    "by": ("layer", "stride", "random", "rows"),
    "scale": ("none", "lr", "LR"),
    "lazy": ("true", "false", "2"),
    "momentum": ("before", "after", "0.9", "1"),
    "cls": ("RMSprop", "Adadelta", "LBFGS", "Muon", "os.system"),
    "matrices": ("auto", "all", "[nope]"),
    "weights": ("metropolis", "uniform", "fdla", "x"),
    "trees": ("1", "2", "3"),
    "book_of": ("exponential", "n_peer"),
}


def _keys(group: str, choice: str) -> list[str]:
    """Of the class, or of strategy and mixing, that a yaml chooses."""
    if choice == ABSENT:
        return []
    said = catalogue.settings(group, choice)
    named = ("strategy", "mixing") if group == "algo" else (build.KINDS[group],)
    classes = [
        build.class_of(kind, group, said.get(kind if group == "algo" else "name", choice))
        for kind in named
        if group != "algo" or kind in said
    ]
    return sorted({f.name for cls in classes for f in fields(cls) if f.init and f.name not in GROUPS})


def drawn(algo: str, number: int) -> tuple[str, ...]:
    """Up to three axes, an optimiser among them, and up to three of their keys or of the run's with any value."""
    lot = random.Random(f"{algo} {number}")
    chosen = {"algo": algo}
    for group in lot.sample([*AXES, "optim"], lot.choice([0, 1, 1, 2, 3])):
        chosen[group] = lot.choice([choice.name for choice in catalogue.choices(group)])
    said = {}
    for _ in range(lot.choice([1, 2, 3])):
        keys = [f"{group}.{name}" for group, choice in chosen.items() for name in _keys(group, choice)]
        key = lot.choice([*RUN] if lot.random() < 0.4 or not keys else keys)
        usual = RUN.get(key) or WORDS.get(key.partition(".")[2], NUMBERS)
        said[key] = lot.choice(usual if lot.random() < 0.8 else NUMBERS)
    return (*lot.choice(TASKS), *(f"{key}={value}" for key, value in (chosen | said).items()))


@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize("number", range(int(os.environ.get("LOTS", "1"))))
def test_taken_and_run_or_refused_in_a_line(algo, number):
    words = drawn(algo, number)
    try:
        config = settle((*words, "device=cpu"))
    except ConfigError as error:
        line, said = str(error), [word.partition("=")[0] for word in words]
        assert len(line.splitlines()) == 1 and "Error" not in line.partition(":")[0], (words, line)
        assert any(name in line for key in said for name in (key, key.partition(".")[0])), (words, line)
        return
    loop = make_loop(replace(config, steps=2))
    loop.advance()
    loop.advance()
    assert torch.isfinite(loop.strategy.answer(loop.fleet, loop.state.x, loop.state.s)).all(), words


REFUSED = {
    "a tau below nought with fragments": (("tau=-1", "fragments=sparta"), "tau: must be a whole number of at least 1"),
    "a rule that is a number": (("codec=topk", "codec.rule=inf"), "codec.rule: must be one of auto, slow,"),
    "a truth that is two": (("algo.lazy=2",), "algo.lazy: must be true or false, got 2"),
    "a truth without end": (("algo.lazy=inf",), "algo.lazy: must be true or false, got inf"),
    "a choice by its name that is none": (("codec.name=nan",), "write codec=NAME (coopsgd list codec says which)"),
    "a pull that parts the workers": (("algo=matcha", "algo.alpha=2", "workers=3"), "algo.alpha=auto in place of 2"),
    "pieces beside a correction": (("algo=pasgd", "tau=2", "correction=proximal", "fragments.count=2"), "use fragments=none"),
    "weights of no such name": (("algo=dpsgd", "algo.weights=x"), "algo.weights: must be one of metropolis,"),
    "what the preset brought": (("algo=demo", "algo.lazy=true"), "use codec.over=all"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_way_out_is_one(case):
    words, message = REFUSED[case]
    with pytest.raises(ConfigError) as error:
        compose.compose_config(["task=quadratic", *words])
    assert message in str(error.value), error.value
