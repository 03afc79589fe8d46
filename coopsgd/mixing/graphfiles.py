"""Graphs in a user's files: edge lists, adjacency lists, GML and GraphML (by networkx), adjacency matrices.

Nodes are numbered from 0: by their names where all are whole numbers, else in the order of the file. An edge from a to b is a
message that a sends and b takes; of a matrix A, A[i, j] says that i takes from j, as W does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from coopsgd.errors import ConfigError
from coopsgd.host import arrays, reading

FORMATS = {
    "gml": (".gml",),
    "graphml": (".graphml", ".xml"),
    "edges": (".edges", ".edgelist", ".el", ".txt", ".csv", ".tsv"),
    "adjacency": (".adjlist", ".adj"),
    "matrix": (".npy", ".npz", ".mat"),
}
ENDS = (("source", "target"), ("from", "to"), ("src", "dst"), ("src", "dest"), ("node1", "node2"), ("u", "v"))  # in a heading
WEIGHTS = ("weight", "w", "value")
DATA = re.compile(r"\{.*\}[ \t]*$", re.M)  # of an edge, as networkx writes it behind
SHOWN = 12  # nodes that a note names
LARGEST = 1 << 28  # bytes of a list that are read


class Read(NamedTuple):
    """names of the nodes; edges (E, 2), from and to, as in the file; directed: does it say which way they go?"""

    names: tuple[str, ...]
    edges: np.ndarray
    directed: bool
    notes: tuple[str, ...]


def format_of(where: str, path: str, given: str) -> str:
    """Of FORMATS, the one that is given, or that the file's name ends in. ConfigError when that says nothing."""
    if given != "auto":
        return given
    suffix = Path(path).suffix.lower()
    found = next((name for name, ends in FORMATS.items() if suffix in ends), None)
    if found is None:
        with reading.opened(where, path, "give another file"):  # a folder, or nothing, has no format either
            group = where.rpartition(".")[0]
        raise ConfigError(
            f"{where}: {path!r} ends in {suffix or 'nothing'}, which says no format; give {group}.format= one of "
            f"{', '.join(FORMATS)}"
        )
    return found


def read(where: str, path: str, given: str = "auto") -> Read:
    """The graph in a file. ConfigError, in one line, when there is none."""
    kind = format_of(where, path, given)
    if kind in ("gml", "graphml"):
        graph = of_networkx(where, path, kind)
        labels = [str(data.get("label", node)) for node, data in graph.nodes(data=True)]
        weighted = any("weight" in data for _, _, data in graph.edges(data=True))
        found = _numbered(list(graph.nodes), graph.edges(), graph.is_directed(), labels)
    elif kind == "matrix":
        A = arrays.read(where, path, called="adjacency")
        if A.ndim != 2 or A.shape[0] != A.shape[1] or not len(A) or A.dtype.kind not in "biuf":
            raise ConfigError(f"{where}: {path!r} holds {A.dtype} of shape {A.shape}, not a square matrix of 0 and 1")
        weighted = not np.isin(A, (0, 1)).all()
        rows, columns = np.nonzero(A)
        found = Read(tuple(map(str, range(len(A)))), np.stack([columns, rows], axis=1), True, ())
    else:
        found, weighted = _of_lines(where, path, kind)
    notes = [f"{where}: {note}" for note in found.notes]
    loops = int((found.edges[:, 0] == found.edges[:, 1]).sum())
    if loops:
        notes.append(f"{where}: {loops} self-loop{'s' * (loops > 1)} dropped; what a worker keeps is for the weights to say")
    if kind != "matrix" and (again := len(found.edges) - len(np.unique(found.edges, axis=0))):
        notes.append(f"{where}: {again} edge{'s' * (again > 1)} named before; each counts once")
    if weighted:
        notes.append(
            f"{where}: weights of edges are not read; algo.weights= makes them, or give W itself, algo=cooperative algo.W="
        )
    if found.names != tuple(map(str, range(len(found.names)))):
        some = ", ".join(found.names[:SHOWN]) + ", ..." * (len(found.names) > SHOWN)
        notes.append(f"{where}: workers 0, 1, ... are the nodes {some}")
    return found._replace(notes=tuple(notes))


