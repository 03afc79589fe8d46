"""From a composed config to one that can run: every `auto` resolved, what has no use dropped, each part made once.

One function resolves; what it hands back is a config of its own, and notes for its user. Others check (checks.py, timing.py,
the parts themselves): they raise, and change nothing.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from coopsgd.errors import ConfigError, TooFewSamples
from coopsgd.host import processors
from coopsgd.registry import guarded
from coopsgd.setup import axes, build, checks, lengths, objective, schema, timing, values
from coopsgd.setup.build import blamed
from coopsgd.setup.external import is_external
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import ABSENT, AXES, GROUPS, KEYS, STEPS, WHOLE, Config, beside_it, whole
from coopsgd.setup.suggestions import example, unknown_key
from coopsgd.strategies.base import Strategy


@dataclass(frozen=True)
class Checked:
    """The parts of a config that can run, and notes for its user."""

    parts: Parts
    notes: tuple[str, ...]
    folder: str | None = None  # that words name by hydra.run.dir
    refused: bool = False  # only looked at: a note says why it could not run

    @property
    def config(self) -> Config:
        """What workers read."""
        return self.parts.config

    @property
    def strategy(self) -> Strategy:
        """The algorithm."""
        return self.parts.strategy


def resolve(
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

    ConfigError names what is wrong; every `auto` that needs neither torch nor this machine is resolved in the config of the
    parts that come back.
    """
    words = frozenset(re.sub("['\"]", "", word.lstrip("+")) for word in overrides)
    with contextlib.nullcontext() if trust else guarded(words, beside):
        try:
            checked = _resolved(node, list(overrides), choices or {}, beside, look)
        except build.UnknownKey as error:
            raise error.of(choices or {}) from None
        for name in GROUPS[1:]:  # those too that no check had to make
            if not trust and getattr(checked.config, name) is not None:
                getattr(checked.parts, name)
        return checked


def given(overrides: Iterable[str]) -> list[str]:
    """The keys that the words of the command line name."""
    return [word.split("=", 1)[0].lstrip("+~").split("@")[0] for word in overrides if "=" in word]


REFUSED = "coopsgd train would refuse this: "


@contextlib.contextmanager
def _noted(look: bool, notes: list[str], kind: type[ValueError] = ValueError) -> Iterator[None]:
    """While only looking, what is refused within, and is of this kind, becomes a note."""
    try:
        yield
    except kind as error:
        if not look:
            raise
        notes.append(f"{REFUSED}{error}")


def _resolved(
    node: Mapping[str, Any], overrides: Sequence[str], choices: Mapping[str, str], beside: Path | None, look: bool
) -> Checked:
    config = read(node, choices)
    if beside is not None:
        config = beside_it(config, beside)
    checks.scalars(config)
    config = _defaults(config)
    timing.refuse(config)
    parts, refused = Parts(config), list[str]()
    config = lengths.in_steps(config, parts)
    parts = parts.but(config, without=("strategy", "period"))
    said = given(overrides)
    config, notes = _without_unused(parts, said)
    config = build.written_out(config)
    parts = parts.but(config)
    task, schedule, m = parts.task, parts.strategy.schedule, config.workers
    with blamed(""):
        parts.period.check(config)
        if schedule is not None:
            schedule.refuse_size(m)
            schedule.check(m)
            config = replace(config, algo={**config.algo, **schedule.computed_settings(m)})
        timing.check(config, parts.strategy, parts.period)
        axes.check(parts)
        if config.start is not None and "model" not in task.USES:
            way = "; give task.start" if "start" in config.task else ""
            raise ConfigError(f"start: task {config.task['name']} has no network whose parameters a file could name{way}")
        # data or models that cannot be read or do not fit are refused whoever asks: what comes next relies on them
        with _noted(look, refused, TooFewSamples):
            task.check(config)
        steps = _length(parts.but(config))
        if config.rounds is not None and config.order == "cta" and parts.strategy.send is not None:
            notes += (
                f"rounds={config.rounds}: under order=cta a round's communication comes with the step behind it, so the last "
                f"round's is not made: {config.rounds - 1} are",
            )
        config = build.with_full_names(replace(config, steps=steps, epochs=None, rounds=None))
        parts = parts.but(config)
        notes += on_what_it_reads(parts)
        if config.cluster is not None and config.topology is not None:
            checks.places(parts)
        checks.optimiser(parts)
        parts.schedule.check(parts.optim.lr, config.steps)
        if parts.schedule.WATCHES and config.eval_every == 0:
            raise ConfigError(
                f"schedule={config.schedule['name']}: goes by eval/loss, which eval_every=0 asks for at the two ends alone; "
                "give how often, as in eval_every=1epoch"
            )
        config = _without_stop(config, parts)
        with _noted(look, refused):
            checks.mixed(parts.but(config))
    if not task.statistics(config) and "model" in task.USES:
        if "norm_stats" in said:
            notes += (f"norm_stats={config.norm_stats}: the model keeps no running statistics; ignored",)
        config = replace(config, norm_stats=Config.norm_stats)
    parts = parts.but(config, without=("stop",))
    checks.placement(config)
    if not task.THEIRS:  # else the models are there already, and tell by themselves what they are made of
        with blamed(""):
            axes.check_blocks(parts, lambda: [task.blocks(config)])
        checks.memory(parts)
    return Checked(parts, (*refused, *notes), refused=bool(refused))


