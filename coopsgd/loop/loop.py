"""The loop. Everything a strategy, a fleet and a task agree on happens here, once per iteration."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coopsgd.loop.consensus import Communications, finite
from coopsgd.loop.norm_stats import Statistics
from coopsgd.loop.stepping import AHEAD, Steps
from coopsgd.optim import Inner
from coopsgd.predict.clock import clock_of
from coopsgd.predict.setting import Watch
from coopsgd.setup.build import make
from coopsgd.setup.external import ExternalError, is_external
from coopsgd.setup.schema import Config
from coopsgd.strategies.base import Strategy, Tick
from coopsgd.strategies.period import Rounds

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
    stats: Tensor | None = None  # (r, b) the running statistics of the rows held here
    answer_stats: Tensor | None = None  # (1, b) those of the model to ship, known to rank 0
    last: dict[str, Any] = field(default_factory=dict)  # the last line of metrics
    diverged_at: int | None = None  # the first step whose loss was not finite
    answer_lags: bool = False  # is the answer without the local steps since the latest communication?


def train(config: Config, fleet: Fleet, problem: Problem, strategy: Strategy, report: Any) -> Outcome:
    """Take config.steps iterations. `report` hears of every log point on rank 0 (anything with `log(line)`)."""
    clock = fleet.clock = clock_of(config, strategy)
    x = fleet.rows(problem.start())
    statistics = Statistics(config.norm_stats, fleet, problem)
    inner = Inner(make(config, "optim"), make(config, "schedule"), x, len(fleet.workers), config.steps)
    period = make(config, "period")
    watched = Watched(fleet, period.WATCHES)
    rounds = Rounds(period, strategy, fleet.m, watched, lambda: clock.now if clock else math.nan)
    meter = Meter(config, fleet, problem, strategy, statistics, x, report)
    communications = meter.communications

    def unwatched(k: int) -> int:
        """How many steps, k the first, the same workers take before the models are mixed or looked at."""
        most = min(AHEAD, rounds.steady)
        return next(n for n in range(1, most + 1) if n == most or meter.due(k + n))

    # running statistics move with the gradient: where they are mixed it must be there first
    patient, asked = strategy.patient and not statistics.mixed, clock.compute if clock else _nothing
    steps = Steps(problem, inner, x, statistics.rows, config.clip, strategy.plain, unwatched, patient, asked)
    with fleet.measuring():  # all rows are equal: nothing an algorithm starts from needs a message
        s = strategy.init(fleet, x)
    rounds.begin(0, inner.lr)
    meter.log(0, x, s, inner.lr, rounds.tau)
    here = slice(fleet.workers.start, fleet.workers.stop)
    owed = None  # the communication that waits for the next step to begin

    def settle(rows: tuple[Tensor, Any]) -> Any:
        new, s = rows
        if new is not x:
            x.copy_(new)
        return s

    for k in range(config.steps):
        if owed is not None:
            communications.begin(k, rounds, steps)
            s, owed = settle(strategy.before(fleet, owed, inner, statistics.mixed, x, s)), None
            communications.end()
            fleet.ledger.rounds += 1
        rounds.begin(k, inner.lr)
        everyone, due, lr = rounds.active, rounds.due, inner.lr
        if clock:
            clock.begin(k, everyone)
        steps.begin(k, None if everyone is None else everyone[here], rounds.own[here])
        mixes = due and not strategy.mixes_first
        if mixes:
            communications.begin(k + 1, rounds, steps)
        s = settle(strategy.step(fleet, Tick(k, rounds.r, due, lr, steps, inner, statistics.mixed), x, s))
        communications.phase += 1
        if mixes:
            communications.end()
        elif due:
            owed = rounds.r
            communications.owed()
        inner.advance()
        rounds.end(everyone)
        fleet.ledger.rounds += due and owed is None
        watched.add(steps.loss, everyone)
        meter.add(steps.loss, fleet.m if everyone is None else int(everyone.sum()))
        if meter.watch is not None:
            meter.watch.step(lr, everyone, rounds.r, due)
        if meter.due(k + 1):
            meter.log(k + 1, x, s, lr, rounds.tau)
            if meter.diverged_at is not None:
                break
    with fleet.measuring():
        answer = strategy.answer(fleet, x, s)
        answer_stats = statistics.of(answer, strategy)
        lags = communications.phase > 0 and _lags(fleet, strategy, x, s, answer)
    status = "completed" if meter.diverged_at is None else "diverged"
    return Outcome(status, meter.line["step"], x, answer, statistics.rows, answer_stats, meter.line, meter.diverged_at, lags)


def _lags(fleet: Fleet, strategy: Strategy, x: Tensor, s: Any, answer: Tensor) -> bool:
    """Does the answer stay what it is whatever the workers' models are? Asked of strategies with one of their own."""
    own = type(strategy).answer is not Strategy.answer or type(strategy).shipped is not Strategy.shipped
    if strategy.answer_lags or not own:
        return strategy.answer_lags
    other = x.clone()
    other[: len(fleet.workers)] += 1
    return torch.equal(strategy.answer(fleet, other, s), answer)


def _nothing() -> None:
    """No clock runs."""


