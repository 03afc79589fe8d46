"""The blocks that a row is made of: the parameters of a module, one behind the other, each a run of columns."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from coopsgd.fleet.base import Rows


class Block(NamedTuple):
    """One parameter, in the columns [start, stop) of Rows: row[start:].as_strided(shape, stride).

    Blocks come in the order of their columns and do not overlap; between them may lie a few zeros (on GPUs, in a user's own
    loop). A parameter's numbers fill its columns: weights of convolutions may lie there channels last, so only `of` and
    `matrices` tell which is which.
    hidden: the weight of a hidden layer, what optimisers of matrices are for; not an embedding, the first convolution, the last
    layer, nor of a normalisation.
    """

    name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int
    hidden: bool = False

    @property
    def size(self) -> int:
        """How many numbers."""
        return prod(self.shape)

    @property
    def stop(self) -> int:
        """The column behind its last."""
        return self.start + self.size

    @property
    def matrix(self) -> tuple[int, int] | None:
        """The shape of each of its `matrices`; None of what has fewer than two dimensions."""
        if len(self.shape) < 2:
            return None
        rows = self.shape[0] if self._first in ("outermost", "innermost") else self._lengths()[0]
        return rows, self.size // rows if rows else 0

    def of(self, rows: Rows) -> Tensor:
        """(r, *shape): its view of Rows, which writes through."""
        return rows.as_strided((len(rows), *self.shape), (rows.stride(0), *self.stride), rows.storage_offset() + self.start)

    def matrices(self, rows: Rows) -> Tensor:
        """(r, out, rest): the same as one matrix a row, a view too; `rest` in the order in which the numbers lie.

        That is another order of a matrix's columns than the parameter's own where weights lie channels last: what is done to
        a matrix must not depend on it. Only where `matrix` is not None.
        """
        assert self.matrix is not None
        part = rows[:, self.start : self.stop]
        out, rest = self.matrix
        return part.unflatten(1, (rest, out)).transpose(1, 2) if self._first == "innermost" else part.unflatten(1, (out, rest))

    @property
    def order(self) -> list[int]:
        """Which of the parameter's own columns, those of (shape[0], rest), each column of `matrices` is."""
        found: list[int] = [0]
        if self._first == "between":  # its matrices mix rows and columns
            return list(range(self.size // self.shape[0]))
        own = [prod(self.shape[i + 1 :]) for i in range(len(self.shape))]
        for step, length, mine in sorted(zip(self.stride[1:], self.shape[1:], own[1:], strict=True), reverse=True):
            found = [at + mine * i for at in found for i in range(length)] if step or length > 1 else found
        return found

    @property
    def _first(self) -> str:
        """Where its first dimension lies among the others."""
        steps = [step for step, length in zip(self.stride, self.shape, strict=True) if length > 1]
        if self.shape[0] <= 1 or self.stride[0] == max(steps):
            return "outermost"
        return "innermost" if self.stride[0] == min(steps) else "between"

    def _lengths(self) -> list[int]:
        """Of its dimensions, the outermost first."""
        return [length for _, length in sorted(zip(self.stride, self.shape, strict=True), reverse=True) if length > 1]


def vector(d: int) -> tuple[Block, ...]:
    """The blocks of a row of which nothing is known but how long it is."""
    return (Block("x", (d,), (1,), 0),)


class Described:
    """What a fleet knows of its rows."""

    _blocks: tuple[Block, ...] | Callable[[], tuple[Block, ...]] = ()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """What a row of the models is made of, parameter by parameter; the same in every process."""
        if not isinstance(self._blocks, tuple):
            self._blocks = self._blocks()
        return self._blocks

    def describe(self, blocks: tuple[Block, ...] | Callable[[], tuple[Block, ...]]) -> None:
        """Say what rows are made of from now on, or how to find it out when somebody asks."""
        self._blocks = blocks
