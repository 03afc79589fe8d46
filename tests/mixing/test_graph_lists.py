"""Edge lists and adjacency lists as people write them: each is the graph that is meant, or one line says why not."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
import scipy.sparse

from coopsgd.commands import compose
from coopsgd.errors import ConfigError
from coopsgd.mixing import graphfiles
from coopsgd.mixing.graphs import File

SQUARE = [(0, 1), (1, 2), (2, 3), (3, 0)]
PAIRS = {frozenset(edge) for edge in SQUARE}


def taken(path, m=4, **keys):
    """The undirected edges that the file is taken for, and what is said of it."""
    graph = File(str(path), **keys)
    return {frozenset(edge) for edge in np.argwhere(graph.adjacency(m)).tolist()}, graph.notes(m)


def lines(pattern, head="", edges=SQUARE):
    return head + "".join(pattern.format(*edge, i) + "\n" for i, edge in enumerate(edges))


SAME = {
    "numbers as numpy.savetxt writes them": ("g.txt", lines("{0:.18e} {1:.18e}")),
    "some as floats": ("g.csv", "0.0,1\n1,2.0\n2,3\n3,0\n"),
    "zeros in front": ("g.txt", lines("{0:02d} {1}")),
    "quoted": ("g.csv", lines('"{0}","{1}"', '"source","target"\n')),
    "a heading of other words": ("g.csv", lines("{0},{1}", "node_a,node_b\n")),
    "a heading with a weight": ("g.csv", lines("{0};{1};1", "here;there;Weight\n")),
    "an index in front, as pandas writes it": ("g.csv", lines("{2},{0},{1}", ",source,target\n")),
    "columns in another order": ("g.csv", lines("{2}\t{1}\t7\t{0}", "id\tTarget\tcost\tSource\n")),
    "counted from 1": ("g.txt", lines("{0} {1}", "4\n", [(a + 1, b + 1) for a, b in SQUARE])),
    "numbers of nodes and edges in front": ("g.txt", lines("{0} {1}", "4 4\n")),
    "the same, counted from 1": ("g.txt", lines("{0} {1}", "4 4\n", [(a + 1, b + 1) for a, b in SQUARE])),
    "neighbours behind a colon": ("g.adj", "0: 1 3\n1: 0 2\n2: 1 3\n3: 2 0\n"),
    "a comma at the end of each line": ("g.csv", lines("{0}, {1},")),
    "several blanks": ("g.txt", lines("  {0}   {1} ")),
}


@pytest.mark.parametrize("kind", SAME)
def test_it_is_the_graph_that_is_meant(tmp_path, kind):
    name, content = SAME[kind]
    (tmp_path / name).write_text(content)
    found, notes = taken(tmp_path / name)
    assert found == PAIRS, notes


def test_names_may_have_blanks_commas_and_signs(tmp_path):
    names = ["New York", "Portland, OR", "node#3", "100%"]
    (tmp_path / "b.txt").write_text("".join(f'"{names[a]}" "{names[b]}"\n' for a, b in SQUARE))
    (tmp_path / "c.csv").write_text("".join(f'"{names[a]}","{names[b]}"\n' for a, b in SQUARE))
    (tmp_path / "t.tsv").write_text("".join(f"{names[a]}\t{names[b]}\n" for a, b in SQUARE))
    for name in ("b.txt", "c.csv", "t.tsv"):
        found, notes = taken(tmp_path / name)
        assert found == PAIRS and any(", ".join(names) in note for note in notes), name


def test_one_file_has_one_separator(tmp_path):
    """The last node of an adjacency list has no neighbour behind it, and so no comma, but its name may have a blank."""
    towns = networkx.relabel_nodes(networkx.Graph(SQUARE), {i: f"node {i}" for i in range(4)})
    networkx.write_adjlist(towns, tmp_path / "a.adjlist", delimiter=",")
    found = graphfiles.read("topology.file", str(tmp_path / "a.adjlist"))
    assert {frozenset(int(found.names[end][-1]) for end in edge) for edge in found.edges.tolist()} == PAIRS


def test_edges_named_both_ways_beside_others_that_are_not_are_noted(tmp_path):
    graph = networkx.DiGraph([*SQUARE, (1, 0)])
    for write, name in ((networkx.write_edgelist, "g.edges"), (networkx.write_adjlist, "g.adjlist")):
        write(graph, tmp_path / name)
        path = str(tmp_path / name)
        assert any("3 are named one way alone" in note and "topology.directed=true" in note for note in File(path).notes(4))
        for directed in (True, False):
            assert not any("one way alone" in note for note in File(path, directed=directed).notes(4))
    for each in (SQUARE, [*SQUARE, *[edge[::-1] for edge in SQUARE]]):
        (tmp_path / "g.txt").write_text(lines("{0} {1}", edges=each))
        assert File(str(tmp_path / "g.txt")).notes(4) == ()


def test_weights_of_networkx_are_noted(tmp_path):
    graph = networkx.Graph(SQUARE)
    networkx.set_edge_attributes(graph, 0.5, "weight")
    networkx.write_edgelist(graph, tmp_path / "g.edges")
    assert any("weights" in note for note in taken(tmp_path / "g.edges")[1])
    (tmp_path / "g.csv").write_text(lines("{0},{1},1.0"))
    assert taken(tmp_path / "g.csv") == (PAIRS, ())  # of one, as good as none


def test_sparse_matrices_of_scipy(tmp_path):
    A = networkx.to_scipy_sparse_array(networkx.Graph(SQUARE), nodelist=range(4))
    scipy.sparse.save_npz(tmp_path / "a.npz", A)
    np.savez(tmp_path / "b.npz", labels=np.arange(4), adjacency=A.toarray())
    assert taken(tmp_path / "a.npz") == taken(tmp_path / "b.npz") == (PAIRS, ())


BAD = {
    "adjacency in several lines": ("g.adjlist", "0 1\n1 {}\n1 0\n", "line 2.*multiline.*write_adjlist"),
    "an arrow": ("g.txt", lines("{0} -> {1}"), "line 1: '->' is no node"),
    "brackets": ("g.txt", lines("({0}, {1})"), r"line 1: '\(0'.*bracket"),
    "a heading that says nothing": ("g.csv", lines("{2},{0},{1}", "id,a,b\n"), "line 1.*source and target"),
    "an index without a name": ("g.csv", lines("{2},{0},{1}", ",a,b\n"), "line 1.*source and target"),
    "few columns": ("g.csv", ",source,target\n0,1,2\n1,2\n", "line 3 has 2 words.*3 columns"),
    "an edge or the numbers of nodes and edges": (
        "g.txt",
        "5 4\n1 2\n2 3\n3 4\n1 5\n",
        "line 1, '5 4', is either an edge or .*source target",
    ),
    "a word is missing": ("g.csv", "0,1\n,2\n", "line 2"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_could_be_taken_for_another_graph_is_refused(tmp_path, kind):
    name, content, why = BAD[kind]
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=why) as refused:
        File(str(tmp_path / name)).adjacency(4)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("algo", ["matching", "pairwise", "matcha", "dpsgd"])
def test_that_pairs_exchange_over_edges_that_go_one_way_is_noted(tmp_path, algo):
    (tmp_path / "g.txt").write_text(lines("{0} {1}"))
    words = ["task=quadratic", "workers=4", f"algo={algo}", "topology=file", f"topology.file={tmp_path}/g.txt"]
    for directed in (True, False):
        notes = compose.compose_config([*words, f"topology.directed={directed}"]).notes
        assert any("both ends of an edge exchange" in note for note in notes) == (directed and algo != "dpsgd"), notes
