"""metrics.jsonl, written line by line, and the same numbers as TensorBoard scalars. A full disk does not end a run."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar.layout_pb2 import Category, Chart, Layout, MultilineChartContent
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG, create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter  # 0.3 s; through torch it takes 3

from coopsgd.errors import DamagedFile
from coopsgd.host import newfile
from coopsgd.host.files import finite
from coopsgd.run import schema

# names that are measured and predicted, in one chart of TensorBoard's tab of custom scalars
CHARTS = {
    "consensus": ("consensus", "theory/consensus"),
    "mean of ||grad F(u)||^2": ("eval/grad2_mean", "theory/bound"),
}


EVENTS = "events.out.tfevents."


def _stamp(path: Path) -> int:
    """The second that a file of TensorBoard's has in its name."""
    found = path.name.removeprefix(EVENTS).split(".")[0]
    return int(found) if found.isdecimal() else 0


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


def _scalars(line: Mapping[str, Any], when: float) -> Event:
    """A log point, as of this moment."""
    tags = ((schema.tag(name), value) for name, value in line.items())
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in tags if tag and value is not None]
    return Event(wall_time=when, step=line["step"], summary=Summary(value=values))


def curves(file: BinaryIO, lines: Iterable[Mapping[str, Any]]) -> None:
    """Fill a file of TensorBoard's with log points, each `sim_s` after now."""
    began, events = time.time(), RecordWriter(file)
    events.write(Event(wall_time=began, file_version="brain.Event:2").SerializeToString())
    for line in lines:
        events.write(_scalars(finite(dict(line)), began + line["sim_s"]).SerializeToString())


class Files:
    """Both files of one run folder. note: where to tell what cannot be written.

    saved, step: what `saved` said after that step, to go on from: what was written later goes, here and on TensorBoard's
    curves. None: whatever an earlier attempt left goes.
    """

    def __init__(self, folder: Path, note: Callable[[str], None], saved: dict[str, Any] | None = None, step: int = 0) -> None:
        now, before = time.time(), list(folder.glob(f"{EVENTS}*"))
        self._began = now if saved is None else saved["began"]
        self._lines = Growing(folder / "metrics.jsonl", note, 0 if saved is None else saved["bytes"])
        if saved is None:
            for left in before:
                left.unlink(missing_ok=True)
        # TensorBoard reads the files of a run in the order of their names
        stamp = max(int(now), *(_stamp(path) + 1 for path in before if saved is not None), 0)
        self._records = Growing(folder / f"{EVENTS}{stamp:010d}.{socket.gethostname()}.{os.getpid()}.0", note)
        self._events = RecordWriter(self._records)
        self._add(Event(wall_time=self._began, file_version="brain.Event:2"))
        # it drops what it has read of this step and later ones, but for the first session that it sees
        first = 0 if saved is None else step + 1
        self._add(Event(wall_time=now, step=first, session_log=SessionLog(status=SessionLog.START)))
        self._lines.flush()  # the file is there from the start
        self._laid_out = saved is not None and saved["laid_out"]

    def saved(self) -> dict[str, Any]:
        """How far the files are, with everything so far on disk."""
        return {"began": self._began, "bytes": self._lines.size, "laid_out": self._laid_out}

    def _add(self, event: Event) -> None:
        self._events.write(event.SerializeToString())

    def log(self, line: dict[str, Any]) -> None:
        """One log point."""
        line = finite(line)
        if not self._laid_out and any(key.startswith("theory/") for key in line):
            self._lay_out()
        self._lines.write(json.dumps(line).encode() + b"\n")
        # TensorBoard's relative time then is the training time, measuring left out
        self._add(_scalars(line, self._began + line["train_s"]))

    def _lay_out(self) -> None:
        """Tell TensorBoard which curves belong in one chart."""
        charts = [
            Chart(title=title, multiline=MultilineChartContent(tag=[f"^{re.escape(schema.tag(name))}$" for name in names]))
            for title, names in CHARTS.items()
        ]
        layout = Layout(category=[Category(title="measured and predicted", chart=charts)])
        tensor = TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()])
        value = Summary.Value(tag=CONFIG_SUMMARY_TAG, metadata=create_summary_metadata(), tensor=tensor)
        self._add(Event(wall_time=self._began, step=0, summary=Summary(value=[value])))
        self._laid_out = True

    def image(self, tag: str, png: bytes, width: int, height: int) -> None:
        """A picture of the beginning, in red, green and blue."""
        picture = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=3)
        value = Summary.Value(tag=tag, image=picture)
        self._add(Event(wall_time=self._began, step=0, summary=Summary(value=[value])))

    def flush(self) -> None:
        """Try to have everything on disk."""
        self._lines.flush()
        self._records.flush()

    def close(self) -> None:
        """Everything on disk that it takes."""
        self._lines.close()
        self._records.close()
