"""What a config has for its task where the loop is the user's: nothing of ours is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from coopsgd.schedules import Constant
from coopsgd.tasks.base import Problem, Task

if TYPE_CHECKING:
    from coopsgd.setup.schema import Config


@dataclass(frozen=True)
class UsersSchedule(Constant):
    """Whatever the user does with the rates of his optimiser."""


@dataclass(frozen=True)
class UsersTask(Task):
    """A network of `parameters` numbers and so many running statistics, whose data the config does not know."""

    parameters: int = 0
    running: int = 0
    samples: Any = None  # of each worker, a list; None: nobody has said

    THEIRS: ClassVar[bool] = True

    def dimension(self, config: Config) -> int:
        return self.parameters

    def statistics(self, config: Config) -> int:
        return self.running

    def sizes(self, config: Config) -> list[int] | None:
        return self.samples

    def build(self, config: Config, rows: range, device: Any) -> Problem:
        raise LookupError("its problem is made of the user's modules")
