"""From the names in a config to what they stand for: frozen dataclasses from the registry, their keys checked and typed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar, cast, get_type_hints

from omegaconf import BooleanNode, FloatNode, IntegerNode, StringNode
from omegaconf.errors import OmegaConfBaseException

from coopsgd.data.base import DataSet
from coopsgd.data.partitions import Partition
from coopsgd.errors import ConfigError
from coopsgd.mixing.base import Mixing
from coopsgd.mixing.graphs import Graph
from coopsgd.models.base import Model
from coopsgd.optim import Constant
from coopsgd.registry import did_you_mean, guarded, lookup, may_import, may_read, told_of
from coopsgd.setup import external, values
from coopsgd.setup.schema import COUNTS, Config, UntrustedConfig, whole
from coopsgd.strategies.base import Strategy
from coopsgd.strategies.period import Period
from coopsgd.tasks.base import Task

KINDS = {
    "period": "period",
    "topology": "graph",
    "task": "task",
    "model": "model",
    "data": "data",
    "partition": "partition",
    "optim": "optim",
    "schedule": "schedule",
    "cluster": "cluster",
}
F = TypeVar("F", bound=Callable[..., Any])

# whose methods the product calls: a class of one's own derives from it
BASES: dict[str, type] = {
    "strategy": Strategy,
    "mixing": Mixing,
    "period": Period,
    "graph": Graph,
    "task": Task,
    "model": Model,
    "data": DataSet,
    "partition": Partition,
    "schedule": Constant,
}


def _on_guard(build: F) -> F:
    """Of a config that nobody vouches for no part is built that would import what it names."""

    @functools.wraps(build)
    def built(config: Config, *arguments: Any) -> Any:
        with guarded() if isinstance(config, UntrustedConfig) else contextlib.nullcontext():
            return build(config, *arguments)

    return cast(F, built)


@_on_guard
def make(config: Config, name: str) -> Any:
    """The frozen dataclass that group `name` of the config chooses."""
    node = dict(getattr(config, name) or {})
    choice = node.pop("name", None)
    if name == "optim":
        refuse_unstackable(choice)
    cls = class_of(KINDS[name], name, choice)
    known = {f.name for f in fields(cls) if f.init}
    filled = set(FILLED) & known if name == "period" else set()
    _refuse_unknown(name, choice, node, known - filled)
    return external.guard(KINDS[name], _construct(name, cls, node | {key: FILLED[key](config) for key in filled}))


RESERVED = ("name", "strategy", "mixing", "tau", "order", "delay", "buffers")  # of an algo's yaml, no fields of its classes


@_on_guard
def make_strategy(config: Config) -> tuple[Strategy, set[str]]:
    """The strategy with its mixing, and the names of top-level keys it was given."""
    node = {k: v for k, v in config.algo.items() if k not in RESERVED}
    cls = class_of("strategy", "algo.strategy", config.algo.get("strategy"))
    parts = [("strategy", cls)]
    if any(f.name == "mixing" for f in fields(cls)):
        parts.append(("mixing", class_of("mixing", "algo.mixing", config.algo.get("mixing"))))
    elif config.algo.get("mixing") is not None:
        raise ConfigError(f"algo.mixing: strategy {config.algo['strategy']} takes none; leave it out")
    known = {f.name for _, part in parts for f in fields(part) if f.init} - {"mixing"}
    filled = set(FILLED) & known
    _refuse_unknown("algo", config.algo["name"], node, known - filled)
    made: dict[str, Any] = {}
    for kind, part in reversed(parts):
        names = {f.name for f in fields(part) if f.init}
        arguments = {k: v for k, v in node.items() if k in names}
        with blamed(""):
            arguments |= {name: FILLED[name](config) for name in filled & names}
        if kind == "strategy" and "mixing" in made:
            arguments["mixing"] = made["mixing"]
        made[kind] = external.guard(kind, _construct("algo", part, arguments))
    refuse_schedule(made["strategy"])
    return made["strategy"], filled


def refuse_schedule(strategy: Strategy) -> None:
    """ConfigError unless what a strategy mixes by can be read from its schedule."""
    cls, schedule = type(strategy).__name__, strategy.schedule
    if schedule is None and isinstance(getattr(strategy, "mixing", None), Mixing):
        raise ConfigError(
            f"algo.strategy: {cls} has a mixing that nobody reads, for its schedule is None; derive it from Cooperative, or "
            "write schedule = property(lambda self: self.mixing)"
        )
    if schedule is not None and not isinstance(schedule, Mixing):
        found = "a method, not a property" if callable(schedule) else external.told(schedule)
        raise ConfigError(f"algo.strategy: {cls}.schedule is {found}; it must be a Mixing or None, as in schedule = Average()")


# what a strategy, mixing or period is given by the run when it has a field of that name
FILLED: dict[str, Callable[[Config], Any]] = {
    "topology": lambda config: make(config, "topology"),
    "seed": lambda config: config.seed,
    "tau": lambda config: config.tau,
    "sizes": lambda config: _sizes(config),
    "batch_size": lambda config: config.batch_size,
    "warmup": lambda config: (config.schedule or {}).get("warmup", 0),
}


def _sizes(config: Config) -> list[int] | None:
    """Samples of each worker; that there are any is checked first, because counting them reads the data."""
    task = make(config, "task")
    task.check(config)
    return task.sizes(config)


@_on_guard
def write_out(config: Config) -> None:
    """Give every key of every group that is used its default, so that a frozen config says them all."""
    chosen = [(name, class_of(KINDS[name], name, node.get("name"))) for name in KINDS if (node := getattr(config, name))]
    for name, cls in [("algo", part) for part in algo_classes(config)] + chosen:
        node, filled = getattr(config, name), FILLED if name in ("algo", "period") else {}
        for f in fields(cls):
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            if f.init and f.name != "mixing" and f.name not in filled and _plain(default):
                node.setdefault(f.name, default)


def _plain(value: Any) -> bool:
    """Is it what a yaml gives back as it was?"""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(one) for key, one in value.items())
    return all(map(_plain, value)) if isinstance(value, list) else value is None or isinstance(value, bool | int | float | str)


@_on_guard
def algo_classes(config: Config) -> list[Any]:
    """The strategy and the mixing, if it names one, of an algo."""
    pairs = (("strategy", config.algo.get("strategy")), ("mixing", config.algo.get("mixing")))
    return [class_of(kind, f"algo.{kind}", name) for kind, name in pairs if name is not None]


def class_of(kind: str, where: str, name: Any) -> Any:
    """The dataclass registered as `name`. ConfigError, beginning with `where`, when there is none."""
    if name is None:
        raise ConfigError(f"{where}: is missing; name one, `coopsgd list` shows what there is")
    try:
        found = lookup(kind, str(name), where)
    except KeyError as error:
        raise ConfigError(f"{where}: {error.args[0]}") from None
    if not (isinstance(found, type) and is_dataclass(found)):
        raise ConfigError(f"{where}: {name} is no dataclass, so it has no settings; name a frozen dataclass")
    base = BASES.get(kind) or _cluster(kind)
    if base is not None and not issubclass(found, base):
        raise ConfigError(f"{where}: {name} is no {base.__name__}; derive it from {base.__module__}.{base.__name__}")
    external.conforms(where, kind, found, base)
    return found


def _cluster(kind: str) -> type | None:
    """The base of clusters, whose package imports this module."""
    if kind != "cluster":
        return None
    from coopsgd.predict.clock.clusters import Cluster

    return Cluster


def _refuse_unknown(where: str, choice: Any, node: Mapping[str, Any], known: set[str]) -> None:
    for name in node:
        if name not in known:
            has = f"known: {', '.join(sorted(known))}" if known else "it has no keys"
            raise ConfigError(f"{where}.{name}: {choice} has no such key{did_you_mean(name, sorted(known))}; {has}")


def refuse_unstackable(choice: Any) -> None:
    """ConfigError when an optimiser cannot step rows stacked into one tensor."""
    from coopsgd.optim import NOT_ELEMENTWISE

    if str(choice).lower() in NOT_ELEMENTWISE:
        raise ConfigError(
            f"optim: {choice} is not elementwise, so it cannot step the workers' stacked rows; use sgd, adam or adamw"
        )


NODES: dict[Any, Callable[..., Any]] = {int: IntegerNode, float: FloatNode, bool: BooleanNode, str: StringNode}


WANTED = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


def typed(where: str, cls: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the fields of `cls` say: "0.1" and 1 for a float are 0.1 and 1.0. ConfigError when one cannot be.

    What no value may be is refused for all of them (values.py).
    """
    known = {f.name: f for f in fields(cls) if f.init}
    try:
        hints = get_type_hints(cls)
    except Exception as error:  # an annotation names what its module does not have
        raise ConfigError(f"{where}: {cls.__name__} has annotations that cannot be read: {told_of(error, cls)}") from None
    return {name: _typed(f"{where}.{name}", hints.get(name), value, known.get(name)) for name, value in arguments.items()}


