"""probe.json: what was measured, of what, read back and checked against a run. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coopsgd.errors import ConfigError
from coopsgd.host import reading
from coopsgd.mixing.base import load_array
from coopsgd.predict.estimates import Estimate, Line
from coopsgd.setup.identity import content
from coopsgd.setup.schema import Config
from coopsgd.tasks.base import Task

FORMAT = 1
CONSTANTS = ("L", "sigma2", "kappa2", "gap", "grad2")
ABOUT = ("task", "model", "data", "partition", "batch_size", "workers", "seed", "dtype", "parameters", "settings")
TELLING = ("versions", "command")
PLACES = ("file",)  # settings that say where a thing lies on this machine, not what it is


@dataclass(frozen=True)
class Network:
    """Seconds, a + b * bytes: `all_reduce` over all processes; `edge`, of all that one sends its neighbours in a gossip."""

    processes: int
    all_reduce: Line
    edge: Line


@dataclass(frozen=True)
class Probe:
    """What `coopsgd probe` measured. Every Estimate has a value and the ends, low and high, of its 95 % interval.

    L: largest curvature of F along a short SGD path; L_workers: of any worker's own f_i at that point, None in a file of a
    version that did not ask. sigma2: E||g - grad f_i||^2 of one worker's minibatch gradient; kappa2:
    (1/m) sum ||grad f_i - grad F||^2; both averaged over the path. gap: F(start) - inf F. grad2: ||grad F||^2 at the start.
    step_s: seconds of one local step of one worker; workers_s: the same by worker, (workers,). network: None on one process.
    """

    path: Path
    task: str
    model: str | None
    data: str | None
    partition: dict[str, Any] | None
    batch_size: int
    workers: int
    seed: int
    dtype: str
    parameters: int
    settings: dict[str, Any]
    L: Estimate
    sigma2: Estimate
    kappa2: Estimate
    gap: Estimate
    grad2: Estimate
    step_s: Estimate
    workers_s: tuple[float, ...]
    network: Network | None
    L_workers: Estimate | None = None

    def constants(self) -> dict[str, float]:
        """L, sigma2, gap and kappa2 by name: what the bounds are functions of. L is that of each f_i, if it was measured."""
        found = {name: getattr(self, name).value for name in ("L", "sigma2", "gap", "kappa2")}
        return found if self.L_workers is None else found | {"L": max(self.L.value, self.L_workers.value)}

    def check(self, config: Config, task: Task) -> tuple[str, ...]:
        """ConfigError when this probe says nothing about a run of `config`; else notes for its user.

        Another batch size is refused too: sigma2 would shrink in proportion only for samples drawn with replacement, and the
        seconds of a step do not. Other numbers of workers are noted, and seeds may differ.
        """
        mine, theirs = {name: getattr(self, name) for name in ABOUT}, identity(config, task)
        for name in ("task", "model", "data", "parameters", "batch_size", "partition", "settings"):
            if mine[name] != theirs[name]:
                what, (was, now) = _difference(name, mine[name], theirs[name])
                raise ConfigError(
                    f"{self.path}: was measured with {what}={was}, this run has {what}={now}; "
                    "give the probe the words of the run: coopsgd probe WORDS"
                )
        notes = []
        if self.workers != config.workers:
            notes.append(
                f"{self.path}: measured with workers={self.workers}, used for workers={config.workers}; kappa2, the "
                f"seconds of a step and the network are those of {self.workers}"
            )
        if self.dtype != config.dtype:
            notes.append(
                f"{self.path}: measured with dtype={self.dtype}, used for dtype={config.dtype}; its seconds are the former's"
            )
        return tuple(notes)


def identity(config: Config, task: Task) -> dict[str, Any]:
    """What a probe of this config and its task is a probe of: the head of its file."""
    named = {name: (getattr(config, name) or {}).get("name") for name in ("task", "model", "data")}
    used = {name: value if name == "task" or name in task.USES else None for name, value in named.items()}
    reads = "data" in task.USES
    return {
        **used,
        "partition": _split(config, task) if reads else None,
        "batch_size": config.batch_size if "batch_size" in task.USES else 1,
        "workers": config.workers,
        "seed": config.seed,
        "dtype": config.dtype,
        "parameters": task.dimension(config),
        "settings": {name: _settings(config, name, task) for name, choice in used.items() if choice is not None}
        | ({"facts": task.about(config)} if reads else {}),
    }


def _split(config: Config, task: Task) -> dict[str, Any]:
    """The keys of the partition, files by what is in them."""
    node = dict(config.partition)
    for name in getattr(getattr(task, "partition", None), "FILES", ()):
        if name in node:
            node[name] = content(f"partition.{name}", node[name], numbers=False)
    return node


def _settings(config: Config, group: str, task: Task) -> dict[str, Any]:
    """The keys of a group, arrays by what is in them, places left out."""
    part, node = task if group == "task" else getattr(task, group, None), dict(getattr(config, group))
    for name in getattr(part, "ARRAYS", ()):
        if node.get(name) is not None:
            array = load_array(f"{group}.{name}", node[name])
            node[name] = f"{array.shape} sha256 {hashlib.sha256(array.astype('<f8').tobytes()).hexdigest()[:16]}"
    return {key: value for key, value in node.items() if key not in PLACES}


def _difference(name: str, mine: Any, theirs: Any) -> tuple[str, tuple[Any, Any]]:
    """The first key in which two settings differ, by its full name, and both values."""
    while isinstance(mine, dict) and isinstance(theirs, dict):
        key = next(key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key))
        name, mine, theirs = key if name == "settings" else f"{name}.{key}", mine.get(key), theirs.get(key)
    return name, (mine, theirs)


def load(path: str | Path) -> Probe:
    """Read a probe file. ConfigError, in one line, when it is none."""
    path, out = Path(path), f"coopsgd probe -o {path} makes one"
    found = reading.parsed(str(path), path, out, json.loads, "a probe file (JSON)")
    if not isinstance(found, dict) or "format" not in found:
        raise ConfigError(f"{path}: is no probe file (it has no format); coopsgd probe makes one")
    if found["format"] != FORMAT:
        raise ConfigError(f"{path}: has format {found['format']!r}, this version reads format {FORMAT}; probe again")
    for key in (*ABOUT, *CONSTANTS, "step_s", "network", *TELLING):
        if key not in found:
            raise ConfigError(f"{path}: is no whole probe file (it has no {key}); probe again")
    about: dict[str, Any] = {key: found[key] for key in ABOUT}
    try:
        constants: dict[str, Any] = {key: _estimate(key, found[key]) for key in CONSTANTS}
        return Probe(
            path,
            **about,
            **constants,
            step_s=_estimate("step_s", {**found["step_s"], "value": found["step_s"]["median"]}),
            workers_s=tuple(_finite("step_s.workers", x) for x in found["step_s"]["workers"]),
            network=None if found["network"] is None else _network(found["network"]),
            L_workers=_estimate("L_workers", found["L_workers"]) if found.get("L_workers") is not None else None,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        why = f"it has no {error.args[0]}" if isinstance(error, KeyError) else error
        raise ConfigError(f"{path}: is no whole probe file ({why}); probe again") from None


def _network(found: dict[str, Any]) -> Network:
    lines = {name: _line(f"network.{name}", found[name]) for name in ("all_reduce", "edge")}
    processes = found["processes"]
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 2:
        raise ValueError(f"network.processes is {processes!r}, which is no whole number of at least 2")
    return Network(processes, **lines)


def _line(where: str, found: dict[str, Any]) -> Line:
    low, high = found["low"], found["high"]
    return Line(*(_estimate(f"{where}.{k}", {"value": found[k], "low": low[k], "high": high[k]}) for k in ("a", "b")))


def _estimate(where: str, found: dict[str, Any]) -> Estimate:
    return Estimate(*(_finite(f"{where}.{end}", found[end]) for end in Estimate._fields))


def _finite(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{where} is {value!r}, which is no finite number of at least 0")
    return float(value)
