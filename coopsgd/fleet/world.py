"""The processes of a program that is not ours: who they are, what each has to say, and which of them did not come."""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import re
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from coopsgd.errors import ConfigError, RunFailed
from coopsgd.fleet import plan as plans
from coopsgd.fleet.pieces import Part
from coopsgd.fleet.processes import Processes, backend_of
from coopsgd.fleet.waits import Waits

GRACE = 5.0  # seconds in which those who wait too will have said so
UNDER_WAY: set[Any] = set()  # messages that nobody has waited for: gloo hangs if one is thrown away before it has come
SLICE = 0.5  # seconds between two looks at who has ended


def join(device: torch.device, timeout: float) -> tuple[int, int]:
    """(rank, size) of the default process group, which is made where torchrun has started this process and there is none yet.

    One that is made here waits `timeout` seconds for a process, and ends with the program. (0, 1) in a process of no group.
    ConfigError when the group cannot move what is on this device.
    """
    if not dist.is_initialized():
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
            return 0, 1
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)  # before nccl looks which one is meant
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout))
        except dist.DistStoreError:
            raise RunFailed(
                f"making a Cooperation: {os.environ['WORLD_SIZE']} processes were started, and not all of them came to make "
                f"one within {timeout:g} s; every process must do the same"
            ) from None
        atexit.register(_end)
    backend, found = "nccl" if device.type == "cuda" else "gloo", backend_of(device)
    if not found or (device.type == "cuda" and found != "nccl"):
        raise ConfigError(
            f"the model is on {device.type}, and the process group ({dist.get_backend()}) moves no models there; make it by "
            f'torch.distributed.init_process_group("{backend}")'
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)  # on which nccl sends what is no tensor
    return dist.get_rank(), dist.get_world_size()


def card_of(device: torch.device) -> str | None:
    """The name by which all processes know the GPU of this one; None where it computes on a CPU."""
    if device.type != "cuda":
        return None
    told = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return str(told or f"{socket.gethostname()} {os.environ.get('CUDA_VISIBLE_DEVICES', '')} {device.index}")


def refuse_one_for_two(cards: Sequence[str | None]) -> None:
    """ConfigError when two of these, by rank, are one GPU: nccl would say 'Duplicate GPU detected', or hang."""
    first: dict[str, int] = {}
    for rank, card in enumerate(cards):
        if card is not None and (other := first.setdefault(card, rank)) != rank:
            raise ConfigError(
                f"the models of ranks {other} and {rank} are on one GPU, and nccl takes one process a GPU; move each to its "
                'own by torch.cuda.set_device(int(os.environ["LOCAL_RANK"])), or give one process a list of models'
            )


def _end() -> None:
    """End the group: gloo's threads, when they outlive the interpreter, sometimes end it by SIGABRT."""
    if dist.is_initialized() and not World.broken:  # a message that did not come would be waited for once more
        dist.destroy_process_group()


def everybody_at_first(mine: Any) -> list[Any] | None:
    """What each process has to say, by rank, known to rank 0; None elsewhere."""
    found: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(mine, found)
    return found


def spread(x: Tensor) -> None:
    """Make it what it is at rank 0, whatever its numbers and strides are."""
    if not x.numel():
        return
    sent = x.contiguous()  # a copy where its strides are others
    dist.broadcast(sent.view(torch.uint8) if sent.ndim else sent.view(1).view(torch.uint8), 0)
    x.copy_(sent)


