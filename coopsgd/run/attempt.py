"""The files of one attempt at a run: none of an earlier one is taken for its own, and nothing half written is left behind."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coopsgd.errors import RunFailed
from coopsgd.host import files
from coopsgd.run import final


def prepare(folder: Path, logs: Path) -> None:
    """Nothing of an earlier attempt in this folder is taken for this one's."""
    try:
        logs.mkdir(exist_ok=True)
        for left in (folder / "summary.json", logs / "store", *logs.glob("error*.json"), *logs.glob("rank*.*")):
            left.unlink(missing_ok=True)
    except OSError as error:
        raise RunFailed(f"{error.filename or logs} cannot be written ({error.strerror})") from None
    clear(folder)


def clear(folder: Path) -> None:
    """Remove what was left half written, by whomever: nobody else works here."""
    for place in (folder, folder / final.FILE.parent, *folder.glob(f"{final.FILE.parent}/step-*")):
        files.clear_halves(place, alone=True)


def tidy(folder: Path, logs: Path) -> None:
    """Leave no empty log and no half of a file."""
    with contextlib.suppress(OSError):
        for left in logs.glob("rank*.*"):
            if left.stat().st_size == 0:
                left.unlink()
    clear(folder)


RESTARTS = "restarts.json"  # in logs/, once there was one


def restarted(folder: Path, by: str, times: int) -> None:
    """Remember how often the workers of a command have been started again; by: a name of the command that no other has.

    It is lost where the disk does not take it.
    """
    found = {**_restarts(folder), by: times}
    with contextlib.suppress(OSError):
        files.write_json(folder / "logs" / RESTARTS, found)


def restarts_of(folder: Path) -> dict[str, Any]:
    """For the summary: how often they were, in all commands of the run; and in each, where there were several."""
    found = list(_restarts(folder).values())
    return {"restarts": sum(found), **({"restarts_of_commands": found} if len(found) > 1 else {})} if found else {}


def _restarts(folder: Path) -> dict[str, int]:
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        found = json.loads((folder / "logs" / RESTARTS).read_text())
        return {str(by): int(times) for by, times in found.items()}
    return {}


@contextlib.contextmanager
def store(logs: Path) -> Iterator[str]:
    """The name of an empty file that the processes to be forked can meet over: in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("store")
        try:
            name = f"/proc/self/fd/{file}"
            if os.path.exists(name):
                yield name
                return
        finally:
            os.close(file)
    try:
        yield str(logs / "store")
    finally:
        (logs / "store").unlink(missing_ok=True)
