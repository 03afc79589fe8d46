"""A worker that torchrun started, on one machine of several: what its command line says, and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from coopsgd.errors import ConfigError, RunFailed
from coopsgd.fleet.lookout import StoreLost
from coopsgd.host import files, stdio
from coopsgd.host.child import die_with
from coopsgd.host.terminal import wrapped
from coopsgd.registry import guarded
from coopsgd.run import attempt, group, worker
from coopsgd.run.console import table
from coopsgd.run.folders import diverged, in_use_by_us
from coopsgd.run.keeper import Stopped
from coopsgd.run.meeting import Meeting, met
from coopsgd.run.reader import Run, summary_of
from coopsgd.run.start import header
from coopsgd.run.summary import known_beforehand, of_what_there_is
from coopsgd.setup import schema
from coopsgd.setup.parts import Parts

GRACE = 20.0  # seconds that an agent gets to end by itself
LEAVING = 60.0  # seconds in which a killed or stopped process has left a folder


def called(name: str) -> tuple[Path, bool]:
    """The folder that the command line of `python -m NAME [--trust] FOLDER` names, and whether it is trusted.

    Of several machines not all may see it.
    """
    words = [word for word in sys.argv[1:] if word != "--trust"]
    if len(words) != 1 or (os.environ.get("WORLD_SIZE", "1") == "1" and not (Path(words[0]) / "config.yaml").is_file()):
        sys.exit(f"usage: torchrun --nnodes N --nproc-per-node P -m {name} [--trust] FOLDER (made with launch=false)")
    return Path(words[0]), "--trust" in sys.argv[1:]


@contextlib.contextmanager
def one_line(folder: Path, trust: bool) -> Iterator[None]:
    """A refused config is a line and exit code 2, a failed run 1, another error its traceback and 1.

    Without `trust` nothing is imported, no other folder read.
    """
    try:
        with contextlib.nullcontext() if trust else guarded(folder=folder):
            yield
    except ConfigError as error:
        _leave(2, f"{folder}: {error}" if str(error) else "")  # else another process of this machine says it
    except StoreLost as error:
        print(error, file=sys.stderr, flush=True)
        _end_agent()
        _leave(1, "")
    except RunFailed as error:
        _leave(1, str(error))
    except Exception:
        _leave(1, f"worker process {os.environ.get('RANK', 0)} failed:\n{traceback.format_exc().rstrip()}")


def _end_agent() -> None:
    """End torchrun's agent on this machine: without its store it would wait for that for ever, when its workers have ended."""
    agent, ours = os.getppid(), list[int]()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and "TORCHELASTIC_RUN_ID" in os.environ:
        signal.signal(signal.SIGTERM, lambda *_: ours.append(1))  # from an agent that ends its workers, and then itself
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(OSError):
                os.kill(agent, number)
            end = time.monotonic() + GRACE
            while os.getppid() == agent and time.monotonic() < end:
                if ours:
                    return
                time.sleep(0.1)


def _leave(code: int, said: str) -> NoReturn:
    """End at once: threads of gloo, and one that waits for a store in vain, would not let the interpreter end in peace."""
    if said:
        print(said, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if group.in_a_group():
        os._exit(code)
    sys.exit(code)


@contextlib.contextmanager
def placed(
    folder: Path, trust: bool, fixed: bool = False, first: Callable[[int], None] = lambda world: None
) -> Iterator[Meeting]:
    """Which process of a torchrun this is, and of how many, once all have come. ConfigError when they cannot share the workers.

    fixed: they must be as many as the run was frozen for. first(world): called in the first process, which sees the folder.
    What it refuses ends the others too.
    """
    number, world = _number("RANK", 0), _number("WORLD_SIZE", 1)
    if not 0 <= number < world:
        raise ConfigError(
            f"RANK is {number}, but of WORLD_SIZE={world} processes ranks are 0 to {world - 1}; torchrun sets both"
        )
    if "MASTER_ADDR" not in os.environ and (folder / "config.yaml").is_file():  # nobody can be met, to be told of it
        _share(folder, world, fixed)
    meeting = met(folder, number, world, trust)
    with contextlib.ExitStack() as stack:
        if meeting.rank == 0:
            with meeting.refusing():
                _share(folder, world, fixed)
                first(world)
            meeting.publish(trust)
        elif (copy := meeting.receive(folder, trust)) is not None:
            stack.enter_context(copy)
        yield meeting


def _share(folder: Path, world: int, fixed: bool) -> None:
    """ConfigError unless so many processes can share the workers of the run in `folder`."""
    frozen = schema.load(folder / "config.yaml")
    fit = [frozen.processes] if fixed else [p for p in range(1, frozen.workers + 1) if frozen.workers % p == 0]
    if world not in fit:
        raise ConfigError(
            f"WORLD_SIZE is {world} but {folder} was frozen for processes={frozen.processes}, with workers={frozen.workers}; "
            f"start as many processes in all as one of {', '.join(map(str, fit))}"
        )


def _number(name: str, default: int) -> int:
    found = os.environ.get(name, str(default))
    try:
        return int(found)
    except ValueError:
        raise ConfigError(f"{name} is {found!r}, which is no whole number; torchrun sets it") from None


def main() -> None:
    """`python -m coopsgd.worker [--trust] FOLDER`, one process of a torchrun."""
    folder, trust = called("coopsgd.worker")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with(os.getppid())  # torchrun puts it into a session of its own, where it would outlive a killed agent
    stdio.guard()
    with one_line(folder, trust), contextlib.ExitStack() as stack:

        def first(world: int) -> None:
            if not os.access(folder, os.W_OK):
                raise ConfigError(f"{socket.gethostname()} may not write there; start where that is allowed, or freeze another")
            if (summary_of(folder) or {}).get("status") in ("completed", "diverged"):
                raise RunFailed(f"{folder} already holds a run; freeze another folder with launch=false")
            stack.enter_context(_alone(folder))
            if times := worker.restarts():
                attempt.restarted(
                    folder, f"{socket.gethostname()} {os.getppid()} {os.environ.get('TORCHELASTIC_RUN_ID')}", times
                )
            (folder / "summary.json").unlink(missing_ok=True)  # of an attempt that did not come to its end
            frozen = replace(schema.load(folder / "config.yaml", trust), processes=world)
            print(wrapped(header(Parts(frozen)), sys.stdout), flush=True)

        meeting = stack.enter_context(placed(folder, trust, first=first))
        rank = meeting.rank
        try:
            outcome = worker.work(folder, rank, meeting, trust=trust, processes=meeting.world)
        except Stopped as stopped:
            if rank == 0:
                parts = Parts(schema.load(folder / "config.yaml", trust))
                notes = known_beforehand(parts)
                files.write_json(folder / "summary.json", of_what_there_is(folder, parts, "interrupted", notes))
            raise RunFailed(f"{stopped}; torchrun on {folder} goes on from there") from None
        if rank == 0:
            table(Run(folder).summary, folder)
    if outcome.status == "diverged":
        sys.exit(diverged(folder, outcome.diverged_at, outcome.diverged_workers))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other command works in the folder; the process that was the first before this one may take a while to end."""
    end = time.monotonic() + LEAVING
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(in_use_by_us(folder))
                break
            except ConfigError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        yield
