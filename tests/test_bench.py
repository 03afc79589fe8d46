"""What `make bench` makes of its measurements: the table, what counts as missed, and how many turns there is time for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(SCRIPTS))
    try:
        import bench

        yield bench
    finally:
        sys.path.remove(str(SCRIPTS))


def test_a_row_is_missed_when_it_is_more_than_15_percent_worse(bench):
    times = {"a": [2.0, 4.0, 3.0], "b": [2.0, 2.0, 2.0], "c": [1.0, 1.0, 1.0]}
    row = bench.ratio("a / b", times, "a", "b", 1.31, peer="c")
    assert (row.ratio, row.spread, row.peers, row.missed) == (1.5, (1.0, 2.0, 3), "peer 0.5", False)
    assert (
        bench.ratio("a / b", times, "a", "b", 1.30).missed and "MISSED" in bench.ratio("a / b", times, "a", "b", 1.3).cells()[2]
    )
    assert not bench.Row("rate", 3.2, 3.6, at_least=True).missed and bench.Row("rate", 3.1, 3.6, at_least=True).missed
    unknown = bench.Row("net", None, 1.15, "no emulator")
    assert not unknown.missed and unknown.cells() == ("net", "not measured", "at most 1.15", "no emulator")
    assert list(bench.printed([("x", "y"), ("1", "2")])) == ["| x | y |", "| --- | --- |", "| 1 | 2 |"]


@pytest.mark.parametrize(("missed", "code"), [(1.0, 0), (2.0, 1)])
def test_one_missed_row_is_exit_code_1(bench, monkeypatch, capsys, missed, code):
    monkeypatch.setattr(bench, "rounds", lambda repeats: [bench.Row("one", missed, 1.0), bench.Row("two", None, 1.0, "why")])
    monkeypatch.setattr(bench.progress, "silence", lambda: None)
    monkeypatch.setattr(sys, "argv", ["bench.py", "--parts", "rounds"])
    assert bench.main() == code
    assert f"2 rows, {code} missed" in capsys.readouterr().out


def test_turns_end_when_the_time_is_over_and_one_is_always_made(bench, monkeypatch):
    now = iter(range(0, 10**6, 10))  # ten seconds between any two looks at the clock
    monkeypatch.setattr(bench.time, "perf_counter", lambda: float(next(now)))
    ways = {"a": lambda: 1.0, "b": lambda: 2.0}
    assert bench.in_turns(ways, 5, 0.0) == {"a": [1.0], "b": [2.0]}
    assert len(bench.in_turns(ways, 5, 1e9)["a"]) == 5
