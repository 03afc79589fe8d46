"""kill -9 at a chosen place: inside a checkpoint, an evaluation, a line, the last save, or while a checkpoint is read."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from ownership import children

VICTIMS = ("self", "other", "parent")


def strike(victim: str) -> None:
    """Kill the process that comes here, another one of the same run, or the command that forked them."""
    here, parent = os.getpid(), os.getppid()
    others = [pid for pid in children(parent) if pid != here]
    os.kill({"self": here, "other": (others or [here])[0], "parent": parent}[victim], signal.SIGKILL)
    while victim == "parent":
        time.sleep(1)  # this one dies with it


def rows(hit: Callable[[], None]) -> None:
    """When half of what a process holds is written."""
    from coopsgd.host import newfile
    from coopsgd.run import checkpoints

    write = checkpoints.write

    def half(path: Any, tensors: Any) -> Any:
        with newfile.create(path) as file:
            file.write(b"half of it")
            file.flush()
            hit()
        return write(path, tensors)

    checkpoints.write = half


def all_rows(hit: Callable[[], None]) -> None:
    """When it is written, and nobody knows."""
    from coopsgd.run import checkpoints

    before(checkpoints, "_outcomes", hit)


def manifest(hit: Callable[[], None]) -> None:
    """When half of the manifest is written."""
    from coopsgd.host import files
    from coopsgd.run import checkpoints

    atomically = files.atomically

    class Files:
        def __getattr__(self, name: str) -> Any:
            return getattr(files, name)

        def atomically(self, path: Any, write: Any) -> None:
            def half(file: Any) -> None:
                file.write(b'{"format"')
                file.flush()
                hit()
                file.seek(0)
                file.truncate()
                write(file)

            atomically(path, half)

    checkpoints.files = Files()


def saved(hit: Callable[[], None]) -> None:
    """When the manifest is there, and the folder is not on disk yet."""
    from coopsgd.run import checkpoints

    before(checkpoints, "_sync", hit)


def pruning(hit: Callable[[], None]) -> None:
    """When an older checkpoint is half taken away."""
    from coopsgd.run import checkpoints

    rmtree = checkpoints.shutil.rmtree

    class Shutil:
        def rmtree(self, path: Any, ignore_errors: bool = False) -> None:
            for file in list(path.glob("rows-0*")):
                file.unlink()
                hit()
            rmtree(path, ignore_errors=ignore_errors)

    checkpoints.shutil = Shutil()


def evaluation(hit: Callable[[], None]) -> None:
    from coopsgd.loop.evaluation import Evaluator

    before(Evaluator, "_evaluate", hit)


def line(hit: Callable[[], None]) -> None:
    """When half of a line is written."""
    from coopsgd.run.metrics import Growing

    flush = Growing.flush

    def half(self: Any) -> None:
        if self._file is not None and self._pieces:
            os.pwrite(self._file, self._pieces[0][: len(self._pieces[0]) // 2], self._size)
            hit()
        flush(self)

    Growing.flush = half


def models(hit: Callable[[], None]) -> None:
    """When half of the final models is written."""
    from coopsgd.run import final

    write = final.write

    def half(file: Any, *more: Any) -> Any:
        file.write(b"half of it")
        file.flush()
        hit()
        file.seek(0)
        file.truncate()
        return write(file, *more)

    final.write = half


def summary(hit: Callable[[], None]) -> None:
    """When the models are written under another name, and there is no summary."""
    from coopsgd.run import worker

    before(worker, "summary", hit)


def reading(hit: Callable[[], None]) -> None:
    """When a checkpoint is read."""
    from coopsgd.run.checkpoints import Checkpoint

    before(Checkpoint, "state", hit)


def before(of: Any, name: str, hit: Callable[[], None]) -> None:
    work = getattr(of, name)

    def hit_first(*arguments: Any, **more: Any) -> Any:
        hit()
        return work(*arguments, **more)

    setattr(of, name, hit_first)


# where, and in which process it may be
ANY, FIRST = (0, 1), (0,)
PLACES: dict[Callable[..., None], tuple[int, ...]] = {
    rows: ANY,
    all_rows: ANY,
    manifest: FIRST,
    saved: FIRST,
    pruning: FIRST,
    evaluation: ANY,
    line: FIRST,
    models: FIRST,
    summary: FIRST,
    reading: ANY,
}


def struck_at(place: Callable[..., None], rank: int, victim: str, nth: int) -> None:
    """In a command, before it begins: when its process `rank` comes to the place for the nth time, the victim is killed."""
    count = iter(range(1, 10**9))

    def hit() -> None:
        if os.environ.get("RANK") == str(rank) and next(count) == nth:
            strike(victim)

    place(hit)
