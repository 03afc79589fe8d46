"""Where in a user's code an exception came from, in one line."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any

OURS = str(Path(__file__).parent) + os.sep
STANDARD = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})
INSTALLED = ("site-packages", "dist-packages")
DEPENDENCIES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "sklearn",
    "networkx",
    "hydra",
    "omegaconf",
    "click",
    "rich",
    "yaml",
    "antlr4",
)


def blame(error: BaseException) -> str | None:
    """'slowmo.py:31, in step: ZeroDivisionError: ...' of an exception that passed through a user's code; else None."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    return f"{frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name}: {described(error)}" if frames else None


def location(error: BaseException) -> str:
    """' (FILE:LINE)' of an exception that a user's code itself raised; else ''."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames and _is_users(frames[-1].filename) else ""


def with_location(error: BaseException, thing: Any = None) -> str:
    """'ZeroDivisionError: ... (FILE:LINE)' of an exception while a user's code was imported or `thing` of it was made.

    Where no line of it is to blame, the file that defines `thing`.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    file, frames = getattr(sys.modules.get(getattr(thing, "__module__", "")), "__file__", None), outside(error)
    if frames and file in (None, *(frame.filename for frame in frames)):
        return f"{described(error)} ({frames[-1].filename}:{frames[-1].lineno})"
    return f"{described(error)} ({file})" if file else described(error)


def outside(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames that the exception passed outside this package, the innermost last: a user's; libraries' if there are none."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.isfile(frame.filename) and not frame.filename.startswith(OURS) and frame.filename != importlib.__file__
    ]
    return [frame for frame in frames if _is_users(frame.filename)] or frames


def described(error: BaseException) -> str:
    """The type of an error and what it says, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_users(filename: str) -> bool:
    """Is it a Python file of neither this package nor the standard library nor a library that this package needs?"""
    if not filename.endswith(".py") or filename.startswith((OURS, "<")):
        return False
    parts = Path(filename).parts
    for at, part in enumerate(parts[:-1]):
        if part in INSTALLED:
            return parts[at + 1].removesuffix(".py") not in DEPENDENCIES
    return not filename.startswith(STANDARD)
