"""What workers weigh in a mean, where they do not weigh alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Shares:
    """Rows times what their workers weigh: their mean is then the weighted one.

    shares: (m,) in sum 1, of which those of `workers` are held here, the first of `rows` rows; None: all alike.
    """

    def __init__(self, shares: Sequence[float] | None, workers: range, rows: int) -> None:
        self._ready: dict[tuple[torch.dtype, torch.device], Tensor] = {}  # (rows, 1), by the kind of the rows
        self._alike = shares is None
        if shares is not None:
            mine = torch.ones(rows, 1, dtype=torch.float64)
            mine[: len(workers), 0] = torch.tensor(shares, dtype=torch.float64)[list(workers)] * len(shares)
            self._ready = {(mine.dtype, mine.device): mine}

    def __call__(self, x: Tensor) -> Tensor:
        """Of x (rows, n): x itself where all weigh alike."""
        if self._alike or x.is_meta:
            return x
        kind = torch.promote_types(x.dtype, torch.float32), x.device  # shares of 16 bits would not be in sum 1
        if kind not in self._ready:  # kept: nobody waits for a GPU at each mean
            self._ready[kind] = next(iter(self._ready.values())).to(kind[1], kind[0])
        return (x * self._ready[kind]).to(x.dtype)
