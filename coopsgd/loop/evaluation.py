"""Looking at a run from outside, off its ledger and off its clock: log lines, evaluations, the moment it diverges."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from coopsgd.fleet.waits import EVALUATION, LINE
from coopsgd.loop import norm_stats
from coopsgd.loop.consensus import Communications, finite
from coopsgd.loop.loop import Loop
from coopsgd.loop.observer import Observer
from coopsgd.loop.saved import ByProcess, Shared
from coopsgd.run.schema import METRICS
from coopsgd.setup.external import ExternalError, is_external
from coopsgd.setup.values import comes
from coopsgd.strategies.base import Tick, overrides

if TYPE_CHECKING:
    from coopsgd.fleet.base import Fleet
    from coopsgd.setup.parts import Parts
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
    diverged_workers: Sequence[int] = ()  # and whose it was
    answer_lags: bool = False  # is the answer without the local steps since the latest communication?
    ended_by: str | None = None  # what ended it before its steps were done, as stop.bytes
    best: dict[str, Any] | None = None  # known to rank 0: see Evaluator.best
    accuracies: np.ndarray | None = None  # (m,) of single workers at the last evaluation


def train(
    parts: Parts, fleet: Fleet, problem: Problem, report: Any, monitor: Any = None, keeper: Any = None, saved: Any = None
) -> Outcome:
    """Take config.steps iterations. `report` hears of every log point on rank 0 (anything with `log(line)`).

    monitor: adds predictions to the lines (predict/monitor.py). keeper: saves the run (run/keeper.py). saved: by it, to go on.
    """
    evaluator = Evaluator(parts, problem, report, monitor, keeper)
    loop = Loop(parts, fleet, problem, observer=evaluator, saved=saved and saved["loop"])
    if saved is None:
        evaluator.log(loop, loop.state.inner.lr)
    else:
        evaluator.restore(loop, saved["evaluator"])
    while loop.state.k < parts.config.steps and evaluator.diverged_at is None and evaluator.ended_by is None:
        loop.advance()
        if keeper is not None:
            keeper.after(loop, evaluator)
    st, line = loop.state, evaluator.line
    with fleet.measuring():
        answer, answer_stats = norm_stats.answer(loop, problem, parts.config.norm_stats)
        stats = norm_stats.of_rows(loop, problem, parts.config.norm_stats)
        lags = evaluator.communications.phase > 0 and _lags(loop, answer)
    status = "completed" if evaluator.diverged_at is None else "diverged"
    ended_by = evaluator.ended_by if status == "completed" and st.k < parts.config.steps else None
    return Outcome(
        status,
        line["step"],
        st.x,
        answer,
        stats,
        answer_stats,
        line,
        evaluator.diverged_at,
        evaluator.diverged_workers,
        lags,
        ended_by,
        evaluator.best,
        evaluator.accuracies,
    )


def _lags(loop: Loop, answer: Tensor) -> bool:
    """Does the answer stay what it is whatever the workers' models are? Asked of strategies with one of their own."""
    if not overrides(loop.strategy, "answer"):
        return False
    other = loop.state.x.clone()
    other[: len(loop.fleet.workers)] += 1
    return torch.equal(loop.strategy.answer(loop.fleet, other, loop.state.s), answer)


