"""Codecs that send a few of the numbers and say which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from coopsgd.host.transfer import brought
from coopsgd.registry import option, register
from coopsgd.strategies.codec import TABLE, Codec, Draws, Segmented, Segments, check_bits, nbytes, tabled

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from coopsgd.fleet.block import Block
    from coopsgd.strategies.coder import Coder


def check_share(share: Any) -> None:
    """ValueError unless it is a share of the numbers that leaves some."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"codec.share: must be a number above 0 and at most 1, got {share!r}")


def kept(share: float, L: int) -> int:
    """How many of L numbers a share is, at least 1."""
    return max(1, round(share * L))


class Largest:
    """What codecs have in common that send the largest numbers of a segment, of equal ones those that come first.

    An index takes ceil(log2 L) bits. With bits, the values are quantised as `statistical` does.
    """

    SPARSE: ClassVar[bool] = True
    bits: Any

    def sent(self, L: int) -> int:
        """How many of a segment of L numbers."""
        raise NotImplementedError

    def size(self, s: int, L: int, itemsize: int) -> int:
        k = self.sent(L)
        values = s * k * itemsize if self.bits is None else tabled(s, k, self.bits, itemsize)
        return values + nbytes(s * k, (L - 1).bit_length())

    def pack(self, v: Tensor, draws: Draws, contract: bool) -> Tensor:
        import torch

        from coopsgd.strategies.packing import largest, pack, raw, to_table

        L = v.shape[2]
        at = largest(v, self.sent(L))
        values = v.gather(2, at)
        written = raw(values) if self.bits is None else to_table(values, self.bits)
        return torch.cat([written, pack(at.flatten(1), (L - 1).bit_length())], 1)

    def unpack(self, packed: Tensor, s: int, L: int, dtype: torch.dtype, draws: Draws) -> tuple[Tensor, Tensor | None]:
        from coopsgd.strategies.packing import from_table, numbers, scattered, unpack

        k, bits = self.sent(L), (L - 1).bit_length()
        places = nbytes(s * k, bits)
        written, where = packed.split([packed.shape[1] - places, places], 1)
        values = numbers(written, dtype, s, k) if self.bits is None else from_table(written, s, k, self.bits, dtype)
        return scattered(values, unpack(where, s * k, bits).view(-1, s, k), L)


@register("topk", "codec")
@dataclass(frozen=True)
class TopK(Largest, Segmented):
    """The largest numbers of each segment in size, of equal ones those that come first, and where they are.

    An index takes ceil(log2 L) bits. With bits, the values are quantised as `statistical` does.
    """

    share: float = option(0.01, "of the numbers of a segment that are sent, at least one", unit="share")
    bits: Any = option(None, "of a value; null: as it is", unit="bits", type="int or null")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.share)
        if self.bits is not None:
            check_bits(self.bits, most=TABLE)

    def sent(self, L: int) -> int:
        return kept(self.share, L)


@register("dct", "codec")
@dataclass(frozen=True)
class DCT(Largest, Codec):
    """The largest coefficients of the orthonormal DCT-II of chunks, and which they are: s x s numbers of a matrix, s others.

    s: the largest divisor of a length that is at most `chunk`. arXiv:2411.19870.
    """

    chunk: int = option(64, "most numbers on a side of a chunk", unit="numbers")
    keep: int = option(32, "coefficients of a chunk that are sent, if it has so many", unit="numbers")
    bits: Any = option(None, "of a value; null: as it is", unit="bits", type="int or null")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("chunk", "keep"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"codec.{name}: must be a whole number of at least 1, got {value!r}")
        if self.bits is not None:
            check_bits(self.bits, most=TABLE)

    def sent(self, L: int) -> int:
        return min(self.keep, L)

    def coder(self, blocks: Sequence[Block], columns: Tensor | None, width: int, dtype: torch.dtype, k: int) -> Coder:
        from coopsgd.strategies.waves import Waves

        return Waves(self, blocks, columns, width, dtype, k)

    def segments(self, blocks: Sequence[Block], columns: Tensor | None) -> Segments:
        """Of the coefficients, in the order in which `waves.Waves` has them."""
        from coopsgd.strategies.waves import pieces, segments

        return segments(pieces(blocks, columns, self.chunk))


@register("randk", "codec")
@dataclass(frozen=True)
class RandK(Segmented):
    """Numbers drawn at random, each row its own, as they are; where they are follows from the seed and is not sent."""

    share: float = option(0.01, "of the numbers of a segment that are sent, at least one", unit="share")

    SPARSE: ClassVar[bool] = True
    DRAWS: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.share)

    def _places(self, draws: Draws, s: int, L: int) -> Tensor:
        import torch

        k = kept(self.share, L)
        found = [[np.sort(g.choice(L, k, replace=False, shuffle=False)) for _ in range(s)] for g in draws]
        return torch.from_numpy(np.array(found).reshape(-1, s, k))

    def size(self, s: int, L: int, itemsize: int) -> int:
        return s * kept(self.share, L) * itemsize

    def pack(self, v: Tensor, draws: Draws, contract: bool) -> Tensor:
        from coopsgd.strategies.packing import raw

        return raw(v.gather(2, brought(self._places(draws, *v.shape[1:]), v.device)))

    def unpack(self, packed: Tensor, s: int, L: int, dtype: torch.dtype, draws: Draws) -> tuple[Tensor, Tensor | None]:
        from coopsgd.strategies.packing import numbers, scattered

        values = numbers(packed, dtype, s, kept(self.share, L))
        return scattered(values, brought(self._places(draws, s, L), values.device), L)
