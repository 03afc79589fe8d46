"""An algorithm that is another with axes: `show` says which, and the words written out give the same bits."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from playing import MLP, play

from coopsgd.commands.compose import compose_config
from coopsgd.setup import catalogue

SERVER = ("algo=fedavg", "buffers=reset")
PRESETS = {  # what each stands for, its numbers written out
    "slowmo": ("algo=pasgd", "tau=12", "outer=momentum", "outer.lr=1", "outer.momentum=0.5", "outer.scale=lr"),
    "bmuf": ("algo=pasgd", "tau=10", "outer=momentum", "outer.lr=1", "outer.momentum=0.75"),
    "diloco": ("algo=pasgd", "tau=50", "outer=nesterov", "outer.lr=0.7", "outer.momentum=0.9"),
    "streaming_diloco": (
        *("algo=pasgd", "tau=50", "outer=nesterov", "outer.lr=0.7", "outer.momentum=0.9"),
        *("fragments=columns", "fragments.count=2", "fragments.by=stride", "delay=1", "merge=0.5"),
    ),
    "muloco": ("algo=pasgd", "tau=30", "optim=muon", "outer=nesterov", "outer.lr=0.7", "outer.momentum=0.6"),
    "sparseloco": (
        *("algo=pasgd", "tau=30", "codec=topk", "codec.share=0.015625", "codec.bits=2", "codec.per=chunk"),
        *("codec.chunk=4096", "codec.decay=0.95", "codec.over=all"),
    ),
    "noloco": ("algo=matching", "topology=complete", "tau=50", "outer=momentum", "outer.lr=0.7", "outer.momentum=0.5"),
    "fedavgm": (*SERVER, "outer=momentum", "outer.lr=1", "outer.momentum=0.9"),
    "fedadam": (*SERVER, "outer=adam", "outer.lr=0.1", "outer.beta1=0.9", "outer.beta2=0.99", "outer.eps=0.001"),
    "fedyogi": (*SERVER, "outer=yogi", "outer.lr=0.01", "outer.beta1=0.9", "outer.beta2=0.99", "outer.eps=0.001"),
    "fedadagrad": (*SERVER, "outer=adagrad", "outer.lr=0.1", "outer.beta1=0", "outer.eps=0.001"),
    "fedprox": (*SERVER, "correction=proximal", "correction.mu=0.01"),
    "fednova": (*SERVER, "correction=fednova"),
    "scaffold": (*SERVER, "weights_by=uniform", "correction=scaffold"),
    "d2": ("algo=dpsgd", "tau=1", "algo.lazy=true", "correction=d2"),
    "led": ("algo=dpa", "tau=10", "algo.lazy=true", "correction=led"),
    "gradient_tracking": ("algo=dpsgd", "tau=1", "correction=gt"),
    "kgt": ("algo=dpa", "tau=10", "correction=kgt"),
    "topk_ef": ("algo=pasgd", "tau=1", "codec=topk", "codec.share=0.01", "codec.decay=1"),
    "efsign": ("algo=pasgd", "tau=1", "codec=sign"),
    "choco": ("algo=dpsgd", "tau=1", "codec=sign", "codec.rule=choco", "codec.gamma=0.45"),
    "deepsqueeze": ("algo=dpsgd", "tau=1", "codec=topk", "codec.rule=deepsqueeze", "codec.share=0.1", "codec.gamma=0.2"),
    "powersgd": ("algo=pasgd", "tau=1", "codec=powersgd"),
    "demo": (
        *("algo=pasgd", "tau=1", "codec=dct", "codec.keep=32", "codec.chunk=64", "codec.decay=0.999", "codec.over=senders"),
        *("outer=sign", "outer.scale=lr", "outer.lr=1"),
    ),
    "sparta": ("algo=pasgd", "tau=200", "fragments=columns", "fragments.count=200", "fragments.by=random"),
    "cocod": ("algo=pasgd", "tau=10", "delay=tau"),
    "local_adam": ("algo=pasgd", "tau=10", "optim=adam", "buffers=average"),
    "des_loc": ("algo=pasgd", "tau=10", "optim=adam", "buffers=average", "buffers_every=[3,6]"),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_its_words_say_to_the_bit(process_groups, name):
    there, written = (compose_config(["data=digits", *words]).config for words in ((f"algo={name}",), PRESETS[name]))
    keys = ("tau", "delay", "merge", "order", "buffers", "buffers_every", "weights_by", "outer", "codec", "fragments")
    for key in (*keys, "correction", "optim", "topology" if name == "noloco" else "tau"):
        one, other = getattr(there, key), getattr(written, key)
        assert one == other, (key, one, other)
    small = (*MLP, "workers=4", "batch_size=4", "eval_samples=10", "steps=9")
    small += (f"tau={tau}",) if (tau := {"sparta": 200, "streaming_diloco": 4}.get(name, 3)) and there.tau != 1 else ()
    xs = [play(process_groups, 1, *words, *small).x for words in ((f"algo={name}",), PRESETS[name])]
    assert np.array_equal(*xs)


@pytest.mark.parametrize("name", PRESETS)
def test_show_says_what_it_is_short_for(cli, name):
    """The words that it prints make the same run."""
    said = f"algo={name} stands for "
    (line,) = [line for line in cli("show", "data=digits", f"algo={name}").out.splitlines() if line.startswith(said)]
    words = line.removeprefix(said).split()
    assert words[0] == PRESETS[name][0]
    there, told = (compose_config(["data=digits", *some]).config for some in ((f"algo={name}",), words))
    for field in fields(there):
        one, other = getattr(there, field.name), getattr(told, field.name)
        if field.name == "algo":
            one, other = one | {"name": ""}, other | {"name": ""}
        if field.name != "topology" or name == "noloco":
            assert one == other, field.name


def test_what_is_short_for_nothing_says_nothing(cli):
    assert not any(" stands for " in cli("show", "task=quadratic", f"algo={name}").out for name in ("dpa", "gpa", "fedavg"))


def test_every_algorithm_that_is_short_for_another_is_here():
    assert {choice.name for choice in catalogue.choices("algo") if catalogue.stands_for(choice.name)} == PRESETS.keys()
