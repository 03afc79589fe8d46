"""Where the rows of a process are, and what is asked of a GPU: the same bits every time, in the numbers of `dtype`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from coopsgd.errors import ConfigError, RunFailed


def ready(name: str) -> torch.device:
    """The device `cpu` or `cuda` of this process; of several GPUs the one whose turn it is among the processes of this host.

    With a GPU torch is told, for the whole process, that what is computed twice is to have the same bits twice, where it
    knows how, and that float32 is not tf32, which convolutions would use. Where torch does not know how, it warns.

    ConfigError when this host has not so many GPUs.
    """
    if name == "cpu":
        return torch.device("cpu")
    gpus, mates = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not gpus:
        raise ConfigError("device: cuda was asked for, but torch sees no GPU here; freeze a folder with device=cpu")
    if mates > gpus:
        raise ConfigError(f"processes: nccl takes one process a GPU, got {mates} for {gpus} on this host; start {gpus} here")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it products may differ from one time to the next
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.enable_mem_efficient_sdp(False)  # its gradients are summed in any order, cuDNN's likewise
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cudnn.allow_tf32 = False
    # it adds in any order only where windows overlap
    warnings.filterwarnings("ignore", message="max_pool2d_with_indices_backward_cuda does not have a deterministic")
    index = int(os.environ.get("LOCAL_RANK", "0")) % gpus
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


@contextmanager
def not_full() -> Iterator[None]:
    """Inside, a GPU without room for more ends the run in a line."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        why = str(error).split(" If reserved")[0].split("Including")[0].strip()
        raise RunFailed(f"the GPU's memory is full ({why}); lower workers or batch_size, or use device=cpu") from error
