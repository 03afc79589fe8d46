"""What would a processor wait for, had it a GPU? Operations are looked at as they are called; none of them needs one.

`GPUS` stand for one: tensors on meta have no numbers, and a backward pass; fake ones on cuda have none of either.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from coopsgd.host import transfer

GPUS = ("cuda", "meta")
WAITS = (  # whose answer, or its shape, is known when the GPU has computed it
    "_local_scalar_dense",
    "item",
    "equal",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "linalg_inv_ex",
    "linalg_cholesky_ex",
    "_linalg_svd",
    "_linalg_eigh",
    "_linalg_solve_ex",
)
MADE_OF_NUMBERS = (torch.tensor, torch.as_tensor, Tensor.new_tensor)  # of Python's or numpy's, by a copy that is waited for


def _on(x: Any, where: tuple[str, ...]) -> bool:
    return isinstance(x, Tensor) and x.device.type in where


def why(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Why a processor would wait for this operation; None: it would not."""
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [x for x in given if _on(x, GPUS)]
    if name in WAITS and there:
        return f"{name} of a tensor there"
    if name in ("_to_copy", "copy_"):
        of = args[1] if name == "copy_" else args[0]
        to = torch.device(args[0].device if name == "copy_" else kwargs.get("device") or of.device).type
        if _on(of, GPUS) and to == "cpu":
            return "a copy from there"
        if _on(of, ("cpu",)) and to in GPUS:
            quick = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
            return None if quick else "a copy to there that is waited for"
        return None
    if (
        there
        and name.startswith("index")
        and any(x.dtype in (torch.bool, torch.uint8) for x in given[1:2])
        and "fill" not in name
    ):
        return f"{name} by a mask: how many it keeps"
    if there and any(_on(x, ("cpu",)) and x.dim() for x in given):
        return f"{name} of tensors here and there"
    return None


class _Operations(TorchDispatchMode):
    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reason = why(func.name().split("::")[-1].split(".")[0], args, kwargs or {})
        if reason is not None:
            self._seen.append(f"{reason} ({_whose()})")
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in MADE_OF_NUMBERS and _on(found, GPUS):
            self._seen.append(f"numbers of Python's brought there ({_whose()})")
        return found


def _whose() -> str:
    """The line of ours that called it."""
    ours = [frame for frame in traceback.extract_stack() if "/coopsgd/" in frame.filename]
    return f"{ours[-1].filename.rpartition('/coopsgd/')[2]}:{ours[-1].lineno}" if ours else "a test"


@contextmanager
def watched() -> Iterator[list[str]]:
    """Inside, what the processor would wait for is noted, and whose line it was."""
    seen: list[str] = []
    with staged(), _Functions(seen), _Operations(seen):
        yield seen


def staged() -> Any:
    """Inside, there is page-locked memory where there is no GPU to lock it for."""
    return mock.patch.object(transfer, "_staged", lambda x: x)
