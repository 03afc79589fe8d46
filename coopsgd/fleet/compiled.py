"""Mixing by the compiled kernels: one pass over the memory of the rows, where torch takes two to four.

A number depends on its column alone, not on how columns are shared out: so the bits are the same whatever the number of
processes or threads. Over torch's way, one thread, float32, 1e6 to 1e7 numbers in all (Intel Xeon, AVX-512): EASGD of 4, 16, 64
workers 0.41, 0.38, 0.32; an average of 4, 8, 64 0.48, 0.54, 0.63; a ring of 4, 8, 64 0.38, 0.85, 0.51; a mean of 4, 32, 256
rows 0.60, 0.56, 0.64 (AVX2). Dense products of more than FEW rows are torch's (1.3 on 8 rows).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coopsgd.host import native

FEW = 6  # rows that are mixed in registers, as native.c says
DEGREE = 4  # entries a row, in the mean, up to which a product of more rows is quicker by its entries
MOST = 128  # rows of such a product
LARGE = 1 << 19  # numbers from which on threads share them

PULL, SOME, ENTRIES = range(3)  # kinds of mixing, as structs.h has them

_pools: dict[int, ThreadPoolExecutor] = {}  # by process, for a fork has none of its threads


class Kernel:
    """Mixes rows in place, or returns False where they do not lie as they must. at: where compiled code finds how.

    call: the library's; kind, n and arrays are those of structs.h's Mix, by name, floats as numbers of the type of `like`.
    """

    def __init__(self, call: Any, like: Tensor, kind: int, n: int, **arrays: np.ndarray) -> None:
        dtype = np.float32 if like.dtype == torch.float32 else np.float64
        self._kept = {
            name: np.ascontiguousarray(one, dtype=dtype if one.dtype.kind == "f" else np.int64) for name, one in arrays.items()
        }
        self._known = native.Mix(kind=kind, n=n, n_used=len(arrays.get("used", ())))
        for name, one in self._kept.items():
            setattr(self._known, name, native.address(one))
        self.at = ctypes.addressof(self._known)
        self._call, self._size = call, like.dtype.itemsize

    def __call__(self, x: Tensor) -> bool:
        if x.stride(1) != 1 and x.shape[1] > 1:
            return False
        to, stride = x.data_ptr(), x.stride(0)
        in_parts(x.shape[1], x.numel(), lambda a, n: self._call(self.at, to + a * self._size, stride, n))
        return True


def pulling(d: np.ndarray, u: np.ndarray, v: np.ndarray, like: Tensor) -> Kernel | None:
    """x <- (diag(d) + u v') x; None where torch is to do it."""
    if len(d) <= FEW:
        return few(np.diag(d) + np.outer(u, v), np.arange(len(d)), like)
    return _kernel(like, PULL, len(d), numbers=d, u=u, v=v)


def few(W: np.ndarray, rows: np.ndarray, like: Tensor) -> Kernel | None:
    """x[rows] <- W x[rows] of 2 to FEW rows."""
    if not 2 <= len(rows) <= FEW:
        return None
    return _kernel(like, SOME, len(rows), rows=rows, numbers=W)


def product(
    rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, changed: np.ndarray, used: np.ndarray, like: Tensor
) -> Kernel | None:
    """x[changed] <- W x[used], W by its entries, sorted by row."""
    if np.array_equal(changed, used) and len(used) <= FEW:
        W = np.zeros((len(changed), len(used)))
        W[rows, columns] = weights
        return few(W, changed, like)
    if len(used) > MOST or not len(used) or len(rows) > DEGREE * len(changed):
        return None
    offsets = np.searchsorted(rows, np.arange(len(changed) + 1))
    return _kernel(like, ENTRIES, len(changed), rows=changed, used=used, offsets=offsets, columns=columns, numbers=weights)


def _kernel(like: Tensor, kind: int, n: int, **arrays: np.ndarray) -> Kernel | None:
    call = _function("mix", like)
    return None if call is None else Kernel(call, like, kind, n, **arrays)


def _function(name: str, like: Tensor) -> Any:
    """What the library has of this name for numbers like these; None where torch is to compute."""
    return _of_type(native.library(), name, like.dtype) if like.is_cpu else None


@cache
def _of_type(library: Any, name: str, dtype: torch.dtype) -> Any:
    bits = {torch.float32: 32, torch.float64: 64}.get(dtype)
    return None if library is None or bits is None else getattr(library, f"{name}_{bits}")


class Mean:
    """Into out (1, n) the mean of these rows of x (r, n), int64 numbers; by torch where the kernel is not."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows, self._place = rows, native.address(rows)

    def __call__(self, x: Tensor, out: Tensor) -> None:
        call, size, rows = _function("mean", x), x.dtype.itemsize, self._rows
        side_by_side = x.stride(1) == 1 == out.stride(1) or x.shape[1] == 1
        if call is None or out.dtype != x.dtype or not side_by_side:
            torch.mean(x if len(rows) == len(x) else x[torch.from_numpy(rows)], 0, keepdim=True, out=out)
            return
        to, at, stride, n, many = out.data_ptr(), x.data_ptr(), x.stride(0), x.shape[1], len(rows)
        in_parts(n, n * many, lambda a, some: call(to + a * size, at + a * size, stride, some, many, self._place))


def along(x: Tensor, g: Tensor, lr: float) -> bool:
    """x (n, d) <- x - lr g, (1, d) or (n, d); False, and nothing done, where torch is to do it.

    Compiled rounds (host/rounds.c) take the same step.
    """
    call, size, (rows, n) = _function("along", x), x.dtype.itemsize, x.shape
    alike = g.dtype == x.dtype and g.is_cpu and g.shape[1] == n and len(g) in (1, rows)
    if call is None or not alike or not (x.stride(1) == 1 == g.stride(1) or n == 1):
        return False
    to, stride, by, by_stride = x.data_ptr(), x.stride(0), g.data_ptr(), g.stride(0) if len(g) > 1 else 0
    in_parts(n, x.numel(), lambda a, some: call(to + a * size, stride, rows, some, by + a * size, by_stride, lr))
    return True


def outer_step(z: Tensor, y: Tensor, b: Tensor, lr: float, momentum: float, rate: float, nesterov: bool) -> bool:
    """The step of strategies/outer.py's Momentum; False, and nothing done, where torch is to take it."""
    call, size, n = _function("outer", z), z.dtype.itemsize, z.numel()
    alike = all(one.dtype == z.dtype and one.shape == z.shape and one.is_contiguous() for one in (y, b))
    if call is None or not alike or not z.is_contiguous():
        return False
    places = [one.data_ptr() for one in (z, y, b)]
    in_parts(n, n, lambda a, n: call(*(at + a * size for at in places), n, lr, momentum, rate, int(nesterov)))
    return True


def in_parts(columns: int, numbers: int, call: Callable[[int, int], None]) -> None:
    """call(first column, how many) for all columns; in parts, by several threads, where there are many numbers."""
    threads = torch.get_num_threads() if numbers >= LARGE else 1
    if threads == 1:
        return call(0, columns)
    share = -(-columns // (64 * threads)) * 64
    pool = _pools.get(os.getpid()) or _pools.setdefault(os.getpid(), ThreadPoolExecutor(threads))
    others = [pool.submit(call, a, min(share, columns - a)) for a in range(share, columns, share)]
    call(0, min(share, columns))
    for other in others:
        other.result()
