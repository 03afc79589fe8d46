"""Where a run is computed, as far as its bits depend on it: versions, packages, threads, processor, data, commit.

All of it is cheap: nothing is imported for it, no number is computed by torch, and git, where there is one, gets a second.
What does not change while a process lives is found once; workers inherit what the command that forked them has found.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from coopsgd import usercode
from coopsgd.host import native
from coopsgd.setup.parts import Parts

LARGEST = 1 << 30  # bytes of data that are hashed whole; of more, blocks at even distances
BLOCK = 1 << 20
PATIENCE = 1.0  # seconds that git may take

_hashed: tuple[list[np.ndarray], str] | None = None  # the data hashed last, which must live as long as it is known by its place


def provenance(parts: Parts) -> dict[str, Any]:
    """For summary.json and for checkpoints: versions, and environment. What cannot be found is null; nothing is raised."""
    return {
        "versions": versions(),
        "environment": {
            "threads": parts.config.threads,
            **processor(),
            "native": native.in_use(),
            "data_sha256": data_sha256(parts),
            "packages_sha256": packages_sha256(),
            "git": git(),
            "source": source_sha256(parts),
        },
    }


def prepare(parts: Parts) -> None:
    """Find what workers to be forked inherit."""
    git(), data_sha256(parts)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """What differs of two provenances, by name, in words. What one of them does not know is not compared."""
    return {
        name: f"{name}: {words(one)} then, {words(other)} now"
        for name, one in _flat(then).items()
        if one is not None and (other := _flat(now).get(name)) is not None and one != other
    }


def _flat(found: Mapping[str, Any]) -> dict[str, Any]:
    parts = (found.get(name) for name in ("versions", "environment"))
    flat = {name: value for part in parts if isinstance(part, Mapping) for name, value in part.items()}
    source = flat.pop("source", None)
    return {**flat, **(source if isinstance(source, Mapping) else {})}


def words(value: Any) -> str:
    """One of these facts, for a line."""
    if isinstance(value, Mapping):  # git
        changed = " with changes that are not committed" if value.get("dirty") else ""
        return f"{str(value.get('commit'))[:12]}{changed}"
    return str(value)[:16] if isinstance(value, str) and len(value) == 64 else str(value)


@cache
def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    from importlib import metadata

    names = ("coopsgd", "torch", "numpy")
    return {**{name: metadata.version(name) for name in names}, "python": platform.python_version()}


def processor() -> dict[str, str | None]:
    """cpu_capability: which of its kernels torch uses here, None where it is not loaded; processor: its name; gpu if in use."""
    torch = sys.modules.get("torch")
    found: dict[str, str | None] = {"cpu_capability": None, "processor": _processor()}
    with contextlib.suppress(Exception):
        found["cpu_capability"] = None if torch is None else str(torch.backends.cpu.get_cpu_capability())
        if torch is not None and torch.cuda.is_initialized():
            found["gpu"] = str(torch.cuda.get_device_name())
    return found


@cache
def _processor() -> str | None:
    with contextlib.suppress(OSError, ValueError), open("/proc/cpuinfo") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine() or None


@cache
def packages_sha256() -> str:
    """Of the names and versions of all packages that can be imported, as their folders are called."""
    found: set[str] = set()
    for place in sys.path:
        with contextlib.suppress(OSError):
            found |= {name.lower() for name in os.listdir(place or ".") if name.endswith((".dist-info", ".egg-info"))}
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()


# data


def data_sha256(parts: Parts) -> str | None:
    """Of every number that the task learns from or is tested on, wherever it was read; None where there is no data."""
    global _hashed
    with contextlib.suppress(Exception):  # data that cannot be read are the task's to tell of
        content = dict(_arrays(parts.task.learns_from(parts.config)))
        if not content:
            return None
        arrays = list(content.values())
        if _hashed is None or list(map(_place, _hashed[0])) != list(map(_place, arrays)):
            _hashed = arrays, _hash(content)
        return _hashed[1]
    return None


def _arrays(value: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The arrays in it, by name; numbers and texts are arrays too."""
    if isinstance(value, np.ndarray):
        yield name, value
    elif isinstance(value, str):
        yield name, np.frombuffer(value.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    elif isinstance(value, bool | int | float):
        yield name, np.asarray(value)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _arrays(getattr(value, field.name), f"{name}.{field.name}")
    elif isinstance(value, tuple | list):
        for i, one in enumerate(value):
            yield from _arrays(one, f"{name}[{i}]")


def _place(array: np.ndarray) -> tuple[Any, ...]:
    """Where it lies; of small ones, which may be made anew each time, what it holds."""
    at = array.tobytes() if array.size <= 1024 else array.__array_interface__["data"]
    return at, array.shape, array.strides, array.dtype.str


def _hash(content: Mapping[str, np.ndarray]) -> str:
    size = sum(array.nbytes for array in content.values())
    every = -(-size // LARGEST)  # of so many blocks one
    digest = hashlib.sha256()
    for name, array in content.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        for at in range(0, len(data), every * BLOCK):
            digest.update(data[at : at + BLOCK] if every > 1 else data[at : at + every * BLOCK])
    return digest.hexdigest() + (f" of every {every}th MiB" if every > 1 else "")


# code of the user's own


def source_sha256(parts: Parts) -> dict[str, str] | None:
    """Of each file that the config brings, by place (usercode.py); None where it brings none."""
    return {place: file.sha256 for place, file in usercode.of(vars(parts.config)).items()} or None


# git


def git(folder: str | None = None) -> dict[str, Any] | None:
    """commit: of the repository that a folder is in, the working directory if none is named; dirty: are tracked files changed,
    None where git does not say. None: it is in none.
    """
    with contextlib.suppress(OSError):
        at = Path(folder or os.getcwd())
        above = next((path for path in (at, *at.parents) if (path / ".git").exists()), None)
        return None if above is None else _git(str(above))
    return None


@cache
def _git(top: str) -> dict[str, Any]:
    return _asked(top) or {"commit": _commit(Path(top) / ".git"), "dirty": None}


def _asked(folder: str) -> dict[str, Any] | None:
    """By git itself, which reads nothing that is not tracked, takes no lock and runs no hook."""
    if (program := shutil.which("git")) is None:
        return None
    words = ["--no-optional-locks", "-c", "core.fsmonitor=false", "-C", folder]
    words += ["status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=dirty"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        said = subprocess.run(
            [program, *words], env=own, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=True
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.SubprocessError):
        return None
    lines = said.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), None)
    return {"commit": None if commit == "(initial)" else commit, "dirty": any(not line.startswith("#") for line in lines)}


def _commit(at: Path) -> str | None:
    """The commit that a .git, folder or file, is at, without git."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        if at.is_file():
            at = (at.parent / at.read_text().partition("gitdir:")[2].strip()).resolve()
        head = (at / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name, common = head.removeprefix("ref: "), at
        if (at / "commondir").is_file():
            common = (at / (at / "commondir").read_text().strip()).resolve()
        for place in (at, common):
            if (place / name).is_file():
                return (place / name).read_text().strip()
        packed = (common / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)
    return None
