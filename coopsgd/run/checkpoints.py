"""Checkpoints of a run: all that its next step depends on, in a folder each, which is whole or does not count.

    checkpoints/step-1000/
        rows-0.safetensors, ...   what each process holds: its rows, and in the first what all share
        manifest.json             written last: the tree they belong to (loop/saved.py), their sizes and SHA-256

Nothing of it is a pickle. Rows are found by their global numbers, so that a run may go on on other processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coopsgd.errors import DamagedFile
from coopsgd.fleet.base import Fleet
from coopsgd.fleet.plan import Layout
from coopsgd.host import files
from coopsgd.loop.saved import ByProcess, ByRow, Leaf, Shared, flatten, inflate
from coopsgd.run import apart
from coopsgd.run import tensors as safetensors
from coopsgd.run.folders import checkpoint_place, steps_saved

FORMAT = 1


# writing


def write(path: Path, tensors: dict[str, Sequence[Tensor]]) -> tuple[int, str]:
    """tensors.write, on disk when it returns. OSError names the path."""
    try:
        return files.on_disk(path, lambda file: safetensors.write(file, tensors))
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def save(
    folder: Path, step: int, tree: Any, fleet: Fleet, about: Callable[[], dict[str, Any]], away: Collection[int] = ()
) -> int:
    """Write the checkpoint of this step; every process calls it, with its own tree. Bytes of all files.

    about: says more for the manifest, on rank 0. away: processes that do not see the folder; rank 0 writes for them. OSError on
    every process if one of them could not write: nothing is left then.
    """
    at, layout, rank = checkpoint_place(folder, step), fleet.layout, fleet.rank
    skeleton, tensors = flatten({"state": tree, "random": _random()})
    failed: OSError | None = None
    more: dict[str, Any] = {}
    if rank == 0:
        try:
            more = about()
            shutil.rmtree(at, ignore_errors=True)
            at.mkdir(parents=True)
        except OSError as error:
            failed = error
    fleet.barrier()
    size, digest = 0, ""
    try:
        if failed is None:
            mine = {name: parts for name, leaf in tensors.items() if (parts := _own(leaf, layout, rank))}
            size, digest = apart.send_file(fleet, mine) if rank in away else write(at / f"rows-{rank}.safetensors", mine)
    except OSError as error:
        failed = error
    for q in sorted(away) if rank == 0 else ():
        failed = apart.receive_file(fleet, q, at / f"rows-{q}.safetensors", failed)
    written = _outcomes(fleet, failed, size, digest)
    if rank == 0 and failed is None and all(ok for ok, *_ in written):
        names = {f"rows-{q}.safetensors": {"bytes": n, "sha256": sha} for q, (_, n, sha) in enumerate(written)}
        rows = [layout.owned(q) for q in range(layout.processes)]
        manifest = {"format": FORMAT, "step": step, "m": layout.m, "v": layout.v, "rows": rows, "files": names}
        try:
            text = json.dumps({**manifest, **more, "tree": skeleton}).encode()
            files.atomically(at / "manifest.json", lambda file: file.write(text))
            for where in (at, at.parent):
                _sync(where)
        except OSError as error:
            failed = error
    bad = fleet.total(torch.tensor([failed is not None or not all(ok for ok, *_ in written)], dtype=torch.float64))
    if float(bad):
        if rank == 0:
            shutil.rmtree(at, ignore_errors=True)
        raise failed or OSError(0, "another process could not write", str(at))
    return sum(n for _, n, _ in written)


def _own(leaf: Leaf, layout: Layout, rank: int) -> Sequence[Tensor]:
    """The parts of it that this process writes; none of what another one does."""
    if not isinstance(leaf, ByRow):
        return [leaf.tensor] if rank == 0 or isinstance(leaf, ByProcess) else []
    kept, left = [], len(layout.owned(rank))
    for part in leaf.parts:
        kept.append(part[:left])
        left -= len(kept[-1])
    return kept


def _outcomes(fleet: Fleet, failed: OSError | None, size: int, digest: str) -> list[tuple[bool, int, str]]:
    """Of every process: did it write, how many bytes, of which checksum."""
    mine = torch.zeros(fleet.layout.processes, 34, dtype=torch.float64)
    if failed is None:
        mine[fleet.rank] = torch.tensor([1, size, *bytes.fromhex(digest)], dtype=torch.float64)
    found = fleet.total(mine).long().tolist()
    return [(bool(ok), n, bytes(sha).hex()) for ok, n, *sha in found]


def _sync(folder: Path) -> None:
    """Have on disk what is in a folder, by name."""
    with contextlib.suppress(OSError):  # a system that cannot does so by itself
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _random() -> dict[str, Any]:
    """Generators that are not ours: what a user's code draws from them goes on too."""
    version, words, gauss = random.getstate()
    kind, keys, at, has, cached = np.random.get_state(legacy=True)
    return {
        "torch": ByProcess(torch.get_rng_state()),
        "gpu": ByProcess(torch.cuda.get_rng_state()) if torch.cuda.is_initialized() else None,
        "python": (version, ByProcess(torch.tensor(words)), gauss),
        "numpy": (str(kind), ByProcess(torch.from_numpy(np.asarray(keys, dtype=np.int64))), int(at), int(has), float(cached)),
    }


