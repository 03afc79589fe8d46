"""The final rows and the answer of a run, and what its files say of where they are from."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any, BinaryIO

from coopsgd.errors import DamagedFile
from coopsgd.host.files import sha256

LIMIT = 200 * 10**6  # bytes of rows that save=auto still keeps
FILE = Path("checkpoints") / "final.pt"


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
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DamagedFile(f"{path} is damaged: it holds no models ({why[:200]}); run it anew") from None
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


def resolve(save: str, rows: int, d: int, size: int) -> str:
    """What save=auto means for (rows, d) numbers of `size` bytes."""
    if save != "auto":
        return save
    return "rows" if rows * d * size <= LIMIT else "answer"
