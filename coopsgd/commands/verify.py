"""`coopsgd verify FOLDER`: steps of a run are taken again, and what comes out is held against what it left, bit for bit."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from coopsgd.commands.compose import gpu_count
from coopsgd.commands.resume import as_it_was
from coopsgd.errors import ConfigError, DamagedFile, RunFailed
from coopsgd.run import lists, progress, provenance, source
from coopsgd.run.folders import in_use_by_us, steps_saved
from coopsgd.run.reader import log_points, summary_of
from coopsgd.setup import checks
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import Config

if TYPE_CHECKING:
    from coopsgd.run.checkpoints import Checkpoint
    from coopsgd.run.rerun import Range

SAME, DIFFERENT = 0, 1  # exit codes
# keys that may change when a run goes on, and on which bits or lines depend
MATTER = ("steps", "processes", "threads", "device", "fleet", "engine", "log_every", "eval_every", "eval_samples")


class Stretch(NamedTuple):
    """Steps `start` + 1 to `end`, which a run took under one config."""

    start: int
    end: int
    config: Config
    changed: str  # what is other from there on; empty at the end of the run


def verify(folder: Path, steps: int | None, trust: bool) -> int:
    """Print the verdict on the run in `folder`; the exit code. ConfigError when it cannot be verified."""
    if not (folder / "config.yaml").is_file():
        what = "is a sweep; name one of its runs" if lists.there(folder) else "holds no run, it has no config.yaml"
        raise ConfigError(f"{folder}: {what}")
    checks.only_copy()
    try:
        with in_use_by_us(folder, reading=True):
            return _verify(folder, steps, as_it_was(folder, trust).parts)
    except (DamagedFile, RunFailed) as error:
        raise ConfigError(f"{folder}: cannot be verified: {error}") from None
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be verified: {error.filename or error} ({error.strerror})") from None


def _verify(folder: Path, steps: int | None, parts: Parts) -> int:
    summary = summary_of(folder) or {}
    lines = log_points(folder / "metrics.jsonl") if (folder / "metrics.jsonl").is_file() else []
    done = max([*(line["step"] for line in lines), *steps_saved(folder)], default=0)
    if not done:
        raise ConfigError(f"{folder}: there is nothing to verify: the run has not come to a line of metrics.jsonl")
    if steps is not None and not 1 <= steps <= done:
        raise ConfigError(f"--steps: must be from 1 to {done}, the steps that this run has done, got {steps}")
    if parts.config.device == "cuda" and not gpu_count():
        raise ConfigError(f"{folder}: it ran on a GPU, and torch sees none here; verify it where there is one")
    saved = _whole(folder)
    try:
        stretches = _stretches(parts, done, summary, saved)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DamagedFile("what it says of its resumes is none of ours; take the folder from a copy") from None
    chosen = _chosen(stretches, sorted(saved), steps)
    ended = summary.get("status") == "completed" and chosen.end == summary.get("steps")
    from coopsgd.run.rerun import Range

    first = chosen.start if not chosen.start or saved[chosen.start].before_its_line else chosen.start + 1
    cut = bool(chosen.changed) and chosen.end == chosen.config.steps
    of = Range(
        folder.resolve(),
        chosen.start,
        chosen.end,
        [line for line in lines if first <= line["step"] < chosen.end + (not cut)],
        [step for step in sorted(saved) if chosen.start < step <= chosen.end],
        str(summary.get("saved", "none")) if ended else "none",
        cut,
    )
    settings = chosen.config
    place = f"{settings.workers} workers in {settings.processes} process{'es' * (settings.processes > 1)}, {settings.device}"
    progress.tell(f"{folder}: steps {of.start + 1} to {of.end} are taken again, {place}")
    found = _taken_again(of, parts.but(settings))
    recorded = saved[of.saved[-1]].manifest if of.saved else summary
    return _verdict(of, source.recorded(folder, recorded), found)


def _whole(folder: Path) -> dict[int, Checkpoint]:
    """The checkpoints that are whole, by step; a line for each other."""
    from coopsgd.run import checkpoints

    found = {}
    for step in steps_saved(folder):
        try:
            found[step] = checkpoints.opened(folder, step)
        except DamagedFile as error:
            progress.warn(f"{error}; it is passed over")
    return found


def _stretches(parts: Parts, done: int, summary: Mapping[str, Any], saved: Mapping[int, Checkpoint]) -> list[Stretch]:
    """The steps that were done, in order, parted where the run went on with other keys that bits or lines depend on."""
    from coopsgd.run.report import changes

    newest = saved[max(saved)] if saved else None
    told = [summary.get("resumed", []), newest.manifest["report"]["resumed"] if newest else []]
    changed = {int(one["from"]): one.get("changed", {}) for one in max(told, key=len)}
    if newest and newest.step not in changed:
        changed[newest.step] = changes(newest, parts.config)
    config, end, words, found = parts.config, done, "", list[Stretch]()
    for step, keys in sorted(changed.items(), reverse=True):
        matter = {name: before for name, (before, _) in keys.items() if name in MATTER}
        if "steps" in matter and parts.schedule.arguments(matter["steps"]) == parts.schedule.arguments(config.steps):
            del matter["steps"]
        if matter:
            found.append(Stretch(step, end, config, words))
            words = ", ".join(f"{name}={getattr(config, name)} in place of {before}" for name, before in matter.items())
            config, end = replace(config, **matter), step
    return [one for one in [Stretch(0, end, config, words), *reversed(found)] if one.start < one.end]


def _chosen(stretches: Sequence[Stretch], saved: Sequence[int], steps: int | None) -> Stretch:
    """What to take again: the first steps, where they are counted; else from a checkpoint to the next, or all there is."""
    first, last = stretches[0], stretches[-1]
    if steps is not None:
        if first.start or steps > first.end:
            raise ConfigError(
                f"--steps: at step {first.end} the run went on with {first.changed}, which makes other bits; "
                f"give at most {first.end}, got {steps}"
            )
        return first._replace(end=steps)
    for a, b in reversed(list(pairwise(saved))):
        for one in stretches:
            if one.start <= a and b <= one.end:
                return one._replace(start=a, end=b)
    return last if last.start in (0, *saved) else first


def _taken_again(of: Range, parts: Parts) -> list[dict[str, Any]]:
    """Take the steps again in a folder that is removed; what each process found."""
    from coopsgd.run import launch, rerun

    provenance.prepare(parts)
    with tempfile.TemporaryDirectory(prefix="coopsgd-verify-") as name:
        place = Path(name)
        try:
            launch.run(place, parts.config, partial(rerun.work, of, parts), stream=2)
        except RunFailed as error:
            for log in sorted((place / "logs").glob("rank*.err")):  # the message names them, and they are about to go
                print(log.read_text(errors="replace").rstrip(), file=sys.stderr, flush=True)
            raise RunFailed(str(error).partition("; the traceback is in ")[0].partition("; its output is in ")[0]) from None
        return [json.loads((place / f"found-{rank}.json").read_text()) for rank in range(parts.config.processes)]


def _verdict(of: Range, recorded: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> int:
    """Say in what the two environments differ, then what was found."""
    if "environment" not in recorded:
        progress.tell("the run did not record its environment; only versions can be compared")
    elsewhere = provenance.differences(recorded, found[0])
    for words in elsewhere.values():
        progress.tell(f"not as it was: {words}")
    if (why := found[0].get("unreadable")) is not None:
        raise DamagedFile(why)
    odd = [one for one in found if "step" in one]
    if odd:
        first = min(odd, key=lambda one: one["step"])
        progress.tell(
            f"different: step {first['step']}, {first['where']}: {first['then']} in {first['file']}, {first['now']} now"
        )
        return DIFFERENT
    lines, saved, final = found[0]["lines"], found[0]["saved"], found[0]["final"]
    held = [f"{lines} line{'s' * (lines != 1)} of metrics.jsonl"]
    held += [f"the checkpoint of step {step}" for step in saved]
    held += [] if final == "none" else ["the final models" if final == "rows" else "the answer"]
    progress.tell(
        f"same: {', '.join(held)}, bit for bit"
        + (f", though {' and '.join(elsewhere)} differ{'s' * (len(elsewhere) == 1)}" if elsewhere else "")
    )
    return SAME
