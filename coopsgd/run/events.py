"""A run's file of TensorBoard's: its curves over steps, bytes and seconds, its row of hyperparameters, pictures and words.

All of a run lies in one file of its own folder. The columns of the table of hyperparameters are what the rows have: no run
writes the plugin's description of an experiment, of which TensorBoard would believe the first and leave out what others have.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_BLOB_SEQUENCE, DATA_CLASS_SCALAR, Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import metadata as custom_scalars
from tensorboard.plugins.custom_scalar.layout_pb2 import (
    Category,
    Chart,
    Layout,
    MarginChartContent,
    MultilineChartContent,
)
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.image import metadata as images
from tensorboard.plugins.scalar import metadata as scalars
from tensorboard.plugins.text import metadata as texts
from tensorboard.summary.writer.record_writer import RecordWriter  # 0.3 s; through torch it takes 3

from coopsgd.host.files import finite
from coopsgd.run import schema

EVENTS = "events.out.tfevents."

# TensorBoard's tab of custom scalars: category -> chart -> names of metrics in it. A chart is there if a run has all of them
CHARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "loss": {
        "loss, of the steps and of the answer": ("train/loss", "eval/loss"),
        "loss of the answer at equal megabytes": ("vs_kB/eval/loss",),
        "loss of the answer at equal seconds": ("vs_ms/eval/loss",),
    },
    "workers": {
        "consensus, before and after a communication": ("consensus", "consensus_after"),
    },
    "measured and predicted": {
        "consensus": ("consensus", "theory/consensus"),
        "mean of ||grad F(u)||^2": ("eval/grad2_mean", "theory/bound"),
    },
}
# and charts of a curve with a band around it: value, lower, upper
BANDS = {"workers": {"accuracy of the answer, between the worst worker and the best": ("", "_worst", "_best")}}


class Events:
    """Writes events to `file`, anything with write(bytes). began: the second from which TensorBoard counts relative time."""

    def __init__(self, file: Any, began: float) -> None:
        self._records, self._began = RecordWriter(file), began
        self._described: set[str] = set()  # tags whose description has been written
        self._laid_out = False
        self._add(Event(wall_time=began, file_version="brain.Event:2"))
        # what a TensorBoard that is open has read of this run in an older file goes: all of it stands in this one
        self._add(Event(wall_time=began, step=0, session_log=SessionLog(status=SessionLog.START)))

    def _add(self, event: Event) -> None:
        self._records.write(event.SerializeToString())

    def _put(self, *values: Summary.Value, step: int = 0, when: float | None = None) -> None:
        time = self._began if when is None else when
        self._add(Event(wall_time=time, step=step, summary=Summary(value=values)))

    def _scalar(self, tag: str, about: str, value: float) -> Summary.Value:
        """One number; the first of a tag says what it is."""
        found = Summary.Value(tag=tag, simple_value=value)
        if tag not in self._described:
            self._described.add(tag)
            found.metadata.CopyFrom(scalars.create_summary_metadata("", about))
            found.metadata.data_class = DATA_CLASS_SCALAR  # without it TensorBoard's fast reader leaves out what it says
        return found

    def line(self, line: Mapping[str, Any], seconds: float) -> None:
        """A log point, so many seconds after the beginning: its numbers over steps, and some of them over bytes and seconds."""
        if not self._laid_out:
            self._lay_out(line)
        there = {name: value for name, value in line.items() if isinstance(value, float | int) and schema.tag(name)}
        when = self._began + seconds
        self._put(*(self._scalar(schema.tag(n), schema.about(n), v) for n, v in there.items()), step=line["step"], when=when)
        for axis in schema.AXES:
            if (at := line.get(axis.name)) is None:
                continue
            values = [self._scalar(axis.tag(n), axis.about(n), there[n]) for n in schema.OVER if n in there]
            if values:
                self._put(*values, step=int(at * axis.scale), when=when)

    def _lay_out(self, line: Mapping[str, Any]) -> None:
        """Tell TensorBoard which curves belong in one chart; of those that a run with this first line has."""
        over = {axis.tag(name) for axis in schema.AXES if axis.name in line for name in schema.OVER if name in line}
        there, layout = {*line, *over}, Layout()
        for title, charts in CHARTS.items():
            found = [
                Chart(title=about, multiline=MultilineChartContent(tag=[_exactly(name) for name in names]))
                for about, names in charts.items()
                if there.issuperset(names)
            ]
            for about, ends in BANDS.get(title, {}).items():
                names = [f"eval/accuracy{end}" for end in ends]
                if all(line.get(name) is not None for name in names):
                    value, lower, upper = (schema.tag(name) for name in names)
                    series = MarginChartContent.Series(value=value, lower=lower, upper=upper)
                    found.append(Chart(title=about, margin=MarginChartContent(series=[series])))
            if found:
                layout.category.append(Category(title=title, chart=found))
        tensor = TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()])
        metadata = custom_scalars.create_summary_metadata()
        self._put(Summary.Value(tag=custom_scalars.CONFIG_SUMMARY_TAG, metadata=metadata, tensor=tensor))
        self._laid_out = True

    def image(self, tag: str, about: str, png: bytes, width: int, height: int) -> None:
        """A picture in red, green and blue."""
        picture = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=3)
        metadata = images.create_summary_metadata("", about)
        metadata.data_class = DATA_CLASS_BLOB_SEQUENCE
        self._put(Summary.Value(tag=tag, image=picture, metadata=metadata))

    def text(self, tag: str, about: str, markdown: str) -> None:
        """Some words."""
        tensor = TensorProto(dtype=DT_STRING, string_val=[markdown.encode(errors="replace")])
        self._put(Summary.Value(tag=tag, tensor=tensor, metadata=texts.create_summary_metadata("", about)))

    def row(self, values: Mapping[str, Any]) -> None:
        """This run's row in the table of hyperparameters."""
        info = SessionStartInfo(start_time_secs=self._began)
        for name, value in values.items():
            if isinstance(value, bool):
                info.hparams[name].bool_value = value
            elif isinstance(value, int | float):
                info.hparams[name].number_value = value
            else:
                info.hparams[name].string_value = str(value)
        self._put(_hparams(hparams.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=info)))

    def end(self, status: str) -> None:
        """How the run ended, in the same row."""
        self._put(_ended(status))


