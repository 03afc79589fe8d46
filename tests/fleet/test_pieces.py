"""Messages in pieces: the same numbers, in step, and without anybody waiting for them where they are to be hidden."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import arrays as matrices
import numpy as np
import pytest
import torch

from coopsgd.fleet import pieces
from coopsgd.fleet.pieces import Exchange, Hidden, Pace
from coopsgd.fleet.plan import Layout
from coopsgd.fleet.processes import Processes
from coopsgd.fleet.stacked import Stacked
from coopsgd.mixing.graphs import Ring

M, D = 8, 997  # no piece has as many numbers as another


def matrix(kind: str) -> np.ndarray:
    """(M + 1, M + 1)"""
    W = np.eye(M + 1)
    if kind == "ring":
        W[:M, :M] = matrices.metropolis(Ring().adjacency(M, 0))
    elif kind == "exponential":  # directed
        W[:M, :M] = sum(np.roll(np.eye(M), k, axis=1) for k in (0, 1, 2, 4)) / 4
    elif kind == "both":  # a sum, and messages of several vectors beside it
        W[:M, :M] = matrices.average(M) / 2 + np.triu(np.random.default_rng(1).uniform(size=(M, M))) / 20
    elif kind == "dense":
        W = np.random.default_rng(2).uniform(size=(M + 1, M + 1)) / M
    return W


class Small(Pace):
    """Pieces of few numbers, whatever the network is; other ones when processes have agreed."""

    def piece(self, nbytes):
        return 128 if self.per_byte < 0 else 256

    def under_way(self, piece):
        return 2


def mixed(rank, processes, W, x, replicated):
    """Rows after each of some mixings, one at once and two hidden ones, one of which is there before anybody waits for it."""
    layout = Layout(M, 1, processes, replicated=replicated)
    fleet = Processes(layout, rank) if processes > 1 else Stacked(layout)
    fleet._pace = Small()
    mine = torch.from_numpy(x[layout.rows(rank)])
    found = []
    for _ in range(3):
        first = fleet.later(fleet.mix, W, mine)
        while any(thread.name == "messages" for thread in threading.enumerate()):
            time.sleep(0.001)
        second = fleet.later(fleet.mix, W, mine + 1)
        now = fleet.mix(W, mine + 2, (mine + 3)[:, :5].contiguous())
        found.append([first.wait(), second.wait(), *now])
    return layout.rows(rank), [[part.numpy() for part in parts] for parts in found], fleet.ledger.messages


@pytest.mark.parametrize("replicated", [True, False])
@pytest.mark.parametrize("kind", ["ring", "exponential", "both", "dense"])
def test_rows_are_those_of_one_process(process_groups, kind, replicated):
    x, W = np.random.default_rng(0).normal(size=(M + 1, D)), matrix(kind)
    _, whole, messages = mixed(0, 1, W, x, replicated)
    for processes in (2, 4):
        for rows, found, charged in process_groups(processes)(mixed, processes, W, x, replicated):
            assert charged == messages
            for parts, all_parts in zip(found, whole, strict=True):
                for part, everything in zip(parts, all_parts, strict=True):
                    np.testing.assert_allclose(part, everything[rows], rtol=0, atol=1e-12)


class Network:
    """What was posted, in order; a piece arrives when it is waited for."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def post(self, receives, sends):
        self.said += [f"receive {i}" for i, _ in receives] + [f"send {i}" for i, _ in sends]
        return [f"in {i}" for i, _ in receives] + [f"out {i}" for i, _ in sends]

    def done(self, work):
        self.said.append(work)


@pytest.mark.parametrize("under_way", [1, 2, 3, 64])
def test_nobody_runs_ahead_of_what_it_has_received(under_way):
    network, used = Network(), []
    parts = lambda i: [(i, 0), (i, 1)]  # noqa: E731
    Exchange(10, under_way, parts, parts, network.post, used.append).run(network.done)
    assert used == list(range(10))
    at = {what: network.said.index(what) for what in network.said}
    for i in range(10):
        assert at[f"receive {i}"] < at[f"send {i}"]
        if i >= under_way:
            assert at[f"in {i - under_way}"] < at[f"send {i}"]
        if i + under_way < 10:
            assert at[f"send {i + under_way}"] < at.get(f"in {i + 1}", 1e9), "what may leave waits for no more"
    assert network.said.count("in 9") == network.said.count("out 9") == 2


@pytest.mark.parametrize(
    ("bits", "trip", "piece", "most"),
    [(2e7, 0.1, 1 << 14, 0.45), (1e8, 0.01, 1 << 15, 0.05), (1e9, 0.0004, 1 << 21, 0.2), (1e10, 0.0001, 1 << 23, 0.1)],
)
def test_pieces_suit_the_link(bits, trip, piece, most):
    pace = Pace()
    assert pace.due() and not pace.due() and not pace.due() and pace.due()
    pace.took(99 * 1000 * 16 / bits, 100, 1000)  # to two neighbours
    pace.took(99 * 1000 * 17 / bits, 100, 1000)
    pace.trip = trip
    pace.agree(pace.seen)
    assert pace.per_byte == pytest.approx(16 / bits)
    assert pace.piece(1 << 30) == piece
    assert 2.5 * trip < pace.under_way(piece) * piece * pace.per_byte < most, "seconds of what is under way"


def test_before_anything_is_known_there_are_few_pieces():
    pace = Pace()
    pace.agree(pieces.UNKNOWN)
    assert pace.per_byte == pieces.UNKNOWN and pace.under_way(1) == 4
    assert pace.piece(1000) == 1 << 16 and pace.piece(1 << 23) == 1 << 17 and pace.piece(1 << 40) == pieces.MOST


def test_what_fails_aside_is_told_to_who_waits():
    stop = threading.Event()

    def done(work):
        stop.wait()
        raise RuntimeError("Connection closed by peer")

    hidden = Hidden(Exchange(1, 1, lambda i: [(0, 0)], lambda i: [], Network().post), done)
    with pytest.raises(RuntimeError, match="Timed out waiting"):
        hidden.wait(timedelta(seconds=0.01))
    stop.set()
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        hidden.wait()
