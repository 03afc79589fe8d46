"""coopsgd against public code: the same samples, the same first model, the same last models."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from playing import play, settle
from public import MODELS, PEERS, RULES, SEEDS, Peer, papers
from test_oracle import ALGOS

EXACT = {"rtol": 0, "atol": 1e-12}  # float64, two dozen steps


def cases() -> Iterator[Any]:
    """Every peer with every model and seed. In `make test` torch's own, with one seed for the CNN, which takes its time."""
    for peer, model, seed in product(PEERS, MODELS, SEEDS):
        quick = peer.package == "torch" and (model, seed) != ("cnn", SEEDS[-1])
        marks = () if quick else pytest.mark.slow
        yield pytest.param(peer, model, seed, id=f"{peer.algo}-{peer.name}-{model}-{seed}", marks=marks)


@pytest.mark.parametrize(("peer", "model", "seed"), list(cases()))
def test_a_public_implementation_ends_with_the_same_models(process_groups, peer: Peer, model, seed):
    if peer.missing:
        pytest.skip(peer.missing)
    words = peer.all_words(model, seed)
    ours, theirs = play(process_groups, 4, *words), peer.trained(process_groups, settle(words))
    assert peer.algo in ("fullsync", "powersgd") or np.ptp(ours.x[:4], axis=0).max() > 1e-3, (
        "the last steps are the workers' own"
    )
    np.testing.assert_allclose(ours.x[peer.rows], theirs, rtol=0, atol=peer.within)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("algo", ALGOS)
def test_the_papers_formulas_end_with_the_same_networks(process_groups, algo, model, seed):
    words, expected = papers(algo, model, seed)
    np.testing.assert_allclose(play(process_groups, 4, *words).x, expected(settle(words)), **EXACT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.system}-{rule.name}")
def test_graphs_are_those_that_others_document(rule):
    assert rule.furthest() <= 1e-15
