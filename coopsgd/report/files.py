"""metrics.jsonl, appended and flushed line by line, and the same numbers as TensorBoard scalars."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar.layout_pb2 import Category, Chart, Layout, MultilineChartContent
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG, create_summary_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter  # 0.3 s; through torch it takes 3

from coopsgd.checkpoint import finite

# measured and predicted in one chart, in TensorBoard's tab of custom scalars
CHARTS = {
    "consensus": ("consensus/distance", "theory/consensus"),
    "mean of ||grad F(u)||^2": ("eval/grad2_mean", "theory/bound"),
}

# the group a number of metrics.jsonl has in TensorBoard; names with a slash bring their own
TAGS = {
    "lr": "train/lr",
    "tau": "train/tau",
    "epoch": "train/epoch",
    "samples": "train/samples",
    "train_s": "train/seconds",
    "wall_s": "train/wall_seconds",
    "sim_s": "train/sim_seconds",
    "rounds": "comm/rounds",
    "messages": "comm/messages",
    "bytes": "comm/bytes",
    "wire_bytes": "comm/wire_bytes",
    "comm_s": "comm/seconds",
    "consensus": "consensus/distance",
    "consensus_after": "consensus/after_mixing",
    "phase": "comm/phase",
}


class Files:
    """Both files of one run folder."""

    def __init__(self, folder: Path) -> None:
        self._lines = (folder / "metrics.jsonl").open("w")
        self._events = EventFileWriter(str(folder), flush_secs=5)
        self._began = time.time()
        self._laid_out = False

    def log(self, line: dict[str, Any]) -> None:
        """One log point."""
        line = finite(line)
        if not self._laid_out and any(key.startswith("theory/") for key in line):
            self._lay_out()
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        tags = ((key if "/" in key else TAGS.get(key), value) for key, value in line.items())
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in tags if tag and value is not None]
        # TensorBoard's relative time then is the training time, measuring left out
        when = self._began + line["train_s"]
        self._events.add_event(Event(wall_time=when, step=line["step"], summary=Summary(value=values)))

    def _lay_out(self) -> None:
        """Tell TensorBoard which curves belong in one chart."""
        charts = [
            Chart(title=title, multiline=MultilineChartContent(tag=[f"^{re.escape(tag)}$" for tag in tags]))
            for title, tags in CHARTS.items()
        ]
        layout = Layout(category=[Category(title="measured and predicted", chart=charts)])
        tensor = TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()])
        value = Summary.Value(tag=CONFIG_SUMMARY_TAG, metadata=create_summary_metadata(), tensor=tensor)
        self._events.add_event(Event(wall_time=self._began, step=0, summary=Summary(value=[value])))
        self._laid_out = True

    def image(self, tag: str, png: bytes, width: int, height: int) -> None:
        """A picture of the beginning, in red, green and blue."""
        picture = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=3)
        value = Summary.Value(tag=tag, image=picture)
        self._events.add_event(Event(wall_time=self._began, step=0, summary=Summary(value=[value])))

    def close(self) -> None:
        """Everything on disk."""
        self._lines.close()
        self._events.close()
