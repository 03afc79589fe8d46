"""Work in a child process: what it imports and computes stays out of this one, which is to fork workers.

A process that has threads, or has computed anything with torch, should not fork; and code of the user's may do either.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from coopsgd.host import signals

LONGEST = 2000  # characters of an error that are passed on


class ChildFailed(Exception):
    """The child ended without an answer; the message says how."""


def answer_of(work: Callable[[], Any]) -> Any:
    """What `work` returns in a fork of this process; it must be such as JSON can say.

    ValueError as `work` raised it, its message in one line; ChildFailed for any other error, and when the child was killed.
    It dies with this process, even by kill -9 (Linux), and is killed when a signal ends the wait. What it prints goes to
    stderr, for stdout may be read by a program.
    """
    with _unnamed_file() as file:
        _flush()  # what is in its buffers, the child would print once more
        parent = os.getpid()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a process with threads is forked: the child starts none
            child = os.fork()
        if child == 0:
            _serve(work, file, parent)
        try:
            ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        except BaseException:  # a signal asks the command to end
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            raise
        file.seek(0)
        data = file.read()
    if ended < 0:
        raise ChildFailed(f"its process was killed by {signals.name_of(-ended)}")
    if ended or not data:
        raise ChildFailed(f"its process ended with exit code {ended}")
    answer = json.loads(data)
    if "answer" in answer:
        return answer["answer"]
    raise (ValueError if answer["ours"] else ChildFailed)(answer["error"])


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """End when the process `parent`, which started this one, does: even by kill -9 (Linux; elsewhere its signals must do).

    number: the signal that this process gets then.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def descendants(pid: int) -> list[int]:
    """Living children of this process, theirs, and so on (Linux); without Python's resource tracker, which ends by itself."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _numbers(path):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                line = Path(f"/proc/{child}/cmdline").read_bytes()  # empty when it has ended
                if line and b"resource_tracker" not in line:
                    found += [child, *descendants(child)]
    return found


def _numbers(path: Path) -> list[int]:
    """Those in a file of /proc; none where its thread has ended."""
    try:
        return list(map(int, path.read_text().split()))
    except OSError:
        return []


def _serve(work: Callable[[], Any], file: BinaryIO, parent: int) -> NoReturn:
    """The child's whole life."""
    code = 1
    try:
        die_with(parent)
        signals.default()
        sys.stdout = sys.stderr
        with contextlib.suppress(OSError):
            os.dup2(2, 1)  # and of what is started by it
        try:
            data = json.dumps({"answer": work()})
        except ValueError as error:
            data = json.dumps({"error": _line(str(error)), "ours": True})
        except BaseException as error:  # sys.exit of the user's module, too
            data = json.dumps({"error": _line(f"{type(error).__name__}: {error}"), "ours": False})
        file.seek(0)
        file.write(data.encode())
        file.flush()
        code = 0
        _flush()
    finally:
        os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a console that is gone is not ours to report
            stream.flush()


def _line(text: str) -> str:
    return " ".join(text.split())[:LONGEST]


def _unnamed_file() -> BinaryIO:
    """A file of no name: in memory where the system knows such, so that a full disk is no matter."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("coopsgd"), "w+b")
    return tempfile.TemporaryFile()
