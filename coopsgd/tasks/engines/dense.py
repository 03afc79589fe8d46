"""The compiled pass of linear layers with ReLU between them (host/dense.c): forward, backward, step of a model, in one call.

A model of up to some 1e5 numbers stays in a core's own cache for all steps of a round, small layers cost no call each, and
other threads go on meanwhile. How much that is: docs/speed.md.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from coopsgd.host import native

if TYPE_CHECKING:
    import numpy as np

    from coopsgd.optim import SGDStep
    from coopsgd.tasks.engines.samples import Samples

NUMBERS = 1 << 17  # of models that are computed in one call, about: half a megabyte
MOST = 64  # models in one call, and layers
STORE, PLAIN, MOMENTUM, NESTEROV, ANSWER = range(5)  # what becomes of a gradient, as widths.h has it; ANSWER: none is taken


def chunk(numbers: int) -> int:
    """Models of so many numbers to take at a time."""
    return max(1, min(MOST, NUMBERS // max(1, numbers)))


def fits(layers: Sequence[nn.Module]) -> bool:
    """Are these what the kernel knows: linear layers, a ReLU after each but the last?"""
    linear, rest = layers[::2], layers[1::2]
    numbers = [p for layer in layers for p in layer.parameters()]
    return (
        native.in_use()
        and len({id(p) for p in numbers}) == len(numbers)
        and len(layers) % 2 == 1
        and len(linear) < MOST
        and all(type(layer) is nn.Linear for layer in linear)
        and all(type(layer) is nn.ReLU for layer in rest)
    )


class Dense:
    """The kernel for models of these linear layers, whose numbers lie in a row in their order, each bias after its weight."""

    def __init__(self, linear: Sequence[nn.Linear]) -> None:
        sizes = [linear[0].in_features, *(layer.out_features for layer in linear)]
        self._layers = len(linear)
        self._sizes = (ctypes.c_int64 * len(sizes))(*sizes)
        self._biased = (ctypes.c_int64 * len(linear))(*(int(layer.bias is not None) for layer in linear))
        self._library: Any = native.library()
        self._room, self._needed = torch.empty(0), dict[int, int]()

    @staticmethod
    def takes(x: Tensor) -> bool:
        """Can it compute on these rows?"""
        return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and x.stride(1) == 1

    def __call__(
        self, x: Tensor, out: Tensor | None, inputs: Tensor, targets: Tensor, lr: float = 0.0, step: SGDStep | None = None
    ) -> Tensor:
        """The mean cross entropy of each row, (c,).

        x: (c, d) models. out: (c, d) takes their gradients; None: the models take a step, and what `step` says moves with them.
        inputs: (c, batch, features), targets: (c, batch). IndexError where a target is no class.
        """
        how, velocity = how_of(out, step)
        batch, losses = inputs.shape[1], x.new_empty(len(x))
        inputs, targets = inputs.to(x.dtype).contiguous(), targets.contiguous()
        needed = self._library.dense_room(self._layers, self._sizes, batch)
        if self._room.dtype != x.dtype or len(self._room) < needed:
            self._room = x.new_empty(needed)
        call = self._library.dense_32 if x.dtype == torch.float32 else self._library.dense_64
        wrong = call(
            *places(x, velocity),
            self._layers,
            self._sizes,
            self._biased,
            batch,
            inputs.data_ptr(),
            targets.data_ptr(),
            losses.data_ptr(),
            self._room.data_ptr(),
            lr,
            *shares(step),
            how,
        )
        told(wrong, targets)
        return losses

    def steps(
        self,
        x: Tensor,
        out: Tensor | None,
        samples: Samples,
        which: np.ndarray,
        losses: Tensor,
        rates: Sequence[float] = (0.0,),
        step: SGDStep | None = None,
    ) -> None:
        """The same for one step after another, one of each of the rates, on batches that are made where they are read.

        which: (steps, c, batch) numbers of samples, int64, those of a batch side by side; losses: (steps, c or more), of which
        it fills the first c of each.
        """
        known = self.learning(x, out, samples, which, losses, rates, step)
        call = self._library.dense_steps_32 if x.dtype == torch.float32 else self._library.dense_steps_64
        wrong = call(ctypes.addressof(known), 0, len(rates))
        if wrong:
            raise wrong_label(wrong, samples, which)

    def learning(
        self,
        x: Tensor,
        out: Tensor | None,
        samples: Samples,
        which: np.ndarray,
        losses: Tensor,
        rates: Sequence[float] = (0.0,),
        step: SGDStep | None = None,
    ) -> native.Learning:
        """These steps as compiled code takes them, for as long as all that is given lives and no other are asked for."""
        how, velocity = how_of(out, step)
        batch = which.shape[2]
        needed = self._needed.get(batch)
        if needed is None:  # inputs and targets lie in front
            needed = self._library.dense_room(self._layers, self._sizes, batch) + batch * samples.width + 2 * batch + 64
            self._needed[batch] = needed
        if self._room.dtype != x.dtype or len(self._room) < needed:
            self._room = x.new_empty(needed)
        self._rates = (ctypes.c_double * len(rates))(*rates)
        at, stride, beside, beside_stride, rows = places(x, velocity)
        return native.Learning(
            at,
            beside,
            stride,
            beside_stride,
            rows,
            self._layers,
            ctypes.addressof(self._sizes),
            ctypes.addressof(self._biased),
            ctypes.addressof(self._rates),
            ctypes.addressof(samples.known),
            native.address(which),
            which.strides[0] // which.itemsize,
            which.strides[1] // which.itemsize,
            batch,
            losses.data_ptr(),
            *losses.stride(),
            self._room.data_ptr(),
            *shares(step),
            how,
        )


def wrong_label(wrong: int, samples: Samples, which: np.ndarray) -> IndexError:
    """What is wrong with the sample at 1 + this place in `which` (steps, c, batch)."""
    by_step, by_row = (stride // which.itemsize for stride in which.strides[:2])
    j, rest = divmod(wrong - 1, by_step) if len(which) > 1 else (0, wrong - 1)
    i, k = divmod(rest, by_row) if which.shape[1] > 1 else (0, rest)
    return IndexError(f"Target {samples.label(which[j, i, k])} is out of bounds.")


def how_of(out: Tensor | None, step: SGDStep | None) -> tuple[int, Tensor | None]:
    """What becomes of gradients, and the rows that it fills or moves, beside the models."""
    if out is not None:
        return STORE, out
    if step is None or step.velocity is None:
        return PLAIN, None
    return NESTEROV if step.nesterov else MOMENTUM, step.velocity


def places(x: Tensor, velocity: Tensor | None) -> tuple[int | None, ...]:
    """How the kernels are told of models and what lies beside them: where each begins, how far rows are apart; how many."""
    beside = (None, 0) if velocity is None else (velocity.data_ptr(), velocity.stride(0))
    return x.data_ptr(), x.stride(0), *beside, len(x)


def shares(step: SGDStep | None) -> tuple[float, float]:
    """Momentum and weight decay."""
    return (0.0, 0.0) if step is None else (step.momentum, step.weight_decay)


def told(wrong: int, targets: Tensor) -> None:
    """IndexError where a target is no class: `wrong` is 1 + its place, or 0."""
    if wrong:
        raise IndexError(f"Target {int(targets.flatten()[wrong - 1])} is out of bounds.")
