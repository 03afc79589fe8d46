"""How fast codecs pack and unpack a row: GB of float32 a second, one core, beside torch.topk and a copy of the row.

Remake the table of docs/algorithms/compression.md: python scripts/bench_codec.py    (a minute, alone on the machine)
Median of --repeats, spread from the least to the most. A row is one tensor, or several of a network where that matters.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch

from coopsgd.fleet.block import Block
from coopsgd.strategies import codecs
from coopsgd.strategies.codec import Codec

CODECS: dict[str, Codec] = {
    "identity": codecs.Identity(),
    "bf16": codecs.BFloat16(),
    "fp16": codecs.Float16(),
    "sign": codecs.Sign(),
    "minmax, 4 bits": codecs.MinMax(),
    "minmax, 8 bits": codecs.MinMax(bits=8),
    "statistical, 2 bits": codecs.Statistical(),
    "qsgd, 4 bits": codecs.QSGD(),
    "topk, 1 %": codecs.TopK(),
    "topk, 1 %, chunks": codecs.TopK(per="chunk"),
    "randk, 1 %": codecs.RandK(),
    "dct": codecs.DCT(),
    "powersgd, rank 2": codecs.PowerSGD(),
}


def matrices(side: int, layers: int) -> tuple[Block, ...]:
    """A row of so many square matrices."""
    return tuple(Block(f"{i}.weight", (side, side), (side, 1), i * side * side) for i in range(layers))


def seconds(function: Callable[[], object], repeats: int) -> list[float]:
    function()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        found.append(time.perf_counter() - began)
    return found


def rate(nbytes: int, found: list[float]) -> str:
    """GB/s: the median, and from the least to the most."""
    low, mid, high = (nbytes / at / 1e9 for at in (max(found), statistics.median(found), min(found)))
    return f"{mid:.3g} ({low:.2g} to {high:.2g})"


def rows(side: int, layers: int, repeats: int) -> Iterator[tuple[str, str, str, str]]:
    blocks = matrices(side, layers)
    v = torch.randn(1, blocks[-1].stop, generator=torch.Generator().manual_seed(0))
    nbytes, into = v.numel() * v.element_size(), torch.empty_like(v)
    yield "a copy of the row", rate(nbytes, seconds(lambda: into.copy_(v), repeats)), "", "32"
    k, size = v.numel() // 100, v.abs()
    yield "torch.topk of the sizes, 1 %", rate(nbytes, seconds(lambda: size.topk(k, 1), repeats)), "", ""
    for name, codec in CODECS.items():
        coder = codec.coder(blocks, None, v.shape[1], v.dtype, 0)
        memory = codec.begin(blocks, v) if codec.REMEMBERS else None
        packed = coder.pack(v, range(1), True, memory)
        there = seconds(lambda: coder.pack(v, range(1), True, memory), repeats)  # noqa: B023
        back = seconds(lambda: coder.unpack(packed, range(1)), repeats)  # noqa: B023
        yield name, rate(nbytes, there), rate(nbytes, back), f"{8 * packed.shape[1] / v.numel():.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    said = parser.parse_args()
    torch.set_num_threads(1)
    print("| | pack, GB/s | unpack, GB/s | bits a number |\n| --- | --- | --- | --- |")
    for cells in rows(said.side, said.layers, said.repeats):
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
