"""Combinations of axes drawn by lot, two or three over an algorithm, an optimiser and a delay."""

from __future__ import annotations

import random

from coopsgd.setup import catalogue
from coopsgd.setup.schema import ABSENT, AXES

ALGOS = ["pasgd", "dpsgd", "easgd", "one_peer", "hierarchical", "gossip_pga", "parameter_server", "fedavg", "matching"]
OPTIMS = [(), ("optim.momentum=0.9", "optim.nesterov=true"), ("optim=adam", "optim.lr=0.01"), ("optim.weight_decay=0.01",)]


def drawn(number: int, lots: int) -> tuple[str, ...]:
    """Two axes or three, each a choice at random, over an algorithm, an optimiser and a delay at random."""
    lot = random.Random(f"{number} {lots}")
    words = [f"algo={lot.choice(ALGOS)}", "tau=4", f"delay={lot.choice(['0', '0', '1', 'tau'])}", *lot.choice(OPTIMS)]
    for axis in lot.sample(AXES, lot.choice([2, 3])):
        choices = [choice.name for choice in catalogue.choices(axis) if choice.name not in (ABSENT, "identity")]
        words.append(f"{axis}={lot.choice(choices)}")
    if lot.random() < 0.2:
        words.append(f"merge={lot.choice(['0', '0.5'])}")
    return tuple(words)
