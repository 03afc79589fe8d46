"""Rows as coefficients of a discrete cosine transform, chunk by chunk, and back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import pi
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from coopsgd.strategies.codec import Segments, whole
from coopsgd.strategies.coder import Coder

if TYPE_CHECKING:
    from coopsgd.fleet.block import Block
    from coopsgd.strategies.codec import Codec


class Piece(NamedTuple):
    """A matrix of what travels, cut into chunks; anything else as a matrix of one row."""

    block: Block | None  # where the matrix lies in what travels; None: what is no matrix
    start: int  # its first number in what travels
    shape: tuple[int, int]
    chunk: tuple[int, int]
    first: int  # its first coefficient

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]


def pieces(blocks: Sequence[Block], columns: Tensor | None, chunk: int) -> list[Piece]:
    """Of what travels, in the order of their coefficients: chunks of one length lie together."""
    found = []
    for block, start, length in whole(blocks, columns):
        shape = (1, length) if block is None or block.matrix is None else block.matrix
        placed = None if shape[0] == 1 or block is None else block._replace(start=start)
        found.append(Piece(placed, start, shape, (_divisor(shape[0], chunk), _divisor(shape[1], chunk)), 0))
    found.sort(key=lambda one: (one.chunk[0] * one.chunk[1], one.start))
    at, placed_ = 0, []
    for one in found:
        placed_.append(one._replace(first=at))
        at += one.size
    return placed_


def segments(found: Sequence[Piece]) -> Segments:
    """One a chunk."""
    lengths: dict[int, list[int]] = {}
    for one in found:
        L = one.chunk[0] * one.chunk[1]
        lengths.setdefault(L, []).extend(range(one.first, one.first + one.size, L))
    return tuple((tuple(starts), L) for L, starts in lengths.items())


class Waves(Coder):
    """A codec on coefficients of the orthonormal DCT-II of chunks of what travels."""

    def __init__(
        self, codec: Codec, blocks: Sequence[Block], columns: Tensor | None, width: int, dtype: torch.dtype, k: int
    ) -> None:
        self._pieces = pieces(blocks, columns, codec.chunk)  # type: ignore[attr-defined]
        super().__init__(codec, segments(self._pieces), width, dtype, k)

    def coded(self, v: Tensor) -> Tensor:
        found = torch.empty_like(v)
        for piece, matrix, coefficients in self._both(v, found):
            rows, columns = (basis(n, v.dtype, v.device) for n in piece.chunk)
            coefficients.copy_(rows @ _chunks(matrix, piece) @ columns.T)
        return found

    def restored(self, values: Tensor) -> Tensor:
        found = torch.zeros_like(values)
        for piece, matrix, coefficients in self._both(found, values):
            rows, columns = (basis(n, values.dtype, values.device) for n in piece.chunk)
            _chunks(matrix, piece).copy_(rows.T @ coefficients @ columns)
        return found

    def _both(self, v: Tensor, coefficients: Tensor) -> list[tuple[Piece, Tensor, Tensor]]:
        """Of each piece its numbers, (r, n, p), and its coefficients, chunk by chunk: views."""
        found = []
        for piece in self._pieces:
            n, p = piece.shape
            matrix = v[:, piece.start : piece.start + piece.size].unflatten(1, (n, p))
            if piece.block is not None:
                matrix = piece.block.matrices(v)
            h, w = piece.chunk
            part = coefficients[:, piece.first : piece.first + piece.size].unflatten(1, (n // h, p // w, h, w))
            found.append((piece, matrix, part))
        return found


def _chunks(matrix: Tensor, piece: Piece) -> Tensor:
    """(r, n / h, p / w, h, w) of (r, n, p), a view."""
    h, w = piece.chunk
    return matrix.unflatten(2, (-1, w)).unflatten(1, (-1, h)).transpose(2, 3)


@lru_cache(maxsize=256)
def _divisor(n: int, most: int) -> int:
    """The largest of n that is at most so much."""
    return next(s for s in range(min(n, most), 0, -1) if n % s == 0)


@lru_cache(maxsize=64)
def basis(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(n, n) the orthonormal DCT-II: its product with n numbers is their coefficients."""
    at = torch.arange(n, dtype=torch.float64)
    found = torch.cos(pi / n * (at + 0.5) * at.unsqueeze(1)) * (2 / n) ** 0.5
    found[0] /= 2**0.5
    return found.to(device, dtype)
