"""A run that cannot work is refused here, in one line, before any process starts.

`check` resolves every `auto` that needs no torch, builds each part once and returns the config that workers read.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from coopsgd.errors import ConfigError, TooFewSamples
from coopsgd.host import sizes
from coopsgd.loop import norm_stats
from coopsgd.optim import SQUARES
from coopsgd.predict import foresight
from coopsgd.registry import did_you_mean, guarded
from coopsgd.setup import timing, values
from coopsgd.setup.build import blamed, class_of, make, make_strategy, write_out
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import DTYPES, ENGINES, GROUPS, SAVES, SIZES, STEPS, WHOLE, Config, found_beside, whole
from coopsgd.strategies.base import Strategy

LONGEST = 1e8  # seconds that a process can wait for another: three years
MOST_THREADS = 1024  # torch's of one process


@dataclass(frozen=True)
class Checked:
    """A config that can run, and what its user should be told."""

    config: Config
    strategy: Strategy
    notes: tuple[str, ...]
    folder: str | None = None  # that words name by hydra.run.dir


# how many copies of a command the launchers of clusters have started, where they say so to each
COPIES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE")


def only_copy() -> None:
    """ConfigError when a launcher such as torchrun or srun has started this very command several times over."""
    told = [
        f"{name}={os.environ[name]}" for name in COPIES if os.environ.get(name, "").isdecimal() and int(os.environ[name]) > 1
    ]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        told.insert(0, f"TORCHELASTIC_RUN_ID={os.environ['TORCHELASTIC_RUN_ID']}")
    if told:
        raise ConfigError(
            f"{told[0]}: a launcher starts copies of this command, each of which would be the whole of it; start it once, by "
            "itself, or prepare a run with launch=false and let the launcher start the coopsgd.run.worker that it prints"
        )


def check(
    node: Mapping[str, Any],
    overrides: Iterable[str] = (),
    choices: Mapping[str, str] | None = None,
    beside: Path | None = None,
    trust: bool = True,
    look: bool = False,
) -> Checked:
    """Resolve and refuse. `overrides` are the words of the command line, `choices` what Hydra's groups were set to, `beside` a
    run's folder whose config this is; without `trust` it imports nothing and reads no other file, unless a word asks for it;
    `look`: nothing will be run, so what only a run needs (data that fill a batch, weights that a variance bears) is a note.

    ConfigError names what is wrong; every `auto` that needs no torch is resolved in the config that comes back.
    """
    own = frozenset(re.sub("['\"]", "", word.lstrip("+")) for word in overrides)
    with contextlib.nullcontext() if trust else guarded(own, beside):
        checked = _check(node, list(overrides), choices, beside, look)
        for name in GROUPS[1:]:  # those too that no check had to make
            if not trust and getattr(checked.config, name) is not None:
                make(checked.config, name)
        return checked


REFUSED = "coopsgd train would refuse this: "


@contextlib.contextmanager
def _noted(notes: list[str], kind: type[ValueError] = ValueError) -> Iterator[None]:
    """What is refused within, and is of this kind, becomes a note."""
    try:
        yield
    except kind as error:
        notes.append(f"{REFUSED}{error}")


def _check(
    node: Mapping[str, Any], overrides: list[str], choices: Mapping[str, str] | None, beside: Path | None, look: bool = False
) -> Checked:
    refused: list[str] = []
    known = [f.name for f in fields(Config)]
    for name in node:
        if name not in (*known, "hydra"):
            raise ConfigError(f"no key named {str(name)!r}{did_you_mean(str(name), known)}; `coopsgd train --help` lists them")
    given_values = {name: _value(node, name) for name in known}
    config = Config(**{name: value for name, value in given_values.items() if value is not None})
    for name in WHOLE:
        setattr(config, name, whole(getattr(config, name)))
    for name in GROUPS:
        _as_group(config, name, (choices or {}).get(name))
    if config.cluster == {"name": None}:
        config.cluster = None
    if beside is not None:
        found_beside(config, beside)
    _check_scalars(config)
    task = make(config, "task")
    _settle_tau(config)
    timing.settle(config)
    strategy, filled = make_strategy(config)
    given = [word.split("=", 1)[0].lstrip("+~").split("@")[0] for word in overrides if "=" in word]
    notes = tuple(_drop_unused(config, strategy, filled, task, given))
    write_out(config)
    with blamed(""):
        make(config, "period").check(config)
        if (schedule := strategy.schedule) is not None:
            schedule.refuse_size(config.workers)
            schedule.check(config.workers)
            config.algo |= schedule.settled(config.workers)
        timing.check(config, strategy, make(config, "period"))
        # data or models that cannot be read or do not fit are refused whoever asks: what comes next relies on them
        with _noted(refused, TooFewSamples) if look else contextlib.nullcontext():
            task.check(config)
        notes += task.notes(config)
        config.steps, config.epochs = _length(config, task), None
        if config.cluster is not None:
            notes += tuple(make(config, "cluster").check(config))
        make(config, "schedule").check(make(config, "optim").lr, config.steps)
        with _noted(refused) if look else contextlib.nullcontext():
            refuse_mixed(config, strategy)
    if not task.statistics(config) and "model" in task.USES:
        if "norm_stats" in given:
            notes = (*notes, f"norm_stats={config.norm_stats}: the model keeps no running statistics; ignored")
        config.norm_stats = Config.norm_stats
    _check_placement(config)
    _check_memory(config, strategy, task)
    if refused:  # what lies ahead of a run that would not begin is nobody's question
        return Checked(config, strategy, (*refused, *notes))
    return Checked(config, strategy, (*notes, *foresight.notes(Parts(config, strategy), given)))


def _settle_tau(config: Config) -> None:
    """tau=auto is what the algo's yaml says; algo.tau is only that."""
    default = config.algo.pop("tau", 10)
    cls = class_of("strategy", "algo.strategy", config.algo.get("strategy"))
    if cls.send is None:
        config.tau = 1
    elif config.tau == "auto":
        config.tau = default


