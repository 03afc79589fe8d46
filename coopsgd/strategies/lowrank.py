"""Rows as factors of their matrices: what a message of codec=powersgd is made of.

M (n, p) is P Q^T with P (n, k) orthonormal. In a message come the P of all matrices, then their Q, then what is no matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from coopsgd.host.transfer import brought
from coopsgd.strategies.codec import whole
from coopsgd.strategies.coder import Coder
from coopsgd.strategies.packing import numbers, raw

if TYPE_CHECKING:
    from coopsgd.fleet.block import Block
    from coopsgd.strategies.powersgd import PowerSGD


class _Matrix(NamedTuple):
    block: Block  # where it lies in what travels
    shape: tuple[int, int]
    left: slice  # of the numbers of all P
    right: slice  # of all Q that travel
    kept: slice  # of all Q there are


class Factors(Coder):
    """The codec on rows of these blocks. P, Q and what is left are (r, n) or (1, n), all matrices one behind the other."""

    def __init__(
        self, codec: PowerSGD, blocks: Sequence[Block], columns: Tensor | None, width: int, dtype: torch.dtype, k: int
    ) -> None:
        super().__init__(codec, (), width, dtype, k)
        self._rank, self._first = codec.rank, partial(codec.begin, blocks)
        starts = {block: start for block, start, _ in whole(blocks, columns) if block is not None}
        self._matrices: list[_Matrix] = []
        left = right = kept = 0
        for block in blocks:
            if block.matrix is None or not codec.shrinks(block):
                continue
            (n, p), k = block.matrix, codec.rank
            if block in starts:
                at = starts[block]
                places = slice(left, left + n * k), slice(right, right + p * k), slice(kept, kept + p * k)
                self._matrices.append(_Matrix(block._replace(start=at), (n, p), *places))
                left, right = left + n * k, right + p * k
            kept += p * k
        taken = sorted((one.block.start, one.block.start + one.shape[0] * one.shape[1]) for one in self._matrices)
        gaps = zip([0, *(stop for _, stop in taken)], [*(start for start, _ in taken), width], strict=True)
        self._rest = np.concatenate([np.arange(start, stop) for start, stop in gaps])
        self._rest_at: dict[torch.device, Tensor] = {}  # the same, where it was asked for
        self._parts = [left, right, len(self._rest)]
        self.sizes = [sum(self._parts) * dtype.itemsize]

    # one row by itself

    def pack(self, v: Tensor, rows: Sequence[int], contract: bool, memory: Tensor | None = None) -> Tensor:
        assert memory is not None
        if v.is_meta:
            return v.new_empty(len(v), sum(self.sizes), dtype=torch.uint8)
        P = self.orthonormal(self._lefts(v, memory))
        return raw(torch.cat([P, self.rights(v, P), self._others(v)], 1))

    def read(self, packed: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        if packed.is_meta:
            return packed.new_zeros(len(packed), self.width, dtype=self.dtype), None
        return self.product(*numbers(packed, self.dtype, sum(self._parts)).split(self._parts, 1)), None

    def recalled(self, packed: Tensor, memory: Tensor) -> Tensor:
        if packed.is_meta:
            return memory
        return self.remembered(memory, numbers(packed, self.dtype, sum(self._parts)).split(self._parts, 1)[1])

    # all workers together

    def first(self, v: Tensor, memory: Tensor) -> Tensor:
        """(r, n) what is averaged first: M Q, and what is no matrix."""
        return torch.cat([self._lefts(v, memory), self._others(v)], 1)

    def of_first(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """P, orthonormal, and what is no matrix, of the average of `first`."""
        P, rest = mean.split([self._parts[0], self._parts[2]], 1)
        return self.orthonormal(P), rest

    def rights(self, v: Tensor, P: Tensor) -> Tensor:
        """(r, n) what is averaged then: M^T P."""
        found = v.new_empty(len(v), self._parts[1])
        for one in self._matrices:
            n, p = one.shape
            found[:, one.right].unflatten(1, (p, -1)).copy_(
                one.block.matrices(v).transpose(1, 2) @ self._thin(P[:, one.left], n)
            )
        return found

    def product(self, P: Tensor, Q: Tensor, rest: Tensor) -> Tensor:
        """(q, w) what factors and the rest stand for."""
        found = P.new_zeros(len(P), self.width)
        for one in self._matrices:
            n, p = one.shape
            one.block.matrices(found).copy_(self._thin(P[:, one.left], n) @ self._thin(Q[:, one.right], p).transpose(1, 2))
        found[:, self._rest_on(found.device)] = rest
        return found

    def left_out(self, v: Tensor, q: Tensor) -> Tensor:
        """Of v by q: nothing of what is no matrix, which was sent as it is."""
        found = v - q
        found[:, self._rest_on(found.device)] = 0
        return found

    def remembered(self, memory: Tensor, Q: Tensor) -> Tensor:
        """The Q to begin with next time, of all matrices there are; of a column that is rounding alone the first one.

        A matrix of a lower rank has such columns, or one of zeros: what they lead to would differ from placement to placement.
        """
        found, first = memory.clone(), self._first(memory)
        for one in self._matrices:
            new, old = (self._thin(part, one.shape[1]) for part in (Q[:, one.right], first[:, one.kept]))
            size = new.norm(dim=1, keepdim=True)
            lost = size <= size.amax(2, keepdim=True) * torch.finfo(Q.dtype).eps ** 0.75
            found[:, one.kept] = torch.where(lost, old, new).flatten(1)
        return found

    def orthonormal(self, P: Tensor) -> Tensor:
        """Each matrix with orthonormal columns that span what its own do, and more where those are too few."""
        found = torch.empty_like(P)
        for one in self._matrices:
            n, _ = one.shape
            self._thin(found[:, one.left], n).copy_(_orthonormal(self._thin(P[:, one.left], n)))
        return found

    def _lefts(self, v: Tensor, memory: Tensor) -> Tensor:
        found = v.new_empty(len(v), self._parts[0])
        for one in self._matrices:
            n, p = one.shape
            Q = _orthonormal(self._thin(memory[:, one.kept], p))
            self._thin(found[:, one.left], n).copy_(one.block.matrices(v) @ Q)
        return found

    def _others(self, v: Tensor) -> Tensor:
        return v[:, self._rest_on(v.device)]

    def _rest_on(self, device: torch.device) -> Tensor:
        if device not in self._rest_at:
            self._rest_at[device] = brought(self._rest, device)
        return self._rest_at[device]

    def _thin(self, part: Tensor, n: int) -> Tensor:
        """(r, n, k)."""
        return part.unflatten(1, (n, self._rank))


def _orthonormal(x: Tensor) -> Tensor:
    return torch.linalg.qr(x).Q
