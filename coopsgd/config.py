"""What a run is made of. A run that cannot work is refused here, in one line, before any process starts.

`Config` is the schema Hydra composes into; `check` resolves every `auto`, builds each part once and returns the frozen
config that workers read. No torch here: a refusal comes at once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from omegaconf import BooleanNode, FloatNode, IntegerNode, OmegaConf, StringNode
from omegaconf.errors import OmegaConfBaseException

from coopsgd import statistics
from coopsgd.errors import ConfigError
from coopsgd.registry import did_you_mean, lookup
from coopsgd.strategies.base import Strategy

GROUPS = ("algo", "period", "topology", "task", "model", "data", "partition", "optim", "schedule", "cluster")
DTYPES = ("float32", "float64")
ENGINES = ("auto", "loop", "vmap", "bmm", "grouped")
SAVES = ("auto", "rows", "answer", "none")
STEPS = 1000  # of a run that names neither steps nor epochs
INLINE = 4096  # numbers of an array that config.yaml holds itself; a larger one is copied beside it


def key(default: Any, help: str) -> Any:
    """A top-level key of the config with its line for `--help`."""
    return field(default=default, metadata={"help": help})


def group(help: str) -> Any:
    """A config group: an open node whose keys are the fields of the class it names."""
    return field(default_factory=dict, metadata={"help": help})


@dataclass
class Config:
    """The keys at the top. Groups are open here; their keys are checked against the class they choose."""

    algo: Any = group("the algorithm, A(tau, W, v) or one beyond it")
    period: Any = group("how tau moves, usable with every algorithm that has a tau")
    topology: Any = group("who talks to whom, for algorithms that ask")
    task: Any = group("what is learned")
    model: Any = group("the network, for tasks that train one")
    data: Any = group("the data set, for tasks that read one")
    partition: Any = group("who sees what of the data set")
    optim: Any = group("the inner optimiser of every worker")
    schedule: Any = group("how the learning rate moves")
    cluster: Any = group("whose seconds to simulate (sim_s): a step's time, links; none unless it is named")
    tau: Any = key("auto", "local steps between communications, or [[from step, tau], ...]; auto: what the algo's yaml says")
    workers: int = key(4, "m, how many models are trained")
    processes: Any = key("auto", "how many processes hold them; auto: one a worker while they fit the machine")
    threads: Any = key("auto", "torch threads of one process; auto: cores / processes, at least 1")
    steps: Any = key(None, f"local steps of every worker; {STEPS} unless epochs is given")
    epochs: Any = key(None, "instead of steps: passes of every worker over its own share")
    batch_size: int = key(32, "samples in one worker's minibatch")
    seed: int = key(0, "of everything random")
    dtype: str = key("float32", "of the models: float32 or float64")
    device: str = key("auto", "cpu, cuda, or auto: cuda where there is one")
    log_every: int = key(20, "steps between two lines of metrics.jsonl")
    norm_stats: str = key(
        "average", "BatchNorm's running statistics: average with the models, local, or recalibrate the mean's"
    )
    clip: Any = key(None, "largest norm of one worker's gradient row; a longer one is scaled down to it")
    amp: Any = key(None, "bf16: forward and backward passes in bfloat16 autocast; models, mixing, optimiser keep dtype")
    eval_every: int = key(100, "steps between two evaluations; 0: at the start and the end only")
    eval_samples: Any = key("auto", "test samples single workers are measured on; auto: all, fewer beyond 32 workers")
    engine: str = key("auto", "how stacked models are computed: auto, loop, vmap, bmm, grouped")
    save: str = key("auto", "what to keep at the end: rows, answer, none; auto: rows up to 200 MB, else the answer")
    name: str = key("", "a name of your own, kept in the summary")
    timeout: float = key(600.0, "seconds a process waits for another before the run fails")
    launch: bool = key(True, "false: check, freeze the folder, print the torchrun line for several machines")


@dataclass(frozen=True)
class Checked:
    """A config that can run, and what its user should be told."""

    config: Config
    strategy: Strategy
    notes: tuple[str, ...]


def check(node: Mapping[str, Any], overrides: Iterable[str] = (), choices: Mapping[str, str] | None = None) -> Checked:
    """Resolve and refuse. `overrides` are the words of the command line, `choices` what Hydra's groups were set to.

    ConfigError names what is wrong; every `auto` that needs no torch is resolved in the config that comes back.
    """
    known = [f.name for f in fields(Config)]
    for name in node:
        if name not in (*known, "hydra"):
            raise ConfigError(f"no key named {str(name)!r}{did_you_mean(str(name), known)}; `coopsgd train --help` lists them")
    config = Config(**{f.name: _plain(node.get(f.name)) for f in fields(Config) if node.get(f.name) is not None})
    for name in GROUPS:
        _as_group(config, name, (choices or {}).get(name))
    if config.cluster == {"name": None}:
        config.cluster = None
    _check_scalars(config)
    task = make(config, "task")
    _settle_tau(config)
    strategy, filled = make_strategy(config)
    given = [word.split("=", 1)[0].lstrip("+~").split("@")[0] for word in overrides if "=" in word]
    notes = tuple(_drop_unused(config, strategy, filled, task, given))
    with _blamed(""):
        make(config, "period").check(str((config.schedule or {}).get("name")))
        strategy.check(config.workers)
        task.check(config)
        config.steps, config.epochs = _length(config, task), None
        if config.cluster is not None:
            make(config, "cluster").check(config)
        make(config, "optim")
        make(config, "schedule").arguments(config.steps)
        kept = task.statistics(config)
        statistics.check(config.norm_stats, strategy, config.workers, kept)
    if not kept and "norm_stats" in given and "model" in task.USES:
        notes = (*notes, f"norm_stats={config.norm_stats}: the model keeps no running statistics; ignored")
    _check_placement(config)
    return Checked(config, strategy, notes)


def _settle_tau(config: Config) -> None:
    """tau=auto is what the algo's yaml says; algo.tau is only that."""
    default = config.algo.pop("tau", 10)
    cls = _lookup("strategy", "algo.strategy", config.algo.get("strategy"))
    if cls.fixed_tau is not None:
        config.tau = cls.fixed_tau
    elif config.tau == "auto":
        config.tau = default


