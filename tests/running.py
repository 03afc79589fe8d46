"""Commands that run while a test looks at them, each in a session of its own."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import HANG, WARM, Ended, _command
from ownership import alive, children, state  # noqa: F401  for those who look at commands

LONG = ("task=quadratic", "task.sigma=0", "steps=100000000", "log_every=100", "eval_every=0", "tau=1")  # an hour at least
QUICK = ("task=quadratic", "steps=20", "log_every=10", "eval_every=10")
SHORT = ("task=quadratic", "steps=60", "eval_every=10", "log_every=10")
NEVER = 1e9  # seconds: what must not end by itself before HANG is over

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def until(true: Callable[[], Any], what: str = "it") -> Any:
    """What `true` gives as soon as it is true. Only a hang takes too long: this shows that it comes, not how soon."""
    end = time.monotonic() + HANG
    while time.monotonic() < end:
        found = true()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited {HANG} s in vain for {what}")


def soon(true: Callable[[], Any], seconds: float, what: str = "it") -> Any:
    """What `true` gives as soon as it is true: before this process, asking without a rest, was given so much processor time.

    On an idle machine these are seconds. On a busy one they last longer, as does all else: it is a neighbour's share.
    """
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        found = true()
        if found:
            return found
    raise AssertionError(f"{what} did not come while this process computed for {seconds} s")


def in_turn(*each: Callable[[], Any] | None) -> None:
    """Call one after the other: what a command shall do first."""
    for one in each:
        if one is not None:
            one()


def limited(bytes_: int) -> None:
    """No file may grow beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))


def held_save() -> None:
    """Writing the final models, `saving` appears, and it goes on when there is a file `go`."""
    from coopsgd.run import final

    write = final.write

    def held(file: Any, *content: Any) -> None:
        Path("saving").touch()
        while not Path("go").exists():
            time.sleep(0.01)
        write(file, *content)

    final.write = held


def endless_step() -> None:
    """The fourth step takes for ever, and `slept` appears."""
    from coopsgd.loop.loop import Loop

    advance = Loop.advance

    def slow(self: Any) -> None:
        advance(self)
        if self.state.k == 3:
            Path("slept").touch()
            time.sleep(1e6)

    Loop.advance = slow


def slow_steps(seconds: float) -> None:
    """Each step takes so long, asleep: whoever looks on comes in time, and computes no more than there is to compute."""
    from coopsgd.loop.loop import Loop

    advance = Loop.advance

    def slow(self: Any) -> None:
        time.sleep(seconds)
        advance(self)

    Loop.advance = slow


def unsaved_end():
    """A run of a command that does this first is not saved after its last step."""
    from coopsgd.run.keeper import Keeper

    Keeper.before_line = lambda self, loop, evaluator, pending: None


class Command:
    """`coopsgd WORDS` under way in tmp_path."""

    def __init__(self, tmp_path: Path, at: Path, words: tuple[str, ...], env: dict[str, str], first: Any) -> None:
        self._tmp_path, self._at = tmp_path, at
        self._shared = set(os.listdir("/dev/shm"))
        self._halves = set(tmp_path.rglob("*.part"))  # of one that was killed
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

    def saving(self, processes: int) -> list[int]:
        """The pids of the workers, once the final save is held (held_save)."""
        until((self._tmp_path / "saving").exists, "the save to begin")
        self.seen = until(lambda: len(found := children(self.pid)) == processes and found, "workers")
        return self.seen

    def save_goes_on(self) -> None:
        """Not before what it was sent has reached it."""
        time.sleep(0.2)
        (self._tmp_path / "go").touch()

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def send_all(self, number: int) -> None:
        """To the whole foreground group, as Ctrl-C does."""
        os.killpg(self.pid, number)

    def ended(self, within: float | None = None) -> Ended:
        """How it ended. within: before this process was given so many seconds of processor time (see `soon`)."""
        if within is not None:
            soon(lambda: self.process.exitcode is not None, within, "its end")
        self.process.join(HANG)
        assert self.process.exitcode is not None, "it does not end"
        out, err = (Path(f"{self._at}.{end}").read_text() for end in ("out", "err"))
        return Ended(self.process.exitcode, out, err)

    def output(self) -> str:
        """What it has said so far."""
        said = (Path(f"{self._at}.{end}") for end in ("out", "err"))
        return "".join(file.read_text() for file in said if file.exists())

    def summary(self, folder: str = "r") -> dict[str, Any]:
        return json.loads((self._tmp_path / folder / "summary.json").read_text())

    def nothing_left(self, halves: bool = False) -> None:
        """No process of it lives, and no file lies in shared memory or the system's temporary folder.

        halves: what was half written may lie there, as nobody is left to take it away.
        """
        until(lambda: not any(alive(pid) for pid in self.seen), "the workers' end")
        until(lambda: set(os.listdir("/dev/shm")) <= self._shared, "shared memory's end")  # other tests may come and go
        assert os.listdir(self._tmp_path / "tmp") == []
        assert halves or set(self._tmp_path.rglob("*.part")) <= self._halves


class Terminal:
    """A console for a command. first: to be called in it; ENV: for its environment."""

    ENV: ClassVar[dict[str, str]] = {"TERM": "xterm", "COLUMNS": "100"}

    def __init__(self) -> None:
        self._ours, self._theirs = os.openpty()
        os.set_blocking(self._ours, False)
        self.first = functools.partial(on_terminal, os.ttyname(self._theirs))
        self._told = b""

    def output(self) -> bytes:
        """What was written on it so far."""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._ours, 1 << 16):
                self._told += part
        return self._told

    def __del__(self) -> None:
        os.close(self._ours)
        os.close(self._theirs)


def on_terminal(name: str) -> None:
    file = os.open(name, os.O_RDWR | os.O_NOCTTY)
    for number in (0, 1, 2):
        os.dup2(file, number)


@pytest.fixture
def started(tmp_path: Path) -> Any:
    """started("train", "tau=3", ...): a Command; hydra.run.dir=r. first: called before, in the command's process."""
    count = iter(range(1000))

    def start(*words: str, env: dict[str, str] | None = None, first: Any = None) -> Command:
        return Command(tmp_path, tmp_path / f".run{next(count)}", words, env or {}, first)

    return start
