"""In a user's loop: processes that differ, that have less data, that end, die or stand still. None of it hangs."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
import pytest
import torch
from programs import Loop, network, run
from torch import nn

from coopsgd import Cooperation
from coopsgd.errors import ConfigError

UNLIKE = {
    "words": "words: rank 2 and rank 0 differ: tau=2 against tau=3; give every process the same",
    "seed": "words: ranks 1, 2 and rank 0 differ: seed=1 against seed=0; give every process the same",
    "model": "model: rank 1 and rank 0 differ: weight (5, 4) float32, strides (4, 1) against weight (6, 4) float32,",
    "frozen": "model: rank 2 and rank 0 differ: 0.bias (6,) float64, strides (1,), frozen against 0.bias (6,) float64,",
    "optimizer": "optimizer: rank 1 and rank 0 differ: Adam of 1 groups against SGD of 1 groups;",
    "refused": "rank 1: period: tau: must be a whole number of at least 1",
    "all refused": "period: tau: must be a whole number of at least 1",
}


def unlike(rank: int) -> dict[str, str]:
    """What a process is told, of each way in which the processes differ."""
    model, frozen = nn.Linear(4, 5 if rank == 1 else 6), network()
    frozen[0].bias.requires_grad_(rank != 2)
    kind = torch.optim.Adam if rank == 1 else torch.optim.SGD
    calls: dict[str, Any] = {
        "words": lambda: Loop(rank, "algo=pasgd", "tau=2" if rank == 2 else "tau=3"),
        "seed": lambda: Loop(rank, "algo=matching", f"seed={min(rank, 1)}"),
        "model": lambda: Loop(rank, "algo=pasgd", model=model),
        "frozen": lambda: Loop(rank, "algo=pasgd", model=frozen),
        "optimizer": lambda: Cooperation(net := network(), kind(net.parameters(), lr=0.1), "algo=pasgd"),
        "refused": lambda: Loop(rank, "algo=pasgd", "tau=0" if rank == 1 else "tau=1"),
        "all refused": lambda: Loop(rank, "algo=pasgd", "tau=0"),
    }
    told = {}
    for what, call in calls.items():
        with pytest.raises(ConfigError) as caught:
            call()
        told[what] = str(caught.value)
    return told


def test_processes_that_differ_are_named_in_each():
    for said in run(3, unlike):
        assert not said.kind, said
        for what, line in UNLIKE.items():
            assert said.answer[what].startswith(line)


def uneven(rank: int, algo: str, steps: list[int]) -> Any:
    loop = Loop(rank, *algo.split(), timeout=60)
    loop.take(steps[rank])
    return loop.rows()


@pytest.mark.parametrize("algo", ["algo=pasgd tau=2", "algo=dpsgd topology=ring tau=1 delay=1", "algo=fullsync"])
def test_a_process_that_ends_sooner_is_named_by_the_others(algo):
    began = time.monotonic()
    said = run(3, uneven, algo, [12, 12, 4])
    assert said[2].kind == ""
    assert all(other.kind == "RunFailed" for other in said[:2]), said
    told = [other.message for other in said[:2]]
    assert all("of step" in line and "with coop.join()" in line for line in told)
    assert any("rank 2 has ended after step 4" in line for line in told), told
    assert time.monotonic() - began < 60


def killed(rank: int) -> Any:
    loop = Loop(rank, "algo=pasgd", "tau=2")
    loop.take(3)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    loop.take(9)


def test_a_process_that_is_killed():
    said = run(3, killed)
    assert said[1].died
    assert all(said[q].kind == "RunFailed" and "rank 1 did not come" in said[q].message for q in (0, 2)), said


def stands_still(rank: int) -> Any:
    loop = Loop(rank, "algo=pasgd", "tau=2", timeout=3)
    loop.take(3)
    if rank == 1:
        time.sleep(12)
    loop.take(9)


def test_a_process_that_stands_still():
    said = run(2, stands_still)
    assert "the mix of step 4: rank 1 did not come" in said[0].message


def never_comes(rank: int) -> Any:
    if rank == 1:
        time.sleep(8)
        return
    Loop(rank, "algo=pasgd", timeout=3)


def test_a_process_that_makes_no_cooperation():
    said = run(2, never_comes)
    assert said[0].kind == "RunFailed"
    assert said[0].message == "making a Cooperation: rank 1 did not come; every process must do the same"


def elsewhere(rank: int, what: str) -> Any:
    loop = Loop(rank, "algo=pasgd", "tau=4", timeout=3)
    loop.take(3 if rank else 2)
    if what == "one" and rank:
        time.sleep(12)
    with loop.coop.answer():
        return loop.k


def test_an_answer_that_not_all_ask_for():
    said = run(2, elsewhere, "one")
    assert said[0].kind == "RunFailed"
    assert said[0].message.startswith("answer after step 2: rank 1 did not come; every process must do the same")


def test_an_answer_at_different_steps():
    for said in run(2, elsewhere, "all"):
        assert said.kind == "RunFailed"
        assert "rank 0 is at answer after step 2, rank 1 is at answer after step 3" in said.message


def joining(rank: int, cases: list[tuple[str, list[list[int]]]]) -> list[Any]:
    """Of each case, an algorithm and epochs of so many steps each rank: (rows, steps, rounds) after each epoch, the answer."""
    found = []
    for algo, epochs in cases:
        loop, ends = Loop(rank, *algo.split()), []
        for steps in epochs:
            with loop.coop.join():
                loop.take(steps[rank])
            ends.append((loop.rows(), loop.coop.steps, loop.coop.ledger.rounds))
        with loop.coop.answer():
            found.append((ends, loop.rows()))
    return found


def joining_with_a_scaler(rank: int) -> Any:
    """Three steps of one rank, one of the other; fullsync, so that both end at one model."""
    loop = Loop(rank, "algo=fullsync", timeout=60)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with loop.coop.join():
        for _ in range(1 if rank else 3):
            scaler.scale(loop.gradient(backward=False)).backward()
            loop.coop.step(scaler=scaler)
            scaler.update()
    return loop.rows()


def test_join_with_a_scaler():
    first, second = run(2, joining_with_a_scaler)
    assert not first.kind and not second.kind, (first, second)
    assert np.array_equal(first.answer, second.answer)


ALGOS = (
    "algo=pasgd period=adacomm period.interval=2 tau=2",
    "algo=pasgd tau=3",
    "algo=dpsgd tau=2 delay=1",
    "algo=dpsgd tau=2 delay=tau",
    "algo=fullsync",
)


def test_join_lets_all_come_to_an_end():
    said = run(3, joining, [(algo, [[7, 2, 5], [1, 4, 0]]) for algo in ALGOS])
    assert not any(one.kind for one in said), said
    for algo, ranks in zip(ALGOS, zip(*(one.answer for one in said), strict=True), strict=True):
        epochs, answers = zip(*ranks, strict=True)
        for epoch in range(2):
            assert len({ended[epoch][1:] for ended in epochs}) == 1
        assert all(np.array_equal(answers[0], other) for other in answers)
        if "adacomm" not in algo:
            assert epochs[0][0][1:] == {"algo=pasgd tau=3": (9, 3), "algo=fullsync": (7, 7)}.get(algo, (8, 4))
        rows = [ended[1][0] for ended in epochs]
        if "dpsgd" not in algo:  # the round that was under way has ended, and averaging makes them equal
            assert all(np.allclose(rows[0], other, atol=1e-12) for other in rows)


def test_joined_workers_rest_and_join_changes_nothing_where_all_have_as_much():
    cases = [
        ("algo=pasgd tau=2", [[4, 1]]),
        ("algo=fullsync", [[3, 1]]),
        ("algo=dpsgd tau=2", [[4, 4], [6, 6]]),
        ("algo=dpsgd tau=2", [[10, 10]]),
    ]
    first, second = (one.answer for one in run(2, joining, cases))
    loops = [Lone(0), Lone(1)]
    for k in range(4):  # by hand: who has ended keeps his model but for what is mixed into it
        loops[0].take(1)
        loops[1].take(1 if k < 1 else 0)
        if k % 2:
            mean = (loops[0].rows() + loops[1].rows()) / 2
            for loop in loops:
                loop.put(mean)
    for mine, loop in zip((first, second), loops, strict=True):
        assert np.allclose(mine[0][0][0][0], loop.rows(), atol=1e-13)
    alone, other = Lone(0), Lone(1)
    for k in range(3):  # of gradients the mean is taken with one that is nothing
        alone.gradient()
        other.gradient()
        for p, q in zip(alone.model.parameters(), other.model.parameters(), strict=True):
            p.grad = q.grad = (p.grad + (q.grad if k < 1 else 0)) / 2
        alone.optimizer.step()
        other.optimizer.step()
    assert np.allclose(second[1][0][0][0], alone.rows(), atol=1e-13)
    (*_, twice), _ = first[2]
    (once,), _ = first[3]
    assert np.array_equal(twice[0], once[0])
    assert twice[1:] == once[1:] == (10, 5)


class Lone(Loop):
    """The same loop, alone."""

    def __init__(self, rank: int) -> None:
        super().__init__(rank, "algo=independent")

    def put(self, row: Any) -> None:
        at = 0
        with torch.no_grad():
            for p in self.model.parameters():
                p.copy_(torch.from_numpy(row[at : at + p.numel()]).view_as(p))
                at += p.numel()


def scheduled(rank: int, apart: bool) -> Any:
    """qsr computes with a rate that a scheduler halves after every step, of one process later where they are `apart`."""
    loop = Loop(rank, "algo=pasgd", "period=qsr", "period.alpha=0.1", "period.power=1", "tau=1", timeout=60)
    halve = torch.optim.lr_scheduler.ExponentialLR(loop.optimizer, 0.5)
    with loop.coop.join():
        for k in range(2 if rank and not apart else 5):
            loop.take(1)
            if k or not apart or not rank:
                halve.step()
    return loop.coop.steps, loop.coop.ledger.rounds, loop.rows()


def test_a_period_that_computes_with_the_rate():
    line = "the period computes with the learning rate, and after step 1 it is 0.05 at rank 0 and 0.1 at rank 1; have"
    assert all(one.kind == "RunFailed" and one.message.startswith(line) for one in run(2, scheduled, True))
    first, second = run(2, scheduled, False)  # whose data have ended counts on the rate of those that go on
    assert not first.kind and not second.kind, (first, second)
    assert first.answer[:2] == second.answer[:2]
    assert first.answer[1] < first.answer[0]
    assert np.allclose(first.answer[2], second.answer[2], atol=1e-15)


def numbers(rank: int) -> Any:
    """Of samples in numpy's numbers, and in none."""
    loop = Loop(rank, "algo=fedavg", "algo.fraction=1", "tau=1", samples=np.int64(3 if rank else 1))
    with pytest.raises(
        ConfigError, match=r"samples: a whole number of at least 1 for each model and process, got 2.5 in rank 1"
    ):
        Loop(rank, "algo=fedavg", samples=2.5 if rank else 1)
    loop.take(1)
    return loop.rows()


def test_samples_are_numbers_of_every_kind():
    first, second = run(2, numbers)
    assert not first.kind and not second.kind, (first, second)
    assert np.array_equal(first.answer, second.answer)


def within_join(rank: int) -> Any:
    loop = Loop(rank, "algo=pasgd")
    with loop.coop.join(), pytest.raises(RuntimeError, match=r"answer: not within `with coop.join\(\):`"), loop.coop.answer():
        pass
    with loop.coop.answer(), pytest.raises(RuntimeError, match=r"step: not within `with coop.answer\(\):`"):
        loop.take(1)


def test_what_does_not_go_together():
    assert not any(one.kind for one in run(2, within_join))
