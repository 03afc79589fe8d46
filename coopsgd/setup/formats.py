"""The format number of config.yaml and summary.json, and how a config of an older format is read as one of today.

A file without a number is of format 0. Whoever takes a key away, moves it or gives a value another name raises FORMAT by one
and adds a row to UPGRADES: what was written before then keeps its meaning, for readers of a folder and for who runs it again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from coopsgd.errors import ConfigError

FORMAT = 2


class Upgrade(NamedTuple):
    """From one format to the next. Keys are written with dots, as on the command line."""

    moved: dict[str, tuple[str, Any]] = {}  # old key -> new key, and the value where neither was written
    values: dict[tuple[str, Any], dict[str, Any]] = {}  # (key, old value) -> that key's new value, and defaults of others
    added: dict[str, Any] = {}  # new key -> the value that was the only one


def _links(latency_s: Any, bandwidth: Any, **more: Any) -> dict[str, Any]:
    """A preset that was a class of its own."""
    keys = {"name": "custom", "latency_s": latency_s, "bandwidth": bandwidth, **more}
    return {f"cluster.{name}": value for name, value in keys.items()}


UPGRADES = (  # the first from format 0 to 1, and so on
    Upgrade(
        moved={"algo.order": ("order", "atc"), "algo.buffers": ("buffers", "keep")},
        values={
            ("order", "overlap"): {"order": "atc", "delay": 1},
            ("engine", "grouped"): {"engine": "auto"},
            ("model.name", "resnet20"): {"model.name": "resnet", "model.depth": 20},
            ("model.name", "resnet32"): {"model.name": "resnet", "model.depth": 32},
            ("model.name", "resnet56"): {"model.name": "resnet", "model.depth": 56},
            ("model.name", "vgg11"): {"model.name": "vgg", "model.depth": 11},
            ("model.name", "vgg16"): {"model.name": "vgg", "model.depth": 16},
            ("cluster.name", "datacenter"): _links(0.000025, "25 Gbit/s"),
            ("cluster.name", "ethernet_1g"): _links(0.0001, "1 Gbit/s"),
            ("cluster.name", "wan_100m"): _links(0.01, "100 Mbit/s"),
            ("cluster.name", "wan_20m"): _links(0.03, "20 Mbit/s"),
            ("cluster.name", "two_sites"): _links(
                [[0.00005, 0.02], [0.02, 0.00005]],
                [["10 Gbit/s", "200 Mbit/s"], ["200 Mbit/s", "10 Gbit/s"]],
                groups=2,
                all_reduce="two_level",
            ),
        },
        added={"delay": 0},
    ),
    Upgrade(
        moved={"algo.weighting": ("weights_by", None)},  # None: as `upgraded` says, where it was not written
        values={("weights_by", "proportional"): {"weights_by": "samples", "algo.drawn": "proportional"}},
    ),
)
assert len(UPGRADES) == FORMAT


def upgrade(config: Mapping[str, Any], format: int) -> dict[str, Any]:
    """The keys of a config of that format, as they are written today; those beside them stay.

    A key of a group that the config does not have is needed by nobody, and not added.
    """
    found = copy.deepcopy(dict(config))

    def node_of(key: str) -> tuple[dict[str, Any], str]:
        """The mapping that holds a key, and the key in it."""
        group, dot, name = key.partition(".")
        node = found.get(group)
        return (node if isinstance(node, dict) else {}, name) if dot else (found, group)

    def default(key: str, value: Any) -> None:
        node, name = node_of(key)
        node.setdefault(name, copy.deepcopy(value))

    for step in UPGRADES[format:]:
        for old, (new, value) in step.moved.items():
            node, name = node_of(old)
            if name in node or value is not None:
                default(new, node.pop(name, value))
        for (key, value), now in step.values.items():
            node, name = node_of(key)
            if node.get(name) == value:
                node[name] = now[key]
                for other in now.keys() - {key}:
                    default(other, now[other])
        for key, value in step.added.items():
            default(key, value)
    return found


def upgraded(path: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that the config.yaml at `path` holds, but its format, as they are written today. ConfigError for a newer one."""
    now = upgrade({key: value for key, value in found.items() if key != "format"}, format_of(path, found))
    sampled = isinstance(algo := now.get("algo"), dict) and algo.get("mixing") == "sampled"
    # there was no other when there was no such key
    return {"fleet": "processes", "weights_by": "samples" if sampled else "uniform"} | now


def format_of(path: Path, found: Mapping[str, Any]) -> int:
    """The format of what a file of a run holds. ConfigError when it is newer than this version, or none."""
    number = found.get("format", 0)
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ConfigError(f"{path} is no file of a run: its format is {str(number)[:40]!r}, not a whole number; restore it")
    if number > FORMAT:
        raise ConfigError(f"{path} is of format {number}, written by a newer coopsgd; this one reads up to {FORMAT}: update it")
    return number
