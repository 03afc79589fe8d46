"""What tests play is what a command makes of the same words."""

from __future__ import annotations

import pytest
from omegaconf import open_dict
from playing import CNN, MLP, QUADRATIC, quickly_composed, settle

from coopsgd.commands import compose
from coopsgd.setup.compose import composed
from coopsgd.setup.words import mended

WORDS = (
    (),
    QUADRATIC,
    (*CNN, "algo=fedavg", "algo.fraction=0.5", "partition=dirichlet", "partition.alpha=0.1"),
    (*MLP, "algo=easgd", "tau=[[0,1],[5,3]]", "steps=9", "optim=adamw", "optim.lr=3e-3", "model.hidden=[8,9]"),
    (*QUADRATIC, "cluster=ethernet_1g", "cluster.straggle=pareto", "schedule=cosine", "period=adacomm", "period.interval=60s"),
    ("task=language", "name='a, b'", "algo.alpha=auto", "seed=7", "seed=8", "clip=0.5", "model.layers=1"),
    ("experiment=null", "algo=pasgd"),
    ("++optim.momentum=0.5", "optim.lr=${optim.momentum}"),
    ("topology=torus", "algo=dpsgd", "workers=9", "algo.nothing=3"),
    ("algo=cooperative", "algo.W=[[0.5,0.5],[0.5,0.5]]", "algo.v=0", "workers=2"),
)


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_a_config_composed_quickly_is_that_of_hydra(words):
    compose.register_schema()
    words, _ = mended(words)
    quick, slow = quickly_composed(words), composed(words)
    assert quick.hydra.overrides.task == slow.hydra.overrides.task
    assert quick.hydra.runtime.choices == slow.hydra.runtime.choices
    with open_dict(quick), open_dict(slow):
        del quick.hydra, slow.hydra
    assert quick == slow and list(quick) == list(slow)


def test_settled_words_are_those_of_a_command():
    words = (*QUADRATIC, "algo=easgd", "tau=4", "algo.alpha=0.1", "optim.momentum=0.9", "fleet=shared")
    assert settle(words) == compose.compose_config(words).config
    assert settle((*words, "tau=5")).tau == 5 and settle(words).tau == 4


def test_what_hydra_refuses_is_refused_alike():
    for words in (["algo=nothing"], ["nothing=1"], ["seed=[1"], ["optim.lr=1,2"]):
        with pytest.raises(Exception) as quick:
            settle(words)
        with pytest.raises(Exception) as slow:
            compose.compose_config(words)
        assert str(quick.value) == str(slow.value)
