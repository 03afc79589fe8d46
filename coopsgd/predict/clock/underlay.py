"""A network of places and lines between them, from GML or GraphML: messages are routed, and share the lines they cross.

A message between two hosts goes along the path of the smallest latency (of the fewest lines, where that is the same). It takes
the latencies of the path's lines, and of each line its share: the capacity over the messages that cross the line in the same
direction in the same communication. A host's own line, `access`, is one more on either end. After arXiv:2010.12229.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from coopsgd.errors import ConfigError
from coopsgd.host import reading
from coopsgd.mixing import graphfiles
from coopsgd.mixing.base import is_number
from coopsgd.predict.clock.network import Network, played
from coopsgd.predict.clock.steps import Steps, bits
from coopsgd.registry import option, register
from coopsgd.setup.values import HUGE

KEY = "cluster.file"
EARTH = 6371.0088  # km, its mean radius
MOST = 500  # nodes between which routes are found
ALL_REDUCES = ("ring", "tree", "halving_doubling")
# attributes of a line, whatever their case: what they say, in which unit
LATENCIES = {"latency_s": 1.0, "latency_ms": 1e-3}
LENGTHS = ("distance", "distance_km", "length_km")
CAPACITIES = ("capacity", "bandwidth", "linkspeedraw")
# attributes that look like one of these and are in no unit that is known: refused, where a guess would be as good as none
TIMES = re.compile(r"(^|_)(latency|delay|rtt|ping)(_|$)")
FAR = re.compile(r"(^|_)(length|distance|dist)(_|$)")
SPEEDS = re.compile(r"(^|_|link)(capacity|bandwidth|speed)|bps$")
ROUTERS = {"0": False, "1": True, "false": False, "true": True}
PLACES = (("latitude", "longitude"), ("lat", "lon"), ("lat", "long"), ("lat", "lng"))


@dataclass(frozen=True)
class Lines:
    """Places and the lines between them: names (n,); of each line from, to, seconds, bytes a second; forwards (n,) bool: is it
    no host? notes: on lines of the file that carry nothing."""

    names: tuple[str, ...]
    forwards: np.ndarray
    lines: tuple[tuple[int, int, float, float], ...]
    notes: tuple[str, ...] = ()

    @cached_property
    def hosts(self) -> list[int]:
        """The places where workers are."""
        return np.flatnonzero(~self.forwards).tolist()

    @cached_property
    def leaving(self) -> list[list[int]]:
        """By place, the numbers of the lines that leave it."""
        found: list[list[int]] = [[] for _ in self.names]
        for number, (a, _, _, _) in enumerate(self.lines):
            found[a].append(number)
        return found

    def routes(self, start: int) -> tuple[np.ndarray, list[int]]:
        """From one place to each: seconds (n,), inf where there is no way, and by which line one comes there, or -1."""
        far, by = np.full(len(self.names), math.inf), [-1] * len(self.names)
        queue, hops = [(0.0, 0, start, -1)], np.full(len(self.names), -1)
        while queue:
            time, many, place, line = heapq.heappop(queue)
            if hops[place] >= 0:
                continue
            far[place], hops[place], by[place] = time, many, line
            for number in self.leaving[place]:
                _, to, latency, _ = self.lines[number]
                if hops[to] < 0:
                    heapq.heappush(queue, (time + latency, many + 1, to, number))
        return far, by


@register("graph", "cluster")
@dataclass(frozen=True)
class Underlay(Steps):
    """A network from a file (GML or GraphML): a worker at each node, messages along the quickest way, lines shared.

    A line's latency is its `latency_s` or `latency_ms`, else base_s + per_km_s times its length: `distance` (km), or that
    between its ends, where nodes have `latitude` and `longitude`. Its `capacity` (bit/s, each way) is `capacity=` where it says
    none. A node with `router 1` only passes messages on. What a server does, it does at the node `server`.
    """

    ports: str = option("parallel", "messages share the lines they cross, and nothing else: parallel", words=("parallel",))
    file: str = option("", "GML or GraphML: nodes with workers, lines with latency or length, and capacity")
    base_s: float = option(0.004, "latency of a line, whatever its length", unit="s")
    per_km_s: float = option(8.5e-6, "and for each kilometre of it", unit="s/km")
    capacity: Any = option("1 Gbit/s", "of a line that says none", unit="bit/s", type="float or text")
    access: Any = option("10 Gbit/s", "of each host's own line, up and down; null: no limit", unit="bit/s", type="text or null")
    server: Any = option("auto", "its node, by name; auto: the one whose way to the farthest is shortest", type="text or auto")
    all_reduce: str = option("ring", "ring, tree, halving_doubling", words=ALL_REDUCES)

    FILES: ClassVar[tuple[str, ...]] = ("file",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ports != "parallel":
            raise ValueError(f"cluster.ports: cluster=graph shares lines instead, so it must be parallel, got {self.ports}")
        if not self.file:
            raise ValueError("cluster.file: is missing; name a network, as in cluster.file=network.gml")
        if self.all_reduce not in ALL_REDUCES:
            raise ValueError(f"cluster.all_reduce: must be one of {', '.join(ALL_REDUCES)}, got {self.all_reduce!r}")
        for name in ("base_s", "per_km_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"cluster.{name}: must be seconds, not negative, got {getattr(self, name)}")
        for name in ("capacity", "access"):
            if getattr(self, name) is not None or name == "capacity":
                _said(f"cluster.{name}", bits, getattr(self, name))

    @cached_property
    def _lines(self) -> Lines:
        """What the file says."""
        suffix = Path(self.file).suffix.lower()
        kind = next((one for one in ("gml", "graphml") if suffix in graphfiles.FORMATS[one]), None)
        if kind is None:
            with reading.opened(KEY, self.file, "give another file"):
                pass
            raise ConfigError(
                f"{KEY}: {self.file!r} ends in {suffix or 'nothing'}; give GML (.gml) or GraphML (.graphml, .xml)"
            )
        graph = graphfiles.of_networkx(KEY, self.file, kind)
        if graph.number_of_nodes() > MOST:
            raise ConfigError(f"{KEY}: {self.file!r} has {graph.number_of_nodes()} nodes, routes are found for at most {MOST}")
        at = {node: i for i, node in enumerate(graph.nodes)}
        nodes = [{str(key).lower(): value for key, value in data.items()} for _, data in graph.nodes(data=True)]
        names = tuple(str(data.get("label", node)) for node, data in zip(graph.nodes, nodes, strict=True))
        found: dict[tuple[int, int], tuple[float, float]] = {}
        loops = beside = 0
        for a, b, data in graph.edges(data=True):
            if a == b:
                loops += 1
                continue
            i, j = at[a], at[b]
            line = self._line(names[i], names[j], nodes[i], nodes[j], {str(key).lower(): value for key, value in data.items()})
            beside += (i, j) in found
            for ends in ((i, j),) if graph.is_directed() else ((i, j), (j, i)):
                found[ends] = min(found.get(ends, line), line, key=lambda one: (one[0], -one[1]))  # the quicker of two
        forwards = np.array([self._forwards(name, data) for name, data in zip(names, nodes, strict=True)])
        notes = [(loops, "from a node to itself"), (beside, "beside a quicker one between the same nodes")]
        told = tuple(f"{KEY}: {n} line{'s' * (n > 1)} {what}, of no use" for n, what in notes if n)
        return Lines(names, forwards, tuple((*ends, *line) for ends, line in found.items()), told)

    def _forwards(self, name: str, data: Mapping[str, Any]) -> bool:
        said = data.get("router", 0)
        found = ROUTERS.get(str(said).lower())
        if found is None:
            raise ConfigError(f"{KEY}: {self.file!r}, the node {name} has router {said!r}; it must be 0 or 1")
        return found

    def _line(
        self, a: str, b: str, one: Mapping[str, Any], other: Mapping[str, Any], data: Mapping[str, Any]
    ) -> tuple[float, float]:
        """Seconds and bytes a second of the line between two nodes."""
        where = f"{KEY}: {self.file!r}, the line {a} - {b}"
        speed = next((data[name] for name in CAPACITIES if name in data), None)
        if speed is None and (odd := next(filter(SPEEDS.search, data), None)):
            raise ConfigError(f"{where} has a {odd}; call it capacity, in bit/s, or in words as '10 Mbit/s'")
        rate = _said(f"{where}, its capacity", bits, self.capacity if speed is None else speed) / 8
        for name, unit in LATENCIES.items():
            if name in data:
                if not (is_number(data[name]) and 0 <= data[name] < HUGE):
                    raise ConfigError(f"{where} has the {name} {data[name]!r}; it must be a number, not negative")
                return unit * data[name], rate
        if odd := next(filter(TIMES.search, data), None):
            raise ConfigError(f"{where} has a {odd}; say it, one way, as latency_s or latency_ms")
        length = next((data[name] for name in LENGTHS if name in data), None)
        if length is None and (odd := next(filter(FAR.search, data), None)):
            raise ConfigError(f"{where} has a {odd}; say it as distance_km")
        if length is not None and not (is_number(length) and 0 <= length < HUGE):
            raise ConfigError(f"{where} has the length {length!r}; it must be kilometres")
        if length is None:
            ends = [_place(f"{KEY}: {self.file!r}, the node {name}", data) for name, data in ((a, one), (b, other))]
            if None in ends:
                raise ConfigError(
                    f"{where} has no latency_s, latency_ms or distance (km), and its ends no latitude and longitude; give one "
                    "of them"
                )
            length = _kilometres(*ends)  # type: ignore[arg-type]
        return self.base_s + self.per_km_s * length, rate

    @cached_property
    def _ways(self) -> tuple[np.ndarray, list[list[int]]]:
        """Of hosts' places: (n, n) seconds [from, to], and the lines by which one comes to each place, by where one starts."""
        found = [self._lines.routes(place) for place in range(len(self._lines.names))]
        return np.stack([far for far, _ in found]), [by for _, by in found]

    def _path(self, start: int, end: int) -> list[int]:
        """The lines from one place to another."""
        _, by = self._ways
        path: list[int] = []
        while end != start:
            path.append(by[start][end])
            end = self._lines.lines[path[-1]][0]
        return path

    def check(self, config: Any) -> tuple[str, ...]:
        super().check(config)
        found, m = self._lines, config.workers
        hosts = found.hosts
        if len(hosts) != m:
            routers = f" that are no routers, {len(found.names)} in all," if len(hosts) < len(found.names) else ""
            raise ValueError(f"{KEY}: {self.file!r} has {len(hosts)} nodes{routers} but workers={m}; set workers={len(hosts)}")
        far, _ = self._ways
        for i, j in np.argwhere(~np.isfinite(far[np.ix_(hosts, hosts)]))[:1]:
            raise ValueError(
                f"{KEY}: {self.file!r} has no way from {found.names[hosts[i]]} to {found.names[hosts[j]]}; add lines"
            )
        self._server()
        some = ", ".join(self.places[: graphfiles.SHOWN]) + ", ..." * (m > graphfiles.SHOWN)
        plain = self.places == tuple(map(str, range(m)))
        return (*found.notes, *(() if plain else (f"{KEY}: workers 0, 1, ... are at {some}",)))

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(self._lines.names[host] for host in self._lines.hosts)

    def _server(self) -> int:
        """The place of servers."""
        names, hosts = self._lines.names, self._lines.hosts
        if self.server != "auto":
            if str(self.server) not in names:
                some = ", ".join(names[: graphfiles.SHOWN]) + ", ..." * (len(names) > graphfiles.SHOWN)
                raise ValueError(f"cluster.server: {self.server!r} is no node of {self.file!r}; its nodes are {some}")
            if (many := names.count(str(self.server))) > 1:
                raise ValueError(f"cluster.server: {many} nodes of {self.file!r} are called {self.server!r}; give them names")
            return names.index(str(self.server))
        far, _ = self._ways
        return hosts[int(np.maximum(far[np.ix_(hosts, hosts)], far[np.ix_(hosts, hosts)].T).max(1).argmin())]

    def network(self, m: int, hosts: int) -> Network:
        place = np.array([*self._lines.hosts, *[self._server()] * (hosts - m)])
        a = self._ways[0][np.ix_(place, place)].T.copy()
        first, last = len(self._lines.lines), len(self._lines.lines) + hosts  # each host's line up, and down
        own = math.inf if self.access is None else bits(self.access) / 8
        rates = np.array([*(rate for _, _, _, rate in self._lines.lines), *[own] * (2 * hosts)])
        paths: dict[tuple[int, int], list[int]] = {}

        def path(to: int, start: int) -> list[int]:
            if (to, start) not in paths:
                paths[to, start] = [first + start, *self._path(int(place[start]), int(place[to])), last + to]
            return paths[to, start]

        def shared(who: np.ndarray) -> np.ndarray:
            pairs, b = [(int(i), int(j)) for i, j in np.argwhere(who) if i != j], np.zeros((hosts, hosts))
            load = np.zeros(len(rates))
            for pair in pairs:
                load[path(*pair)] += 1
            for pair in pairs:
                b[pair] = (load[path(*pair)] / rates[path(*pair)]).max()
            return b

        def at_once(links: tuple[Any, Any]) -> np.ndarray:
            who = np.zeros((hosts, hosts), dtype=bool)
            who[links] = True
            return shared(who)[links]

        def all_reduce(group: np.ndarray, nbytes: float) -> float:
            return played(self.all_reduce, group, nbytes, a, at_once)

        alone = np.zeros((hosts, hosts))
        for i, j in np.argwhere(~np.eye(hosts, dtype=bool)):
            alone[i, j] = (1 / rates[path(int(i), int(j))]).max()
        return Network(a, alone, self.ports, all_reduce, shared)

    def describe(self) -> str:
        found = self._lines
        far = 1e3 * self._ways[0][np.ix_(found.hosts, found.hosts)]
        others = far[~np.eye(len(far), dtype=bool)]
        ways = f"{others.min():.3g} to {others.max():.3g} ms from one to another" if len(others) else "one host"
        lines = len({(min(a, b), max(a, b)) for a, b, _, _ in found.lines})
        return f"{Path(self.file).name}: {len(found.names)} nodes, {lines} lines, {ways}; {self._told_steps()}"


def _said(where: str, read: Any, value: Any) -> float:
    try:
        return float(read(value))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _place(where: str, data: Mapping[str, Any]) -> tuple[float, float] | None:
    """Degrees north and east of a node; None when it does not say."""
    for north, east in PLACES:
        if north in data and east in data:
            a, b = data[north], data[east]
            if not (is_number(a) and is_number(b) and abs(a) <= 90 and abs(b) <= 180):
                raise ConfigError(f"{where} is at {north} {a!r}, {east} {b!r}; they must be degrees, up to 90 and to 180")
            return float(a), float(b)
    return None


def _kilometres(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Along the great circle, by the haversine formula."""
    (a, x), (b, y) = (tuple(map(math.radians, place)) for place in (one, other))
    h = math.sin((b - a) / 2) ** 2 + math.cos(a) * math.cos(b) * math.sin((y - x) / 2) ** 2
    return 2 * EARTH * math.asin(min(1.0, math.sqrt(h)))
