"""metrics.jsonl, written line by line, and the same numbers for TensorBoard. A full disk does not end a run."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coopsgd.errors import DamagedFile
from coopsgd.host import newfile
from coopsgd.host.files import finite
from coopsgd.run.events import EVENTS, Events, new_file

LINES = "metrics.jsonl"


class Growing:
    """A file that is written piece by piece. Pieces that the disk does not take are kept, and tried again with the next one."""

    KEPT = 64 * 2**20  # bytes; of more the oldest are lost

    def __init__(self, path: Path, note: Callable[[str], None], size: int = 0) -> None:
        """size: bytes of a file that is there already which stay; what follows them goes. DamagedFile where it is shorter."""
        self._path, self._note = path, note
        self._pieces: deque[bytes] = deque()
        self._kept, self._size = 0, size  # bytes in memory, and those of whole pieces in the file
        self._lost = 0  # pieces for which there was no memory
        self._file: int | None = None
        self._told = False

        if size:
            self._file = os.open(path, os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0))
            if os.fstat(self._file).st_size < size:
                raise DamagedFile(f"{path} is damaged: of {size} bytes it had {os.fstat(self._file).st_size} are left")
            os.ftruncate(self._file, size)

    @property
    def size(self) -> int:
        """Bytes of the file, which are on disk when this returns. OSError when not all of them are."""
        self.flush()
        if self._pieces or self._lost or self._file is None:
            raise OSError(errno.ENOSPC, "lines of it wait to be written", str(self._path))
        os.fsync(self._file)
        return self._size

    def write(self, piece: bytes) -> None:
        """Add it to the end."""
        self._pieces.append(piece)
        self._kept += len(piece)
        while self._kept > self.KEPT:
            self._kept -= len(self._pieces.popleft())
            self._lost += 1
        self.flush()

    def flush(self) -> None:
        """Try to have everything in the file."""
        try:
            if self._file is None:
                self._file = newfile.descriptor(self._path)
            while self._pieces:
                piece, done = memoryview(self._pieces[0]), 0
                while done < len(piece):
                    done += os.pwrite(self._file, piece[done:], self._size + done)
                self._size += len(piece)
                self._kept -= len(self._pieces.popleft())
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)  # no half of a line stays
        if not self._told:
            self._told = True
            self._note(f"{self._path} cannot be written ({error.strerror}): training goes on, and it is tried again")

    def close(self) -> None:
        """Try for the last time."""
        self.flush()
        if lost := self._lost + len(self._pieces):
            self._note(f"{self._path} is not whole: {lost} entries are lost")
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Files:
    """Both files of one run folder. note: where to tell what cannot be written.

    saved: what `saved` said, to go on from: what was written later goes, here and on TensorBoard's curves. None: whatever an
    earlier attempt left goes.
    """

    def __init__(self, folder: Path, note: Callable[[str], None], saved: dict[str, Any] | None = None) -> None:
        self._began = time.time() if saved is None else saved["began"]
        self._lines = Growing(folder / LINES, note, 0 if saved is None else saved["bytes"])
        at = new_file(folder, lambda stamp: f"{EVENTS}{stamp:010d}.{socket.gethostname()}.{os.getpid()}.0", saved is not None)
        self._records = Growing(at, note)
        self.events = Events(self._records, self._began)
        self._lines.flush()  # the file is there from the start
        if saved is not None:  # what is to stay of the curves; a file of events cannot be cut at a step on all of its axes
            with (folder / LINES).open("rb") as file:
                for line in file:
                    self._curves(json.loads(line))

    def saved(self) -> dict[str, Any]:
        """How far the files are, with everything so far on disk."""
        return {"began": self._began, "bytes": self._lines.size}

    def log(self, line: dict[str, Any]) -> None:
        """One log point."""
        line = finite(line)
        self._lines.write(json.dumps(line).encode() + b"\n")
        self._curves(line)

    def _curves(self, line: dict[str, Any]) -> None:
        # TensorBoard's relative time then is the training time, measuring left out
        self.events.line(line, line["train_s"])

    def flush(self) -> None:
        """Try to have everything on disk."""
        self._lines.flush()
        self._records.flush()

    def close(self) -> None:
        """Everything on disk that it takes."""
        self._lines.close()
        self._records.close()
