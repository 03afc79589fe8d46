"""Rows in one memory: every verb is what one process makes of all rows, and nothing is sent."""

from __future__ import annotations

import random
import time

import arrays as matrices
import numpy as np
import pytest
import torch
from playing import CNN, QUADRATIC, fleet_of, play, settle

from coopsgd.fleet import memory, waits
from coopsgd.fleet.memory import Meeting, Memory
from coopsgd.fleet.plan import Layout
from coopsgd.fleet.shared import Shared
from coopsgd.fleet.stacked import Stacked
from coopsgd.mixing.graphs import Ring
from coopsgd.mixing.matrix import frozen
from coopsgd.testing.runs import make_loop

M = 8


def matrix(kind: str, v: int) -> np.ndarray:
    """(M + v, M + v)"""
    if kind == "random":
        return np.random.default_rng(v).normal(size=(M + v, M + v))
    W = np.eye(M + v)
    if kind == "elastic":
        for a in range(v):
            some = np.arange(a, M, v)
            W[some, M + a] = W[M + a, some] = 0.1
            W[some, some], W[M + a, M + a] = 0.9, 1 - 0.1 * len(some)
    else:
        W[:M, :M] = matrices.average(M) if kind == "average" else matrices.metropolis(Ring().adjacency(M, 0))
    return W


def verbs(rank, processes, v, W, x, dtype, owned, each=0):
    """What each verb makes of x (M + v, d): at once, of rows that lie in the memory or not; begun, then disturbed.

    each: processes of a host, if there are several.
    """
    fleet = fleet_of(Layout(M, v, processes), rank, shared=True, each=each)
    rows = fleet.layout.rows(rank)
    mine = torch.from_numpy(x[rows]).to(dtype)
    if owned:
        given = fleet.rows(torch.zeros(1, x.shape[1], dtype=dtype))
        given.copy_(mine)
    else:
        given = mine.clone()
    W = frozen(W)
    found = {"gather": fleet.gather(given), "total": fleet.total(torch.tensor([1.0 + rank, 2.0], dtype=torch.float64))}
    found["mean"], found["pick"] = fleet.mean(given), [fleet.pick(given, i) for i in (0, M - 1, M + v - 1)]
    one, two = fleet.mean(given, given[:, :3].contiguous())
    found["means"] = torch.cat([one, two], dim=1)
    begun = [fleet.later(fleet.mix, W, given)]
    given += 1
    begun += [fleet.later(fleet.mix, W, given), fleet.later(fleet.mean, given), fleet.later(fleet.pick, given, M - 1)]
    given -= 1
    found["later"] = [pending.wait() for pending in begun]
    other = given[:, :5].clone()
    mixed = fleet.mix(W, given, other)
    assert mixed[0] is given
    found["mix"] = mixed
    return rows, found, (fleet.ledger.messages, fleet.ledger.bytes), fleet.ledger.wire_bytes


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("v", [0, 1, 3])
@pytest.mark.parametrize("kind", ["average", "ring", "elastic", "random"])
def test_every_verb_is_that_of_one_process(process_groups, kind, v, processes):
    dtype, d = (torch.float32, 777) if v == 1 else (torch.float64, 20_011 if v else 7)
    W, x = matrix(kind, v), np.random.default_rng(1).normal(size=(M + v, d))
    _, alone, charged, _ = verbs(0, 1, v, W, x, dtype, owned=False)
    for owned in (False, True):
        for rows, found, logical, wire in process_groups(processes)(verbs, processes, v, W, x, dtype, owned):
            assert (logical, wire) == (charged, 0)
            np.testing.assert_array_equal(found["total"], [processes * (processes + 1) / 2, 2 * processes])
            if rows[0] == 0:
                assert torch.equal(found["gather"], alone["gather"])
            close = {"rtol": 0, "atol": 1e-14 if dtype == torch.float64 else 1e-6}
            torch.testing.assert_close(found["mean"], alone["mean"], **close)
            torch.testing.assert_close(found["means"], alone["means"], **close)
            assert all(map(torch.equal, found["pick"], alone["pick"]))
            for mine, whole in zip((*found["mix"], *found["later"][:2]), (*alone["mix"], *alone["later"][:2]), strict=True):
                torch.testing.assert_close(mine, whole[rows], rtol=0, atol=20 * close["atol"])
            torch.testing.assert_close(found["later"][2], alone["later"][2], **close)
            assert torch.equal(found["later"][3], alone["later"][3])


def alone_and_shared(what, v=1):
    """What `what(fleet, x)` answers for x (3, 3) in the fleet's own memory, in one process and in a shared fleet of one."""
    layout = Layout(2, v, 1)
    found = []
    for fleet in (Stacked(layout), Shared(layout, 0, Memory(1))):
        x = fleet.rows(torch.zeros(1, 3, dtype=torch.float64))
        x.copy_(torch.arange(9.0).view(3, 3) ** 2)
        found.append(what(fleet, x))
    return found


