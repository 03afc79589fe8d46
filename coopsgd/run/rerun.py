"""Steps of a finished or interrupted run taken again, and held against what the run left: lines, checkpoints, final models.

Nothing is written into the run's folder. What each process finds lies in a folder of its own, which the command that forked
it reads and removes (commands/verify.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coopsgd.errors import DamagedFile
from coopsgd.host import files
from coopsgd.loop.evaluation import train
from coopsgd.loop.saved import ByRow, flatten, homes
from coopsgd.predict.monitor import Monitor
from coopsgd.predict.rehearsal import clock_of
from coopsgd.run import checkpoints, progress, provenance
from coopsgd.run.console import Live
from coopsgd.run.folders import checkpoint_place
from coopsgd.run.reader import Run
from coopsgd.run.report import Silent
from coopsgd.run.schema import MEASURED
from coopsgd.run.worker import joined
from coopsgd.setup.parts import Parts

if TYPE_CHECKING:
    from coopsgd.fleet.base import Fleet
    from coopsgd.loop.evaluation import Evaluator, Outcome
    from coopsgd.loop.loop import Loop
    from coopsgd.tasks.base import Problem

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # of as many bytes as a number
MODELS = ".state.loop.x"
NEVER_THE_SAME = (".state.loop.ledger.comm_s",)


@dataclass(frozen=True)
class Range:
    """Which steps of the run in `folder` are taken again, and what is there to hold them against."""

    folder: Path
    start: int  # the step of the checkpoint to begin with; 0: the beginning
    end: int
    lines: Sequence[dict[str, Any]]  # log points
    saved: Sequence[int]  # steps of checkpoints
    final: str  # of the models at the end: rows, answer or none
    went_on: bool = False  # under another config, from `end`: its last line, of a run that ends there, is none of the run's


class Enough(Exception):
    """All that was asked for is done, or a difference was found."""


class Findings:
    """What one process finds; the first difference is kept."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.found: dict[str, Any] = {"lines": 0, "saved": [], "final": "none"}

    @property
    def differs(self) -> bool:
        return "step" in self.found

    def differ(self, step: int, where: str, then: Any, now: Any, file: str) -> None:
        """The first is kept: in which step and where; what the run left in which file, and what it is now."""
        if not self.differs:
            self.found |= {"step": step, "where": where, "then": then, "now": now, "file": file}

    def write(self) -> None:
        """For the command."""
        files.write_json(self._place, self.found)


class Lines:
    """Rank 0's report: it holds each line against the one that the run wrote."""

    def __init__(self, of: Range, findings: Findings, console: int | None) -> None:
        self._left, self._findings, self._ends = list(of.lines), findings, of.end if of.went_on else None
        self._live = Live(progress.listener(console), of.end, aside=True)

    def log(self, line: dict[str, Any]) -> None:
        """One log point."""
        self._live.log(line)
        now = json.loads(json.dumps(files.finite(line)))
        step = now["step"]
        if step == self._ends:
            return
        while self._left and self._left[0]["step"] < step:
            self._gone(self._left.pop(0))
        if not self._left or self._left[0]["step"] > step:
            return self._findings.differ(step, "line", "none", "one", "metrics.jsonl")
        then = self._left.pop(0)
        self._findings.found["lines"] += 1
        for name in [*now, *(name for name in then if name not in now)]:
            one, other = (json.dumps(of.get(name, "missing")) for of in (then, now))
            if one != other and name not in MEASURED:
                self._findings.differ(step, name, one, other, "metrics.jsonl")

    def _gone(self, line: dict[str, Any]) -> None:
        self._findings.differ(line["step"], "line", "one", "none", "metrics.jsonl")

    def over(self) -> None:
        """No line follows."""
        for line in self._left:
            self._gone(line)
        self._live.close()


