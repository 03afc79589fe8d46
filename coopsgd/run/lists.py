"""The words of the sweeps in a folder: multirun.yaml of the first, multirun-2.yaml, ... of others that have other words.

Hydra would write each into multirun.yaml, over the one before, whose jobs nobody could then go on with.
"""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from coopsgd.errors import ConfigError
from coopsgd.host.files import new
from coopsgd.setup import yamls

FIRST = "multirun.yaml"
# what plugins that are Hydra's own may be told by the list of a folder that nobody vouches for: nothing of it names code, a
# command of a shell, or a file
PLUGINS = {
    "hydra/launcher": ("basic", "joblib", "submitit_local", "submitit_slurm"),
    "hydra/sweeper": ("basic", "optuna"),
    "hydra/sweeper/sampler": ("tpe", "random", "grid", "cmaes", "nsgaii", "motpe"),
}
SETTINGS = {
    "hydra.launcher": "n_jobs verbose timeout batch_size timeout_min cpus_per_task gpus_per_node tasks_per_node mem_gb nodes",
    "hydra.sweeper": "n_trials n_jobs direction study_name max_failure_rate sampler.seed max_batch_size",
}
PLAIN_VALUE = r"[A-Za-z0-9_.-]*|\[[A-Za-z0-9_., -]*\]"
PLACES = ("hydra.mode=", "hydra.sweep.dir=", "hydra.run.dir=")  # words that say nothing of what is swept


def there(folder: Path) -> list[Path]:
    """The lists in a folder, the oldest first."""
    others = {int(path.stem.partition("-")[2]): path for path in folder.glob("multirun-*.yaml") if path.stem[9:].isdecimal()}
    return [*([folder / FIRST] if (folder / FIRST).is_file() else []), *(others[n] for n in sorted(others))]


def words_of(file: Path) -> tuple[list[str], list[str]]:
    """The words of the sweep that a list is of: about the runs, and Hydra's own. ConfigError where it does not say."""
    try:
        said = yamls.keys(file)["hydra"]["overrides"]
        task, own = ([str(word) for word in said[name]] for name in ("task", "hydra"))
    except (KeyError, TypeError):
        raise ConfigError(f"{file}: does not say what the sweep was; start it anew") from None
    return task, [word for word in own if not word.startswith(PLACES)]


def is_safe(word: str) -> bool:
    """May a word of Hydra's own be followed whoever wrote it: one of its well-known plugins, or a number for it?"""
    key, _, value = word.partition("=")
    if value in PLUGINS.get(key, ()):
        return True
    allowed = {f"{group}.{name}" for group, names in SETTINGS.items() for name in names.split()}
    return key.lstrip("+") in allowed and re.fullmatch(PLAIN_VALUE, value) is not None


def claimed(folder: Path, cfg: Any) -> tuple[Path, bool]:
    """The list of the sweep whose config this is, and whether it was made now. OSError where it cannot be written.

    Of two sweeps that begin at the same moment each has its own.
    """
    text = OmegaConf.to_yaml(cfg).encode()
    for n in count(1):
        file = folder / (FIRST if n == 1 else f"multirun-{n}.yaml")
        try:
            new(file, text)
            return file, True
        except FileExistsError:
            said = OmegaConf.to_container(cfg.hydra.overrides, resolve=False)
            assert isinstance(said, dict)
            mine = [str(word) for word in said["task"]], [w for w in map(str, said["hydra"]) if not w.startswith(PLACES)]
            try:
                if words_of(file) == mine:
                    return file, False
            except ConfigError:
                continue  # it is nobody's any more, and not ours to take away
    raise AssertionError
