"""Workers through torchrun's own library, forked from this warm process: no port, no thread, no temporary folder.

torchrun's agent is given a rendezvous of our own, for one machine, with an in-memory store. The workers meet over a file in
memory. (With the library's own TCP store the agent has threads when it forks, and about 2 launches in 100 hung.) The agent
asks its workers how they are; here it also asks the kernel, so that one that was killed, left or is stopped is named.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import torch  # noqa: F401  the import every fork shares
from torch.distributed import HashStore
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from coopsgd.errors import ConfigError, Interrupted, RunFailed
from coopsgd.fleet.memory import Memory
from coopsgd.fleet.waits import FIRST, FLOOR, Wait
from coopsgd.host import collector, signals
from coopsgd.host.environment import environment
from coopsgd.host.signals import Noted
from coopsgd.run import attempt, drawings, progress, worker
from coopsgd.run.board import Board, Phase
from coopsgd.setup import schema
from coopsgd.setup.schema import Config

INTERVAL = 0.02  # seconds between two looks at the workers
GLANCE = 0.5  # seconds between two looks for one that is stopped; a stop that lasts two of them is reported
SETTLE = 0.3  # seconds after a worker has died, in which others may: then the first of them is looked for
SOON = 2.0  # seconds after which a save that is not over is told of
STOPPING = 25.0  # seconds that workers get to save the run before it is interrupted; clusters kill after 30
GRACE = 2.0  # seconds that a worker gets to end by the signal it was sent


class OneMachine(RendezvousHandler):
    """The rendezvous of a single agent: it is there already, and nobody else will come."""

    def get_backend(self) -> str:
        return "coopsgd"

    @property
    def use_agent_store(self) -> bool:
        return False

    def next_rendezvous(self) -> RendezvousInfo:
        return RendezvousInfo(HashStore(), 0, 1, RendezvousStoreInfo("localhost", 0))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return "coopsgd"

    def shutdown(self) -> bool:
        return True


class Logs(LogsSpecs):
    """Nothing is redirected here: a worker does that itself, and lives where a full disk does not let it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))

    @property
    def root_log_dir(self) -> str:
        return str(self._root_log_dir)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        nothing = dict.fromkeys(envs, "")
        return LogsDest(nothing, nothing, {}, {}, nothing)  # of none a thread follows what it writes