class Watched:
    """The loss a period may ask for: the mean over workers and steps since it was last asked. Asking is charged."""

    def __init__(self, fleet: Fleet, wanted: bool) -> None:
        self._fleet, self._wanted = fleet, wanted
        self._sum, self._count = torch.zeros(()), 0  # (r, 1) losses; worker-steps of the whole fleet

    def add(self, loss: Tensor, active: Any) -> None:
        """The losses (r, 1) of one step, 0 where idle."""
        if self._wanted:
            self._sum = self._sum + loss.double()
            self._count += self._fleet.m if active is None else int(active.sum())

    def __call__(self) -> float:
        mean = float(self._fleet.mean(self._sum)) * self._fleet.m / self._count
        self._sum, self._count = torch.zeros(()), 0
        return mean


class Meter:
    """Looks at the run from outside: off the ledger and off the clock."""

    def __init__(
        self,
        config: Config,
        fleet: Fleet,
        problem: Problem,
        strategy: Strategy,
        statistics: Statistics,
        x: Tensor,
        report: Any,
    ) -> None:
        self._config, self._fleet, self._problem, self._x = config, fleet, problem, x
        self._strategy, self._statistics, self._report = strategy, statistics, report
        self.communications = Communications(fleet, strategy, x, self._aside, self.next_evaluation, problem.accuracies)
        self.watch = Watch.of(config, strategy, fleet, problem)
        self._began = self._resumed = time.perf_counter()
        self._train_s = 0.0
        self._taken = 0  # steps of all workers together
        self._losses: list[tuple[Tensor, int]] = []  # (r, 1) and how many workers computed, since the last line
        self._folded: list[tuple[Tensor, Tensor]] = []  # the same, summed over rows, a thousand steps at a time
        self.line: dict[str, Any] = {}
        self.diverged_at: int | None = None

    def add(self, loss: Tensor, count: int) -> None:
        """The losses (r, 1) of a step in which `count` workers of the fleet computed."""
        self._taken += count
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

    def next_evaluation(self, step: int) -> int:
        """After how many steps, `step` or more, the models are evaluated next."""
        every, end = self._config.eval_every, self._config.steps
        return end if every == 0 else min(end, -(-step // every) * every)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Inside, nothing is charged and no time passes."""
        if self._x.is_cuda:
            torch.cuda.synchronize()  # what was asked for has now been done
        self._train_s += time.perf_counter() - self._resumed
        with self._fleet.measuring():
            yield
        self._resumed = time.perf_counter()

    def log(self, step: int, x: Tensor, s: Any, lr: float, tau: int) -> None:
        """Write the line of this step; evaluate if it is time."""
        fleet = self._fleet
        with self._aside():
            loss = self._loss(step)
            comm_s = float(fleet.total(torch.tensor([fleet.ledger.comm_s], dtype=torch.float64))) / fleet.layout.processes
            per_epoch = self._problem.steps_per_epoch
            line: dict[str, Any] = {
                "step": step,
                "epoch": self._taken / fleet.m / per_epoch if per_epoch else None,
                "samples": self._taken * self._problem.samples,
            }
            line |= {"wall_s": time.perf_counter() - self._began, "train_s": self._train_s, "comm_s": comm_s}
            line |= {} if fleet.clock is None else {"sim_s": fleet.clock.now}
            line |= {**fleet.ledger.totals(), "lr": lr, "tau": tau, "phase": self.communications.phase, "train/loss": loss}
            line |= {"consensus": None, "consensus_after": None}
            if self._evaluates(step) or self.diverged_at is not None:
                line |= self._evaluate(x, s)
                if self.diverged_at is None and self._lost(line, x):
                    self.diverged_at = step
            if self.watch is not None:
                line |= self.watch.line(step, x, line["consensus"] is not None)
            self.line = line
            self._report.log(line)

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

    def _lost(self, line: dict[str, Any], x: Tensor) -> bool:
        """Have the models left the numbers? Rank 0 alone knows their loss; every process answers alike."""
        loss, apart = line.get("eval/loss"), line["consensus"]
        lost = torch.tensor([loss is not None and not math.isfinite(loss)], dtype=torch.float64)
        gone = apart is not None and not math.isfinite(apart)
        if gone or finite(self._fleet, x):
            return gone or float(self._fleet.total(lost)) > 0
        if apart is not None and self.communications.phase == 0 and is_external(self._strategy):
            raise ExternalError(
                f"{type(self._strategy).__name__}.step: the communication after step {line['step']} left numbers that are not "
                "finite in models that were finite before it"
            )
        return True

    def _evaluate(self, x: Tensor, s: Any) -> dict[str, Any]:
        fleet, problem, workers = self._fleet, self._problem, len(self._fleet.workers)
        found: dict[str, Any] = dict(self.communications.told())
        answer = self._strategy.answer(fleet, x, s)
        if is_external(self._strategy) and not torch.isfinite(answer).all() and finite(fleet, x):
            name = type(self._strategy).__name__
            raise ExternalError(f"{name}.answer: returned numbers that are not finite from rows that are; return a model")
        statistics = self._statistics.of(answer, self._strategy)
        if fleet.rank == 0:
            found |= problem.evaluate(answer, statistics)
        mine = self.communications.seen() or problem.accuracies(x)
        worst = best = None
        if mine is not None:
            everyone = torch.zeros(fleet.m, dtype=torch.float64)
            everyone[fleet.workers.start : fleet.workers.start + workers] = torch.tensor(mine, dtype=torch.float64)
            everyone = fleet.total(everyone)
            worst, best = float(everyone.min()), float(everyone.max())
        return found | {"eval/accuracy_worst": worst, "eval/accuracy_best": best}
