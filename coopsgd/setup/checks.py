"""A run that cannot work is refused here, in one line, before any process starts. What is here raises, and changes nothing."""

from __future__ import annotations

import os
from dataclasses import fields

from coopsgd.errors import ConfigError
from coopsgd.host import sizes
from coopsgd.optim import SQUARES
from coopsgd.setup import timing, values
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import DEVICES, DTYPES, ENGINES, FLEETS, GROUPS, NORM_STATS, SAVES, SIZES, Config

LONGEST = 1e8  # seconds that a process can wait for another: three years
MOST_THREADS = 1024  # torch's of one process


# how many copies of a command the launchers of clusters have started, where they say so to each
COPIES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE")


def only_copy() -> None:
    """ConfigError when a launcher such as torchrun or srun has started this very command several times over."""
    found = [name for name in ("TORCHELASTIC_RUN_ID",) if name in os.environ]
    found += [name for name in COPIES if (count := os.environ.get(name, "")).isdecimal() and int(count) > 1]
    if found:
        raise ConfigError(
            f"{found[0]}={os.environ[found[0]]}: a launcher starts copies of this command, each of which would be the whole of "
            "it; start it once, by itself, or prepare a run with launch=false and let the launcher start the "
            "coopsgd.worker that it prints"
        )


# keys that count something: the least they may be, and what they may be instead
NEVER = object()
WHOLE = {
    **dict.fromkeys(("workers", "batch_size", "log_every", "keep"), (1, NEVER)),
    **dict.fromkeys(("eval_every", "seed", "max_restarts"), (0, NEVER)),
    **{"steps": (0, None), "epochs": (1, None), "rounds": (1, None)},
    **dict.fromkeys(("processes", "machines", "threads", "eval_samples"), (1, "auto")),
}


LENGTHS = ("log_every", "eval_every")  # in steps, or text that says of what
TOTALS = ("steps", "epochs", "rounds")  # how long the run is


def scalars(config: Config) -> None:
    """ConfigError when a key at the top has a value that it cannot have."""
    for f in fields(Config):
        if f.name not in GROUPS:
            values.refuse_odd(f.name, getattr(config, f.name))
    for name, (least, other) in WHOLE.items():
        value = getattr(config, name)
        if value != other and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            if (length := values.length_of(value)) is not None and name in LENGTHS:
                continue
            way = " or auto" if other == "auto" else ", or as in 1epoch or 5rounds" if name in LENGTHS else ""
            if length is not None and name in TOTALS:
                way = f"; write {length[1]}s={length[0]}"
            raise ConfigError(f"{name}: must be a whole number of at least {least}{way}, got {value!r}")
    if config.checkpoint_every != "auto":
        every = config.checkpoint_every
        if isinstance(every, str):
            if values.length_of(every) is None:
                values.seconds_of("checkpoint_every", every)
        elif isinstance(every, bool) or not isinstance(every, int) or every < 0:
            raise ConfigError(f"checkpoint_every: must be steps, 1epoch, 5rounds, a time as in 10min, auto or 0, got {every!r}")
    for name, known in (("dtype", DTYPES), ("save", SAVES), ("engine", ENGINES), ("device", DEVICES), ("fleet", FLEETS)):
        if getattr(config, name) not in known:
            raise ConfigError(f"{name}: must be one of {', '.join(known)}, got {getattr(config, name)!r}")
    if not isinstance(config.interface, str) or any(c in config.interface for c in " ,/"):
        raise ConfigError(
            f"interface: must be the name of one network interface, as in eth1, or auto, got {config.interface!r}"
        )
    seconds = config.timeout
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds != "auto" and not (number and 0 < seconds <= LONGEST):
        raise ConfigError(f"timeout: must be a positive number of seconds, at most {LONGEST:g}, or auto, got {seconds!r}")
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
    totals = [f"{name}={value}" for name in TOTALS if (value := getattr(config, name)) is not None]
    if len(totals) > 1:
        raise ConfigError(f"{' '.join(totals)}: give one of the {'two' if len(totals) == 2 else 'three'}")


