"""Short runs of one config: the loop, an observer that records what communications change, rows after every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coopsgd.fleet.plan import layout_of
from coopsgd.fleet.processes import Processes
from coopsgd.fleet.stacked import Stacked
from coopsgd.loop.loop import Loop
from coopsgd.loop.observer import Observer
from coopsgd.predict.rehearsal import clock_of
from coopsgd.setup.parts import Parts
from coopsgd.setup.schema import Config
from coopsgd.strategies.base import Strategy, Tick


class Recorder(Observer):
    """Wants the models after every step, and copies what is there around communications."""

    def __init__(self, each: bool = True) -> None:
        self.each = each
        self.before: list[Any] = []  # (round, statistics, rows) when a communication begins
        self.after: list[Any] = []  # and when it is over
        self.stepped_to: Any = None  # as these, after the last local step, before what a communication then does to them
        self.unmixed: list[Any] = []  # the statistics of that time, of each communication

    def due(self, step: int, ended: int | None = None) -> bool:
        return self.each

    def _copies(self, loop: Loop) -> tuple[int, Any, Tensor]:
        st = loop.state
        return st.rounds.r, None if st.stats is None else st.stats.clone(), st.x.clone()

    def moved(self, loop: Loop, t: Tick, active: Any, due: bool) -> None:
        self.stepped_to = self._copies(loop) if self.each else None

    def sends(self, loop: Loop, done: int) -> None:
        self.before.append(self._copies(loop))

    def received(self, loop: Loop, late: int) -> None:
        self.unmixed.append(self.stepped_to and self.stepped_to[1])
        self.after.append(self._copies(loop))


def make_loop(
    config: Config,
    strategy: Strategy | None = None,
    observer: Observer | None = None,
    rank: int = 0,
    processes: int = 1,
    saved: Any = None,
) -> Loop:
    """The loop of a run on the CPU, of this config's strategy or another; in the processes of a group, that of one rank."""
    parts = Parts(config)
    parts = parts.but(config, strategy=strategy or parts.strategy)
    layout = layout_of(parts.strategy.schedule, config.workers, processes)
    fleet = Processes(layout, rank) if processes > 1 else Stacked(layout)
    fleet.clock = clock_of(parts)
    problem = parts.task.build(config, fleet.workers, torch.device("cpu"))
    return Loop(parts, fleet, problem, observer=observer, saved=saved)


def rows_of_steps(loop: Loop, steps: int) -> list[Tensor]:
    """The rows held here after every step."""
    found = []
    for _ in range(steps):
        loop.advance()
        found.append(loop.state.x.clone())
    return found


def rows_ledger_answer(rank: int, config: Config, processes: int) -> Any:
    """One process's part: all rows after each step, the ledger, the model to ship."""
    loop = make_loop(config, observer=Recorder(), rank=rank, processes=processes)
    fleet, rows = loop.fleet, []
    for _ in range(config.steps or 0):
        loop.advance()
        with fleet.measuring():
            everything = fleet.gather(loop.state.x)
        rows.append(None if everything is None else everything.numpy())
    with fleet.measuring():
        answer = loop.strategy.answer(fleet, loop.state.x, loop.state.s).numpy()
    ledger = fleet.ledger
    return rows, (ledger.rounds, ledger.messages, ledger.bytes), answer
