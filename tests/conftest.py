"""Warm processes for the suite: one fork server that has imported everything and computes nothing.

`process_groups` are groups of 2, 4 and 8 processes, kept for the session; `cli` runs the command line in a fork of the server,
a tenth of a second instead of the four that a fresh interpreter needs to import torch. All processes die with the test
that started them (ownership.py). What a test waits for has HANG seconds: so much only a hang takes, on any machine.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import pkgutil
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from itertools import count
from multiprocessing import connection, forkserver, resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

import drawn
import pytest
import torch
from ownership import Owner

import coopsgd
from coopsgd.host import collector

collector.rest()  # until all is collected
torch.set_num_threads(1)
WARM = multiprocessing.get_context("forkserver")
MODULES = [m.name for m in pkgutil.walk_packages(coopsgd.__path__, "coopsgd.") if not m.name.endswith("__main__")]
LATE = [
    "networkx",
    "scipy.optimize",
    "scipy.sparse.csgraph",
    "torchvision",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
]  # what commands import when they come to it
WARM.set_forkserver_preload(["pytest", *MODULES, *LATE, "conftest", "playing", "warm"])
os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # where the server, which takes no sys.path from us, finds `playing`
if "coopsgd-tests" not in os.environ.get("XDG_CACHE_HOME", ""):  # the server, which imports this file too, keeps ours
    CACHE = tempfile.TemporaryDirectory(prefix="coopsgd-tests")  # what tests read is not left in the user's cache
    os.environ["XDG_CACHE_HOME"] = CACHE.name
HANG = 300.0  # seconds
PROCESSOR = 1200  # seconds of processor time after which a command that should have been ended ends by itself
OWNER = Owner()
CI = os.environ.get("CI") == "true"


def processor_time(call: Any, times: int = 3) -> float:
    """Seconds of processor time that call() takes, the least of several: what others do on this machine does not count."""
    took = []
    for _ in range(times):
        began = time.process_time()
        call()
        took.append(time.process_time() - began)
    return min(took)


def needs(there: bool, package: str) -> None:
    """Skip without a Debian package, but not in CI: .ci/run installs them."""
    if not there:
        assert not CI, f"{package} is missing, though .ci/run should have installed it"
        pytest.skip(f"apt-get install {package}")


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it said on stderr, but for what is said only where saving takes a while."""
        return [line for line in self.err.splitlines() if line.strip() and not line.startswith("the run is being saved before")]


class ProcessGroup:
    """p processes in one group, waiting for work."""

    def __init__(self, processes: int, folder: str) -> None:
        self._pipes, self._members, self.closed = [], [], False
        for rank in range(processes):
            ours, theirs = WARM.Pipe()
            member = WARM.Process(target=_serve, args=(theirs, rank, processes, f"{folder}/store"), daemon=True)
            member.start()
            OWNER.staying.add(member.pid)
            theirs.close()
            self._pipes.append(ours)
            self._members.append(member)

    def __call__(self, function: Any, *arguments: Any) -> list[Any]:
        """function(rank, *arguments) on every process; their answers by rank. Where one fails, the group is at an end."""
        for pipe in self._pipes:
            pipe.send((function, arguments))
        answers: dict[int, Any] = {}
        while len(answers) < len(self._pipes):
            ready = connection.wait([pipe for rank, pipe in enumerate(self._pipes) if rank not in answers], HANG)
            if not ready:
                self._fail(f"no answer of processes {sorted(set(range(len(self._pipes))) - set(answers))}")
            for pipe in ready:
                rank = self._pipes.index(pipe)
                try:
                    fine, answers[rank] = pipe.recv()
                except EOFError:
                    fine, answers[rank] = False, "it has ended"
                if not fine:
                    self._fail(f"process {rank}: {answers[rank]}")
        return [answers[rank] for rank in sorted(answers)]

    def _fail(self, message: str) -> None:
        """The others may wait for one that is elsewhere: none of them is of use any more."""
        self.close()
        raise AssertionError(message)

    def close(self) -> None:
        self.closed = True
        for member in self._members:
            member.kill()
            member.join()
            OWNER.staying.discard(member.pid)