def _construct(where: str, cls: Any, arguments: dict[str, Any]) -> Any:
    for f in fields(cls):
        if f.init and f.name not in arguments and f.default is MISSING and f.default_factory is MISSING:
            raise ConfigError(
                f"{where}.{f.name}: is missing, {cls.__name__} has no default for it; give it, as in {where}.{f.name}=VALUE"
            )
    found = typed(where, cls, arguments)
    for names, may in (("IMPORTS", may_import), ("ARRAYS", may_read), ("FILES", may_read)):
        for name in set(getattr(cls, names, ())) & found.keys():
            may(f"{where}.{name}", found[name])
    with blamed(where):
        try:
            return cls(**found)
        except ValueError:
            raise
        except Exception as error:
            raise ConfigError(f"{where}: {cls.__name__} cannot be made: {told_of(error, cls)}") from None


def _typed(key: str, kind: Any, value: Any, f: Field[Any] | None) -> Any:
    infinite = f is not None and bool(f.metadata.get("infinite"))
    values.refuse_odd(key, value, infinite)
    if kind in (int, list[int]) or key.rpartition(".")[2] in COUNTS:
        value = whole(value)
    if kind == list[int] and not isinstance(value, list):
        raise ConfigError(f"{key}: must be a list of whole numbers, as in {key}=[20], got {value!r}")
    if kind not in NODES:
        return value
    try:
        found = NODES[kind](value, is_optional=False)._value()
    except (OmegaConfBaseException, OverflowError):
        raise ConfigError(f"{key}: must be {WANTED[kind]}, got {value!r}") from None
    values.refuse_odd(key, found, infinite)  # a word may stand for a number
    return found


class blamed:
    """Turn a ValueError of a part into a ConfigError; the part's own words already name thing, value and way out."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValueError) and not isinstance(error, ConfigError):
            told = str(error) + external.location(error)
            raise ConfigError(told if not self.where or self.where in told else f"{self.where}: {told}") from None
