"""The compiled kernels of the C files here, where the package was built with a C compiler; None with COOPSGD_NATIVE=0.

They are called through ctypes, which costs a microsecond or two and lets other threads go on meanwhile.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

VERSION = 8  # of the functions, their arguments and what they need of room; a library that was built of another is not used
OFF = "COOPSGD_NATIVE"  # an environment variable: 0 leaves the kernels alone


class Samples(ctypes.Structure):
    """Samples in memory, as samples.c has them."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("numbers", "mean", "by_std", "labels")),
        *((name, ctypes.c_int64) for name in ("kind", "count", "channels", "area")),
    )


@cache
def library() -> Any:
    """The library, each of its functions with the types of its arguments; None where there is none to use."""
    if os.environ.get(OFF) == "0":
        return None
    for suffix in (".abi3.so", *EXTENSION_SUFFIXES):
        file = Path(__file__).with_name(f"_native{suffix}")
        if file.exists():
            try:
                found = ctypes.CDLL(str(file))
                if found.version() == VERSION:
                    return _typed(found)
            except (OSError, AttributeError):  # of another system, or damaged: torch does the same
                pass
    return None


def in_use() -> bool:
    """Do the kernels compute here?"""
    return library() is not None


def address(array: Any) -> int:
    """Where the numbers of a numpy array lie, which must live on."""
    return int(array.ctypes.data)


def _typed(found: Any) -> Any:
    pointer, number, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    arguments = {
        "pull": [pointer, number, number, number, pointer, pointer, pointer],
        "few": [pointer, number, number, number, pointer, pointer],
        "product": [pointer, number, number, number, pointer, number, pointer, pointer, pointer, pointer],
        "mean": [pointer, pointer, number, number, number, pointer],
        "outer": [pointer, pointer, pointer, number, real, real, real, number],
    }
    for name, types in arguments.items():
        for bits in (32, 64):
            function = getattr(found, f"{name}_{bits}")
            function.argtypes, function.restype = types, None
    models, batch, step = [pointer, number] * 2 + [number], [number, *[pointer] * 4], [real] * 3 + [number]
    kernels = {"dense": [number, pointer, pointer], "conv": [number, pointer, pointer, number, pointer, pointer]}
    for name, network in kernels.items():
        for bits in (32, 64):
            function = getattr(found, f"{name}_{bits}")
            function.argtypes, function.restype = [*models, *network, *batch, *step], number
    for name, types in (
        ("dense_room", [number, pointer, number]),
        ("conv_room", [number, pointer, number, pointer, number, number]),
    ):
        function = getattr(found, name)
        function.argtypes, function.restype = types, number
    count, meeting = ctypes.c_uint32, [pointer, number, number]
    found.meeting_arrive.argtypes, found.meeting_arrive.restype = [*meeting, number, count], number
    found.meeting_wait.argtypes, found.meeting_wait.restype = [*meeting, count, number, real], number
    samples = ctypes.POINTER(Samples)
    for bits in (32, 64):
        function = getattr(found, f"batch_{bits}")
        function.argtypes, function.restype = [samples, pointer, number, pointer], number
        function = getattr(found, f"dense_steps_{bits}")
        rows = [pointer, number, pointer, number, number, number, pointer, pointer]
        batches = [number, pointer, samples, pointer, number, number, number]
        function.argtypes = [*rows, *batches, pointer, number, number, pointer, real, real, number]
        function.restype = number
    return found
