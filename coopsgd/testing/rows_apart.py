"""Finds arithmetic across rows in plain torch: each call of a strategy is repeated with all rows but one made NaN."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from coopsgd.fleet.base import Pending
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import Config
from coopsgd.strategies.base import Strategy, Tick
from coopsgd.testing.runs import Recorder, make_loop, rows_of_steps


def rows_stay_apart(name: str, config: Config) -> None:
    """What a method makes of a row depends on that row, on common values and on the answers of verbs, on nothing else."""
    strategy = Parts(config).strategy
    written = [
        n for n in ("direction", "shift", "send", "receive", "answer") if getattr(type(strategy), n) is not getattr(Strategy, n)
    ]
    written = [n for n in written if getattr(type(strategy), n) is not None]
    members = {n: _replayed(name, n, getattr(strategy, n)) for n in written}
    loop = make_loop(config, observer=Recorder())
    for n, member in members.items():
        object.__setattr__(loop.strategy, n, member)
    rows_of_steps(loop, config.steps or 0)
    if "answer" in members:
        with loop.fleet.measuring():
            loop.strategy.answer(loop.fleet, loop.state.x, loop.state.s)


def _replayed(name: str, method: str, real: Callable[..., Any]) -> Callable[..., Any]:
    """The method; each call is repeated with rows that cannot be read, one argument at a time."""
    names = list(inspect.signature(getattr(Strategy, method)).parameters)[1:]

    def called(fleet: Any, *arguments: Any) -> Any:
        tape = _Tape(fleet)
        known = copy.deepcopy(arguments)
        found = real(tape, *arguments)
        rows = len(fleet.layout.rows(fleet.rank))
        outputs = [*_tensors(_unpending(found), ""), *tape.given]
        for at, _ in enumerate(known):
            for path, tensor in _tensors(known[at], names[at + 1]):
                if tensor.ndim == 0 or len(tensor) != rows or not tensor.is_floating_point():
                    continue
                for i in (0, rows - 1):
                    _replay(f"{name}.{method}", path, i, real, tape, known, at, outputs, rows)
        return found

    return called


def _replay(
    where: str, path: str, i: int, real: Any, tape: _Tape, known: tuple[Any, ...], at: int, outputs: Any, rows: int
) -> None:
    arguments = copy.deepcopy(known)
    hidden = dict(_tensors(arguments[at], path.split(".")[0]))[path]
    others = [j for j in range(rows) if j != i]
    hidden[others] = float("nan")
    again = tape.again()
    fault = f"{where}: what it makes of row {i} depends on other rows of `{path}`, which are in other processes; "
    fault += "whatever crosses rows goes through fleet.mix, mean or pick"
    try:
        found = real(again, *arguments)
    except Exception as error:
        raise AssertionError(f"{fault} ({type(error).__name__}: {error})") from error
    for (_, expected), (_, got) in zip(outputs, [*_tensors(_unpending(found), ""), *again.given], strict=True):
        mine = [i] if got.ndim and len(got) == rows else slice(None)
        same = got.shape == expected.shape and torch.equal(
            torch.nan_to_num(got[mine], 7e77), torch.nan_to_num(expected[mine], 7e77)
        )
        assert same, fault


class _Tape:
    """A fleet that remembers what its verbs were given and answered, or answers from memory."""

    def __init__(self, fleet: Any, answers: list[Any] | None = None) -> None:
        self._fleet, self._answers = fleet, answers
        self.given: list[tuple[str, Tensor]] = []
        self.answers: list[Any] = []

    def again(self) -> _Tape:
        return _Tape(self._fleet, copy.deepcopy(self.answers))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fleet, name)

    def mix(self, W: Any, *xs: Tensor, exact: Sequence[Tensor] = ()) -> Any:
        xs = (*xs, *exact)
        found = self._asked("mix", W, *xs).wait()
        for x, new in zip(xs, found if isinstance(found, tuple) else (found,), strict=True):
            if x is not new:
                x.copy_(new)
        return xs[0] if len(xs) == 1 else xs

    def mean(self, *xs: Tensor) -> Any:
        return self._asked("mean", *xs).wait()

    def pick(self, x: Tensor, i: int) -> Any:
        return self._asked("pick", x, i).wait()

    def spread(self, W: Any, packed: Tensor) -> Tensor:
        return self._asked("spread", W, packed).wait()

    def later(self, verb: Any, *args: Any, exact: Sequence[Tensor] = ()) -> Pending:
        given = (a.clone() if isinstance(a, Tensor) else a for a in (*args, *exact))
        return self._asked(verb.__name__, *given, later=True)

    def _asked(self, verb: str, *args: Any, later: bool = False) -> Pending:
        self.given += [(verb, a.clone()) for a in args if isinstance(a, Tensor)]
        if self._answers is not None:
            answers = self._answers
            return Pending(lambda: answers.pop(0))
        fleet, at = self._fleet, len(self.answers)
        self.answers.append(None)
        pending = fleet.later(getattr(fleet, verb), *args) if later else Pending(lambda: getattr(fleet, verb)(*args))

        def wait() -> Any:
            found = pending.wait()
            self.answers[at] = copy.deepcopy(found)
            return found

        return Pending(wait)


def _unpending(found: Any) -> Any:
    """What a method returned, without what still waits for a message."""
    return (
        () if isinstance(found, Pending) or (isinstance(found, tuple) and any(isinstance(f, Pending) for f in found)) else found
    )


def _tensors(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor within, and what it is called."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _tensors(one, f"{path}.{key}")
    elif isinstance(value, tuple | list):
        for key, one in zip(getattr(value, "_fields", range(len(value))), value, strict=True):
            yield from _tensors(one, f"{path}.{key}")
    elif is_dataclass(value) and not isinstance(value, type) and not isinstance(value, Tick):
        for f in fields(value):
            yield from _tensors(getattr(value, f.name), f"{path}.{f.name}")
