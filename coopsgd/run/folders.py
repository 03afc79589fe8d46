"""Folders of runs: named by the time, made, and filled with all that a worker reads."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import OmegaConf

from coopsgd.errors import ConfigError
from coopsgd.host import lock, newfile, reading
from coopsgd.host.files import atomically, new
from coopsgd.mixing.base import load_array
from coopsgd.registry import TRUST
from coopsgd.run import source
from coopsgd.setup import yamls
from coopsgd.setup.build import classes, reads
from coopsgd.setup.formats import upgraded
from coopsgd.setup.schema import GROUPS, Config, dumps, frozen, machines_of

CHECKPOINTS = "checkpoints"
UNWRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE),
)
WORDS = "# words: "  # begins the second line of a config.yaml: the words of one run that others of its sweep have not, as JSON
INLINE = 4096  # numbers of an array that config.yaml holds itself; a larger one is copied beside it


PLACES = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
FLAGS = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")


def refuse_nowhere(words: Sequence[str]) -> None:
    """ConfigError when a word names a place by nothing: it would be this folder, or be left out in silence."""
    for word, after in pairwise([*words, "-"]):
        name, found, value = word.partition("=")
        key = name.lstrip("+")
        if key not in (*PLACES, *FLAGS) or not (found or key in FLAGS):
            continue
        if not (value if found else after).strip("\"' "):
            raise ConfigError(f"{key}: is empty; name one, as in {key}=mine, or leave it out")


def fresh(folder: str) -> str:
    """The folder, or with -2, -3, ... behind it the first that is free, made here: two commands may start in one second."""
    with contextlib.suppress(OSError):  # a place that cannot be written is Hydra's to tell
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        for n in range(1, 1000):
            at = folder if n == 1 else f"{folder}-{n}"
            with contextlib.suppress(FileExistsError):
                os.mkdir(at)
                return at
    return folder


class Made:
    """Folders that a command makes and that were not there before: it takes them away again if nothing came into them."""

    def __init__(self) -> None:
        self._folders: set[Path] = set()

    def will(self, folder: Path, there: bool = False) -> None:
        """Before a folder is made: remember it, and those above it that are not there. there: it was made a moment ago."""
        own = [folder.absolute()] if there else []
        self._folders |= {*own, *(path for path in (folder.absolute(), *folder.absolute().parents) if not path.exists())}

    def below(self, folder: Path) -> None:
        """A folder was made by somebody else for this command: it is ours as far as what is above it is."""
        chain = (folder.absolute(), *folder.absolute().parents)
        self._folders |= {path for path in chain if self._folders & set(path.parents)}

    def tidy(self) -> None:
        """Take those away that are empty."""
        for path in sorted(self._folders, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError, ConfigError), in_use_by_us(path):  # or another has begun to work in it
                path.rmdir()


def make_run_dir(named: str | None, root: str, made: Made | None = None) -> Path:
    """The folder that words name, else a fresh one of this second below `root`; made here, as `made` will know.

    ConfigError when it cannot be.
    """
    at = named or str(Path(root) / time.strftime("%Y-%m-%d") / time.strftime("%H-%M-%S"))  # as Hydra names folders of runs
    if made is not None:
        made.will(Path(at))
    folder = Path(named or fresh(at))
    if made is not None and not named:
        made.will(folder, there=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}); choose another {folder_key(False)}") from None
    return folder


def folder_key(sweeping: bool) -> str:
    """Hydra's key for where runs go."""
    return "hydra.sweep.dir" if sweeping else "hydra.run.dir"


def write_config(
    settings: Config, folder: Path, command: str, sweeping: bool = False, way_on: str = "", words: Sequence[str] = ()
) -> None:
    """Make the folder and write config.yaml. ConfigError when it holds a run already or cannot be written.

    way_on: what may be done with a run that is there; words: those that tell the run from others (WORDS).
    """
    target, key = folder / "config.yaml", folder_key(sweeping)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("logs", "checkpoints", source.FOLDER):
            if (folder / name).is_symlink():  # what a run writes below it would lie elsewhere
                raise ConfigError(f"{folder / name} is a link; remove it, or choose another {key}")
        if os.path.lexists(target):
            raise FileExistsError
        before = set(folder.iterdir())
    except FileExistsError:
        raise ConfigError(f"{folder} already holds a run; {way_on}choose another {key}, or remove it") from None
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}); choose another {key}") from None
    try:
        head = f"# {' '.join(command.split())}\n{WORDS}{json.dumps({'sweep': sweeping, 'words': list(words)})}\n"
        text = f"{head}{dumps(_with_files(settings, folder))}{_for_hydra()}"
        source.write(settings, folder)
        new(target, text.encode())
    except BaseException as error:
        if isinstance(error, FileExistsError):  # meanwhile: what is there now is another's
            raise ConfigError(f"{folder} already holds a run; {way_on}choose another {key}, or remove it") from None
        for half in set(folder.iterdir()) - before:  # nothing was frozen: the folder is free again
            shutil.rmtree(half) if half.is_dir() else half.unlink()
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            raise ConfigError(f"{folder} cannot be written ({error.strerror}); choose another {key}") from None
        raise


