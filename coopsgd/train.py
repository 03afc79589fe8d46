"""The loop. Everything a strategy, a fleet and a task agree on happens here, once per iteration."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coopsgd.config import Config, make
from coopsgd.optim import Inner
from coopsgd.period import Period
from coopsgd.stepping import AHEAD, Steps
from coopsgd.strategies.base import Strategy, Tick

if TYPE_CHECKING:
    from coopsgd.fleet.base import Fleet
    from coopsgd.tasks.base import Problem


@dataclass
class Outcome:
    """How a run ended."""

    status: str  # completed or diverged
    steps: int  # done
    x: Tensor  # the rows held here
    answer: Tensor  # (1, d) the model to ship
    last: dict[str, Any] = field(default_factory=dict)  # the last line of metrics
    diverged_at: int | None = None  # the first step whose loss was not finite


def train(config: Config, fleet: Fleet, problem: Problem, strategy: Strategy, report: Any) -> Outcome:
    """Take config.steps iterations. `report` hears of every log point on rank 0 (anything with `log(line)`)."""
    period = Period(config.tau)
    x = fleet.rows(problem.start())
    inner = Inner(make(config, "optim"), make(config, "schedule"), x, len(fleet.workers), config.steps)

    def unwatched(k: int) -> int:
        """How many steps, k the first, are taken before the models are mixed or looked at."""
        return next(n for n in range(1, AHEAD + 1) if n == AHEAD or period.due(k + n - 1) or meter.due(k + n))

    steps = Steps(problem, inner, x, strategy.plain, unwatched)
    meter = Meter(config, fleet, problem, strategy, report)
    with fleet.measuring():  # all rows are equal: nothing an algorithm starts from needs a message
        s = strategy.init(fleet, x)
    meter.log(0, x, s, inner.lr, config.tau)
    for k in range(config.steps):
        everyone = strategy.active(fleet.m, fleet.ledger.rounds)
        active = None if everyone is None else everyone[fleet.workers.start : fleet.workers.stop]
        due = period.due(k)
        lr = inner.lr
        steps.begin(k, active)
        new, s = strategy.step(fleet, Tick(k, fleet.ledger.rounds, due, lr, steps, inner), x, s)
        if new is not x:
            x.copy_(new)
        inner.advance()
        fleet.ledger.rounds += due
        meter.add(steps.loss, fleet.m if everyone is None else int(everyone.sum()))
        if meter.due(k + 1):
            meter.log(k + 1, x, s, lr, period.at(k))
            if meter.diverged_at is not None:
                break
    with fleet.measuring():
        answer = strategy.answer(fleet, x, s)
    status = "completed" if meter.diverged_at is None else "diverged"
    return Outcome(status, meter.line["step"], x, answer, meter.line, meter.diverged_at)


class Meter:
    """Looks at the run from outside: off the ledger and off the clock."""

    def __init__(self, config: Config, fleet: Fleet, problem: Problem, strategy: Strategy, report: Any) -> None:
        self._config, self._fleet, self._problem = config, fleet, problem
        self._strategy, self._report = strategy, report
        self._began = self._resumed = time.perf_counter()
        self._train_s = 0.0
        self._losses: list[tuple[Tensor, int]] = []  # (r, 1) and how many workers computed, since the last line
        self._folded: list[tuple[Tensor, Tensor]] = []  # the same, summed over rows, a thousand steps at a time
        self.line: dict[str, Any] = {}
        self.diverged_at: int | None = None

    def add(self, loss: Tensor, count: int) -> None:
        """The losses (r, 1) of a step in which `count` workers of the fleet computed."""
        self._losses.append((loss, count))
        if len(self._losses) == 1000:  # a tensor a step would fill the memory of a run that never logs
            self._fold()

    def _fold(self) -> None:
        if self._losses:
            sums = torch.stack([loss.sum().double() for loss, _ in self._losses]).cpu()
            self._folded.append((sums, torch.tensor([count for _, count in self._losses], dtype=torch.float64)))
            self._losses.clear()

    def due(self, step: int) -> bool:
        """Is there a line to write after this many steps?"""
        return step % self._config.log_every == 0 or self._evaluates(step)

    def _evaluates(self, step: int) -> bool:
        every = self._config.eval_every
        return step in (0, self._config.steps) or (every > 0 and step % every == 0)

    def log(self, step: int, x: Tensor, s: Any, lr: float, tau: int) -> None:
        """Write the line of this step; evaluate if it is time."""
        fleet = self._fleet
        if x.is_cuda:
            torch.cuda.synchronize()  # what was asked for has now been done
        self._train_s += time.perf_counter() - self._resumed
        with fleet.measuring():
            loss = self._loss(step)
            comm_s = float(fleet.total(torch.tensor([fleet.ledger.comm_s], dtype=torch.float64))) / fleet.layout.processes
            seen = step * self._problem.samples
            per_epoch = self._problem.steps_per_epoch
            line: dict[str, Any] = {
                "step": step,
                "epoch": step / per_epoch if per_epoch else None,
                "samples": seen * fleet.m,
            }
            line |= {"wall_s": time.perf_counter() - self._began, "train_s": self._train_s, "comm_s": comm_s}
            line |= {**fleet.ledger.totals(), "lr": lr, "tau": tau, "train/loss": loss, "consensus": None}
            if self._evaluates(step) or self.diverged_at is not None:
                line |= self._evaluate(x, s)
            self.line = line
            self._report.log(line)
        self._resumed = time.perf_counter()

    def _loss(self, step: int) -> float | None:
        """Mean over workers and steps since the last line; notes the first step whose loss is not finite."""
        self._fold()
        if not self._folded:
            return None
        sums, counts = (torch.cat(parts) for parts in zip(*self._folded, strict=True))
        steps = self._fleet.total(sums) / counts
        first = step - len(steps) + 1
        self._folded.clear()
        bad = (~torch.isfinite(steps)).nonzero()
        if len(bad):
            self.diverged_at = first + int(bad[0])
        return float(steps.mean())

    def _evaluate(self, x: Tensor, s: Any) -> dict[str, Any]:
        fleet, problem, workers = self._fleet, self._problem, len(self._fleet.workers)
        found: dict[str, Any] = {"consensus": float(consensus(fleet, x))}
        answer = self._strategy.answer(fleet, x, s)
        if fleet.rank == 0:
            found |= problem.evaluate(answer)
        mine = problem.accuracies(x)
        worst = best = None
        if mine is not None:
            everyone = torch.zeros(fleet.m, dtype=torch.float64)
            everyone[fleet.workers.start : fleet.workers.start + workers] = torch.tensor(mine, dtype=torch.float64)
            everyone = fleet.total(everyone)
            worst, best = float(everyone.min()), float(everyone.max())
        return found | {"eval/accuracy_worst": worst, "eval/accuracy_best": best}


def consensus(fleet: Fleet, x: Tensor) -> float:
    """(1/m) sum over workers of ||x_i - mean||^2, summed in float64. Costs an exchange: call it while measuring."""
    mean, mine = fleet.mean(x)[0], x[: len(fleet.workers)]
    spread = torch.zeros((), dtype=torch.float64, device=x.device)
    columns = max(1, (1 << 20) // len(mine))  # at a time, so that no second copy of all models is made
    for at in range(0, x.shape[1], columns):
        off = mine[:, at : at + columns] - mean[at : at + columns]
        spread += off.double().square_().sum()
    total = float(fleet.total(spread.cpu().reshape(1)))
    return total / fleet.m if math.isfinite(total) else math.nan
