"""A codec on the rows of a fleet: packing them, unpacking what came, and what an average or W makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from coopsgd.host.transfer import brought
from coopsgd.mixing.matrix import Matrix
from coopsgd.strategies.codec import Codec, Draws, Segments
from coopsgd.streams import stream


class Coder:
    """A codec on the rows of one fleet: what it packs of (r, w) numbers, and what it makes of (q, n) bytes."""

    def __init__(self, codec: Codec, segments: Segments, width: int, dtype: torch.dtype, k: int) -> None:
        self.codec, self.segments, self.width, self.dtype, self.k = codec, segments, width, dtype, k
        self.sizes = [codec.size(len(starts), L, dtype.itemsize) for starts, L in segments]

    def draws(self, rows: Sequence[int]) -> Draws:
        """A generator for each of these global rows."""
        return [stream(self.codec.seed, "codec", row, self.k) for row in rows] if self.codec.DRAWS else []

    def pack(self, v: Tensor, rows: Sequence[int], contract: bool, memory: Tensor | None = None) -> Tensor:
        """(r, n) bytes of these global rows. memory: of a codec that REMEMBERS."""
        if v.is_meta:
            return v.new_empty(len(v), sum(self.sizes), dtype=torch.uint8)
        v, draws = self.coded(v), self.draws(rows)
        parts = [self.codec.pack(_taken(v, starts, L), draws, contract) for starts, L in self.segments]
        return torch.cat(parts, 1) if parts else v.new_empty(len(v), 0, dtype=torch.uint8)

    def unpack(self, packed: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """(q, w) numbers and, of a sparse codec, which of them (of what they are `coded` as) were sent."""
        values, held = self.read(packed, rows)
        return values if packed.is_meta else self.restored(values), held

    def coded(self, v: Tensor) -> Tensor:
        """(r, w) what is packed of these numbers: they, or a linear function of each row."""
        return v

    def restored(self, values: Tensor) -> Tensor:
        """Its inverse."""
        return values

    def recalled(self, packed: Tensor, memory: Tensor) -> Tensor:
        """The memory after these messages."""
        return memory

    def read(self, packed: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """The same, not restored yet."""
        values = packed.new_zeros(len(packed), self.width, dtype=self.dtype)
        if packed.is_meta:
            return values, None
        held = torch.zeros_like(values, dtype=torch.bool) if self.codec.SPARSE else None
        draws = self.draws(rows)
        for (starts, L), part in zip(self.segments, packed.split(self.sizes, 1), strict=True):
            found, sent = self.codec.unpack(part, len(starts), L, self.dtype, draws)
            _put(values, starts, L, found)
            if held is not None and sent is not None:
                _put(held, starts, L, sent)
        return values, held


def _together(starts: tuple[int, ...], L: int) -> bool:
    """Does one segment begin where the one before ends?"""
    return starts[-1] - starts[0] == (len(starts) - 1) * L


def _taken(v: Tensor, starts: tuple[int, ...], L: int) -> Tensor:
    """(r, s, L) of (r, w)."""
    if _together(starts, L):
        return v[:, starts[0] : starts[-1] + L].unflatten(1, (len(starts), L))
    return torch.stack([v[:, at : at + L] for at in starts], 1)


def _put(values: Tensor, starts: tuple[int, ...], L: int, found: Tensor) -> None:
    if _together(starts, L):
        values[:, starts[0] : starts[-1] + L] = found.flatten(1)
    else:
        for i, at in enumerate(starts):
            values[:, at : at + L] = found[:, i]


ROOM = 1 << 22  # numbers that are unpacked at a time


def taken(x: Tensor, rows: Sequence[int]) -> Tensor:
    """These rows of x, copied; a list between brackets would be waited for on a GPU."""
    return x.index_select(0, brought(np.array(rows, dtype=np.int64), x.device))


def _read(coder: Coder, packed: Tensor, rows: Sequence[int]) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """What each of these rows says, (1, w), in this order and not restored, and what of it was sent."""
    many = max(1, ROOM // max(1, coder.width))
    for at in range(0, len(rows), many):
        some = list(rows[at : at + many])
        values, held = coder.read(taken(packed, some), some)
        for i, row in enumerate(some):
            yield row, values[i : i + 1], None if held is None else held[i : i + 1]


def mean(coder: Coder, packed: Tensor, m: int, over: str, shares: np.ndarray | None = None) -> Tensor:
    """(1, w) the mean of what the m workers say: in the order of rows, so that it is the same to the bit in every process.

    shares: (m,) what each weighs, in sum 1; None: alike.
    """
    total = packed.new_zeros(1, coder.width, dtype=coder.dtype)
    if packed.is_meta:
        return total
    senders = torch.zeros_like(total)
    for i, values, held in _read(coder, packed, range(m)):
        weight = 1.0 if shares is None else m * float(shares[i])
        total += values * weight
        if over == "senders" and held is not None:
            senders += held * weight
    return coder.restored(total / torch.where(senders > 0, senders, 1) if over == "senders" else total / m)


def weighted(coder: Coder, packed: Tensor, W: Matrix, here: Sequence[int]) -> Tensor:
    """(r, w) W times what rows say, for these rows of W: likewise in the order of rows, each product rounded by itself."""
    total = packed.new_zeros(len(here), coder.width, dtype=torch.promote_types(coder.dtype, torch.float32))
    if packed.is_meta:
        return total.to(coder.dtype)
    place = np.full(len(W), -1)
    place[here] = np.arange(len(here))
    rows, columns, weights = W.entries_by_row
    mine = place[rows] >= 0
    rows, columns, weights = place[rows[mine]], columns[mine], weights[mine]
    order = np.lexsort((columns, rows))
    rows, columns, weights = rows[order], columns[order], weights[order]
    senders = np.unique(columns)
    many = max(1, ROOM // max(1, coder.width))
    for at in range(0, len(senders), many):
        some = senders[at : at + many]
        values, _ = coder.read(packed[brought(some, packed.device)], some.tolist())
        inside = (columns >= some[0]) & (columns <= some[-1])
        to, by, where = rows[inside], weights[inside], np.searchsorted(some, columns[inside])
        turn = np.arange(len(to)) - np.searchsorted(to, to)  # each row takes from its first, all at once, then its second, ...
        for now in np.split(np.argsort(turn, kind="stable"), np.cumsum(np.bincount(turn))[:-1]):
            i, j, w = (brought(part[now], total.device) for part in (to, where, by))
            total[i] += values[j] * w.to(total).unsqueeze(1)  # weights of 16 bits would not be in sum 1
    return coder.restored(total.to(coder.dtype))
