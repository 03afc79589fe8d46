"""Which axes combine, with each other and with which algorithms: what cannot be is refused here, with the reason."""

from __future__ import annotations

from coopsgd.errors import ConfigError
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import AXES
from coopsgd.strategies.base import layers, overrides


def check(parts: Parts) -> None:
    """ConfigError when an axis means nothing with this algorithm."""
    config, algo, m = parts.config, parts.config.algo["name"], parts.config.workers
    schedule = parts.strategy.schedule
    if schedule is not None and schedule.lazy:
        schedule.at(m, 0)  # which refuses what has no lazy form
    chosen = [name for name in AXES if getattr(config, name)]
    if chosen and layers(parts.strategy)[-1].send is None:
        name = chosen[0]
        raise ConfigError(
            f"{name}={getattr(config, name)['name']}: {algo} mixes no models, it communicates gradients inside its steps; use "
            f"{name}=none, or algo=pasgd tau=1, which averages models"
        )
    if parts.correction is None:
        return
    name = config.correction["name"]
    for other in chosen:
        if other not in ("correction", *parts.correction.BESIDE):
            raise ConfigError(
                f"correction={name} {other}={getattr(config, other)['name']}: what a worker takes from others is corrected "
                f"where W alone lies between what is sent and what is heard; use {other}=none, or correction=proximal"
            )
    more = [one for one in ("direction", "send", "receive") if overrides(layers(parts.strategy)[-1], one)]
    if more and parts.correction.ALONE:
        raise ConfigError(
            f"correction={name}: corrects what mixing by W does, and {algo} does more with its models (its `{more[0]}`); use "
            "an algorithm that mixes them and no more, such as dpsgd, or correction=proximal"
        )
    period = parts.period
    tau = period.largest if period.smallest == period.largest else None
    parts.correction.check(schedule, m, tau, algo)
