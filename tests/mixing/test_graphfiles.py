"""topology=file: the graph that the file means, whatever its format, or one line that says why not."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
from playing import settle

from coopsgd.errors import ConfigError
from coopsgd.mixing.graphfiles import read
from coopsgd.mixing.graphs import File
from coopsgd.setup.parts import Parts

PATH = [(0, 1), (1, 2), (2, 3)]  # a path of 4, with a chord
EDGES = [*PATH, (0, 2)]


def adjacency(edges, m, directed=False):
    """Row takes from column: of an edge from a to b, b takes from a."""
    A = np.zeros((m, m), dtype=bool)
    for a, b in edges:
        A[b, a] = True
        A[a, b] |= not directed
    return A


def gml(edges, nodes, head=""):
    body = "".join(f"  node [ id {i} {more} ]\n" for i, more in nodes)
    return f"graph [\n{head}\n{body}" + "".join(f"  edge [ source {a} target {b} ]\n" for a, b in edges) + "]\n"


def written(folder, name, edges, m, directed=False):
    """The graph in the format that the name ends in."""
    graph = (networkx.DiGraph if directed else networkx.Graph)(edges)
    path = folder / name
    if path.suffix == ".gml":
        path.write_text(gml(edges, [(i, f'label "town {i}"') for i in range(m)], f"directed {int(directed)}"))
    elif path.suffix == ".graphml":
        networkx.write_graphml(graph, path)
    elif path.suffix == ".adjlist":
        networkx.write_adjlist(graph, path)
    elif path.suffix == ".csv":
        path.write_text("source,target\n" + "".join(f"{a},{b}\n" for a, b in edges))
    elif path.suffix == ".npy":
        np.save(path, adjacency(edges, m, directed).astype(int))
    else:
        networkx.write_edgelist(graph, path)  # a {} behind each
    return str(path)


FORMATS = ("g.gml", "g.graphml", "g.adjlist", "g.csv", "g.txt", "g.edges", "g.npy")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_the_same_graph(tmp_path, name):
    path = written(tmp_path, name, EDGES, 4)
    assert np.array_equal(File(path).adjacency(4), adjacency(EDGES, 4))


@pytest.mark.parametrize("name", FORMATS)
def test_an_edge_of_a_directed_graph_goes_one_way(tmp_path, name):
    cycle = [(0, 1), (1, 2), (2, 3), (3, 0)]
    path = written(tmp_path, name, cycle, 4, directed=True)
    says_so = name in ("g.gml", "g.graphml", "g.npy")
    assert np.array_equal(File(path).adjacency(4), adjacency(cycle, 4, directed=says_so))
    assert np.array_equal(File(path, directed=True).adjacency(4), adjacency(cycle, 4, directed=True))
    assert np.array_equal(File(path, directed=False).adjacency(4), adjacency(cycle, 4))


def test_numbers_order_the_nodes_and_names_stand_as_in_the_file(tmp_path):
    (tmp_path / "numbers.txt").write_text("10 2\n2 30\n")
    (tmp_path / "names.txt").write_text("Rome Oslo\nOslo Bern\n")
    (tmp_path / "n.gml").write_text(gml([(7, 3), (3, 5)], [(7, 'label "a"'), (3, 'label "b"'), (5, 'label "c"')]))
    numbers, names, some = (File(str(tmp_path / name)) for name in ("numbers.txt", "names.txt", "n.gml"))
    assert np.array_equal(numbers.adjacency(3), adjacency([(1, 0), (0, 2)], 3))
    assert np.array_equal(names.adjacency(3), adjacency([(0, 1), (1, 2)], 3))
    assert np.array_equal(some.adjacency(3), adjacency([(2, 0), (0, 1)], 3))
    assert "the nodes 2, 10, 30" in numbers.notes(3)[0] and "the nodes Rome, Oslo, Bern" in names.notes(3)[0]
    assert "the nodes b, c, a" in some.notes(3)[0]


def test_what_is_dropped_is_noted(tmp_path):
    (tmp_path / "g.txt").write_text("% from somewhere\nfrom to\n0 1 0.5\n1 1\n0 1 0.5\n1 2 2\n")
    (tmp_path / "g.gml").write_text(gml([(0, 1), (0, 1), (1, 2), (2, 2)], [(i, "") for i in range(3)]))
    for name, some in (
        ("g.txt", ("self-loop", "named before", "weights", "heading")),
        ("g.gml", ("self-loop", "named before")),
    ):
        graph = File(str(tmp_path / name))
        notes = graph.notes(3)
        assert len(notes) == len(some) and all(any(word in note for note in notes) for word in some), notes
        assert np.array_equal(graph.adjacency(3), adjacency([(0, 1), (1, 2)], 3))


def test_a_first_line_may_say_how_many_nodes_there_are(tmp_path):
    for name, content, edges, m in (
        ("g.edges", "3\n0 1\n1 2\n", [(0, 1), (1, 2)], 3),
        ("more.edges", "4\n0 1\n1 2\n", [(0, 1), (1, 2)], 4),
        ("g.adj", "3\n0 1\n1 0 2\n2 1\n", [(0, 1), (1, 2)], 3),
        ("short.adj", "3\n0 1\n1 0 2\n", [(0, 1), (1, 2)], 3),
        ("other.adj", "5\n0 1\n1 0 2\n", [(0, 1), (1, 2)], 4),
    ):
        (tmp_path / name).write_text(content)
        found = read("topology.file", str(tmp_path / name))
        assert len(found.names) == m
        assert {tuple(sorted(edge)) for edge in found.edges.tolist()} == set(edges)
    (tmp_path / "less.edges").write_text("2\n0 1\n1 2\n")
    with pytest.raises(ConfigError, match=r"says in its first line that it has 2 nodes, from 0, and names '2'$"):
        read("topology.file", str(tmp_path / "less.edges"))


def test_a_directed_graph_whose_weights_move_the_mean_is_noted(tmp_path):
    cycle = [(0, 1), (1, 2), (2, 3), (3, 0)]
    for edges, odd in ((cycle, False), ([*cycle, (0, 2)], True)):
        path = written(tmp_path, "g.gml", edges, 4, directed=True)
        graph = File(path)
        assert any("weights move their mean" in note for note in graph.notes(4)) == odd
        W = Parts(
            settle(("task=quadratic", "algo=dpsgd", "workers=4", "topology=file", f"topology.file={path}", f"seed={odd:d}"))
        )
        assert np.allclose(W.strategy.schedule.at(4, 0).dense().sum(0), 1) != odd


BAD = {
    "nodes": ("g.txt", "0 1\n1 2\n", "has 3 nodes, but workers=4.*set workers=3"),
    "gap": ("g.txt", "0 1\n1 3\n", r"has 3 nodes, but workers=4 \(no edge names 2\)"),
    "a folder": ("folder", None, "is a folder, not a file"),
    "ending": ("g.dot", "graph {}", "ends in .dot, which says no format; give topology.format="),
    "one word": ("g.txt", "0 1\n2\n", "line 2 has 1 word; an edge has two"),
    "a matrix": ("g.csv", "0,1,1,0\n" * 4, "line 1 has 4 words"),
    "empty": ("g.txt", "# nothing\n", "holds no edge"),
    "no gml": ("g.gml", "graph [ node [ id", "is no GML that networkx reads"),
    "no id": ("g.gml", 'graph [ node [ label "a" ] ]', "is no GML that networkx reads"),
    "no node": ("g.gml", "graph [ ]", "has no node"),
    "no graphml": ("g.graphml", "<graph", "is no GraphML that networkx reads"),
    "bytes": ("g.txt", b"\xff\xfe0 1", "is not UTF-8"),
    "apart": ("g.txt", "0 1\n2 3\n", "no consensus.*2 parts that no edge joins: workers 0, 1 and 2, 3"),
    "not square": ("g.npy", np.ones((2, 3)), r"shape \(2, 3\), not a square matrix"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_no_graph_for_the_run_is_refused_in_a_line(tmp_path, kind):
    name, content, why = BAD[kind]
    path = tmp_path / name
    if content is None:
        path.mkdir()
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError, match=why) as refused:
        settle(("task=quadratic", "algo=dpsgd", "workers=4", "topology=file", f"topology.file={path}"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("topology.file=''", "topology.file: is missing"),
        ("topology.file=nowhere.gml", "cannot read .*nowhere.gml"),
        ("topology.format=dot", "topology.format: must be auto or one of"),
        ("topology.directed=7", "topology.directed: must be auto, true or false"),
        ("topology.files=g.gml", "did you mean file"),
    ],
)
def test_keys_of_the_topology_refuse_what_they_cannot_be(tmp_path, word, why):
    path = written(tmp_path, "g.txt", EDGES, 4)
    with pytest.raises(ConfigError, match=why):
        settle(("task=quadratic", "algo=dpsgd", "workers=4", "topology=file", f"topology.file={path}", word))


def test_two_parts_are_allowed_where_that_is_asked_for(tmp_path):
    path = written(tmp_path, "g.txt", [(0, 1), (2, 3)], 4)
    words = (
        "task=quadratic",
        "algo=dpsgd",
        "workers=4",
        "topology=file",
        f"topology.file={path}",
        "algo.allow_disconnected=true",
    )
    assert Parts(settle(words)).topology.links(4).parts() == [[0, 1], [2, 3]]
