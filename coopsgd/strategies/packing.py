"""Numbers as bytes of a known length: whole numbers of any few bits, and tensors as they lie in memory. Rows stay rows."""

from __future__ import annotations

import torch
from torch import Tensor

from coopsgd.strategies.codec import nbytes

SLICE = 1 << 18  # codes turned into bits at a time: a multiple of 8, so that every slice fills whole bytes


def pack(codes: Tensor, bits: int) -> Tensor:
    """(r, n) whole numbers in [0, 2^bits) as (r, nbytes(n, bits)) bytes, the lowest bit first."""
    r = len(codes)
    if bits == 8:
        return codes.to(torch.uint8)
    if bits == 16:
        low, high = codes & 255, codes >> 8
        return torch.stack([low, high], 2).to(torch.uint8).flatten(1)
    found = [codes.new_empty(r, 0, dtype=torch.uint8)]
    weights = 2 ** torch.arange(8, device=codes.device)
    places = torch.arange(bits, device=codes.device)
    for part in codes.split(SLICE, 1) if bits else ():
        ones = (part.unsqueeze(2) >> places & 1).flatten(1)
        ones = torch.nn.functional.pad(ones, (0, -ones.shape[1] % 8))
        found.append((ones.unflatten(1, (-1, 8)) * weights).sum(2).to(torch.uint8))
    return torch.cat(found, 1)


def unpack(packed: Tensor, n: int, bits: int) -> Tensor:
    """What `pack` was given, (r, n) int64."""
    r = len(packed)
    if bits == 8:
        return packed.long()
    if bits == 16:
        pairs = packed.long().unflatten(1, (n, 2))
        return pairs[:, :, 0] + (pairs[:, :, 1] << 8)
    found = [torch.zeros(r, n if not bits else 0, dtype=torch.int64, device=packed.device)]
    octet, places = torch.arange(8, device=packed.device), torch.arange(bits, device=packed.device)
    for at in range(0, n if bits else 0, SLICE):
        many = min(SLICE, n - at)
        part = packed[:, at * bits // 8 : at * bits // 8 + nbytes(many, bits)].long()
        ones = (part.unsqueeze(2) >> octet & 1).flatten(1)[:, : many * bits]
        found.append((ones.unflatten(1, (many, bits)) << places).sum(2))
    return torch.cat(found, 1)


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
