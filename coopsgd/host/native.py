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

VERSION = 9  # of the functions, their arguments and what they need of room; a library that was built of another is not used
OFF = "COOPSGD_NATIVE"  # an environment variable: 0 leaves the kernels alone


POINTER, NUMBER = ctypes.c_void_p, ctypes.c_int64


def _fields(*lines: tuple[Any, str]) -> list[tuple[str, Any]]:
    return [(name, kind) for kind, names in lines for name in names.split()]


class Samples(ctypes.Structure):
    """Samples in memory, as structs.h has them."""

    _fields_ = _fields((POINTER, "numbers mean by_std labels"), (NUMBER, "kind count channels area"))


class Learning(ctypes.Structure):
    """Steps of SGD of some models, as structs.h has them."""

    _fields_ = _fields(
        (POINTER, "x out"),
        (NUMBER, "stride out_stride rows layers"),
        (POINTER, "sizes biased lr samples which"),
        (NUMBER, "by_step by_row batch"),
        (POINTER, "losses"),
        (NUMBER, "losses_by_step losses_by_row"),
        (POINTER, "room"),
        (ctypes.c_double, "momentum decay"),
        (NUMBER, "how"),
    )


class Mix(ctypes.Structure):
    """What becomes of rows by a matrix, as structs.h has it."""

    _fields_ = _fields((NUMBER, "kind n"), (POINTER, "rows"), (NUMBER, "n_used"), (POINTER, "used offsets columns numbers u v"))


class Meeting(ctypes.Structure):
    """A place to meet, as structs.h has it."""

    _fields_ = _fields((POINTER, "slots"), (NUMBER, "apart count rank spins n"))


class Rounds(ctypes.Structure):
    """Steps and communications, and how far they are, as rounds.c has them."""

    _fields_ = _fields(
        (POINTER, "meeting all"),
        (NUMBER, "stride width first columns"),
        (POINTER, "mixes mean workers"),
        (NUMBER, "n_workers step phase wrong"),
        (ctypes.c_double, "seconds"),
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
    pointer, number, real = POINTER, NUMBER, ctypes.c_double
    arguments = {
        "mix": [pointer, pointer, number, number],
        "mean": [pointer, pointer, number, number, number, pointer],
        "along": [pointer, number, number, number, pointer, number, real],
        "outer": [pointer, pointer, pointer, number, real, real, real, number],
    }
    for name, types in arguments.items():
        for bits in (32, 64):
            function = getattr(found, f"{name}_{bits}")
            function.argtypes, function.restype = types, None
    models, network = [pointer, number] * 2 + [number], [number, pointer, pointer]
    batch, step = [number, *[pointer] * 4], [real] * 3 + [number]
    answering: dict[str, list[Any]] = {
        "dense": [*models, *network, *batch, *step],
        "conv": [*models, *network, number, pointer, pointer, *batch, *step],
        "batch": [pointer, pointer, number, pointer],
        "dense_steps": [pointer, number, number],
        "rounds": [pointer, pointer, number, real, real],
    }
    for name, types in (
        *((f"{name}_{bits}", types) for name, types in answering.items() for bits in (32, 64)),
        ("dense_room", [number, pointer, number]),
        ("conv_room", [number, pointer, number, pointer, number, number]),
        ("meeting_arrive", [pointer]),
        ("meeting_wait", [pointer, real]),
    ):
        function = getattr(found, name)
        function.argtypes, function.restype = types, number
    return found
