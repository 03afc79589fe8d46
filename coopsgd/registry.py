"""Names of things a config can choose: name -> class, and a kind error for a wrong name.

A module named like its entry (`strategies/slowmo.py` for `slowmo`) is found without importing the others. A package
adds names by an entry point in the group `coopsgd.<kind>`; `module:Class` names a class outside any registry.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

# kind -> the package (or module) whose import registers every built-in name of that kind
HOMES = {
    "strategy": "coopsgd.strategies",
    "mixing": "coopsgd.mixing",
    "period": "coopsgd.period",
    "graph": "coopsgd.mixing.graphs",
    "task": "coopsgd.tasks",
    "model": "coopsgd.models",
    "data": "coopsgd.data",
    "partition": "coopsgd.data.partitions",
    "optim": "coopsgd.optim",
    "schedule": "coopsgd.optim",
    "cluster": "coopsgd.clock.clusters",
}
_known: dict[str, dict[str, Any]] = {kind: {} for kind in HOMES}

T = TypeVar("T")


def register(name: str, kind: str = "strategy") -> Callable[[T], T]:
    """Make a class known under `name`, for a `kind` in HOMES (strategy, mixing, period, graph, task, model, data, ...)."""
    if kind not in _known:
        raise KeyError(f"register: no kind {kind!r}; known: {', '.join(_known)}")

    def keep(thing: T) -> T:
        other = _known[kind].setdefault(name, thing)
        if other is not thing and getattr(other, "__qualname__", "") != getattr(thing, "__qualname__", None):
            raise KeyError(f"register: {kind} {name!r} is taken by {other!r}")
        _known[kind][name] = thing
        return thing

    return keep


def lookup(kind: str, name: str) -> Any:
    """The class registered as `name`, or named by `module:Class`. KeyError, with a suggestion, when there is none."""
    if ":" in name:
        return imported(kind, name)
    table = _known[kind]
    if name in table:
        return table[name]
    _import(f"{HOMES[kind]}.{name}")
    if name in table:
        return table[name]
    for point in entry_points(group=f"coopsgd.{kind}"):
        if point.name == name:
            return point.load()
    known = names(kind)
    if name in table:
        return table[name]
    raise KeyError(f"no {kind} named {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")


def names(kind: str) -> list[str]:
    """Every name of a kind, built in or from an entry point."""
    home = importlib.import_module(HOMES[kind])
    for module in pkgutil.iter_modules(getattr(home, "__path__", [])):
        importlib.import_module(f"{home.__name__}.{module.name}")
    return sorted({*_known[kind], *(point.name for point in entry_points(group=f"coopsgd.{kind}"))})


def did_you_mean(name: str, known: list[str]) -> str:
    """'; did you mean ring?' when something close is known, else nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        # only this very module may be missing: a missing import inside it is the user's to see
        if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
            raise


def imported(kind: str, name: str) -> Any:
    """The thing `module:attribute` names, importable from here. KeyError, beginning with `kind`, when it is not."""
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a file beside you is importable, as it is for `python`
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError) as error:
        raise KeyError(f"{kind} {name!r}: {error}; write module:Class, importable from here") from error
    except Exception as error:  # the file runs when it is imported
        raise KeyError(f"{kind} {name!r}: importing it gives {type(error).__name__}: {error}") from error
