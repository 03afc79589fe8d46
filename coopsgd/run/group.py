"""The process group of a run that talks over the network, and what a process does with memory that it has freed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import socket
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from coopsgd.errors import ConfigError, RunFailed
from coopsgd.fleet.lookout import Lookout
from coopsgd.fleet.waits import Waits

LAST_PORT = 65535


@contextlib.contextmanager
def process_group(
    processes: int, rank: int, device: torch.device, timeout: float, store: Any, waits: Waits, interface: str, keeper: int = 0
) -> Iterator[Lookout | None]:
    """The default process group, for as long as it is needed. store: a file to meet over, or what `rendezvous` gave.

    Under torchrun, where no command looks at them, the processes look at each other, and talk over `interface` (auto: what
    gloo and nccl find). ConfigError, in all, where the machine of one has none of that name. keeper: see Lookout.
    """
    wait, lookout = timedelta(seconds=timeout), None
    arguments: dict[str, Any] = {"backend": "gloo", "timeout": wait, "rank": rank, "world_size": processes}
    if device.type == "cuda":
        arguments |= {"backend": "nccl", "device_id": device}
    if isinstance(store, str | Path):  # one machine: meet over a file, talk over loopback, need no port and no name service
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        arguments["store"] = dist.FileStore(str(store), processes)
    else:
        trouble = _keep_to(interface, rank)
        arguments["store"] = store
        lookout = Lookout(rank, processes, store, waits, timeout, keeper)
        lookout.meet(trouble)
    began = time.monotonic()
    try:
        try:
            dist.init_process_group(**arguments)
        except RuntimeError as error:
            raise error if lookout is None else lookout.failure(began, error) from error
        yield lookout
    except BaseException as error:
        if lookout is not None and not isinstance(error, RunFailed):
            lookout.leave(error)
        raise
    finally:
        if lookout is not None:
            lookout.close()
    dist.destroy_process_group()  # after a failure the process ends instead: peers may never answer


def rendezvous(number: int, processes: int, timeout: float) -> Any:
    """The store of the processes that torchrun, or whoever sets its variables, has started; this one is called `number` there.

    ConfigError where they are not set, RunFailed where the store cannot be reached.
    """
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ConfigError(f"WORLD_SIZE is {processes}, but {' and '.join(missing)} are not set; torchrun sets all of them")
    port = os.environ["MASTER_PORT"]
    if not (port.isascii() and port.isdecimal()) or int(port) > LAST_PORT:
        raise ConfigError(f"MASTER_PORT is {port!r}, which is no port, 0 to {LAST_PORT}; torchrun sets it")
    try:
        return next(dist.rendezvous("env://", number, processes, timeout=timedelta(seconds=timeout)))[0]
    except dist.DistError as error:
        at = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RunFailed(f"worker process {number} cannot reach the others at {at} ({str(error).splitlines()[0]})") from None


def _keep_to(interface: str, rank: int) -> str:
    """Have gloo and nccl use this network interface alone; what the environment says of it is as good where it is auto.

    Why they cannot, where this machine has none of that name.
    """
    if interface == "auto":
        return ""
    here = [name for _, name in socket.if_nameindex()]
    if interface not in here:
        return (
            f"interface={interface}: the machine of worker process {rank}, {socket.gethostname()}, has no such network "
            f"interface, it has {', '.join(here)}; where machines call theirs differently use interface=auto, and set "
            "GLOO_SOCKET_IFNAME on each"
        )
    os.environ |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}  # =: nccl takes a beginning else
    return ""


def in_a_group() -> bool:
    """Does this process have a process group, and so threads of torch's?"""
    return dist.is_initialized()


def keep_freed_memory() -> None:
    """Ask glibc not to give freed activations back to the kernel, which would hand them out again page by page."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        libc.mallopt(-2, 1 << 26)  # M_TOP_PAD
