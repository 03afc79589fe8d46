"""Which axes combine, with each other and with which algorithms: what cannot be is refused here, with the reason."""

from __future__ import annotations

from coopsgd.errors import ConfigError
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import AXES
from coopsgd.strategies.base import layers


def check(parts: Parts) -> None:
    """ConfigError when an axis means nothing with this algorithm."""
    config, algo = parts.config, parts.config.algo["name"]
    chosen = [name for name in AXES if getattr(config, name)]
    if chosen and layers(parts.strategy)[-1].send is None:
        name = chosen[0]
        raise ConfigError(
            f"{name}={getattr(config, name)['name']}: {algo} mixes no models, it communicates gradients inside its steps; use "
            f"{name}=none, or algo=pasgd tau=1, which averages models"
        )
