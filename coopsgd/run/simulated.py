"""A finished run on the clock of another cluster: sim/NAME.jsonl in its folder, and the same curves for TensorBoard.

sim/wan_100m.jsonl        a line a log point: step, sim_s; the first says of which cluster
sim/wan_100m/events...    what the run logged, with sim_s on that clock, which is TensorBoard's relative time here
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coopsgd.errors import ConfigError, DamagedFile
from coopsgd.host import files
from coopsgd.run.reader import log_points

FOLDER = "sim"
LONGEST = 120  # characters of a name


def place(folder: Path, name: str) -> Path:
    """Where the seconds on the cluster of this name lie in a run's folder."""
    return folder / FOLDER / f"{name}.jsonl"


def name_of(cluster: str, words: Mapping[str, str]) -> str:
    """What a cluster with keys of its own is called, as in wan_100m,step_s=0.01: a name of a file.

    Where a file cannot be called so, a hash of what was said keeps it apart from others.
    """
    said = ",".join([cluster, *(f"{key}={value}" for key, value in sorted(words.items()))])
    name = re.sub(r"[^\w.,=+-]+", "-", said).strip(".-")
    if len(name) <= LONGEST and name == said:
        return name
    return f"{name[: LONGEST - 9]}~{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def write(folder: Path, name: str, cluster: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Path:
    """Leave the log points of a run, whose sim_s is on this cluster, in its folder; the file. What was there of it goes."""
    path = place(folder, name)
    for at in (path.parent, path.with_suffix("")):
        if at.is_symlink():
            raise ConfigError(f"{at} is a link; remove it")
    points: list[dict[str, Any]] = [{"step": line["step"], "sim_s": line["sim_s"]} for line in lines]
    points[0] |= {"cluster": dict(cluster)}
    text = "".join(json.dumps(files.finite(point)) + "\n" for point in points)
    _curves(path.with_suffix(""), lines)
    files.atomically(path, lambda file: file.write(text.encode()))
    return path


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """What `write` left. LookupError when the run has not been timed on that cluster; DamagedFile when it is none of ours."""
    try:
        found = log_points(place(folder, name))
    except FileNotFoundError:
        known = sorted(path.stem for path in (folder / FOLDER).glob("*.jsonl"))
        there = f"it was timed on {', '.join(known)}" if known else "it was timed on none"
        raise LookupError(f"{folder} has no seconds on {name!r} ({there}): coopsgd time {folder} cluster={name}") from None
    if not found or not all("sim_s" in point for point in found):
        raise DamagedFile(f"{place(folder, name)} is damaged: it has no seconds; run coopsgd time again")
    if [line["step"] for line in found] != [line["step"] for line in log_points(folder / "metrics.jsonl")]:
        raise LookupError(f"{folder} has gone on since it was timed on {name!r}: coopsgd time {folder} cluster={name}")
    return found


def _curves(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    from coopsgd.run.events import EVENTS, curves  # TensorBoard's writer takes 0.3 s

    for old in folder.glob(f"{EVENTS}*"):
        old.unlink()
    files.atomically(folder / f"{EVENTS}{int(time.time()):010d}.{FOLDER}", lambda file: curves(file, lines))