def of_networkx(where: str, path: str, kind: str) -> Any:
    """A networkx multigraph of GML or GraphML, its nodes in the order of their numbers."""
    import networkx

    content = reading.text(where, path, "give another file")
    try:
        if kind == "gml":
            if not re.search(r"\bmultigraph\s", content):  # else networkx refuses an edge that is named twice
                content = re.sub(r"\bgraph\s*\[", "graph [\nmultigraph 1", content, count=1)
            content = re.sub(r"\bmultigraph\s+0\b", "multigraph 1", content)
            found = networkx.parse_gml(content.splitlines(), label="id")
        else:
            found = networkx.parse_graphml(content, force_multigraph=True)
    except Exception as error:  # networkx's own errors, and whatever else it runs into in such a file
        what = {"gml": "GML", "graphml": "GraphML"}[kind]
        why = " ".join(str(error).split())[:100] or type(error).__name__
        raise ConfigError(f"{where}: {path!r} is no {what} that networkx reads ({why}); write it anew") from None
    if not found.number_of_nodes():
        raise ConfigError(f"{where}: {path!r} has no node; give another file")
    ordered = found.__class__()
    ordered.add_nodes_from((node, found.nodes[node]) for node in _order(list(found.nodes)))
    ordered.add_edges_from(found.edges(data=True))
    return ordered


def _order(nodes: Sequence[Any]) -> list[Any]:
    whole = all(re.fullmatch(r"-?\d+", str(node)) for node in nodes)
    return sorted(nodes, key=lambda node: int(str(node))) if whole else list(nodes)


def _numbered(
    nodes: Iterable[Any], edges: Iterable[Any], directed: bool, labels: Sequence[str] | None = None, notes: Sequence[str] = ()
) -> Read:
    nodes = list(nodes)
    at = {node: i for i, node in enumerate(nodes)}
    pairs = np.array([(at[a], at[b]) for a, b in edges], dtype=np.int64).reshape(-1, 2)
    return Read(tuple(labels or map(str, nodes)), pairs, directed, tuple(notes))


def _of_lines(where: str, path: str, kind: str) -> tuple[Read, bool]:
    """An edge, or a node and its neighbours, a line; and are there weights? A first line may say how many nodes there are."""
    content = reading.text(where, path, "give another file", LARGEST)
    data = DATA.search(content)
    if kind == "adjacency" and data:
        line = content.count("\n", 0, data.start()) + 1
        raise ConfigError(
            f"{where}: {path!r}, line {line} ends in braces, as networkx's multiline adjacency lists do; write it by "
            "write_adjlist"
        )
    lines = list(arrays.words_of(DATA.sub("", content)))
    weighted, notes, count = any("weight" in found for found in DATA.findall(content)), list[str](), ""
    columns = _heading(where, path, lines) if kind == "edges" else None
    if columns is not None:
        number, words = lines.pop(0)
        notes.append(f"line {number}, {' '.join(words).strip()!r}, is taken for a heading")
        weighted = weighted or any(word.lower() in WEIGHTS for word in words)
    elif lines and len(lines[0][1]) == 1 and re.fullmatch(r"[1-9]\d{0,5}", lines[0][1][0]):
        count = lines.pop(0)[1][0]
    elif kind == "edges" and _sized(where, path, lines):
        number, words = lines.pop(0)
        count = words[0]
        notes.append(f"line {number}, {' '.join(words)!r}, is taken for the numbers of nodes and edges")
    nodes: dict[str, None] = {}
    edges: list[tuple[str, str]] = []
    for number, words in lines:
        if kind == "edges":
            words, weight = _ends(f"{where}: {path!r}, line {number}", words, columns)
            weighted = weighted or weight != 1
        elif len(words[0]) > 1:
            words[0] = words[0].removesuffix(":")
        nodes.update(dict.fromkeys(words))
        edges += [(words[0], other) for other in words[1:]]
    if not nodes:
        raise ConfigError(f"{where}: {path!r} holds no edge; give another file")
    numbers = {node: _whole(node) for node in nodes}
    if None not in numbers.values():  # 1, 01 and 1.0 are one node
        nodes = {str(number): None for number in numbers.values()}
        edges = [(str(numbers[a]), str(numbers[b])) for a, b in edges]
    if count:
        first = int("0" not in nodes and count in nodes)
        numbered = dict.fromkeys(str(i) for i in range(first, first + int(count)))
        if kind == "adjacency" and nodes.keys() != numbered.keys():
            nodes[count] = None  # a node that has no neighbours
        else:
            notes = notes or [f"line 1, {count!r}, is taken for the number of nodes"]
            if more := [node for node in nodes if node not in numbered]:
                raise ConfigError(
                    f"{where}: {path!r} says in its first line that it has {count} nodes, from {first}, and names {more[0]!r}"
                )
            nodes.update(numbered)
    return _numbered(_order(list(nodes)), edges, False, notes=notes), weighted


