"""Python's collector of garbage rests until a command has been imported, and the server whose forks the tests use is warm."""

from __future__ import annotations

import gc
import sys

from conftest import elsewhere

from coopsgd.host import collector


class Knot:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.self = self


def collections(knots: int) -> int:
    """How often a look was taken while so many were made."""
    before = sum(one["collections"] for one in gc.get_stats())
    for _ in range(knots):
        Knot()
    return sum(one["collections"] for one in gc.get_stats()) - before


def resting() -> dict[str, int]:
    usual = gc.get_threshold()
    collector.wake()  # nothing: it has not rested
    found = {"before": collections(5000)}
    collector.rest()
    collector.rest()
    found["at rest"] = collections(5000)
    frozen = gc.get_freeze_count()
    kept = [Knot() for _ in range(100)]
    collector.wake()
    found |= {"frozen": gc.get_freeze_count() - frozen, "awake": collections(5000)}
    collector.wake()
    assert gc.get_threshold() == usual and len(kept) == 100
    return found


def test_it_rests_and_wakes():
    found = elsewhere(resting)
    assert found["before"] > 3 and found["at rest"] == 0 and found["awake"] > 3
    assert found["frozen"] >= 100


def warmth() -> tuple[int, list[str]]:
    return gc.get_freeze_count(), sorted({"warm", "torchvision", "networkx"} & set(sys.modules))


def test_the_server_is_warm():
    """An import that fails there is silent."""
    frozen, there = elsewhere(warmth)
    assert frozen > 100_000 and there == ["networkx", "torchvision", "warm"]