def on_what_it_reads(parts: Parts) -> tuple[str, ...]:
    """Lines on what the data, the split, the graph and the network of a run were taken for. ValueError where they are none."""
    config, task, schedule = parts.config, parts.task, parts.strategy.schedule
    topology = () if config.topology is None else parts.topology.notes(config.workers)
    of_a_file = config.topology is not None and parts.topology.names is not None
    if of_a_file and schedule is not None and schedule.in_pairs and not parts.topology.links(config.workers).undirected:
        topology += (f"topology.file: in {config.algo['name']} both ends of an edge exchange, also where it goes one way",)
    cluster = () if config.cluster is None else parts.cluster.check(config)
    return (*task.notes(config), *topology, *cluster)


def read(node: Mapping[str, Any], choices: Mapping[str, str]) -> Config:
    """The config that the words make, its interpolations resolved. ConfigError for a key that there is not."""
    for name in node:
        if name not in (*KEYS, "hydra"):
            raise ConfigError(unknown_key(str(name)))
    config = Config(**{name: value for name in KEYS if (value := _value(node, name)) is not None})
    found = {name: whole(getattr(config, name)) for name in WHOLE}
    found |= {name: _as_group(name, getattr(config, name), choices.get(name)) for name in GROUPS}
    found |= {name: None for name in ("cluster", "stop") if found[name] == {"name": None}}
    found |= {name: _axis(name, found[name]) for name in AXES}
    return replace(config, **found, launch=build.value_of("launch", bool, config.launch))


def _axis(name: str, node: dict[str, Any]) -> dict[str, Any] | None:
    """What an axis says; None where it is absent. ConfigError for keys of one that is."""
    if name == "fragments":  # said by its keys alone, as in fragments.count=4
        if node.get("name") in (None, ABSENT) and "count" in node:
            node = {**node, "name": "columns"}
        if node.get("name") == "columns" and node.get("count") == 1:
            if "by" in node:
                raise ConfigError(f"fragments.by={node['by']}: fragments.count=1 is the whole model; use a count above 1")
            return None
    if node.get("name") not in (None, ABSENT):
        return node
    for key in node:
        if key != "name":
            raise ConfigError(f"{name}.{key}: {name}={ABSENT} has none; choose one, as in {name}={example(name)}")
    return None


def _defaults(config: Config) -> Config:
    """tau, order, delay, merge, buffers, their period and weights by what the algo's yaml says of them, and nowhere else."""
    said = build.defaults(config, build.RUNS)
    by_samples = any(getattr(cls, "BY_SAMPLES", False) for cls in build.algo_classes(config))
    others = {"tau": 10, "weights_by": "samples" if by_samples else "uniform"} | timing.DEFAULTS
    found = {name: value for name, value in (others | said).items() if getattr(config, name) == "auto"}
    if build.algo_classes(config)[0].send is None:
        found["tau"] = 1
    return replace(config, algo={k: v for k, v in config.algo.items() if k not in said}, **found)


def _without_unused(parts: Parts, said: Sequence[str]) -> tuple[Config, tuple[str, ...]]:
    """The config without the groups that this run has no use for, and a line for each key given in vain."""
    config, strategy, task, algo = parts.config, parts.strategy, parts.task, parts.config.algo["name"]
    why: dict[str, str] = {}
    changes: dict[str, Any] = {}
    if strategy.send is None:
        why |= dict.fromkeys(("tau", "algo.tau", "period"), f"{algo} communicates every step by itself")
    elif strategy.schedule is not None and strategy.schedule.times_itself:
        why |= dict.fromkeys(("tau", "algo.tau", "period"), f"{algo} decides by itself how long a round is")
        changes["tau"] = 1
    wanted = {what for cls in build.algo_classes(config) for what in build.filled_by_run(cls).values()}
    if "topology" not in wanted:
        why["topology"] = f"{algo} has no free topology"
    unused = [name for name in ("model", "data", "partition", "batch_size") if name not in task.USES]
    unused += ["amp", "engine", "eval_samples"] if "model" in unused else []
    unused += ["norm_stats"] if "model" in unused and not task.statistics(config) else []
    why |= dict.fromkeys(unused, f"task {config.task['name']} has none")
    changes |= {name: {"name": "constant"} if name == "period" else None for name in why if name in GROUPS}
    own = {f"algo.{f.name}" for cls in build.algo_classes(config) for f in build.own(cls)}
    vain = [(word, name) for name in why for word in said if word == name or word.startswith(name + ".")]
    return replace(config, **changes), tuple(f"{word}: {why[name]}; ignored" for word, name in vain if word not in own)