def _sized(where: str, path: str, lines: Sequence[tuple[int, Sequence[str]]]) -> bool:
    """Does the first line say how many nodes and edges there are, as "n m"? ConfigError where it may as well be an edge."""
    pairs = [tuple(map(_whole, words[:2])) for _, words in lines]
    if len(pairs) < 2 or len(lines[0][1]) != 2 or any(len(pair) < 2 or None in pair for pair in pairs):
        return False
    (count, many), *edges = pairs
    nodes = {node for edge in edges for node in edge}
    if many != len(edges) or count not in (len(nodes), max(nodes) + 1 - (0 not in nodes)):  # type: ignore[type-var,operator]
        return False
    if {count, many} <= nodes and not {(count, many), (many, count)} & {*edges} and count != many:
        raise ConfigError(
            f"{where}: {path!r}, line 1, '{count} {many}', is either an edge or the numbers of nodes and edges; begin the "
            "file with the line `source target` where it is an edge, and leave it out where not"
        )
    return True


def _heading(where: str, path: str, lines: Sequence[tuple[int, Sequence[str]]]) -> tuple[int, int] | None:
    """Which words of each line are the ends of an edge, as the first line says; None where that is no heading."""
    number, words = lines[0] if lines else (0, ())
    names = [word.lower() for word in words]
    for one, other in ENDS:
        if one in names and other in names:
            return names.index(one), names.index(other)
    whole = [[_whole(word) is not None for word in line[:2]] for _, line in lines]
    if len(words) < 2 or any(whole[0]) or not all(map(all, whole[1:])) or len(lines) < 2:
        return None  # an edge between nodes that have names
    if all(words[:2]) and (len(words) == 2 or (len(words) == 3 and names[2] in WEIGHTS)):
        return 0, 1
    raise ConfigError(
        f"{where}: {path!r}, line {number}, {' '.join(words).strip()!r}, looks like a heading and does not say where an edge's "
        "ends are; call those columns source and target"
    )


def _ends(where: str, words: list[str], columns: tuple[int, int] | None) -> tuple[list[str], float]:
    """The two nodes of an edge, and its weight; where a heading names the columns, other words do not count."""
    if columns is None and (not 2 <= len(words) <= 3 or not all(words)):
        raise ConfigError(
            f"{where} has {len(words)} word{'s' * (len(words) > 1)}; an edge has two, from and to, and may have a weight; "
            "topology.format=adjacency is for lists of neighbours, matrix for 0 and 1"
        )
    if columns is not None and len(words) <= max(columns):
        raise ConfigError(f"{where} has {len(words)} words; its heading names {max(columns) + 1} columns or more")
    found, weight = [words[column] for column in columns or (0, 1)], 1.0
    if len(words) > 2 and columns in (None, (0, 1)):
        try:
            weight = float(words[2])
        except ValueError:
            if columns is None:
                raise ConfigError(
                    f"{where}: {words[2]!r} is no weight; an edge is two words, and a number may follow"
                ) from None
    for word in found:
        if not any(map(str.isalnum, word)) or any(word.count(a) != word.count(b) for a, b in ("()", "[]")):
            raise ConfigError(f"{where}: {word!r} is no node; write an edge as two words, without brackets or an arrow")
    return found, weight


def _whole(word: str) -> int | None:
    """The whole number that it is, as 7, 07 or 7.0e0."""
    if re.fullmatch(r"-?\d{1,15}", word):
        return int(word)
    if re.fullmatch(r"-?\d{1,15}\.\d*(e[+-]?\d{1,2})?", word, re.I) and float(word).is_integer():
        return int(float(word))
    return None
