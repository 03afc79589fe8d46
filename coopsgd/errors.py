"""The three ways a command ends early, and what a damaged file is."""

from __future__ import annotations

import os


class ConfigError(ValueError):
    """A user's mistake, in one line: the thing, the value, the way out. Exit code 2."""


class TooFewSamples(ConfigError):
    """A worker's share does not fill a batch: refused by what trains, a note to what only shows."""


class RunFailed(Exception):
    """A run started and did not end well; the message says how. Exit code 1."""

    notes: list[str] | None = None  # what the run had to say of itself, where it came so far


class Diverged(RunFailed):
    """A run whose loss is no finite number any more."""


class Interrupted(BaseException):
    """A signal asked the command to end. Not an Exception: Hydra would take it for one failed job and go on."""

    notes: list[str] | None = None

    def __init__(self, number: int, note: str = "") -> None:
        self.number, self.note = number, note


def full_errors() -> bool:
    """Does the user ask for tracebacks, by HYDRA_FULL_ERROR=1?"""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


class DamagedFile(ValueError):
    """A file of a run is not what was written: missing, cut short or changed. The message names it."""
