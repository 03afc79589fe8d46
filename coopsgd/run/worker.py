"""What each process does: read the frozen config, build the parts, train, leave the results.

Started by `coopsgd train` as a fork of a warm process, or on several machines by
`torchrun --nnodes N --nproc-per-node P -m coopsgd.worker [--trust] RUN_FOLDER` (run/elsewhere.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from coopsgd.blame import blame
from coopsgd.errors import ConfigError, RunFailed
from coopsgd.fleet.base import Fleet
from coopsgd.fleet.hosts import of_machines
from coopsgd.fleet.memory import Memory
from coopsgd.fleet.plan import Layout, layout_of
from coopsgd.fleet.processes import Processes
from coopsgd.fleet.shared import Shared
from coopsgd.fleet.stacked import Stacked
from coopsgd.fleet.waits import FIRST, LAST, START, Wait, Waits
from coopsgd.host import collector, files, signals, stdio
from coopsgd.host.child import die_with
from coopsgd.loop.evaluation import Outcome, train
from coopsgd.loop.saved import homes
from coopsgd.predict import foresight
from coopsgd.predict.monitor import Monitor
from coopsgd.predict.rehearsal import clock_of
from coopsgd.run import apart, attempt, checkpoints, final, source
from coopsgd.run.board import Board, Phase
from coopsgd.run.device import not_full, ready
from coopsgd.run.group import keep_freed_memory, process_group
from coopsgd.run.keeper import SAVE, STOP, Keeper, Stopped
from coopsgd.run.meeting import Meeting
from coopsgd.run.report import Report, Silent
from coopsgd.run.summary import known_beforehand, summary
from coopsgd.setup import schema
from coopsgd.setup.external import ExternalError
from coopsgd.setup.messages import one_line
from coopsgd.setup.parts import Parts
from coopsgd.tasks.base import Place

PATIENCE = 30.0  # seconds to wait for room on a full disk at the end

ALONE = 1.0  # seconds after a signal to a worker in which the command would have heard of it, too
UNTIMED = 1e6  # seconds, as good as for ever to torch, which counts milliseconds in 31 bits

_slot: tuple[Board, int] | None = None  # where this process tells the command how far it is; none under torchrun
_memory: Memory | None = None  # that of all processes of the run, if their rows lie in one

_frozen: schema.Config | None = None  # the config of the run, if whoever forked this process has read it


def forked(
    folder: Path,
    rank: int,
    parent: int,
    console: int | None,
    work: Any,
    board: Board,
    store: str,
    memory: Memory | None,
    frozen: schema.Config | None = None,
) -> None:
    """A worker of `coopsgd train`, in a fork of the command's process, which ends here.

    parent: pid of the command, with which the worker dies; console: file descriptor to talk to the user; work: what it does,
    `work` below or a probe's; board: where it tells the command what becomes of it; store: the file that processes meet over;
    memory: where rows of all processes lie, if they do; frozen: the config of the folder, where the command has read it.
    """
    global _slot, _memory, _frozen
    signals.default()  # a worker inside a collective must still end at once
    die_with(parent)
    tempfile.tempdir = None
    logging.disable(logging.NOTSET)
    _slot, _memory, _frozen = (board, rank), memory, frozen
    for number, end in ((1, "out"), (2, "err")):
        stdio.redirect(number, folder / "logs" / f"rank{rank}.{end}", more=restarts() > 0)
    stdio.guard()
    code = 1
    try:
        work(folder, rank, store=store, console=console, trust=True)  # its words are the user's own, or were checked
        board.enter(rank, Phase.DONE)
        code = 0
    except Stopped:
        board.enter(rank, Phase.STOPPED)
        code = 0
    except BaseException as error:
        users = str(error) if isinstance(error, ExternalError) else None if isinstance(error, RunFailed) else blame(error)
        if users is not None:
            traceback.print_exc()  # into logs/rank{rank}.err
            line = f"worker process {rank} failed: {users}; the traceback is in {folder / 'logs' / f'rank{rank}.err'}"
            board.tell(rank, time.time(), "line", line)
        elif isinstance(error, RunFailed | ConfigError):  # of what was there when the command looked: it says all there is
            board.tell(rank, time.time(), "line", str(error))
        else:
            board.tell(rank, time.time(), "traceback", traceback.format_exc())
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def restarts() -> int:
    """How often torchelastic's agent has started the workers again, in `coopsgd train` as in torchrun."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def asked_by_signals() -> Callable[[], str | None]:
    """From here on this process can be asked to save the run, or to end it, by signals; what tells of it (Keeper's asked).

    A worker of `coopsgd train` is asked by the command, which hears of signals too; one that comes to the worker alone ends it.
    """
    came = signals.kept()
    if _slot is None:
        saves: list[int] = []
        signals.handle("SIGUSR1", lambda: saves.append(1))
        return lambda: STOP if came.first is not None else SAVE if saves and saves.pop() else None
    board, rank = _slot

    def asked() -> str | None:
        if board.asked_to_stop:
            return STOP
        if came.first is not None and came.age > ALONE:
            signals.die_of(came.first)
        return SAVE if rank == 0 and board.asked_to_save() else None

    board.enter(rank, Phase.TRAINING)
    return asked


