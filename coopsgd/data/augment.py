"""Random crop and flip of a batch at once, as a function of (seed, row, step)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coopsgd.host.transfer import brought
from coopsgd.streams import stream

if TYPE_CHECKING:
    from torch import Tensor


def crop_and_flip(x: Tensor, pad: int, seed: int, row: int, step: int) -> Tensor:
    """Images (n, channels, height, width), each shifted by up to `pad` pixels (black comes in), half of them mirrored.

    The usual augmentation of CIFAR (arXiv:1512.03385, section 4.2), before normalisation. Bytes in, bytes out.
    """
    import torch

    n, _, height, width = x.shape
    draw = stream(seed, "augment", row, step)
    down, across = brought(draw.integers(0, 2 * pad + 1, (2, n)), x.device)
    mirrored = brought(draw.integers(0, 2, (n, 1, 1, 1)), x.device)
    windows = torch.nn.functional.pad(x, (pad,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # a view of all shifts
    x = windows[torch.arange(n, device=x.device), :, down, across]
    return torch.where(mirrored.bool(), x.flip(3), x)
