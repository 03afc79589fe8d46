"""Tensors as a safetensors file, written some at a time: a file takes no more memory than a piece of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, BinaryIO

import torch
from torch import Tensor

PIECE = 1 << 24  # bytes copied and hashed at once
KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write(file: BinaryIO, tensors: Mapping[str, Sequence[Tensor]], about: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Fill an open file, each tensor given as parts that lie one below the other; its bytes and SHA-256.

    about: the text that the file holds beside the tensors (`safe_open(...).metadata()`).
    """
    head, at = dict[str, Any](), 0
    if about:
        head["__metadata__"] = dict(about)
    for name, parts in tensors.items():
        shape = [sum(len(part) for part in parts), *parts[0].shape[1:]] if parts[0].ndim else []
        end = at + sum(part.numel() * part.element_size() for part in parts)
        head[name] = {"dtype": KINDS[parts[0].dtype], "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    digest, size = hashlib.sha256(), 0
    for piece in chain([memoryview(len(text).to_bytes(8, "little") + text)], _pieces(tensors)):
        file.write(piece)
        digest.update(piece)
        size += len(piece)
    return size, digest.hexdigest()


def _pieces(tensors: Mapping[str, Sequence[Tensor]]) -> Iterator[memoryview]:
    """The bytes of all tensors, some at a time."""
    for part in (part for parts in tensors.values() for part in parts if part.numel()):
        flat = part.detach().reshape(-1)  # a view, unless it is a constant or lies otherwise in memory
        for some in flat.split(PIECE // part.element_size()):
            yield some.contiguous().cpu().view(torch.uint8).numpy().data
