"""What a user's methods return, checked as it comes: type, shape, dtype, range, in one line naming class and method.

`guard` stands in front of the methods of a class that is not this package's own, as soon as it is built; what comes from this
package costs nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from coopsgd.setup.external import ExternalError, is_external

WHOLE = (int, np.integer)


def guard(kind: str, thing: Any) -> Any:
    """The same object; what its methods return is checked from now on, if they are a user's."""
    if is_external(thing):
        for name, check in CHECKS.get(kind, {}).items():
            if _own(thing, name) and getattr(thing, name) is not None:
                object.__setattr__(thing, name, _checked(_Place(thing, name), getattr(thing, name), check))
        for name, check in PROPERTIES.get(kind, {}).items():
            if _own(thing, name):
                check(_Place(thing, name), getattr(thing, name))
    return thing


def _own(thing: Any, name: str) -> bool:
    """Is it written by a user, not inherited from here?"""
    home = next((cls for cls in type(thing).__mro__ if name in cls.__dict__), None)
    return home is not None and is_external(home)


class _Place:
    """A method of a user's class: who it is in messages, and what is remembered of it."""

    def __init__(self, thing: Any, name: str) -> None:
        self.thing, self.name = thing, name
        self.memory: Any = None

    def fail(self, what: str, instead: str) -> ExternalError:
        return ExternalError(f"{type(self.thing).__name__}.{self.name}: returned {what}; return {instead}")


