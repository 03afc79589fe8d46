"""The codecs: how numbers are written down in few bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from coopsgd.host.transfer import brought
from coopsgd.registry import option, register
from coopsgd.strategies.codec import TABLE, Codec, Draws, Segmented, check_bits, nbytes, tabled
from coopsgd.strategies.powersgd import PowerSGD
from coopsgd.strategies.sparse import DCT, RandK, TopK

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["DCT", "QSGD", "BFloat16", "Float16", "Identity", "MinMax", "PowerSGD", "RandK", "Sign", "Statistical", "TopK"]


@register("identity", "codec")
@dataclass(frozen=True)
class Identity(Codec):
    """The numbers as they are, packed and passed on like any others: what a codec costs when it does nothing."""

    LOSES: ClassVar[bool] = False

    def size(self, s: int, L: int, itemsize: int) -> int:
        return s * L * itemsize

    def pack(self, v: Tensor, draws: Draws, contract: bool) -> Tensor:
        from coopsgd.strategies.packing import raw

        return raw(v)

    def unpack(self, packed: Tensor, s: int, L: int, dtype: torch.dtype, draws: Draws) -> tuple[Tensor, Tensor | None]:
        from coopsgd.strategies.packing import numbers

        return numbers(packed, dtype, s, L), None


@dataclass(frozen=True)
class Half(Codec):
    """Numbers of 16 bits, rounded to the nearest."""

    LOSES: ClassVar[bool] = False
    KIND: ClassVar[str] = "bfloat16"

    def size(self, s: int, L: int, itemsize: int) -> int:
        return s * L * 2

    def pack(self, v: Tensor, draws: Draws, contract: bool) -> Tensor:
        import torch

        from coopsgd.strategies.packing import raw

        kind = getattr(torch, self.KIND)
        most = torch.finfo(kind).max
        return raw(v.clamp(-most, most).to(kind))

    def unpack(self, packed: Tensor, s: int, L: int, dtype: torch.dtype, draws: Draws) -> tuple[Tensor, Tensor | None]:
        import torch

        from coopsgd.strategies.packing import numbers

        return numbers(packed, getattr(torch, self.KIND), s, L).to(dtype), None


@register("bf16", "codec")
@dataclass(frozen=True)
class BFloat16(Half):
    """Each number as a bfloat16: the range of float32 in 16 bits, 8 of them significant."""


@register("fp16", "codec")
@dataclass(frozen=True)
class Float16(Half):
    """Each number as a float16: 11 significant bits; what is beyond 65504 is cut there."""

    KIND: ClassVar[str] = "float16"


@register("sign", "codec")
@dataclass(frozen=True)
class Sign(Segmented):
    """The sign of each number, that of 0 is +, times the mean size in its segment: one bit, and the scale. arXiv:1901.09847."""

    def size(self, s: int, L: int, itemsize: int) -> int:
        return s * itemsize + nbytes(s * L, 1)

    def pack(self, v: Tensor, draws: Draws, contract: bool) -> Tensor:
        import torch

        from coopsgd.strategies.packing import pack, raw

        return torch.cat([raw(v.abs().mean(2)), pack((v >= 0).flatten(1), 1)], 1)

    def unpack(self, packed: Tensor, s: int, L: int, dtype: torch.dtype, draws: Draws) -> tuple[Tensor, Tensor | None]:
        import torch

        from coopsgd.strategies.packing import numbers, unpack

        scale, signs = packed.split([s * dtype.itemsize, nbytes(s * L, 1)], 1)
        plus = unpack(signs, s * L, 1, torch.uint8).view(-1, s, L).to(dtype)
        return plus.mul_(2).sub_(1).mul_(numbers(scale, dtype, s, 1)), None


@register("qsgd", "codec")
@dataclass(frozen=True)
class QSGD(Segmented):
    """A sign and one of 2^(bits - 1) - 1 levels of the segment's norm, rounded at random so that the mean is right.

    arXiv:1610.02132. Where something is kept back (feedback, public copies) it is divided by 1 + min(L / s^2, sqrt(L) / s), s
    the levels, without which it need not come nearer.
    """

    per: str = option(
        "chunk",
        "what has a scale of its own: tensor, a parameter; chunk, a run of numbers of one; row",
        words=("tensor", "chunk", "row"),
        kw_only=True,
    )
    chunk: int = option(512, "numbers of a chunk, where per=chunk", unit="numbers", kw_only=True)
    bits: int = option(4, "of a number, its sign among them", unit="bits")

    DRAWS: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits(self.bits, least=2)

    def size(self, s: int, L: int, itemsize: int) -> int:
        return s * itemsize + nbytes(s * L, self.bits)

    def pack(self, v: Tensor, draws: Draws, contract: bool) -> Tensor:
        import torch

        from coopsgd.strategies.packing import pack, raw

        _, s, L = v.shape
        levels = 2 ** (self.bits - 1) - 1
        norm = torch.linalg.vector_norm(v, dim=2, keepdim=True)
        u = brought(np.stack([g.random((s, L)) for g in draws]), v.device, v.dtype)
        level = (levels * v.abs() / torch.where(norm > 0, norm, 1) + u).floor().clamp(max=levels).int()
        code = level + (v < 0).int() * 2 ** (self.bits - 1)
        by = 1 + min(L / levels**2, L**0.5 / levels) if contract else 1.0
        return torch.cat([raw(norm[:, :, 0] / by), pack(code.flatten(1), self.bits)], 1)

    def unpack(self, packed: Tensor, s: int, L: int, dtype: torch.dtype, draws: Draws) -> tuple[Tensor, Tensor | None]:
        import torch

        from coopsgd.strategies.packing import numbers, unpack

        norm, codes = packed.split([s * dtype.itemsize, nbytes(s * L, self.bits)], 1)
        code, half = unpack(codes, s * L, self.bits, torch.int32).view(-1, s, L), 2 ** (self.bits - 1)
        signed = (code & half - 1).to(dtype) * (1 - 2 * (code >> self.bits - 1)).to(dtype)
        return signed / (half - 1) * numbers(norm, dtype, s, 1), None


@register("minmax", "codec")
@dataclass(frozen=True)
class MinMax(Segmented):
    """One of 2^bits values evenly spaced between the smallest and the largest of the segment, both sent along."""

    bits: int = option(4, "of a number", unit="bits")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits(self.bits)

    def size(self, s: int, L: int, itemsize: int) -> int:
        return 2 * s * itemsize + nbytes(s * L, self.bits)

    def pack(self, v: Tensor, draws: Draws, contract: bool) -> Tensor:
        import torch

        from coopsgd.strategies.packing import pack, raw

        low, high = v.amin(2, keepdim=True), v.amax(2, keepdim=True)
        wide = high - low
        code = ((v - low) / torch.where(wide > 0, wide, 1) * (2**self.bits - 1)).round().nan_to_num().int()
        return torch.cat([raw(torch.cat([low, wide], 2)), pack(code.flatten(1), self.bits)], 1)

    def unpack(self, packed: Tensor, s: int, L: int, dtype: torch.dtype, draws: Draws) -> tuple[Tensor, Tensor | None]:
        import torch

        from coopsgd.strategies.packing import numbers, unpack

        ends, codes = packed.split([2 * s * dtype.itemsize, nbytes(s * L, self.bits)], 1)
        low, wide = numbers(ends, dtype, s, 2).split(1, 2)
        return low + unpack(codes, s * L, self.bits, torch.int32).view(-1, s, L).to(dtype) / (2**self.bits - 1) * wide, None


@register("statistical", "codec")
@dataclass(frozen=True)
class Statistical(Segmented):
    """One of 2^bits bins within three standard deviations of the segment's mean; the mean of each bin is sent along."""

    bits: int = option(2, "of a number, at most 8: the means of all bins are sent too", unit="bits")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits(self.bits, most=TABLE)

    def size(self, s: int, L: int, itemsize: int) -> int:
        return tabled(s, L, self.bits, itemsize)

    def pack(self, v: Tensor, draws: Draws, contract: bool) -> Tensor:
        from coopsgd.strategies.packing import to_table

        return to_table(v, self.bits)

    def unpack(self, packed: Tensor, s: int, L: int, dtype: torch.dtype, draws: Draws) -> tuple[Tensor, Tensor | None]:
        from coopsgd.strategies.packing import from_table

        return from_table(packed, s, L, self.bits, dtype), None