class Notices:
    """What the processes of a group tell each other over its store, which is no collective: nobody hangs whom another does not
    hear.

    timeout: seconds that one may keep the others waiting.
    """

    made = 0  # in this process, and in the same order in all of them

    def __init__(self, rank: int, processes: int, timeout: float) -> None:
        Notices.made += 1
        self.rank, self.processes, self.timeout, self.number = rank, processes, timeout, Notices.made
        self.step = 0  # local steps done, for who asks when this process has ended
        self._store = dist.PrefixStore(f"coopsgd/{self.number}", dist.distributed_c10d._get_default_store())
        self._rounds = 0

    @property
    def others(self) -> list[int]:
        """The other processes."""
        return [q for q in range(self.processes) if q != self.rank]

    def post(self, what: str, value: str) -> None:
        """Tell whoever asks for `what` of this process; nobody, when whoever kept the store has gone."""
        with contextlib.suppress(RuntimeError):
            self._store.set(f"{what}/{self.rank}", value)

    def posted(self, what: str, rank: int) -> str | None:
        """What that process has told of it; None: nothing, or nobody keeps it any more."""
        key = f"{what}/{rank}"
        with contextlib.suppress(RuntimeError):
            return str(self._store.get(key).decode()) if self._store.check([key]) else None
        return None

    def everybody(self, mine: str, doing: str) -> list[str]:
        """What each process says when it comes here, by rank. RunFailed names those that do not. doing: what all should."""
        self._rounds += 1
        what, end = f"round {self._rounds}", time.monotonic() + self.timeout
        self.post(what, mine)
        while not self._all_there(what):
            missing = [q for q in self.others if self.posted(what, q) is None]
            if missing and (time.monotonic() > end or any(self.posted("ended", q) for q in missing)):
                raise RunFailed(f"{doing}: {self.where(missing)}; every process must do the same")
        said = [self.posted(what, q) or "" for q in range(self.processes)]
        with contextlib.suppress(RuntimeError):
            self._store.delete_key(f"round {self._rounds - 1}/{self.rank}")  # all have read it: they came here
        return said

    def others_reach(self, what: str, least: int) -> bool:
        """Does another process come to `least` of what all count and post, as a number, with " ended" behind the last?

        Returns when it is known. RunFailed when one says nothing any more.
        """
        end = time.monotonic() + self.timeout
        while True:
            said = {q: (self.posted(what, q) or "-1").partition(" ") for q in self.others}
            if any(int(number) >= least for number, _, _ in said.values()):
                return True
            silent = [q for q, (_, _, ended) in said.items() if not ended]
            if not silent:
                return False
            if time.monotonic() > end or any(self.posted("ended", q) for q in silent):
                raise RunFailed(f"join after step {self.step}: {self.where(silent)}")
            time.sleep(0.005)

    def missing(self, what: str, value: str) -> list[int]:
        """The processes that do not tell of the same within some seconds."""
        self.post(what, value)
        end = time.monotonic() + GRACE
        while True:
            missing = [q for q in self.others if self.posted(what, q) is None]
            gone = [q for q in missing if self.posted("ended", q) is not None]
            if gone or not missing or time.monotonic() > end:
                return gone or missing
            time.sleep(0.05)

    def where(self, ranks: Iterable[int], uneven: bool = False) -> str:
        """What is known of these processes. uneven: may one have ended for want of data?"""
        try:
            self._store.check(["anything"])
        except RuntimeError:  # it knows of nobody any more
            return (
                "the process that kept the store of the group (rank 0, where no torchrun keeps it) has gone, so nobody can "
                "tell which of them ended first"
            )
        ended = {q: self.posted("ended", q) for q in ranks}
        found = [f"rank {q} has ended after step {k}" if k else f"rank {q} did not come" for q, k in ended.items()]
        if not found:
            return "all processes are there, but one waited no longer, or the connection between two of them broke"
        fell = any(k and "(" in k for k in ended.values())
        way = "; where some have less data than others, wrap the loop in `with coop.join():`"
        return " and ".join(found) + way * (uneven and any(ended.values()) and not fell)

    def leave(self) -> None:
        """At the end of the process: those who still wait for it are told."""
        error = getattr(sys, "last_value", None)
        self.post("ended", f"{self.step}" + f" ({type(error).__name__})" * (error is not None))

    def _all_there(self, what: str) -> bool:
        """Have all others come, at the latest in SLICE seconds? (A `wait` of the store that is in vain is told by torch.)"""
        keys, end, pause = [f"{what}/{q}" for q in self.others], time.monotonic() + SLICE, 0.0002
        while not self._has(keys):
            if time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        return True

    def _has(self, keys: list[str]) -> bool:
        with contextlib.suppress(RuntimeError):
            return bool(self._store.check(keys))
        return False


class World(Processes):
    """A fleet in the default process group that nobody watches from outside: who does not come to a verb is named by those who
    wait for it.
    """

    broken = False  # has one of them waited in vain?

    def __init__(self, layout: plans.Layout, notices: Notices, device: torch.device) -> None:
        """device: where the models are."""
        super().__init__(layout, notices.rank, notices.timeout, Waits(notices.timeout))
        self.tag = notices.number  # a message that another fleet has left on the way is not taken for one of this
        self.notices, self._limit, self._gpu = notices, timedelta(seconds=notices.timeout), device.type == "cuda"
        self.joining = False  # is it within `join`?
        self.resting = False  # has this process no more data? Then its rate counts for nothing

    def one_rate(self, lr: Any) -> Any:
        """That of all processes that take steps. RunFailed, in all, naming those whose rate is another."""
        said = torch.zeros(self.layout.processes, 2, dtype=torch.float64)
        if not self.resting:
            said[self.rank, 0] = 1
            said[self.rank, 1] = lr if isinstance(lr, float) else math.nan
        rates = {q: rate for q, (told, rate) in enumerate(self.total(said).tolist()) if told}
        first = min(rates, default=self.rank)
        if len(rates) and math.isfinite(rates[first]):
            for q, rate in rates.items():
                if rate != rates[first]:
                    raise RunFailed(
                        f"the period computes with the learning rate, and after step {self.step} it is {rates[first]:g} at "
                        f"rank {first} and {rate:g} at rank {q}; have the schedulers of all processes step alike"
                    )
        return rates[first] if self.resting and rates else lr

    def meet(self, what: str) -> None:
        """Return when every process has come here after the same step. RunFailed names those that have not."""
        said = self.notices.everybody(f"{what} after step {self.step}", f"{what} after step {self.step}")
        if len(set(said)) > 1:
            places = ", ".join(f"rank {q} is at {one}" for q, one in enumerate(said))
            raise RunFailed(f"{what}: every process must call it after the same step, but {places}")

    def _post(self, receives: list[Part], sends: list[Part], tag: int) -> list[Any]:
        started = super()._post(receives, sends, tag)
        UNDER_WAY.update(started)
        return started

    def _done_aside(self, work: Any) -> None:
        super()._done_aside(work)
        UNDER_WAY.discard(work)

    def _done(self, work: Any) -> None:
        UNDER_WAY.discard(work)
        self.notices.step = self.step
        try:
            if self._gpu:  # of nccl it is the stream that waits, as long as the group's own timeout says
                work.wait()
            else:
                work.wait(self._limit)
        except RuntimeError as error:
            World.broken = True
            now = self._waits.now
            missing = self.notices.missing("stuck", str(now))
            why = re.sub(r"^\[\S+:\d+\] ", "", str(error).strip().partition("\n")[0]).partition(". ")[0]
            raise RunFailed(f"{now}: {self.notices.where(missing, uneven=not self.joining)} (torch: {why})") from error
