"""From the words of a command line to a checked config, by Hydra. Nothing here imports torch before the config is checked."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from coopsgd.blame import blame
from coopsgd.errors import ConfigError, RunFailed, full_errors
from coopsgd.host import child
from coopsgd.predict import foresight
from coopsgd.run import source
from coopsgd.run.folders import refuse_nowhere
from coopsgd.setup.compose import composed, refuse_hidden, register_schema, task_words
from coopsgd.setup.flags import refuse_flags
from coopsgd.setup.messages import MISTAKES, one_line
from coopsgd.setup.resolve import Checked, given, placed, resolve
from coopsgd.setup.words import mended


def check(
    cfg: Any,
    overrides: Sequence[str],
    choices: dict[str, Any],
    beside: Path | None = None,
    trust: bool = False,
    look: bool = False,
    at_once: int = 1,
) -> Checked:
    """Refuse what cannot work, resolve what depends on this machine. Arguments as in resolve.resolve.

    at_once: how many runs share this machine.

    An exception in a user's code is a ConfigError that names the file and line.
    """
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        try:
            refuse_hidden(cfg, choices)
            checked = resolve(cfg, overrides, choices, beside, trust=trust or beside is None, look=look)
            # what lies ahead of a run that would not begin is nobody's question
            ahead = () if checked.refused else foresight.notes(checked.parts, given(overrides)) + source.notes(checked.config)
        except Exception as error:
            line = None if isinstance(error, ConfigError | RunFailed) else blame(error)
            if line is None:
                raise
            raise ConfigError(line) from error
    notes = (*checked.notes, *ahead, *(f"warning: {w.message}" for w in raised if issubclass(w.category, UserWarning)))
    notes += tuple(source.told(beside)) if beside is not None and trust else ()
    gpus = gpu_count() if checked.config.device in ("auto", "cuda") else 0
    return placed(replace(checked, notes=notes), gpus, look, at_once)


def gpu_count() -> int:
    """GPUs torch sees, counted in a child: a process that has touched CUDA cannot fork workers that use it."""
    if sys.platform == "linux" and not any(Path("/dev").glob("nvidia[0-9]*")):
        return 0
    import torch

    with contextlib.suppress(child.ChildFailed, ValueError):
        return int(child.answer_of(torch.cuda.device_count))
    return 0


def compose_config(words: Sequence[str], config_dir: str | None = None, verb: str = "show", look: bool = False) -> Checked:
    """The checked config of these overrides, without a run folder, for `verb`. ConfigError when it cannot work.

    look: it will not be run, so what only a run needs is a note.
    """
    refuse_nowhere(words)
    register_schema()
    refuse_flags(words, verb)
    words, notes = mended(words, verb)
    try:
        cfg = composed(words, config_dir)
        checked = check(cfg, task_words(cfg.hydra), dict(cfg.hydra.runtime.choices), look=look)
        named = any(word.lstrip("+").startswith("hydra.run.dir=") for word in words)
        folder = str(cfg.hydra.run.dir) if named else None
        return replace(checked, notes=(*notes, *checked.notes), folder=folder)
    except MISTAKES as error:
        if full_errors():
            raise
        raise ConfigError(one_line(error)) from None
