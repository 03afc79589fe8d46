"""From the names in a config to what they stand for: frozen dataclasses from the registry, their keys checked and typed."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_type_hints

from omegaconf import BooleanNode, FloatNode, IntegerNode, StringNode
from omegaconf.errors import OmegaConfBaseException

from coopsgd.blame import location, with_location
from coopsgd.data.base import DataSet
from coopsgd.data.partitions import Partition
from coopsgd.errors import ConfigError
from coopsgd.host import arrays
from coopsgd.mixing.base import Mixing
from coopsgd.mixing.graphs import Graph
from coopsgd.models.base import Model
from coopsgd.predict.clock.cluster import Cluster
from coopsgd.registry import OF_RUN, did_you_mean, guarded, lookup, may_import, may_read
from coopsgd.schedules import Constant
from coopsgd.setup import external, returned, values
from coopsgd.setup.schema import COUNTS, Config, UntrustedConfig, whole
from coopsgd.strategies.base import Strategy
from coopsgd.strategies.codec import Codec
from coopsgd.strategies.correction import Correction
from coopsgd.strategies.fragments import Fragments
from coopsgd.strategies.outer import Outer
from coopsgd.strategies.period import Period
from coopsgd.tasks.base import Task
from coopsgd.tasks.start import file_of

# group of the config -> kind of what it chooses
KINDS = {
    "period": "period",
    "outer": "outer",
    "correction": "correction",
    "codec": "codec",
    "fragments": "fragments",
    "topology": "graph",
    "task": "task",
    "model": "model",
    "data": "data",
    "partition": "partition",
    "optim": "optim",
    "schedule": "schedule",
    "cluster": "cluster",
    "stop": "stop",
}
F = TypeVar("F", bound=Callable[..., Any])
OfRun = Callable[[str], Any]  # from a name in OF_RUN to what the run has under it: Parts.of_run

# whose methods the product calls: a class of one's own derives from it
BASES: dict[str, type] = {
    "strategy": Strategy,
    "mixing": Mixing,
    "period": Period,
    "outer": Outer,
    "correction": Correction,
    "codec": Codec,
    "fragments": Fragments,
    "graph": Graph,
    "task": Task,
    "model": Model,
    "data": DataSet,
    "partition": Partition,
    "schedule": Constant,
    "cluster": Cluster,
}
# fields of these types are filled by the run, unasked: no yaml can write such a value
BY_TYPE: dict[Any, str] = {Graph: "topology", Model: "model", DataSet: "data", Partition: "partition"}
BY_TYPE |= {Task: "task", Mixing: "mixing"}
# what each kind may ask of the run: nothing that is made after it
NUMBERS = ("seed", "tau", "batch_size", "warmup")
MAY_ASK = {
    "task": (*NUMBERS, "topology", "model", "data", "partition"),
    "strategy": (*OF_RUN, "mixing"),
    **dict.fromkeys(("mixing", "period", "cluster"), OF_RUN),
    "correction": (*NUMBERS, "momentum"),
}


_hints = functools.cache(get_type_hints)  # of a class; asked for by the hundred


def filled_by_run(cls: Any) -> dict[str, str]:
    """What each field that the run fills is given: by its mark (registry.of_run), or by its type. Not to be changed."""
    try:
        return _filled_by_run(cls)
    except Exception:  # `typed` says which
        return _filled(cls, {})


@functools.cache
def _filled_by_run(cls: Any) -> dict[str, str]:
    return _filled(cls, _hints(cls))


def _filled(cls: Any, hints: Mapping[str, Any]) -> dict[str, str]:
    found = {f.name: f.metadata.get("of_run") or _by_type(hints.get(f.name)) for f in fields(cls) if f.init}
    return {name: what for name, what in found.items() if what is not None}


def _by_type(hint: Any) -> str | None:
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]  # a Graph | None is a Graph
    return BY_TYPE.get(kinds[0]) if len(kinds) == 1 and isinstance(kinds[0], type) else None


def own(cls: Any) -> list[Field[Any]]:
    """The fields that are keys of the config."""
    return [f for f in fields(cls) if f.init and f.name not in filled_by_run(cls)]


def _on_guard(build: F) -> F:
    """Of a config that nobody vouches for no part is built that would import what it names."""

    @functools.wraps(build)
    def built(config: Config, *arguments: Any) -> Any:
        with guarded() if isinstance(config, UntrustedConfig) else contextlib.nullcontext():
            return build(config, *arguments)

    return cast(F, built)


@_on_guard
def make_part(config: Config, group: str, of_run: OfRun) -> Any:
    """The frozen dataclass that a group of the config chooses."""
    node = dict(getattr(config, group) or {})
    choice = node.pop("name", None)
    if group == "optim":
        refuse_unstackable(choice)
    cls = class_in(group, getattr(config, group) or {})
    if choice == TORCH:
        node.pop("cls", None)
    _refuse_unknown(group, choice, node, {f.name for f in own(cls)})
    return _construct(KINDS[group], group, cls, node, of_run)


TORCH = "torch"


def class_in(group: str, node: Mapping[str, Any]) -> Any:
    """The dataclass that a group of a config chooses; of optim=torch that of the class of torch's."""
    if group != "optim" or node.get("name") != TORCH:
        return class_of(KINDS[group], group, node.get("name"))
    from coopsgd.optim.torch import Torch, settings_of

    with blamed("optim.cls"):
        return settings_of(node.get("cls", Torch.cls))


