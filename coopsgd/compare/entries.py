"""Run folders as entries of a comparison: what each was told, how it ended, and columns of numbers from its log lines.

Made for a thousand runs: of a config only the part that says something is parsed, and what stands in many configs once; of a
line of metrics.jsonl only those are read that have what is compared.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from coopsgd.compare import bulk, cache
from coopsgd.errors import ConfigError, DamagedFile
from coopsgd.host import processors
from coopsgd.run import source
from coopsgd.run.folders import in_use_by_us
from coopsgd.run.reader import log_points, summary_of

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
NOT_ITS_OWN = ("format", "hydra", "defaults")  # blocks of config.yaml that say nothing of a run
RUNNING, KILLED, BROKEN = "running", "killed", "unreadable"  # beside the statuses of summary.json
ENDED = ("completed", "diverged")
NUMBERS = {int, float, bool, type(None)}
TOGETHER = 1 << 26  # bytes of metrics.jsonl in all, from which on several processes read


@dataclass(eq=False)
class Entry:
    """One run: its folder, how it is called in a comparison, what it was told, flat (optim.lr -> 0.1), and how it ended.

    status: that of summary.json, or running, killed (no summary, and nobody is at work there), unreadable (why says what of
    it). columns: (lines,) each, nan where a line has no such number; of those names that `read` was asked for.
    """

    folder: Path
    name: str
    keys: dict[str, Any] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)  # SHA-256 of the user's own files that it ran
    summary: dict[str, Any] = field(default_factory=dict)
    status: str = BROKEN
    why: str = ""
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def algo(self) -> str:
        """What its algorithm is called."""
        return str(self.keys.get("algo.name") or self.keys.get("algo.strategy") or "?")

    @property
    def seed(self) -> Any:
        """The seed that it was told."""
        return self.keys.get("seed")

    @property
    def steps(self) -> int:
        """Of its last line; 0 without one."""
        there = self.columns.get("step")
        return int(there[-1]) if there is not None and len(there) else 0

    @property
    def planned(self) -> int | None:
        """Steps that it is to take; None where another length says so."""
        steps = self.keys.get("steps")
        return steps if isinstance(steps, int) else None

    def last(self, name: str) -> float:
        """The last number of a column that is one; nan without."""
        there = self.columns.get(name, np.zeros(0))
        there = there[~np.isnan(there)]
        return float(there[-1]) if len(there) else math.nan


def found(folders: Sequence[str]) -> list[Entry]:
    """The runs that these folders are, or hold below them, in order, each once. ConfigError where a folder holds none."""
    paths: dict[Path, str] = {}
    for folder in folders:
        at = Path(folder)
        if at.name == "multirun.yaml" and at.is_file():
            continue  # a shell that expands SWEEP/* names it too
        if not at.is_dir():
            raise ConfigError(f"{folder}: is no folder; name run folders, or folders that hold them, as outputs or multirun")
        runs = [at] if (at / "config.yaml").is_file() else below(at)
        if not runs:
            raise ConfigError(f"{folder}: holds no run; name a run folder or one above run folders, as outputs or multirun")
        for run in runs:
            paths.setdefault(run.resolve(), str(run))
    if not paths:
        raise ConfigError("no run is named; give run folders, or folders that hold them, as outputs or multirun")
    names = _short(list(paths.values()))
    return [_entry(Path(given), name) for given, name in zip(paths.values(), names, strict=True)]


def below(folder: Path) -> list[Path]:
    """Run folders below one that is none, by name; what is in a run folder is its own."""
    found = []
    for at, folders, names in os.walk(folder):
        if "config.yaml" in names:
            found.append(Path(at))
            folders.clear()
        else:
            folders[:] = sorted((name for name in folders if not name.startswith(".")), key=_by_number)
    return found


def _by_number(name: str) -> list[tuple[float, str]]:
    """tau=4 before tau=16."""
    return [(float(part), "") if part.isdecimal() else (math.inf, part) for part in re.split(r"(\d+)", name)]


def _short(folders: Sequence[str]) -> list[str]:
    """Their names without what all begin with."""
    if len(folders) == 1:
        return [Path(folders[0]).name or folders[0]]
    parts = [Path(folder).parts for folder in folders]
    same = 0
    while all(len(one) > same + 1 and one[same] == parts[0][same] for one in parts):
        same += 1
    return ["/".join(one[same:]) for one in parts]


def _entry(folder: Path, name: str) -> Entry:
    entry = Entry(folder, name)
    try:
        entry.keys = flat(config_of(folder / "config.yaml"))
        entry.source = source.then(folder) if (folder / source.FOLDER).is_dir() else {}
        entry.summary = summary_of(folder) or {}
    except (OSError, ValueError, yaml.YAMLError, ConfigError, DamagedFile) as error:
        entry.why = " ".join(str(error).split())
        return entry
    entry.status = str(entry.summary.get("status") or (RUNNING if _at_work(folder) else KILLED))
    return entry


def _at_work(folder: Path) -> bool:
    """Is another coopsgd at work there?"""
    try:
        with in_use_by_us(folder, reading=True):
            return False
    except (OSError, ConfigError):
        return True


def config_of(path: Path) -> dict[str, Any]:
    """The keys of a frozen config, read block by block: most blocks of a sweep are alike, and are parsed once."""
    text = path.read_text()
    blocks = re.split(r"\n(?=[A-Za-z_])", text)
    found: dict[str, Any] = {}
    for block in blocks:
        if not block.startswith("#") and block.partition(":")[0] not in NOT_ITS_OWN:
            parsed = _parsed(block)
            if parsed is not None:
                found |= parsed
    return found


@lru_cache(maxsize=10_000)
def _parsed(block: str) -> Mapping[str, Any] | None:
    found = yaml.load(block, LOADER)
    if found is not None and not isinstance(found, dict):
        raise DamagedFile("config.yaml is none: it does not hold keys")
    return found


def flat(node: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """{optim: {lr: 0.1}} as {optim.lr: 0.1}; a group that is null stays one key."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            found |= flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


