"""The parts that a config names, each made once."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from coopsgd.setup import build
from coopsgd.setup.schema import Config
from coopsgd.strategies.base import Strategy


class Parts:
    """Frozen parts of one checked config; made when first asked for."""

    def __init__(self, config: Config, strategy: Strategy | None = None) -> None:
        self.config = config
        if strategy is not None:
            self.strategy = strategy

    @cached_property
    def strategy(self) -> Strategy:
        return build.make_strategy(self.config)[0]

    def but(self, config: Config, **parts: Any) -> Parts:
        """The same parts, some of them others, for another config."""
        new = Parts(config)
        new.__dict__ |= {**self.__dict__, "config": config, **parts}
        return new

    def __getattr__(self, name: str) -> Any:
        if name not in build.KINDS:
            raise AttributeError(name)
        made = build.make(self.config, name)
        self.__dict__[name] = made
        return made