class Comparison:
    """In the place of a keeper: where the run was saved, its state is held against the checkpoint; after the end it is over."""

    def __init__(self, of: Range, fleet: Fleet, problem: Problem, findings: Findings) -> None:
        self._of, self._fleet, self._problem, self._findings = of, fleet, problem, findings
        self._compared = -1  # the step of the checkpoint that was looked at last

    def due(self, step: int, ended: int | None = None) -> bool:
        """Must the models be there after this step?"""
        return step in self._of.saved or step == self._of.end

    def before_line(self, loop: Loop, evaluator: Evaluator, pending: tuple[float, bool]) -> None:
        """A step is done, and its line is not written. The checkpoint of what was the last step then holds this state."""
        k = loop.state.k
        if k in self._of.saved and checkpoints.opened(self._of.folder, k, verify=False).before_its_line:
            with evaluator.aside():
                self._compare(loop)
            self._compared = k

    def after(self, loop: Loop, evaluator: Evaluator) -> None:
        """A step is done. Enough, in every process, when one has found a difference, or it was the last."""
        k = loop.state.k
        if loop.steps.ahead or not evaluator.due(k):
            return
        if k in self._of.saved:
            if k != self._compared:
                with evaluator.aside():
                    self._compare(loop)
            self._findings.found["saved"].append(k)
        differ = torch.tensor([float(self._findings.differs)], dtype=torch.float64)
        # a run whose final models are looked at ends by itself, after its last step or by `stop`
        if float(self._fleet.total(differ)) or k > self._of.end or (k == self._of.end and self._of.final == "none"):
            raise Enough

    def _compare(self, loop: Loop) -> None:
        """The state of the loop with that of the checkpoint, plain values first."""
        k, layout, rank = loop.state.k, self._fleet.layout, self._fleet.rank
        file = str(checkpoint_place(Path(), k))
        found = checkpoints.opened(self._of.folder, k, verify=False)
        skeleton, tensors = flatten({"state": {"loop": loop.saved()}})
        before, after = (tree["dict"]["state"]["dict"]["loop"] for tree in (found.manifest["tree"], skeleton))
        if (odd := _differing(before, json.loads(json.dumps(after)), "")) is not None:
            return self._findings.differ(k, *odd, file)
        with found.reading(layout, rank) as read:
            for at in sorted(tensors, key=lambda at: at != MODELS):
                leaf, first = tensors[at], 0
                expected = read(at, type(leaf).__name__) if at not in NEVER_THE_SAME else None
                if expected is None:
                    continue
                if not isinstance(leaf, ByRow):
                    if (other := first_difference(expected, leaf.tensor)) is not None:
                        index, then, now = other
                        return self._findings.differ(k, f"{_name(at)}{list(index)}", then, now, file)
                    continue
                for part in leaf.parts:
                    if (other := first_difference(expected[first : first + len(part)], part)) is not None:
                        (i, *others), then, now = other
                        where = self._column(others, part.shape[1:] == loop.state.x.shape[1:])
                        of = "" if at == MODELS else f"{_name(at)} of "
                        return self._findings.differ(k, f"{of}row {layout.rows(rank)[first + i]}{where}", then, now, file)
                    first += len(part)

    def _column(self, index: list[int], model: bool) -> str:
        """What a person calls a number of a row; model: the row is as long as a model."""
        return f", {self._called(index[0])}" if model and index else f"{index}" if index else ""

    def _called(self, column: int) -> str:
        """What a person calls a column of the models, as in 0.weight[3, 5]."""
        for name, shape, stride, at in self._problem.places().get("parameters", []):
            index, rest = [0] * len(shape), column - at
            if 0 <= rest < math.prod(shape):
                for i in sorted(range(len(shape)), key=lambda i: (-stride[i], shape[i] == 1)):
                    index[i], rest = divmod(rest, stride[i])
                return f"{name}{index}"
        return f"coordinate {column}"

    def final(self, outcome: Outcome) -> None:
        """The models at the run's end; every process calls it."""
        if self._of.final == "none":
            return
        run, rows = Run(self._of.folder), self._of.final == "rows"
        held = {run.rows: outcome.x, run.stats: outcome.stats} if rows else {run.answer: outcome.answer}
        for read, mine in held.items():
            if mine is None or (now := self._fleet.gather(mine) if rows else mine) is None or self._fleet.rank:
                continue
            try:
                then = read()
            except (DamagedFile, LookupError, OSError) as error:
                self._findings.found["unreadable"] = str(error)
                continue  # the others send what is left
            self._findings.found["final"] = self._of.final
            if (odd := first_difference(then, now)) is not None:
                (row, column), one, other = odd
                who = f"row {row}" if rows else "the answer"
                where = f"statistic {column}" if mine is outcome.stats else self._called(column)
                self._findings.differ(outcome.steps, f"{who}, {where}", one, other, "the final models")


def _name(at: str) -> str:
    return at.removeprefix(".state.loop.")


def first_difference(then: Tensor, now: Tensor) -> tuple[tuple[int, ...], Any, Any] | None:
    """The place of the first number whose bits differ, and both; None where all are the same."""
    if then.shape != now.shape or then.dtype != now.dtype:
        return (0, 0), f"{then.dtype}{list(then.shape)}", f"{now.dtype}{list(now.shape)}"
    kind = INTEGERS[then.element_size()]
    then, now = then.contiguous(), now.detach().cpu().contiguous()
    differ = then.reshape(-1).view(kind) != now.reshape(-1).view(kind)
    if not bool(differ.any()):
        return None
    at = int(differ.to(torch.uint8).argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(at), then.shape)) if then.ndim else ()
    return index, then[index].item(), now[index].item()


def _differing(then: Any, now: Any, at: str) -> tuple[str, Any, Any] | None:
    """The first place at which two trees of JSON differ, and what is there."""
    if isinstance(then, dict) and isinstance(now, dict):
        pairs = [(key, then.get(key, "nothing"), now.get(key, "nothing")) for key in {**then, **now}]
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        pairs = list(zip(range(len(then)), then, now, strict=True))
    else:
        return None if json.dumps(then) == json.dumps(now) else (at, then, now)
    for key, one, other in pairs:
        inner = f"{at}.{key}" if key not in ("dict", "list", "tuple", "fields", "class") else at
        if (odd := _differing(one, other, inner.lstrip("."))) is not None:
            return odd
    return None


def work(
    of: Range,
    parts: Parts,
    folder: Path,
    rank: int,
    store: str | Path | None = None,
    console: int | None = None,
    trust: bool = False,
) -> None:
    """Take these steps again as process `rank`, and leave what was found in `folder` (found-RANK.json)."""
    config = parts.config
    findings = Findings(folder / f"found-{rank}.json")
    with joined(parts, rank, store) as (fleet, device):
        problem = parts.task.build(config, fleet.workers, device)
        lines = Lines(of, findings, console) if rank == 0 else None
        fleet.clock = clock_of(parts)
        saved = None
        if of.start:
            begin = checkpoints.opened(of.folder, of.start, verify=False)
            saved = begin.state(fleet.layout, rank, homes(parts.strategy, parts.period))
        if rank == 0:
            findings.found |= provenance.provenance(parts)
        comparison = Comparison(of, fleet, problem, findings)
        try:
            outcome = train(parts, fleet, problem, lines or Silent(), Monitor.of(parts, fleet, problem), comparison, saved)
            comparison.final(outcome)
        except Enough:
            pass
        if lines is not None:
            lines.over()
        findings.write()
        fleet.barrier()
