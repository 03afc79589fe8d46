"""Numbers on their way to where models are."""

from __future__ import annotations

import numpy as np
import torch

from coopsgd.host import transfer
from coopsgd.host.transfer import brought


def test_on_a_cpu_the_memory_is_shared_unless_the_dtype_is_another():
    array = np.arange(3.0)
    found = brought(array, torch.device("cpu"))
    array[0] = 7
    assert found.tolist() == [7, 1, 2] and found.dtype == torch.float64
    assert brought(array, "cpu", torch.float32).dtype == torch.float32
    assert brought(found, torch.device("cpu")) is found


def test_to_a_gpu_they_go_from_page_locked_memory_and_nobody_waits(monkeypatch):
    locked, moved = [], []
    monkeypatch.setattr(transfer, "_staged", lambda x: locked.append(x.dtype) or x)
    monkeypatch.setattr(torch.Tensor, "to", moving := lambda x, *args, **more: moved.append((args, more)) or x)
    brought(np.arange(3), torch.device("cuda", 0))
    assert moving and locked == [torch.int64] and moved == [((torch.device("cuda", 0),), {"non_blocking": True})]
    brought(np.arange(3), torch.device("meta"))
    assert len(locked) == 1
