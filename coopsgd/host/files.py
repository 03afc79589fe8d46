"""Files written atomically, so that a reader finds a whole one or none, and their checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from coopsgd.host import newfile

T = TypeVar("T")


def atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill a file that appears at `path` only when it is whole and on disk. OSError names the path."""
    with staged(path, write):
        pass


def on_disk(path: Path, write: Callable[[BinaryIO], T]) -> T:
    """Let `write` fill a new file at `path`, which is on disk when this returns; what it returned."""
    with newfile.create(path) as file:
        found = write(file)
        file.flush()
        os.fsync(file.fileno())
    return found


def new(path: Path, content: bytes) -> None:
    """Make a file that appears only when it is whole and on disk. FileExistsError where one is; OSError names the path."""
    half = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        clear_halves(path.parent, path.name)
        on_disk(half, lambda file: file.write(content))
        try:
            os.link(half, path)
        except FileExistsError:
            raise
        except OSError:  # a file system that knows no links; there two may not see each other
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            half.replace(path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            half.unlink(missing_ok=True)


@contextlib.contextmanager
def staged(path: Path, write: Callable[[BinaryIO], Any]) -> Iterator[Path]:
    """The file is whole and on disk, by another name, when the block begins, and appears at `path` when it ends well."""
    half = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_halves(path.parent, path.name)
        on_disk(half, write)
        yield half
        half.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            half.unlink(missing_ok=True)  # a full disk is not made fuller
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def clear_halves(folder: Path, name: str = "*", alone: bool = False) -> None:
    """Remove what processes that are no more left unfinished of the files of that name, or folders where they worked on it.

    alone: nobody else works in the folder, so whatever bears the number of a process is one of those: numbers come again.
    """
    for half in folder.glob(f"{name}.*.part"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(half.name.split(".")[-2])
            if not alone and _is_there(pid):
                continue
            shutil.rmtree(half) if half.is_dir() and not half.is_symlink() else half.unlink()


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def json_text(content: Any) -> str:
    """Indented JSON, not-a-number as null."""
    return json.dumps(finite(content), indent=2)


def write_json(path: Path, content: Any) -> None:
    """JSON, atomically."""
    with staged_json(path, content):
        pass


def staged_json(path: Path, content: Any) -> contextlib.AbstractContextManager[Path]:
    """The same, staged."""
    text = json_text(content) + "\n"
    return staged(path, lambda file: file.write(text.encode()))


def sha256(file: BinaryIO) -> str:
    """Of what is left of an open file, in hexadecimal."""
    digest = hashlib.sha256()
    while part := file.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()


def finite(value: Any) -> Any:
    """The same structure with every float that is not finite as None, which JSON can say."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value
