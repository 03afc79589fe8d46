"""Names of things a config can choose: name -> class, and a kind error for a wrong name.

A module named like its entry (`strategies/slowmo.py` for `slowmo`) is found without importing the others. A package
adds names by an entry point in the group `coopsgd.<kind>`; `module:Class` names a class outside any registry.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import importlib
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import MISSING, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from coopsgd import usercode
from coopsgd.blame import outside, with_location
from coopsgd.errors import ConfigError, Interrupted

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

# kind -> the package (or module) whose import registers every built-in name of that kind
HOMES = {
    "strategy": "coopsgd.strategies",
    "mixing": "coopsgd.mixing",
    "period": "coopsgd.strategies.period",
    "outer": "coopsgd.strategies.outer",
    "correction": "coopsgd.strategies.correction",
    "codec": "coopsgd.strategies.codecs",
    "fragments": "coopsgd.strategies.fragments",
    "graph": "coopsgd.mixing.graphs",
    "task": "coopsgd.tasks",
    "model": "coopsgd.models",
    "data": "coopsgd.data",
    "partition": "coopsgd.data.partitions",
    "optim": "coopsgd.optim",
    "schedule": "coopsgd.schedules",
    "cluster": "coopsgd.predict.clock.clusters",
    "stop": "coopsgd.setup.stop",
}
_known: dict[str, dict[str, Any]] = {kind: {} for kind in HOMES}

T = TypeVar("T")


def option(
    default: Any, help: str, *, unit: str | None = None, type: str | None = None, kw_only: bool = False, **more: Any
) -> Any:
    """A key of a class that a config can name: a field with a default, and what `coopsgd list` says of it.

    help: a line. unit: of a number, empty for one without. type: what it may be, as in "int or auto", where Any is annotated.
    more: words=("a", "b"), which it may be, or among others; infinite=True: it may be.
    """
    said = {"help": help, "unit": unit, "type": type, **more}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.deepcopy(default), metadata=said, kw_only=kw_only)
    return field(default=default, metadata=said, kw_only=kw_only)


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


# what a part may ask of the run: keys of the config, other parts, and `sizes`, the training samples of each worker,
# `sample_shares`, what each weighs in a mean (None: alike), `momentum`, what local steps keep within a round: a share, and
# whether it is Nesterov's
OF_RUN = (
    *("seed", "tau", "batch_size", "warmup", "sizes", "sample_shares", "momentum"),
    *("topology", "task", "model", "data", "partition"),
)


def of_run(name: str, default: Any = MISSING, **more: Any) -> Any:
    """A dataclass field that the run fills, with what it has under `name` (one of OF_RUN); it is no key of the config.

    `seed: int = of_run("seed", 0)`. A field without this mark belongs to its class, whatever it is called. ValueError for a
    name that the run does not have. more: arguments of dataclasses.field.
    """
    if name not in OF_RUN:
        raise ValueError(f"of_run: the run has no {name!r}{did_you_mean(name, list(OF_RUN))}; it has {', '.join(OF_RUN)}")
    return field(default=default, metadata={"of_run": name}, **more)


def lookup(kind: str, name: str, key: str = "") -> Any:
    """The class registered as `name`, or named by `module:Class`. KeyError, with a suggestion, when there is none.

    key: of the config that names it, unless it is called like its kind.
    """
    if ":" in name:
        return imported(kind, name, key)
    table = _known[kind]
    if name in table:
        return table[name]
    if name.isidentifier():  # else no module is called so, and not every import hook bears to be asked
        _import(f"{HOMES[kind]}.{name}")
    if name in table:
        return table[name]
    for point in entry_points(group=f"coopsgd.{kind}"):
        if point.name == name:
            before = set(sys.modules)
            found = point.load()
            usercode.remember(name, str(getattr(found, "__module__", "")), found, before)
            return found
    known = names(kind)
    if name in table:
        return table[name]
    raise KeyError(f"no {kind} named {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")


def entry_points(group: str) -> EntryPoints:
    """Those of a group that installed packages have."""
    return _entry_points(tuple(sys.path)).select(group=group)


@functools.lru_cache(maxsize=4)
def _entry_points(path: tuple[str, ...]) -> Any:
    """All of them, each package's file read once; path: sys.path, on which the packages are."""
    from importlib import metadata  # which has the parser of e-mails imported: 8 ms

    return metadata.entry_points()


def names(kind: str) -> list[str]:
    """Every name of a kind, built in or from an entry point."""
    home = importlib.import_module(HOMES[kind])
    for module in pkgutil.iter_modules(getattr(home, "__path__", [])):
        importlib.import_module(f"{home.__name__}.{module.name}")
    return sorted({*_known[kind], *(point.name for point in entry_points(group=f"coopsgd.{kind}"))})


def is_a(thing: Any, kind: str, *names: str) -> bool:
    """Is it of a class registered as one of these names, or of one derived from it? Imports none: what there is of it has."""
    return isinstance(thing, tuple(cls for name in names if (cls := _known[kind].get(name)) is not None))


