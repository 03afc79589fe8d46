"""What a run is: the part of a config that says what is trained, and not where, how it is looked at or what it is called.

Two configs of one identity train the same models, to rounding. Each key of Config says for itself whether it is part of it
(`key(..., identity=...)`); of a group all keys are. Values are compared by what they mean: defaults are filled in, arrays and
files stand for what they hold, 1 and 1.0 are one number, and the name of an algo is only a name.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from coopsgd.host.files import sha256
from coopsgd.mixing.base import load_array
from coopsgd.mixing.groups import split
from coopsgd.schedules import Constant
from coopsgd.setup import build
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import GROUPS, Config, UntrustedConfig

LARGEST = 1 << 30  # bytes of a file that are read to compare it; a larger one is known by its path
NEAR = 1e-2  # computed settings of a seed, found anew by another version or machine, lie as close together


def identity(of: Config | Parts, seed: bool = True) -> str:
    """The same for all checked configs, or their parts, that train the same models. seed=False: whatever their seed is."""
    return hashlib.sha256(json.dumps(trained(of, seed), sort_keys=True).encode()).hexdigest()


def trained(of: Config | Parts, seed: bool = True) -> dict[str, Any]:
    """What `identity` is of, by key, in numbers and words."""
    parts = of if isinstance(of, Parts) else Parts(of)
    config = parts.config
    found = {f.name: getattr(config, f.name) for f in fields(Config) if f.metadata["identity"]}
    found |= {name: _group(parts, name) for name in GROUPS}
    if not seed:
        del found["seed"]
        found["algo"] = found["algo"] and {k: v for k, v in found["algo"].items() if k not in _of_the_seed(parts)}
    found["tau"] = _period(config.tau)
    found["start"] = content("start", config.start, numbers=False)
    task = _class("task", "task", config.task.get("name"), config)
    if task is not None:  # what it makes no use of, whatever it says
        unused = [name for name in ("batch_size",) if name not in task.USES]
        unused += ["norm_stats", "amp"] if "model" not in task.USES else []
        found |= dict.fromkeys(unused)
    optim = _class("optim", "optim", config.optim.get("name"), config)
    if optim is not None and not parts.optim.buffers:
        found["buffers"] = None  # there are none to treat in this way or that
    if found["buffers"] != "average":
        del found["buffers_every"]  # as before there was such a key
    if config.delay == "tau" and (config.period or {}).get("name", "constant") == "constant" and isinstance(config.tau, int):
        found["delay"] = config.tau
    if parts.stop.looks:  # the run ends where a line says so
        found |= {name: getattr(config, name) for name in ("log_every", "eval_every")}
    schedule = _class("schedule", "schedule", (config.schedule or {}).get("name"), config)
    if schedule is not None and schedule.WATCHES:  # the rate falls where an evaluation says so
        found["eval_every"] = config.eval_every
    return {name: _plain(value) for name, value in found.items()}


def placement(config: Config) -> dict[str, Any]:
    """The other keys, but for its name and what a sweep is told of it: where and how it is computed, what is kept of it."""
    return {
        f.name: _plain(getattr(config, f.name))
        for f in fields(Config)
        if not f.metadata["identity"] and f.name not in ("name", "objective")
    }


# keys whose auto is frozen as what the machine of the run has, or what was measured there
FOUND = ("device", "processes", "threads", "fleet", "engine", "model.memory_format")


def measured_as(config: Config, other: Config) -> Config:
    """The config with what it leaves to a measurement as `other`, the frozen config of a run, has it."""
    if config.engine == "auto":
        config = replace(config, engine=other.engine)
    if config.model is not None and memory_format(config) == "auto" != memory_format(other):
        config = replace(config, model={**config.model, "memory_format": memory_format(other)})
    return config


def memory_format(config: Config) -> str:
    """How weights of convolutions lie in a row, which is no part of what a run is, but of how it rounds."""
    return str((config.model or {}).get("memory_format", "auto"))


def _class(kind: str, where: str, name: Any, config: Config) -> Any:
    """The class a config names; None when that is code that nobody vouches for, or it names none."""
    if name is None or (isinstance(config, UntrustedConfig) and ":" in str(name)):
        return None
    return (
        build.class_in("optim", config.optim) if (kind, name) == ("optim", build.TORCH) else build.class_of(kind, where, name)
    )


def _group(parts: Parts, name: str) -> dict[str, Any] | None:
    config = parts.config
    node = getattr(config, name)
    if not isinstance(node, dict):
        return node
    chosen = {"strategy": "strategy", "mixing": "mixing"} if name == "algo" else {"name": build.KINDS[name]}
    found = {key: value for key, value in node.items() if key not in ("name", *chosen)}
    for key, kind in chosen.items():
        cls = _class(kind, name, node.get(key), config)
        if cls is None:
            found[key] = node.get(key)
            continue
        own = build.own(cls)
        found = {f.name: value for f in own if (value := build.default_of(f)) is not MISSING} | found
        names = {f.name for f in own} & found.keys()
        found |= build.typed(name, cls, {k: found[k] for k in names})
        found |= {k: content(f"{name}.{k}", found[k], k in getattr(cls, "ARRAYS", ())) for k in names & build.reads(cls)}
        found[key] = f"{cls.__module__}:{cls.__qualname__}"
        found |= _meant(parts, kind, cls, found)
    if name == "model":
        found.pop("memory_format", None)  # which changes rounding alone, and is measured where nobody says
    return found


def _meant(parts: Parts, kind: str, cls: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Keys whose values have several spellings."""
    more: dict[str, Any] = {}
    if kind == "mixing" and cls.__module__.startswith("coopsgd."):
        if "groups" in found:
            more["groups"] = [list(members) for members in split(found["groups"], parts.config.workers)]
        if found.get("alpha") == "auto" and "seed" not in build.filled_by_run(cls).values():
            schedule = parts.strategy.schedule
            more["alpha"] = None if schedule is None else schedule.best_alpha(parts.config.workers)
    if kind == "schedule" and not found.get("warmup", 1):
        more["warmup_from"] = None
    if kind == "schedule" and found.get("unit") == 1:
        more["unit"] = "step"
    if cls is Constant and not found.get("warmup"):
        more["unit"] = None
    return more


