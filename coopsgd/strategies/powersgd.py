"""Matrices as the product of two thin ones: a codec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from coopsgd.host.transfer import brought
from coopsgd.registry import option, register
from coopsgd.strategies.codec import Codec
from coopsgd.streams import stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from coopsgd.fleet.block import Block
    from coopsgd.strategies.coder import Coder


@register("powersgd", "codec")
@dataclass(frozen=True)
class PowerSGD(Codec):
    """Each matrix M as P Q^T of rank `rank`: P = orth(M Q), Q = M^T P, from the Q of the message before; others as they are.

    Where W = J the workers find one P and one Q for their mean by two averages, M -> mean(M) Q and M -> mean(M)^T P, as in
    arXiv:1905.13727: each leaves out its M less P Q^T. With public copies (choco, deepsqueeze) each sends factors of its own.
    A convolution is the matrix (out, rest). A matrix that two factors do not make smaller travels as it is.
    """

    rank: int = option(2, "columns of each of the two factors", unit="columns")

    SUMS: ClassVar[bool] = True
    REMEMBERS: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"codec.rank: must be a whole number of at least 1, got {self.rank!r}")

    def check(self, blocks: Sequence[Block], by: str | None) -> None:
        if by not in (None, "layer"):
            raise ValueError(f"fragments.by={by}: cuts matrices, of which codec=powersgd sends factors; use fragments.by=layer")
        shapes = {block: block.matrix for block in blocks if block.matrix is not None and min(block.matrix) > 1}
        if not shapes:
            raise ValueError(
                "the model has no matrix that could be sent as two thin ones; use codec=topk, or another that takes any"
            )
        small, (n, p) = min(shapes.items(), key=lambda one: min(one[1]))
        if self.rank > min(n, p):
            raise ValueError(
                f"codec.rank={self.rank}: the smallest matrix of the model, {small.name}, is {n} x {p}; use at most {min(n, p)}"
            )
        if not any(self.shrinks(block) for block in blocks):
            most = max((n * p - 1) // (n + p) for n, p in shapes.values())
            raise ValueError(
                f"codec.rank={self.rank}: two factors of this rank are no smaller than any matrix of the model; "
                + (f"use at most {most}" if most else "use codec=topk")
            )

    def shrinks(self, block: Block) -> bool:
        """Are two factors of it smaller than it is?"""
        return block.matrix is not None and self.rank * sum(block.matrix) < block.size

    def coder(self, blocks: Sequence[Block], columns: Tensor | None, width: int, dtype: torch.dtype, k: int) -> Coder:
        from coopsgd.strategies.lowrank import Factors

        return Factors(self, blocks, columns, width, dtype, k)

    def begin(self, blocks: Sequence[Block], like: Tensor) -> Tensor:
        return brought(_drawn(self, tuple(blocks)).copy(), like.device, like.dtype)  # the cache must stay as it is


@lru_cache(maxsize=8)
def _drawn(codec: PowerSGD, blocks: tuple[Block, ...]) -> np.ndarray:
    """(1, n) the first Q of all matrices."""
    draw, found = stream(codec.seed, "codec"), [np.zeros(0)]
    for block in blocks:
        if block.matrix is not None and codec.shrinks(block):
            drawn = draw.standard_normal((block.matrix[1], codec.rank))
            found.append(drawn[block.order].ravel() if len(block.order) == len(drawn) else drawn.ravel())
    return np.concatenate(found)[None]
