"""Workers through torchrun's own library, forked from this warm process: no port, no thread, no temporary folder.

`torch.distributed.launcher` is given a rendezvous of our own, for one machine: an in-memory store for the agent. The
workers meet over a file in the run folder. (With the library's own TCP store the agent has threads when it forks, and
about 2 launches in 100 hung.)
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch  # noqa: F401  the import every fork shares
from torch.distributed import HashStore
from torch.distributed.elastic.multiprocessing import SignalException, Std
from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from coopsgd import worker
from coopsgd.errors import Interrupted, RunFailed

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class OneMachine(RendezvousHandler):
    """The rendezvous of a single agent: it is there already."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        self._run_id, self._closed = parameters.run_id, False

    def get_backend(self) -> str:
        return "coopsgd"

    @property
    def use_agent_store(self) -> bool:
        return False

    def next_rendezvous(self) -> RendezvousInfo:
        return RendezvousInfo(HashStore(), 0, 1, RendezvousStoreInfo("localhost", 0))

    def is_closed(self) -> bool:
        return self._closed

    def set_closed(self) -> None:
        self._closed = True

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        self._closed = True
        return True


class Logs(LogsSpecs):
    """logs/rank0.out, logs/rank0.err, ... in the run folder; nothing in the system's temporary folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), redirects=Std.ALL)

    @property
    def root_log_dir(self) -> str:
        return str(self._root_log_dir)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        folder = Path(self.root_log_dir)

        def named(end: str) -> dict[int, str]:
            return {local: str(folder / f"rank{env['RANK']}.{end}") for local, env in envs.items()}

        nothing = dict.fromkeys(envs, "")
        return LogsDest(named("out"), named("err"), nothing, nothing, named("json"))


def run(folder: Path, processes: int, work: Callable[..., Any] = worker.work, silent: bool = False) -> None:
    """Train the run frozen in `folder`. RunFailed, or Interrupted by a signal; no process is left either way.

    work: what each process does instead, called as worker.work is; silent: it has no console to talk to.
    """
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    rendezvous_handler_registry.register("coopsgd", OneMachine)
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="coopsgd",
        rdzv_backend="coopsgd",
        max_restarts=0,
        monitor_interval=0.02,
        start_method="fork",
        logs_specs=Logs(logs),
    )
    sys.stdout.flush()
    sys.stderr.flush()
    console = os.dup(1)
    try:
        with _signals_kept(), _quiet():
            elastic_launch(settings, worker.forked)(str(folder), os.getpid(), None if silent else console, work)
    except SignalException as error:
        raise Interrupted(int(error.sigval)) from None
    except ChildFailedError as error:
        raise RunFailed(_first_error(logs, error)) from None
    finally:
        os.close(console)
        for left in (logs / "store", *logs.glob("rank*.json")):
            left.unlink(missing_ok=True)
        for left in logs.glob("rank*.*"):
            if left.stat().st_size == 0:
                left.unlink()


def _first_error(logs: Path, error: ChildFailedError) -> str:
    """The worker that was killed, else the traceback of the one that failed first: the others often fail because it did."""
    for rank, failure in error.failures.items():
        if failure.exitcode < 0:
            return f"worker process {rank} was killed by {signal.Signals(-failure.exitcode).name}; its output is in {logs}"
    told = [json.loads(path.read_text()) for path in logs.glob("error*.json")]
    if told:
        first = min(told, key=lambda entry: entry["time"])
        if first["expected"]:
            return first["error"]
        return f"worker process {first['rank']} failed:\n{first['traceback'].rstrip()}"
    rank, failure = error.get_first_failure()
    return f"worker process {rank} ended with exit code {failure.exitcode}; its output is in {logs}"


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """torchelastic installs handlers and leaves them; a sweep's next job, and its parent, want the old ones back."""
    before: dict[Any, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torchelastic logs what we report, at length, through loggers that set their own levels."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # a worker enables it again
    try:
        yield
    finally:
        logging.disable(before)
