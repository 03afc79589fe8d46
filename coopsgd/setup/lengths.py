"""Lengths that are given in epochs or rounds, as steps: eval_every=1epoch, period.switch=20rounds, rounds=50.

An epoch is the longest pass of a worker over its share. A round is the local steps that lead to one communication: of the
worker that takes most, where they take unequally many. What cannot be told before a run (log_every=1round where tau moves by
the loss) is left as it is, for the loop to count.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from coopsgd.errors import ConfigError
from coopsgd.mixing.base import Mixing
from coopsgd.setup import build, values
from coopsgd.setup.schema import Config
from coopsgd.setup.values import length_of
from coopsgd.strategies.period import Period, ends

if TYPE_CHECKING:
    from coopsgd.setup.parts import Parts

OFTEN = ("log_every", "eval_every", "checkpoint_every")  # keys of the run that the loop can count in rounds
COUNTED = 1_000_000  # rounds that are gone through one by one, where they are not all alike


def in_steps(config: Config, parts: Parts) -> Config:
    """The config with its lengths in steps, where they can be. ConfigError for an epoch or a round where there is none.

    parts: of this config; no more of them is made than these lengths need.
    """
    per_epoch: list[int] = []

    def epochs(where: str, count: int) -> int:
        if not per_epoch:
            per_epoch.append(epoch_of(config, parts, where))
        values.refuse_odd(f"{where}: its steps", count * per_epoch[0])
        return count * per_epoch[0]

    def known(where: str, value: Any) -> Any:
        """Steps for text that says steps or epochs; rounds and anything else as they are."""
        length = length_of(value)
        if length is None or length[1] == "round":
            return value if length is None else f"{length[0]}round{'s' * (length[0] > 1)}"
        return length[0] if length[1] == "step" else epochs(f"{where}={value}", length[0])

    found: dict[str, Any] = {name: known(name, getattr(config, name)) for name in OFTEN}
    found["tau"] = _tau(known, config.tau)
    if (config.schedule or {}).get("unit") == "epoch":
        found["schedule"] = {**config.schedule, "unit": epochs("schedule.unit=epoch", 1)}
    for group in ("period", "algo"):
        node = getattr(config, group) or {}
        texts = {key: value for key, value in node.items() if length_of(value) and key in _in_steps(config, group)}
        if texts:
            found[group] = {**node, **{key: known(f"{group}.{key}", value) for key, value in texts.items()}}
    config = replace(config, **found)
    period = config.period or {}
    if (switch := length_of(period.get("switch"))) is not None:
        where, schedule = f"period.switch={period['switch']}", parts.but(config).strategy.schedule
        step = step_of(where, switch[0], Period(1), schedule, config.workers)  # until then tau is 1
        config = replace(config, period={**period, "switch": step})
    return config


def _in_steps(config: Config, group: str) -> set[str]:
    """The keys of a group whose classes say that they are in steps."""
    if group == "algo":
        classes = build.algo_classes(config)
    else:
        name = (getattr(config, group) or {}).get("name")
        classes = [] if name is None else [build.class_of(build.KINDS[group], group, name)]
    return {f.name for cls in classes for f in build.own(cls) if f.metadata.get("unit") == "steps"}


def _tau(known: Any, tau: Any) -> Any:
    """tau, or its list of [from step, tau], in steps. ConfigError for rounds, whose length it is."""
    for one in tau if isinstance(tau, list) else [tau]:
        length = length_of(one[1] if isinstance(one, list) and len(one) == 2 else one)
        if length is not None and length[1] == "round":
            raise ConfigError(f"tau: is how long a round is, so it cannot be in rounds, got {tau!r}; give steps or epochs")
    if not isinstance(tau, list):
        return known("tau", tau)
    found: list[Any] = []
    for pair in tau:
        pair = [known("tau", one) for one in pair] if isinstance(pair, list) else pair
        if isinstance(pair, list) and pair and (start := length_of(pair[0])) is not None and found:
            pair = [step_of(f"tau={tau}", start[0], Period(found), None, 1), *pair[1:]]
        found.append(pair)
    return found


def epoch_of(config: Config, parts: Parts, where: str) -> int:
    """Steps of an epoch of this config; where: what asks, KEY=VALUE. ConfigError where there is none."""
    with build.blamed(""):
        found = parts.task.steps_per_epoch(config)
    if found is None:
        others = " or rounds" if where.partition("=")[0] in (*OFTEN, "epochs", "schedule.unit") else ""
        raise ConfigError(f"{where}: task {config.task['name']} has no epochs; give steps{others}")
    return max(1, found)  # of shares that fill no batch: refused, or noted, when the task is checked


def step_of(where: str, rounds: int, period: Period, schedule: Mixing | None, m: int) -> int:
    """After which step that many rounds are over. ConfigError where only the run can tell."""
    alike = _alike(period, schedule)
    if alike is not None:
        found = rounds * alike
        values.refuse_odd(f"{where}: its steps", found)
        return found
    if not period.foreseen:
        raise ConfigError(f"{where}: how long its rounds are is decided as it runs; give steps or epochs")
    if rounds > COUNTED:
        raise ConfigError(f"{where}: unequal rounds are counted one by one, up to {COUNTED}; give steps")
    return next(islice(ends(period, schedule, m), rounds - 1, None))


def _alike(period: Period, schedule: Mixing | None) -> int | None:
    """Steps of every round, where all have as many."""
    constant = type(period) is Period and isinstance(period.tau, int)
    return int(period.tau) if constant and (schedule is None or type(schedule).work is Mixing.work) else None