@contextlib.contextmanager
def saving() -> Iterator[signals.Noted]:
    """From here on a first signal lets this process finish."""
    if _slot is not None:
        board, rank = _slot
        board.enter(rank, Phase.SAVING)
    with signals.finishing() as came:
        yield came


def work(
    folder: Path,
    rank: int,
    store: str | Path | Meeting | None = None,
    console: int | None = None,
    trust: bool = False,
    processes: int | None = None,
) -> Outcome:
    """Take part in the run frozen in `folder` as process `rank`. Processes meet over the file `store`, or have met (Meeting).

    trust: import what the frozen config names. processes: how many there are, if not as many as it was frozen for.
    """
    meeting = store if isinstance(store, Meeting) else Meeting(rank, 1, folder)
    settings = _frozen or schema.load(meeting.folder / "config.yaml", trust)
    settings = replace(settings, processes=processes or settings.processes)
    parts = Parts(settings)
    with joined(parts, rank, store) as (fleet, device):
        passed_over: list[str] = []
        with fleet.during(START):
            problem = _built(parts, fleet, device, meeting)
            away = frozenset[int]()
            if meeting.store is not None:
                apart.alike(fleet, parts, meeting)
                away = apart.away(folder, fleet, meeting)
            found = _agreed(folder, fleet, passed_over.append, away)
        over_again = found is None and (restarts() > 0 or (_slot is None and (folder / "metrics.jsonl").exists()))
        report = Report(folder, parts, console, found) if rank == 0 else Silent()
        try:
            notes = [*getattr(problem, "notes", ()), *passed_over]
            notes += ["no checkpoint yet: the run starts over"] if over_again else []
            notes += source.told(folder) if _slot is None and trust and rank == 0 else []  # else the command has looked
            notes += [apart.note(meeting, away)] if away else []
            for note in notes:
                report.note(note)
            notes += [*known_beforehand(parts), *source.notes(settings)] if rank == 0 else []
            if rank == 0 and _slot is not None:
                _slot[0].keep(notes)
            fleet.clock = clock_of(parts)
            saved = None if found is None else _state(found, fleet, homes(parts.strategy, parts.period), away)
            keeper = Keeper(folder, parts.config, fleet, report, asked_by_signals(), away)
            outcome = train(parts, fleet, problem, report, Monitor.of(parts, fleet, problem), keeper, saved)
            late = foresight.hindsight(parts, fleet.ledger.rounds, outcome.last["phase"], outcome.answer_lags)
            late += getattr(problem, "afterwards", list)()
            if outcome.ended_by is not None:
                late.append(f"{outcome.ended_by}: ended after step {outcome.steps} of {settings.steps}")
            for note in late:
                report.note(note)
            with saving() as came, fleet.during(LAST):
                fleet.barrier()  # nobody saves before no first signal can end one whom it needs
                whole = {"rows": outcome.x, **({} if outcome.stats is None else {"stats": outcome.stats})}
                columns = sum(x.shape[1] for x in whole.values())
                save = final.resolve(settings.save, fleet.layout.n, columns, outcome.x.element_size())
                rows = {name: fleet.gather(x) for name, x in whole.items()} if save == "rows" else {}
                more = {**getattr(problem, "facts", {}), "peak_memory": _peak_memory(fleet)}
                more |= {"notes": [*notes, *late], "checkpoints": keeper.end(outcome.status == "diverged"), **report.facts}
                more |= attempt.restarts_of(folder)
                if isinstance(report, Report):
                    report.draw(outcome.accuracies)
                    places: dict[str, list[Place]] = getattr(problem, "places", dict)()
                    _leave(folder, parts, save, outcome, rows, places, fleet, more, report, came)
                    if _slot is not None:
                        _slot[0].enter(rank, Phase.DONE)
                fleet.barrier()
        finally:
            report.close()
    return outcome


