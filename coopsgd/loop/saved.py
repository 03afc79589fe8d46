"""State as something that can be written down: a tree of plain values, whose tensors say whose they are.

Whatever changes in a run answers `saved()` with such a tree and takes one back with `restore(tree)`. A tensor in it is marked:
`ByRow` where each row belongs to a member, wherever that member is held, `Shared` where all processes hold the same,
`ByProcess` where each has its own. Everything else is None, a number, a text, an array (the same in every process), or a
tuple, list, dict, NamedTuple or dataclass of such. `flatten` parts the tree from its tensors, `inflate` joins them again.

A strategy's state is marked by the annotations of its fields (`Rows`, `Common`), see `marked`.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coopsgd.strategies.base import Around, Strategy, layers


@dataclass(frozen=True, eq=False)
class ByRow:
    """(r, ...) one row a member held here, in parts that lie one below the other: views, nothing is copied.

    Of r = the workers held here, auxiliary rows have none.
    """

    parts: Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class Shared:
    """The same in every process."""

    tensor: Tensor


@dataclass(frozen=True, eq=False)
class ByProcess:
    """Each process its own, of one shape. On another number of processes the first has their sum and the others zeros."""

    tensor: Tensor


Leaf = ByRow | Shared | ByProcess
PLAIN = (type(None), bool, int, float, str)
CONTRACT = "coopsgd.strategies.base"


@dataclass(frozen=True, eq=False)
class Record:
    """A NamedTuple or a dataclass, by the name of its class."""

    qualname: str
    fields: dict[str, Any]


class NotSaved(TypeError):
    """A value that cannot be written down; the message names where it is."""


def flatten(tree: Any) -> tuple[Any, dict[str, Leaf]]:
    """The tree as JSON, and its tensors by the place they have in it. NotSaved when something in it is of no known kind."""
    tensors: dict[str, Leaf] = {}

    def walk(value: Any, at: str) -> Any:
        if isinstance(value, PLAIN):
            return value
        if isinstance(value, np.generic) and isinstance(value.item(), PLAIN):
            return value.item()
        if isinstance(value, Leaf):
            tensors[at] = value
            return {"tensor": type(value).__name__}
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            tensors[at] = Shared(torch.from_numpy(np.ascontiguousarray(value)).reshape(value.shape))
            return {"array": type(tensors[at]).__name__}
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {"dict": {key: walk(one, f"{at}.{key}") for key, one in value.items()}}
        if (record := _record(value)) is not None:
            return {"class": record.qualname, "fields": {n: walk(one, f"{at}.{n}") for n, one in record.fields.items()}}
        if type(value) in (list, tuple):
            return {type(value).__name__: [walk(one, f"{at}.{i}") for i, one in enumerate(value)]}
        raise NotSaved(f"{at.lstrip('.')} is a {type(value).__name__}, which no checkpoint can hold")

    return walk(tree, ""), tensors


def inflate(skeleton: Any, read: Callable[[str, str], Tensor], modules: Iterable[Any] = ()) -> Any:
    """The tree that was flattened, its tensors unmarked. read(place, kind): a tensor that may be kept.

    modules: where the classes are looked for that were in it; nothing is imported. NotSaved when one is not there.
    """
    places = list(modules)

    def build(node: Any, at: str) -> Any:
        if not isinstance(node, dict):
            return node
        kind, content = next(iter(node.items()))
        if kind == "tensor":
            return read(at, content)
        if kind == "array":
            return read(at, content).numpy()
        if kind == "dict":
            return {key: build(one, f"{at}.{key}") for key, one in content.items()}
        if kind == "class":
            cls = _class_named(content, places)
            return cls(**{name: build(one, f"{at}.{name}") for name, one in node["fields"].items()})
        return {"list": list, "tuple": tuple}[kind](build(one, f"{at}.{i}") for i, one in enumerate(content))

    return build(skeleton, "")


def places(skeleton: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Place and kind of each tensor of a tree that was flattened, in the order in which `inflate` reads them."""
    if not isinstance(skeleton, dict):
        return
    kind, content = next(iter(skeleton.items()))
    if kind in ("tensor", "array"):
        yield at, content
        return
    below = skeleton["fields"].items() if kind == "class" else content.items() if kind == "dict" else enumerate(content)
    for name, one in below:
        yield from places(one, f"{at}.{name}")


