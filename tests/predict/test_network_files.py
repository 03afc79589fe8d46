"""Networks as people have them: an attribute that is not understood is refused, and what is not used is noted."""

from __future__ import annotations

import numpy as np
import pytest
from playing import settle
from test_underlay import gml

from coopsgd.commands import compose
from coopsgd.errors import ConfigError
from coopsgd.predict.clock.cycles import price
from coopsgd.predict.clock.steps import bits
from coopsgd.predict.clock.underlay import Underlay
from coopsgd.predict.rehearsal import rehearse

PLACES = ["lat 0 lon 0", "lat 0 lon 1"]
BAD = {
    "a speed in a unit of its own": (PLACES, "bandwidth_mbps 10", "has a bandwidth_mbps.*capacity"),
    "a speed without its raw value": (PLACES, 'LinkSpeed "10" LinkSpeedUnits "G"', "has a linkspeed.*capacity"),
    "a round trip": (PLACES, "rtt_ms 10", "has a rtt_ms.*latency_s or latency_ms"),
    "a delay with a unit": (PLACES, "delay_ms 10", "has a delay_ms.*latency_s or latency_ms"),
    "microseconds": (PLACES, "latency_us 10", "has a latency_us.*latency_s or latency_ms"),
    "a length without a unit": (PLACES, "length 3", "has a length.*distance_km"),
    "metres": (PLACES, "distance_m 3000", "has a distance_m.*distance_km"),
    "words for a time": (PLACES, 'latency_ms "10"', "has the latency_ms '10'; it must be a number"),
    "bytes": (PLACES, 'capacity "10 MB/s"', "its capacity: must be a positive number of bit/s"),
    "a kind of router": (["router 2", ""], "latency_ms 1", "the node 0 has router 2; it must be 0 or 1"),
    "words for a router": (["", 'router "yes"'], "latency_ms 1", "the node 1 has router 'yes'"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_not_understood_is_refused_by_name(tmp_path, kind):
    nodes, line, why = BAD[kind]
    file = gml(tmp_path, nodes, [(0, 1, line)])
    with pytest.raises(ConfigError, match=why) as refused:
        settle(("task=quadratic", "workers=2", "cluster=graph", f"cluster.file={file}"))
    assert "\n" not in str(refused.value)


def test_a_length_that_is_known_may_stand_beside_others(tmp_path):
    file = gml(tmp_path, PLACES, [(0, 1, 'distance_km 100 length 3 LinkSpeed "1" LinkSpeedRaw 1000000 wavelength 1550')])
    network = Underlay(file=file, base_s=0, per_km_s=1e-5, access=None).network(2, 2)
    assert network.a[0, 1] == pytest.approx(1e-3) and network.b[0, 1] == 8e-6


@pytest.mark.parametrize("word", ["100 Mbit/s", "100Mbps", "100 Mb/s", "0.1 Gbit", "1e5 kbps"])
def test_bits_as_people_write_them(word):
    assert bits(word) == pytest.approx(1e8)


def test_lines_that_carry_nothing_are_noted(tmp_path):
    lines = [(0, 1, "latency_ms 1"), (0, 1, "latency_ms 5"), (1, 0, "latency_ms 1"), (1, 1, "")]
    notes = Underlay(file=gml(tmp_path, ["", ""], lines)).check(settle(("task=quadratic", "workers=2")))
    assert any("2 lines beside a quicker" in note for note in notes) and any(
        "1 line from a node to itself" in note for note in notes
    )


def test_a_server_is_at_one_place(tmp_path):
    file = gml(tmp_path, ['label "x"', 'label "x"'], [(0, 1, "latency_ms 1")])
    with pytest.raises(ConfigError, match=r"cluster.server: 2 nodes of .* are called 'x'"):
        settle(("task=quadratic", "workers=2", "cluster=graph", f"cluster.file={file}", "cluster.server=x"))


def test_a_worker_is_one_node_in_both_files(tmp_path):
    """In the graph of messages by its name, in the network by its label: if that is two workers, nobody meant it."""
    towns = ["Rome", "Oslo", "Bern"]
    file = gml(tmp_path, [f'label "{town}"' for town in towns], [(0, 1, "latency_ms 1"), (1, 2, "latency_ms 9")])
    words = ("task=quadratic", "workers=3", "cluster=graph", f"cluster.file={file}", "algo=dpsgd", "topology=file")
    for name, content in (("g", "Rome Oslo\nOslo Bern\n"), ("numbers", "0 1\n1 2\n"), ("turned", "Oslo Rome\nRome Bern\n")):
        (tmp_path / f"{name}.txt").write_text(content)
    settle((*words, f"topology.file={tmp_path}/g.txt"))
    settle((*words, f"topology.file={tmp_path}/numbers.txt"))
    with pytest.raises(ConfigError, match=r"cluster.file: worker 0 is at Rome, but is Oslo in topology.file"):
        settle((*words, f"topology.file={tmp_path}/turned.txt"))


def test_of_random_steps_the_price_of_a_barrier_is_a_lower_bound_too(tmp_path):
    file = gml(tmp_path, [""] * 4, [(i, (i + 1) % 4, "latency_ms 1") for i in range(4)])
    words = ["task=quadratic", "workers=4", "cluster=graph", f"cluster.file={file}", "cluster.step=exponential"]
    parts = compose.compose_config([*words, "algo=pasgd", "tau=1"]).parts
    found, _ = price(parts)
    steps = 200
    assert rehearse(parts, steps)[-1] / steps > 1.2 * found.barrier  # all wait for the slowest of each


def test_a_cycle_is_told_in_the_direction_of_its_messages(tmp_path, cli):
    file = gml(tmp_path, [""] * 3, [(i, (i + 1) % 3, f"latency_ms {10 * i + 10}") for i in range(3)])
    (tmp_path / "g.txt").write_text("0 1\n1 2\n2 0\n")
    words = ("algo=dpsgd", "topology=file", "topology.file=g.txt", "topology.directed=true", "task=quadratic", "workers=3")
    said = cli("analyze", *words, "cluster=graph", f"cluster.file={file}", "cluster.step_s=0").out
    assert "messages 0 -> 1 -> 2 -> 0" in " ".join(said.split())
    said = cli("analyze", *words, "cluster=graph", f"cluster.file={file}", "cluster.step=exponential").out
    assert np.count_nonzero([word == "least" for word in said.split()]) == 2