def rewrite_config(folder: Path, changed: dict[str, Any]) -> None:
    """Give keys at the top of a frozen config.yaml other values."""
    file = folder / "config.yaml"
    lines = file.read_text().split("\n", 2)
    head = "\n".join(lines[: 2 if lines[1].startswith(WORDS) else 1])
    keys = {name: value for name, value in upgraded(file, yamls.keys(file)).items() if name not in rerun()}
    text = f"{head}\n{OmegaConf.to_yaml(OmegaConf.create({**keys, **changed}))}{_for_hydra()}"
    atomically(file, lambda into: into.write(text.encode()))


def _for_hydra() -> str:
    """What stands behind the keys of a frozen config, so that Hydra can run it again."""
    head = "\n# What Hydra needs to run this file again: coopsgd train --config-path FOLDER --config-name config\n"
    return head + OmegaConf.to_yaml(OmegaConf.create({"defaults": DEFAULTS})) + _own_hydra()


@contextlib.contextmanager
def in_use_by_us(folder: Path, reading: bool = False, make: bool = False) -> Iterator[None]:
    """Inside, no other command works in this run's folder; while reading, none that writes. ConfigError when one does.

    What is left of a command that was killed, and still writes there, is waited for (host/lock.py).
    make: it is made where it is not there; another command that was refused may be taking it away.
    """
    with contextlib.ExitStack() as stack:
        try:
            there = False
            while not there:
                if make:
                    folder.mkdir(parents=True, exist_ok=True)
                file = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, file)
                lock.take(file, shared=reading)
                there = os.path.samestat(os.fstat(file), os.stat(folder)) if os.path.exists(folder) else not make
        except BlockingIOError:
            raise ConfigError(f"{folder} is in use by another coopsgd; wait for it, or choose another") from None
        except (ImportError, OSError):
            pass  # a file system that knows no locks
        yield


def _with_files(config: Config, folder: Path) -> Config:
    """The config with what its files hold: small arrays in itself, large ones in `folder` as .npy, others as copies there.

    Files of data stay where they are: they are large, and known by their SHA-256.
    """
    nodes: dict[str, Any] = {name: dict(node) for name in GROUPS if (node := getattr(config, name)) is not None}
    for group, cls in classes(config):
        node = nodes[group]
        for name in reads(cls) if group != "data" else ():
            value = node.get(name)
            if not isinstance(value, str) or not Path(value).is_file():  # numbers, or the name of a function
                continue
            array = load_array(f"{group}.{name}", value) if name in getattr(cls, "ARRAYS", ()) else None
            if array is not None and array.size <= INLINE:
                node[name] = array.tolist()
                continue
            node[name] = frozen(group, name, ".npy" if array is not None else Path(value).suffix or ".txt")
            if array is None:
                _copy(f"{group}.{name}", value, folder / node[name])
                continue
            with newfile.create(folder / node[name]) as file:
                np.save(file, array)
    if config.start is not None:
        nodes["start"] = frozen("", "start", Path(config.start).suffix or ".pt")
        _copy("start", config.start, folder / nodes["start"])
    return replace(config, **nodes)


def _copy(key: str, value: str, into: Path) -> None:
    with newfile.create(into) as file, reading.opened(key, value, "restore it") as content:
        shutil.copyfileobj(content, file)