def _drop_unused(config: Config, strategy: Strategy, filled: set[str], task: Any, given: list[str]) -> Iterator[str]:
    """Empty the groups that this run has no use for; a line for each key given in vain."""
    algo = config.algo["name"]
    why: dict[str, str] = {}
    if strategy.fixed_tau is not None:
        every = "step" if strategy.fixed_tau == 1 else f"{strategy.fixed_tau} steps"
        why |= dict.fromkeys(("tau", "algo.tau", "period"), f"{algo} communicates every {every} by itself")
    elif strategy.times_itself:
        why |= dict.fromkeys(("tau", "algo.tau", "period"), f"{algo} decides by itself how long a round is")
        config.tau = 1
    if "topology" not in filled:
        why["topology"] = f"{algo} has no free topology"
    unused = [name for name in ("model", "data", "partition", "batch_size") if name not in task.USES]
    unused += ["norm_stats", "amp"] if "model" in unused else []
    why |= dict.fromkeys(unused, f"task {config.task['name']} has none")
    for name in why:
        if name in GROUPS:
            setattr(config, name, {"name": "constant"} if name == "period" else None)
        for word in given:
            if word == name or word.startswith(name + "."):
                yield f"{word}: {why[name]}; ignored"


def make_strategy(config: Config) -> tuple[Strategy, set[str]]:
    """The strategy with its mixing, and the names of top-level keys it was given."""
    node = {k: v for k, v in config.algo.items() if k not in ("name", "strategy", "mixing", "tau")}
    cls = _lookup("strategy", "algo.strategy", config.algo.get("strategy"))
    parts = [("strategy", cls)]
    if any(f.name == "mixing" for f in fields(cls)):
        parts.append(("mixing", _lookup("mixing", "algo.mixing", config.algo.get("mixing"))))
    elif config.algo.get("mixing") is not None:
        raise ConfigError(f"algo.mixing: strategy {config.algo['strategy']} takes none; leave it out")
    known = {f.name for _, part in parts for f in fields(part) if f.init} - {"mixing"}
    filled = set(FILLED) & known
    _refuse_unknown("algo", config.algo["name"], node, known - filled)
    made: dict[str, Any] = {}
    for kind, part in reversed(parts):
        names = {f.name for f in fields(part) if f.init}
        arguments = {k: v for k, v in node.items() if k in names}
        with _blamed(""):
            arguments |= {name: FILLED[name](config) for name in filled & names}
        if kind == "strategy" and "mixing" in made:
            arguments["mixing"] = made["mixing"]
        made[kind] = _construct("algo", part, arguments)
    return made["strategy"], filled