def _without_stop(config: Config, parts: Parts) -> Config:
    """The config, without a stop that never comes. ConfigError where stop or objective read what the run does not have."""
    scores, known = parts.task.scores(config), parts.task.known(config) is not None
    if is_external(parts.task):
        scores, known = ("accuracy", "r2", "f1"), True  # it may say anything
    schedule = parts.strategy.schedule
    auxiliary = schedule is not None and schedule.num_aux > 0
    parts.stop.check(config, scores, known, auxiliary)
    objective.refuse_for(config, parts.stop.metric is not None, scores, known, auxiliary)
    return config if parts.stop.given else replace(config, stop=None)


def placed(checked: Checked, gpus: int, look: bool = False, at_once: int = 1) -> Checked:
    """The same, with the device, the processes and the threads of this machine, on which torch sees so many GPUs.

    at_once: so many runs share it, each of which takes its part.

    ConfigError when it has not what was asked for; a note where somebody only looks.
    """
    config, notes = checked.config, checked.notes
    device, processes, threads = config.device, config.processes, config.threads
    if device == "cuda" and not gpus and not config.launch:  # as where a cluster's jobs are sent from
        if processes == "auto":
            raise ConfigError(
                "processes: auto is one a GPU, and torch sees none here; say how many, one for each GPU of all machines, as in "
                "processes=8, or use device=cpu"
            )
    elif device == "cuda" and not gpus:
        if not look:
            raise ConfigError("device: cuda was asked for, but torch sees no GPU here; use device=cpu")
        notes, device = (*notes, f"{REFUSED}device: cuda was asked for, but torch sees no GPU here"), "cpu"
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if processes == "auto":
        machines = 1 if config.machines == "auto" else config.machines
        processes = schema.place(config.workers, gpus, at_once, machines)
    elif device == "cuda" and processes > gpus and config.launch:
        raise ConfigError(
            f"processes: nccl takes one process a GPU, got {processes} for {gpus}; use processes={gpus} or device=cpu"
        )
    if threads == "auto":
        threads = max(1, processors.cores() // at_once // processes)
    found = replace(config, device=device, processes=processes, threads=threads)
    found = replace(found, fleet=_fleet(found, look))
    return replace(checked, parts=checked.parts.but(found), notes=notes)


def _fleet(config: Config, look: bool) -> str:
    """How the processes of a placed config meet; auto where there is one of them."""
    several = (
        f"keeps models where the processors are, got device={config.device}"
        if config.device != "cpu"
        else None
        if (why := processors.no_shared_memory()) is None
        else f"needs memory files (memfd), of which there is none here ({why})"
    )
    if config.fleet == "shared" and several and not look:
        raise ConfigError(f"fleet: shared {several}; use fleet=processes")
    if config.fleet != "auto" or config.processes == 1:
        return config.fleet
    return "processes" if several or not config.launch else "shared"


def _value(node: Mapping[str, Any], name: str) -> Any:
    """A key's value, its interpolations resolved. ConfigError, naming the key, when they lead nowhere."""
    if OmegaConf.is_config(node) and OmegaConf.is_missing(node, name):
        values.refuse_odd(name, "???")
    try:
        return _plain(node.get(name))
    except InterpolationResolutionError as error:
        why = str(error.msg or error).splitlines()[0].rpartition("raised while resolving interpolation: ")[2].strip('".')
        raise ConfigError(
            f"{error.full_key or name}: {why[:1].lower() + why[1:]}; ${{KEY}} takes the value of a key, as in ${{tau}}"
        ) from None


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _as_group(name: str, node: Any, choice: str | None) -> dict[str, Any]:
    """What a group says, with the name of its choice."""
    if node is None and name in ("topology", "model", "data", "partition", "period", "cluster", "stop", *AXES):
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
    return node


def _length(parts: Parts) -> int:
    """Steps of the run."""
    config = parts.config
    if config.rounds is not None:
        where = f"rounds={config.rounds}"
        return lengths.step_of(where, config.rounds, parts.period, parts.strategy.schedule, config.workers)
    if config.epochs is None:
        return STEPS if config.steps is None else config.steps
    steps = config.epochs * lengths.epoch_of(config, parts, f"epochs={config.epochs}")
    values.refuse_odd("epochs: its steps", steps)
    return int(steps)