def _checked(place: _Place, method: Callable[..., Any], check: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return check(place, method(*args, **kwargs), *args, **kwargs)

    return call


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # who returns a tensor has imported it
    return torch is not None and isinstance(value, torch.Tensor)


def described(value: Any) -> str:
    """A value in a message."""
    if _is_tensor(value):
        return f"a tensor of shape {tuple(value.shape)} and {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and {value.dtype}"
    if value is None or isinstance(value, bool | int | float | complex | str | np.number):
        return repr(value)
    return f"a {type(value).__name__}"


# strategies


def _like(place: _Place, new: Any, old: Any, rows: int, name: str) -> Any:
    """A tensor of so many rows, in all else like the rows `old`."""
    if new is old and rows == len(old):
        return new
    wanted = (rows, old.shape[1])
    if not _is_tensor(new) or tuple(new.shape) != wanted:
        what = "the same shape" if rows == len(old) else f"shape {wanted}"
        raise place.fail(f"{described(new)} for rows {tuple(old.shape)}", f"{name} of {what}")
    if new.dtype != old.dtype or new.device != old.device:
        raise place.fail(
            f"{described(new)} on {new.device} for rows of {str(old.dtype).removeprefix('torch.')} on {old.device}",
            "the same kind",
        )
    if new.requires_grad:
        raise place.fail("a tensor that carries a gradient", "it detached")
    return new


def _pair(place: _Place, found: Any, what: str) -> None:
    if not isinstance(found, tuple) or len(found) != 2:
        many = f"a tuple of {len(found)}" if isinstance(found, tuple) else described(found)
        raise place.fail(many, f"the pair ({what}, state)")


def _rows_and_state(what: str) -> Callable[..., Any]:
    """Of receive and direction: Rows like those given, or a Common, and a state."""

    def check(place: _Place, found: Any, fleet: Any, t: Any, given: Any, *_: Any) -> Any:
        _pair(place, found, what)
        rows = found[0]
        _like(place, rows, given, 1 if _is_tensor(rows) and rows.ndim == 2 and len(rows) == 1 else len(given), "Rows")
        return found

    return check


_stepped = _rows_and_state("rows")


def _sent(place: _Place, found: Any, *_: Any, **__: Any) -> Any:
    for one in found if isinstance(found, tuple) else (found,):
        if not hasattr(one, "wait"):
            raise place.fail(described(one), "what fleet.later returns, or a tuple of those")
    return found


def _common(place: _Place, found: Any, fleet: Any, x: Any, *more: Any) -> Any:
    return _like(place, found, x, 1, "one model, a Common")


def _work(place: _Place, found: Any, m: int, round: int, tau: int) -> Any:
    if found is None:
        return found
    if not isinstance(found, np.ndarray) or found.shape != (m,) or not np.issubdtype(found.dtype, np.integer):
        raise place.fail(described(found), f"None or an array of {m} whole numbers, the local steps of each worker")
    if found.min() < 0:
        raise place.fail(f"{found.min()} local steps for worker {found.argmin()}", "numbers that are not negative")
    return found


def _is_matrix(value: Any) -> bool:
    known = sys.modules.get("coopsgd.mixing.matrix")  # who returns one has imported it
    return known is not None and isinstance(value, known.Matrix)


def _matrices(place: _Place, found: Any, m: int, r: int) -> tuple[Any, ...]:
    n = m + place.thing.num_aux
    if isinstance(found, np.ndarray) or _is_matrix(found) or not hasattr(found, "__iter__"):
        raise place.fail(described(found), f"a tuple of ({n}, {n}) arrays, in the order they are applied")
    matrices = tuple(found)
    for W in matrices:
        if _is_matrix(W) and len(W) == n:
            continue
        if not isinstance(W, np.ndarray) or W.shape != (n, n) or W.dtype.kind not in "fiu":
            raise place.fail(f"{described(W)} for communication {r}", f"({n}, {n}) arrays of real numbers, workers first")
        if not np.isfinite(W).all():
            raise place.fail(f"a W that is not finite for communication {r}", "finite numbers")
    return matrices


def _mixing(place: _Place, found: Any, m: int, r: int) -> tuple[Any, ...]:
    matrices = _matrices(place, found, m, r)
    for W in matrices:
        sums = W.row_sums if _is_matrix(W) else W.sum(1)
        off = np.abs(sums - 1)
        if off.max() > 1e-6:
            i = int(off.argmax())
            raise place.fail(f"a W whose row {i} sums to {sums[i]:.6g} for communication {r}", "rows that sum to 1")
    return matrices


def _must(be: Callable[[Any], bool], wanted: str) -> Callable[..., Any]:
    """Something that can be judged by itself."""

    def check(place: _Place, found: Any, *_: Any, **__: Any) -> Any:
        if not be(found):
            raise place.fail(described(found), wanted)
        return found

    return check


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(np.isfinite(value))


def _has_shape(value: Any, rows: int | None, columns: int | None) -> bool:
    """Is it a tensor of real numbers in two dimensions, of so many rows and columns? None: any number."""
    real = _is_tensor(value) and value.ndim == 2 and value.is_floating_point()
    return real and rows in (None, value.shape[0]) and columns in (None, value.shape[1])


def _count(least: int, none: bool = False) -> Callable[..., Any]:
    def check(place: _Place, found: Any, *_: Any, **__: Any) -> Any:
        if none and found is None:
            return found
        if isinstance(found, bool) or not isinstance(found, WHOLE) or found < least:
            raise place.fail(described(found), f"a whole number of at least {least}{' or None' * none}")
        return int(found)

    return check


def _next(place: _Place, found: Any, *_: Any) -> Any:
    _pair(place, found, "local steps")
    steps, s = found
    if isinstance(steps, bool) or not isinstance(steps, WHOLE) or steps < 1:
        raise place.fail(f"{described(steps)} local steps", "a whole number of at least 1")
    return int(steps), s


# graphs and partitions


def _adjacency(place: _Place, found: Any, m: int, seed: int = 0) -> np.ndarray:
    wanted = f"an ({m}, {m}) array of bool, [i, j] where worker i takes from worker j"
    if hasattr(found, "nodes") and hasattr(found, "edges"):
        raise place.fail(
            f"a networkx graph, {type(found).__name__}", f"networkx.to_numpy_array(graph, nodelist=range({m})) > 0, {wanted}"
        )
    if not isinstance(found, np.ndarray) or found.shape != (m, m):
        raise place.fail(described(found), wanted)
    if found.dtype != bool:
        if found.dtype.kind not in "fiu" or not np.isin(found, (0, 1)).all():
            raise place.fail(f"{described(found)} that holds more than 0 and 1", f"{wanted}; weights are the algo's")
        found = found.astype(bool)
    if found.diagonal().any():
        i = int(found.diagonal().argmax())
        raise place.fail(f"a graph in which worker {i} is its own neighbour", "one without self-loops")
    return found


def _links(place: _Place, found: Any, m: int, seed: int = 0) -> Any:
    known = sys.modules.get("coopsgd.mixing.graphs")  # who returns some has imported it
    if known is None or not isinstance(found, known.Links) or found.m != m:
        raise place.fail(described(found), f"the Links of {m} workers, as in coopsgd.mixing.graphs")
    return found


def _dealt(place: _Place, found: Any, labels: np.ndarray, workers: int, seed: int, epoch: int = 0) -> list[np.ndarray]:
    n = len(labels)
    if isinstance(found, str | bytes | dict | set) or not hasattr(found, "__len__") or not hasattr(found, "__getitem__"):
        raise place.fail(described(found), f"a list of {workers} arrays of sample numbers, one a worker")
    if len(found) != workers:
        raise place.fail(f"{len(found)} shares for {workers} workers", "one for each")
    shares = []
    owner = np.full(n, -1)
    for i in range(workers):
        share = np.asarray(found[i]) if isinstance(found[i], np.ndarray | list | tuple | range) else None
        if share is None or share.ndim != 1:
            raise place.fail(
                f"{described(found[i] if share is None else share)} as the share of worker {i}",
                "arrays (n_i,) of sample numbers",
            )
        if not len(share):
            raise place.fail(f"no sample for worker {i}", "at least one for each")
        if share.dtype.kind not in "iu":
            raise place.fail(f"{described(share)} as the share of worker {i}", "whole numbers, of samples")
        low, high = int(share.min()), int(share.max())
        if low < 0 or high >= n:
            raise place.fail(f"sample {low if low < 0 else high} for worker {i}", f"numbers from 0 to {n - 1}")
        if len(np.unique(share)) < len(share):
            twice, counts = np.unique(share, return_counts=True)
            raise place.fail(f"sample {twice[counts.argmax()]} twice for worker {i}", "each sample once")
        taken = share[owner[share] >= 0]
        if len(taken):
            raise place.fail(f"sample {taken[0]} for workers {owner[taken[0]]} and {i}", "shares that do not overlap")
        owner[share] = i
        shares.append(share.astype(np.int64))
    sizes = [len(share) for share in shares]
    if epoch:
        place.memory = place.memory or [len(s) for s in type(place.thing).deal(place.thing, labels, workers, seed)]
        for i, (now, first) in enumerate(zip(sizes, place.memory, strict=True)):
            if now != first:
                raise place.fail(f"{now} samples for worker {i} in epoch {epoch} and {first} in epoch 0", "sizes that stay")
    return shares


# data, models, tasks


def _images(place: _Place, found: Any, *_: Any, **__: Any) -> Any:
    """What Images does not know of itself. Once an object: a second call of `load` is cheap, and what it returns the same."""
    if place.memory is found or not hasattr(found, "train_x"):  # a text is of another kind
        return found
    shape, classes = tuple(place.thing.SHAPE), place.thing.CLASSES
    for part in ("train", "test"):
        x, y = getattr(found, f"{part}_x"), getattr(found, f"{part}_y")
        if x.shape[1:] != shape:
            raise place.fail(f"{described(x)} as {part}_x", f"samples of shape {shape}, as SHAPE says")
        if y.ndim > 1 and y.shape[1] != classes:
            raise place.fail(f"{described(y)} as {part}_y", f"{classes} numbers a sample, as CLASSES says")
        if y.dtype == np.uint8 and y.max() > 1:
            raise place.fail(f"{y.max()} among several labels of {part}_y", "0 and 1")
        if y.dtype != np.int64 and not np.isfinite(y).all():
            raise place.fail(f"a number that is not finite in {part}_y", "finite numbers")
        if y.ndim == 1 and (y.min() < 0 or y.max() >= classes):
            bad = y.min() if y.min() < 0 else y.max()
            raise place.fail(f"label {bad} in {part}_y", f"labels from 0 to {classes - 1}, as CLASSES says")
        if x.dtype != np.uint8 and not np.isfinite(x).all():
            first = int(np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))[0])
            raise place.fail(f"a number that is not finite in sample {first} of {part}_x", "finite numbers")
    place.memory = found
    return found