def built_in(kind: str, cls: type) -> bool:
    """Does it derive from a class of this package that a config can name?"""
    return any(home in _known[kind].values() and home.__module__.startswith("coopsgd.") for home in cls.__mro__)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean ring?' when something close is known, whatever its case, else nothing."""
    table = {like(one): one for one in known}
    close = closest(like(name), table)
    return f"; did you mean {table[close]}?" if close else ""


def closest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most alike, if one is at least `cutoff` so (1: the same)."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def like(name: str) -> str:
    """A name without its case and separators: what SGD and sgd, batch-size and batch_size have in common."""
    return re.sub(r"[\W_]", "", name.lower()) or name


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        # only this very module may be missing: a missing import inside it is the user's to see
        if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
            raise


class Guard(NamedTuple):
    """What holds while a config is read that somebody else may have written."""

    own: frozenset[str]  # KEY=VALUE that the user said on the command line
    folder: Path | None  # the only folder whose files may be read; None: any


_guard: ContextVar[Guard | None] = ContextVar("guard", default=None)


@contextlib.contextmanager
def guarded(own: frozenset[str] = frozenset(), folder: Path | None = None) -> Iterator[None]:
    """Nothing is imported inside that a config names, other than `own` words; with `folder`, no file outside it is read.

    Built-in names and those of installed entry points stay as they are. Of guards in one another the outermost holds.
    """
    token = _guard.set(_guard.get() or Guard(own, folder))
    try:
        yield
    finally:
        _guard.reset(token)


def may_import(key: str, name: Any) -> None:
    """ConfigError when `name`, module:attribute, is the word of a config that is guarded against. Every import asks."""
    guard = _guard.get()
    said = guard is not None and {f"{key}={name}", f"{key}.name={name}"} & guard.own
    if guard is not None and not said and isinstance(name, str) and ":" in name:
        raise ConfigError(f"{key}: {name} is code that this run folder names, and importing it runs it; {TRUST}")
    if isinstance(name, str) and ":" in name:
        usercode.named(name)


def may_read(key: str, file: Any) -> None:
    """ConfigError when `file` lies outside the folder that a guarded config is from."""
    guard = _guard.get()
    if guard is None or guard.folder is None or not isinstance(file, str) or f"{key}={file}" in guard.own:
        return
    if not Path(file).resolve().is_relative_to(guard.folder.resolve()):
        raise ConfigError(f"{key}: {file} is a file outside the run folder that names it; {TRUST}")


TRUST = "add --trust (in Python trust=True) if you trust whoever wrote the folder"


def imported(kind: str, name: str, key: str = "") -> Any:
    """The thing `module:attribute` names, importable from here. KeyError, beginning with `kind`, when it is not.

    Nothing of the standard library: no algorithm, model or data set lives there, but much that acts on this machine.
    """
    may_import(key or kind, name)
    module, _, attribute = name.partition(":")
    if module.endswith(".py") or os.sep in module:
        stem = Path(module).name.removesuffix(".py")
        raise KeyError(f"{kind} {name!r}: is a file's path; write {stem}:{attribute}, from the folder that {stem}.py is in")
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        way = f"rename the file {top}.py beside you" if Path(f"{top}.py").exists() else "name one of yours or a library's"
        raise KeyError(f"{kind} {name!r}: {top} is a module of Python itself, which has none to offer; {way}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a file beside you is importable, but takes the place of no other module
    before = set(sys.modules)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (KeyboardInterrupt, Interrupted):
        raise
    except BaseException as error:  # the file runs when it is imported, and may do anything: sys.exit, for instance
        raise KeyError(f"{kind} {name!r}: {_why(error, module)}") from error
    if callable(found) and (wrote := _author(found)) in sys.stdlib_module_names:
        raise KeyError(
            f"{kind} {name!r}: is from Python's own {wrote}, which has none to offer; name one of yours or a library's"
        )
    usercode.remember(name, module, found, before)
    return found


def is_function(thing: Any) -> bool:
    """Is it a function written in Python, or an object that is called like one?"""
    if isinstance(thing, type | functools.partial):
        return isinstance(thing, functools.partial)
    called = thing if inspect.isroutine(thing) else getattr(type(thing), "__call__", None)  # noqa: B004
    return callable(called) and (inspect.ismethod(called) or inspect.isfunction(inspect.unwrap(called)))


def _author(thing: Any) -> str:
    """The top-level module in which a class, a function or the class of an object was written."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    home = getattr(thing, "__module__", None) or type(thing).__module__
    return str(home).partition(".")[0]


def _why(error: BaseException, module: str) -> str:
    """What an import came to, and the way out."""
    top = module.partition(".")[0]
    absent = isinstance(error, ModuleNotFoundError) and error.name and top == error.name.partition(".")[0]
    lacks = isinstance(error, AttributeError) and module in sys.modules  # it was imported, and may have a __getattr__
    if absent or lacks or (isinstance(error, TypeError | ValueError) and not outside(error)):
        beside, taken = Path(f"{top}.py").resolve(), getattr(sys.modules.get(top), "__file__", None)
        if taken and beside.is_file() and Path(taken) != beside:
            return f"{error}; {top} is {taken}, rename the file beside you"
        return f"{error}; write module:Class, importable from here"
    return f"importing it gives {with_location(error)}"
