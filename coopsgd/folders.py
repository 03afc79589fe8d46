"""Folders of runs: named by the clock, claimed, and frozen with all that a worker reads."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from importlib.resources import files
from pathlib import Path

import numpy as np

from coopsgd.build import algo_classes, class_of
from coopsgd.config import Config, dumps, found_beside, frozen
from coopsgd.errors import ConfigError

INLINE = 4096  # numbers of an array that config.yaml holds itself; a larger one is copied beside it


def dated(root: str) -> str:
    """A folder's name by the second, as Hydra names those of runs."""
    return str(Path(root) / time.strftime("%Y-%m-%d") / time.strftime("%H-%M-%S"))


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


def claimed(named: str | None, root: str) -> Path:
    """The folder that words name, else a fresh one of this second below `root`; made here. ConfigError when it cannot be."""
    folder = Path(named or fresh(dated(root)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}); choose another {folder_key(False)}") from None
    return folder


def folder_key(sweeping: bool) -> str:
    """Hydra's key for where runs go."""
    return "hydra.sweep.dir" if sweeping else "hydra.run.dir"


def freeze(settings: Config, folder: Path, command: str, sweeping: bool = False) -> None:
    """Claim the folder and write config.yaml. ConfigError when it holds a run already or cannot be written."""
    target, key = folder / "config.yaml", folder_key(sweeping)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with target.open("x") as file:
            file.write(f"# {' '.join(command.split())}\n")
    except FileExistsError:
        raise ConfigError(f"{folder} already holds a run; choose another {key}, or remove it") from None
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}); choose another {key}") from None
    own = (files("coopsgd.conf") / "config.yaml").read_text().partition("\nhydra:\n")[2]
    before = set(folder.iterdir()) - {target}
    try:
        _freeze_files(settings, folder)
        with target.open("a") as file:
            file.write(dumps(settings))
            file.write("\n# What Hydra needs to run this file again: coopsgd train --config-path FOLDER --config-name config\n")
            file.write("defaults:\n  - schema\n  - _self_\n  - override hydra/job_logging: none\n")
            file.write(f"  - override hydra/hydra_logging: none\nhydra:\n{own}")
        found_beside(settings, folder)
    except BaseException:
        for half in set(folder.iterdir()) - before:
            half.unlink()  # nothing was frozen: the folder is free again
        raise


def _freeze_files(config: Config, folder: Path) -> None:
    """Bring what a file holds into the run: small arrays into the config, large ones into `folder` as .npy, others copied."""
    if config.cluster is not None:
        for name in class_of("cluster", "cluster", config.cluster["name"]).FILES:
            copy = frozen("cluster", name, ".json")
            (folder / copy).write_bytes(Path(config.cluster[name]).read_bytes())
            config.cluster[name] = copy
    owners = [("algo", part) for part in algo_classes(config)] + [("task", class_of("task", "task", config.task["name"]))]
    for group_name, cls in owners:
        node = getattr(config, group_name)
        for name in getattr(cls, "ARRAYS", ()):
            value = node.get(name)
            if not isinstance(value, str) or not Path(value).is_file():  # numbers, or the name of a function
                continue
            array = np.load(value)
            if array.size <= INLINE:
                node[name] = array.tolist()
            else:
                node[name] = frozen(group_name, name, ".npy")
                np.save(folder / node[name], array)


def torchrun(settings: Config, folder: Path, module: str) -> str:
    """What to type on each of several machines for what is frozen in `folder`."""
    nodes = 2 if settings.processes % 2 == 0 else 1
    return (
        f"{settings.processes} processes in all. On each of {nodes} machines that see this folder, R = 0, 1, ...:\n"
        f"torchrun --nnodes {nodes} --node-rank R --nproc-per-node {settings.processes // nodes} "
        f"--master-addr HOST_OF_R_0 --master-port PORT -m {module} {shlex.quote(str(folder))}"
    )
