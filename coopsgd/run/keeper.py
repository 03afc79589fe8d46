"""When a run is saved: every so many steps, every so often, when somebody asks for it, and before it is interrupted."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from coopsgd.errors import RunFailed
from coopsgd.fleet.waits import CHECKPOINT
from coopsgd.loop.saved import ByRow, flatten
from coopsgd.run import checkpoints, final
from coopsgd.setup.values import comes, length_of, seconds_of

if TYPE_CHECKING:
    from coopsgd.fleet.base import Fleet
    from coopsgd.loop.evaluation import Evaluator
    from coopsgd.loop.loop import Loop
    from coopsgd.run.report import Report, Silent
    from coopsgd.setup.schema import Config

AUTO = 300.0  # seconds of training between two checkpoints where nobody says
SHARE = 0.01  # of the time that saving may take then
ROOM = 0.1  # of the free disk that checkpoints may take then
LIMIT = 200 * 10**6  # bytes of a checkpoint that stays when the run has come to its end
GLANCE = 0.5  # seconds between two looks at the clock and at what was asked, which all processes take after the same step
SAVE, STOP = "save", "stop"  # what may be asked of a run: to save itself and go on, or to end


class Stopped(RunFailed):
    """The run was asked to end, and saved if the disk took it."""


class Keeper:
    """Decides, with the other processes, after which steps this run is saved, and has it saved.

    By config.checkpoint_every: steps, rounds, a time, 0 for never, or auto: every five minutes, less often where that took more
    than a hundredth of the time, and not at all where checkpoints would fill the disk. The newest config.keep of them stay.
    asked(): what was asked of this process since it was called last, SAVE, STOP or None.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        fleet: Fleet,
        report: Report | Silent,
        asked: Callable[[], str | None],
        away: Collection[int] = (),
    ) -> None:
        """away: processes that do not see the folder."""
        self._away = away
        self._folder, self._fleet, self._report, self._asked, self._keep = folder, fleet, report, asked, config.keep
        self._end = config.steps
        every = config.checkpoint_every
        self._auto = every == "auto"
        self._every: int | str = (
            every if isinstance(every, int) or length_of(every) else 0
        )  # steps or rounds, if it goes by these
        self._interval = AUTO if self._auto else 0.0 if self._every or every == 0 else seconds_of("checkpoint_every", every)
        self._saved_at = self._glanced_at = time.monotonic()
        self._glanced, self._next = 0, 1  # after which step all looked last, and look next
        self._written, self._seconds, self._bytes = 0, 0.0, 0

    def due(self, step: int, ended: int | None = None) -> bool:
        """Must the models be there after this step, with which so many rounds have ended?"""
        return step == self._next or comes(self._every, step, ended)

    def before_line(self, loop: Loop, evaluator: Evaluator, pending: tuple[float, bool]) -> None:
        """A step is done, at what rate and with a communication due or not (pending), and its line is not written yet.

        After the last step the run is saved here: a kill in the evaluation that follows costs no step, and a longer run goes on
        from there, which has another line at this step, or none.
        """
        if loop.state.k == self._end and not loop.steps.ahead and self._at_the_end():
            self.save(loop, evaluator, pending=pending)

    def _at_the_end(self) -> bool:
        """Shall the last step be saved? Where nobody says how often: if half of the usual time has passed since a save."""
        if not self._auto:
            return bool(self._every or self._interval)
        long = self._interval > 0 and time.monotonic() - self._saved_at >= self._interval / 2
        told = torch.tensor([long and self._fleet.rank == 0], dtype=torch.float64)
        return float(self._fleet.total(told)) > 0

    def after(self, loop: Loop, evaluator: Evaluator) -> None:
        """A step is done, and its line written. Stopped when the run must end."""
        k = loop.state.k
        if loop.steps.ahead or k >= self._end:
            return
        save, stop = self._look(k) if k >= self._next else (False, False)
        if save or stop or comes(self._every, k, loop.state.rounds.ended):
            self.save(loop, evaluator, wanted=stop)
        if stop:
            raise Stopped(f"stopped at step {k}")

    def _look(self, k: int) -> tuple[bool, bool]:
        """Shall the run be saved, must it end? The same answer everywhere; rank 0 has the clock and says when all look next."""
        now, asked, first = time.monotonic(), self._asked(), self._fleet.rank == 0
        steps, passed = max(1, k - self._glanced), max(1e-6, now - self._glanced_at)
        ahead = max(1, min(2 * steps, int(steps * GLANCE / passed)))
        late = self._interval > 0 and now - self._saved_at >= self._interval
        mine = [ahead * first, asked == SAVE or (first and late), asked == STOP]
        ahead, save, stop = self._fleet.total(torch.tensor(mine, dtype=torch.float64)).tolist()
        self._glanced_at, self._glanced, self._next = now, k, k + int(ahead)
        return save > 0, stop > 0

    def save(self, loop: Loop, evaluator: Evaluator, wanted: bool = False, pending: tuple[float, bool] | None = None) -> None:
        """Write a checkpoint, off the ledger and off the clock. Not one of models that are no numbers any more.

        A disk that does not take it is told of, and training goes on. wanted: however large it is; pending: see before_line.
        """
        began = time.monotonic()
        with self._fleet.during(CHECKPOINT), evaluator.aside():
            tree = {"loop": loop.saved(), "evaluator": evaluator.saved(pending)}
            if evaluator.sound() and (wanted or self._fits(tree)):
                self._write(loop.state.k, tree, evaluator)
        self._saved_at = time.monotonic()
        self._seconds += self._saved_at - began
        if self._auto and self._interval:
            self._interval = max(self._interval, (self._saved_at - began) / SHARE)

    def _write(self, step: int, tree: Any, evaluator: Evaluator) -> None:
        try:
            self._bytes = checkpoints.save(self._folder, step, tree, self._fleet, self._report.saved, self._away)
            self._written += 1
            if self._fleet.rank == 0:
                checkpoints.prune(self._folder, self._keep)
                if evaluator.best is not None:
                    final.write_best(self._folder, evaluator.best, evaluator.places())
        except OSError as error:
            then = "training goes on, and it is tried again" if step < self._end else "the run comes to its end without"
            self._report.note(f"{error.filename}: no checkpoint ({error.strerror}): {then}")

    def _fits(self, tree: Any) -> bool:
        """May checkpoints be kept that nobody has asked for? They are not, where they would take too much of the free disk."""
        if not self._auto or self._written:
            return True
        leaves = flatten(tree)[1].values()
        mine = sum(t.numel() * t.element_size() for x in leaves for t in (x.parts if isinstance(x, ByRow) else [x.tensor]))
        free = shutil.disk_usage(self._folder).free if self._fleet.rank == 0 else 0
        size, room = self._fleet.total(torch.tensor([mine, free], dtype=torch.float64)).tolist()
        if self._keep * size <= ROOM * room:
            return True
        self._interval = 0.0
        self._report.note(
            f"no checkpoints: {self._keep} of {size / 1e9:.2g} GB would take more than a tenth of the free disk; "
            "checkpoint_every=10min keeps them all the same"
        )
        return False

    def end(self, diverged: bool = False) -> dict[str, Any]:
        """The run has come to its end: its last checkpoint stays, from which it can be made longer, unless it is large.

        Of one that diverged it stays in any case: it is the last good one.
        """
        if self._fleet.rank == 0:
            large = self._bytes > LIMIT and not diverged
            checkpoints.prune(self._folder, 0 if large else 1)
            if large:
                self._report.note(f"the last checkpoint, of {self._bytes / 1e6:.0f} MB, is removed: the run is over")
        return {"written": self._written, "bytes": self._bytes, "seconds": self._seconds}