# what a strategy, mixing or period is given by the run when it has a field of that name
FILLED: dict[str, Callable[[Config], Any]] = {
    "topology": lambda config: make(config, "topology"),
    "seed": lambda config: config.seed,
    "tau": lambda config: config.tau,
    "sizes": lambda config: _sizes(config),
    "batch_size": lambda config: config.batch_size,
    "warmup": lambda config: (config.schedule or {}).get("warmup", 0),
}


def _sizes(config: Config) -> list[int] | None:
    """Samples of each worker; that there are any is checked first, because counting them reads the data."""
    task = make(config, "task")
    task.check(config)
    return task.sizes(config)


KINDS = {
    "period": "period",
    "topology": "graph",
    "task": "task",
    "model": "model",
    "data": "data",
    "partition": "partition",
    "optim": "optim",
    "schedule": "schedule",
    "cluster": "cluster",
}


def make(config: Config, name: str) -> Any:
    """The frozen dataclass that group `name` of the config chooses."""
    node = dict(getattr(config, name) or {})
    choice = node.pop("name", None)
    if name == "optim":
        refuse_unstackable(choice)
    cls = _lookup(KINDS[name], name, choice)
    known = {f.name for f in fields(cls) if f.init}
    filled = set(FILLED) & known if name == "period" else set()
    _refuse_unknown(name, choice, node, known - filled)
    return _construct(name, cls, node | {key: FILLED[key](config) for key in filled})


def freeze_arrays(config: Config, folder: Path) -> None:
    """Bring what a file holds into the run: small arrays into the config, large ones into `folder` as .npy, others copied."""
    if config.cluster is not None:
        for name in _lookup("cluster", "cluster", config.cluster["name"]).FILES:
            copy = folder / f"cluster.{name}.json"
            copy.write_bytes(Path(config.cluster[name]).read_bytes())
            config.cluster[name] = str(copy.resolve())
    owners = [("algo", part) for part in _algo_classes(config)] + [("task", _lookup("task", "task", config.task["name"]))]
    for group_name, cls in owners:
        node = getattr(config, group_name)
        for name in getattr(cls, "ARRAYS", ()):
            value = node.get(name)
            if not isinstance(value, str):
                continue
            array = np.load(value)
            if array.size <= INLINE:
                node[name] = array.tolist()
            else:
                copy = folder / f"{group_name}.{name}.npy"
                np.save(copy, array)
                node[name] = str(copy.resolve())


def dumps(config: Config) -> str:
    """The frozen config as yaml."""
    return OmegaConf.to_yaml(OmegaConf.create(asdict(config)))


def load(path: Path) -> Config:
    """Read a frozen config back."""
    node = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert isinstance(node, dict)
    known = {f.name for f in fields(Config)}
    return Config(**{str(k): v for k, v in node.items() if k in known})


