"""What the benchmarks measure coopsgd against: hand-written PyTorch loops, in forks of one warm process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # every optimiser imports it at its first step: here once, not inside what is timed
import torch.distributed as dist

from coopsgd.commands.train import command
from coopsgd.data.partitions import IID
from coopsgd.run import launch  # noqa: F401  what the forks share
from coopsgd.run.reader import log_points
from coopsgd.setup.parts import Parts
from coopsgd.setup.resolve import resolve
from coopsgd.tasks.networks import network

FORK = multiprocessing.get_context("fork")


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """File descriptor 1 goes nowhere."""
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


NOISE = (  # images of 3 x 32 x 32 that nobody has to fetch, for resnet18
    "data=custom",
    "data.path=torchvision.datasets:FakeData",
    "data.arguments={size: 512, image_size: [3, 32, 32], num_classes: 10}",
    "batch_size=8",
)


def coopsgd_step(model: str, steps: int, warm: int, *words: str) -> float:
    """Seconds of one step of `coopsgd train`, from its own log lines, the first `warm` steps left out."""
    with tempfile.TemporaryDirectory() as folder, silence():
        more = [
            f"log_every={warm}",
            "eval_every=0",
            f"steps={warm + steps}",
            "save=none",
            f"hydra.run.dir={folder}/run",
        ]
        task = ("model=torchvision", *NOISE) if model == "resnet18" else (f"model={model}", "data=fashion_mnist")
        code = command.train([*task, "threads=1", *more, *words])
        assert code == 0, f"coopsgd train {words} ended with {code}"
        lines = log_points(Path(folder, "run", "metrics.jsonl"))
    first = next(line for line in lines if line["step"] == warm)
    return (lines[-1]["train_s"] - first["train_s"]) / (lines[-1]["step"] - warm)


def peer_step(way: str, model: str, steps: int, warm: int, world: int, momentum: float = 0.0) -> float:
    """Seconds of one step of a hand-written loop: bare (nobody talks), ddp, or averager (PeriodicModelAverager, tau = 16)."""
    with tempfile.TemporaryDirectory() as folder:
        answers = FORK.SimpleQueue()
        members = [
            FORK.Process(target=_peer, args=(rank, world, way, model, steps, warm, momentum, folder, answers))
            for rank in range(world)
        ]
        for member in members:
            member.start()
        for member in members:
            member.join()
        if any(member.exitcode for member in members):
            raise RuntimeError(f"{way} with {model} ended with {[member.exitcode for member in members]}; its error is above")
        return max(answers.get() for _ in members)


def _peer(
    rank: int, world: int, way: str, model: str, steps: int, warm: int, momentum: float, folder: str, answers: Any
) -> None:
    torch.set_num_threads(1)
    module, x, y, share, batch = _task(model, rank, world)
    net: Any = module
    averager = None
    if world > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        store = dist.FileStore(f"{folder}/store", world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=120))
        if way == "ddp":
            net = torch.nn.parallel.DistributedDataParallel(module)
        elif way == "averager":
            from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

            averager = PeriodicModelAverager(period=16, warmup_steps=0)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=momentum)
    for k in range(warm + steps):
        if k == warm:
            if world > 1:
                dist.barrier()
            began = time.perf_counter()
        which = share[k * batch % (len(share) - batch) :][:batch]
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x.index_select(0, which)), y.index_select(0, which))
        loss.backward()
        optimizer.step()
        if averager is not None:
            averager.average_parameters(module.parameters())
    answers.put((time.perf_counter() - began) / steps)
    if world > 1:
        dist.barrier()


def _task(model: str, rank: int, world: int) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """A network, inputs, targets, which of them are this worker's, and how many make a batch."""
    if model == "resnet18":
        import torchvision

        x, y = torch.randn(512, 3, 32, 32), torch.randint(10, (512,))
        return torchvision.models.resnet18(num_classes=10), x, y, torch.arange(rank, 512, world), 8
    settings = resolve({"algo": {"name": "fullsync", "strategy": "fullsync"}, **_groups(model), "workers": world}).config
    images = Parts(settings).data.load()
    x = (torch.tensor(images.train_x).float() - images.mean[0]) / images.std[0]
    y = torch.tensor(images.train_y)
    share = torch.from_numpy(np.array(IID().deal(np.array(y), world, 0)[rank]))
    return network(Parts(settings).task, settings.seed), x, y, share, 32


def _groups(model: str) -> dict[str, Any]:
    kinds = {"task": "classification", "model": model, "data": "fashion_mnist", "partition": "iid"}
    kinds |= {"period": "constant", "optim": "sgd", "schedule": "constant"}
    return {group: {"name": name} for group, name in kinds.items()}
