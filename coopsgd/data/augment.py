"""Random crop and flip of a batch at once, as a function of (seed, row, step)."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    shift = torch.from_numpy(draw.integers(0, 2 * pad + 1, (2, n)))
    mirrored = torch.from_numpy(draw.integers(0, 2, n)).bool()
    down = shift[0][:, None] + torch.arange(height)
    across = shift[1][:, None] + torch.where(mirrored[:, None], torch.arange(width - 1, -1, -1), torch.arange(width))
    padded = torch.nn.functional.pad(x, (pad,) * 4).permute(0, 2, 3, 1)
    image = torch.arange(n)[:, None, None]
    indices = (i.to(x.device) for i in (image, down[:, :, None], across[:, None, :]))
    return padded[tuple(indices)].permute(0, 3, 1, 2)