class Agent(LocalElasticAgent):
    """torchrun's agent, with eyes of its own.

    Its run() returns when all workers have done their work, and raises RunFailed or Interrupted otherwise; no worker is left
    either way. asked: the signals that came to the command; timeout: seconds that a worker may be stopped, or wait for another,
    or auto: as many as each of them says (fleet/waits.py); restarts: how often workers that failed are started again; renew():
    before they are; silent: print nothing.
    """

    def __init__(
        self,
        work: Callable[[], None],
        logs: Path,
        board: Board,
        asked: Noted,
        timeout: float | str,
        restarts: int,
        renew: Callable[[], None],
        silent: bool,
    ) -> None:
        spec = WorkerSpec(
            role="worker",
            local_world_size=board.processes,
            rdzv_handler=OneMachine(),
            entrypoint=work,
            max_restarts=restarts,
            monitor_interval=INTERVAL,
        )
        super().__init__(spec, Logs(logs), start_method="fork")
        self._logs, self._board, self._asked, self._renew, self._silent = logs, board, asked, renew, silent
        self._restarts = restarts
        self._given = None if isinstance(timeout, str) else timeout
        self._processes: list[Any] = []  # by rank
        self._stopped: dict[int, float] = {}  # rank -> seconds, as far as this process ran meanwhile
        self._waits: dict[int, tuple[tuple[int, Wait], float]] = {}  # rank -> what it waits for, and how long, counted alike
        self._glanced = self._died = self._stopping = 0.0
        self._said = False
        self._failure = ""  # why workers are started again

    @property
    def restarted(self) -> int:
        """How often they were."""
        return self._restarts - self._remaining_restarts

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        before, others = tempfile.tempdir, set(active_children())
        tempfile.tempdir = str(self._logs)  # torch makes a file there and removes it
        try:
            pids = super()._start_workers(worker_group)
        except OSError as error:  # no room, or no process more
            for process in set(active_children()) - others:
                process.kill()
            raise RunFailed(f"{error.filename or 'the workers'}: cannot be started ({error.strerror})") from None
        finally:
            tempfile.tempdir = before
        self._processes = list(self._pcontext._pc.processes)  # type: ignore[union-attr]  # not active_children: one may be dead
        self._glanced = time.monotonic()
        self._died, self._stopped, self._waits = 0.0, {}, {}
        return pids

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        try:
            return self._look()
        except RunFailed as error:
            if not self._remaining_restarts or self._over:
                raise
            self._failure = str(error)
            return RunResult(WorkerState.FAILED)

    @property
    def _over(self) -> bool:
        """Is there nothing to start workers again for?"""
        return self._board.phase(0) == Phase.DONE or self._asked.first is not None

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        self._stop_workers(worker_group)
        if self._over:  # meanwhile
            raise RunFailed(self._failure)
        self._say(f"{self._failure}\nthe workers are started again, {self.restarted} of {self._restarts} times")
        self._renew()
        self._initialize_workers(worker_group)

    def _look(self) -> RunResult:
        """How the workers are. RunFailed or Interrupted where they are at an end before the run is."""
        codes = [process.exitcode for process in self._processes]
        over = [rank for rank, code in enumerate(codes) if code is not None]
        wrong = [rank for rank in over if codes[rank] or self._board.phase(rank) not in (Phase.DONE, Phase.STOPPED)]
        if len(over) == len(codes) and self._board.all_in(Phase.DONE) and not wrong:
            return RunResult(WorkerState.SUCCEEDED, return_values=dict.fromkeys(over))
        if self._asked.first is not None and (self._asked.twice or not (self._board.saving or self._saves())):
            raise Interrupted(self._asked.first)
        if wrong:
            self._died = self._died or time.monotonic()
            if time.monotonic() - self._died > SETTLE:
                raise RunFailed(self._why(codes, wrong))
        self._glance()
        return RunResult(WorkerState.HEALTHY)

    def _saves(self) -> bool:
        """Are the workers saving the run before they end? They are asked to, if they can be."""
        if not self._board.asked_to_stop and self._board.all_in(Phase.TRAINING):
            self._board.ask_to_stop()
            self._stopping = time.monotonic()
        spent = time.monotonic() - self._stopping
        if self._board.asked_to_stop and not self._said and spent > SOON:
            self._said = True
            self._say("the run is being saved before it ends; once more ends it at once")
        return self._board.asked_to_stop and spent < STOPPING and not self._board.all_in(Phase.STOPPED)

    def _glance(self) -> None:
        """Look for workers that are stopped or wait for others. RunFailed when one did for too long."""
        now = time.monotonic()
        if now - self._glanced < GLANCE:
            return
        passed = min(now - self._glanced, 2 * GLANCE)  # of more time this process was stopped itself, as by Ctrl-Z
        self._glanced = now
        for rank, process in enumerate(self._processes):
            before = self._stopped.get(rank, 0.0)
            if _is_stopped(process.pid):
                if self._asked.first is not None:  # the last save is to be finished, which this one keeps waiting
                    os.kill(process.pid, signal.SIGCONT)
                self._stopped[rank] = seconds = before + passed
                if seconds >= 3 * GLANCE > before:
                    others = ", and the others wait for it" if len(self._processes) > 1 else ""
                    self._say(
                        f"{self._name(rank)} is stopped{others}: kill -CONT {process.pid} lets it go on; "
                        f"after {self._limit:.3g} s the run ends"
                    )
            elif self._stopped.pop(rank, 0.0) >= 3 * GLANCE:
                self._say(f"{self._name(rank)} goes on")
        self._waits = {
            rank: (wait, self._waits[rank][1] + passed if self._waits.get(rank, (None,))[0] == wait else 0.0)
            for rank in range(len(self._processes))
            if (wait := self._board.wait_of(rank)) is not None
        }
        if max(self._stopped.values(), default=0.0) >= self._limit or any(
            seconds >= wait.limit for (_, wait), seconds in self._waits.values()
        ):
            raise RunFailed(self._too_long())

    @property
    def _limit(self) -> float:
        """Seconds that one may be stopped."""
        return self._given or max(FLOOR, *(self._board.usual(rank) for rank in range(len(self._processes))))

    def _say(self, text: str) -> None:
        if not self._silent:
            progress.warn(text)

    def _name(self, rank: int) -> str:
        return f"worker process {rank} (pid {self._processes[rank].pid})"

    def _too_long(self) -> str:
        late = [(seconds - wait.limit, wait) for (_, wait), seconds in self._waits.values()]
        wait = max(late, key=lambda one: one[0])[1] if late else None
        if self._stopped:
            longest = max(self._stopped, key=lambda rank: self._stopped[rank])
            where = f" and did not come to {wait}" if wait is not None else ""
            return f"{self._name(longest)} was stopped for {self._limit:.3g} s (timeout){where}, so the run was ended"
        assert wait is not None
        busy = [rank for rank, process in enumerate(self._processes) if rank not in self._waits and process.exitcode is None]
        who, seconds = ", ".join(map(self._name, busy)), f"{wait.limit:.3g} s (timeout)"
        if not who:
            return f"workers waited {seconds} for each other at {wait}, so the run was ended"
        return f"{who} did not come to {wait}, where others waited {seconds}, so the run was ended"

    def _why(self, codes: list[int | None], wrong: list[int]) -> str:
        """Who brought the run down: others often fail because one did."""
        for rank in wrong:
            code = codes[rank]
            if code is not None and code < 0:
                return f"worker process {rank} was killed by {signals.name_of(-code)}{self._output()}"
        for rank in wrong:
            if not codes[rank]:
                return f"worker process {rank} left with exit code 0 before the run was over{self._output()}"
        if self._stopped and max(self._stopped.values()) > self._limit / 2:  # whom a collective waited for in vain
            return self._too_long()
        left = [(said["time"], rank, said) for rank in wrong if (said := self._board.message(rank)) is not None]
        if left:
            _, rank, said = min(left, key=lambda one: one[:2])
            return said.get("line") or f"worker process {rank} failed:\n{said['traceback'].rstrip()}"
        return f"worker process {wrong[0]} ended with exit code {codes[wrong[0]]}{self._output()}"

    def _output(self) -> str:
        there = any(path.stat().st_size for path in self._logs.glob("rank*.*"))
        return f"; its output is in {self._logs}" if there else ""

    def _shutdown(self, *given: Any, **named: Any) -> None:  # of torch, which takes other arguments in each version
        """End the workers: at once, but those past the last step may finish, if not stopped, unless a second signal comes."""
        begun, signalled = time.monotonic(), False
        while running := [rank for rank, process in enumerate(self._processes) if process.exitcode is None]:
            spent, fell = time.monotonic() - begun, any(process.exitcode for process in self._processes)
            for rank in running:
                working = self._board.phase(rank) in (Phase.WORKING, Phase.TRAINING)
                in_vain = fell and self._board.wait_of(rank) is not None  # for one that is no more
                if self._asked.twice or spent > (
                    GRACE if working or in_vain or rank in self._stopped else self._given or FIRST
                ):
                    self._processes[rank].kill()
                elif not signalled and working:
                    training = self._board.phase(rank) == Phase.TRAINING  # it would note a gentler signal and go on
                    (self._processes[rank].kill if training else self._processes[rank].terminate)()
                    os.kill(self._processes[rank].pid, signal.SIGCONT)  # a stopped one hears of it then
            signalled = True
            time.sleep(INTERVAL / 4)
        super()._shutdown(*given, **named)


