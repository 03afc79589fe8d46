"""What a communication costs is read off the price list where that is all there is, and is what a run's own loop is charged."""

from __future__ import annotations

import numpy as np
import pytest

from coopsgd.commands import compose
from coopsgd.predict import cost
from coopsgd.setup import catalogue

ALGOS = [choice.name for choice in catalogue.choices("algo")]
OF_THEIR_OWN = ("qg_dsgdm", "decentlam", "gasloc", "push_sum", "relay", "gpa")  # whose messages the loop tells
OF_W = ("algo.W=[[0.5,0.5],[0.5,0.5]]", "workers=2")


def parts_of(*words):
    return compose.compose_config(words, look=True).parts


@pytest.mark.parametrize("more", [("workers=4",), ("workers=6", "topology=complete", "dtype=float64")], ids=" ".join)
@pytest.mark.parametrize("algo", ALGOS)
def test_the_price_list_and_the_loop_agree(algo, more):
    if algo == "relay":
        more = [word.replace("complete", "star") for word in more]
    parts = parts_of(f"algo={algo}", *(OF_W if algo == "cooperative" else more))
    for rounds in (range(1), range(3, 6)):
        short, long = cost._charged(parts, rounds), cost._rehearsed(parts, rounds)
        # of these only the loop knows what a message holds
        told = any(getattr(parts.config, axis) for axis in ("codec", "fragments", "correction"))
        told |= parts.config.buffers == "average"
        if told or type(parts.strategy).__module__.rpartition(".")[2] in OF_THEIR_OWN:
            assert short is None and long.messages > 0
            continue
        assert short is not None and short.messages == long.messages
        np.testing.assert_array_equal(short.sent, long.sent)


MEAN = 2 * 7 / 8  # vectors of an average of 8, by each
VECTORS = {  # what each worker sends in a communication, in vectors of the model, on a ring of 8
    **dict.fromkeys(("diloco", "slowmo", "bmuf", "cocod", "fullsync"), MEAN),
    **dict.fromkeys(("noloco", "one_peer", "sgp_one_peer", "matcha"), 1),
    **dict.fromkeys(("gasloc", "d2", "led", "qg_dsgdm", "decentlam", "dpsgd"), 2),
    **dict.fromkeys(("gradient_tracking", "kgt"), 4),
    **dict.fromkeys(("fedavgm", "fedadam", "fedprox", "fednova"), 0.5),  # half of the clients, and as much from the server
    "scaffold": 1,
    "streaming_diloco": MEAN / 2,
    "sparta": MEAN / 200,
    "local_adam": 3 * MEAN,
    "relay": MEAN,  # one vector each way along each of 7 edges
    "topk_ef": 7 * (0.01 * (64 + 9) / 64),  # to each other, 4 numbers of 400 and their places
    "efsign": 7 * (400 + 64) / (400 * 64),
    "choco": 2 * (400 + 64) / (400 * 64),
}


@pytest.mark.parametrize("algo", VECTORS)
def test_a_worker_sends_so_many_vectors(algo):
    parts = parts_of("task=quadratic", "task.dim=400", "dtype=float64", "workers=8", f"algo={algo}")
    found = cost.of_round(parts, 0)["bytes_per_worker_mean"] / (8 * 400)
    assert found == pytest.approx(VECTORS[algo], abs=2 * 7 / (8 * 400))  # bytes are whole


@pytest.mark.parametrize("more", [("optim=adam", "buffers=average"), ("model=cnn", "model.norm=batch")], ids=" ".join)
def test_what_rides_along_is_left_to_the_loop(more):
    parts = parts_of("algo=dpsgd", *more)
    assert cost._charged(parts, range(1)) is None
    alone = cost._charged(parts_of("algo=dpsgd", *more[:1]), range(1))
    assert alone is not None and cost._rehearsed(parts, range(1)).sent.sum() > alone.sent.sum()


def test_many_communications_say_how_long_their_prices_take(monkeypatch):
    told, now = [], iter(range(0, 10**9, 10))
    monkeypatch.setattr(cost.news, "listener", told.append)
    parts = compose.compose_config(["algo=fedavg", "task=quadratic"]).parts
    cost.per_step(parts)
    assert told == []
    monkeypatch.setattr(cost.time, "monotonic", lambda: float(next(now)))
    cost.per_step(parts)
    assert told == ["cost: 256 communications of 4 workers are priced, about 5 min 10 s more"]
    told.clear()
    cost._foretell_pairs(1000)
    cost._foretell_pairs(5000)
    assert told == ["clock: it looks at all pairs of 5000 hosts, about 2 h 46 min"]