CHOOSE = ("name", "strategy", "mixing")  # keys of an algo that name what it is made of
# keys of the run that an algo's yaml may give a default
RUNS = ("tau", "order", "delay", "merge", "buffers", "buffers_every", "weights_by")


@_on_guard
def make_strategy(config: Config, of_run: OfRun) -> Strategy:
    """The strategy, with the mixing that its algo names."""
    classes = algo_classes(config)
    strategy, *mixing = classes
    takes = [name for name, what in filled_by_run(strategy).items() if what == "mixing"]
    if mixing and not takes:
        raise ConfigError(f"algo.mixing: strategy {config.algo['strategy']} takes none; leave it out")
    if takes and not mixing:
        class_of("mixing", "algo.mixing", None)
    known = {f.name for cls in classes for f in own(cls)}
    node = {k: v for k, v in config.algo.items() if k not in CHOOSE and (k in known or k not in RUNS)}
    _refuse_unknown("algo", config.algo["name"], node, known)

    def made(kind: str, cls: Any, mix: Any = None) -> Any:
        names = {f.name for f in own(cls)}
        given = {k: v for k, v in node.items() if k in names}
        return _construct(kind, "algo", cls, given, lambda name: mix if name == "mixing" else of_run(name))

    found = made("strategy", strategy, made("mixing", mixing[0]) if mixing else None)
    refuse_schedule(found)
    return cast(Strategy, found)


def refuse_schedule(strategy: Strategy) -> None:
    """ConfigError unless what a strategy mixes by can be read from its schedule."""
    cls, schedule = type(strategy).__name__, strategy.schedule
    if schedule is None and isinstance(getattr(strategy, "mixing", None), Mixing):
        raise ConfigError(
            f"algo.strategy: {cls} has a mixing that nobody reads, for its schedule is None; derive it from Cooperative, or "
            "write schedule = property(lambda self: self.mixing)"
        )
    if schedule is not None and not isinstance(schedule, Mixing):
        found = "a method, not a property" if callable(schedule) else returned.described(schedule)
        raise ConfigError(f"algo.strategy: {cls}.schedule is {found}; it must be a Mixing or None, as in schedule = Average()")


@_on_guard
def written_out(config: Config) -> Config:
    """The config with every key of every group that is used, by its default where it was not given."""
    nodes: dict[str, Any] = {}
    for group, cls in classes(config):
        node = nodes.setdefault(group, dict(getattr(config, group)))
        defaults = {f.name: default_of(f) for f in own(cls)}
        node |= {key: value for key, value in defaults.items() if key not in node and _plain(value)}
    return replace(config, **nodes)


def default_of(f: Field[Any]) -> Any:
    """What a field is when it is not given; MISSING when it must be."""
    return f.default_factory() if f.default_factory is not MISSING else f.default


def _plain(value: Any) -> bool:
    """Is it what a yaml gives back as it was?"""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(one) for key, one in value.items())
    return all(map(_plain, value)) if isinstance(value, list) else value is None or isinstance(value, bool | int | float | str)


@_on_guard
def classes(config: Config) -> list[tuple[str, Any]]:
    """The classes that the groups of a config name, each with its group."""
    others = [(name, node) for name in KINDS if (node := getattr(config, name))]
    found = [(name, class_in(name, node)) for name, node in others]
    return [("algo", cls) for cls in algo_classes(config)] + found


def reads(cls: Any) -> set[str]:
    """The keys of a class that may name a file: ARRAYS of numbers, which may be a list instead, and other FILES."""
    return {f.name for f in own(cls)} & {*getattr(cls, "ARRAYS", ()), *getattr(cls, "FILES", ())}


@_on_guard
def with_full_names(config: Config) -> Config:
    """The config with every file that it names by its full name: what is read later may be read from another folder."""
    nodes: dict[str, Any] = {}
    for group, cls in classes(config):
        node = nodes.setdefault(group, dict(getattr(config, group)))
        node |= {name: arrays.absolute(node[name]) for name in reads(cls) & node.keys()}
    start = None if config.start is None else os.path.abspath(file_of(config.start))
    return replace(config, start=start, **nodes)


