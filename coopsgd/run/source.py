"""The source of a user's own code in a run folder: what its config names, and what that imports, as it was.

    source/mynet.py, source/lab/nets.py, ...   by where they lie below the folder that they are imported from
    source/files.json                          of each: its path, bytes, SHA-256, whether it is kept, and the commit it lay in

PYTHONPATH=FOLDER/source imports these in place of what lies elsewhere. Files above usercode.LARGEST are not kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from coopsgd import usercode
from coopsgd.errors import ConfigError, DamagedFile
from coopsgd.host import files, newfile
from coopsgd.host.sizes import human_bytes
from coopsgd.run import provenance
from coopsgd.setup.messages import MISTAKES, one_line
from coopsgd.setup.schema import Config

FOLDER, LIST = "source", "files.json"
FORMAT = 1
CHANGED = "--changed-source"  # says that a run may go on with other source


def described(config: Config) -> dict[str, dict[str, Any]]:
    """The files of a user's own that a config brings, by place, as files.json has them."""
    return {
        place: {
            "path": file.path,
            "bytes": file.size,
            "sha256": file.sha256,
            "kept": file.content is not None,
            "git": provenance.git(os.path.dirname(file.path)),
        }
        for place, file in usercode.of(vars(config)).items()
    }


def notes(config: Config) -> list[str]:
    """A line where some are not kept."""
    lost = [f"{place} ({human_bytes(file.size)})" for place, file in usercode.of(vars(config)).items() if file.content is None]
    room = f"{human_bytes(usercode.LARGEST)} a file, {human_bytes(usercode.ALL)} in all"
    return [f"{', '.join(lost)}: too large to be copied into the run folder ({room}); SHA-256 is kept"] if lost else []


def write(config: Config, folder: Path) -> None:
    """Make source/ in a run's folder, which appears when it is whole; nothing where the config brings no code of a user's.

    ConfigError where something else is called so; OSError names what cannot be written.
    """
    if not (found := usercode.of(vars(config))):
        return
    half, target = folder / f"{FOLDER}.{os.getpid()}.part", folder / FOLDER
    files.clear_halves(folder, FOLDER)
    shutil.rmtree(half, ignore_errors=True)
    try:
        half.mkdir()
        for place, file in found.items():
            if file.content is not None:
                (half / place).parent.mkdir(parents=True, exist_ok=True)
                with newfile.create(half / place) as copy:
                    copy.write(file.content)
        files.write_json(half / LIST, {"format": FORMAT, "files": described(config)})
        if os.path.lexists(target):
            _refuse_anothers(target)
            shutil.rmtree(target)  # of a command that was killed before there was a run
        half.rename(target)
    except OSError as error:
        error.filename = error.filename or str(target)
        raise
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _refuse_anothers(target: Path) -> None:
    if target.is_symlink() or not (target / LIST).is_file():
        raise ConfigError(
            f"{target} is there, and no run's; the source of your classes is copied there: choose another hydra.run.dir"
        )


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """What files.json of a run's folder says, by place; nothing where there is none. DamagedFile where it is none of ours."""
    file = folder / FOLDER / LIST
    try:
        found = json.loads(file.read_bytes())["files"]
        assert all(isinstance(said["sha256"], str) for said in found.values())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError):
        raise DamagedFile(f"{file} is damaged: it does not say what the source of the run was; restore it") from None
    return dict(found)


def then(folder: Path) -> dict[str, str]:
    """SHA-256 of each when the run was made, or went on with others."""
    return {place: said["sha256"] for place, said in read(folder).items()}


def changed(folder: Path) -> list[str]:
    """Which of them are not as they were: as imported by this process, else as they would be."""
    return [place for place, sha in then(folder).items() if _now(place) != sha]


def _now(place: str) -> str | None:
    found = usercode.read(usercode.module_at(place))
    return None if found is None else found.sha256


def told(folder: Path) -> list[str]:
    """A line where some are not, for whoever uses those of today."""
    if not (some := changed(folder)):
        return []
    return [f"not as it was: {', '.join(some)}; what {folder} began with is in {folder / FOLDER}"]


@contextlib.contextmanager
def noted(notes: list[str]) -> Iterator[None]:
    """Inside, runs are read (Run); what they warn of becomes notes, each once."""
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        yield
    notes += [text for one in raised if issubclass(one.category, UserWarning) and (text := str(one.message)) not in notes]


def take(folder: Path, config: Config, anyway: bool, step: int) -> None:
    """Before the run in `folder` goes on from `step`: ConfigError where its source is not as it was, unless it may be (anyway).

    Then what it was so far stays in source-until-step-N.
    """
    some = changed(folder)
    if some and not anyway:
        raise ConfigError(
            f"{', '.join(some)}: not as it was when the run began, so it would become another; its own is used by "
            f"PYTHONPATH={folder / FOLDER}, what there is now by {CHANGED}"
        )
    if some:
        before = folder / f"{FOLDER}-until-step-{step}"
        shutil.rmtree(before, ignore_errors=True)
        (folder / FOLDER).rename(before)
        write(config, folder)


@contextlib.contextmanager
def found_again(folder: Path, trust: bool) -> Iterator[None]:
    """Inside, the parts of a folder's config are made; a ConfigError also says where source lies that is here no more."""
    try:
        yield
    except MISTAKES as error:
        gone, here, line = [], folder / FOLDER, one_line(error)
        with contextlib.suppress(DamagedFile):
            gone = [place for place in read(folder) if _now(place) is None] if trust else []
        more = f"; the run's own {', '.join(gone)} is used by PYTHONPATH={here}" if gone else ""
        raise ConfigError(line + more) from None


def recorded(folder: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance that a run left, with its source where a run was ended before it left any."""
    environment = dict(found.get("environment") or {})
    if not environment.get("source") and (source := then(folder)):
        environment["source"] = source
    return {**found, "environment": environment} if environment else dict(found)
