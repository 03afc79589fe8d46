"""The compiled pass of small convolutional networks (host/conv.c): forward, backward, step of a model, in one call.

The samples of a batch lie in the lanes of vectors, so narrow layers fill them as wide ones do, and what is between convolutions
(GroupNorm, pooling, ReLU) is one pass over memory. How much that is: docs/speed.md.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from coopsgd.host import native
from coopsgd.tasks.engines.base import Engine, flattened, strangers
from coopsgd.tasks.engines.dense import ANSWER, MOST, how_of, places, shares, told

if TYPE_CHECKING:
    from coopsgd.optim import SGDStep

STAGES = 32  # convolutions, as conv.c has it
TOGETHER = 64  # samples that are answered in one call
KNOWN = (nn.ZeroPad2d, nn.Conv2d, nn.GroupNorm, nn.ReLU, nn.MaxPool2d, nn.Flatten, nn.Linear, nn.Identity)


class Stage(NamedTuple):
    """A convolution with what follows it. frame: zeros left, right, above, below its images."""

    frame: tuple[int, int, int, int]
    convolution: nn.Conv2d
    norm: nn.GroupNorm | None
    pooled: bool


class Conv(Engine):
    """Sequential of convolutions of stride 1, each with ReLU, maybe GroupNorm and 2 x 2 pooling; Flatten; Linear and ReLU."""

    name: ClassVar[str] = "conv"
    intra: ClassVar[bool] = False
    answers_itself: ClassVar[bool] = True

    def __init__(self, module: nn.Module) -> None:
        stages, linear = _read(module)
        self._stages, self._linear = stages, linear
        sizes = [linear[0].in_features, *(layer.out_features for layer in linear)]
        self._sizes = (ctypes.c_int64 * len(sizes))(*sizes)
        self._biased = (ctypes.c_int64 * len(linear))(*(int(layer.bias is not None) for layer in linear))
        self._eps = (ctypes.c_double * len(stages))(*(0.0 if s.norm is None else s.norm.eps for s in stages))
        self._library: Any = native.library()
        # for steps and for answers: shape of a batch, the stages at that size, room
        self._rooms = dict[bool, tuple[tuple[int, ...], Any, Tensor]]()

    @staticmethod
    def cannot(module: nn.Module) -> str | None:
        """Why it cannot run this module; None when it can."""
        unknown = strangers(module, KNOWN)
        if unknown is not None:
            return unknown
        if not native.in_use():
            return f"it is compiled, and here it is not: no C compiler when coopsgd was installed, or {native.OFF}=0"
        numbers = list(module.parameters())
        if any(p.dtype not in (torch.float32, torch.float64) or p.is_cuda for p in numbers):
            return "it computes in float32 or float64, on a CPU"
        if len({id(p) for p in numbers}) < len(numbers):
            return "layers share parameters"
        try:
            _read(module)
        except ValueError as error:
            return str(error)
        return None

    @torch.no_grad()
    def gradients(self, a: int, b: int, inputs: Tensor, targets: Tensor, seeds: Sequence[int] = ()) -> Tensor:
        return self._pass(self._x[a:b], self._grad[a:b], inputs, targets)

    @torch.no_grad()
    def descend(
        self,
        a: int,
        b: int,
        inputs: Tensor,
        targets: Tensor,
        lr: float,
        seeds: Sequence[int] = (),
        step: SGDStep | None = None,
    ) -> Tensor:
        own = step if step is None or step.velocity is None else step._replace(velocity=step.velocity[a:b])
        return self._pass(self._x[a:b], None, inputs, targets, lr, own)

    @torch.no_grad()
    def logits(self, x: Tensor, inputs: Tensor, statistics: Tensor | None = None) -> Tensor:
        if x.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"models of float32 or float64 are needed, got {x.dtype}")
        x, inputs = x if x.stride(1) == 1 else x.contiguous(), inputs.to(x.dtype).contiguous()
        found = x.new_empty(len(x), len(inputs), self._sizes[len(self._linear)])
        for model, answers in zip(x[:, None], found[:, None], strict=True):
            for a in range(0, len(inputs), TOGETHER):
                self._call(model, answers[:, a : a + TOGETHER], inputs[None, a : a + TOGETHER], None, None, ANSWER)
        return found

    def _pass(
        self, x: Tensor, out: Tensor | None, inputs: Tensor, targets: Tensor, lr: float = 0.0, step: SGDStep | None = None
    ) -> Tensor:
        """The mean cross entropy of each row, (c,); as Dense of dense.py, with inputs (c, batch, channels, height, width)."""
        how, velocity = how_of(out, step)
        if x.stride(1) != 1 or (velocity is not None and velocity.stride(1) != 1):
            raise ValueError("rows of numbers that lie one after another are needed")
        inputs, targets, losses = inputs.to(x.dtype).contiguous(), targets.contiguous(), x.new_empty(len(x))
        told(self._call(x, velocity, inputs, targets, losses, how, lr, step), targets)
        return losses

    def _call(
        self,
        x: Tensor,
        beside: Tensor | None,
        inputs: Tensor,
        targets: Tensor | None,
        losses: Tensor | None,
        how: int,
        lr: float = 0.0,
        step: SGDStep | None = None,
    ) -> int:
        """conv.c on these rows; 0, or 1 + the place of a target that is no class."""
        answer, batch = how == ANSWER, inputs.shape[1]
        shape = (TOGETHER if answer else batch, *inputs.shape[2:])
        known = self._rooms.get(answer)
        if known is None or known[0] != shape or known[2].dtype != x.dtype:
            table = self._laid(*shape[1:])
            needed = self._library.conv_room(len(self._stages), table, len(self._linear), self._sizes, shape[0], how)
            known = self._rooms[answer] = shape, table, x.new_zeros(needed)
        _, table, room = known
        call = self._library.conv_32 if x.dtype == torch.float32 else self._library.conv_64
        return int(
            call(
                *places(x, beside),
                len(self._stages),
                table,
                self._eps,
                len(self._linear),
                self._sizes,
                self._biased,
                batch,
                inputs.data_ptr(),
                None if targets is None else targets.data_ptr(),
                None if losses is None else losses.data_ptr(),
                room.data_ptr(),
                lr,
                *shares(step),
                how,
            )
        )

    def _laid(self, channels: int, height: int, width: int) -> Any:
        """The stages for images of this size, as conv.c has them."""
        numbers: list[int] = []
        for frame, convolution, norm, pooled in self._stages:
            left, right, top, bottom = frame
            tall, wide = convolution.kernel_size
            numbers += [channels, height, width, top, bottom, left, right, convolution.out_channels, tall, wide]
            numbers += [int(convolution.bias is not None), 0 if norm is None else norm.num_groups]
            numbers += [int(norm is not None and norm.affine), int(pooled), int(self.channels_last)]
            channels, height, width = (
                convolution.out_channels,
                height + top + bottom - tall + 1,
                width + left + right - wide + 1,
            )
            if pooled:
                height, width = height // 2, width // 2
        if min(height, width) < 1 or channels * height * width != self._sizes[0]:
            raise ValueError(
                f"images of this size leave {channels} x {height} x {width} numbers, {self._sizes[0]} are expected"
            )
        return (ctypes.c_int64 * len(numbers))(*numbers)


def _read(module: nn.Module) -> tuple[list[Stage], list[nn.Linear]]:
    """Its convolutions with what follows each, and its linear layers; ValueError where conv.c does not know such a network."""
    layers = [layer for layer in flattened(module) or [] if not isinstance(layer, nn.Identity)]
    flat = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Flatten)]
    if len(flat) != 1 or (layers[flat[0]].start_dim, layers[flat[0]].end_dim) != (1, -1):
        raise ValueError("it needs one Flatten, of everything")
    front, linear = layers[: flat[0]], layers[flat[0] + 1 :]
    dense = [layer for layer in linear[::2] if isinstance(layer, nn.Linear)]
    if len(linear) % 2 == 0 or len(dense) < len(linear[::2]) or not all(isinstance(layer, nn.ReLU) for layer in linear[1::2]):
        raise ValueError("after Flatten it needs linear layers with ReLU between them")
    stages: list[Stage] = []
    frame = (0, 0, 0, 0)
    if front and isinstance(front[0], nn.ZeroPad2d):
        frame = front[0].padding
        front.pop(0)
    while front:
        stages.append(_stage(front, frame if not stages else None))
    if not stages or len(stages) > STAGES or len(dense) >= MOST:
        raise ValueError(f"it needs 1 to {STAGES} convolutions before Flatten, and fewer than {MOST} linear layers")
    return stages, dense


def _stage(front: list[nn.Module], frame: tuple[int, int, int, int] | None) -> Stage:
    """The first stage of these layers, which are taken away. frame: zeros around what comes in; None: it is not the first."""
    convolution = front.pop(0)
    if not isinstance(convolution, nn.Conv2d):
        raise ValueError(f"it needs a convolution where {type(convolution).__name__} is")
    plain = (convolution.stride, convolution.dilation, convolution.groups) == ((1, 1), (1, 1), 1)
    if not plain or convolution.padding_mode != "zeros":
        raise ValueError("it knows convolutions of stride 1, without dilation and groups, padded with zeros")
    padding = tuple(convolution._reversed_padding_repeated_twice)
    tall, wide = convolution.kernel_size
    if frame is None and (max(padding[:2]) >= wide or max(padding[2:]) >= tall):
        raise ValueError("a convolution is padded by as much as its kernel is wide")
    left, right, top, bottom = (own + more for own, more in zip(padding, frame or (0, 0, 0, 0), strict=True))
    if min(left, right, top, bottom) < 0:
        raise ValueError("images are cut")
    norm = front[0] if front and isinstance(front[0], nn.GroupNorm) else None
    if norm is not None:
        front.pop(0)
    rest: list[nn.Module] = []
    while front and isinstance(front[0], nn.ReLU | nn.MaxPool2d) and len(rest) < 2:
        rest.append(front.pop(0))
    pools = [layer for layer in rest if isinstance(layer, nn.MaxPool2d)]
    if len(rest) - len(pools) != 1 or len(pools) > 1:
        raise ValueError("after each convolution it needs one ReLU, and one pooling at most")
    if any(
        (pool.kernel_size, pool.stride, pool.padding, pool.dilation) not in ((2, 2, 0, 1), ((2, 2), (2, 2), 0, 1))
        or pool.ceil_mode
        or pool.return_indices
        for pool in pools
    ):
        raise ValueError("it knows the largest of 2 x 2 alone")
    return Stage((left, right, top, bottom), convolution, norm, bool(pools))
