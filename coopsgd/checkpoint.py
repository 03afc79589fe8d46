"""The final rows and the answer, saved atomically: a reader finds a whole file or none."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

LIMIT = 200 * 10**6  # bytes of rows that save=auto still keeps
FILE = Path("checkpoints") / "final.pt"


def atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill a file that appears at `path` only when it is whole and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with half.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)  # a full disk is not made fuller
        raise


def write_json(path: Path, content: Any) -> None:
    """JSON, atomically, not-a-number as null."""
    text = json.dumps(finite(content), indent=2) + "\n"
    atomically(path, lambda file: file.write(text.encode()))


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    names = ("coopsgd", "torch", "numpy")
    return {**{name: importlib.metadata.version(name) for name in names}, "python": platform.python_version()}


def command(folder: Path) -> str:
    """The command line that made this folder: the comment at the head of its config.yaml."""
    first = (folder / "config.yaml").read_text().split("\n", 1)[0]
    return first.removeprefix("# ") if first.startswith("# ") else ""


def finite(value: Any) -> Any:
    """The same structure with every float that is not finite as None, which JSON can say."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value


def resolve(save: str, rows: int, d: int, size: int) -> str:
    """What save=auto means for (rows, d) numbers of `size` bytes."""
    if save != "auto":
        return save
    return "rows" if rows * d * size <= LIMIT else "answer"
