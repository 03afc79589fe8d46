"""Runs named on a command line: by their folders, or by a sweep's for all that have ended there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coopsgd.compare.entries import below
from coopsgd.errors import ConfigError, DamagedFile
from coopsgd.run.reader import summary_of

SWEEP = "multirun.yaml"  # what Hydra writes beside the runs of a sweep


def expanded(folders: Sequence[str], where: str, example: str) -> tuple[list[str], list[str]]:
    """Run folders, those below a sweep's instead of it, and notes on what is left out there: runs that have not ended.

    A shell that expands SWEEP/* names multirun.yaml too, which is no run. where, example: for ConfigError, when none is named.
    """
    if not all(folder.strip() for folder in folders):
        raise ConfigError(f"{where}: an empty word stands among the run folders; leave it out, or write . for this folder")
    if not folders:
        raise ConfigError(f"{where}: names no run; give run folders, as in {example}")
    named = list(dict.fromkeys(str(Path(folder)) for folder in folders))
    sweeps = {Path(name).parent for name in named if Path(name).name == SWEEP and Path(name).is_file()}
    found: dict[str, str | None] = {}  # run folder -> why it is left out
    for name in named:
        path = Path(name)
        if path.parent in sweeps and not path.is_dir():
            continue  # multirun.yaml itself, or a picture of an earlier look
        inner = [] if not path.is_dir() or (path / "config.yaml").is_file() else below(path)
        if inner or (path.parent in sweeps and path.is_dir()):
            found |= {str(run): _unfinished(run) for run in inner or [path]}
        else:
            found.setdefault(name, None)
    left = {name: why for name, why in found.items() if why is not None}
    runs = [name for name in found if name not in left]
    if not runs:
        raise ConfigError(f"{where}: {', '.join(folders)} holds no run that has ended; name a run folder or a sweep's")
    return runs, [f"left out: {name} ({why})" for name, why in left.items()]


def _unfinished(folder: Path) -> str | None:
    """Why a run of a sweep has nothing to compare; None when it has."""
    try:
        summary = summary_of(folder)
    except (OSError, ConfigError, DamagedFile) as error:
        return str(error)
    if summary is None:
        return "it has no summary: it is under way or was killed" if (folder / "config.yaml").is_file() else "it holds no run"
    return None if summary.get("status") in ("completed", "diverged") else str(summary.get("status"))
