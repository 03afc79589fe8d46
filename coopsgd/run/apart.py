"""A run folder that not all machines see: the first process writes and reads for those that do not.

Where all see it, each process writes and reads what is its own, as on one machine. What goes between them is off the ledger.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from coopsgd.errors import RunFailed
from coopsgd.host import files
from coopsgd.loop.saved import places
from coopsgd.run import provenance
from coopsgd.run import tensors as safetensors

if TYPE_CHECKING:
    from coopsgd.fleet.base import Fleet
    from coopsgd.run.checkpoints import Checkpoint
    from coopsgd.run.meeting import Meeting
    from coopsgd.setup.parts import Parts

WAYS = {
    "code": "the modules that the config names, and what they import, must be the same on all machines",
    "data": "the data that the config names must be the same files on all machines",
}
SHOWN = 3  # files that are named
LOOKS, PAUSE = 5, 0.1  # for a file that another machine has just made, and seconds between two
DTYPES = {str(dtype): dtype for dtype in safetensors.KINDS}


def away(folder: Path, fleet: Fleet, meeting: Meeting) -> frozenset[int]:
    """The processes that do not see the run's folder, or may not write there. The same everywhere.

    The first makes a file there for a moment, which others look for.
    """
    number, mark = 0, None
    if fleet.rank == 0:
        number = 1 + secrets.randbits(48)
        mark = folder / f".seen-{number:x}"
        try:
            mark.touch()
        except OSError:  # a full disk: what a process sees has to do
            number, mark = 0, None
    number = int(fleet.total(torch.tensor([number], dtype=torch.float64)))
    sees = meeting.here and (fleet.rank == 0 or number == 0 or _appears(folder / f".seen-{number:x}"))
    sees = sees and os.access(folder, os.W_OK)
    blind = torch.zeros(fleet.layout.processes, dtype=torch.float64)
    blind[fleet.rank] = not sees
    blind = fleet.total(blind)
    if mark is not None:
        with contextlib.suppress(OSError):
            mark.unlink()
    return frozenset(blind.nonzero().flatten().tolist())


def note(meeting: Meeting, away: Collection[int]) -> str:
    """A line on them, for the user."""
    hosts = ", ".join(dict.fromkeys(meeting.hosts[q] for q in sorted(away)))
    return (
        f"the folder is not seen on {hosts}, or may not be written there: what is kept goes over the network to "
        f"{meeting.hosts[0]}, which writes it"
    )


def _appears(path: Path) -> bool:
    for _ in range(LOOKS):
        if path.exists():
            return True
        time.sleep(PAUSE)
    return False


def alike(fleet: Fleet, parts: Parts, meeting: Meeting) -> None:
    """RunFailed, naming machines and files, where some have other code of the user's than the first, or other data."""
    mine = {"code": provenance.source_sha256(parts) or {}, "data": {"data": provenance.data_sha256(parts) or ""}}
    what = meeting.unlike(mine)
    found = torch.zeros(fleet.layout.processes, dtype=torch.float64)
    found[fleet.rank] = bool(what)
    others = fleet.total(found).nonzero().flatten().tolist()
    if not others:
        return
    every = meeting.unlike_of(others)
    kind = next(kind for kind in mine if any(kind in said for said in every.values()))
    hosts = list(dict.fromkeys(meeting.hosts[q] for q in others if kind in every[q]))
    here = meeting.hosts[fleet.rank]
    if fleet.rank and (here == meeting.hosts[0] or fleet.rank != next((q for q in others if meeting.hosts[q] == here), None)):
        raise RunFailed("")
    names = sorted({name for said in every.values() for name in said.get(kind, ())})
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    differ = "other data" if kind == "data" else f"another {', '.join(names[:SHOWN])}{more}"
    raise RunFailed(
        f"{kind}: {', '.join(hosts)} {'have' if len(hosts) > 1 else 'has'} {differ} than {meeting.hosts[0]}; {WAYS[kind]}"
    )


class Handing(Protocol):
    """A fleet whose processes hand each other bytes."""

    def hand(self, piece: Any, to: int) -> None:
        """Bytes to another process."""

    def taken(self, by: int) -> memoryview:
        """What process `by` hands to this one next."""


class _Line:
    """What is written to it goes to the first process."""

    def __init__(self, fleet: Handing, to: int = 0) -> None:
        self._fleet, self._to = fleet, to

    def write(self, piece: Any) -> int:
        """One piece."""
        if len(piece):
            self._fleet.hand(bytearray(piece), self._to)
        return len(piece)

    def end(self) -> None:
        """That was all."""
        self._fleet.hand(b"", self._to)


def _pieces(fleet: Handing, by: int) -> Iterator[memoryview]:
    """Until the other says that that was all."""
    while len(piece := fleet.taken(by)):
        yield piece


def send_file(fleet: Fleet, tensors: Mapping[str, Sequence[Tensor]]) -> tuple[int, str]:
    """These as a file that the first process writes: its bytes and SHA-256, as this process made them."""
    line = _Line(cast(Handing, fleet))
    try:
        return safetensors.write(cast(Any, line), tensors)
    finally:
        line.end()


def receive_file(fleet: Fleet, by: int, path: Path, failed: OSError | None) -> OSError | None:
    """Write what process `by` sends, which is heard to its end in any case; what kept this process from it, or `failed`."""
    pieces = _pieces(cast(Handing, fleet), by)
    try:
        if failed is None:
            files.on_disk(path, lambda file: [file.write(piece) for piece in pieces])
    except OSError as error:
        error.filename = error.filename or str(path)
        failed = error
    for _ in pieces:
        pass
    return failed


def send_manifest(fleet: Fleet, found: Checkpoint, to: Collection[int]) -> None:
    """What a checkpoint says of itself, to these processes."""
    text = json.dumps(found.manifest).encode()
    for q in sorted(to):
        cast(Handing, fleet).hand(bytearray(text), q)


def received_manifest(fleet: Fleet) -> dict[str, Any]:
    """The same, by one of them."""
    return dict(json.loads(bytes(cast(Handing, fleet).taken(0))))


def send_state(fleet: Fleet, found: Checkpoint, to: Collection[int]) -> None:
    """What these processes hold of a checkpoint, read for one after the other, a tensor at a time."""
    line = cast(Handing, fleet)
    for q in sorted(to):
        with found.reading(fleet.layout, q) as read:
            for at, kind in places(found.manifest["tree"]):
                x = read(at, kind).contiguous()
                line.hand(bytearray(json.dumps([at, str(x.dtype), list(x.shape)]).encode()), q)
                for part in x.reshape(-1).split(safetensors.PIECE // x.element_size()) if x.numel() else ():
                    line.hand(bytearray(part.contiguous().view(torch.uint8).numpy()), q)


def received(fleet: Fleet) -> Callable[[str, str], Tensor]:
    """What reads the tensors that `send_state` sends this process, in that order."""
    line = cast(Handing, fleet)

    def read(at: str, kind: str) -> Tensor:
        place, dtype, shape = json.loads(bytes(line.taken(0)))
        if place != at:
            raise RunFailed(f"the first process sent {place} of a checkpoint where {at} was wanted")
        flat = torch.empty(math.prod(shape), dtype=DTYPES[dtype])
        filled, room = 0, flat.view(torch.uint8) if flat.numel() else flat
        while filled < flat.numel() * flat.element_size():
            piece = line.taken(0)
            room[filled : filled + len(piece)] = torch.frombuffer(piece, dtype=torch.uint8)
            filled += len(piece)
        return flat.reshape(shape)

    return read
