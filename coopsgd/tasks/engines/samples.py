"""Samples in memory, and their batches as models read them: made in one pass (host/samples.c), or where a model is computed."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from coopsgd.host import native

KINDS = {torch.uint8: 0, torch.float32: 1, torch.float64: 2}  # as samples.c has them
NUMBERS = (torch.float32, torch.float64)  # that it makes


class Scale:
    """(x - mean) / std of each channel, in the type that models compute in.

    mean, std: a number a channel, the first axis of a sample, or one in all. exact: the type in which that is computed.
    The compiled pass and torch give the same bits.
    """

    def __init__(self, mean: Tensor, std: Tensor, exact: torch.dtype, dtype: torch.dtype) -> None:
        self._exact, self.dtype = exact, dtype
        self._mean, self._by_std = mean.to(exact).contiguous(), (1 / std.to(exact)).contiguous()
        self._library: Any = native.library()

    def __call__(self, x: Tensor, which: Tensor | None = None) -> Tensor:
        """(n, ...) of the samples `which` (n,) of x, int64, or of all. IndexError where there is no such sample."""
        known = None if which is not None and not which.is_contiguous() else self.known(x)
        if known is None:
            shape = -1, *[1] * (x.ndim - 2)
            chosen = x if which is None else x.index_select(0, which)
            return chosen.to(self._exact, copy=True).sub_(self._mean.view(shape)).mul_(self._by_std.view(shape)).to(self.dtype)
        n = len(x) if which is None else len(which)
        made = torch.empty((n, *x.shape[1:]), dtype=self.dtype)
        call = self._library.batch_32 if self.dtype == torch.float32 else self._library.batch_64
        wrong = call(ctypes.byref(known), None if which is None else which.data_ptr(), n, made.data_ptr())
        if wrong and which is not None:
            raise IndexError(f"sample {int(which[wrong - 1])} of {len(x)}")
        return made

    def known(self, x: Tensor, labels: Tensor | None = None) -> native.Samples | None:
        """These samples as the compiled passes take them, which all must outlive; None where they do not."""
        numbers, channels = x[0].numel() if len(x) else 0, len(self._mean)
        if (
            self._library is None
            or x.device.type != "cpu"
            or x.dtype not in KINDS
            or self.dtype not in NUMBERS
            or self._exact != (torch.float64 if x.dtype == torch.float64 else self.dtype)
            or not numbers
            or not x.is_contiguous()
            or (channels != 1 and channels != x.shape[1])
            or (
                labels is not None
                and (labels.dtype != torch.int64 or labels.shape != x.shape[:1] or not labels.is_contiguous())
            )
        ):
            return None
        return native.Samples(
            x.data_ptr(),
            self._mean.data_ptr(),
            self._by_std.data_ptr(),
            None if labels is None else labels.data_ptr(),
            KINDS[x.dtype],
            len(x),
            channels,
            numbers // channels,
        )


class Samples:
    """Training samples that a kernel takes its batches from: x (n, ...), labels (n,) int64, and how they are scaled."""

    def __init__(self, known: native.Samples, x: Tensor, labels: Tensor, scale: Scale) -> None:
        self.known, self.dtype, self.width = known, scale.dtype, known.channels * known.area
        self._held = x, labels, scale

    @staticmethod
    def of(x: Tensor, labels: Tensor, scale: Scale) -> Samples | None:
        """None where no kernel can."""
        known = scale.known(x, labels)
        return None if known is None else Samples(known, x, labels, scale)

    def label(self, i: int) -> int:
        """Of sample i."""
        return int(self._held[1][i])
