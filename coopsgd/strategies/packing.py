"""Numbers as bytes of a known length: whole numbers of any few bits, and tensors as they lie in memory. Rows stay rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from coopsgd.strategies.codec import nbytes

SLICE = (
    1 << 16
)  # codes that are packed at a time: a multiple of 8, so that every slice fills whole bytes, and few enough for a cache


def pack(codes: Tensor, bits: int) -> Tensor:
    """(r, n) whole numbers in [0, 2^bits) as (r, nbytes(n, bits)) bytes, the lowest bit first."""
    r, n = codes.shape
    if bits == 8:
        return codes.to(torch.uint8)
    groups = -(-n // 8) if bits else 0  # eight codes fill `bits` bytes
    found = torch.empty(r, groups, bits, dtype=torch.uint8, device=codes.device)
    for at in range(0, n if bits else 0, SLICE):
        part = codes[:, at : at + SLICE].to(_working(bits))
        part = torch.nn.functional.pad(part, (0, -part.shape[1] % 8)).unflatten(1, (-1, 8))
        for b in range(bits):
            some = [_shifted(part[:, :, i], bits * i - 8 * b) for i in range(8 * b // bits, min(7, (8 * b + 7) // bits) + 1)]
            found[:, at // 8 : at // 8 + part.shape[1], b] = _united(some) & 255
    return found.flatten(1)[:, : nbytes(n, bits)]


def unpack(packed: Tensor, n: int, bits: int, kind: torch.dtype = torch.int64) -> Tensor:
    """What `pack` was given, (r, n)."""
    r = len(packed)
    if bits == 8:
        return packed.to(kind)
    if not bits:
        return torch.zeros(r, n, dtype=kind, device=packed.device)
    groups, each = -(-n // 8), SLICE // 8
    found = torch.empty(r, groups, 8, dtype=kind, device=packed.device)
    for at in range(0, groups, each):
        part = packed[:, at * bits : (at + each) * bits].to(_working(bits))
        part = torch.nn.functional.pad(part, (0, -part.shape[1] % bits)).unflatten(1, (-1, bits))
        for i in range(8):
            begin = bits * i
            some = [_shifted(part[:, :, b], 8 * b - begin) for b in range(begin // 8, (begin + bits - 1) // 8 + 1)]
            found[:, at : at + part.shape[1], i] = _united(some) & (1 << bits) - 1
    return found.flatten(1)[:, :n]


def _working(bits: int) -> torch.dtype:
    """Whole numbers in which a code can be shifted by seven bits, and a byte as far as a code is long."""
    return torch.uint8 if bits in (1, 2, 4) else torch.int32 if bits <= 23 else torch.int64


def _shifted(x: Tensor, by: int) -> Tensor:
    return x << by if by > 0 else x >> -by if by else x


def _united(some: list[Tensor]) -> Tensor:
    found = some[0]
    for one in some[1:]:
        found = found | one
    return found


def raw(x: Tensor) -> Tensor:
    """(r, ...) numbers as the bytes they are, (r, bytes)."""
    return x.contiguous().flatten(1).view(torch.uint8)


def numbers(packed: Tensor, dtype: torch.dtype, *shape: int) -> Tensor:
    """What `raw` was given, (r, *shape)."""
    return packed.flatten().clone().view(dtype).view(len(packed), *shape)


def largest(v: Tensor, k: int) -> Tensor:
    """(r, s, k) where the k largest of the last dimension are, rising; of equal ones those that come first."""
    size = v.abs()
    size = torch.where(size.isnan(), torch.inf, size)
    if size.device.type == "cpu" and size.dtype in (torch.float32, torch.float64):  # where a look at the numbers costs little
        L = v.shape[2]
        edge = torch.from_numpy(np.partition(size.numpy(), L - k, axis=2)[..., L - k : L - k + 1])
        reached = size >= edge
        if bool((reached.sum(2) == k).all()):
            return reached.nonzero()[:, 2].view(*v.shape[:2], k)
    least = size.topk(k, 2, sorted=True).values[..., -1:]
    above, equal = size > least, size == least
    left = k - above.sum(2, keepdim=True)
    chosen = above | (equal & (equal.cumsum(2) <= left))
    # each to its place among those chosen, the others behind them: a size that is known, so that no GPU is waited for
    at = torch.arange(v.shape[2], device=v.device).expand(v.shape)
    places = torch.where(chosen, chosen.cumsum(2) - 1, k)
    return at.new_empty(*v.shape[:2], k + 1).scatter_(2, places, at)[..., :k]


def scattered(values: Tensor, at: Tensor, L: int) -> tuple[Tensor, Tensor]:
    """(q, s, L) with the values where they belong and zeros else, and which are there."""
    shape = (*values.shape[:2], L)
    held = torch.zeros(shape, dtype=torch.bool, device=values.device)
    return values.new_zeros(shape).scatter_(2, at, values), held.scatter_(2, at, True)


def to_table(v: Tensor, bits: int) -> Tensor:
    """Bins of width 6 std / 2^bits around the mean, and what is in each on average."""
    many = 2**bits
    mean = v.mean(2, keepdim=True)
    step = 6 * v.std(2, correction=0, keepdim=True) / many
    code = ((v - mean) / torch.where(step > 0, step, 1) + many // 2).round().nan_to_num().clamp(0, many - 1).long()
    table = v.new_zeros(*v.shape[:2], many)
    count = table.scatter_add(2, code, torch.ones_like(v))
    table = table.scatter_add(2, code, v) / count.clamp(min=1)
    return torch.cat([raw(table), pack(code.flatten(1), bits)], 1)


def from_table(packed: Tensor, s: int, L: int, bits: int, dtype: torch.dtype) -> Tensor:
    table, codes = packed.split([s * 2**bits * dtype.itemsize, nbytes(s * L, bits)], 1)
    return numbers(table, dtype, s, 2**bits).gather(2, unpack(codes, s * L, bits).view(-1, s, L))
