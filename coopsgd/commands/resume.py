"""`coopsgd resume FOLDER [WORDS]`: a run goes on from its last checkpoint, as if nothing had happened."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore

from coopsgd.commands import compose
from coopsgd.errors import ConfigError, Interrupted
from coopsgd.run import progress, source
from coopsgd.run.folders import in_use_by_us, rehydrated, rewrite_config, steps_saved, torchrun, without_hydra
from coopsgd.run.reader import summary_of
from coopsgd.run.start import as_it_was, reached, start, summed_up
from coopsgd.setup import checks, schema
from coopsgd.setup.compose import register_schema
from coopsgd.setup.flags import refuse_flags
from coopsgd.setup.identity import measured_as, memory_format, placement, trained
from coopsgd.setup.messages import BUGS, MISTAKES, one_line, uncomposed
from coopsgd.setup.parts import Parts
from coopsgd.setup.resolve import Checked
from coopsgd.setup.words import mended

AGAIN = "again"  # the name by which Hydra finds the config of the folder
# what cannot change the past
MAY_CHANGE = (
    "steps",
    "epochs",
    "rounds",
    "log_every",
    "eval_every",
    "processes",
    "threads",
    "device",
    "fleet",
    "timeout",
    "checkpoint_every",
    "keep",
    "max_restarts",
    "launch",
    "machines",
    "interface",
    "save",
    "objective",
    "name",
)
OVER = ("completed", "diverged")


def resume(folder: Path, words: Sequence[str], trust: bool, anyway: bool = False) -> None:
    """Go on with the run in `folder`, its config changed by `words`. ConfigError when it cannot be; RunFailed when it fails.

    anyway: also where the source of a user's own code is not as it was.
    """
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder}: holds no run, it has no config.yaml; name the folder of one")
    checks.only_copy()
    with in_use_by_us(folder):
        before = schema.load(folder / "config.yaml", trust=True)
        checked = _checked(folder, words, trust, before) if words else as_it_was(folder, trust)
        changed = [name for name in schema.KEYS if getattr(checked.config, name) != getattr(before, name)]
        _go_on(folder, checked, before, changed, anyway)
        if progress.quiet and checked.config.launch:
            print(folder.absolute(), flush=True)


def go_on_as(folder: Path, checked: Checked, named: Collection[str], anyway: bool = False) -> None:
    """Go on with the run in `folder` if it is the one that `checked` says, but for what may change; else ConfigError.

    named: keys that somebody has given. What else says where or how it is computed stays as the run has it.
    """
    mine = checked.config
    with in_use_by_us(folder):
        before = frozen_like(folder, mine)
        mine = measured_as(mine, before)
        ours, theirs = trained(checked.parts), trained(before)
        changed = [name for name in ours if ours[name] != theirs[name]]
        others = (*placement(mine), "name")
        free = {*named, *(["fleet"] if {"processes", "device", "launch"} & set(named) else [])}  # the fleet is chosen by those
        changed += [name for name in others if name in free and getattr(mine, name) != getattr(before, name)]
        if "model.memory_format" in named and memory_format(mine) != memory_format(before):
            changed.append("model")
        after = Parts(replace(before, **{name: getattr(mine, name) for name in changed}))
        _go_on(folder, Checked(after, ()), before, changed, anyway)


def frozen_like(folder: Path, mine: schema.Config) -> schema.Config:
    """The config in a run's folder. ConfigError when it names code that ours does not, of which nothing is imported then."""
    file = folder / "config.yaml"
    frozen = schema.load(file)
    for group in schema.GROUPS:
        if set(_code(getattr(frozen, group))) - set(_code(getattr(mine, group))):
            raise _another(_exactly(group, getattr(frozen, group), getattr(mine, group)))
    return schema.load(file, trust=True)


def _code(node: Any) -> Iterator[str]:
    """Whatever may name code in a part of a config."""
    if isinstance(node, str) and ":" in node:
        yield node
    elif isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _code(value)


def _exactly(name: str, before: Any, now: Any) -> str:
    """Which key it is, of a group."""
    if isinstance(before, dict) and isinstance(now, dict) and before.get("name") == now.get("name"):
        for key in (*now, *before):
            if key not in before or key not in now or before[key] != now[key]:
                return _exactly(f"{name}.{key}", before.get(key), now.get(key))
    return name


def _another(name: str) -> ConfigError:
    """What to say of a key that has not the value it had."""
    return ConfigError(
        f"{name}: would change what this run has done already; it may go on with another "
        f"{', '.join(MAY_CHANGE)}; start a new run for anything else"
    )


