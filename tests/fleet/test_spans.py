"""Seconds that a GPU's stream spends in communication: by events, read when they are over, tried with a stream of our own."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from coopsgd.errors import ConfigError
from coopsgd.fleet.plan import Layout
from coopsgd.fleet.processes import Processes
from coopsgd.fleet.spans import Spans
from coopsgd.fleet.world import card_of, refuse_one_for_two


class Stream:
    """It does what it is told when `run` is called: events are points of its time, in milliseconds."""

    def __init__(self) -> None:
        self.now, self.told = 0.0, []

    def spends(self, ms):
        self.told.append(lambda: setattr(self, "now", self.now + ms))

    def run(self):
        for one in self.told:
            one()
        self.told.clear()


@pytest.fixture
def stream(monkeypatch):
    stream = Stream()

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing
            self.at = None

        def record(self):
            stream.told.append(lambda: setattr(self, "at", stream.now))

        def query(self):
            return self.at is not None

        def elapsed_time(self, later):
            return later.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    return stream


def test_communication_is_what_the_stream_spends_in_it(stream, monkeypatch):
    monkeypatch.setattr(Processes, "barrier", lambda fleet: None)
    fleet = Processes(Layout(2, 0, 1), 0)
    fleet._spans = Spans()
    for _ in range(2):
        stream.spends(1000)  # a step
        with fleet._waiting("mix"):
            stream.spends(250)
    assert fleet.ledger.comm_s == 0  # nobody has waited for it
    stream.run()
    with fleet.measuring():
        assert fleet.ledger.comm_s == 0.5
        with fleet._waiting("total"):
            stream.spends(4000)
    stream.run()
    with fleet._waiting("mix"):
        stream.spends(125)
    stream.run()
    with fleet.measuring():
        assert fleet.ledger.comm_s == 0.625


def test_a_barrier_names_the_gpu_of_this_process(stream, monkeypatch):
    told = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(Processes, "_done", lambda fleet, work: None)
    monkeypatch.setattr(dist, "barrier", lambda async_op, device_ids: told.append(device_ids))
    fleet = Processes(Layout(2, 0, 1), 0)
    fleet.barrier()
    fleet._spans = Spans()
    fleet.barrier()
    assert told == [None, [3]]


def test_two_processes_with_their_models_on_one_gpu_are_refused():
    refuse_one_for_two([None, None])
    refuse_one_for_two(["GPU-a", "GPU-b"])
    with pytest.raises(ConfigError, match="ranks 1 and 2 are on one GPU, and nccl takes one process a GPU"):
        refuse_one_for_two(["GPU-a", "GPU-b", "GPU-b"])
    assert card_of(torch.device("cpu")) is None
