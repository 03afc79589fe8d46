"""Programs of a user's, each a process of a group of its own, which may end, fail or be killed; the store outlives them."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from conftest import HANG, WARM
from torch import nn

from coopsgd import Cooperation


class Said(NamedTuple):
    """How a program ended: with an answer, an exception (its class, and its message), or neither."""

    answer: Any = None
    kind: str = ""
    message: str = ""
    died: bool = False


def run(processes: int, program: Any, *arguments: Any) -> list[Said]:
    """program(rank, *arguments) in each process of a group, under a store that is not theirs, as torchrun's agent keeps one."""
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    started, pipes, found = [], [], []
    for rank in range(processes):
        ours, theirs = WARM.Pipe()
        job = (theirs, rank, processes, store.port, program, arguments)
        started.append(WARM.Process(target=_run, args=job))
        started[-1].start()
        theirs.close()
        pipes.append(ours)
    for pipe in pipes:
        assert pipe.poll(HANG), "a program does not end"
        try:
            found.append(Said(*pipe.recv()))
        except EOFError:
            found.append(Said(died=True))
    for process in started:
        process.join(HANG)
        process.kill()
    return found


def _run(pipe: Any, rank: int, processes: int, port: int, program: Any, arguments: Sequence[Any]) -> None:
    import atexit
    import os

    atexit._clear()  # what is to be done at the end of the process that this one was forked from, as removing its folders
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    store = dist.TCPStore("127.0.0.1", port, None, False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=processes, timeout=timedelta(seconds=HANG))
    try:
        pipe.send((program(rank, *arguments),))
    except BaseException as error:
        pipe.send((traceback.format_exc(), type(error).__name__, str(error)))
    atexit._run_exitfuncs()  # as at the end of a process that was not forked


def network(*more: nn.Module, seed: int = 0) -> nn.Sequential:
    """A small one of float64."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), *more, nn.ReLU(), nn.Linear(6, 3)).double()


class Loop:
    """A user's loop on random data: `take(n)` are n steps of it."""

    def __init__(self, rank: int, *words: Any, model: Any = None, lr: float = 0.1, **settings: Any) -> None:
        self.rank, self.k = rank, 0
        self.model = model or network()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=lr, momentum=0.9)
        self.coop = Cooperation(self.model, self.optimizer, *words, **settings)

    def gradient(self, backward: bool = True) -> torch.Tensor:
        """That of the coming step, a function of rank and step; the loss."""
        draw = torch.Generator().manual_seed(1000 * self.rank + self.k)
        p = next(p for p in self.model.parameters() if p.requires_grad)
        x = torch.randn(8, 4, generator=draw, dtype=torch.float64).to(p.dtype)
        self.optimizer.zero_grad()
        loss = self.model(x).square().mean()
        if backward:
            loss.backward()
        self.k += 1
        return loss

    def take(self, n: int) -> None:
        for _ in range(n):
            self.coop.step(loss=self.gradient())

    def rows(self) -> Any:
        """The model as it is here, and its statistics."""
        found = [*self.model.parameters(), *(b for b in self.model.buffers() if b.is_floating_point())]
        return torch.cat([x.detach().double().reshape(-1) for x in found]).numpy().copy()