def _of_the_seed(parts: Parts) -> set[str]:
    """Keys of the algo that hold what follows from the seed, and were not given by hand."""
    config = parts.config
    names = [config.algo.get(name) for name in ("strategy", "mixing")]
    if isinstance(config, UntrustedConfig) and any(":" in str(name) for name in names):
        return set()
    schedule = parts.strategy.schedule
    kept = schedule.computed_settings(config.workers) if schedule else {}
    if not kept:
        return set()
    anew = Parts(replace(config, algo={**config.algo, **dict.fromkeys(kept, "auto")})).strategy.schedule
    again = anew.computed_settings(config.workers) if anew else {}
    return {key for key, value in again.items() if _near(value, kept[key])}


def _near(a: Any, b: Any) -> bool:
    try:
        return np.shape(a) == np.shape(b) and bool(np.allclose(a, b, rtol=0, atol=NEAR))
    except (TypeError, ValueError):
        return bool(a == b)


def content(where: str, value: Any, numbers: bool) -> Any:
    """What a file holds, or an array (numbers); the value itself if it is a function, or a file that is not there."""
    if value is None or (isinstance(value, str) and not Path(value).is_file()):
        return value
    if isinstance(value, str) and Path(value).stat().st_size > LARGEST:
        return value
    try:
        if not numbers:
            raise ValueError
        array = np.ascontiguousarray(load_array(where, value), dtype="<f8")
    except ValueError:
        if not isinstance(value, str):
            return value
        with Path(value).open("rb") as file:
            return f"sha256 {sha256(file)}"
    while array.ndim > 1 and len(array) == 1:  # a schedule of one matrix is that matrix
        array = array[0]
    return f"{array.shape} sha256 {hashlib.sha256(array.tobytes()).hexdigest()}"


def _period(tau: Any) -> Any:
    """A list of stages without those that change nothing; a number when one is left."""
    if not isinstance(tau, list) or not all(isinstance(stage, list) and len(stage) == 2 for stage in tau):
        return tau
    kept = [stage for at, stage in enumerate(tau) if at == 0 or stage[1] != tau[at - 1][1]]
    return kept[0][1] if len(kept) == 1 else kept


def _plain(value: Any) -> Any:
    """As JSON can say it, numbers by their value."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(one) for one in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        return int(value)
    return value if isinstance(value, int | float | str) else repr(value)