def _put_random(tree: dict[str, Any]) -> None:
    torch.set_rng_state(tree["torch"])
    if tree.get("gpu") is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(tree["gpu"])
    version, words, gauss = tree["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, keys, *rest = tree["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))


def prune(folder: Path, keep: int) -> None:
    """Leave only the newest `keep` whole checkpoints."""
    whole = [step for step in steps_saved(folder) if (checkpoint_place(folder, step) / "manifest.json").is_file()]
    for step in set(steps_saved(folder)) - set(whole[:keep]):
        shutil.rmtree(checkpoint_place(folder, step), ignore_errors=True)


# reading


@dataclass(frozen=True)
class Checkpoint:
    """One that is whole."""

    path: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    @property
    def before_its_line(self) -> bool:
        """Was it written before the line of its step, as that of a last step is (Keeper.before_line)?"""
        return self.manifest["tree"]["dict"]["state"]["dict"]["evaluator"]["dict"].get("pending") is not None

    @property
    def processes(self) -> int:
        """By how many it was written."""
        return len(self.manifest["rows"])

    def state(self, layout: Layout, rank: int, modules: Sequence[Any]) -> Any:
        """The tree that was saved, inflated for the rows of process `rank`; generators that are not ours are set."""
        with self.reading(layout, rank) as read:
            return self.inflated(layout, read, modules)

    def inflated(self, layout: Layout, read: Callable[[str, str], Tensor], modules: Sequence[Any]) -> Any:
        """The same by what `read` says its tensors are."""
        tree = inflate(self.manifest["tree"], read, modules)
        if layout.processes == self.processes:
            _put_random(tree["random"])
        return tree["state"]

    @contextlib.contextmanager
    def reading(self, layout: Layout, rank: int) -> Iterator[Callable[[str, str], Tensor]]:
        """Inside, what it gives reads tensors of process `rank` by place and kind, see `inflate`.."""
        from safetensors import safe_open

        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(safe_open(self.path / name, framework="pt")) for name in self.manifest["files"]]
            names = [set(file.keys()) for file in opened]
            yield Reader(opened, names, [list(rows) for rows in self.manifest["rows"]], layout, rank)


class Reader:
    """Reads what process `rank` of a layout holds from the files of all processes."""

    def __init__(self, opened: list[Any], names: list[set[str]], rows: list[list[int]], layout: Layout, rank: int) -> None:
        self._opened, self._names, self._rows, self._layout, self._rank = opened, names, rows, layout, rank

    def __call__(self, at: str, kind: str) -> Tensor:
        if kind == Shared.__name__:
            return self._opened[0].get_tensor(at)
        if kind == ByProcess.__name__:
            return self._of_process(at)
        lengths = [file.get_slice(at).get_shape()[0] if at in names else 0 for file, names in self._files]
        every = sum(lengths) == self._layout.n
        wanted = self._layout.rows(self._rank) if every else list(self._layout.workers(self._rank))
        parts = {row: (q, i) for q, rows in enumerate(self._rows) for i, row in enumerate(rows[: lengths[q]])}
        return torch.cat([self._opened[q].get_slice(at)[a:b] for q, a, b in _runs([parts[row] for row in wanted])])

    @property
    def _files(self) -> Iterator[tuple[Any, set[str]]]:
        return zip(self._opened, self._names, strict=True)

    def _of_process(self, at: str) -> Tensor:
        if len(self._opened) == self._layout.processes:
            return self._opened[self._rank].get_tensor(at)
        parts = [file.get_tensor(at) for file in self._opened]
        return sum(parts[1:], parts[0]) if self._rank == 0 else torch.zeros_like(parts[0])


def _runs(places: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(file, first, end) of neighbouring rows in a list of (file, row)."""
    found: list[tuple[int, int, int]] = []
    for q, i in places:
        if found and found[-1][0] == q and found[-1][2] == i:
            found[-1] = q, found[-1][1], i + 1
        else:
            found.append((q, i, i + 1))
    return found


def opened(folder: Path, step: int, verify: bool = True) -> Checkpoint:
    """The checkpoint of this step. DamagedFile unless it is whole: every file as long as the manifest says, and as it was.

    verify: read the files to see that they are; else nobody looks at them yet.
    """
    at = checkpoint_place(folder, step)
    try:
        manifest = json.loads((at / "manifest.json").read_bytes())
        if manifest["format"] != FORMAT:
            raise DamagedFile(f"{at} is of format {manifest['format']}, this version reads {FORMAT}")
        for name, said in manifest["files"].items() if verify else ():
            path = at / name
            if path.stat().st_size != said["bytes"]:
                raise DamagedFile(f"{path} is damaged: it has {path.stat().st_size} bytes of {said['bytes']}")
            with path.open("rb") as file:
                if files.sha256(file) != said["sha256"]:
                    raise DamagedFile(f"{path} is damaged: its SHA-256 is not the one in manifest.json")
    except FileNotFoundError as error:
        raise DamagedFile(f"{at} is not whole: {Path(error.filename).name} is missing") from None
    except OSError as error:
        raise DamagedFile(f"{error.filename or at} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedFile(f"{at / 'manifest.json'} is damaged: it does not say what the checkpoint holds") from None
    return Checkpoint(at, manifest)


def newest(folder: Path, note: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint of the run in `folder`; None when there is none. note: told of those that are not."""
    for step in steps_saved(folder):
        try:
            return opened(folder, step)
        except DamagedFile as error:
            note(f"{error}; it is passed over")
    return None
