"""The parts that a config names: the strategy and what goes with it, each made once and handed down."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from coopsgd.setup import build
from coopsgd.setup.schema import Config
from coopsgd.strategies.base import Strategy

if TYPE_CHECKING:
    from coopsgd.data.base import DataSet
    from coopsgd.data.partitions import Partition
    from coopsgd.mixing.graphs import Graph
    from coopsgd.models.base import Model
    from coopsgd.optim import Constant
    from coopsgd.strategies.period import Period
    from coopsgd.tasks.base import Problem, Task


class Parts:
    """The parts of one config, frozen dataclasses. Each is made when it is first asked for, and then it is there.

    ConfigError when a part cannot be made; what its values allow beside each other is for setup/checks.py to say. Where the
    config names none (no cluster, no data for a quadratic), asking is a mistake of the program.
    """

    config: Config
    period: Period
    topology: Graph
    task: Task
    model: Model
    data: DataSet
    partition: Partition
    optim: Any
    schedule: Constant
    cluster: Any

    def __init__(self, config: Config, **made: Any) -> None:
        self.config = config
        self.__dict__ |= made

    def __getattr__(self, name: str) -> Any:
        if name not in build.KINDS:
            raise AttributeError(name)
        self.__dict__[name] = made = build.make(self, name)
        return made

    @cached_property
    def _strategy(self) -> tuple[Strategy, set[str]]:
        return build.make_strategy(self)

    @cached_property
    def strategy(self) -> Strategy:
        """With its mixing."""
        return self._strategy[0]

    @property
    def given(self) -> set[str]:
        """Which keys of the run the strategy and its mixing were given."""
        return self._strategy[1]

    def but(self, config: Config, **others: Any) -> Parts:
        """These parts for another config, `others` in the place of their own."""
        return Parts(config, **{**self.__dict__, "config": config, **others})

    def problem(self, rows: range, device: Any) -> Problem:
        """The task of the workers in `rows` (global numbers), ready to compute."""
        return self.task.build(self, rows, device)
