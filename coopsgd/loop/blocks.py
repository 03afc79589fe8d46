"""Rows in blocks: models whose numbers are of several kinds, bfloat16 beside float32, or on several devices.

A run has one tensor of Rows. Where no one tensor can hold a model, each kind is a block of columns, and a strategy acts on each
block by itself, in a message of its own: what it does to a row it does to every part of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from coopsgd.fleet.base import Pending
from coopsgd.loop.saved import ByRow, placed

if TYPE_CHECKING:
    from coopsgd.fleet.base import Fleet
    from coopsgd.fleet.block import Block
    from coopsgd.strategies.base import Strategy, Tick


class Blocks(tuple[Tensor, ...]):
    """(r, d_0), (r, d_1), ...: the same rows, some columns each."""

    __slots__ = ()

    @property
    def is_meta(self) -> bool:
        return self[0].is_meta

    def clone(self) -> Blocks:
        return Blocks(x.clone() for x in self)

    def copy_(self, others: Iterable[Tensor]) -> Blocks:
        return Blocks(x.copy_(y) for x, y in zip(self, others, strict=True))

    def sub_(self, others: Iterable[Tensor]) -> Blocks:
        return Blocks(x.sub_(y) for x, y in zip(self, others, strict=True))


def each(function: Callable[[Tensor], Tensor], x: Any) -> Any:
    """What a function makes of rows, of each block if they are in blocks."""
    return Blocks(map(function, x)) if isinstance(x, Blocks) else function(x)


def blocks_of(x: Any) -> tuple[Tensor, ...]:
    """The blocks of rows; of rows in one tensor that one."""
    return x if isinstance(x, Blocks) else (x,)


def by_row(x: Any) -> Any:
    """Rows, marked for a checkpoint."""
    return [ByRow([one]) for one in x] if isinstance(x, Blocks) else ByRow([x])


def like(tree: Any, x: Any) -> Any:
    """What was saved of these rows, or of a strategy's state beside them, brought to where they are; of blocks a list."""
    if not isinstance(x, Blocks):
        return placed(tree, x.device)
    return [placed(one, block.device) for one, block in zip(tree, x, strict=True)]


class Blockwise:
    """A strategy on rows in blocks. Its state is a list of states, one of each block.

    parameters: of each block, what its rows are made of: the fleet tells it of the block that is worked on.
    """

    def __init__(self, strategy: Strategy, parameters: Sequence[tuple[Block, ...]]) -> None:
        self._strategy, self._parameters = strategy, parameters

    def init(self, fleet: Fleet, x: Blocks) -> list[Any]:
        return [self._strategy.init(fleet, *one) for one in self._each(fleet, x)]

    def direction(self, fleet: Fleet, t: Tick, grad: Blocks, x: Blocks, s: list[Any]) -> tuple[Blocks, list[Any]]:
        found = [self._strategy.direction(fleet, t, *one) for one in self._each(fleet, grad, x, s)]
        return Blocks(direction for direction, _ in found), [state for _, state in found]

    def shift(self, fleet: Fleet, t: Tick, x: Blocks, s: list[Any]) -> tuple[list[Any], list[Any]]:
        found = [self._strategy.shift(fleet, t, *one) for one in zip(x, s, strict=True)]
        return [by for by, _ in found], [state for _, state in found]

    def send(self, fleet: Fleet, t: Tick, x: Blocks, s: list[Any]) -> Pending:
        sent = [self._strategy.send(fleet, t, *one) for one in self._each(fleet, x, s)]
        return Pending(lambda: [waited(pending) for pending in sent])

    def receive(self, fleet: Fleet, t: Tick, x: Blocks, heard: list[Any], s: list[Any]) -> tuple[Blocks, list[Any]]:
        found = [self._strategy.receive(fleet, t, *one) for one in self._each(fleet, x, heard, s)]
        return Blocks(rows for rows, _ in found), [state for _, state in found]

    def answer(self, fleet: Fleet, x: Blocks, s: list[Any]) -> Blocks:
        return Blocks(self._strategy.answer(fleet, *one) for one in self._each(fleet, x, s))

    def _each(self, fleet: Fleet, *lists: Any) -> Iterator[tuple[Any, ...]]:
        """What the lists have of one block after another."""
        for parameters, one in zip(self._parameters, zip(*lists, strict=True), strict=True):
            fleet.describe(parameters)
            yield one


def waited(pending: Pending | tuple[Pending, ...]) -> Any:
    """The answer of a verb that was started, or of several, in order."""
    return tuple(one.wait() for one in pending) if isinstance(pending, tuple) else pending.wait()