def _serve(pipe: Any, rank: int, processes: int, store: str) -> None:
    from datetime import timedelta

    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    wait = timedelta(seconds=HANG)
    dist.init_process_group("gloo", store=dist.FileStore(store, processes), rank=rank, world_size=processes, timeout=wait)
    while True:
        function, arguments = pipe.recv()
        _answer(pipe, function, (rank, *arguments))


@contextmanager
def process_groups_of() -> Iterator[Any]:
    """process group(p) is a Gang of p processes, made when first asked for."""
    made: dict[int, ProcessGroup] = {}
    with tempfile.TemporaryDirectory() as folder:

        def process_group(processes: int) -> ProcessGroup:
            if processes not in made or made[processes].closed:
                made[processes] = ProcessGroup(processes, tempfile.mkdtemp(dir=folder))
            return made[processes]

        try:
            yield process_group
        finally:
            for group in made.values():
                group.close()


def elsewhere(function: Any, *arguments: Any) -> Any:
    """What function(*arguments) returns in a fork of the server."""
    ours, theirs = WARM.Pipe()
    WARM.Process(target=_answer, args=(theirs, function, arguments)).start()
    theirs.close()
    assert ours.poll(HANG), f"{function} does not end"
    fine, answer = ours.recv()  # EOFError: its process has ended without one
    assert fine, answer
    return answer


def _answer(pipe: Any, function: Any, arguments: tuple[Any, ...]) -> None:
    try:
        pipe.send((True, function(*arguments)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))


def pytest_configure(config: Any) -> None:
    """GPUs are for tests marked gpu, asked for by -m gpu: all others compute on processors, in many processes."""
    if "gpu" not in config.option.markexpr or "not gpu" in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Of the largest products of cases a part is drawn."""
    drawn.mark(items)


def pytest_collection_finish() -> None:
    """What is imported and collected stays: no look for garbage goes through it."""
    collector.wake()


@pytest.fixture(autouse=True, scope="session")
def owner() -> Iterator[None]:
    """What this session starts does not outlive it."""
    with OWNER.guarded():
        yield


@pytest.fixture(autouse=True)
def nothing_outlives_a_test(owner: None) -> Iterator[None]:
    """What a test starts does not outlive it."""
    yield
    OWNER.staying |= {forkserver._forkserver._forkserver_pid, resource_tracker._resource_tracker._pid}  # multiprocessing's own
    OWNER.end_all()


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Hydra's --info sets up logging for the process, to the stderr of the test that asked."""
    loggers = [logging.root, logging.getLogger("hydra")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture(scope="session")
def process_groups() -> Iterator[Any]:
    """process groups(p) is a Gang of p processes, kept for the whole session."""
    with process_groups_of() as process_group:
        yield process_group


@pytest.fixture
def cli(tmp_path: Path) -> Any:
    """cli("train", "tau=3", ...) is `command` in tmp_path."""
    return partial(command, tmp_path)


def command(cwd: Path, *words: str, env: dict[str, str] | None = None, first: Any = None, module: str = "coopsgd.cli") -> Ended:
    """Run `python -m module WORDS` in a fork of the server. first: called before, in that process."""
    at = cwd / f".cli{next(_commands)}"
    process = WARM.Process(target=_command, args=(words, str(cwd), str(at), env or {}, first, module))
    process.start()
    process.join(HANG)
    assert process.exitcode is not None, f"{module} {' '.join(words)} does not end"
    out, err = (Path(f"{at}.{end}").read_text() for end in ("out", "err"))
    return Ended(process.exitcode, out, err)


_commands = count()


def _command(words: tuple[str, ...], cwd: str, at: str, env: dict[str, str], first: Any, module: str = "coopsgd.cli") -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR, PROCESSOR))
    for number, end in ((1, "out"), (2, "err")):
        opened = os.open(f"{at}.{end}", os.O_CREAT | os.O_WRONLY)
        os.dup2(opened, number)
    sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(n, "wb", closefd=False), write_through=True) for n in (1, 2))
    os.chdir(cwd)
    os.environ.update(env)
    sys.argv = ["coopsgd", *words]
    if first is not None:
        first()
    import_module(module).main()