def _module(place: _Place, found: Any, *_: Any, **__: Any) -> Any:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(found, torch.nn.Module):
        raise place.fail(described(found), "a torch.nn.Module")
    if not any(p.requires_grad for p in found.parameters()):
        raise place.fail("a module without a parameter to learn", "one that has some")
    return found


def _seconds(place: _Place, found: Any, m: int, seed: int, k: int) -> Any:
    if not isinstance(found, np.ndarray) or found.shape != (m,) or found.dtype.kind not in "fiu":
        raise place.fail(described(found), f"an array of {m} numbers, the seconds of each worker")
    if not (np.isfinite(found) & (found >= 0)).all():
        raise place.fail(f"{found.min()} to {found.max()} seconds for step {k}", "finite numbers that are not negative")
    return found


def _numbers(place: _Place, found: Any, *_: Any) -> Any:
    if not isinstance(found, dict) or not all(value is None or isinstance(value, int | float) for value in found.values()):
        raise place.fail(described(found), "a dict of numbers, as {'eval/loss': 0.5, 'eval/accuracy': None}")
    if missing := {"eval/loss", "eval/accuracy"} - set(found):
        raise place.fail(f"a dict without {' and '.join(sorted(missing))}", "both, None for what the task has not")
    return found


def _problem(place: _Place, found: Any, *_: Any) -> Any:
    missing = [name for name in ("start", "bind", "gradients", "evaluate", "accuracies") if not hasattr(found, name)]
    if missing:
        raise place.fail(f"{described(found)} without {', '.join(missing)}", "a Problem as in coopsgd.tasks.base")
    return guard("problem", found)