def _drop_unused(config: Config, strategy: Strategy, filled: set[str], task: Any, given: list[str]) -> Iterator[str]:
    """Empty the groups that this run has no use for; a line for each key given in vain."""
    algo = config.algo["name"]
    why: dict[str, str] = {}
    if strategy.send is None:
        why |= dict.fromkeys(("tau", "algo.tau", "period"), f"{algo} communicates every step by itself")
    elif strategy.schedule is not None and strategy.schedule.times_itself:
        why |= dict.fromkeys(("tau", "algo.tau", "period"), f"{algo} decides by itself how long a round is")
        config.tau = 1
    if "topology" not in filled:
        why["topology"] = f"{algo} has no free topology"
    unused = [name for name in ("model", "data", "partition", "batch_size") if name not in task.USES]
    unused += ["norm_stats", "amp", "engine", "eval_samples"] if "model" in unused else []
    why |= dict.fromkeys(unused, f"task {config.task['name']} has none")
    for name in why:
        if name in GROUPS:
            setattr(config, name, {"name": "constant"} if name == "period" else None)
        for word in given:
            if word == name or word.startswith(name + "."):
                yield f"{word}: {why[name]}; ignored"


def _value(node: Mapping[str, Any], name: str) -> Any:
    """A key's value, its interpolations resolved. ConfigError, naming the key, when they lead nowhere."""
    if OmegaConf.is_config(node) and OmegaConf.is_missing(node, name):
        values.refuse_odd(name, "???")
    try:
        return _plain(node.get(name))
    except InterpolationResolutionError as error:
        told = str(error.msg or error).splitlines()[0].rpartition("raised while resolving interpolation: ")[2].strip('".')
        raise ConfigError(
            f"{error.full_key or name}: {told[:1].lower() + told[1:]}; ${{KEY}} takes the value of a key, as in ${{tau}}"
        ) from None


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _as_group(config: Config, name: str, choice: str | None) -> None:
    node = getattr(config, name)
    if node is None and name in ("topology", "model", "data", "partition", "period", "cluster"):
        node = {}
    if isinstance(node, str):  # a run's config.yaml has no groups to choose from
        raise ConfigError(
            f"{name}: this config is a run's, with no choice of {name}; set its keys, as in {name}.KEY=VALUE, or start from "
            f"the defaults, without --config-path; got {node!r}"
        )
    if not isinstance(node, dict):
        raise ConfigError(f"{name}: must be a name or keys below it, as in {name}={choice or 'NAME'}, got {node!r}")
    node = dict(node)
    values.refuse_keys(name, node)
    if name == "algo" and choice:
        node["name"] = choice
    node.setdefault("name", choice)
    setattr(config, name, node)


