"""From words as a program gives them (some in a line, a whole command, a mapping, a yaml) to those of a command line."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coopsgd.errors import ConfigError
from coopsgd.setup import yamls
from coopsgd.setup.formats import FORMAT
from coopsgd.setup.schema import GROUPS
from coopsgd.setup.words import quoted


def words_of(said: Sequence[Any], of_run: Sequence[str] = ()) -> list[str]:
    """The words that these arguments stand for. ConfigError for one that stands for none.

    of_run: the keys to take of the config.yaml of a run, which says everything; none: such a config is refused.
    """
    return [word for one in said for word in _flat(one, of_run)]


def _flat(one: Any, of_run: Sequence[str]) -> Iterator[str]:
    """The words that one argument stands for."""
    if isinstance(one, Mapping):
        yield from _of_mapping(one, of_run)
    elif isinstance(one, os.PathLike) or (isinstance(one, str) and re.search(r"\.ya?ml$", one) and "=" not in one):
        yield from _of_mapping(yamls.keys(Path(one)), of_run, str(one))
    elif isinstance(one, str):
        yield from _of_line(one)
    else:
        raise ConfigError(f"words: each is a word as in 'tau=4', a dict or the path of a yaml, got {type(one).__name__}")


def _of_line(line: str) -> Sequence[str]:
    """One word, several, or a whole `coopsgd train ...` line."""
    try:
        parts = shlex.split(line)
    except ValueError:
        return [line]
    if parts[:1] == ["coopsgd"] and parts[1:2] in (["train"], ["show"]):
        return parts[2:]
    return parts if len(parts) > 1 and all(re.match(r"[~+]*\w[\w.@/]*(=|$)", part) for part in parts) else [line]


def _of_mapping(found: Mapping[Any, Any], of_run: Sequence[str], file: str = "") -> Iterator[str]:
    if (version := found.get("format", FORMAT)) != FORMAT:
        raise ConfigError(f"format: {version} is that of another version's run; this one writes {FORMAT}")
    if "format" in found and not of_run:
        folder = str(Path(file or "FOLDER/config.yaml").parent)
        again = f'"--config-path", {json.dumps(folder)}, "--config-name", "config"'
        raise ConfigError(f"{file or 'words'}: is the config of a run; these words run it again: {again}")
    for name, value in found.items():
        if "format" in found and (value is None or name not in of_run):  # a run's own config.yaml says everything
            continue
        if str(name) in GROUPS and isinstance(value, Mapping):
            if "name" in value:
                yield f"{name}={_text(value['name'])}"
            yield from (f"++{name}.{key}={_text(inner)}" for key, inner in value.items() if key != "name")
        else:
            yield f"{name}={_text(value)}"


def _text(value: Any) -> str:
    """A value as a word has it."""
    if hasattr(value, "tolist"):  # an array, or a number of one
        return _text(value.tolist())
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if hasattr(value, "tolist"):  # an array
        return _text(value.tolist())
    text = str(value)
    return quoted(text) if isinstance(value, str | os.PathLike) and not re.fullmatch(r"[\w./:-]+", text) else text
