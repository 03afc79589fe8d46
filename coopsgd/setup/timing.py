"""When a communication acts and on what: order, delay, merge, buffers, their period; keys of the run for every algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coopsgd.errors import ConfigError
from coopsgd.registry import is_a
from coopsgd.setup.schema import WEIGHTS, Config
from coopsgd.strategies.base import Around, Strategy, layers, overrides
from coopsgd.strategies.period import Period

DEFAULTS: dict[str, Any] = {"order": "atc", "delay": 0, "merge": "kept", "buffers": "keep", "buffers_every": 1}
CHOICES = {"order": ("atc", "cta"), "buffers": ("keep", "average", "reset"), "weights_by": WEIGHTS}


def refuse(config: Config) -> None:
    """ConfigError when one of them is no value that there is."""
    for name, known in CHOICES.items():
        value = getattr(config, name)
        if name == "order" and value == "overlap":
            raise ConfigError("order=overlap: is delay=1 now: what is mixed is what the models were one step ago")
        if value not in known:
            raise ConfigError(f"{name}: must be one of {', '.join(known)}, got {value!r}")
    delay = config.delay
    if delay != "tau" and (isinstance(delay, bool) or not isinstance(delay, int) or delay < 0):
        raise ConfigError(f"delay: must be a whole number of local steps, at least 0, or tau, got {delay!r}")
    merge = config.merge
    if merge != "kept" and (isinstance(merge, bool) or not isinstance(merge, int | float) or not 0 <= merge <= 1):
        raise ConfigError(f"merge: must be kept, or the weight of the local model, a number in [0, 1], got {merge!r}")

    every = config.buffers_every
    for one in every if isinstance(every, list) else [every]:
        if isinstance(one, bool) or not isinstance(one, int) or one < 1:
            raise ConfigError(f"buffers_every: must be a whole number of communications, or a list of them, got {every!r}")
    if every != 1 and config.buffers != "average":
        raise ConfigError(f"buffers_every={every}: says when buffers=average averages, and buffers={config.buffers} does not")


def one_for_each(config: Config, buffers: Sequence[str], optimiser: str) -> None:
    """ConfigError where buffers_every is a list and not one for each buffer that the optimiser keeps."""
    said = config.buffers_every
    if isinstance(said, list) and len(said) != len(buffers):
        kept = f"{len(buffers)}, {', '.join(buffers)}" if buffers else "none"
        raise ConfigError(
            f"buffers_every={said}: is one for each buffer, and {optimiser} keeps {kept}; give as many, or one number for all"
        )


def check(config: Config, strategy: Strategy, period: Period) -> None:
    """ConfigError when the algorithm cannot communicate in this order, with this delay or these buffers."""
    algo, order, delay, buffers, m = config.algo["name"], config.order, config.delay, config.buffers, config.workers
    # of push-sum mixing changes no sum, and so not what it evaluates
    own = overrides(strategy, "answer") and not is_a(layers(strategy)[-1], "strategy", "push_sum")
    schedule = strategy.schedule
    if schedule is None and not overrides(strategy, "send"):
        raise ConfigError(
            f"algo.strategy: {type(layers(strategy)[-1]).__name__} has no `schedule` to mix by and no `send`; write one of them"
        )
    if strategy.send is None and not overrides(strategy, "direction"):
        raise ConfigError(
            f"algo.strategy: {type(layers(strategy)[-1]).__name__} has send = None and no `direction` of its own, so nothing "
            "would ever be communicated; write one of them"
        )
    if strategy.send is None:
        for name, default in DEFAULTS.items():
            if getattr(config, name) != default:
                what = f"{name}={getattr(config, name)}"
                raise ConfigError(f"{what}: {algo} mixes no models, it communicates inside its steps; use {name}={default}")
    if delay and any(isinstance(axis, Around) and not axis.DELAYS for axis in layers(strategy)):
        raise ConfigError(
            f"delay={delay}: correction={(config.correction or {}).get('name')} makes good for the steps that are mixed, and "
            f"{'those of a round' if delay == 'tau' else delay} are not mixed; use delay=0"
        )
    if order == "cta" and delay:
        raise ConfigError(f"order=cta delay={delay}: cta mixes what the models are when the next step begins; use order=atc")
    if order == "cta" and own:
        raise ConfigError(f"order=cta: leaves the model that {algo} evaluates a round behind its workers; use order=atc")
    if delay and schedule is not None and (schedule.times_itself or schedule.work(m, 0, 1) is not None):
        raise ConfigError(f"delay={delay}: {algo} loses the last steps of a worker that sits the next round out; use delay=0")
    if delay not in (0, "tau") and period.smallest is not None and delay > period.smallest:
        raise ConfigError(
            f"delay={delay}: a message leaves within the round it belongs to, and the shortest has {period.smallest} local "
            f"steps; use delay=tau, the whole round, or at most delay={period.smallest}"
        )
    if buffers == "average" and schedule is not None and schedule.num_aux:
        raise ConfigError(f"buffers=average: an auxiliary model of {algo} has no buffers to mix with; use keep or reset")