class Evaluator(Observer):
    """Writes the log lines of a run."""

    def __init__(self, parts: Parts, problem: Problem, report: Any, monitor: Any, keeper: Any = None) -> None:
        self._config, self._problem, self._report, self._monitor = parts.config, problem, report, monitor
        self._keeper = keeper
        self._loop: Loop
        self.communications = Communications(self.aside, self.next_evaluation, self._accuracies)
        self._began = self._resumed = time.perf_counter()
        self._train_s = 0.0
        self._taken = 0  # steps of all workers together
        self._losses: list[tuple[Tensor, int]] = []  # (r, 1) and how many workers computed, since the last line
        self._folded: list[tuple[Tensor, Tensor]] = []  # the same, summed over rows, a thousand steps at a time
        self._bad: tuple[int, Tensor] | None = None  # since the last line: the first step with a loss that is not finite; (w,)
        self.line: dict[str, Any] = {}
        self.diverged_at: int | None = None
        self.diverged_workers: list[int] = []
        self._longest = parts.period.largest  # steps of a round; None: nobody can tell
        self._stop, self._budgeted, self._watched = parts.stop, parts.stop.given, parts.schedule.WATCHES
        self.ended_by: str | None = None  # the key of stop that ends the run here
        # save=best, on rank 0: metric, step, value, answer (1, d) and answer_stats of the best that was evaluated so far
        self.best: dict[str, Any] | None = None
        self._best_by = parts.config.objective if parts.config.save == "best" else None
        self.accuracies: np.ndarray | None = None  # (m,) of single workers, as they were evaluated last
        self._looked_at: tuple[Tensor, Tensor | None] | None = None  # what was evaluated for the line that is being made

    def saved(self, pending: tuple[float, bool] | None = None) -> dict[str, Any]:
        """What the lines to come depend on (loop/saved.py). While measuring. pending: see Keeper.before_line."""
        self._fold()
        losses = [torch.cat(parts) for parts in zip(*self._folded, strict=True)]
        return {
            "taken": self._taken,
            "train_s": self._train_s,
            "wall_s": time.perf_counter() - self._began,
            "losses": (ByProcess(losses[0]), Shared(losses[1])) if losses else None,
            "communications": self.communications.saved(),
            "monitor": None if self._monitor is None else self._monitor.saved(),
            "line": self.line,
            "ended_by": self.ended_by,
            "best": self.best and {k: Shared(v) if isinstance(v, Tensor) else v for k, v in self.best.items()},
            "pending": pending,
        }

    def restore(self, loop: Loop, tree: dict[str, Any]) -> None:
        """Go on from there."""
        self._loop = loop
        self._taken, self._train_s, self.line = tree["taken"], tree["train_s"], tree["line"]
        self.ended_by, self.best = tree.get("ended_by"), tree.get("best")
        self._began = time.perf_counter() - tree["wall_s"]
        self._folded = [] if tree["losses"] is None else [tree["losses"]]
        self.communications.restore(tree["communications"])
        if self._monitor is not None:
            self._monitor.restore(tree["monitor"])
        self._resumed = time.perf_counter()
        if tree.get("pending") is not None:
            self._step_over(loop, *tree["pending"])

    # what the loop tells

    def due(self, step: int, ended: int | None = None) -> bool:
        """Is there a line to write after this many steps, or a checkpoint, or a communication to look at?"""
        # the last communication before an evaluation is looked at (consensus.py): rounds have `_longest` steps at most
        if ended is not None and (self._budgeted or self.next_evaluation(step, ended) < step + (self._longest or math.inf)):
            return True
        return self._logs(step, ended) or (self._keeper is not None and self._keeper.due(step, ended))

    def _logs(self, step: int, ended: int | None) -> bool:
        return step == self._stop.steps or comes(self._config.log_every, step, ended) or self._evaluates(step, ended)

    def moved(self, loop: Loop, t: Tick, active: np.ndarray | None, due: bool) -> None:
        if self._monitor is not None:
            self._monitor.moved(t.lr, active, due)

    def sends(self, loop: Loop, done: int) -> None:
        self.communications.sends(loop, done)
        if self._monitor is not None:
            self._monitor.sends()

    def received(self, loop: Loop, late: int) -> None:
        self.communications.received(loop, late)
        if self._monitor is not None:
            self._monitor.received(loop.state.rounds.r)

    def stepped(self, loop: Loop, t: Tick, loss: Tensor, active: np.ndarray | None, due: bool) -> None:
        count = loop.fleet.m if active is None else int(active.sum())
        if not due or loop.state.postponed is not None:
            self.communications.phase += 1
        self._taken += count
        self._losses.append((loss, count))
        if len(self._losses) == 1000:  # a tensor a step would fill the memory of a run that never logs
            self._fold()
        if self._keeper is not None:
            self._keeper.before_line(loop, self, (t.lr, due))
        self._step_over(loop, t.lr, due)

    def _step_over(self, loop: Loop, lr: float, due: bool) -> None:
        """A step was taken at this rate, and a communication was due after it or not: its line, if there is one."""
        logs = self._logs(loop.state.k, loop.state.rounds.ended)
        self.ended_by = self._spent(loop, {}) if due and self._budgeted and not logs else self.ended_by
        if logs or self.ended_by:
            self.log(loop, lr)

    def places(self) -> dict[str, Any]:
        """Where in a row each parameter lies (Problem.places)."""
        return dict(getattr(self._problem, "places", dict)())

    def sound(self) -> bool:
        """Are models, the optimiser's buffers and the losses since the last line finite? An exchange: while measuring."""
        st = self._loop.state
        self._fold()
        buffers = (part for rows in st.inner.saved()["buffers"].values() for part in rows.parts)
        return finite(self._loop.fleet, st.x, *buffers, *(losses for losses, _ in self._folded))

    def _spent(self, loop: Loop, line: dict[str, Any]) -> str | None:
        """The key of the budget that is spent, by what every process knows alike, and by `line`."""
        clock = {} if loop.fleet.clock is None else {"sim_s": loop.fleet.clock.now}
        name = self._stop.spent(line | {"step": loop.state.k, "bytes": loop.fleet.ledger.totals()["bytes"]} | clock)
        return None if name is None else f"stop.{name}"

    def _end(self, loop: Loop, line: dict[str, Any]) -> None:
        """Does the run end with this line, as far as it is known? By metrics and the time as rank 0 has them."""
        if not self._budgeted or self.ended_by is not None:
            return
        mine = "stop.target" if self._stop.reached(line) else self._spent(loop, line)
        keys = [f"stop.{f.name}" for f in fields(self._stop)]
        told = [0 if mine is None or loop.fleet.rank else 1 + keys.index(mine)]
        found = int(loop.fleet.total(torch.tensor(told, dtype=torch.float64)))
        self.ended_by = keys[found - 1] if found else None

    def _fold(self) -> None:
        if self._losses:
            sums = torch.stack([loss.sum().double() for loss, _ in self._losses]).cpu()
            bad = (~torch.isfinite(sums)).nonzero()
            if len(bad) and self._bad is None:
                loss, before = self._losses[int(bad[0])][0], sum(len(folded) for folded, _ in self._folded)
                self._bad = before + int(bad[0]), ~torch.isfinite(loss.detach().flatten().cpu())
            self._folded.append((sums, torch.tensor([count for _, count in self._losses], dtype=torch.float64)))
            self._losses.clear()

    def _evaluates(self, step: int, ended: int | None) -> bool:
        """After this step, with which so many rounds have ended (None: it ends none)?"""
        return step in (0, self._config.steps) or comes(self._config.eval_every, step, ended)

    def next_evaluation(self, step: int, ended: int | None) -> int:
        """After how many steps, `step` or more, the models are evaluated next; `ended` rounds end after `step`, or none does.

        Where evaluations go by rounds, at the end of a later round if not here: then of another communication.
        """
        every, end = self._config.eval_every, self._config.steps
        if isinstance(every, str):
            return step if comes(every, step, ended) else end
        return end if every == 0 else min(end, -(-step // every) * every)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside, nothing is charged and no time passes."""
        if self._loop.state.x.is_cuda:
            torch.cuda.synchronize()  # what was asked for has now been done
        self._train_s += time.perf_counter() - self._resumed
        with self._loop.fleet.measuring():
            yield
        self._resumed = time.perf_counter()

    def log(self, loop: Loop, lr: float) -> None:
        """Write the line of this step; evaluate if it is time."""
        self._loop, fleet, step = loop, loop.fleet, loop.state.k
        regular = comes(self._config.eval_every, step, loop.state.rounds.ended)
        evaluates = regular or step in (0, self._config.steps)
        with fleet.during(EVALUATION if evaluates or self.ended_by else LINE), self.aside():
            loss = self._loss(step)
            comm_s = float(fleet.total(torch.tensor([fleet.ledger.comm_s], dtype=torch.float64))) / fleet.layout.processes
            per_epoch = self._problem.steps_per_epoch
            line: dict[str, Any] = {
                "step": step,
                "epoch": self._taken / fleet.m / per_epoch if per_epoch else None,
                "samples": int((loop.state.rounds.own * self._problem.samples).sum()),
            }
            line |= {"wall_s": time.perf_counter() - self._began, "train_s": self._train_s, "comm_s": comm_s}
            line |= {} if fleet.clock is None else {"sim_s": fleet.clock.now}
            line |= {**fleet.ledger.totals(), "lr": lr, "tau": loop.state.rounds.tau}
            line |= {"phase": self.communications.phase, "train/loss": loss, "consensus": None, "consensus_after": None}
            self._end(loop, line)
            if evaluates or self.diverged_at is not None or self.ended_by is not None:
                self._look(loop, line)
            if self._monitor is not None:
                line |= self._monitor.line(step, loop.state.x, line["consensus"] is not None)
            self._end(loop, line)
            if self.ended_by is not None and "eval/accuracy_worst" not in line:
                self._look(loop, line)
            if regular and step and self._watched:
                told = torch.tensor([line["eval/loss"] if fleet.rank == 0 else 0.0], dtype=torch.float64)
                loop.state.inner.heard(float(fleet.total(told)))
            self._compare(line)
            self.line = line
            self._report.log(line)

    def _compare(self, line: dict[str, Any]) -> None:
        """Keep what was evaluated for this line, if it is better than all before it."""
        looked_at, self._looked_at = self._looked_at, None
        if self._best_by is None or looked_at is None or self._loop.fleet.rank:
            return
        value, sign = line.get(self._best_by), -1 if METRICS[self._best_by].unit == "share" else 1
        if value is None or not math.isfinite(value):
            return
        if self.best is None or sign * value < sign * self.best["value"]:
            answer, stats = (None if x is None else x.detach().cpu().clone() for x in looked_at)
            self.best = {"metric": self._best_by, "step": line["step"], "value": value, "answer": answer, "answer_stats": stats}

    def _look(self, loop: Loop, line: dict[str, Any]) -> None:
        """Evaluate, and see whether there are still numbers."""
        line |= self._evaluate(loop)
        if self.diverged_at is None and self._lost(line, loop):
            self.diverged_at = loop.state.k
            self.diverged_workers = self._whose((~torch.isfinite(loop.state.x)).any(1).cpu())

    def _loss(self, step: int) -> float | None:
        """Mean over workers and steps since the last line; notes the first step whose loss is not finite."""
        self._fold()
        if not self._folded:
            return None
        sums, counts = (torch.cat(parts) for parts in zip(*self._folded, strict=True))
        steps = self._loop.fleet.total(sums) / counts
        first = step - len(steps) + 1
        self._folded.clear()
        bad, mine, self._bad = (~torch.isfinite(steps)).nonzero(), self._bad, None
        if len(bad):
            self.diverged_at = first + int(bad[0])
            self.diverged_workers = self._whose(mine[1] if mine is not None and mine[0] == int(bad[0]) else None)
        return float(steps.mean())

    def _whose(self, bad: Tensor | None) -> list[int]:
        """Of the whole fleet, the workers marked in `bad` (w,), those held here; None for none."""
        fleet = self._loop.fleet
        marked, here = torch.zeros(fleet.m, dtype=torch.float64), fleet.workers
        if bad is not None:
            marked[here.start : here.stop] = bad[: len(here)].double()
        return fleet.total(marked).nonzero().flatten().tolist()

    def _lost(self, line: dict[str, Any], loop: Loop) -> bool:
        """Have the models left the numbers? Rank 0 alone knows their loss; every process answers alike."""
        loss, apart = line.get("eval/loss"), line["consensus"]
        lost = torch.tensor([loss is not None and not math.isfinite(loss)], dtype=torch.float64)
        gone = apart is not None and not math.isfinite(apart)
        if gone or finite(loop.fleet, loop.state.x):
            return gone or float(loop.fleet.total(lost)) > 0
        if apart is not None and self.communications.phase == 0 and is_external(loop.strategy):
            raise ExternalError(
                f"{type(loop.strategy).__name__}.receive: the communication after step {line['step']} left numbers that are "
                "not finite in models that were finite before it"
            )
        return True

    def _evaluate(self, loop: Loop) -> dict[str, Any]:
        fleet, problem, x, workers = loop.fleet, self._problem, loop.state.x, loop.fleet.workers
        found: dict[str, Any] = dict(self.communications.values(loop))
        answer, stats = norm_stats.answer(loop, problem, self._config.norm_stats)
        if is_external(loop.strategy) and not torch.isfinite(answer).all() and finite(fleet, x):
            name = type(loop.strategy).__name__
            raise ExternalError(f"{name}.answer: returned numbers that are not finite from rows that are; return a model")
        self._looked_at = answer, stats
        if fleet.rank == 0:
            found |= problem.evaluate(answer, stats)
        found |= self._auxiliary(loop, answer, stats, found) if fleet.v else {}
        mine = self.communications.seen() or self._accuracies(x)
        if mine is None:
            return found | {"eval/accuracy_worst": None, "eval/accuracy_best": None}
        columns = torch.tensor(mine, dtype=torch.float64).view(len(mine), -1)
        everyone = torch.zeros(fleet.m, columns.shape[1], dtype=torch.float64)
        everyone[workers.start : workers.stop] = columns
        accuracies, *local = fleet.total(everyone).T.numpy()
        self.accuracies = accuracies
        found |= {"eval/accuracy_worst": float(accuracies.min()), "eval/accuracy_best": float(accuracies.max())}
        if local:
            found |= over_workers("eval/local_accuracy", local[0])
            if fleet.rank == 0:
                found |= over_workers("eval/local_answer", problem.local_accuracies_of(answer, stats) or ())
        return found

    def _accuracies(self, x: Tensor) -> list[list[float]] | None:
        """Of each worker held here: its accuracy, and where it holds samples out that on its own."""
        found = [self._problem.accuracies(x), getattr(self._problem, "local_accuracies", lambda x: None)(x)]
        return None if found[0] is None else [[*one] for one in zip(*(some for some in found if some is not None), strict=True)]

    def _auxiliary(self, loop: Loop, answer: Tensor, stats: Tensor | None, of_answer: dict[str, Any]) -> dict[str, Any]:
        """Loss and accuracy of the auxiliary models, their mean where there are several; on rank 0."""
        each = []
        for a in range(loop.fleet.v):
            model, own = norm_stats.auxiliary(loop, self._problem, self._config.norm_stats, a)
            if loop.fleet.rank == 0:
                same = torch.equal(model, answer) and (own is None or stats is None or torch.equal(own, stats))
                each.append(of_answer if same else self._problem.evaluate(model, own))
        found: dict[str, Any] = {}
        for name in ("loss", "accuracy") if each else ():
            values = [value for one in each if (value := one.get(f"eval/{name}")) is not None]
            found[f"eval/aux_{name}"] = sum(values) / len(values) if len(values) == len(each) else None
        return found


def over_workers(name: str, values: Any) -> dict[str, float | None]:
    """Mean, standard deviation and tenth percentile of a number of each worker, without those that have none (nan)."""
    there = (found := np.asarray(values, dtype=float))[~np.isnan(found)]
    if not len(there):
        return {name: None, f"{name}_std": None, f"{name}_p10": None}
    return {name: float(there.mean()), f"{name}_std": float(there.std()), f"{name}_p10": float(np.quantile(there, 0.1))}
