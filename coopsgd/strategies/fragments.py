"""Which columns travel at a communication: an axis. Of P fragments one travels at a time, each once in tau local steps.

A round has tau / P steps; communication r moves fragment r mod P, mixed by W_(r // P), so that with a W that moves each column
meets what the whole model would meet. Running statistics and averaged buffers travel with the last of the P.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from coopsgd.host.transfer import brought
from coopsgd.registry import of_run, option, register
from coopsgd.streams import stream

if TYPE_CHECKING:
    from torch import Tensor

    from coopsgd.fleet.block import Block

HOW = ("layer", "stride", "random")


@register("columns", "fragments")
@dataclass(frozen=True)
class Fragments:
    """Of a row's columns one of `count` shares at a time. Streaming DiLoCo, SPARTA."""

    count: int = option(2, "P, in how many fragments the model travels, one every tau / P steps", unit="fragments")
    by: str = option(
        "stride",
        "which columns are one fragment: layer, layer l is in fragment l mod P; stride, runs of columns; random, drawn anew "
        "every tau steps",
        words=HOW,
    )
    seed: int = of_run("seed", 0)

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise ValueError(f"fragments.count: must be a whole number of at least 1, got {self.count!r}")
        if self.by not in HOW:
            raise ValueError(f"fragments.by: must be one of {', '.join(HOW)}, got {self.by!r}")

    def columns(self, blocks: Callable[[], tuple[Block, ...]], d: int, round: int) -> Tensor:
        """(n,) the columns of d, rising, that travel at this communication; the same for every row."""
        import torch

        p = round % self.count
        if self.by == "layer":
            return _of_layers(blocks(), self.count)[p]
        if self.by == "stride":
            return torch.arange(*self._run(d, p))
        return _drawn(self.seed, d, self.count, round // self.count)[p]

    def columns_on(self, device: Any, blocks: Callable[[], tuple[Block, ...]], d: int, round: int) -> Tensor:
        """The same on the device that the models are on: counted there, and only those drawn at random are copied, once."""
        import torch

        p, device = round % self.count, torch.device(device)
        if device.type == "cpu" or type(self).columns is not Fragments.columns:
            return brought(self.columns(blocks, d, round), device)
        if self.by == "layer":
            return _counted(_runs(blocks(), self.count)[p], device)
        if self.by == "stride":
            return _counted([self._run(d, p)], device)
        return _there(self, d, round // self.count, p, device)

    def _run(self, d: int, p: int) -> tuple[int, int]:
        """Where one of the evenly cut runs of columns begins, and ends."""
        return p * d // self.count, (p + 1) * d // self.count

    def sizes(self, blocks: Callable[[], tuple[Block, ...]], d: int) -> list[int]:
        """How many columns each fragment has."""
        return [len(self.columns(blocks, d, p)) for p in range(self.count)]


def _runs(blocks: tuple[Block, ...], count: int) -> list[list[tuple[int, int]]]:
    """Of each fragment the runs of columns that are whole layers: parameters whose names differ behind the last dot are one."""
    layers = list(dict.fromkeys(block.name.rpartition(".")[0] or block.name for block in blocks))
    found: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for block in blocks:
        runs = found[layers.index(block.name.rpartition(".")[0] or block.name) % count]
        if runs and runs[-1][1] == block.start:
            runs[-1] = runs[-1][0], block.stop
        else:
            runs.append((block.start, block.stop))
    return found


@lru_cache(maxsize=8)
def _of_layers(blocks: tuple[Block, ...], count: int) -> list[Tensor]:
    """The columns of each fragment, kept; on a GPU they would take twice the room of a model in float32."""
    return [_counted(runs, "cpu") for runs in _runs(blocks, count)]


def _counted(runs: Sequence[tuple[int, int]], device: Any) -> Tensor:
    """The columns of these runs, made on the device."""
    import torch

    parts = [torch.arange(start, stop, device=device) for start, stop in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.arange(0, device=device)


@lru_cache(maxsize=2)
def _drawn(seed: int, d: int, count: int, cycle: int) -> list[Tensor]:
    """A partition at random: whichever process asks, the same."""
    import torch

    order = stream(seed, "fragments", cycle).permutation(d)
    return [torch.from_numpy(np.sort(part)) for part in np.array_split(order, count)]


@lru_cache(maxsize=2)
def _there(fragments: Fragments, d: int, cycle: int, p: int, device: Any) -> Tensor:
    """Those of a fragment drawn at random, on a GPU, for who asks again in the same round."""
    return brought(_drawn(fragments.seed, d, fragments.count, cycle)[p], device)
