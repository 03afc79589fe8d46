"""Yaml files of users: in a --config-dir, or a run's config.yaml. Hydra and OmegaConf read what was looked at here first.

A yaml may be small and stand for much: an alias stands for all that its anchor holds, and aliases of aliases grow without end.
What it would be when written out is counted from its events, in one pass without recursion.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from coopsgd.errors import ConfigError
from coopsgd.host import reading
from coopsgd.setup.values import DEEPEST

MOST = 1_000_000  # values and keys of one yaml, written out
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def text(path: str | Path) -> str:
    """A yaml file's text. ConfigError, naming the file, when it cannot be read, is no yaml or stands for too much."""
    found = reading.text("config", path, "give a yaml file")
    try:
        why = _too_much(yaml.parse(found, Loader=LOADER))
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(blamed(path, error)) from None
    if why:
        raise ConfigError(f"config: {str(path)!r} {why}")
    return found


def keys(path: str | Path) -> dict[str, Any]:
    """Keys and values of a run's config.yaml, no ${...} of them looked up. ConfigError, naming the file, when it holds none."""
    try:
        found = OmegaConf.to_container(OmegaConf.create(text(path)), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(blamed(path, error)) from None
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"config: {str(path)!r} holds no keys; name the config of a run")
    return {str(key): value for key, value in found.items()}


def _too_much(events: Any) -> str:
    """Why this yaml stands for more than makes sense; empty when it does not."""
    whole = [(0, "")]  # values so far in each list or mapping that is open, and its anchor
    anchors: dict[str, int] = {}
    for event in events:
        count = 0
        if isinstance(event, yaml.CollectionStartEvent):
            whole.append((1, event.anchor or ""))
            if len(whole) > 2 * DEEPEST:
                return f"has more than {2 * DEEPEST} lists or mappings within each other; make it flatter"
        elif isinstance(event, yaml.CollectionEndEvent):
            count, anchor = whole.pop()
            anchors[anchor] = count
        elif isinstance(event, yaml.ScalarEvent):
            count = anchors[event.anchor or ""] = 1
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for _, anchor in whole):
                return f"holds itself: *{event.anchor} is within &{event.anchor}"
            count = anchors.get(event.anchor, 1)
        whole[-1] = whole[-1][0] + count, whole[-1][1]
        if whole[-1][0] > MOST:
            return f"stands for more than {MOST} values, its aliases written out; use fewer"
    return ""


def blamed(path: str | Path, error: Exception) -> str:
    """What to say of a file that is no yaml: which, where and why."""
    mark = getattr(error, "problem_mark", None)
    line = f", line {mark.line + 1}" if mark is not None else ""
    what = getattr(error, "problem", None) or (str(error).splitlines() or [type(error).__name__])[0]
    return f"config: {str(path)!r}{line} is no yaml that can be read ({' '.join(what.split())})"