def _built(parts: Parts, fleet: Fleet, device: torch.device, meeting: Meeting) -> Any:
    """What is learned. What the command has found is looked for on each of several machines: ConfigError names one without."""
    try:
        return parts.task.build(parts.config, fleet.workers, device)
    except ValueError as error:
        if meeting.store is None:
            raise
        raise ConfigError(f"{one_line(error)} (on {meeting.hosts[fleet.rank]})") from error


def _agreed(folder: Path, fleet: Fleet, note: Callable[[str], None], away: Collection[int]) -> checkpoints.Checkpoint | None:
    """The checkpoint that the run goes on from, the same in every process; None for a run that begins.

    away: processes that do not see the folder.
    """
    found = checkpoints.newest(folder, note) if fleet.rank == 0 else None
    step = int(fleet.total(torch.tensor([-1 if found is None else found.step], dtype=torch.float64) * (fleet.rank == 0)))
    if fleet.rank in away and step >= 0:
        return checkpoints.Checkpoint(folder, apart.received_manifest(fleet))
    if fleet.rank and step >= 0:
        return checkpoints.opened(folder, step, verify=False)
    if found is not None:
        apart.send_manifest(fleet, found, away)
    return found


def _state(found: checkpoints.Checkpoint, fleet: Fleet, modules: list[Any], away: Collection[int]) -> Any:
    """What this process holds of a checkpoint."""
    if fleet.rank in away:
        return found.inflated(fleet.layout, apart.received(fleet), modules)
    if fleet.rank == 0:
        apart.send_state(fleet, found, away)
    return found.state(fleet.layout, fleet.rank, modules)


@contextlib.contextmanager
def joined(
    parts: Parts, rank: int, store: str | Path | Meeting | None, network: Layout | None = None
) -> Iterator[tuple[Fleet, torch.device]]:
    """This process made ready, and in one group with the others: the fleet of this config, and where its rows are.

    network: the layout of a fleet that talks over the network, whatever the config says.
    """
    settings = parts.config
    layout = network or layout_of(parts.strategy.schedule, settings.workers, settings.processes)
    collector.wake()
    torch.set_num_threads(settings.threads)
    keep_freed_memory()
    device = ready(settings.device)
    # the command that forked this process counts how long it waits, and leaves out what time all were suspended; gloo would not
    given = None if settings.timeout == "auto" else settings.timeout
    timeout = given or FIRST if _slot is None or device.type == "cuda" else UNTIMED
    waits = Waits(given, _tell)
    signals.handle("SIGCONT", waits.again)
    if settings.processes == 1 or (_memory is not None and network is None):
        with not_full():
            yield (
                Stacked(layout) if _memory is None else Shared(layout, rank, _memory, waits),
                device,
            )
        return
    waits.begin("join", START, 0)
    over, keeper = (store.store, store.keeper) if isinstance(store, Meeting) else (store, 0)
    with (
        not_full(),
        process_group(settings.processes, rank, device, timeout, over, waits, settings.interface, keeper) as lookout,
    ):
        waits.end()
        if settings.fleet == "shared" and network is None:
            yield of_machines(layout, rank, timeout, waits, lookout), device
        else:
            yield Processes(layout, rank, timeout, waits, lookout), device


