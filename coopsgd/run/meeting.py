"""Before processes of several machines are a group: which of them is the first, and what it is that they run.

The first is one that sees the run's folder, wherever torchrun begins to count. It tells the others over the store what is
frozen there. One whose machine has the same works with that; any other with a copy of its own, which goes with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coopsgd.errors import ConfigError, RunFailed
from coopsgd.fleet.waits import FIRST
from coopsgd.run import source
from coopsgd.setup import schema

PIECE = 1 << 22  # bytes of a file that the store is given at once
CONFIG = "config.yaml"
LEAVING = 5.0  # seconds in which others read why there is no run


@dataclass
class Meeting:
    """Of this process with the others.

    rank, world: who it is, and of how many; folder: where this process reads what is frozen; here: is that the run's own
    folder, as far as can be told? store: of all processes; keeper: the process that keeps it, where torchrun does not.
    """

    rank: int
    world: int
    folder: Path
    here: bool = True
    store: Any = None
    keeper: int = 0
    hosts: list[str] = field(default_factory=list)  # of each process

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Inside, the first finds out whether it can begin: where it cannot, the others are told why."""
        try:
            yield
        except (ConfigError, RunFailed) as error:
            if self.store is not None and self.rank == 0:
                self._tell("frozen", json.dumps({"refused": f"{error}", "code": 2 if isinstance(error, ConfigError) else 1}))
                _heard(self.store, "wants", range(1, self.world))
            raise

    def publish(self, trust: bool) -> None:
        """By the first: what is frozen here, to all others."""
        if self.store is None:
            return
        found = _frozen(self.folder, trust)
        files = {name: {"bytes": len(content), "sha256": _sha256(content)} for name, content in found.items()}
        self._tell("frozen", json.dumps({"files": files}))
        wanted = [q for q in range(1, self.world) if self._hear(f"wants/{q}") == "y"]
        for number, content in enumerate(found.values() if wanted else ()):
            for at in range(0, len(content), PIECE):
                self.store.set(f"coopsgd/piece/{number}/{at}", content[at : at + PIECE])
        for q in wanted:
            self._hear(f"has/{q}")
        for number, content in enumerate(found.values() if wanted else ()):  # nobody needs them any more
            for at in range(0, len(content), PIECE):
                self.store.delete_key(f"coopsgd/piece/{number}/{at}")

    def receive(self, folder: Path, trust: bool) -> tempfile.TemporaryDirectory[str] | None:
        """By any other: what is frozen is where `self.folder` says; in the folder that this returns, if in none of its own.

        RunFailed or ConfigError where the first has refused.
        """
        told = json.loads(self._hear("frozen"))
        if "refused" in told:
            self._tell(f"wants/{self.rank}", "n")
            text = f"{told['refused']} (said by the first process, on {self.hosts[0]})" if self._speaks else ""
            raise (ConfigError if told["code"] == 2 else RunFailed)(text)
        files, own = told["files"], {}
        if self.here:
            with contextlib.suppress(OSError, ConfigError):
                own = {name: _sha256(content) for name, content in _frozen(folder, trust).items()}
        if own == {name: said["sha256"] for name, said in files.items()}:
            self._tell(f"wants/{self.rank}", "n")
            return None
        if self.here and self._speaks:
            print(f"{folder} on {self.hosts[self.rank]} is of another run: that of {self.hosts[0]} is run", file=sys.stderr)
        self._tell(f"wants/{self.rank}", "y")
        copy = tempfile.TemporaryDirectory(prefix="coopsgd-")
        for number, (name, said) in enumerate(files.items()):
            pieces = (self._hear_bytes(f"piece/{number}/{at}") for at in range(0, said["bytes"], PIECE))
            content = b"".join(pieces)
            if _sha256(content) != said["sha256"]:
                raise RunFailed(f"{name} came from {self.hosts[0]} with other bytes than were sent")
            (Path(copy.name) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(copy.name) / name).write_bytes(content)
        self._tell(f"has/{self.rank}", "y")
        self.folder, self.here = Path(copy.name), False
        return copy

    def unlike(self, mine: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
        """What by kind and name is not as the first has it, or only one of the two has. Called by all; nothing by the first."""
        if self.rank == 0:
            self._tell("has", json.dumps(mine))
            return {}
        first = json.loads(self._hear("has"))
        names = {kind: first[kind].keys() | own.keys() for kind, own in mine.items()}
        pairs = {
            kind: sorted(name for name in names[kind] if first[kind].get(name) != own.get(name)) for kind, own in mine.items()
        }
        found = {kind: some for kind, some in pairs.items() if some}
        if found:
            self._tell(f"unlike/{self.rank}", json.dumps(found))
        return found

    def unlike_of(self, ranks: Iterable[int]) -> dict[int, dict[str, list[str]]]:
        """What `unlike` has found in these processes, which have found something. Called by all, who end then."""
        found = {q: dict(json.loads(self._hear(f"unlike/{q}"))) for q in ranks}
        self._tell(f"knows/{self.rank}", "")
        if self.rank == self.keeper:  # it leaves last
            _heard(self.store, "knows", range(self.world))
        return found

    @property
    def _speaks(self) -> bool:
        """For its machine, where the first is not."""
        return os.environ.get("LOCAL_RANK", "0") == "0" and self.hosts[self.rank] != self.hosts[0]

    def _tell(self, what: str, value: str) -> None:
        self.store.set(f"coopsgd/{what}", value)

    def _hear(self, what: str) -> str:
        return self._hear_bytes(what).decode()

    def _hear_bytes(self, what: str) -> bytes:
        try:
            return bytes(self.store.get(f"coopsgd/{what}"))
        except RuntimeError:
            raise RunFailed(
                f"worker process {self.rank} on {socket.gethostname()} heard nothing of the first, on {self.hosts[0]}, at the "
                "start of the run"
            ) from None


def met(folder: Path, number: int, world: int, trust: bool) -> Meeting:
    """Return when all `world` processes have come, of which torchrun calls this one `number`.

    RunFailed names those that have not in the `timeout` of the config. ConfigError where nobody sees the folder.
    """
    if world == 1:
        return Meeting(number, world, folder)
    here = (folder / CONFIG).is_file()
    from coopsgd.run import group  # imports torch

    given = schema.load(folder / CONFIG, trust).timeout if here else "auto"
    timeout = FIRST if given == "auto" else float(given)
    store = group.rendezvous(number, world, timeout)
    store.set(f"coopsgd/came/{number}", f"{'y' if here else 'n'} {socket.gethostname()}")
    keys = [f"coopsgd/came/{q}" for q in range(world)]
    if missing := _heard(store, "came", range(world), timeout):
        raise RunFailed(
            f"worker process{'es' * (len(missing) > 1)} {', '.join(map(str, missing))} of {world} did not come to the "
            f"start of the run, where others waited {timeout:.3g} s (timeout)"
        )
    try:
        came = [bytes(said).decode().partition(" ") for said in store.multi_get(keys)]
    except RuntimeError:
        raise RunFailed(f"worker process {number}: who kept the store of all processes has gone before the run began") from None
    first = next((q for q, (sees, _, _) in enumerate(came) if sees == "y"), None)
    if first is None:
        store.set(f"coopsgd/read/{number}", "")
        if number == 0:  # who may keep the store leaves last
            _heard(store, "read", range(world))
        raise ConfigError(
            f"no such run on any of {', '.join(dict.fromkeys(host for _, _, host in came))}; one of them must have the folder "
            "that launch=false made"
        )
    hosts = [came[(q + first) % world][2] for q in range(world)]
    return Meeting((number - first) % world, world, folder, here, store, -first % world, hosts)


def _heard(store: Any, what: str, ranks: Iterable[int], seconds: float = LEAVING) -> list[int]:
    """Wait until all these have said it; who has not in so many seconds, or nobody where the store has gone."""
    end, pause = time.monotonic() + seconds, 0.001
    keys = {q: f"coopsgd/{what}/{q}" for q in ranks}
    with contextlib.suppress(RuntimeError):
        while not store.check([*keys.values()]):
            if time.monotonic() > end:
                return [q for q, key in keys.items() if not store.check([key])]
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
    return []


def _frozen(folder: Path, trust: bool) -> dict[str, bytes]:
    """What a run reads of its folder, by name: its config, files that were frozen beside it, and what its source was."""
    config, home = schema.load(folder / CONFIG, trust), folder.resolve()
    nodes = [node for name in schema.GROUPS if isinstance(node := getattr(config, name), dict)]
    values = [config.start, *(value for node in nodes for value in node.values())]
    paths = [Path(value) for value in values if isinstance(value, str) and Path(value).parent == home]
    names = [CONFIG, *sorted(path.name for path in paths if path.is_file()), f"{source.FOLDER}/{source.LIST}"]
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
