"""Runs that differ by their seed alone are one group, and groups differ by the keys that say what is trained.

Whether two runs are the same but for the seed is asked of their frozen configs, key by key: fast, for they are read anyway.
Where only keys of the algo differ, and no seed is in both, they may be settings that were computed from the seed (a random
graph's weights); then setup/identity.py decides, which builds the algorithm.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

import numpy as np

from coopsgd.compare.entries import BROKEN, ENDED, Entry
from coopsgd.errors import ConfigError

SEEDS = ("seed",)
NONE = "-"  # a key that a run has not
UNSAID = ("objective", "name")  # keys of no group: how a sweep looks at a run, what it is called


@cache
def _of_a_run() -> frozenset[str]:
    """Keys of the run that say what is trained."""
    from coopsgd.setup.schema import Config

    return frozenset(f.name for f in fields(Config) if f.metadata.get("identity"))


def trained(entry: Entry) -> dict[str, Any]:
    """The keys of a run that say what is trained, but for its seed; and which source of the user's own it ran, if any."""
    from coopsgd.setup.schema import ADDED

    there = {key.partition(".")[0] for key in entry.keys}
    found = {
        key: value
        for key, value in [*((key, value) for key, value in ADDED.items() if key not in there), *entry.keys.items()]
        if key.partition(".")[0] in _of_a_run() and key not in SEEDS and key.partition(".")[0] not in UNSAID
    }
    if entry.source:
        found["source"] = hashlib.sha256(json.dumps(entry.source, sort_keys=True).encode()).hexdigest()[:8]
    return found


@dataclass(eq=False)
class Group:
    """Runs that are the same but for their seed.

    keys: what they were told, of those that say what is trained. values: of the keys in which groups differ, in words. named:
    those of them that tell its label from others of its algorithm. entries: all of them; `counted` those that a mean is over.
    """

    entries: list[Entry]
    keys: dict[str, Any]
    values: dict[str, str] = field(default_factory=dict)
    named: frozenset[str] = frozenset()

    @property
    def algo(self) -> str:
        """Of all of them."""
        return self.entries[0].algo

    @property
    def label(self) -> str:
        """As in `easgd tau=4`: its algorithm, and the other keys in which its groups differ."""
        more = [f"{word(key)}={value}" for key, value in self.values.items() if key in self.named and value != NONE]
        return " ".join([self.algo, *more])

    @property
    def counted(self) -> list[Entry]:
        """Of each seed the run that came furthest, of those that came to their end, or diverged; where none did, of all."""
        furthest: dict[Any, Entry] = {}
        readable = [entry for entry in self.entries if entry.status != BROKEN]
        ended = [entry for entry in readable if entry.status in ENDED]
        for entry in ended or readable:
            first = furthest.setdefault(entry.seed, entry)
            if entry.steps > first.steps:
                furthest[entry.seed] = entry
        return list(furthest.values())

    def status(self) -> str:
        """How its runs ended, as in `completed`, or `3 completed, 1 failed`."""
        each: dict[str, int] = {}
        for entry in self.entries:
            each[entry.status] = each.get(entry.status, 0) + 1
        return next(iter(each)) if len(each) == 1 else ", ".join(f"{n} {status}" for status, n in each.items())


def grouped(entries: Iterable[Entry], by: Sequence[str] = (), trust: bool = False) -> list[Group]:
    """Groups of these runs, ordered by algorithm and then by the keys in which they differ. A run that cannot be read is one
    of its own.

    by: only these keys tell groups apart; runs that differ in others are put together as seeds are.
    """
    together: dict[str, list[Entry]] = {}
    told: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry.status == BROKEN:
            together[str(entry.folder)], told[str(entry.folder)] = [entry], {}
            continue
        keys = trained(entry)
        if by:
            _refuse_unknown(by, entry)
            keys = {key: entry.keys.get(_spelt(key, entry)) for key in ("algo.name", *by)}
        name = json.dumps(keys, sort_keys=True, default=str)
        together.setdefault(name, []).append(entry)
        told[name] = keys
    groups = [Group(some, told[name]) for name, some in together.items()]
    if not by:
        groups = _same_but_for_computed(groups, trust)
    several = len({group.algo for group in groups}) > 1
    differing = [key for key in ("algo.name", *by) if key in by or several] if by else differ(groups)
    for group in groups:
        group.values = {key: said(group.keys.get(_spelt(key, group.entries[0]), None)) for key in differing}
    for group in groups:
        own = [other for other in groups if other.algo == group.algo]
        varies = {key for key in differing if len({other.values[key] for other in own}) > 1}
        group.named = frozenset(varies | {"tau"} - {"algo.name"})
    return sorted(groups, key=lambda group: (group.algo, [_order(group.keys.get(key)) for key in differing]))


