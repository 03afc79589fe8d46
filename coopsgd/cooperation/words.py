"""From the words of a command line, a dict or a yaml to the parts of a run whose task, data and optimiser are the user's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from coopsgd.cooperation.clock import RunningProcesses
from coopsgd.cooperation.task import UsersSchedule, UsersTask
from coopsgd.errors import ConfigError
from coopsgd.setup import axes, compose, spoken
from coopsgd.setup.build import algo_classes, filled_by_run
from coopsgd.setup.messages import MISTAKES, one_line
from coopsgd.setup.parts import Parts
from coopsgd.setup.resolve import given, resolve
from coopsgd.setup.schema import KEYS
from coopsgd.setup.words import mended

if TYPE_CHECKING:
    from coopsgd.fleet.block import Block

READ = (
    "algo",
    "period",
    "outer",
    "correction",
    "codec",
    "fragments",
    "topology",
    "tau",
    "order",
    "delay",
    "merge",
    "buffers",
    "buffers_every",
    "weights_by",
    "norm_stats",
    "seed",
    "workers",
    "timeout",
)
RUNS = tuple(name for name in READ if name != "workers")
YOURS = "optim"
TASK, CLUSTER, SCHEDULE = (f"{cls.__module__}:{cls.__qualname__}" for cls in (UsersTask, RunningProcesses, UsersSchedule))


def parts_of(
    words: Sequence[Any],
    workers: int,
    parameters: int,
    statistics: int,
    samples: list[int] | None,
    kinds: Callable[[], Sequence[tuple[Block, ...]]],
) -> tuple[Parts, tuple[str, ...]]:
    """The parts that these words name, for so many workers, and notes on words that have no use here.

    words: each `key=value`, a whole `coopsgd train ...` line, a mapping, or the path of a yaml. kinds: tells the parameters
    of a model, by kind of number or device. ConfigError when they cannot work.
    """
    flat = spoken.words_of(words, RUNS)
    try:
        flat, notes = mended(flat, "Cooperation")
        used, ignored = _sorted(flat)
        if not any(re.match(r"[+~]*algo=", word) for word in used):
            notes.append("algo: none is named, so it is easgd, as on the command line")
        for word in used:
            if re.search(r"\d\s*epochs?\b", word.partition("=")[2]):
                raise ConfigError(f"{word}: how long an epoch is only your loop knows; give steps, as many as its loader has")
        if samples is None and "weights_by=samples" in used:
            raise ConfigError("weights_by=samples: nobody said how many each worker has; give Cooperation(samples=...)")
        if not statistics and any(word.startswith("norm_stats=") for word in used):
            used = [word for word in used if not word.startswith("norm_stats=")]
            notes.append("norm_stats: the model keeps no running statistics; ignored")
        with compose.borrowed():
            cfg = compose.composed(used)
        node: dict[str, Any] = {name: cfg.get(name) for name in KEYS}
        if "workers" in given(used) and node["workers"] != workers:
            raise ConfigError(f"workers={node['workers']}: there are {workers}, one a process or model; leave it out")
        node |= {
            "workers": workers,
            "task": {"name": TASK, "parameters": parameters, "running": statistics, "samples": samples},
        }
        node |= dict.fromkeys(("model", "data", "partition", "stop", "start")) | {
            "cluster": {"name": CLUSTER},
            "schedule": {"name": SCHEDULE},
        }
        said = compose.task_words(cfg.hydra)
        checked = resolve(node, said, dict(cfg.hydra.runtime.choices))
        axes.check_blocks(checked.parts, kinds)
    except MISTAKES as error:
        raise ConfigError(one_line(error)) from None
    config = replace(checked.config, processes=1, threads=1, device="cpu")
    _refuse(checked.parts, statistics)
    if samples is None and any("sizes" in filled_by_run(cls).values() for cls in algo_classes(config)):
        notes.append("samples: nobody said how many each worker has, so all weigh the same; give Cooperation(samples=...)")
    note = [f"{', '.join(dict.fromkeys(ignored))}: ignored; your own loop decides that"] if ignored else []
    return checked.parts.but(config), (*notes, *note, *checked.notes)


def _refuse(parts: Parts, statistics: int) -> None:
    config, schedule = parts.config, parts.strategy.schedule
    if statistics and config.norm_stats == "recalibrate":
        raise ConfigError(
            "norm_stats=recalibrate: needs data, which are yours; use average or local, and torch.optim.swa_utils.update_bn "
            "within `with coop.answer():`"
        )
    if config.buffers == "average" and schedule is not None and (weight := schedule.negative(config.workers)) is not None:
        raise ConfigError(
            f"buffers=average: {weight}, which can make a mean square of an optimiser negative; use buffers=keep or reset"
        )


def _sorted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that have a use here, and the keys of those that have none. ConfigError for what the optimiser says."""
    used, ignored = [], []
    for word in words:
        name = re.split(r"[=@]", word.lstrip("+~"), maxsplit=1)[0].partition(".")[0]
        if name == YOURS:
            raise ConfigError(f"{word}: the optimiser is yours; set it there and leave the word out")
        # batch_size is for who counts passes over a share
        if name in READ or name not in KEYS or (name == "batch_size" and any("algo.epochs=" in one for one in words)):
            used.append(word)
        else:
            ignored.append(name)
    return used, ignored