@_on_guard
def algo_classes(config: Config) -> list[Any]:
    """The strategy and the mixing, if it names one, of an algo."""
    pairs = [("strategy", config.algo.get("strategy"))]
    pairs += [("mixing", name)] if (name := config.algo.get("mixing")) is not None else []
    return [class_of(kind, f"algo.{kind}", name) for kind, name in pairs]


def defaults(config: Config, names: Iterable[str]) -> dict[str, Any]:
    """What the algo's yaml says of these keys of the run, where they are not fields of its own classes."""
    mine = {f.name for cls in algo_classes(config) for f in own(cls)}
    return {name: config.algo[name] for name in names if name in config.algo and name not in mine}


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
    base = BASES.get(kind)
    if base is not None and not issubclass(found, base):
        raise ConfigError(f"{where}: {name} is no {base.__name__}; derive it from {base.__module__}.{base.__name__}")
    external.conforms(where, kind, found, base)
    for field, what in filled_by_run(found).items():
        if what not in (may := MAY_ASK.get(kind, NUMBERS)):
            raise ConfigError(
                f"{where}: {found.__name__}.{field} asks the run for its {what}, which a {kind} cannot have; it can have "
                f"{', '.join(may)}"
            )
    return found


class UnknownKey(ConfigError):
    """A key that what a group chooses does not have."""

    def __init__(self, key: str, choice: Any, why: str) -> None:
        super().__init__(f"{key}{choice}{why}")
        self._said = key, choice, why

    def of(self, choices: Mapping[str, Any]) -> ConfigError:
        """The same, with the choice as a user has named it: several yamls name one class."""
        key, choice, why = self._said
        group = key.partition(".")[0]
        return self if ":" in str(choice) else UnknownKey(key, choices.get(group) or choice, why)


def _refuse_unknown(where: str, choice: Any, node: Mapping[str, Any], known: set[str]) -> None:
    for name in node:
        if name not in known:
            from coopsgd.setup.suggestions import GONE, elsewhere

            has = f"known: {', '.join(sorted(known))}" if known else "it has no keys"
            close = "" if f"{where}.{name}" in GONE else did_you_mean(name, sorted(known))
            meant = close or elsewhere(where, name)
            raise UnknownKey(f"{where}.{name}: ", choice, f" has no such key{meant}; {has}")


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
        hints = _hints(cls)
    except Exception as error:  # an annotation names what its module does not have
        raise ConfigError(f"{where}: {cls.__name__} has annotations that cannot be read: {with_location(error, cls)}") from None
    return {name: value_of(f"{where}.{name}", hints.get(name), value, known.get(name)) for name, value in arguments.items()}


def _construct(kind: str, where: str, cls: Any, given: Mapping[str, Any], of_run: OfRun) -> Any:
    """The one place where a part is made: of the keys that are given, and what it asks of the run."""
    for f in own(cls):
        if f.name not in given and default_of(f) is MISSING:
            raise ConfigError(
                f"{where}.{f.name}: is missing, {cls.__name__} has no default for it; give it, as in {where}.{f.name}=VALUE"
            )
    with blamed(""):
        filled = {name: of_run(what) for name, what in filled_by_run(cls).items()}
    found = typed(where, cls, {**given, **filled})
    for names, may in (("IMPORTS", may_import), ("ARRAYS", may_read), ("FILES", may_read)):
        for name in set(getattr(cls, names, ())) & found.keys():
            may(f"{where}.{name}", found[name])
    found |= {name: arrays.absolute(found[name]) for name in reads(cls) & found.keys()}  # it may be read from another folder
    with blamed(where):
        try:
            return returned.guard(kind, cls(**found))
        except ValueError:
            raise
        except Exception as error:
            raise ConfigError(f"{where}: {cls.__name__} cannot be made: {with_location(error, cls)}") from None


def value_of(key: str, kind: Any, value: Any, f: Field[Any] | None = None) -> Any:
    """One value as its type says. ConfigError, naming the key, when it cannot be."""
    infinite = f is not None and bool(f.metadata.get("infinite"))
    if kind is bool and isinstance(value, int | float) and value not in (0, 1):
        raise ConfigError(f"{key}: must be {WANTED[bool]}, got {value!r}")
    if kind is not str or not isinstance(value, int | float):  # of which a word is made below
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


@contextlib.contextmanager
def blamed(where: str) -> Iterator[None]:
    """Turn a ValueError of a part into a ConfigError; the part's own words already name thing, value and way out."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        line = str(error) + location(error)
        raise ConfigError(line if not where or where in line else f"{where}: {line}") from None
