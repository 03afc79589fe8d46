"""Commands that run while a test looks at them, each in a session of its own that dies with the test."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import WARM, Ended, _command

LONG = ("task=quadratic", "task.sigma=0", "steps=100000000", "log_every=100", "eval_every=0", "tau=1")
SHORT = ("task=quadratic", "steps=60", "eval_every=10", "log_every=10")

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def until(true: Callable[[], Any], seconds: float = 60.0, what: str = "it") -> Any:
    """What `true` gives as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = true()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s in vain for {what}")


def children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def state(pid: int) -> str:
    """R, S, T, Z, ...; X when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def alive(pid: int) -> bool:
    return state(pid) not in "ZX"


def in_turn(*each: Callable[[], Any] | None) -> None:
    """Call one after the other: what a command shall do first."""
    for one in each:
        if one is not None:
            one()


def limited(bytes_: int) -> None:
    """No file may grow beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))


def slow_save(seconds: float) -> None:
    """Writing the final models takes so long, and `saving` appears when it begins."""
    import torch

    save = torch.save

    def slowly(content: Any, file: Any) -> None:
        Path("saving").touch()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.01)
        save(content, file)

    torch.save = slowly


class Command:
    """`coopsgd WORDS` under way in tmp_path."""

    def __init__(self, tmp_path: Path, at: Path, words: tuple[str, ...], env: dict[str, str], first: Any) -> None:
        self._tmp_path, self._at = tmp_path, at
        (tmp_path / "tmp").mkdir(exist_ok=True)
        env = {"TMPDIR": str(tmp_path / "tmp"), **env}
        begin = functools.partial(in_turn, os.setsid, first)
        self.process = WARM.Process(target=_command, args=(words, str(tmp_path), str(at), env, begin))
        self.process.start()
        self.pid: int = self.process.pid
        self.seen: list[int] = []

    def at_work(self, processes: int = 4, folder: str = "r") -> list[int]:
        """The pids of the workers, once they are at work."""

        def busy() -> bool:
            assert self.process.is_alive(), self.ended()
            lines = self._tmp_path / folder / "metrics.jsonl"
            return lines.exists() and lines.read_bytes().count(b"\n") >= 2 and len(children(self.pid)) == processes

        until(busy, what="workers at work")
        self.seen = children(self.pid)
        return self.seen

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def send_all(self, number: int) -> None:
        """To the whole foreground group, as Ctrl-C does."""
        os.killpg(self.pid, number)

    def ended(self, seconds: float = 60.0) -> Ended:
        self.process.join(seconds)
        assert self.process.exitcode is not None, "it does not end"
        out, err = (Path(f"{self._at}.{end}").read_text() for end in ("out", "err"))
        return Ended(self.process.exitcode, out, err)

    def told(self) -> str:
        """What it has said so far."""
        said = (Path(f"{self._at}.{end}") for end in ("out", "err"))
        return "".join(file.read_text() for file in said if file.exists())

    def summary(self, folder: str = "r") -> dict[str, Any]:
        return json.loads((self._tmp_path / folder / "summary.json").read_text())

    def nothing_left(self) -> None:
        """No process of it lives, and no file lies in the system's temporary folder."""
        until(lambda: not any(alive(pid) for pid in self.seen), 10, "the workers' end")
        assert os.listdir(self._tmp_path / "tmp") == []
        halves = [str(path) for path in self._tmp_path.rglob("*.part")]
        assert not halves

    def kill(self) -> None:
        for pid in (*self.seen, *children(self.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    """started("train", "tau=3", ...): a Command; hydra.run.dir=r."""
    made: list[Command] = []

    def start(*words: str, env: dict[str, str] | None = None, first: Any = None) -> Command:
        made.append(Command(tmp_path, tmp_path / f".run{len(made)}", words, env or {}, first))
        return made[-1]

    yield start
    for command in made:
        command.kill()