def cores() -> int:
    """Processors this process may use: affinity, not what the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def place(workers: int, gpus: int) -> int:
    """Processes to start: one a worker while that is at most 2 a core or 1 a GPU, else the largest divisor that fits."""
    room = gpus or 2 * cores()
    return next(p for p in range(min(workers, room), 0, -1) if workers % p == 0)


def _algo_classes(config: Config) -> list[Any]:
    pairs = (("strategy", config.algo.get("strategy")), ("mixing", config.algo.get("mixing")))
    return [_lookup(kind, f"algo.{kind}", name) for kind, name in pairs if name is not None]


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _as_group(config: Config, name: str, choice: str | None) -> None:
    node = getattr(config, name)
    if node is None and name in ("topology", "model", "data", "partition", "period", "cluster"):
        node = {}
    if not isinstance(node, dict):
        raise ConfigError(f"{name}: must be a name or keys below it, as in {name}={choice or 'NAME'}, got {node!r}")
    node = dict(node)
    if name == "algo" and choice:
        node["name"] = choice
    node.setdefault("name", choice)
    setattr(config, name, node)


def _check_scalars(config: Config) -> None:
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
    if not config.timeout > 0 or math.isinf(config.timeout):
        raise ConfigError(f"timeout: must be a positive number of seconds, got {config.timeout}")
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


def _length(config: Config, task: Any) -> int:
    if config.epochs is None:
        return STEPS if config.steps is None else config.steps
    per_epoch = task.steps_per_epoch(config)
    if per_epoch is None:
        raise ConfigError(f"epochs={config.epochs}: task {config.task['name']} has no epochs; give steps")
    return config.epochs * per_epoch


def _whole(name: str, value: Any, least: int, other: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name}: must be a whole number of at least {least}{other}, got {value!r}")


def _lookup(kind: str, where: str, name: Any) -> Any:
    if name is None:
        raise ConfigError(f"{where}: is missing; name one, `coopsgd list` shows what there is")
    try:
        found = lookup(kind, str(name))
    except KeyError as error:
        raise ConfigError(f"{where}: {error.args[0]}") from None
    if not (isinstance(found, type) and is_dataclass(found)):
        raise ConfigError(f"{where}: {name} is no dataclass, so it has no settings; name a frozen dataclass")
    return found


def _refuse_unknown(where: str, choice: Any, node: Mapping[str, Any], known: set[str]) -> None:
    for name in node:
        if name not in known:
            has = f"known: {', '.join(sorted(known))}" if known else "it has no keys"
            raise ConfigError(f"{where}.{name}: {choice} has no such key{did_you_mean(name, sorted(known))}; {has}")


def refuse_unstackable(choice: Any) -> None:
    """ConfigError when an optimiser cannot step rows stacked into one tensor."""
    from coopsgd.optim import NOT_ELEMENTWISE

    if str(choice).lower() in NOT_ELEMENTWISE:
        raise ConfigError(
            f"optim: {choice} is not elementwise, so it cannot step the workers' stacked rows; use sgd, adam or adamw"
        )


NODES: dict[Any, Callable[..., Any]] = {int: IntegerNode, float: FloatNode, bool: BooleanNode, str: StringNode}


def _construct(where: str, cls: Any, arguments: dict[str, Any]) -> Any:
    hints = get_type_hints(cls)
    typed = {}
    for name, value in arguments.items():
        if hints.get(name) == list[int] and not isinstance(value, list):
            raise ConfigError(f"{where}.{name}: must be a list of whole numbers, as in {where}.{name}=[20], got {value!r}")
        kind = NODES.get(hints.get(name, Any))
        try:
            typed[name] = value if kind is None else kind(value, is_optional=False)._value()
        except OmegaConfBaseException:
            wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[hints[name]]
            raise ConfigError(f"{where}.{name}: must be {wanted}, got {value!r}") from None
    with _blamed(where):
        return cls(**typed)


class _blamed:
    """Turn a ValueError of a part into a ConfigError; the part's own words already name thing, value and way out."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValueError) and not isinstance(error, ConfigError):
            told = str(error)
            raise ConfigError(told if not self.where or self.where in told else f"{self.where}: {told}") from None
