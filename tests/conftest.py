"""Warm processes for the suite: one fork server that has imported everything and computes nothing.

`gangs` are process groups of 2, 4 and 8 kept for the whole session; `cli` runs the command line in a fork of the server,
a tenth of a second instead of the four that a fresh interpreter needs to import torch.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

torch.set_num_threads(1)
WARM = multiprocessing.get_context("forkserver")
PRELOADED = ("commands.compose", "run.launch", "commands.show", "commands.probe.worker")
WARM.set_forkserver_preload(["pytest", *(f"coopsgd.{name}" for name in PRELOADED), "conftest", "playing"])
os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # where the server, which takes no sys.path from us, finds `playing`
if "coopsgd-tests" not in os.environ.get("XDG_CACHE_HOME", ""):  # the server, which imports this file too, keeps ours
    CACHE = tempfile.TemporaryDirectory(prefix="coopsgd-tests")  # what tests read is not left in the user's cache
    os.environ["XDG_CACHE_HOME"] = CACHE.name
CI = os.environ.get("CI") == "true"


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
        return [line for line in self.err.splitlines() if line.strip()]


class Gang:
    """p processes in one group, waiting for work."""

    def __init__(self, processes: int, folder: str) -> None:
        self._pipes, self._members = [], []
        for rank in range(processes):
            ours, theirs = WARM.Pipe()
            member = WARM.Process(target=_serve, args=(theirs, rank, processes, f"{folder}/store"), daemon=True)
            member.start()
            theirs.close()
            self._pipes.append(ours)
            self._members.append(member)

    def __call__(self, function: Any, *arguments: Any) -> list[Any]:
        """function(rank, *arguments) on every process; their answers by rank."""
        for pipe in self._pipes:
            pipe.send((function, arguments))
        answers = []
        for rank, pipe in enumerate(self._pipes):
            assert pipe.poll(120), f"process {rank} does not answer"
            answers.append(pipe.recv())
        failed = [answer for ok, answer in answers if not ok]
        assert not failed, "\n".join(failed)
        return [answer for _, answer in answers]

    def close(self) -> None:
        for member in self._members:
            member.kill()
            member.join()


def _serve(pipe: Any, rank: int, processes: int, store: str) -> None:
    from datetime import timedelta

    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    wait = timedelta(seconds=60)
    dist.init_process_group("gloo", store=dist.FileStore(store, processes), rank=rank, world_size=processes, timeout=wait)
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send((True, function(rank, *arguments)))
        except BaseException:
            pipe.send((False, f"process {rank}:\n{traceback.format_exc()}"))


@contextmanager
def gangs_of() -> Iterator[Any]:
    """gang(p) is a Gang of p processes, made when first asked for."""
    made: dict[int, Gang] = {}
    with tempfile.TemporaryDirectory() as folder:

        def gang(processes: int) -> Gang:
            if processes not in made:
                os.makedirs(f"{folder}/{processes}")
                made[processes] = Gang(processes, f"{folder}/{processes}")
            return made[processes]

        try:
            yield gang
        finally:
            for group in made.values():
                group.close()


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
def gangs() -> Iterator[Any]:
    """gangs(p) is a Gang of p processes, kept for the whole session."""
    with gangs_of() as gang:
        yield gang


@pytest.fixture
def cli(tmp_path: Path) -> Any:
    """cli("train", "tau=3", ...) in tmp_path: exit code, stdout, stderr."""
    count = iter(range(1000))

    def run(*words: str, env: dict[str, str] | None = None, first: Any = None) -> Ended:
        at = tmp_path / f".cli{next(count)}"
        process = WARM.Process(target=_command, args=(words, str(tmp_path), str(at), env or {}, first))
        process.start()
        process.join(120)
        assert process.exitcode is not None, f"coopsgd {' '.join(words)} does not end"
        out, err = (Path(f"{at}.{end}").read_text() for end in ("out", "err"))
        return Ended(process.exitcode, out, err)

    return run


def _command(words: tuple[str, ...], cwd: str, at: str, env: dict[str, str], first: Any) -> None:
    for number, end in ((1, "out"), (2, "err")):
        opened = os.open(f"{at}.{end}", os.O_CREAT | os.O_WRONLY)
        os.dup2(opened, number)
    sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(n, "wb", closefd=False), write_through=True) for n in (1, 2))
    os.chdir(cwd)
    os.environ.update(env)
    sys.argv = ["coopsgd", *words]
    if first is not None:
        first()
    from coopsgd.cli import main

    main()
