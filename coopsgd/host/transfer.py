"""Numbers on their way to where models are: nobody waits for a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def brought(numbers: np.ndarray | Tensor, device: Any, dtype: Any = None) -> Tensor:
    """An array, or a tensor on the processor's side, as a tensor on `device` of this dtype (None: its own).

    On a CPU it shares the memory of what is given, where dtypes agree. A GPU copies from page-locked memory in the order of
    its stream; torch keeps that memory until the copy is done. From ordinary memory the driver may wait for all that the GPU
    has under way before it begins.
    """
    import torch

    found = torch.from_numpy(numbers) if isinstance(numbers, np.ndarray) else numbers
    found = found if dtype is None else found.to(dtype)
    kind = torch.device(device).type
    if kind == found.device.type:
        return found
    return (_staged(found) if kind == "cuda" else found).to(device, non_blocking=True)


def _staged(x: Tensor) -> Tensor:
    """The same numbers in page-locked memory, of which torch keeps a pool."""
    return x.pin_memory() if x.numel() else x
