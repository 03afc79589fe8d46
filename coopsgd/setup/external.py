"""Classes of a user: which they are, and whether they have what their kind needs and nothing it does not know."""

from __future__ import annotations

import inspect
from typing import Any

from coopsgd.errors import ConfigError
from coopsgd.registry import built_in, did_you_mean

RUN_KEYS = ("order", "delay", "merge", "buffers", "buffers_every", "weights_by")
_WORK = "who takes how many steps is said by `work` of the mixing that its `schedule` is"
_SCHEDULE = "is read from its `schedule`, a Mixing"
_RUN = "is a key of the run, for every algorithm"
# members that classes of a kind once had -> where that is said now
FORMER: dict[str, dict[str, str]] = {
    "strategy": {
        "step": "step is send and receive now: `send` starts the verbs, `receive` makes the rows of their answers",
        "before": "before is the run's order=cta now, or its delay=1",
        "active": _WORK,
        "work": _WORK,
        "plain": "steps are fused wherever `direction` is not overridden",
        "answer_lags": "it is found out by asking `answer`",
        **{name: f"{name} {_SCHEDULE}" for name in ("factors", "matrices", "num_aux", "zeta", "cycle", "negative", "check")},
        **{name: f"{name} {_SCHEDULE}" for name in ("served", "times_itself", "settled", "as_matrices", "mixing")},
        **{name: f"{name} {_RUN}" for name in RUN_KEYS},
        "averages": f"buffers {_RUN}",
        "mixes_first": f"order {_RUN}",
        "fixed_tau": "write `send = None` where `direction` communicates in every step",
        "local": "local steps are taken by the loop",
    },
    "mixing": {
        "active": "active is `work` now, (m,) local steps of each worker",
        **{name: f"{name} {_RUN}" for name in RUN_KEYS},
    },
}
INSTEAD = {"adjacency": ("links",)}  # what says the same as a needed member
MAY_BE_NONE = ("send",)  # methods that a class may say it does without
READ = ("IMPORTS", "ARRAYS", "FILES")  # of every class whose fields name something: setup/build.py
# what a class must say that does not derive from a built-in one
NEEDED = {
    "mixing": ("matrices",),
    "graph": ("adjacency",),
    "partition": ("deal",),
    "data": ("load",),
    "model": ("build",),
    "task": ("build", "dimension"),
    "cluster": ("step_times", "network", "describe"),
    "optim": ("lr", "KIND", "buffers", "COUNTS"),  # derives from nothing
}


class ExternalError(ConfigError):
    """A user's code handed over what cannot be used. A mistake before a run starts, a failure while it is under way."""


def is_external(thing: Any) -> bool:
    """Is it, or its class, somebody else's than this package's?"""
    cls = thing if isinstance(thing, type) else type(thing)
    return cls.__module__ != "coopsgd" and not cls.__module__.startswith("coopsgd.")


def conforms(where: str, kind: str, cls: Any, base: type | None) -> None:
    """ConfigError unless the class has what its kind needs, and every method of `base` it overrides can be called alike.

    A public name that the base does not know is refused too: nearly every member has a default, so that a misspelt override
    would be silent.
    """
    needed = NEEDED.get(kind, ())
    if not is_external(cls):
        return
    if base is None:
        if missing := [name for name in needed if not hasattr(cls, name)]:
            raise ConfigError(f"{where}: {cls.__module__}:{cls.__name__} has no {', '.join(missing)}, as in coopsgd.optim.SGD")
        return
    for name in () if built_in(kind, cls) else needed:
        if all(getattr(cls, one) is getattr(base, one) for one in (name, *INSTEAD.get(name, ()))):
            raise ConfigError(f"{where}: {cls.__module__}:{cls.__name__} has no `{name}`; write {_called(base, name)}")
    if (more := _unknown(cls)) is not None:
        known = sorted(one for one in dir(base) if not one.startswith("_") and one != more)
        instead = f"; {FORMER[kind][more]}" if more in FORMER.get(kind, {}) else did_you_mean(more, known)
        raise ConfigError(
            f"{where}: {cls.__name__}.{more} is no member of a {base.__name__}{instead}; "
            f"it has {', '.join(known)}; begin a name of your own with _"
        )
    for f in getattr(cls, "__dataclass_fields__", {}):
        if f in RUN_KEYS and kind in ("strategy", "mixing"):
            raise ConfigError(f"{where}: {cls.__name__}.{f}: is a key of the run, for every algorithm; leave the field out")
    for name, method in inspect.getmembers(base, inspect.isfunction):
        own = inspect.getattr_static(cls, name, None)
        if name.startswith("_") or own is inspect.getattr_static(base, name) or (own is None and name in MAY_BE_NONE):
            continue
        if not inspect.isfunction(own):
            if isinstance(own, staticmethod | classmethod) or not callable(own):
                raise ConfigError(f"{where}: {cls.__name__}.{name} must be a method; write {_called(base, name)}")
            continue
        wanted = [p for p in inspect.signature(method).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        try:
            inspect.signature(own).bind(*wanted)
        except TypeError as error:
            why = f"cannot be called as it must be ({error})"
            raise ConfigError(f"{where}: {cls.__name__}.{name} {why}; write {_called(base, name)}") from None


def _unknown(cls: type) -> str | None:
    """A public name that a user's class adds to what this package's classes have, and that is no field of it."""
    fields, known = getattr(cls, "__dataclass_fields__", {}), {*READ}
    for home in cls.__mro__:
        known |= set() if is_external(home) else vars(home).keys()
    mine = ((name, value) for home in cls.__mro__ if is_external(home) for name, value in vars(home).items())
    unknown = (n for n, value in mine if not (n.startswith("_") or n in known or n in fields or isinstance(value, type)))
    return next(unknown, None)


def _called(base: type, name: str) -> str:
    return f"def {name}({', '.join(inspect.signature(getattr(base, name)).parameters)})"
