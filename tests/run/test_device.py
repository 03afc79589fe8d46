"""What is asked of a GPU before a process uses it, tried where there is none."""

from __future__ import annotations

import pytest
import torch

from coopsgd.errors import ConfigError, RunFailed
from coopsgd.run.device import not_full, ready


def test_a_processor_needs_nothing(monkeypatch):
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *_, **__: pytest.fail("was asked of a processor"))
    assert ready("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("gpus", "mates", "line"), [(0, 1, "torch sees no GPU here"), (2, 3, "got 3 for 2 on this host")])
def test_a_host_without_so_many_gpus_is_refused(monkeypatch, gpus, mates, line):
    """As torchrun would start them; nccl's own word is 'Duplicate GPU detected', some lines down."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *_, **__: pytest.fail("was asked before it was looked"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(mates))
    with pytest.raises(ConfigError, match=line):
        ready("cuda")


def test_a_full_gpu_is_a_line():
    """The text is torch's."""
    said = (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.25 GiB of which 1.00 GiB is free. "
        "Including non-PyTorch memory, this process has 78.00 GiB memory in use. Of it 77.00 GiB is allocated by PyTorch. "
        "If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True."
    )
    with pytest.raises(RunFailed) as found, not_full():
        raise torch.OutOfMemoryError(said)
    assert str(found.value) == (
        "the GPU's memory is full (CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.25 GiB of "
        "which 1.00 GiB is free.); lower workers or batch_size, or use device=cpu"
    )