CHECKS: dict[str, dict[str, Callable[..., Any]]] = {
    "strategy": {"direction": _rows_and_state("direction"), "send": _sent, "receive": _stepped, "answer": _common},
    "mixing": {
        "matrices": _mixing,
        "work": _work,
        "cycle": _count(1, none=True),
        "zeta": _must(lambda x: x is None or _is_finite(x), "a finite number or None"),
    },
    "period": {"next": _next, "at_most": _count(1, none=True)},
    "graph": {"adjacency": _adjacency, "links": _links},
    "partition": {"deal": _dealt},
    "data": {"load": _images},
    "model": {"build": _module, "parameters": _count(1), "statistics": _count(0)},
    "task": {"build": _problem, "dimension": _count(1), "statistics": _count(0), "steps_per_epoch": _count(1, none=True)},
    "problem": {
        "start": _must(lambda x: _has_shape(x, 1, None), "one model, a tensor of shape (1, d)"),
        "gradients": _must(lambda x: _has_shape(x, None, 1), "losses of shape (r, 1), one a row"),
        "evaluate": _numbers,
    },
    "cluster": {"step_times": _seconds},
}
_FLAG = _must(lambda x: isinstance(x, bool | np.bool_), "True or False")
PROPERTIES: dict[str, dict[str, Callable[..., Any]]] = {
    "mixing": {"num_aux": _count(0), "times_itself": _FLAG},
    "period": {"foreseen": _FLAG, "largest": _count(1, none=True)},
    "partition": {"moves": _FLAG},
    "data": {"CLASSES": _count(1)},
}
