"""`coopsgd train WORDS`: one run, or the runs of a sweep."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from coopsgd import __version__
from coopsgd.commands.train.hydra_main import through_hydra
from coopsgd.commands.train.session import Session
from coopsgd.errors import ConfigError, full_errors
from coopsgd.run.folders import refuse_nowhere
from coopsgd.run.sweep import table as sweep_table
from coopsgd.setup import checks, sweeps
from coopsgd.setup.flags import sort
from coopsgd.setup.words import mended


def train(words: Sequence[str]) -> int:
    """`coopsgd train WORDS`: Hydra's grammar and flags. Returns the exit code."""
    try:
        return _train(words)
    except ConfigError as error:
        if full_errors():
            raise
        print(f"coopsgd: {error}", file=sys.stderr)
        return 2


def _train(words: Sequence[str]) -> int:
    line = sort(words)
    if "--version" in line.flags:
        print(f"coopsgd, version {__version__}")
        return 0
    if set(line.flags) <= {"--multirun"} and not any(word.startswith("launch=") for word in line.words):
        checks.only_copy()  # before a sweep says it of every job
    refuse_nowhere(words)
    session = Session(words)
    session.words, notes = [], list[str]()
    if not {"--help", "--hydra-help"} & set(line.flags):  # help is for those whose words are not right yet
        sweeping = "--multirun" in line.flags or any(word.lower() == "hydra.mode=multirun" for word in line.words)
        session.words, notes = mended(line.words, "train", sweeping)
        if sweeping:
            sweeps.refuse(session.words)
    for note in notes:
        print(note, file=sys.stderr, flush=True)
    code = through_hydra(session, line.flags)
    if session.frozen and len(session.jobs) > 1:
        sweep_table(session.jobs, {failure.folder: failure.message for failure in session.failures})
    if code == 0 and session.failures:
        _print_failures(session)
        code = 1 if any(failure.code == 1 for failure in session.failures) else 2
    return code


def _print_failures(session: Session) -> None:
    """Name every failure; a single run's is one line."""
    if not session.sweeping:
        print(f"coopsgd: {session.failures[0].message}", file=sys.stderr)
        return
    print(f"\ncoopsgd: {len(session.failures)} of the sweep's jobs failed:", file=sys.stderr)
    for failure in session.failures:
        print(f"  {failure.label} ({failure.folder}): {failure.message.splitlines()[-1]}", file=sys.stderr)