def placed(tree: Any, device: torch.device) -> Any:
    """The tree with its tensors on this device."""
    if isinstance(tree, Tensor):
        return tree.to(device)
    if isinstance(tree, dict):
        return {key: placed(one, device) for key, one in tree.items()}
    if (record := _record(tree)) is not None:
        return type(tree)(**{name: placed(one, device) for name, one in record.fields.items()})
    return type(tree)(placed(one, device) for one in tree) if type(tree) in (list, tuple) else tree


def _record(value: Any) -> Record | None:
    if isinstance(value, Record):
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return Record(type(value).__qualname__, dict(zip(value._fields, value, strict=True)))
    if is_dataclass(value) and not isinstance(value, type):
        return Record(type(value).__qualname__, {f.name: getattr(value, f.name) for f in fields(value)})
    return None


def homes(*parts: Any) -> list[Any]:
    """The modules in which the classes of these parts and those they derive from are written, and that of the contract."""
    every = [one for p in parts for one in (layers(p) if isinstance(p, Strategy) else [p])]
    return [sys.modules[name] for name in dict.fromkeys([*(c.__module__ for p in every for c in type(p).__mro__), CONTRACT])]


def _class_named(qualname: str, places: Sequence[Any]) -> Any:
    for home in places:
        found: Any = home
        for part in qualname.split("."):
            found = getattr(found, part, None)
        if isinstance(found, type):
            return found
    where = ", ".join(home.__name__ for home in places if home.__name__ not in ("builtins", CONTRACT))
    raise NotSaved(f"its state is a {qualname}, and there is no such class at the top of {where}; write it there")


def marked(state: Any, annotation: Any, where: str) -> Any:
    """A strategy's state with its tensors marked, by the annotations of the fields they are in, or else by `annotation`.

    where: what to call it in the message. NotSaved when nothing says whose a tensor is.
    """
    if isinstance(state, Tensor):
        kinds = set(re.findall(r"\b(Rows|Common)\b", annotation if isinstance(annotation, str) else repr(annotation)))
        if len(kinds) != 1:
            raise NotSaved(
                f"{where} is a tensor, and nothing says whose; annotate it as Rows (a row a member) or Common (one for all)"
            )
        return ByRow([state]) if kinds == {"Rows"} else Shared(state)
    if (record := _record(state)) is not None:
        notes = _annotations(type(state))
        content = {n: marked(one, notes.get(n, annotation), f"{where}.{n}") for n, one in record.fields.items()}
        return Record(record.qualname, content)
    if type(state) in (list, tuple):
        return type(state)(marked(one, annotation, f"{where}[{i}]") for i, one in enumerate(state))
    if isinstance(state, dict):
        return {key: marked(one, annotation, f"{where}[{key!r}]") for key, one in state.items()}
    return state


def _annotations(cls: type) -> dict[str, Any]:
    return {name: note for base in reversed(cls.__mro__) for name, note in inspect.get_annotations(base).items()}


def marked_state(strategy: Strategy, s: Any) -> Any:
    """A state of a strategy with its tensors marked; of an axis, its own and that of the algorithm in it."""
    cls = type(strategy)
    if isinstance(s, list):  # one of each block
        return [marked_state(strategy, one) for one in s]
    if isinstance(strategy, Around):
        found = marked(s._replace(own=None), "", f"{cls.__name__}: its state")
        found.fields["own"] = marked_state(strategy.algorithm, s.own)
        return found
    return marked(s, inspect.get_annotations(cls.init).get("return", ""), f"{cls.__name__}: its state")
