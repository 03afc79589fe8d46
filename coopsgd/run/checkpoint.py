"""The final rows and the answer, saved atomically: a reader finds a whole file or none."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from coopsgd.errors import DamagedFile
from coopsgd.host import newfile

LIMIT = 200 * 10**6  # bytes of rows that save=auto still keeps
FILE = Path("checkpoints") / "final.pt"


def atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill a file that appears at `path` only when it is whole and on disk. OSError names the path."""
    with staged(path, write):
        pass


@contextlib.contextmanager
def staged(path: Path, write: Callable[[BinaryIO], Any]) -> Iterator[Path]:
    """The file is whole and on disk, by another name, when the block begins, and appears at `path` when it ends well."""
    half = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_halves(path.parent, path.name)
        with newfile.create(half) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        yield half
        half.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            half.unlink(missing_ok=True)  # a full disk is not made fuller
        # torch.save puts an error of its own before the disk's
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, OSError):
            if cause.errno is not None and cause.filename is None:
                cause.filename = str(path)
            raise cause from None
        raise


def clear_halves(folder: Path, name: str = "*") -> None:
    """Remove what processes that are no more left unfinished of the files of that name, or folders where they worked on it."""
    for half in folder.glob(f"{name}.*.part"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(half.name.split(".")[-2])
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                shutil.rmtree(half) if half.is_dir() and not half.is_symlink() else half.unlink()


def write_json(path: Path, content: Any) -> None:
    """JSON, atomically, not-a-number as null."""
    with staged_json(path, content):
        pass


def staged_json(path: Path, content: Any) -> contextlib.AbstractContextManager[Path]:
    """The same, staged."""
    text = json.dumps(finite(content), indent=2) + "\n"
    return staged(path, lambda file: file.write(text.encode()))


def sha256(file: BinaryIO) -> str:
    """Of what is left of an open file, in hexadecimal."""
    digest = hashlib.sha256()
    while part := file.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()


def checksums(half: Path | None) -> dict[str, str]:
    """The SHA-256 of what is kept, as sha256sum tells it, for summary.json. half: final.pt before it appears, None for none."""
    if half is None:
        return {}
    with half.open("rb") as file:
        return {FILE.as_posix(): sha256(file)}


def opened(path: Path) -> BinaryIO:
    """A file of a run, to be read. DamagedFile when something else lies there, such as a pipe, whose end may never come."""
    if path.exists() and not path.is_file():
        raise DamagedFile(f"{path} is damaged: it is no file; run it anew")
    return path.open("rb")


def read_final(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The tensors of final.pt, by name; {} when none were kept. DamagedFile unless it is what the run wrote.

    summary: of this run, {} while there is none; one of a version that kept no checksums promises nothing.
    """
    import torch

    path, sums = folder / FILE, summary.get("checksums", {})
    promised = sums.get(FILE.as_posix()) if isinstance(sums, dict) else str(sums)
    try:
        with opened(path) as file:
            if promised is not None and sha256(file) != promised:
                raise DamagedFile(f"{path} is damaged: its SHA-256 is not the one in summary.json; run it anew")
            file.seek(0)
            content = torch.load(file, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        if promised is None and summary.get("saved", "none") == "none":
            return {}
        raise DamagedFile(f"{path} is missing, though the run kept it (saved: {summary.get('saved')}); run it anew") from None
    except (DamagedFile, OSError):
        raise
    except Exception as error:  # a broken zip or pickle can raise almost anything
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DamagedFile(f"{path} is damaged: it holds no models ({told[:200]}); run it anew") from None
    if not isinstance(content, dict) or not all(isinstance(x, torch.Tensor) for x in content.values()):
        raise DamagedFile(f"{path} is damaged: it holds no models; run it anew")
    return content


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
