"""cluster=graph: routes, latencies and shared lines of a network from a file, against loops over all paths."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from playing import settle

from coopsgd.errors import ConfigError
from coopsgd.predict.clock.underlay import Underlay

BYTES = 1000


def gml(folder, nodes, lines, directed=False):
    """nodes: the attributes of each; lines: (from, to, attributes)."""
    path = folder / "n.gml"
    text = "".join(f"  node [ id {i} {more} ]\n" for i, more in enumerate(nodes))
    text += "".join(f"  edge [ source {a} target {b} {more} ]\n" for a, b, more in lines)
    path.write_text(f"graph [\n  directed {int(directed)}\n{text}]\n")
    return str(path)


# two rooms, each with a router, one slow line between; hosts 0, 1 | 2, 3; the routers are nodes 4 and 5
DUMBBELL = (
    ["", "", "", "", "router 1", "router 1"],
    [
        (0, 4, "latency_ms 1 capacity 8000000"),
        (1, 4, "latency_ms 2 capacity 8000000"),
        (4, 5, 'latency_s 0.01 capacity "800 kbit/s"'),
        (5, 2, "latency_ms 1"),
        (5, 3, "latency_ms 3"),
    ],
)


def every_path(lines, start, end):
    """All ways from one node to another that pass none twice, as lists of (from, to)."""

    def on(path):
        here = path[-1]
        if here == end:
            yield list(itertools.pairwise(path))
            return
        for a, b in lines:
            if a == here and b not in path:
                yield from on([*path, b])

    yield from on([start])


def by_hand(lines, place, sends, access):
    """Of messages from host j to host i, `sends` their pairs (i, j), all at once: latencies and seconds a byte of each.

    lines: {(from, to): (seconds, bytes a second)}; place: of each host.
    """
    routes, load = {}, {}
    for i, j in sends:
        paths = every_path(lines, place[j], place[i])
        best = min(paths, key=lambda path: (sum(lines[one][0] for one in path), len(path)))
        routes[i, j] = [("up", j), *best, ("down", i)]
        for one in routes[i, j]:
            load[one] = load.get(one, 0) + 1
    a = {pair: sum(lines[one][0] for one in route[1:-1]) for pair, route in routes.items()}
    rate = {**{one: speed for one, (_, speed) in lines.items()}}
    b = {pair: max(load[one] / rate.get(one, access) for one in route) for pair, route in routes.items()}
    return a, b


def test_messages_that_cross_one_line_share_it(tmp_path):
    cluster = Underlay(file=gml(tmp_path, *DUMBBELL), access=None)
    network = cluster.network(4, 4)
    assert network.a[2, 0] == pytest.approx(0.012) and network.a[3, 1] == pytest.approx(0.015) == network.a[1, 3]
    who = np.zeros((4, 4), dtype=bool)
    who[2, 0] = True
    assert network.at_once(who)[2, 0] == pytest.approx(1e-5)  # 800 kbit/s alone
    who[3, 1] = True
    assert network.at_once(who)[2, 0] == network.at_once(who)[3, 1] == pytest.approx(2e-5)  # half of it
    who[3, 1], who[1, 3] = False, True
    assert network.at_once(who)[2, 0] == pytest.approx(1e-5)  # the other way has its own
    who[1, 0] = True  # crosses another line
    assert network.at_once(who)[1, 0] == pytest.approx(2e-6) and network.at_once(who)[2, 0] == pytest.approx(1e-5)
    # in a ring all-reduce 0 -> 1 -> 2 -> 3 -> 0 the slow line is crossed once each way: 6 rounds of a quarter
    assert network.all_reduce(np.arange(4), BYTES) == pytest.approx(6 * max(0.013, 0.014) + 6 * BYTES / 4 * 1e-5, rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_routes_and_shares_are_those_of_loops_over_all_paths(tmp_path, seed):
    draw = np.random.default_rng(seed)
    n, directed = 6, seed % 2 == 1
    pairs = [(i, (i + 1) % n) for i in range(n)] + [(0, 3), (4, 1)]
    lines, written = {}, []
    for i, j in pairs:
        latency, rate = round(draw.uniform(0.001, 0.1), 6), round(draw.uniform(1e4, 1e6), 1)
        written.append((i, j, f"latency_s {latency} capacity {8 * rate}"))
        lines[i, j] = latency, rate
        if not directed:
            lines[j, i] = latency, rate
    cluster = Underlay(file=gml(tmp_path, [""] * n, written, directed), access=4e6)
    network = cluster.network(n, n)
    sends = [(i, j) for i in range(n) for j in range(n) if i != j and draw.random() < 0.5]
    a, b = by_hand(lines, range(n), sends, 5e5)
    who = np.zeros((n, n), dtype=bool)
    for pair in sends:
        who[pair] = True
    found = network.at_once(who)
    for pair in sends:
        assert network.a[pair] == pytest.approx(a[pair], rel=1e-12) and found[pair] == pytest.approx(b[pair], rel=1e-12)


def test_latency_is_of_the_length_where_nobody_says_it(tmp_path):
    equator = ["latitude 0 longitude 0", "Latitude 0.0 Longitude 90.0", "lat 90 lon 17"]
    lines = [(0, 1, ""), (1, 2, "distance 1000"), (0, 2, "latency_ms 400 distance 1")]
    network = Underlay(file=gml(tmp_path, equator, lines), base_s=0.001, per_km_s=1e-5).network(3, 3)
    quarter = math.pi / 2 * 6371.0088
    assert network.a[0, 1] == pytest.approx(0.001 + 1e-5 * quarter) and network.a[1, 2] == pytest.approx(0.011)
    assert network.a[0, 2] == pytest.approx(0.012 + 1e-5 * quarter)  # by way of 1


def test_servers_are_at_one_node(tmp_path):
    names = [f'label "{name}"' for name in ("a", "b", "c")]
    file = gml(tmp_path, names, [(0, 1, "latency_ms 10"), (1, 2, "latency_ms 20")])
    middle, named = Underlay(file=file).network(3, 4), Underlay(file=file, server="c").network(3, 5)
    assert middle.a[3, :3].tolist() == pytest.approx([0.01, 0, 0.02])
    assert named.a[:3, 4].tolist() == pytest.approx([0.03, 0.02, 0]) and named.a[3, 4] == 0


def test_workers_are_named(tmp_path):
    names = [f'label "{name}"' for name in ("Oslo", "Bern")]
    file = gml(tmp_path, names, [(0, 1, "latency_ms 10")])
    assert Underlay(file=file).check(settle(("task=quadratic", "workers=2"))) == (
        "cluster.file: workers 0, 1, ... are at Oslo, Bern",
    )


FINE = ["", ""], [(0, 1, "latency_ms 1")]
BAD = {
    "nodes": ((["", "", ""], [(0, 1, "latency_ms 1"), (1, 2, "latency_ms 1")]), (), "has 3 nodes but workers=2; set workers=3"),
    "routers": ((["", "router 1"], [(0, 1, "latency_ms 1")]), (), "has 1 nodes that are no routers, 2 in all, but workers=2"),
    "nothing said": ((["", ""], [(0, 1, "")]), (), "the line 0 - 1 has no latency_s, latency_ms or distance"),
    "no unit": ((["", ""], [(0, 1, "delay 3")]), (), "has a delay; say it, one way, as latency_s or latency_ms"),
    "negative": ((["", ""], [(0, 1, "latency_ms -3")]), (), "has the latency_ms -3; it must be a number, not negative"),
    "length": ((["", ""], [(0, 1, 'distance "far"')]), (), "has the length 'far'; it must be kilometres"),
    "speed": ((["", ""], [(0, 1, 'latency_ms 1 capacity "much"')]), (), "its capacity: must be a positive number of bit/s"),
    "place": ((["lat 91 lon 0", "lat 0 lon 0"], [(0, 1, "")]), (), "the node 0 is at lat 91, lon 0; they must be degrees"),
    "apart": ((["", ""], []), (), "has no way from 0 to 1; add lines"),
    "one way": ((["", ""], [(0, 1, "latency_ms 1")], True), (), "has no way from 1 to 0; add lines"),
    "server": (FINE, ("cluster.server=Rome",), "cluster.server: 'Rome' is no node of .*; its nodes are 0, 1"),
    "ports": (FINE, ("cluster.ports=nic",), "cluster.ports: cluster=graph shares lines instead"),
    "all_reduce": (FINE, ("cluster.all_reduce=two_level",), "cluster.all_reduce: must be one of ring, tree"),
    "base": (FINE, ("cluster.base_s=-1",), "cluster.base_s: must be seconds, not negative"),
    "capacity": (FINE, ("cluster.capacity=0",), "cluster.capacity: must be a positive number of bit/s"),
    "access": (FINE, ("cluster.access=fast",), "cluster.access: must be a positive number of bit/s"),
    "speeds": (FINE, ("cluster.speeds=[1]",), "cluster.speeds: names 1 workers, but workers=2"),
    "missing": (FINE, ("cluster.file=''",), "cluster.file: is missing"),
    "absent": (FINE, ("cluster.file=none.gml",), "cannot read .*none.gml"),
    "ending": (FINE, (f"cluster.file={__file__}",), "ends in .py; give GML"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_network_for_the_run_is_refused_in_a_line(tmp_path, kind):
    content, words, why = BAD[kind]
    file = gml(tmp_path, *content)
    with pytest.raises(ConfigError, match=why) as refused:
        settle(("task=quadratic", "workers=2", "cluster=graph", f"cluster.file={file}", *words))
    assert "\n" not in str(refused.value)
