"""What a communication costs is read off the price list where that is all there is, and is what a run's own loop is charged."""

from __future__ import annotations

import numpy as np
import pytest

from coopsgd.commands import compose
from coopsgd.predict import cost
from coopsgd.setup import catalogue

ALGOS = [choice.name for choice in catalogue.choices("algo")]
OF_THEIR_OWN = ("qg_dsgdm", "decentlam")  # whose messages the loop tells
OF_W = ("algo.W=[[0.5,0.5],[0.5,0.5]]", "workers=2")


def parts_of(*words):
    return compose.compose_config(words, look=True).parts


@pytest.mark.parametrize("more", [("workers=4",), ("workers=6", "topology=complete", "dtype=float64")], ids=" ".join)
@pytest.mark.parametrize("algo", ALGOS)
def test_the_price_list_and_the_loop_agree(algo, more):
    parts = parts_of(f"algo={algo}", *(OF_W if algo == "cooperative" else more))
    for rounds in (range(1), range(3, 6)):
        short, long = cost._charged(parts, rounds), cost._rehearsed(parts, rounds)
        if type(parts.strategy).__module__.rpartition(".")[2] in OF_THEIR_OWN:
            assert short is None and long.messages > 0
            continue
        assert short is not None and short.messages == long.messages
        np.testing.assert_array_equal(short.sent, long.sent)


@pytest.mark.parametrize("more", [("optim=adam", "buffers=average"), ("model=cnn", "model.norm=batch")], ids=" ".join)
def test_what_rides_along_is_left_to_the_loop(more):
    parts = parts_of("algo=dpsgd", *more)
    assert cost._charged(parts, range(1)) is None
    alone = cost._charged(parts_of("algo=dpsgd", *more[:1]), range(1))
    assert alone is not None and cost._rehearsed(parts, range(1)).sent.sum() > alone.sent.sum()
