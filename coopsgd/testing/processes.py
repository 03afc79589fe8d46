"""Calls a function in several processes that share one torch.distributed group, and ends them."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch


def in_processes(processes: int) -> Callable[..., list[Any]]:
    """Call it as (function, *arguments): function(rank, *arguments) in as many processes, which end before it returns."""

    def call(function: Any, *arguments: Any) -> list[Any]:
        context, started, pipes = multiprocessing.get_context("spawn"), [], []
        with tempfile.TemporaryDirectory() as folder:
            try:
                for rank in range(processes):
                    ours, theirs = context.Pipe()
                    job = (theirs, rank, processes, f"{folder}/store", function, arguments)
                    started.append(context.Process(target=_serve, args=job, daemon=True))
                    started[-1].start()
                    theirs.close()
                    pipes.append(ours)
                answers = [pipe.recv() for pipe in pipes]
            finally:
                for process in started:
                    process.kill()
                    process.join()
        failed = [answer for fine, answer in answers if not fine]
        assert not failed, failed[0]
        return [answer for _, answer in answers]

    return call


def _serve(pipe: Any, rank: int, processes: int, store: str, function: Any, arguments: Any) -> None:
    import os
    import traceback

    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    meeting = dist.FileStore(store, processes)
    dist.init_process_group("gloo", store=meeting, rank=rank, world_size=processes, timeout=timedelta(seconds=120))
    try:
        pipe.send((True, function(rank, *arguments)))
    except BaseException:
        pipe.send((False, f"process {rank}:\n{traceback.format_exc()}"))