def _spelt(key: str, entry: Entry) -> str:
    """A group's name stands for its choice: topology for topology.name."""
    return f"{key}.name" if key not in entry.keys and f"{key}.name" in entry.keys else key


def _refuse_unknown(by: Sequence[str], entry: Entry) -> None:
    from coopsgd.registry import did_you_mean

    for key in by:
        if _spelt(key, entry) not in entry.keys and key.partition(".")[0] not in {
            name.partition(".")[0] for name in entry.keys
        }:
            raise ConfigError(f"--group: {entry.folder} has no key {key!r}{did_you_mean(key, list(entry.keys))}")


def _same_but_for_computed(groups: list[Group], trust: bool) -> list[Group]:
    """Put groups together that differ in what was computed from the seed."""
    alike: dict[str, list[Group]] = {}
    for group in groups:
        rest = {key: value for key, value in group.keys.items() if not _may_be_computed(key, value)}
        alike.setdefault(json.dumps(rest, sort_keys=True, default=str), []).append(group)
    found = []
    for some in alike.values():
        seeds = [entry.seed for group in some for entry in group.entries]
        if len(some) == 1 or len(set(seeds)) < len(seeds):
            found += some
            continue
        known: dict[str, Group] = {}
        for group in some:
            same = known.setdefault(_identity(group, trust), group)
            if same is not group:
                same.entries += group.entries
        found += known.values()
    return found


def _may_be_computed(key: str, value: Any) -> bool:
    return key.startswith("algo.") and (isinstance(value, list) or (isinstance(value, float) and not isinstance(value, bool)))


def _identity(group: Group, trust: bool) -> str:
    """By setup/identity.py; where that cannot be asked, the group's own."""
    from coopsgd.run.reader import Run
    from coopsgd.setup.identity import identity

    with suppress(Exception):  # whatever a config of another version or without trust may raise
        return identity(Run(group.entries[0].folder, trust).config, seed=False)
    return str(group.entries[0].folder)


def differ(groups: Sequence[Group]) -> list[str]:
    """The keys in which groups differ, as few as tell it: of a group whose choice differs its name, and those keys of it in
    which runs of one choice differ.
    """
    readable = [group for group in groups if group.keys]
    names = dict.fromkeys(key for group in readable for key in group.keys)
    found = []
    for key in names:
        group = key.partition(".")[0]
        if key != f"{group}.name" and "." in key:
            choices: dict[Any, set[str]] = {}
            for one in readable:
                choices.setdefault(str(one.keys.get(f"{group}.name")), set()).add(json.dumps(one.keys.get(key), default=str))
            differs = any(len(values) > 1 for values in choices.values())
        else:
            differs = len({json.dumps(one.keys.get(key), default=str) for one in readable}) > 1
        if differs and not (group == "algo" and key in ("algo.strategy", "algo.mixing")):
            found.append(key)
    return _named(found)


def _named(keys: Sequence[str]) -> list[str]:
    """algo.name first, tau next, then as the config has them."""
    first = ["algo.name", "tau"]
    return [key for key in first if key in keys] + [key for key in keys if key not in first]


def word(key: str) -> str:
    """What a key is called for a reader: a choice by its group."""
    return key.removesuffix(".name")


def said(value: Any) -> str:
    """A value as one would write it; NONE where there is none."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        text = "[" + ",".join(said(one) for one in value) + "]"
        return text if len(text) <= 40 else text[:37] + "..."
    return str(value)


def _order(value: Any) -> tuple[float, str]:
    """Numbers by their value, text by the numbers in it."""
    if isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
        return (float(value), "")
    return (math.inf, re.sub(r"\d+", lambda match: match[0].zfill(12), said(value)))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean of so many numbers, and half of its 95 % interval by Student's t: nan of one number."""
    there = np.asarray(values, dtype=float)
    if len(there) < 2:
        return float(there.mean()) if len(there) else math.nan, math.nan
    return float(there.mean()), half(float(there.std(ddof=1)), len(there))


def half(deviation: float, n: int) -> float:
    """Half of the 95 % interval of a mean of n numbers that have this standard deviation."""
    return _quantile(n - 1) * deviation / math.sqrt(n)


@cache
def _quantile(freedom: int) -> float:
    """Beyond which a Student t of so many degrees of freedom, 1 or more, is in 5 % of all cases, either way. By bisection: to
    import scipy for it takes half a second.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _within(angle, freedom) < 0.95 else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """The share of a Student t between -t and t, t = sqrt(freedom) tan(angle): Abramowitz & Stegun, 26.7.3 and 26.7.4."""
    odd, cos = freedom % 2, math.cos(angle)
    term, total = (cos, 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, freedom, 2):  # cos + 2/3 cos^3 + 2 4/(3 5) cos^5 + ..., or 1 + 1/2 cos^2 + 1 3/(2 4) cos^4 + ...
        total += term
        term *= k / (k + 1) * cos**2
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