# what stands behind a frozen config, so that Hydra can run it again
DEFAULTS = ["schema", "_self_", {"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]


def without_hydra(file: Path) -> dict[str, Any]:
    """A frozen config whose writer is not trusted, for Hydra: its keys, and nothing else that would be acted on or looked up.

    Hydra's own sections can import, log anywhere and read other folders, and ${...} can read the environment. ConfigError when
    the file has others than `freeze` writes, or any ${...}.
    """
    found = upgraded(file, yamls.keys(file))
    ours = rerun()
    for name, own in ours.items():
        _refuse_other(name, found.pop(name, own), own)
    for name, value in found.items():
        _refuse_lookups(name, value)
    return ours | found


def rehydrated(file: Path) -> dict[str, Any] | None:
    """A frozen config whose writer is trusted, for Hydra: all of its keys, as they are written today; None when it is no run's.

    One that a user has written for Hydra may name groups, which are looked for beside it.
    """
    found = yamls.keys(file)
    if "format" not in found and found.get("defaults") != DEFAULTS:
        return None
    return upgraded(file, found)


def _refuse_other(name: str, value: Any, own: Any) -> None:
    """ConfigError unless `value` has no keys but those of `own`, which are not read from a folder: the first other is named."""
    if isinstance(value, dict) and isinstance(own, dict):
        for key, one in value.items():
            _refuse_other(f"{name}.{key}", one, own.get(key, {}))
    elif value != own and (value == {} or isinstance(value, dict | list) or isinstance(own, dict | list)):
        raise ConfigError(
            f"{name}: {str(value)[:60]!r} is not what a run writes into its config, and Hydra would act on it; {TRUST}"
        )


def _refuse_lookups(name: str, value: Any) -> None:
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_lookups(f"{name}.{key}", one)
    elif isinstance(value, str) and "${" in value:
        raise ConfigError(f"{name}: {value[:60]!r} would be looked up on this machine, and a run's config is resolved; {TRUST}")


def rerun() -> dict[str, Any]:
    """What Hydra needs beside the keys of a run to run it again."""
    node = OmegaConf.to_container(OmegaConf.create(_own_hydra()), resolve=False)
    return {"defaults": DEFAULTS, **cast(dict[str, Any], node)}


def _own_hydra() -> str:
    """The section of conf/config.yaml that is Hydra's own."""
    return "hydra:\n" + (files("coopsgd.conf") / "config.yaml").read_text().partition("\nhydra:\n")[2]


def torchrun(settings: Config, folder: Path, module: str, elastic: bool = False) -> str:
    """What to type on each of several machines for what is frozen in `folder`; elastic: they may also come and go."""
    nodes = machines_of(settings)
    each, what = settings.processes // nodes, f"-m {module} --trust {shlex.quote(str(folder))}"
    name = shlex.quote(folder.resolve().name)

    def line(nnodes: str, at: str, name: str) -> str:
        return f"torchrun --nnodes {nnodes} --nproc-per-node {each} --rdzv-backend c10d --rdzv-endpoint {at} --rdzv-id {name} "

    every = "On this machine" if nodes == 1 else f"On each of {nodes} machines, HOST being the name of one of them"
    at = "localhost:29400" if nodes == 1 else "HOST:29400"
    said = f"{settings.processes} processes in all. {every}:\n{line(str(nodes), at, name)}{what}"
    if nodes == 1:
        return said
    first = '"$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"'
    said += (
        f"\nor, in a SLURM job of {nodes} nodes:\nsrun --nodes {nodes} --ntasks-per-node 1 --cpu-bind none "
        f"{line(str(nodes), f'{first}:29500', '$SLURM_JOB_ID')}{what}"
    )
    if not elastic:
        return said
    return (
        f"{said}\nor, so that machines may leave and come back, on each of 1 to {nodes}, one of them HOST:\n"
        f"TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 {line(f'1:{nodes}', at, name)}--max-restarts 9 {what}"
    )


def words_of(folder: Path) -> tuple[bool, list[str]]:
    """Is the run in `folder` one of a sweep, and the words that tell it from others; (False, []) where that is not known."""
    with contextlib.suppress(OSError, ValueError, IndexError, TypeError, KeyError):
        line = (folder / "config.yaml").read_text().split("\n", 2)[1]
        if line.startswith(WORDS):
            found = json.loads(line.removeprefix(WORDS))
            return bool(found["sweep"]), [str(word) for word in found["words"]]
    return False, []


def checkpoint_place(folder: Path, step: int) -> Path:
    """Where the checkpoint of this step lies in a run's folder."""
    return folder / CHECKPOINTS / f"step-{step}"


def diverged(folder: Path, step: int | None, workers: Sequence[int]) -> str:
    """What to say of a run whose loss was not finite after this step, that of these workers."""
    some = ", ".join(map(str, workers[:8])) + (f", ... ({len(workers)} of them)" if len(workers) > 8 else "")
    who = f"worker{'s' * (len(workers) > 1)} {some}" if workers else "the mean model"
    kept = next((f"the last good checkpoint is {checkpoint_place(folder, at)}; " for at in steps_saved(folder)), "")
    return f"diverged: the loss of {who} at step {step} is not finite; {kept}lower optim.lr or tau"


def steps_saved(folder: Path) -> list[int]:
    """After which steps the run in `folder` has checkpoints, whole or not; the newest first."""
    with contextlib.suppress(OSError):
        found = (re.fullmatch(r"step-(\d+)", path.name) for path in (folder / CHECKPOINTS).iterdir())
        return sorted((int(one[1]) for one in found if one), reverse=True)
    return []