def _go_on(folder: Path, checked: Checked, before: schema.Config, changed: Collection[str], anyway: bool) -> None:
    """Start the run of `checked` where the one of `before` stopped; it differs in the keys `changed`."""
    settings, summary = checked.config, summary_of(folder) or {}
    for name in changed:
        if name in ("log_every", "eval_every") and Parts(before).stop.looks:
            raise ConfigError(f"{name}: says when stop is looked at, so it would change where this run ends; leave it out")
        if "best" in (before.save, settings.save) and name in ("save", "eval_every", "objective"):
            raise ConfigError(
                f"{name}: says which model is the best so far (save=best), of which a part is behind this run; leave it out"
            )
        if name == "eval_every" and Parts(before).schedule.WATCHES:
            kind = before.schedule["name"]
            raise ConfigError(
                f"{name}: says when schedule={kind} looks, so it would change the rates of this run; leave it out"
            )
        if name not in MAY_CHANGE:
            raise _another(_exactly(name, getattr(before, name), getattr(settings, name)))
    at = next(iter(steps_saved(folder)), None)
    if settings.steps < (done := max(at or 0, summary.get("steps") or 0)):
        raise ConfigError(f"steps: the run has done {done} of them; name more, got {settings.steps}")
    _refuse_beyond_a_stop(folder, summary, before.steps, settings.steps)
    if summary.get("status") in OVER and (summary["status"] == "diverged" or settings.steps <= before.steps):
        progress.tell(f"{folder}: {summary['status']} at step {summary['steps']}; nothing is left to do")
        return
    source.take(folder, settings, anyway, at or 0)
    for note in (*checked.notes, *_notes(checked, before, at)):
        progress.say(note)
    if changed:
        rewrite_config(folder, {name: getattr(settings, name) for name in changed})
    if not settings.launch:
        (folder / "summary.json").unlink(missing_ok=True)  # of the shorter run: the workers would take theirs for done
        print(torchrun(settings, folder.absolute(), "coopsgd.worker", elastic=True))
        return
    try:
        with summed_up(folder, checked.parts):
            start(folder, checked.parts)
    except Interrupted as stopped:
        stopped.note = stopped.note or reached(folder, settings.steps)
        raise


def _refuse_beyond_a_stop(folder: Path, summary: Mapping[str, Any], before: int, steps: int) -> None:
    """ConfigError for more steps than `before` of a run that its stop has ended: it would end where it did."""
    done = summary.get("steps")
    if summary.get("status") != "completed" or not isinstance(done, int) or done >= before or steps <= before:
        return
    said = [note for note in summary.get("notes", ()) if str(note).startswith("stop.")]
    key = said[-1].partition(":")[0] if said else "stop"
    without = "stop.metric=null stop.target=null" if key == "stop.target" else f"{key}=null"
    raise ConfigError(
        f"steps: {key} ended the run after step {done} of {before}, and would end it there again; for a longer one begin anew: "
        f"coopsgd train --config-path {shlex.quote(str(folder))} --config-name config {without} steps={steps}"
    )


def _notes(checked: Checked, before: schema.Config, at: int | None) -> list[str]:
    """What somebody should know who reads the curves."""
    notes, schedule, steps = [], checked.parts.schedule, checked.config.steps
    if (most := checked.parts.stop.steps) is not None and before.steps < steps > most:
        notes.append(f"stop.steps={most}: ends the run before its steps={steps}")
    if at is None:
        notes.append("the run has no checkpoint: it starts over")
    if schedule.arguments(steps) != schedule.arguments(before.steps):
        name = checked.config.schedule["name"]
        notes.append(
            f"schedule={name} depends on how long the run is: the rate now moves as in a run of {steps} steps, so far it "
            f"moved as in one of {before.steps}"
        )
    return notes


def _checked(folder: Path, words: Sequence[str], trust: bool, before: schema.Config) -> Checked:
    """The config of the folder, which is `before`, with these words, as `train --config-path FOLDER` reads it."""
    refuse_flags(words, "resume")
    words, notes = mended(words, "resume")
    for name in (word.partition("=")[0] for word in words):
        if name in schema.GROUPS:  # of which a run's own config has no choices
            raise _another(name)
    if {"epochs", "rounds"} & {word.partition("=")[0] for word in words}:
        words = ["steps=null", *words]  # the folder's own, unless a word says so
    file = folder / "config.yaml"
    chosen = schema.load(file).fleet == "shared" and not any(word.partition("=")[0] == "fleet" for word in words)
    if chosen:  # by auto, which may choose again
        words = ["fleet=auto", *words]
    register_schema()
    ConfigStore.instance().store(name=AGAIN, node=rehydrated(file) if trust else without_hydra(file))
    try:
        try:
            with hydra.initialize_config_module("coopsgd.run", version_base="1.3"):
                cfg = hydra.compose(AGAIN, list(words), return_hydra_config=True)
        except BUGS as error:
            raise ConfigError(uncomposed(words, error)) from None
        with source.found_again(folder, trust):
            checked = compose.check(cfg, words, dict(cfg.hydra.runtime.choices), folder.resolve(), trust)
    except MISTAKES as error:
        raise ConfigError(one_line(error)) from None
    if chosen and checked.config.fleet == "auto":  # one process, which has no choice
        checked = replace(checked, parts=checked.parts.but(replace(checked.config, fleet="shared")))
    parts = checked.parts.but(measured_as(checked.config, before), without=("model", "task"))
    return replace(checked, parts=parts, notes=(*notes, *checked.notes))