W = frozen(np.array([[0.5, 0.2, 0.3], [0.1, 0.9, 0.0], [0.4, 0.3, 0.3]]))


def same_rows_twice(fleet, x):
    fleet.mix(W, x, x[:])
    return x


def no_columns(fleet, x):
    kept, other = fleet.zeros_like(x[:, :0]), x[:, :0].clone()
    fleet.mix(W, x, kept, other)
    assert [one.shape for one in (kept, other, fleet.mean(other), fleet.pick(kept, 1))] == [(3, 0), (3, 0), (1, 0), (1, 0)]
    return x


def first_in_inference_mode(fleet, x):
    with torch.inference_mode():
        found = fleet.mean(2 * x) + fleet.pick(2 * x, 2)
    other = x + 1
    fleet.mix(W, other)
    return found + fleet.mean(x + 3) + fleet.pick(other, 2)


def with_gradients(fleet, x):
    y = x.clone().requires_grad_()
    found = [fleet.mean(y), fleet.pick(y, 2), fleet.mean(x), fleet.pick(x + 1, 2)]
    return torch.cat([one.detach() for one in found])


def columns(fleet, x):
    fleet.mix(W, x[:, ::2])
    return torch.cat([x, fleet.mean(x[:, :1].expand(-1, 3)), fleet.mean(x[:1].expand(3, -1))])


@pytest.mark.parametrize("what", [same_rows_twice, no_columns, first_in_inference_mode, with_gradients, columns])
def test_whatever_rows_are_given(what):
    alone, shared = alone_and_shared(what)
    torch.testing.assert_close(shared, alone, rtol=0, atol=1e-14)


def read_late(rank, processes):
    """Of 30 means that are lent, how many were still what they had been when somebody read them late; and copies kept."""
    fleet = fleet_of(Layout(processes, 0, processes), rank, shared=True)
    x, right, kept = fleet.rows(torch.zeros(1, 50_000)), 0, []
    for k in range(30):
        x.fill_(rank + k)
        with fleet.lending():
            mean = fleet.mean(x)
        time.sleep(random.random() / 500)
        right += bool((mean == k + (processes - 1) / 2).all())
        kept.append(fleet.mean(x))
    return (
        right,
        all((one == k + (processes - 1) / 2).all() for k, one in enumerate(kept)),
        mean.data_ptr() == kept[0].data_ptr(),
    )


@pytest.mark.parametrize("processes", [2, 4])
def test_a_mean_that_is_lent_is_there_until_the_next_verb(process_groups, processes):
    assert process_groups(processes)(read_late, processes) == [(30, True, False)] * processes


def test_a_mean_is_lent_where_a_plain_step_reads_it():
    words = {("algo=fullsync",): True, ("algo=fullsync", "optim=adam"): False, ("algo=fullsync", "codec=bf16"): False}
    assert {w: make_loop(settle((*QUADRATIC, *w)))._lends for w in words} == words


def test_who_never_waits_has_been_through_its_verbs(monkeypatch):
    """Else all of its steps would be one long stretch, and a wait after them might last 20 times that."""
    now = [100.0]
    monkeypatch.setattr(waits.time, "monotonic", lambda: now[0])
    of = waits.Waits(None)
    fleet = Shared(Layout(2, 1, 1), 0, Memory(1), of)
    x = fleet.rows(torch.zeros(1, 3))
    of.begin("mix", waits.TRAINING, 0)
    of.end()
    for _ in range(1000):
        now[0] += 1
        fleet.mix(W, x)
    of.begin("mix", waits.TRAINING, 1000)
    assert of.now is not None and of.now.limit == waits.FLOOR


ALGORITHMS = {
    "pasgd": ("tau=3", "optim.momentum=0.9"),
    "easgd": ("tau=3",),
    "fedavg": ("tau=3", "algo.fraction=0.5"),
    "dpsgd": ("topology=ring", "tau=2", "delay=1"),
    "one_peer": ("tau=1", "delay=tau"),
    "parameter_server": ("tau=2",),
    "hierarchical": ("tau=2", "order=cta"),
    "matching": ("tau=2",),
    "fullsync": (),
    "gea": ("tau=2",),
}


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_kind_of_algorithm_goes_the_same_way(process_groups, algo):
    words = (*QUADRATIC, f"algo={algo}", *ALGORITHMS[algo], "fleet=shared")
    alone = play(process_groups, 1, *words)
    for processes in (2, 4):
        played = play(process_groups, processes, *words)
        np.testing.assert_allclose(played.x, alone.x, rtol=0, atol=1e-12 * np.abs(alone.x).max())
        np.testing.assert_allclose(played.answer, alone.answer, rtol=0, atol=1e-12 * np.abs(alone.x).max())
        assert played.logical == alone.logical
        assert played.wire_bytes == 0


