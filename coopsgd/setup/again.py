"""Words of `coopsgd train` that are about its folder, not about the run: `resume=auto` and `skip_done=true`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from coopsgd.errors import ConfigError

HELP = {
    "resume": "auto: go on with the run that its folder holds, if any, so that a command may be given again",
    "skip_done": "true: of a sweep, leave out what some run in its folder has done already",
}
VALUES = {"resume": ("never", "auto"), "skip_done": ("false", "true")}


class Again(NamedTuple):
    """What a command does with what its folder holds already."""

    resume: bool = False
    skip_done: bool = False


def taken_out(words: Sequence[str], sweeping: bool) -> tuple[list[str], Again]:
    """The words that are about the run, and what the others say. ConfigError for one that says nothing."""
    rest, said = [], dict[str, bool]()
    for word in words:
        key, found, value = word.partition("=")
        if key.lstrip("+") not in HELP or not found:
            rest.append(word)
            continue
        key = key.lstrip("+")
        if value.strip("'\" ").lower() not in VALUES[key]:
            raise ConfigError(f"{key}: must be {' or '.join(VALUES[key])}, got {value[:80]!r}")
        said[key] = value.strip("'\" ").lower() == VALUES[key][1]
    again = Again(said.get("resume", False), said.get("skip_done", False))
    if again.skip_done and not sweeping:
        raise ConfigError("skip_done: is about the runs of a sweep; put -m behind train, or use resume=auto for a single run")
    place = "hydra.sweep.dir" if sweeping else "hydra.run.dir"
    named = any(word.lstrip("+").startswith(f"{place}=") for word in rest)
    for key, wanted in again._asdict().items():
        if wanted and not named:
            raise ConfigError(f"{key}: needs a folder that is the same each time; add {place}=FOLDER")
    return rest, again
