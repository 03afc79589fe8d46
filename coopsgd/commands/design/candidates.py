"""What `coopsgd design` searches: every algo whose matrices are known, with every tau, topology and weights it can have.

Then every delay and outer step, of those whose mixing is in a list: there they say something of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from omegaconf import OmegaConf

from coopsgd.errors import ConfigError
from coopsgd.registry import did_you_mean
from coopsgd.setup import build, catalogue, checks, timing
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import Config
from coopsgd.strategies.axes import serves, with_axes
from coopsgd.strategies.base import Strategy

TAUS = (1, 2, 4, 8, 16, 32, 64, 128)
DELAYS: tuple[Any, ...] = (0, 1, "tau")  # 1 and tau are one where tau is
DELAYED = ("average", "elastic", "gossip")  # mixings of which every delay is tried
OUTER = ("average", "gossip")  # mixings of which every outer step is tried
OUTERS: dict[str, dict[str, Any]] = {  # words of an outer step, and what they mean: the gains of a round are 1.3 and 1.1
    "outer=nesterov": {"name": "nesterov"},
    "outer=nesterov outer.momentum=0.6": {"name": "nesterov", "momentum": 0.6},
}
SPARSE = ("chain", "exponential", "grid", "hypercube", "random_regular", "ring", "star", "torus")
# keys of an algo with the values tried for m workers, under MIXING.KEY where one mixing has its own; a topology that is not
# in a list of names is not tried, and neither is a graph that cannot have m workers
AXES: dict[str, Callable[[int], Sequence[Any]]] = {
    "gossip.weights": lambda m: ("metropolis", _best(m)),
    "weights": lambda m: (_best(m),),
    "topology": lambda m: SPARSE,
    "matching.topology": lambda m: ("complete", "hypercube"),
    "matcha.topology": lambda m: ("ring", "exponential", "torus"),
    "gossip_pga.topology": lambda m: ("ring", "exponential", "torus"),
    "elastic.alpha": lambda m: ("auto", round(0.9 / m, 6)),
    "groups": lambda m: [g for g in (2, 4, 8, 16) if 2 * g <= m],
    "budget": lambda m: (0.25, 0.5),
    "every": lambda m: (4, 16),
    "form": lambda m: ("exponential", "hypercube"),
}


def _best(m: int) -> str:
    """The weights of the smallest zeta, while they are found in a moment; then the best that one constant can do."""
    return "fdla" if m <= 16 else "best_constant"


PARTS = ("strategy", "mixing")
PLAIN = ("fullsync", "pasgd", "dpsgd", "easgd")  # of two names for one thing, the first of these is listed
SAMPLED = 16  # communications at random in which two schedules must differ to be two
LEFT_OUT = ("matrix", "identity", "pairwise")  # mixings: W is the user's; never agree; one pair of all workers


@dataclass(frozen=True)
class Candidate:
    """One member of the space: what it is called on the command line, and what that means."""

    words: tuple[str, ...]
    parts: Parts
    outer: str = ""  # its outer step, in words; empty where it has none
    plain: Candidate | None = None  # the same without an outer step, where that is a candidate too

    @property
    def config(self) -> Config:
        """What it is a run of."""
        return self.parts.config

    @property
    def strategy(self) -> Strategy:
        """What it communicates by; those that differ by tau or delay alone share it where they can."""
        return self.parts.strategy

    @property
    def label(self) -> str:
        """Its words, as a person reads them."""
        return " ".join(self.words)


def candidates(base: Parts, words: Sequence[str], config_dir: str | None = None) -> list[Candidate]:
    """Every different algorithm for base.config.workers workers, plain names first.

    base: the parts of a checked config, of an algorithm with a topology if one is fixed. words: of the command line; what they
    fix (algo, tau, topology, outer, a key of the algo) is not varied, and algorithms without such a key are left out.
    ConfigError when none has it.
    """
    outer = base.config.outer
    base = base.but(replace(base.config, outer=None), without=("outer", "strategy"))
    fixed = {word.partition("=")[0].lstrip("+") for word in words if "=" in word}
    names = [choice.name for choice in catalogue.choices("algo", config_dir)]
    brings = partial(catalogue.choices_of, "algo", config_dir=config_dir)
    names.sort(key=lambda name: (PLAIN.index(name) if name in PLAIN else len(PLAIN), name))
    algos = [{"name": name, **catalogue.settings("algo", name, config_dir)} for name in names]
    if "algo" in fixed:
        algos = [algo for algo in algos if algo["name"] == base.config.algo["name"]]
    else:  # those that bring choices of other groups stand for a plain one with axes, of which outer steps are searched
        algos = [algo for algo in algos if algo.get("mixing") not in LEFT_OUT and not brings(algo["name"])]
    if "algo.tau" in fixed:
        raise ConfigError("algo.tau: is only what tau=auto means; give tau itself, as in tau=4")
    given, known = _given(words), set(PARTS)
    algos = [algo | given for algo in algos]
    for algo in algos:
        known |= _keys(algo).keys()
    for key in given:
        if key not in known:
            raise ConfigError(f"algo.{key}: no algorithm here has such a key{did_you_mean(key, sorted(known))}")
    algos = [algo for algo in algos if given.keys() <= {*_keys(algo), *PARTS}]
    found: dict[Any, Candidate] = {}
    last: Strategy | None = None
    identity, refused = None, list[str]()
    for algo in algos:
        for variant in _variants(base, algo, fixed, config_dir, refused):
            if variant.strategy is not last:  # those of one strategy come together
                last, identity = variant.strategy, _identity(variant.strategy, base.config.workers)
            if identity is not None:
                config = variant.config
                found.setdefault((str(config.tau), config.order, str(config.delay), identity), variant)
    if not found and refused:
        raise ConfigError(refused[0])
    every = list(found.values())
    if outer:
        name = " ".join(word for word in words if word.lstrip("+").startswith("outer"))
        return list(_stepping(every, {name or f"outer={outer['name']}": outer}, given=True))
    if "outer" in fixed:
        return every
    return [*every, *_stepping([one for one in every if one.config.algo.get("mixing") in OUTER], OUTERS)]


def _stepping(some: Sequence[Candidate], outers: dict[str, Any], given: bool = False) -> Iterator[Candidate]:
    """The same with each of these outer steps; given: by the words of the command line."""
    for said, outer in outers.items():
        around: dict[int, Strategy] = {}  # what is around one strategy is one
        for one in some:
            if one.strategy.send is None or (given and serves(one.strategy.schedule)):
                continue
            parts = one.parts.but(replace(one.config, outer=outer), without=("outer", "strategy"))
            step = around.setdefault(id(one.strategy), with_axes(one.strategy, parts.outer))
            words = one.words if given else (*one.words, *said.split())
            yield Candidate(words, parts.but(parts.config, strategy=step), said, None if given else one)


def _given(words: Sequence[str]) -> dict[str, Any]:
    """The keys of an algo that words set, and to what."""
    plain = (word.lstrip("+") for word in words if "=" in word)
    dotlist = [word.removeprefix("algo.") for word in plain if word.startswith("algo.")]
    found = OmegaConf.to_container(OmegaConf.from_dotlist(dotlist))
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _variants(
    base: Parts, algo: dict[str, Any], fixed: set[str], config_dir: str | None, refused: list[str]
) -> Iterator[Candidate]:
    """Every choice of the keys of one algo; all those of one strategy one after the other. Why others cannot be: `refused`."""
    config, keys = base.config, _keys(algo)
    m, filled = config.workers, _filled(algo)
    algo = {key: value for key, value in algo.items() if key not in build.RUNS or key in keys}
    axes: dict[str, Sequence[Any]] = {}
    for key, (owner, _) in keys.items():
        tried = AXES.get(f"{owner}.{key}") or AXES.get(key)
        if key in fixed or f"algo.{key}" in fixed or tried is None or (key == "topology" and key not in filled):
            continue
        axes[key] = tried(m)
        if key == "topology":
            axes[key] = [{"name": name, **catalogue.settings(key, name, config_dir)} for name in tried(m)]
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        topology = chosen.pop("topology", None)
        differs = [f"algo.{key}={value}" for key, value in chosen.items() if algo.get(key, keys[key][1]) != value]
        said = [f"algo={algo['name']}"] + ([] if topology is None else [f"topology={topology['name']}"])
        strategy: Strategy | None = None
        for tau in [config.tau] if "tau" in fixed else [tau for tau in TAUS if tau <= max(1, config.steps // 2)]:
            graph = (topology or config.topology) if "topology" in filled else None
            mine = replace(config, algo=algo | chosen, topology=graph, tau=tau)
            parts = base.but(mine, without=("strategy", "topology", "period"))
            try:
                if strategy is None or "tau" in filled:
                    strategy = parts.strategy
                    if strategy.schedule is not None:
                        strategy.schedule.refuse_size(m)
                        strategy.schedule.check(m)
                    checks.mixed(parts)
                parts = parts.but(mine, strategy=strategy)
            except ValueError as error:  # not for so many workers, most likely
                refused.append(str(error))
                break
            if strategy.send is None:
                if all(getattr(config, name) == default for name, default in timing.DEFAULTS.items() if name in fixed):
                    yield Candidate((*said, *differs), parts.but(replace(mine, tau=1, **timing.DEFAULTS)))
                break
            period = [f"tau={tau}"] if "tau" not in fixed else []
            for delay in _delays(mine, fixed):
                late = [f"delay={delay}"] if delay != config.delay else []
                yield Candidate((*said, *period, *late, *differs), parts.but(replace(mine, delay=delay)))


def _delays(config: Config, fixed: set[str]) -> Sequence[Any]:
    """The delays that are tried with this algorithm and tau."""
    if "delay" in fixed or config.order == "cta" or config.algo.get("mixing") not in DELAYED:
        return (config.delay,)
    return DELAYS[:2] if config.tau == 1 else DELAYS


def _identity(strategy: Strategy, m: int) -> Any:
    """What makes two strategies the same; None for one that is not searched."""
    schedule = strategy.schedule
    if schedule is None or schedule.times_itself or schedule.work(m, 0, 1) is not None:
        return None  # clients that sit rounds out: tau_eq knows nothing of them
    zeta = schedule.zeta(m)
    if zeta is None or not zeta < 1 - 1e-9:
        return None  # no matrix tells, or the workers never agree
    if strategy.send is None:
        return "averages gradients"
    rounds = range(schedule.cycle(m) or SAMPLED)
    matrices = tuple(W.content for r in rounds for W in schedule.factors(m, r))
    return schedule.server_owns_aux, matrices


def _classes(algo: dict[str, Any]) -> list[Any]:
    return [build.class_of(kind, f"algo.{kind}", algo[kind]) for kind in PARTS if algo.get(kind) is not None]


def _keys(algo: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    """The keys of an algo's strategy and mixing, and the topology if they ask for it: the mixing's name, and the default."""
    owner, found = str(algo.get("mixing", "")), dict[str, tuple[str, Any]]()
    for cls in _classes(algo):
        filled = build.filled_by_run(cls)
        names = {f.name: filled.get(f.name, f.name) for f in fields(cls) if f.init and filled.get(f.name) in (None, "topology")}
        found |= {names[f.name]: (owner, f.default) for f in fields(cls) if f.name in names}
    return found


def _filled(algo: dict[str, Any]) -> set[str]:
    """What they ask of the run: the topology, tau."""
    return {what for cls in _classes(algo) for what in build.filled_by_run(cls).values()}