def _tell(wait: Wait | None) -> None:
    """Tell the command what this process waits for from now on, or that it does no longer."""
    if _slot is not None:
        _slot[0].wait(_slot[1], wait)


def _leave(
    folder: Path,
    parts: Parts,
    save: str,
    outcome: Outcome,
    rows: dict[str, Any],
    places: dict[str, list[Place]],
    fleet: Fleet,
    more: dict[str, Any],
    report: Report,
    came: signals.Noted,
) -> None:
    """The answer, then the rows, then summary.json, which says that everything else is there. RunFailed without the answer.

    Where there is no room for all, the first of these are kept.
    """
    found = {"answer": outcome.answer, "answer_stats": outcome.answer_stats}
    answer = {name: x for name, x in found.items() if x is not None}
    path, kept, settings = folder / final.FILE, None, parts.config

    def models(content: dict[str, Any]) -> contextlib.AbstractContextManager[Path]:
        return files.staged(path, lambda file: final.write(file, content, places))

    def end(written: contextlib.AbstractContextManager[Path | None], saved: str, **more_of_it: Any) -> None:
        with contextlib.ExitStack() as last, written as half:
            ended = {**more, **_found(parts, outcome), "saved": saved, **more_of_it}
            ended |= {
                "ledger": fleet.ledger.summary(),
                "checksums": final.checksums(half, folder / final.BEST if outcome.best else None),
            }
            content = summary(folder, parts, outcome.status, [outcome.last], **ended)
            last.enter_context(files.staged_json(folder / "summary.json", content))  # appears after the models
            report.end(outcome.status)

    try:
        if outcome.best is not None:
            _patiently(lambda: final.write_best(folder, outcome.best or {}, places), settings, report, came)
        if save != "none":
            _patiently(lambda: files.atomically(path, lambda file: final.write(file, answer, places)), settings, report, came)
            kept = path
        lost = {}
        if save == "rows":
            try:
                return end(models({**answer, **rows}), "rows")
            except OSError as error:
                report.note(f"{error.filename}: {error.strerror}; the models of the workers are not kept, but their answer is")
                lost, save = {"not_written": {"rows": f"{error.strerror}"}}, "answer"
        _patiently(lambda: end(contextlib.nullcontext(kept), save, **lost), settings, report, came)
    except OSError as error:
        raise RunFailed(f"{error.filename} cannot be written ({error.strerror}), though the run came to its end") from None


def _patiently(write: Callable[[], None], settings: schema.Config, report: Report, came: signals.Noted) -> None:
    """Write; while the disk does not take it, try again, for some time or until a signal comes. OSError when in vain."""
    patience = PATIENCE if settings.timeout == "auto" else min(PATIENCE, settings.timeout / 2)  # the others wait
    end, announced = time.monotonic() + patience, False
    while True:
        try:
            return write()
        except OSError as error:
            if time.monotonic() > end or came.first is not None:
                raise
            if not announced:
                report.note(f"{error.filename} cannot be written ({error.strerror}): trying again for {patience:.0f} s")
                announced = True
        time.sleep(0.2)


def _found(parts: Parts, outcome: Outcome) -> dict[str, Any]:
    """What a run knows of itself when it has come to its end, for its summary."""
    settings, schedule = parts.config, parts.strategy.schedule
    data = parts.task.about(settings)
    return {
        **(
            {"diverged_at": outcome.diverged_at, "diverged_workers": list(outcome.diverged_workers)}
            if outcome.diverged_at is not None
            else {}
        ),
        **({"best": {k: outcome.best[k] for k in ("metric", "step", "value")}} if outcome.best else {}),
        "zeta": schedule.zeta(settings.workers) if schedule else None,
        **({"data": data} if data else {}),
        "parameters": outcome.x.shape[1],
        "norm_stats": None if outcome.stats is None else settings.norm_stats,
        "device": str(outcome.x.device),
    }


def _peak_memory(fleet: Fleet) -> int:
    """Bytes: the largest resident size that any process of the run has reached so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = torch.zeros(fleet.layout.processes, dtype=torch.float64)
    peaks[fleet.rank] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(fleet.total(peaks).max())