def placement(config: Config) -> None:
    """ConfigError unless every process can hold as many workers."""
    if config.processes != "auto" and config.workers % config.processes:
        divisors = [p for p in range(1, config.workers + 1) if config.workers % p == 0]
        raise ConfigError(
            f"processes: workers must be divisible by it, got workers={config.workers} processes={config.processes}; "
            f"choose one of {', '.join(map(str, divisors))}"
        )
    if config.interface != "auto" and config.launch:
        raise ConfigError(
            f"interface={config.interface}: what one machine runs talks over loopback; add launch=false, which prints what to "
            "start on each of several"
        )
    if config.machines in ("auto", 1):
        return
    if config.launch:
        raise ConfigError(
            f"machines={config.machines}: a command starts processes of its own machine; add launch=false, which prints what "
            "to start on each"
        )
    if config.processes != "auto" and config.processes % config.machines:
        fit = [p for p in range(config.machines, config.workers + 1, config.machines) if config.workers % p == 0]
        raise ConfigError(
            f"machines={config.machines}: must share processes={config.processes} evenly; "
            + (
                f"use processes={fit[-1]}"
                if fit
                else f"workers={config.workers} cannot be shared so, use another number of them"
            )
        )
    if config.workers % config.machines:
        raise ConfigError(f"machines={config.machines}: must share workers={config.workers} evenly; choose a divisor")


def memory(parts: Parts) -> None:
    """ConfigError when this machine cannot hold the models, or the processes, of a run that is to start here."""
    config, task, schedule = parts.config, parts.task, parts.strategy.schedule
    if not config.launch:
        return
    if config.processes != "auto":
        needed = sizes.PROCESS * config.processes
        sizes.refuse("processes", needed, f"{config.processes} processes", "lower it; one process can hold many workers")
    m, d, b = config.workers, task.dimension(config), task.statistics(config)
    v = schedule.num_aux if schedule else 0
    told = getattr(parts.optim, "widths", None)
    kept = len(parts.optim.buffers) * d if told is None else sum(told(d, lambda: task.blocks(config)).values())
    each = 2 * d + kept + b  # model, gradient, what the optimiser keeps; statistics
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


def places(parts: Parts) -> None:
    """ConfigError when a worker is one node in the graph of messages, by its name, and another in the network."""
    names, at = parts.topology.names, parts.cluster.places
    for i, name in enumerate(names or ()):
        if at and name in at and at[i] != name:
            raise ConfigError(
                f"cluster.file: worker {i} is at {at[i]}, but is {name} in topology.file; order the nodes of both files alike"
            )


def optimiser(parts: Parts) -> None:
    """ConfigError where the optimiser's buffers are none to average, or not as many as buffers_every has numbers."""
    if (why := getattr(parts.optim, "NO_MEAN", None)) and parts.config.buffers == "average":
        raise ConfigError(f"buffers=average: not with optim.cls={parts.optim.KIND}: {why}; use buffers=keep or reset")
    if not parts.task.THEIRS:
        timing.one_for_each(parts.config, parts.optim.buffers, f"optim={parts.config.optim['name']}")


def mixed(parts: Parts) -> None:
    """ValueError when what is mixed beside the models, running statistics and optimiser buffers, would not bear this W."""
    config, schedule, policy = parts.config, parts.strategy.schedule, parts.config.norm_stats
    if policy not in NORM_STATS:
        raise ConfigError(f"norm_stats: must be one of {', '.join(NORM_STATS)}, got {policy!r}")
    statistics = policy == "average" and parts.task.statistics(config) > 0
    squares = config.buffers == "average" and any(name in SQUARES for name in parts.optim.buffers)
    if schedule is None or not (statistics or squares) or (weight := schedule.negative(config.workers)) is None:
        return
    if statistics:
        ways = ["norm_stats=recalibrate"] * ("data" in parts.task.USES) + [
            "norm_stats=local",
            "or weights that are not negative",
        ]
        raise ConfigError(f"norm_stats=average: {weight}, which can make a running variance negative; use {', '.join(ways)}")
    raise ConfigError(
        f"buffers=average: {weight}, which can make the mean square that optim={config.optim['name']} keeps negative; "
        "use buffers=keep or reset, or weights that are not negative"
    )
