"""What Hydra, OmegaConf and others complain of, in one line of our own: the thing, the value, the way out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from coopsgd.errors import ConfigError, RunFailed
from coopsgd.registry import did_you_mean
from coopsgd.setup import sources
from coopsgd.setup.build import refuse_unstackable
from coopsgd.setup.schema import GROUPS
from coopsgd.setup.suggestions import unknown_key

# what is raised for a user's mistake; a yaml that holds itself ends in RecursionError
NAMES = 240  # of the names of choices that a message tells where it has guessed which one is meant
MISTAKES = (ValueError, HydraException, OmegaConfBaseException, YAMLError, RecursionError, MemoryError)
# what Hydra raises when a group is set to something it did not think of
BUGS = (TypeError, AttributeError, KeyError, IndexError, AssertionError)
# choices that packages of the extra `sweeps` add
PLUGINS = {"hydra/launcher": ("joblib", "submitit_local", "submitit_slurm"), "hydra/sweeper": ("optuna",)}
LONGEST = 1500  # characters of a line: a value that is quoted may be as long as a command line


def one_line(error: BaseException) -> str:
    """What an error says, for a user: the thing, the value, the way out."""
    said = " ".join(_message(error).splitlines())
    return said if len(said) <= LONGEST else f"{said[: LONGEST // 2]} ... {said[-LONGEST // 2 :]}"


def _message(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        file = sources.FileConfigSource.last
        blame = f"the defaults of {file!r}, the last file read, or of one that named it" if file else "a value"
        return f"config: holds itself, or too many lists within each other; look at {blame}"
    if isinstance(error, MemoryError):
        return f"config: takes more memory than there is{f' ({error})' if str(error) else ''}; lower workers or sizes"
    if isinstance(error, RunFailed | ConfigError):
        return str(error)
    if isinstance(error, MissingConfigException):
        return _no_choice(error)
    text = str(error)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return unknown_key(unknown[1])
    if "Key 'experiment' not in 'Config'" in text:
        return "experiment: its yaml must begin with the line `# @package _global_`, as conf/experiment's do"
    if alien := re.search(r"Key '([^']+)' not in 'Config'", text):
        return f"no key named {alien[1]!r}; another version may have had it: take it out of the config"
    key = re.search(r"full_key: (\S+)", text) or re.search(r"Error merging override \+*([\w.]+)=", text)
    lines = [line.strip() for line in text.splitlines()]
    skip = (
        "full_key:",
        "object_type=",
        "reference_type=",
        "See https",
        "Set the env",
        "Config search",
        "provider=",
        "To append",
    )
    said = [line for line in lines if line and not line.startswith(skip) and not line.startswith("Error merging override")]
    if isinstance(error.__cause__, OmegaConfBaseException) and not said:
        said = [str(error.__cause__).splitlines()[0]]
    typed = re.match(r"Value '(.*)' of type '\w+' could not be converted to (Integer|Float|Boolean)", " ".join(said))
    if key and typed:
        wanted = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}[typed[2]]
        return f"{key[1]}: must be {wanted}, got {typed[1]}"
    if key and (truth := re.match(r"Value '(.*)' is not a valid bool", " ".join(said))):
        return f"{key[1]}: must be true or false, got {truth[1]}"
    if re.search(r"Cannot merge (Dict|List)Config with (Dict|List)Config", " ".join(said)):
        return _mixed_up(text, key[1] if key else None)
    where = f"{key[1]}: " if key and said and not said[0].startswith(key[1]) else ""
    return where + "; ".join(said or [type(error).__name__])


def _mixed_up(text: str, key: str | None) -> str:
    """A list was given for keys and values, or the other way round: Hydra says of both the same."""
    if given := re.search(r"Error merging override \+*[\w.]+=([\[{])", text):
        wanted = "keys and values, as in {a: 1}, not a list" if given[1] == "[" else "a list, as in [1, 2], not keys and values"
        return f"{key}: must be {wanted}"
    file = re.search(r"In '([^']+)'", text)
    where = f"{file[1]}.yaml" if file else key or "config"
    return f"{where}: has a list, [1, 2], where keys and values, {{a: 1}}, belong, or the other way round"


def _no_choice(error: MissingConfigException) -> str:
    """A group was set to a name it does not have."""
    missing = error.missing_cfg_file or ""
    group, _, name = missing.rpartition("/")
    if not group:
        return f"--config-name: there is no {name}.yaml in that folder or among coopsgd's own; a run's is `config`"
    known = sorted(error.options or [])
    if group == "optim":
        from coopsgd.optim.torch import KEYS

        refuse_unstackable(name)
        ours = name.lower() in known
        if not ours and (cls := next((cls for cls in KEYS if cls.lower() == name.lower()), None)):
            return f"optim: no choice named {name!r}, but a class of torch.optim; write optim=torch optim.cls={cls}"
    if ":" in name:
        key = "strategy" if group == "algo" else "name"
        way = f"--config-dir FOLDER with FOLDER/{group}/own.yaml, in it `{key}: {name}`, and {group}=own"
        return f"{group}: {name} is a class of your own, which a yaml names: {way}"
    if name in PLUGINS.get(group, ()):
        return f"{group}: {name} is a plugin that is not installed; pip install 'coopsgd[sweeps]'"
    meant, every = did_you_mean(name, known), ", ".join(known)
    few = f"`coopsgd list {group}` has them all" if meant and len(every) > NAMES else f"known: {every}"
    return f"{group}: no choice named {name!r}{meant}; {few}"


def uncomposed(words: Sequence[str], error: BaseException) -> str:
    """Hydra stumbled over words: most likely over those that set a group."""
    groups = [word for word in words if word.lstrip("+~").split("=")[0].split("@")[0] in (*GROUPS, "experiment")]
    said = f"{type(error).__name__}: {error}"
    return f"{' '.join(groups or words)}: cannot be composed ({said}); set a group to a name, and keys below it one by one"