def _check_scalars(config: Config) -> None:
    for f in fields(Config):
        if f.name not in GROUPS:
            values.refuse_odd(f.name, getattr(config, f.name))
    whole = {"workers": 1, "batch_size": 1, "log_every": 1, "eval_every": 0, "seed": 0}
    for name, least in whole.items():
        _whole(name, getattr(config, name), least)
    for name in ("steps", "epochs"):
        if getattr(config, name) is not None:
            _whole(name, getattr(config, name), 0 if name == "steps" else 1)
    for name in ("processes", "threads", "eval_samples"):
        if getattr(config, name) != "auto":
            _whole(name, getattr(config, name), 1, " or auto")
    for name, known in (("dtype", DTYPES), ("save", SAVES), ("engine", ENGINES)):
        if getattr(config, name) not in known:
            raise ConfigError(f"{name}: must be one of {', '.join(known)}, got {getattr(config, name)!r}")
    if config.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device: must be one of auto, cpu, cuda, got {config.device!r}")
    if not 0 < config.timeout <= LONGEST:
        raise ConfigError(f"timeout: must be a positive number of seconds, at most {LONGEST:g}, got {config.timeout:g}")
    if config.threads != "auto" and config.threads > MOST_THREADS:
        raise ConfigError(f"threads: must be at most {MOST_THREADS}, got {config.threads}; more than cores make nothing faster")
    if config.clip is not None and (
        isinstance(config.clip, bool) or not isinstance(config.clip, int | float) or not config.clip > 0
    ):
        raise ConfigError(f"clip: must be a positive number or null, got {config.clip!r}")
    if config.amp not in (None, "bf16"):
        raise ConfigError(f"amp: must be bf16 or null, got {config.amp!r}")
    if config.amp and config.dtype == "float64":
        raise ConfigError("amp=bf16: makes nothing of dtype=float64, whose point is precision; use dtype=float32")
    if config.steps is not None and config.epochs is not None:
        raise ConfigError(f"steps={config.steps} epochs={config.epochs}: give one of the two")


def _check_placement(config: Config) -> None:
    if config.processes != "auto" and config.workers % config.processes:
        divisors = [p for p in range(1, config.workers + 1) if config.workers % p == 0]
        raise ConfigError(
            f"processes: workers must be divisible by it, got workers={config.workers} processes={config.processes}; "
            f"choose one of {', '.join(map(str, divisors))}"
        )


def _check_memory(config: Config, strategy: Strategy, task: Any) -> None:
    """ConfigError when this machine cannot hold the models, or the processes, of a run that is to start here."""
    if not config.launch:
        return
    if config.processes != "auto":
        needed = sizes.PROCESS * config.processes
        sizes.refuse("processes", needed, f"{config.processes} processes", "lower it; one process can hold many workers")
    m, d, b = config.workers, task.dimension(config), task.statistics(config)
    v = strategy.schedule.num_aux if strategy.schedule else 0
    each = (2 + len(make(config, "optim").buffers)) * d + b  # model, gradient, what the optimiser keeps; statistics
    size = SIZES[config.dtype]
    numbers = [f"model.{k}" for k, v in (config.model or {}).items() if isinstance(v, int | list) and not isinstance(v, bool)]
    where = ", ".join(numbers) or ("model" if config.model else "task")
    sizes.refuse(where, size * each, f"a model of {d} numbers and its gradient", "choose a smaller one")
    what = f"{m} workers' models of {d} numbers and their gradients"
    sizes.refuse(
        "workers",
        size * (m * each + v * d),
        what,
        "lower workers or choose a smaller model",
    )


def refuse_mixed(config: Config, strategy: Strategy) -> None:
    """ValueError when what is mixed beside the models, running statistics and optimiser buffers, would not bear this W."""
    schedule, policy = strategy.schedule, config.norm_stats
    if policy not in norm_stats.POLICIES:
        raise ConfigError(f"norm_stats: must be one of {', '.join(norm_stats.POLICIES)}, got {policy!r}")
    statistics = policy == "average" and make(config, "task").statistics(config) > 0
    squares = config.buffers == "average" and any(name in SQUARES for name in make(config, "optim").buffers)
    if schedule is None or not (statistics or squares) or (weight := schedule.negative(config.workers)) is None:
        return
    if statistics:
        raise ConfigError(
            f"norm_stats=average: {weight}, which can make a running variance negative; use norm_stats=recalibrate, "
            "norm_stats=local, or weights that are not negative"
        )
    raise ConfigError(
        f"buffers=average: {weight}, which can make the mean square that optim={config.optim['name']} keeps negative; "
        "use buffers=keep or reset, or weights that are not negative"
    )


def _length(config: Config, task: Any) -> int:
    if config.epochs is None:
        return STEPS if config.steps is None else config.steps
    per_epoch = task.steps_per_epoch(config)
    if per_epoch is None:
        raise ConfigError(f"epochs={config.epochs}: task {config.task['name']} has no epochs; give steps")
    values.refuse_odd("epochs: its steps", config.epochs * per_epoch)
    return config.epochs * per_epoch


def _whole(name: str, value: Any, least: int, other: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name}: must be a whole number of at least {least}{other}, got {value!r}")