# columns


def read(entries: Iterable[Entry], names: Iterable[str], of: Sequence[str] = (), ends: Sequence[str] = ()) -> None:
    """Give entries columns of these names, and of `step`. of: from lines that have one of these alone, and from the last. ends:
    of these names no more is wanted than `Entry.last`.
    """
    wanted = ["step", *(name for name in dict.fromkeys(names) if name != "step")]
    readable = [entry for entry in entries if entry.status != BROKEN]
    jobs = [(str(entry.folder), wanted, list(of), list(ends)) for entry in readable]
    if len(jobs) > 1 and sum(map(_size, readable)) > TOGETHER and "torch" not in sys.modules:
        many = min(processors.cores(), 8)
        with ProcessPoolExecutor(many, get_context("fork")) as pool:
            found = list(pool.map(_columns, jobs, chunksize=max(1, len(jobs) // (4 * many))))
    else:
        found = [_columns(job) for job in jobs]
    for entry, columns in zip(readable, found, strict=True):
        entry.columns = columns


def _size(entry: Entry) -> int:
    with suppress(OSError):
        return os.stat(entry.folder / "metrics.jsonl").st_size
    return 0


def _columns(job: tuple[str, list[str], list[str], list[str]]) -> dict[str, np.ndarray]:
    folder, names, of, ends = job
    path = Path(folder) / "metrics.jsonl"
    kept = cache.read(path, names, of)
    if kept is not None:
        return kept
    try:
        text = path.read_bytes()
    except OSError:
        text = b""
    lines = text[: text.rfind(b"\n") + 1]  # without a torn one
    ends = ends if len(text) < cache.LONG else []  # what is kept is whole
    columns = bulk.columns(lines, [*of, *names], ends)
    if columns is None and of:
        lines = _having(lines, of)
        columns = bulk.columns(lines, names, ends)
    if columns is None:
        points = _points(lines, path)
        columns = {name: _column([point.get(name) for point in points]) for name in names}
    cache.write(path, columns, of, len(text))
    return columns


def _having(text: bytes, of: Sequence[str]) -> bytes:
    """Those lines of a text that have one of these names, and the last."""
    if not text:
        return text
    first, *others = (json.dumps(name).encode() for name in of)
    *lines, last = text.split(b"\n")[:-1]
    return b"\n".join([*(line for line in lines if first in line or any(name in line for name in others)), last, b""])


def _points(text: bytes, path: Path) -> list[dict[str, Any]]:
    """The log points that these lines are; where one is none, all of the file, without those."""
    try:
        found = json.loads(b"[" + b",".join(text.splitlines()) + b"]")  # one call: a third faster than one a line
        if all(type(point) is dict and type(point.get("step")) is int for point in found):
            return list(found)
    except (ValueError, RecursionError):
        pass
    return log_points(path)


def _column(values: list[Any]) -> np.ndarray:
    """Numbers as they are, nan for what is none."""
    if set(map(type, values)) <= NUMBERS:
        return np.array(values, dtype=float)  # None is nan
    return np.array([_number(value) for value in values], dtype=float)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
