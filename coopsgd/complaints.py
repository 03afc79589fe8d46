"""What Hydra, OmegaConf and others complain of, in one line of our own: the thing, the value, the way out."""

from __future__ import annotations

import re
from dataclasses import fields

from hydra.errors import MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from coopsgd.build import refuse_unstackable
from coopsgd.config import Config
from coopsgd.errors import RunFailed
from coopsgd.registry import did_you_mean


def one_line(error: BaseException) -> str:
    """What an error says, for a user: the thing, the value, the way out."""
    if isinstance(error, RunFailed):
        return str(error)
    if isinstance(error, MissingConfigException):
        return _no_choice(error)
    text = str(error)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        known = [f.name for f in fields(Config)]
        return f"no key named {unknown[1]!r}{did_you_mean(unknown[1], known)}; `coopsgd train --help` lists them"
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
    told = [line for line in lines if line and not line.startswith(skip) and not line.startswith("Error merging override")]
    if isinstance(error.__cause__, OmegaConfBaseException) and not told:
        told = [str(error.__cause__).splitlines()[0]]
    typed = re.match(r"Value '(.*)' of type '\w+' could not be converted to (Integer|Float|Boolean)", " ".join(told))
    if key and typed:
        wanted = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}[typed[2]]
        return f"{key[1]}: must be {wanted}, got {typed[1]}"
    where = f"{key[1]}: " if key and told and not told[0].startswith(key[1]) else ""
    return where + "; ".join(told or [type(error).__name__])


def _no_choice(error: MissingConfigException) -> str:
    """A group was set to a name it does not have."""
    missing = error.missing_cfg_file or ""
    group, _, name = missing.rpartition("/")
    if not group:
        return f"--config-name: there is no {name}.yaml in that folder or among coopsgd's own; a run's is `config`"
    if group == "optim":
        refuse_unstackable(name)
    known = sorted(error.options or [])
    return f"{group}: no choice named {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}"