def _exactly(name: str) -> str:
    return f"^{re.escape(schema.tag(name) if name in schema.METRICS else name)}$"


def _hparams(tag: str, content: HParamsPluginData) -> Summary.Value:
    return Summary.Value(tag=tag, metadata=hparams.create_summary_metadata(content), tensor=hparams.NULL_TENSOR)


def _ended(status: str) -> Summary.Value:
    found = STATUS_SUCCESS if status == "completed" else STATUS_FAILURE
    info = SessionEndInfo(status=found, end_time_secs=time.time())
    return _hparams(hparams.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info))


def end(folder: Path, status: str) -> None:
    """Write how the run in `folder` ended, behind what its own process left, who did not come to it. OSError.

    What stands at the end of the file and is no whole record goes: TensorBoard would read no further.
    """
    files = sorted(folder.glob(f"{EVENTS}*"))
    if not files:
        return
    with open(os.open(files[-1], os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)), "r+b") as file:
        size, whole = os.fstat(file.fileno()).st_size, 0
        while len(head := file.read(8)) == 8:
            after = whole + 8 + 4 + struct.unpack("<Q", head)[0] + 4  # length, its checksum, as many bytes, their checksum
            if after > size:
                break
            whole = after
            file.seek(whole)
        file.truncate(whole)
        file.seek(whole)
        if whole == 0:
            RecordWriter(file).write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        event = Event(wall_time=time.time(), step=0, summary=Summary(value=[_ended(status)]))
        RecordWriter(file).write(event.SerializeToString())


def curves(file: BinaryIO, lines: Iterable[Mapping[str, Any]]) -> None:
    """Fill a file of TensorBoard's with log points, each `sim_s` after now."""
    events = Events(file, time.time())
    for line in lines:
        events.line(finite(dict(line)), line["sim_s"])


def _stamp(path: Path) -> int:
    """The second that a file of TensorBoard's has in its name."""
    found = path.name.removeprefix(EVENTS).split(".")[0]
    return int(found) if found.isdecimal() else 0


def new_file(folder: Path, name: Callable[[int], str], goes_on: bool) -> Path:
    """Where to write the curves of the run in `folder` from now on; what earlier files hold, the new one will.

    goes_on: a TensorBoard may be open that waits at the end of the last of them for more; it goes on to a file of a later name,
    if that one is still there. It stays, empty. name: of a file of this second.
    """
    before = sorted(folder.glob(f"{EVENTS}*"))
    stamp = max(int(time.time()), *(_stamp(path) + 1 for path in before if goes_on), 0)
    for path in before:
        if goes_on and path == before[-1] and path.is_file() and not path.is_symlink():
            os.truncate(path, 0)
        else:
            path.unlink(missing_ok=True)
    return folder / name(stamp)
