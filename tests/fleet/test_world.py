"""Processes of a program that is not ours wait for each other in silence."""

from __future__ import annotations

import time
from datetime import timedelta

import torch.distributed as dist

from coopsgd.fleet.plan import Layout
from coopsgd.fleet.world import World


def test_who_waits_says_nothing(monkeypatch, capfd):
    """torch writes two lines to stderr for each wait of its store that ends in vain, as one of every half second did."""
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    world = World(Layout(2, 0, 2), 0, 60.0)
    began = time.monotonic()
    assert not world._all_there("meet 1") and time.monotonic() - began >= 0.5
    store.set(f"coopsgd/{World._made}/meet 1/1", "here")
    assert world._all_there("meet 1")
    said = capfd.readouterr()
    assert said.err == "" and said.out == ""