@pytest.mark.parametrize("norm_stats", ["average", "recalibrate"])
def test_statistics_ride_along(process_groups, norm_stats):
    words = (*CNN, "model.norm=batch", "algo=pasgd", "tau=3", "workers=4", "batch_size=8", "steps=9")
    alone, played = (play(process_groups, p, *words, f"norm_stats={norm_stats}", "fleet=shared") for p in (1, 4))
    np.testing.assert_allclose(played.x, alone.x, rtol=0, atol=1e-11)
    np.testing.assert_allclose(played.stats, alone.stats, rtol=0, atol=1e-11)


@pytest.mark.parametrize("way", ["compiled", "by hand"])
def test_everybody_waits_for_everybody(monkeypatch, way):
    """Whoever is late, nobody is past a meeting before all have come to it, also where the count begins anew."""
    if way == "by hand":
        monkeypatch.setattr(memory.native, "library", lambda: None)
    seen = _meetings(4, rounds=60)
    assert [sorted(seen[4 * r : 4 * r + 4]) for r in range(60)] == [[r] * 4 for r in range(60)]


def test_where_there_is_no_futex(monkeypatch):
    memory._doze(0, 0, 5000)  # whoever has waited for long
    monkeypatch.setattr(memory, "FUTEX", {})
    monkeypatch.setattr(memory.native, "library", lambda: None)
    seen = _meetings(3, rounds=20)
    assert [sorted(seen[3 * r : 3 * r + 3]) for r in range(20)] == [[r] * 3 for r in range(20)]


@pytest.mark.parametrize("way", ["compiled", "by hand"])
def test_who_waits_looks_up_and_may_be_ended(monkeypatch, way):
    """A process whose others do not come calls `look` again and again, and what that raises ends the wait."""
    if way == "by hand":
        monkeypatch.setattr(memory.native, "library", lambda: None)
    room, looked = Memory(2), []

    def look() -> None:
        looked.append(time.monotonic())
        if len(looked) == 3:
            raise RuntimeError("nobody comes")

    for spins in (0, 5):
        meeting = Meeting(room, 0, spins)
        meeting.look = look
        meeting.arrive()
        assert not meeting.soon()
        looked.clear()
        with pytest.raises(RuntimeError, match="nobody comes"):
            meeting.meet()
        assert looked[2] - looked[0] < 10
    other = Meeting(room, 1, 0)
    other.arrive()
    assert other.soon()
    room.close()


def test_those_who_come_at_once_do_not_miss_each_other():
    """Two processes on two cores, thousands of meetings: one that is missed costs a nap, so the whole takes no such time."""
    import multiprocessing

    room, rounds = Memory(2), 4000

    def member(rank: int) -> None:
        meeting = Meeting(room, rank, spins=0)
        for _ in range(rounds):
            meeting.arrive()
            if not meeting.soon():
                meeting.meet()

    began = time.monotonic()
    members = [multiprocessing.get_context("fork").Process(target=member, args=(rank,)) for rank in range(2)]
    for one in members:
        one.start()
    for one in members:
        one.join()
    room.close()
    assert [one.exitcode for one in members] == [0, 0]
    assert time.monotonic() - began < rounds * memory.MOMENT / 4


def _meetings(processes: int, rounds: int) -> list[int]:
    """The rounds that threads of a few processes write down, in the order in which they do, before each meeting."""
    from threading import Lock, Thread

    room, seen, lock = Memory(processes), [], Lock()

    def member(rank: int) -> None:
        meeting, draw = Meeting(room, rank, spins=rank), random.Random(rank)
        meeting._n = start
        for r in range(rounds):
            time.sleep(draw.choice([0, 0, 0.002]))
            with lock:
                seen.append(r)
            meeting.arrive()
            meeting.meet()

    start = 2**32 - rounds // 2
    slots = room.slots()
    for rank in range(processes):
        slots[memory.SLOT * rank] = start
    threads = [Thread(target=member, args=(rank,)) for rank in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    room.close()
    return seen


def test_room_is_not_taken_twice_and_takes_memory_only_when_written():
    import os

    room = Memory(2)
    other = Memory(2, room.path)
    first, second = (one.room(3, 5, torch.float64) for one in (room, other))
    first[1, 2] = 7
    assert second[1, 2] == 7
    assert not room.room(3, 5, torch.float32).any()
    room.room(1 << 12, 1 << 20, torch.float32)  # 16 GB that nobody writes
    assert os.fstat(room._file).st_blocks * 512 < 1 << 20
    room.clear()
    assert not first.any()
    room.close(), other.close()
