"""The final rows and the answer of a run, and what its files say of where they are from.

checkpoints/final.safetensors   answer (1, d), answer_stats (1, b), rows (m + v, d), stats (m + v, b), as far as they are
                                kept; its metadata say where in a row each parameter lies (`Problem.places`)
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from coopsgd.errors import DamagedFile
from coopsgd.host.files import atomically, sha256

if TYPE_CHECKING:
    from torch import Tensor

    from coopsgd.tasks.base import Place

LIMIT = 200 * 10**6  # bytes of rows that save=auto still keeps
FILE = Path("checkpoints") / "final.safetensors"
BEST = FILE.with_name("best.safetensors")  # answer and answer_stats of the best evaluation so far, with save=best
OLD = FILE.with_name("final.pt")  # what earlier versions wrote, by torch.save


def write(file: BinaryIO, tensors: dict[str, Tensor], places: dict[str, list[Place]]) -> None:
    """Fill final.safetensors. places: where in a row each parameter and each statistic lies, kept as JSON beside them."""
    from coopsgd.run import tensors as safetensors  # imports torch

    about = {kind: json.dumps(found) for kind, found in places.items()}
    safetensors.write(file, {name: [x] for name, x in tensors.items()}, {"format": "pt", **about})


def write_best(folder: Path, best: Mapping[str, Any], places: dict[str, list[Place]]) -> None:
    """The best so far (Evaluator.best) as best.safetensors of the run in `folder`."""
    found = {name: best[name] for name in ("answer", "answer_stats") if best[name] is not None}
    atomically(folder / BEST, lambda file: write(file, found, places))


def checksums(half: Path | None, best: Path | None = None) -> dict[str, str]:
    """The SHA-256 of what is kept, as sha256sum tells it, for summary.json. half: the file before it appears, None for none.

    best: best.safetensors, where there is one.
    """
    found = {}
    for name, path in ((FILE, half), (BEST, best)):
        if path is not None:
            with path.open("rb") as file:
                found[name.as_posix()] = sha256(file)
    return found


def opened(path: Path) -> BinaryIO:
    """A file of a run, to be read. DamagedFile when something else lies there, such as a pipe, whose end may never come."""
    if path.exists() and not path.is_file():
        raise DamagedFile(f"{path} is damaged: it is no file; run it anew")
    return path.open("rb")


def read(
    folder: Path, summary: dict[str, Any], wanted: Collection[str], best: bool = False
) -> tuple[dict[str, Tensor], list[str]]:
    """Those tensors of `wanted` that were kept, and the names of all that were. DamagedFile unless they are what the run wrote.

    summary: of this run, {} while there is none; one of a version that kept no checksums promises nothing. best: of
    best.safetensors.
    """
    name = BEST if best else OLD if not (folder / FILE).exists() and (folder / OLD).exists() else FILE
    path, sums = folder / name, summary.get("checksums", {})
    promised = sums.get(name.as_posix()) if isinstance(sums, dict) else str(sums)
    try:
        with opened(path) as file:
            if promised is not None and sha256(file) != promised:
                raise DamagedFile(f"{path} is damaged: its SHA-256 is not the one in summary.json; run it anew")
            file.seek(0)
            return _read_old(file, wanted) if name == OLD else _read(path, wanted)
    except FileNotFoundError:
        if promised is None and (best or summary.get("saved", "none") == "none"):
            return {}, []
        raise DamagedFile(f"{path} is missing, though the run kept it (saved: {summary.get('saved')}); run it anew") from None
    except (DamagedFile, OSError):
        raise
    except Exception as error:  # a broken header, zip or pickle can raise almost anything
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DamagedFile(f"{path} is damaged: it holds no models ({why[:200]}); run it anew") from None


def _read(path: Path, wanted: Collection[str]) -> tuple[dict[str, Tensor], list[str]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        return {name: file.get_tensor(name) for name in names if name in wanted}, names


def _read_old(file: BinaryIO, wanted: Collection[str]) -> tuple[dict[str, Tensor], list[str]]:
    import torch

    content = torch.load(file, weights_only=True, map_location="cpu")
    if not isinstance(content, dict) or not all(isinstance(x, torch.Tensor) for x in content.values()):
        raise ValueError(f"but {type(content).__name__}")
    return {name: x for name, x in content.items() if name in wanted}, list(content)


def command(folder: Path) -> str:
    """The command line that made this folder: the comment at the head of its config.yaml."""
    first = (folder / "config.yaml").read_text().split("\n", 1)[0]
    return first.removeprefix("# ") if first.startswith("# ") else ""


def resolve(save: str, rows: int, d: int, size: int) -> str:
    """What save=auto means for (rows, d) numbers of `size` bytes."""
    if save != "auto":
        return "answer" if save == "best" else save
    return "rows" if rows * d * size <= LIMIT else "answer"