def _is_stopped(pid: int) -> bool:
    """By SIGSTOP or its like; False where the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[0] == b"T"
    except (OSError, IndexError):
        return False


def run(folder: Path, settings: Config, work: Callable[..., Any] = worker.work, silent: bool = False, stream: int = 1) -> None:
    """Train the run frozen in `folder`. RunFailed, or Interrupted by a signal; no process is left either way.

    It returns as well when a signal came during the last save, which then was finished: see ending.noted. work: what each
    process does instead, called as worker.work is; silent: it has no console to talk to; else stream is the descriptor of it.
    """
    frozen = schema.load(folder / "config.yaml", trust=True) if work is worker.work else None
    if settings.model is not None:
        _import_networks()
    drawings.get_ready()
    collector.wake()  # what is imported is shared by the forks
    logs = folder / "logs"
    attempt.prepare(folder, logs)
    board = Board(settings.processes)
    with signals.noted() as asked, contextlib.ExitStack() as stack:
        store = stack.enter_context(attempt.store(logs))
        console = os.dup(stream)
        stack.callback(os.close, console)
        stack.callback(attempt.tidy, folder, logs)
        parent, begun = os.getpid(), f"{time.time()}"
        memory = _memory(settings)
        if memory is not None:
            stack.callback(memory.close)

        def renew() -> None:
            board.clear()
            attempt.restarted(folder, begun, agent.restarted)
            with contextlib.suppress(FileNotFoundError):
                os.truncate(store, 0)
            attempt.clear(folder)
            if memory is not None:
                memory.clear()

        def body() -> None:
            if asked.first is not None:  # between the fork and here nobody acted on it
                os._exit(1)
            worker.forked(
                folder, int(os.environ["RANK"]), parent, None if silent else console, work, board, store, memory, frozen
            )

        sys.stdout.flush()
        sys.stderr.flush()
        if asked.first is not None:
            raise Interrupted(asked.first)
        # torchelastic would install handlers of its own, also for signals that shall stay ignored
        stack.enter_context(signals.handled("SIGUSR1", board.ask_to_save))
        with environment(TORCHELASTIC_SIGNALS_TO_HANDLE=""), _without_logging():
            agent = Agent(body, logs, board, asked, settings.timeout, settings.max_restarts, renew, silent)
            try:
                agent.run()
            except (RunFailed, Interrupted) as error:
                error.notes = board.notes
                if board.phase(0) != Phase.DONE:  # else all is saved, and who died was needed no more
                    raise


def _import_networks() -> None:
    """What every process of a run with a model imports when it builds it."""
    from coopsgd.tasks import networks  # noqa: F401
    from coopsgd.tasks.engines import bmm, choice, row_pool  # noqa: F401


def _memory(settings: Config) -> Memory | None:
    """What the rows of this run lie in, if it is one memory. ConfigError where there cannot be one."""
    if settings.processes == 1 or settings.fleet != "shared":
        return None
    try:
        return Memory(settings.processes)
    except OSError as error:
        raise ConfigError(
            f"fleet: shared needs a memory file, and there is none here ({error.strerror}); use fleet=processes"
        ) from None


@contextlib.contextmanager
def _without_logging() -> Iterator[None]:
    """torchelastic logs what we report, at length, through loggers that set their own levels."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # a worker enables it again
    try:
        yield
    finally:
        logging.disable(before)
